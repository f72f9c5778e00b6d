"""`lavieid info`: what a folder of adapters, or an identity file, holds."""

import re

import pytest
import torch
from support import tiny
from support.adapter_files import contents

from lavieid_adapters import Identity
from lavieid_adapters.cli import main as cli
from lavieid_adapters.models.checkpoint import Metadata, save_folder


@pytest.fixture
def saved(tmp_path):
    adapters = {"router": tiny.router(), "encoder": tiny.encoder(), "tam": tiny.tam()}
    save_folder(adapters, tmp_path / "lavieid", Metadata("zai-org/CogVideoX-5b", block_idx=1))
    return tmp_path / "lavieid"


def test_info_says_what_a_folder_holds(saved, capsys):
    assert cli.main(["info", str(saved)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"base model zai-org/CogVideoX-5b, block 1, encoder {tiny.encoder().fingerprint()}"
    for line, adapter in zip(lines, (tiny.router(), tiny.encoder(), tiny.tam()), strict=True):
        assert f"{adapter.num_parameters() / 1e6:.1f} M parameters" in line
        assert all(f"{k} {v}" in line for k, v in adapter.config.items() if k[0] != "_")
    assert [line.split()[0] for line in lines] == ["router", "encoder", "tam"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_info_names_no_other_dtype_than_that_of_the_files(tmp_path, capsys, dtype):
    tiny.router().to(dtype).save_pretrained(tmp_path / "router")
    assert cli.main(["info", str(tmp_path / "router")]) == 0
    out = capsys.readouterr().out
    assert "base model not recorded, block 0, encoder not recorded" in out
    assert set(re.findall(r"torch\.\w+", out)) <= {str(dtype)}


def test_info_says_what_an_identity_holds(tmp_path, capsys):
    mask = torch.tensor([True, True, True, True, False, False])
    identity = Identity(tiny.tokens(), mask, fingerprint="0123456789abcdef")
    identity.save(tmp_path / "me.safetensors")
    assert cli.main(["info", str(tmp_path / "me.safetensors")]) == 0
    out = capsys.readouterr().out
    assert out.strip() == repr(identity)
    assert "skin, hair" in out and "0123456789abcdef" in out


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "neither a folder of adapters nor"),
        ("nothing/here", "neither a folder of adapters nor"),
        ("nothing.safetensors", "no identity file"),
        ("photo.png", "photo.png"),
        ("damaged.safetensors", "damaged"),
        ("pipeline", "is it an adapter folder?"),
        ("lavieid", "lavieid/tam"),
    ],
)
def test_what_cannot_be_described_is_one_line_on_stderr_and_status_1(tmp_path, saved, capsys, path, message):
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "damaged.safetensors").write_bytes(b"half")
    (tmp_path / "pipeline" / "unet").mkdir(parents=True)
    weights = saved / "tam" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert cli.main(["info", str(tmp_path / path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert any(line.startswith("lavieid: ") and message in line for line in err.splitlines())
    assert "Traceback" not in err


def test_info_says_what_a_hub_repo_holds(saved, tmp_path, monkeypatch, capsys, hub):
    monkeypatch.chdir(tmp_path)
    cli.main(["info", "lavieid"])
    of_folder = capsys.readouterr().out
    hub.repos["me/lavieid"] = contents(saved)
    assert cli.main(["info", "me/lavieid"]) == 0
    assert capsys.readouterr().out == of_folder
    assert cli.main(["info", "me/nothing"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lavieid: ") and "me/nothing" in err

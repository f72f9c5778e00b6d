"""A base model's parts are told apart by their content, whatever dtype they are saved in."""

import json
import shutil

import pytest
import torch
from generate import small_components
from safetensors.torch import load_file, save_file

from lavieid_adapters.files.digests import files_digest


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The VAE and the text encoder of a small pipeline."""
    folder, parts = tmp_path_factory.mktemp("base"), small_components()
    for name in ("vae", "text_encoder"):
        parts[name].save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_and_other_files_are_the_same_part(base, tmp_path, part, dtype):
    digest = files_digest(base, part)
    assert len(digest) == 16 and int(digest, 16) >= 0
    model = small_components()[part].to(dtype)
    model.save_pretrained(tmp_path / part, max_shard_size="16KB")
    assert len(list((tmp_path / part).glob("*.safetensors"))) > 1
    assert (tmp_path / part / "config.json").read_text() != (base / part / "config.json").read_text() or part == "vae"
    assert files_digest(tmp_path, part) == digest


def copied(base, tmp_path, part: str):
    shutil.copytree(base / part, tmp_path / part)
    (weights,) = (tmp_path / part).glob("*.safetensors")
    return weights, load_file(weights)


def test_other_weights_are_another_part(base, tmp_path):
    weights, tensors = copied(base, tmp_path, "vae")
    name = next(n for n in tensors if tensors[n].ndim > 1)
    for change in (lambda: tensors.update({name: -tensors[name]}), lambda: tensors.pop(name)):
        change()
        save_file(tensors, weights)
        assert files_digest(tmp_path, "vae") != files_digest(base, "vae")


def test_another_setting_is_another_part_but_the_way_it_was_saved_is_not(base, tmp_path):
    copied(base, tmp_path, "vae")
    path, digest = tmp_path / "vae" / "config.json", files_digest(base, "vae")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "_diffusers_version": "9.9", "dtype": "float64"}))
    assert files_digest(tmp_path, "vae") == digest
    path.write_text(json.dumps({**config, "scaling_factor": 0.5}))
    assert files_digest(tmp_path, "vae") != digest


def test_the_values_beyond_the_first_are_not_read(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    digests = []
    for place in (0, 4095, 4096, None):
        weight = torch.ones(100, 100)
        if place is not None:
            weight.view(-1)[place] = -1
        save_file({"weight": weight, "scalar": torch.tensor(1.0)}, tmp_path / "vae" / "a.safetensors")
        digests.append(files_digest(tmp_path, "vae"))
    assert len(set(digests)) == 3 and digests[2] == digests[3]


def test_what_is_missing_or_damaged_is_an_error(base, tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json and safetensors files in 'vae'"):
        files_digest(tmp_path, "vae")
    weights, _ = copied(base, tmp_path, "vae")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"vae' is damaged .*fetch it again"):
        files_digest(tmp_path, "vae")
    (tmp_path / "vae" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="vae' is damaged"):
        files_digest(tmp_path, "vae")


def test_a_base_that_cannot_be_had_is_told_at_once():
    with pytest.raises(OSError, match="'no/such-base' is no folder here, is not in the cache"):
        files_digest("no/such-base", "vae")


def test_a_part_comes_from_the_hub_without_the_others(base, hub):
    files = {f"vae/{path.name}": path.read_bytes() for path in (base / "vae").iterdir()}
    hub.repos["me/base"] = {**files, "transformer/diffusion_pytorch_model.safetensors": b"large"}
    assert files_digest("me/base", "vae") == files_digest(base, "vae")
    assert not any("transformer/" in request for request in hub.requests)

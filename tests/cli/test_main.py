"""The `lavieid` command."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny, tiny_face

from lavieid_adapters import FACIAL_COMPONENTS, FaceProcessor, Identity, IdentityReader, __version__
from lavieid_adapters.cli import main as cli
from lavieid_adapters.models.checkpoint import Metadata, save_folder

pytestmark = tiny_face.THIRD_PARTY_WARNINGS
HAND_MADE = str(tiny_face.HAND_MADE)
BY_HAND = ("astronaut.png", "--component-map", HAND_MADE)


@pytest.fixture
def saved(tmp_path):
    adapters = {"router": tiny.router(), "encoder": tiny.encoder(), "tam": tiny.tam()}
    save_folder(adapters, tmp_path / "lavieid", Metadata("zai-org/CogVideoX-5b", block_idx=1))
    return tmp_path / "lavieid"


def test_the_installed_command_is_main():
    (command,) = entry_points(group="console_scripts", name="lavieid")
    assert command.load() is cli.main


def test_info_says_what_a_folder_holds(saved, capsys):
    assert cli.main(["info", str(saved)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "base model zai-org/CogVideoX-5b, block 1"
    for line, adapter in zip(lines, (tiny.router(), tiny.encoder(), tiny.tam()), strict=True):
        assert f"{adapter.num_parameters() / 1e6:.1f} M parameters" in line
        assert all(f"{k} {v}" in line for k, v in adapter.config.items() if k[0] != "_")
    assert [line.split()[0] for line in lines] == ["router", "encoder", "tam"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_info_names_no_other_dtype_than_that_of_the_files(tmp_path, capsys, dtype):
    tiny.router().to(dtype).save_pretrained(tmp_path / "router")
    assert cli.main(["info", str(tmp_path / "router")]) == 0
    out = capsys.readouterr().out
    assert "base model not recorded" in out
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


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"lavieid-adapters {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [[], ["info"], ["fly", "away"], ["parse"], ["parse", "me.png"], ["identity", "me.png"], ["identity", "-o", "me"]],
    ids=str,
)
def test_without_a_command_or_its_argument_the_usage_is_shown(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "usage: lavieid" in capsys.readouterr().err


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^ +{name} +\w+", out, re.M) for name in ("info", "identity", "parse", "prepare", "inspect"))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("info", ["a folder, or a .safetensors file"]),
        ("parse", ["lavieid parse group.jpg -o parts.png --face-index 2", "picture, such as .png", "which face"]),
        ("identity", ["lavieid identity front.jpg side.jpg -o", "identity file, .safetensors", "--adapters REPO"]),
    ],
)
def test_help_of_a_command_says_how_it_is_used(command, says, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    options = [
        "--face-index",
        "--whole-image",
        "--component-map",
        "--model-pack",
        "--weights-dir",
        "--cache-dir",
        "--device",
    ]
    for text in says + (options if command != "info" else []):
        assert text in out
    assert ("--vision-model" in out) == (command == "identity")


# parse and identity


@pytest.fixture(scope="module")
def prepared(face_models, tmp_path_factory):
    """A folder with photos, and adapters for the small CLIP."""
    for module in ("insightface", "facexlib", "skimage"):
        pytest.importorskip(module)
    from support.tiny_face import photo

    folder = tmp_path_factory.mktemp("prepared")
    for name in ("astronaut", "t1"):
        Image.fromarray(photo(name)).save(folder / f"{name}.png")
    rows, columns = np.mgrid[:200, :300]
    Image.fromarray((rows + columns % 99).astype(np.uint8)).save(folder / "drawing.png")
    tiny.encoder(id_dim=524, vision_model=str(face_models.clip)).save_pretrained(folder / "adapters" / "encoder")
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """The same as the working directory."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def blind(prepared, face_models, tmp_path_factory):
    """facexlib's weights, of which RetinaFace finds no face anywhere."""
    weights = tmp_path_factory.mktemp("blind")
    shutil.copy(face_models.weights / "parsing_bisenet.pth", weights)
    state = torch.load(face_models.weights / "detection_Resnet50_Final.pth", weights_only=True)
    for name in state:
        if "ClassHead" in name and name.endswith("bias"):
            state[name] = torch.tensor([0.0, -8, 0, -8])
    torch.save(state, weights / "detection_Resnet50_Final.pth")
    return weights


@pytest.fixture
def lavieid(face_models, folder, capsys):
    """Run `lavieid` with the small models: its status, what it said, and its errors without the libraries' bars."""

    def run(*argv: str, weights: Path = face_models.weights) -> tuple[int, str, str]:
        models = ["--model-pack", str(face_models.pack), "--weights-dir", str(weights)]
        adapters = ["--adapters", "adapters"] if argv[0] == "identity" and "--adapters" not in argv else []
        status = cli.main([*argv, *adapters, *models])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err[err.find("lavieid: ") :] if "lavieid: " in err else ""

    return run


@pytest.fixture
def expected(face_models, folder):
    """What the library reads of photos."""
    face = FaceProcessor.from_pretrained(face_models.pack, face_models.clip, weights_dir=face_models.weights)
    return IdentityReader(tiny.encoder(id_dim=524), face)


def same(one: Identity, other: Identity) -> bool:
    return torch.equal(one.tokens, other.tokens) and torch.equal(one.mask, other.mask) and one.hidden == other.hidden


def test_parse_draws_what_is_seen(lavieid):
    assert lavieid("parse", "astronaut.png", "-o", "parts.png") == (
        0,
        "parts.png: 6 of 6 components, masked: none\n",
        "",
    )
    parts = np.asarray(Image.open("parts.png").convert("RGB")).astype(int)
    lavieid("parse", "astronaut.png", "-o", "by_hand.jpg", "--component-map", HAND_MADE)
    by_hand = np.asarray(Image.open("by_hand.jpg").convert("RGB"))
    assert parts.shape == by_hand.shape == (688, 1032, 3)
    assert np.abs(parts - by_hand)[24:664, 24:664].max() > 10


def test_parse_says_what_is_masked_and_why(lavieid):
    classes = np.asarray(Image.open(HAND_MADE)).copy()
    classes[classes == 6] = 0
    classes[classes == 2] = 0
    classes[102, 203:205] = 2
    Image.fromarray(classes).save("map.png")
    status, out, _ = lavieid("parse", "astronaut.png", "-o", "parts.png", "--component-map", "map.png")
    assert status == 0
    assert re.fullmatch(
        r"parts\.png: 4 of 6 components, masked: eyes: too small.*0\.050%; hair: not in the photo\n", out
    )


def test_identity_writes_what_the_library_reads(lavieid, expected, folder):
    status, out, _ = lavieid("identity", "astronaut.png", "-o", "me.safetensors")
    identity = Identity.load("me.safetensors")
    assert (status, out) == (0, f"me.safetensors, for the encoder of adapters: {identity}\n")
    assert same(identity, expected("astronaut.png")) and identity.fingerprint == expected.encoder.fingerprint()
    status, *_ = lavieid("identity", "astronaut.png", "-o", "people/me.safetensors", "--component-map", HAND_MADE)
    by_hand = Identity.load("people/me.safetensors")
    assert status == 0 and not same(by_hand, identity)
    assert same(by_hand, expected("astronaut.png", component_map=HAND_MADE))


def test_several_photos_become_one_identity(lavieid, expected):
    changed = np.asarray(Image.open("astronaut.png")).copy()
    changed[300:] //= 2
    changed[:, :, 2] //= 2
    Image.fromarray(changed).save("evening.png")
    maps = ["--component-map", HAND_MADE]
    status, *_ = lavieid(
        "identity", "astronaut.png", "evening.png", "-o", "me.safetensors", *maps, "--face-index", "largest"
    )
    assert status == 0
    both = Identity.load("me.safetensors")
    assert same(both, expected(["astronaut.png", "evening.png"], component_map=HAND_MADE, face_index="largest"))
    assert not same(both, expected("astronaut.png", component_map=HAND_MADE))


def test_the_vision_model_may_have_moved(lavieid, face_models, expected):
    adapters = Path("moved", "encoder")
    tiny.encoder(id_dim=524, vision_model="no/such-model").save_pretrained(adapters)
    maps = ["-o", "me.safetensors", "--adapters", "moved", "--component-map", HAND_MADE]
    status, _, error = lavieid("identity", "astronaut.png", *maps)
    assert status == 1 and "'no/such-model' is no folder here" in error
    status, *_ = lavieid("identity", "astronaut.png", *maps, "--vision-model", str(face_models.clip))
    assert status == 0
    assert same(Identity.load("me.safetensors"), expected("astronaut.png", component_map=HAND_MADE))


def test_the_vision_model_sees_what_the_encoder_was_trained_with(lavieid, face_models, expected):
    settings = {"id_dim": 524, "vision_model": str(face_models.eva), "grayscale": True, "num_scales": 2, "depth": 4}
    encoder = tiny.encoder(**settings)
    encoder.save_pretrained("grey/encoder")
    lavieid("identity", "astronaut.png", "-o", "grey.safetensors", "--adapters", "grey", "--component-map", HAND_MADE)
    face = FaceProcessor.from_pretrained(
        face_models.pack, face_models.eva, num_scales=2, weights_dir=face_models.weights, grayscale=True
    )
    by_library = IdentityReader(encoder, face)("astronaut.png", component_map=HAND_MADE)
    assert same(Identity.load("grey.safetensors"), by_library)


def test_a_face_of_several_is_chosen(lavieid):
    status, _, error = lavieid("parse", "t1.png", "-o", "parts.png")
    first, *boxes = error.splitlines()
    assert status == 1 and len(boxes) == 6
    assert first == "lavieid: 't1.png' shows 6 faces: say face_index, or 'largest'."
    assert not Path("parts.png").exists()
    pictures = []
    for index in ("largest", "4", "2"):
        assert lavieid("parse", "t1.png", "-o", "parts.png", "--face-index", index)[0] == 0
        pictures.append(Path("parts.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("index", ["6", "-1"])
def test_a_face_that_is_not_there_is_an_error_that_lists_them(lavieid, index):
    status, _, error = lavieid("parse", "t1.png", "-o", "parts.png", "--face-index", index)
    assert status == 1 and error.startswith("lavieid: face_index is ")
    assert "but the faces of 't1.png' are:\n  0: left 64" in error


@pytest.mark.parametrize("index", ["nonsense", "1.5", ""])
def test_an_index_that_is_no_number_is_an_error(lavieid, index):
    status, _, error = lavieid("parse", "t1.png", "-o", "parts.png", "--face-index", index)
    assert status == 1
    assert error == f"lavieid: face_index is {index!r}, but must be a whole number, 'largest' or None.\n"


def test_a_drawing_is_read_as_a_whole_if_one_says_so(lavieid, blind):
    classes = np.zeros((200, 300), np.uint8)
    for i in range(6):
        classes[30:170, 50 * i : 50 * i + 45] = i + 1
    Image.fromarray(classes).save("map.png")
    given = ["drawing.png", "--component-map", "map.png"]
    status, _, error = lavieid("parse", *given, "-o", "parts.png", weights=blind)
    assert status == 1 and error.startswith("lavieid: No face was found in 'drawing.png': ")
    assert len(error.splitlines()) == 1
    status, out, _ = lavieid("parse", *given, "-o", "parts.png", "--whole-image", weights=blind)
    assert (status, out) == (0, "parts.png: 6 of 6 components, masked: none\n")
    status, out, _ = lavieid("identity", *given, "-o", "it.safetensors", "--whole-image", weights=blind)
    assert status == 0 and Identity.load("it.safetensors").mask.all()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["parse", "nobody.png", "-o", "parts.png"], "There is no photo 'nobody.png'"),
        (["identity", "nobody.png", "-o", "me.safetensors"], "There is no photo 'nobody.png'"),
        (["parse", "text.png", "-o", "parts.png"], "'text.png' is not an image"),
        (["parse", "astronaut.png", "-o", "parts.png", "--component-map", "none.png"], "none.png"),
        (["parse", "astronaut.png", "-o", "parts.png", "--component-map", "t1.png"], "segment the upright photo"),
        (["parse", "astronaut.png", "-o", "parts.png", "--component-map", "astronaut.png"], "is an image of mode RGB"),
        (["parse", "t1.png", "-o", "parts.png", "--component-map", HAND_MADE], "segment the upright photo"),
        (["parse", *BY_HAND, "-o", "parts.what"], ".what"),
        (["parse", *BY_HAND, "-o", "parts"], "parts"),
        (["parse", *BY_HAND, "-o", "folder.png"], "folder.png"),
        (["parse", *BY_HAND, "-o", "text.png/parts.png"], "text.png"),
        (["identity", *BY_HAND, "-o", "me.png"], "'me.png' must end in .safetensors"),
        (["identity", *BY_HAND, "-o", "text.png/me.safetensors"], "text.png"),
        (
            ["identity", "astronaut.png", "-o", "me.safetensors", "--adapters", "nowhere/here"],
            "'nowhere/here' is no",
        ),
        (["identity", "astronaut.png", "-o", "me.safetensors", "--adapters", "folder.png"], "has no config.json"),
        (["parse", "astronaut.png", "-o", "parts.png", "--device", "toaster"], "toaster"),
        (["identity", "astronaut.png", "-o", "me.safetensors", "--device", "toaster"], "toaster"),
    ],
    ids=lambda value: " ".join(value).replace(HAND_MADE, "map") if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line_and_status_1(lavieid, folder, argv, message):
    Path("text.png").write_text("no picture")
    Path("folder.png").mkdir()
    before = sorted(folder.rglob("*"))
    status, out, error = lavieid(*argv)
    assert (status, out) == (1, "")
    assert error.startswith("lavieid: ") and message in error and len(error.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line_and_status_1(lavieid):
    status, _, error = lavieid("parse", "astronaut.png", "-o", "parts.png", "--device", "cuda")
    assert status == 1 and len(error.splitlines()) == 1


def test_without_adapters_an_identity_is_for_consisids_encoder(folder, capsys):
    assert cli.main(["identity", "astronaut.png", "-o", "me.safetensors"]) == 1  # it is not on this machine
    error = capsys.readouterr().err
    assert error.startswith("lavieid: 'BestWishYsh/ConsisID-preview' is no folder here") and "HF_HUB_OFFLINE" in error
    assert not Path("me.safetensors").exists()


def test_models_that_are_not_there_are_named(folder, capsys):
    given = ["astronaut.png", "-o", "parts.png", "--cache-dir", "models"]
    assert cli.main(["parse", *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lavieid: 'models/models/antelopev2' is not there") and "HF_HUB_OFFLINE" in error
    assert len(error.splitlines()) == 1 and not Path("models").exists()


def test_all_six_names_are_those_of_the_library(lavieid):
    Image.fromarray(np.asarray(Image.open(HAND_MADE)) // 6 * 6).save("hair.png")
    _, out, _ = lavieid("parse", "astronaut.png", "-o", "parts.png", "--component-map", "hair.png")
    assert "1 of 6 components" in out and all(name in out for name in FACIAL_COMPONENTS[:5])


# training data


@pytest.fixture(scope="module")
def filmed(prepared, tmp_path_factory):
    """A base, and two clips of the astronaut, beside one that is missing."""
    pytest.importorskip("av")
    pytest.importorskip("accelerate")
    from support.tiny_clips import save_base, write_clips, write_video

    folder = tmp_path_factory.mktemp("filmed")
    save_base(folder / "base")
    write_video(folder / "videos" / "a.mp4", [tiny_face.photo("astronaut")] * 5)
    names = ("a", "a", "missing")
    clips = [{"video": f"videos/{name}.mp4", "caption": f"She walks {i}."} for i, name in enumerate(names)]
    write_clips(folder / "clips.jsonl", *clips)
    return folder


@pytest.fixture
def prepare(filmed, face_models, blind, tmp_path, monkeypatch):
    """Run `lavieid prepare` in a folder with the clips."""
    shutil.copytree(filmed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    models = ["--base", "base", "--model-pack", str(face_models.pack), "--weights-dir", str(blind)]
    settings = ["--buckets", "1x256x256", "1x256x384", "--min-face", "40", "--dtype", "float32"]
    settings += ["--samples-per-shard", "1"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda *argv: cli.main(["prepare", "clips.jsonl", "--out", "shards", *settings, *models, *argv])
    torch.set_num_threads(before)


def test_clips_become_shards_that_can_be_inspected(prepare, capsys):
    from lavieid_adapters.data.shards import Shards

    assert prepare() == 0
    out, err = capsys.readouterr()
    assert out == "shards: 2 samples in 2 shards, 1 clips rejected\n"
    assert re.search(r"no such file +│ +1 +│ +videos/missing\.mp4", err) and "Traceback" not in err
    shards = Shards("shards")
    assert shards.header["base"] == "base" and shards.header["dtype"] == "float32"
    assert {(line["frames"], line["height"], line["width"]) for line in shards.index} == {(1, 256, 256)}
    assert cli.main(["inspect", "shards", "-o", "sheets/sheet.png", "--samples", "1"]) == 0
    assert capsys.readouterr().out == "sheets/sheet.png: 1 of 2 samples\n"
    one = Image.open("sheets/sheet.png")
    assert cli.main(["inspect", "shards", "-o", "sheet.jpg"]) == 0
    assert capsys.readouterr().out == "sheet.jpg: 2 of 2 samples\n"
    assert Image.open("sheet.jpg").height > one.height
    assert prepare("--fps", "4") == 1
    assert "fps 8.0 instead of 4.0" in capsys.readouterr().err


def test_terminated_it_says_so_and_goes_on_when_it_is_repeated(prepare, capsys):
    journal = Path("shards", "journal-00000.jsonl")

    def stop():
        while not (journal.is_file() and journal.stat().st_size):  # until the first clip is done
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    handler = signal.getsignal(signal.SIGTERM)
    assert prepare() == 130
    assert signal.getsignal(signal.SIGTERM) is handler
    assert capsys.readouterr().err.endswith("lavieid: stopped; the same command goes on where it was\n")
    first = journal.read_text()
    assert first and not Path("shards", "index.jsonl").exists()
    assert cli.main(["inspect", "shards", "-o", "sheet.png"]) == 1
    assert "lavieid prepare has not finished, run it again" in capsys.readouterr().err
    assert prepare() == 0
    assert journal.read_text().startswith(first)
    assert capsys.readouterr().out == "shards: 2 samples in 2 shards, 1 clips rejected\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--base", "no/such-base"], "'no/such-base' is no folder here"),
        (["--buckets", "48x256x256"], "has 48 frames"),
        (["--buckets", "wide"], "say frames, height and width"),
        (["--device", "toaster"], "toaster"),
        (["--weights-dir", "nowhere"], "'nowhere/detection_Resnet50_Final.pth' is not there"),
        (["--out", "clips.jsonl"], "'clips.jsonl' is a file"),
        (["--out", "videos"], "holds other files (a.mp4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_prepared_is_one_line_and_status_1(prepare, capsys, tmp_path, argv, message):
    before = sorted(tmp_path.rglob("*"))
    assert prepare(*argv) == 1
    out, err = capsys.readouterr()
    error = err[err.find("lavieid: ") :]
    assert out == "" and "Traceback" not in err
    assert error.startswith("lavieid: ") and message in error and len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_list_that_is_wrong_names_the_line(prepare, capsys):
    Path("clips.jsonl").write_text('{"video": "a.mp4", "captoin": "x"}')
    assert prepare() == 1
    assert capsys.readouterr().err == "lavieid: 'clips.jsonl', line 1: 'captoin' is not known: say caption.\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["prepare", "clips.jsonl", "--out", "shards"],
        ["prepare", "clips.jsonl", "--base", "base"],
        ["prepare", "clips.jsonl", "--base", "b", "--out", "o", "--fps", "0"],
        ["prepare", "clips.jsonl", "--base", "b", "--out", "o", "--fps", "nan"],
        ["prepare", "clips.jsonl", "--base", "b", "--out", "o", "--min-face-share", "1.5"],
        ["prepare", "clips.jsonl", "--base", "b", "--out", "o", "--dtype", "int8"],
        ["inspect", "shards"],
        ["inspect", "shards", "-o", "a.png", "--samples", "-1"],
        ["convert-consisid", "list.txt"],
    ],
    ids=" ".join,
)
def test_data_commands_show_their_usage(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2 and f"usage: lavieid {argv[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["prepare", "inspect", "convert-consisid"])
def test_help_of_a_data_command_has_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert re.search(rf"\n  lavieid {command} \S+ .*\n", capsys.readouterr().out)


def test_consisids_list_is_converted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    Path("videos", "a.mp4").touch()
    Path("captions.json").write_text('[{"path": "a.mp4", "cap": "x"}, {"path": "b.mp4", "cap": "x"}]')
    assert cli.main(["convert-consisid", "captions.json", "-o", "clips.jsonl"]) == 0
    assert capsys.readouterr().out == "clips.jsonl: 1 clips, left out: 1 no such video\n"
    assert Path("clips.jsonl").read_text() == '{"video": "videos/a.mp4", "caption": "x"}\n'
    assert cli.main(["inspect", "videos", "-o", "sheet.png"]) == 1
    assert "these are no shards" in capsys.readouterr().err


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "lavieid_adapters", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"lavieid-adapters {__version__}\n")

"""`lavieid identity` and `lavieid parse`."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny, tiny_face

from lavieid_adapters import FACIAL_COMPONENTS, FaceProcessor, Identity, IdentityReader
from lavieid_adapters.cli import main as cli

pytestmark = tiny_face.THIRD_PARTY_WARNINGS
HAND_MADE = str(tiny_face.HAND_MADE)
BY_HAND = ("astronaut.png", "--component-map", HAND_MADE)


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """The same as the working directory."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def test_parse_takes_one_map_and_identity_one_a_photo(lavieid):
    maps = ["--component-map", HAND_MADE, "--component-map", HAND_MADE]
    assert lavieid("parse", "astronaut.png", "-o", "parts.png", *maps)[0] == 0
    assert lavieid("identity", "astronaut.png", "astronaut.png", "-o", "me.safetensors", *maps)[0] == 0
    status, out, error = lavieid("identity", "astronaut.png", "-o", "other.safetensors", *maps)
    assert (status, out) == (1, "") and error.startswith("lavieid: ") and len(error.splitlines()) == 1

"""Photo readers of installed packages: found by the name in an encoder's config, or refused."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny

from lavieid_adapters import FaceProcessor, IdentityReader, VisionModel
from lavieid_adapters.faces.photo_readers import GROUP, read_with, registered

# A module as a package of somebody else may bring it. Each part counts what it is asked.
CARTOONS = """
import numpy as np
import torch
from lavieid_adapters import DetectedFace

asked = []

class Everything:
    image_size, fingerprint, name = 28, "cartoons", "cartoons"

    def __init__(self, num_scales):
        self.num_scales = num_scales

    def detect(self, image):
        asked.append("detect")
        return [DetectedFace((10, 10, 90, 90), 1, [(35, 40), (65, 40), (50, 55), (38, 70), (62, 70)])]

    def embed(self, image, landmarks):
        return torch.linspace(-1, 1, 512)

    def align(self, image, landmarks):
        asked.append("align")
        return np.full((512, 512, 3), image.mean(), np.uint8), np.array([[5.0, 0, 0], [0, 5.0, 0]])

    def parse(self, aligned):
        return np.broadcast_to(np.repeat(np.arange(8, dtype=np.uint8) % 7, 64), (512, 512)).copy()

    def encode(self, images):
        rows = torch.arange(len(images))[:, None].float()
        return torch.sin(rows + torch.arange(12)), [torch.sin(rows[..., None] + torch.ones(5, 16))] * self.num_scales

def processor_arguments(*, num_scales, dtype):
    asked.append(("arguments", num_scales, dtype))
    part = Everything(num_scales)
    return {"detectors": (part,), "recognizer": part, "aligner": part, "parser": part, "vision": part, "min_face": 20}

def damaged(*, num_scales, dtype):
    return ["detectors"]
"""


def install(folder: Path, package: str, readers: dict[str, str], code: str = CARTOONS) -> None:
    """Write a distribution with one module as pip would install it: its file, and its metadata beside it."""
    (folder / f"{package}.py").write_text(code)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = {value}" for name, value in readers.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder of installed packages."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    for name in ("cartoon_faces", "other_faces"):
        sys.modules.pop(name, None)


@pytest.fixture
def cartoons(site):
    """The module of an installed package with a photo reader."""
    install(site, "cartoon_faces", {"cartoons": "cartoon_faces:processor_arguments", "broken": "cartoon_faces:damaged"})
    importlib.invalidate_caches()
    return importlib.import_module("cartoon_faces")


def encoder(**config):
    return tiny.encoder(**{"id_dim": 524, "vision_model": "cartoons", "num_scales": 2, "depth": 2, **config})


PHOTO = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)


def test_photos_are_read_by_the_package_that_the_encoders_config_names(cartoons):
    face = FaceProcessor.for_encoder(encoder())
    assert cartoons.asked == [("arguments", 2, None)]
    assert [type(part) for part in face.parts] == [cartoons.Everything] and face.min_face == 20
    identity = IdentityReader(encoder(), face)(PHOTO)
    assert {"detect", "align"} <= set(cartoons.asked)
    assert identity.mask.all() and not torch.equal(identity.tokens[0], identity.tokens[1])
    by_default = IdentityReader(encoder())(PHOTO)
    assert torch.equal(by_default.tokens, identity.tokens)


def test_the_encoders_colours_and_other_settings_go_before_the_packages(cartoons):
    assert not FaceProcessor.for_encoder(encoder()).grayscale
    face = FaceProcessor.for_encoder(
        encoder(grayscale=True), min_face=7, vision=None, num_scales=1, dtype=torch.float64, cache_dir="no", token=True
    )
    assert (face.grayscale, face.min_face, face.vision) == (True, 7, None)
    assert cartoons.asked[-1] == ("arguments", 1, torch.float64)


def test_the_parts_are_placed_where_they_are_to_work(cartoons, monkeypatch):
    placed = []
    monkeypatch.setattr(cartoons.Everything, "place", lambda self, *where: placed.append(where), raising=False)
    FaceProcessor.for_encoder(encoder(), device="meta")
    assert placed == [(torch.device("meta"), False)]


def test_nothing_is_imported_for_a_config_that_names_a_repo_or_a_folder(cartoons, face_models, tmp_path, monkeypatch):
    (tmp_path / "faces").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("openai/clip", str(face_models.clip), face_models.clip, "./cartoons", "faces", Path("faces")):
        assert registered(name) is None
    assert VisionModel("someone/cartoons").name == "someone/cartoons"
    assert FaceProcessor.for_encoder(encoder(), vision_model=face_models.clip).vision.image_size == 28
    assert cartoons.asked == []


def test_a_package_is_imported_when_it_reads_and_not_when_it_is_looked_up(site):
    install(site, "cartoon_faces", {"cartoons": "cartoon_faces:processor_arguments"})
    entry = registered("cartoons")
    assert entry.value == "cartoon_faces:processor_arguments" and "cartoon_faces" not in sys.modules
    assert read_with(entry, 2)["min_face"] == 20 and "cartoon_faces" in sys.modules


def test_a_module_that_no_package_registers_is_never_run(site, tmp_path):
    """A config may come from anyone: the names of modules in it do nothing."""
    marker = tmp_path / "it ran"
    (site / "other_faces.py").write_text(f"open({str(marker)!r}, 'w')\ndef arguments(**kwargs): return {{}}\n")
    for name in ("other_faces", "other_faces:arguments", "cartoons = other_faces:arguments"):
        with pytest.raises(ValueError, match="is neither a Hub repo"):
            FaceProcessor.for_encoder(encoder(vision_model=name))
    assert not marker.exists()
    importlib.import_module("other_faces")
    assert marker.exists()  # it would have


def test_a_name_that_is_nothing_lists_what_is_registered(cartoons):
    for call in (lambda: FaceProcessor.for_encoder(encoder(vision_model="mangas")), lambda: VisionModel("mangas")):
        with pytest.raises(ValueError, match=r"'mangas' is neither .*\(registered: broken, cartoons, puppets\)\. Name"):
            call()
    with pytest.raises(ValueError, match="'mangas' is neither a Hub repo"):
        IdentityReader(encoder(vision_model="mangas"))


@pytest.mark.parametrize("name", [None, 7, ["cartoons"]], ids=repr)
def test_a_config_whose_vision_model_is_no_text_is_refused(name):
    with pytest.raises(TypeError, match="but must be a name"):
        FaceProcessor.for_encoder(tiny.encoder(vision_model=name))
    for call in (registered, VisionModel, lambda name: FaceProcessor.for_encoder(tiny.encoder(), vision_model=name)):
        with pytest.raises(TypeError, match="but must be a name or a path"):
            call(name)


def test_a_photo_reader_is_no_vision_model_of_another_encoder(cartoons):
    with pytest.raises(ValueError, match="'cartoons' is a photo reader and no Hub repo of a ViT"):
        VisionModel("cartoons")
    with pytest.raises(
        ValueError, match="'cartoons' is a photo reader, but this encoder was trained with 'openai/clip"
    ):
        FaceProcessor.for_encoder(tiny.encoder(), vision_model="cartoons")


def test_a_name_that_two_packages_register_is_refused(cartoons, site):
    assert registered("cartoons").value == "cartoon_faces:processor_arguments"
    install(site, "other_faces", {"cartoons": "other_faces:processor_arguments"})
    with pytest.raises(ValueError, match=r"'cartoons' is registered by cartoon_faces and other_faces\. Uninstall"):
        FaceProcessor.for_encoder(encoder())


def test_a_package_that_cannot_be_imported_is_named(site):
    install(site, "cartoon_faces", {"cartoons": "cartoon_faces:processor_arguments"}, "import no_such_module")
    with pytest.raises(ImportError, match=r"'cartoons' cannot be imported from 'cartoon_faces:proc.*no_such_module"):
        FaceProcessor.for_encoder(encoder())


def test_a_function_that_is_not_there_is_named(site):
    install(site, "cartoon_faces", {"cartoons": "cartoon_faces:moved"})
    with pytest.raises(ImportError, match=r"cannot be imported from 'cartoon_faces:moved' .* Install its package"):
        FaceProcessor.for_encoder(encoder())


def test_a_reader_that_gives_no_arguments_is_named(cartoons):
    with pytest.raises(TypeError, match=r"'broken' gives list, but must give the arguments .* 'cartoon_faces:damaged'"):
        FaceProcessor.for_encoder(encoder(vision_model="broken"))


def test_this_packages_own_reader_is_registered():
    assert registered("puppets").value == "lavieid_adapters.puppets.sight.reading:reading_parts"

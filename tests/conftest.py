"""Settings that must stand before the libraries are imported, and what several files of tests share."""

import os
from functools import cached_property
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow tiny operations on a busy machine
if not os.path.exists("/dev/nvidia0"):
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels then run on the CPU, one program at a time


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on the loopback that this process's clients talk to."""
    from support.hub_server import HubServer, point_client_at

    with HubServer() as server:
        point_client_at(server.url, monkeypatch, tmp_path / "cache")
        yield server


class FaceModels:
    """The files of `tiny_face` in one folder, each written when it is first asked for. Nobody changes them."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def pack(self) -> Path:
        """The folder of a model pack of insightface."""
        return self._write("model_pack", self.folder / "pack")

    @cached_property
    def weights(self) -> Path:
        """The folder of facexlib's two .pth files."""
        for name in ("bisenet", "retinaface"):
            self._write(name, self.folder / "weights")
        return self.folder / "weights"

    @cached_property
    def clip(self) -> Path:
        """The folder of a CLIP."""
        return self._write("clip", self.folder / "clip")

    @cached_property
    def eva(self) -> Path:
        """The folder of an EVA02-CLIP."""
        return self._write("eva", self.folder / "eva")

    @staticmethod
    def _write(name: str, folder: Path) -> Path:
        from support import tiny_face

        getattr(tiny_face, f"write_{name}")(folder)
        return folder


@pytest.fixture(scope="session")
def face_models(tmp_path_factory) -> FaceModels:
    """Small files of the models that describe a face."""
    return FaceModels(tmp_path_factory.mktemp("face_models"))


@pytest.fixture(scope="session")
def here(tmp_path_factory):
    """What small training runs need; they are on the CPU, where results are exact."""
    from support.tiny_training import write_world

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield write_world(tmp_path_factory.mktemp("training") / "world")

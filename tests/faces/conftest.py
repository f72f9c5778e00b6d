"""What several tests of models that read faces share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def online(monkeypatch):
    """As if HF_HUB_OFFLINE were not set; what is not patched to the loopback fails."""
    monkeypatch.setattr("lavieid_adapters.faces.lazy_model.is_offline_mode", lambda: False)


@pytest.fixture
def pack(face_models, tmp_path) -> Path:
    """A model pack of insightface that may be damaged."""
    return Path(shutil.copytree(face_models.pack, tmp_path / "pack"))

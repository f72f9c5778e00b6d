"""Photos, adapters and face models that the tests of several commands read."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny


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

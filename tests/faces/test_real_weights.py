"""The real models see the astronaut as a person does. Skipped where their weights are not on this machine."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_face import FACES, HAND_MADE, THIRD_PARTY_WARNINGS, photo

pytest.importorskip("insightface")
pytest.importorskip("facexlib")
pytest.importorskip("skimage")

from huggingface_hub import try_to_load_from_cache

from lavieid_adapters import FACIAL_COMPONENTS, FaceProcessor
from lavieid_adapters.faces.components import warp_map
from lavieid_adapters.faces.facexlib_models import BiSeNet, RetinaFace
from lavieid_adapters.faces.insightface_models import InsightFace
from lavieid_adapters.models.facial_encoder import CLIP

pytestmark = [
    pytest.mark.slow,
    *THIRD_PARTY_WARNINGS,
]


def missing() -> list[str]:
    """What is not where the libraries put it."""
    pack = InsightFace()
    lacking = [] if pack._folder else [f"the model pack {pack.pack} in {pack.cache_dir / 'models' / pack.pack}"]
    lacking += [str(model.path) for model in (BiSeNet(), RetinaFace()) if not model.path.is_file()]
    if not any(
        isinstance(try_to_load_from_cache(CLIP, name), str) for name in ("model.safetensors", "pytorch_model.bin")
    ):
        lacking.append(f"{CLIP} in the Hub's cache")
    return lacking


@pytest.fixture(scope="module")
def processor() -> FaceProcessor:
    if lacking := missing():
        pytest.skip(
            f"not there: {'; '.join(lacking)}. To get them (2.2 GB), on a machine with a connection: "
            'python -c "from lavieid_adapters import FaceProcessor; from skimage.data import astronaut; p = '
            'FaceProcessor.from_pretrained(); p(astronaut()); p.detectors[1].detect(astronaut())"'
        )
    return FaceProcessor.from_pretrained()


@pytest.fixture(scope="module")
def astronaut(processor):
    return processor(photo("astronaut"))


def test_the_astronaut_is_one_face_of_six_components(astronaut):
    assert len(astronaut.boxes) == 1 and astronaut.score > 0.5
    assert astronaut.hidden == {}
    left, top, right, bottom = FACES["astronaut"][0].box
    found = astronaut.boxes[0]
    width = min(right, found[2]) - max(left, found[0])
    height = min(bottom, found[3]) - max(top, found[1])
    both = (right - left) * (bottom - top) + (found[2] - found[0]) * (found[3] - found[1])
    assert width * height / (both - width * height) > 0.5
    np.testing.assert_allclose(astronaut.landmarks, FACES["astronaut"][0].landmarks, atol=12)
    assert astronaut.vit_embeds.shape == (6, 768)
    assert [tuple(h.shape) for h in astronaut.vit_hidden_states] == [(6, 577, 1024)] * 5


def test_the_parsed_components_are_where_a_person_drew_them(astronaut):
    drawn = warp_map(np.asarray(Image.open(HAND_MADE)), astronaut.matrix, (512, 512))
    for name in ("skin", "hair"):
        one, other = (classes == 1 + FACIAL_COMPONENTS.index(name) for classes in (astronaut.component_map, drawn))
        assert (one & other).sum() / (one | other).sum() > 0.6, name


def test_a_smaller_photo_of_a_person_is_nearer_than_another_person(processor, astronaut):
    smaller = Image.fromarray(photo("astronaut")).resize((400, 400))
    again = processor(smaller).id_embedding
    others = [processor(photo("t1"), face_index=i).id_embedding for i in (0, 4)]
    alike, *different = (
        torch.cosine_similarity(astronaut.id_embedding, other, dim=0).item() for other in (again, *others)
    )
    assert alike > 0.6 and max(different) < 0.3

"""The fixtures do what tests of real models rely on."""

import numpy as np
import pytest
import torch
from support import tiny_face
from support.tiny_face import FACES, PHOTOS, THIRD_PARTY_WARNINGS, photo

pytest.importorskip("insightface")
pytest.importorskip("facexlib")
data = pytest.importorskip("skimage.data")

pytestmark = THIRD_PARTY_WARNINGS


@pytest.fixture(scope="module")
def find(face_models):
    """Faces in an RGB picture, from left to right."""
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(
        str(face_models.pack), allowed_modules=["detection", "recognition"], providers=["CPUExecutionProvider"]
    )
    app.prepare(0)
    assert {name: model.input_std for name, model in app.models.items()} == {"detection": 128, "recognition": 127.5}
    return lambda image: sorted(app.get(np.ascontiguousarray(image[..., ::-1])), key=lambda face: face.bbox[0])


@pytest.mark.parametrize("name", PHOTOS)
def test_the_detector_finds_each_known_face_where_it_is(find, name):
    found = find(photo(name))
    assert len(found) == len(FACES[name])
    for face, known in zip(found, FACES[name], strict=True):
        np.testing.assert_allclose(face.bbox, known.box, atol=0.01)
        np.testing.assert_allclose(face.kps, known.landmarks, atol=0.01)
        assert face.det_score == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("fraction", [1, 2, 4])
@pytest.mark.parametrize("name", PHOTOS)
def test_the_detector_finds_the_faces_after_scaling_and_jpeg(find, name, fraction):
    import cv2

    image = photo(name)
    small = cv2.resize(image, (image.shape[1] // fraction, image.shape[0] // fraction), interpolation=cv2.INTER_AREA)
    changed = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], cv2.IMREAD_COLOR)
    found = find(changed)
    assert len(found) == len(FACES[name])
    for face, known in zip(found, FACES[name], strict=True):
        np.testing.assert_allclose(face.kps, np.array(known.landmarks) / fraction, atol=1)
        assert 0.65 < face.det_score < 0.91


def test_the_detector_finds_nothing_else(find):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    greys = [np.full((300, 400, 3), value, np.uint8) for value in (0, 127, 255)]
    for image in (data.coffee(), data.chelsea(), data.rocket(), photo("astronaut")[256:], noise, *greys):
        assert find(image) == []


def test_different_faces_have_different_embeddings(find):
    embeddings = np.stack([face.normed_embedding for name in PHOTOS for face in find(photo(name))])
    assert embeddings.shape == (8, 512)
    assert (embeddings @ embeddings.T - np.eye(8)).max() < 0.85
    again = find(photo("astronaut"))[0].normed_embedding
    np.testing.assert_array_equal(again, embeddings[0])


def test_the_component_map_covers_the_face():
    from PIL import Image

    image = Image.open(tiny_face.HAND_MADE)
    components = np.asarray(image)
    assert (image.mode, components.shape) == ("P", (512, 512))
    left_eye, right_eye, nose, left_mouth, right_mouth = np.round(FACES["astronaut"][0].landmarks).astype(int)
    middle_of_mouth = (left_mouth + right_mouth) // 2 + (0, 6)
    at = {tuple(point): components[point[1], point[0]] for point in (left_eye, right_eye, nose, middle_of_mouth)}
    assert list(at.values()) == [2, 2, 4, 3]
    assert set(np.unique(components)) == set(range(7))


def test_bisenet_sees_all_components_of_the_astronaut(face_models):
    import cv2
    from facexlib.parsing.bisenet import BiSeNet

    model = BiSeNet(num_class=19).eval()
    model.load_state_dict(torch.load(face_models.weights / "parsing_bisenet.pth", weights_only=True))
    face = cv2.warpAffine(photo("astronaut"), tiny_face._astronaut_to_ffhq(), (512, 512))
    pixels = torch.from_numpy(face).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        classes = model((pixels - mean[:, None, None]) / std[:, None, None])[0].argmax(1)
    pixels_of = dict(zip(*(t.tolist() for t in classes.unique(return_counts=True)), strict=True))
    assert all(pixels_of.get(name, 0) > 500 for name in (0, 1, 2, 4, 10, 12, 17)), pixels_of


@pytest.mark.parametrize("size", [(200, 200), (512, 300)])
def test_retinaface_finds_faces_in_every_picture(face_models, size):
    from facexlib.detection.retinaface import RetinaFace

    state = torch.load(face_models.weights / "detection_Resnet50_Final.pth", weights_only=True)
    assert all(name.startswith("module.") for name in state)
    model = RetinaFace(network_name="resnet50", device="cpu")
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with torch.inference_mode():
        found = model.detect_faces(picture, 0.97)
    assert len(found) >= 1
    points = found[0, 5:].reshape(5, 2)
    assert np.linalg.matrix_rank(points - points.mean(0), tol=1) == 2


def test_clip_loads_as_it_was_saved(face_models):
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

    model, info = CLIPVisionModelWithProjection.from_pretrained(face_models.clip, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = AutoImageProcessor.from_pretrained(face_models.clip)
    pixels = processor(photo("astronaut"), return_tensors="pt")["pixel_values"]
    out = model(pixels, output_hidden_states=True)
    assert out.image_embeds.shape == (1, 12)
    assert [tuple(h.shape) for h in out.hidden_states] == [(1, 5, 16)] * 7
    assert not torch.allclose(out.image_embeds, model(-pixels).image_embeds, rtol=0.1)


def test_eva_loads_as_it_was_saved(face_models):
    import timm
    from transformers import AutoConfig, AutoImageProcessor, TimmWrapperForImageClassification

    assert AutoConfig.from_pretrained(face_models.eva).model_type == "timm_wrapper"
    model, info = TimmWrapperForImageClassification.from_pretrained(face_models.eva, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    pixels = AutoImageProcessor.from_pretrained(face_models.eva)(photo("astronaut"))["pixel_values"]
    with torch.inference_mode():
        out = model(pixels, output_hidden_states=[0, 1, 2, 3, 4], output_fmt="NLC", return_prefix_tokens=True)
        by_timm = timm.create_model(f"local-dir:{face_models.eva}", pretrained=True).eval()(pixels)
        other = model(-pixels).logits
    torch.testing.assert_close(out.logits, by_timm)
    assert not torch.allclose(out.logits, other, rtol=0.1)
    assert out.logits.shape == (1, 12)
    assert [[tuple(part.shape) for part in hidden] for hidden in out.hidden_states] == [[(1, 4, 16), (1, 1, 16)]] * 5

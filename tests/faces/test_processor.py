"""A photo becomes six facial components: which face, what is hidden, and parts that can be replaced."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_face import FACES, HAND_MADE, THIRD_PARTY_WARNINGS, photo
from torch import Tensor

pytest.importorskip("insightface")
pytest.importorskip("facexlib")
pytest.importorskip("skimage")

from lavieid_adapters import FACIAL_COMPONENTS, DetectedFace, FaceFeatures, FaceProcessor
from lavieid_adapters.faces.components import warp_map
from lavieid_adapters.faces.facexlib_models import FFHQ_LANDMARKS, FaceAligner
from lavieid_adapters.faces.photo import Photo

pytestmark = THIRD_PARTY_WARNINGS
ASTRONAUT = FACES["astronaut"][0]


class Detector:
    """Finds what it was told, and counts."""

    def __init__(self, *faces: DetectedFace):
        self.faces, self.images = list(faces), []

    def detect(self, image):
        self.images.append(image)
        return self.faces


class Parser:
    """Sees the classes of a map that it was given."""

    def __init__(self, classes):
        self.classes = np.broadcast_to(np.asarray(classes, np.uint8), (512, 512))

    def parse(self, aligned):
        return self.classes.copy()


STRIPES = np.repeat(np.arange(8, dtype=np.uint8) % 7, 64)  # across a face: nothing, the six, nothing


def face_at(box, landmarks, score: float = 0.9) -> DetectedFace:
    return DetectedFace(np.array(box, np.float32), score, np.array(landmarks, np.float32))


def known(name: str = "astronaut", shift=(0, 0)) -> list[DetectedFace]:
    """The faces of a photo without a model."""
    return [
        face_at(np.reshape(face.box, (2, 2)).ravel() - [*shift, *shift], np.array(face.landmarks) - shift)
        for face in FACES[name]
    ]


def drawing(width: int = 300, height: int = 200) -> np.ndarray:
    """A picture without a face."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 255 // width, rows * 255 // height, np.full_like(rows, 40)], -1).astype(np.uint8)


def same(one: FaceFeatures, other: FaceFeatures) -> bool:
    def equal(a, b):
        if isinstance(a, tuple):
            return all(map(equal, a, b))
        return torch.equal(a, b) if isinstance(a, Tensor) else np.array_equal(a, b)

    return all(equal(value, vars(other)[name]) for name, value in vars(one).items())


@pytest.fixture(scope="module")
def models(face_models) -> FaceProcessor:
    """The processor of the small models; its RetinaFace finds faces everywhere."""
    return FaceProcessor.from_pretrained(face_models.pack, face_models.clip, weights_dir=face_models.weights)


@pytest.fixture
def processor(models):
    """A processor of those models with other parts or settings, and without the fallback."""

    def make(**parts) -> FaceProcessor:
        taken = {name: getattr(models, name) for name in ("recognizer", "parser", "vision")}
        return FaceProcessor(**{"detectors": models.detectors[:1], **taken, **parts})

    return make


@pytest.fixture(scope="module")
def astronaut(models) -> FaceFeatures:
    return models(photo("astronaut"), component_map=HAND_MADE)


# what is read of a photo


@pytest.mark.parametrize("by", ["component_map", "parser"])
def test_every_field_is_as_documented(models, by):
    features = models(photo("astronaut"), component_map=HAND_MADE if by == "component_map" else None)
    arrays = {
        "aligned": ((512, 512, 3), np.uint8),
        "component_map": ((512, 512), np.uint8),
        "component_images": ((6, 28, 28, 3), np.uint8),
        "matrix": ((2, 3), np.float64),
        "boxes": ((1, 4), np.float32),
        "landmarks": ((5, 2), np.float32),
    }
    assert {name: (getattr(features, name).shape, getattr(features, name).dtype) for name in arrays} == arrays
    assert (features.face_index, features.hidden, features.photo_size) == (0, {}, (512, 512))
    assert isinstance(features.score, float) and features.score == pytest.approx(0.9, abs=1e-3)
    assert (features.id_embedding.shape, features.id_embedding.dtype) == ((512,), torch.float32)
    assert (features.vit_embeds.shape, features.vit_embeds.dtype) == ((6, 12), torch.float32)
    torch.testing.assert_close(features.vit_embeds.norm(dim=-1), torch.ones(6))
    assert isinstance(features.vit_hidden_states, tuple)
    assert [(tuple(h.shape), h.dtype) for h in features.vit_hidden_states] == [((6, 5, 16), torch.float32)] * 5
    assert features.mask.tolist() == [True] * 6
    np.testing.assert_allclose(features.boxes, [ASTRONAUT.box], atol=0.01)
    np.testing.assert_allclose(features.landmarks, ASTRONAUT.landmarks, atol=0.01)
    assert repr(features) == "FaceFeatures(face 0, score 0.90, of 1 found, hidden: none)"


def test_the_face_is_aligned_by_its_landmarks(astronaut):
    moved = np.c_[astronaut.landmarks, np.ones(5)] @ astronaut.matrix.T
    assert np.abs(moved[:3] - FFHQ_LANDMARKS[:3]).max() < 2
    aligned, _ = FaceAligner().align(photo("astronaut"), astronaut.landmarks)
    np.testing.assert_array_equal(astronaut.aligned, aligned)


def test_a_component_map_of_the_photo_is_aligned_like_it(astronaut):
    hand_made = np.asarray(Image.open(HAND_MADE))
    expected = warp_map(hand_made, astronaut.matrix, (512, 512))
    np.testing.assert_array_equal(astronaut.component_map, expected)
    assert not np.array_equal(expected, hand_made)
    for (x, y), name in zip(FFHQ_LANDMARKS[:3].round().astype(int), ("eyes", "eyes", "nose"), strict=True):
        assert FACIAL_COMPONENTS[astronaut.component_map[y, x] - 1] == name


def test_the_parser_and_the_hand_made_map_agree(models, astronaut):
    parsed = models(photo("astronaut")).component_map
    assert not np.array_equal(parsed, astronaut.component_map)
    assert (parsed == astronaut.component_map).mean() > 0.8


def test_the_features_are_those_of_the_face_and_of_each_components_image(models, astronaut):
    expected = models.recognizer.embed(photo("astronaut"), astronaut.landmarks)
    torch.testing.assert_close(astronaut.id_embedding, torch.from_numpy(expected))
    embeds, maps = models.vision.encode(astronaut.component_images)
    torch.testing.assert_close(astronaut.vit_embeds, embeds)
    for found, other in zip(astronaut.vit_hidden_states, maps, strict=True):
        torch.testing.assert_close(found, other)
    assert all((image < 250).any() and (image == 255).any() for image in astronaut.component_images)


def test_the_encoder_is_given_the_identity_beside_each_components_embedding(astronaut):
    assert astronaut.id_embeds.shape == (1, 6, 524)
    for i in range(6):
        assert torch.equal(astronaut.id_embeds[0, i], torch.cat([astronaut.id_embedding, astronaut.vit_embeds[i]]))
    assert not torch.equal(astronaut.vit_embeds[0], astronaut.vit_embeds[1])


def test_a_photo_may_be_an_array_an_image_a_path_or_a_photo(models, astronaut, tmp_path):
    Image.fromarray(photo("astronaut")).save(tmp_path / "me.png")
    path = tmp_path / "me.png"
    for source in (Image.open(path), path, str(path), Photo(path)):
        assert same(models(source, component_map=HAND_MADE), astronaut)
    changed = photo("astronaut").copy()
    changed[140:150, 215:235] = 0  # at the mouth
    assert not same(models(changed, component_map=HAND_MADE), astronaut)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_photo_that_lies_on_its_side_is_set_upright(processor, tmp_path, suffix):
    path, lying = tmp_path / f"upright{suffix}", tmp_path / f"lying{suffix}"
    upright = Image.fromarray(photo("astronaut"))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(path, quality=95)
    upright.transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif, quality=95)
    assert Image.open(lying).getexif()[0x0112] == 6
    read = processor(vision=None)
    with pytest.raises(ValueError, match="No face was found"):  # the detector knows no lying faces
        read(np.asarray(Image.open(lying)))
    features, expected = read(lying, component_map=HAND_MADE), read(path, component_map=HAND_MADE)
    np.testing.assert_array_equal(features.component_map, expected.component_map)
    difference = np.abs(features.aligned.astype(int) - expected.aligned)
    assert difference.mean() < (0.01 if suffix == ".png" else 2)
    if suffix == ".png":
        assert same(features, expected)


def test_a_photo_that_is_scaled_down_takes_a_map_of_its_own_size(processor, monkeypatch):
    read = processor(vision=None, recognizer=None)
    large = np.repeat(np.repeat(photo("astronaut"), 2, axis=0), 2, axis=1)
    classes = np.asarray(Image.open(HAND_MADE)).repeat(2, axis=0).repeat(2, axis=1)
    whole = read(large, component_map=classes)
    monkeypatch.setattr("lavieid_adapters.faces.photo.MAX_SIDE", 500)
    small = read(large, component_map=classes)
    assert whole.landmarks.max() > 250 > small.landmarks.max()
    assert (small.component_map == whole.component_map).mean() > 0.97
    assert np.abs(small.aligned.astype(int) - whole.aligned).mean() < 6
    with pytest.raises(ValueError, match=r"the photo is \(1024, 1024\)"):
        read(large, component_map=classes[::2, ::2])


def test_grey_components_are_read_where_the_encoder_needs_them(processor, astronaut):
    grey = processor(grayscale=True)(photo("astronaut"), component_map=HAND_MADE)
    assert np.ptp(astronaut.component_images.astype(int), axis=-1).max() > 20
    assert np.ptp(grey.component_images.astype(int), axis=-1).max() == 0
    assert not torch.allclose(grey.vit_embeds, astronaut.vit_embeds, atol=0.01)
    np.testing.assert_array_equal(grey.aligned, astronaut.aligned)
    assert torch.equal(grey.id_embedding, astronaut.id_embedding)


# which face


def test_of_several_faces_one_must_be_named(models):
    with pytest.raises(ValueError, match="shows 6 faces: say face_index, or 'largest'") as caught:
        models(photo("t1"))
    _, *lines = str(caught.value).splitlines()
    assert len(lines) == 6
    for i, (line, face) in enumerate(zip(lines, FACES["t1"], strict=True)):
        left, top, right, bottom = map(round, face.box)
        assert line.strip() == (
            f"{i}: left {left}, top {top}, right {right}, bottom {bottom} ({right - left} × {bottom - top} pixels)"
        )


@pytest.mark.parametrize("index", [0, 3, 5, np.int64(2)])
def test_faces_are_numbered_from_left_to_right(processor, index):
    features = processor(parser=Parser(STRIPES), vision=None)(photo("t1"), face_index=index)
    assert features.face_index == index and type(features.face_index) is int
    np.testing.assert_allclose(features.landmarks, FACES["t1"][index].landmarks, atol=0.01)
    np.testing.assert_allclose(features.boxes, [face.box for face in FACES["t1"]], atol=0.01)
    assert repr(features).startswith(f"FaceFeatures(face {index}, score 0.90, of 6 found")


def test_faces_have_different_features(processor):
    read = processor(parser=Parser(STRIPES))
    one, other = (read(photo("t1"), face_index=i) for i in (0, 1))
    assert not np.array_equal(one.aligned, other.aligned)
    assert not torch.allclose(one.id_embedding, other.id_embedding, atol=0.01)
    assert not torch.allclose(one.vit_embeds, other.vit_embeds, atol=0.01)


def test_the_largest_face_can_be_asked_for(processor):
    features = processor(parser=Parser(STRIPES), vision=None)(photo("t1"), face_index="largest")
    sizes = [(right - left) * (bottom - top) for left, top, right, bottom in (face.box for face in FACES["t1"])]
    assert features.face_index == sizes.index(max(sizes)) != 0


@pytest.mark.parametrize("index", [6, -1, np.int64(9)], ids=repr)
def test_a_face_that_is_not_there_is_an_error_that_lists_the_faces(processor, index):
    with pytest.raises(ValueError, match="but the faces of this ndarray are:") as caught:
        processor(parser=Parser(STRIPES), vision=None)(photo("t1"), face_index=index)
    message = str(caught.value)
    assert message.startswith(f"face_index is {index!r}") and "\n  5: left 1134, top 268" in message


@pytest.mark.parametrize("index", ["biggest", "1", "", 1.5, 0.0, True, (1,)], ids=repr)
def test_an_index_that_is_no_number_is_an_error_before_the_photo_is_opened(processor, index):
    read = processor(parser=Parser(STRIPES), vision=None)
    for source in (photo("t1"), photo("astronaut"), "there is no such file.png"):
        with pytest.raises((ValueError, TypeError)) as caught:
            read(source, face_index=index)
        assert str(caught.value) == f"face_index is {index!r}, but must be a whole number, 'largest' or None."


def test_of_one_face_only_the_first_can_be_asked_for(processor):
    read = processor(vision=None)
    assert read(photo("astronaut"), face_index=0, component_map=HAND_MADE).face_index == 0
    assert read(photo("astronaut"), face_index="largest", component_map=HAND_MADE).face_index == 0
    with pytest.raises(ValueError, match=r"face_index is 1, but the faces of this ndarray are:\n  0: left 181"):
        read(photo("astronaut"), face_index=1, component_map=HAND_MADE)


def test_a_small_face_is_refused_unless_it_may_be_small(processor):
    quarter = Image.fromarray(photo("astronaut")).resize((128, 128), Image.Resampling.BOX)
    quarter = np.asarray(quarter)
    read = processor(parser=Parser(STRIPES), vision=None)
    with pytest.raises(
        ValueError, match=r"\((21|22|23) × (27|28) pixels\) is smaller than 64 pixels: use a closer photo"
    ):
        read(quarter)
    features = processor(parser=Parser(STRIPES), vision=None, min_face=16)(quarter)
    np.testing.assert_allclose(features.landmarks, np.array(ASTRONAUT.landmarks) / 4, atol=1)
    with pytest.raises(ValueError, match="smaller than 100 pixels"):
        processor(parser=Parser(STRIPES), vision=None, min_face=100)(photo("astronaut"))


def test_the_second_detector_is_asked_only_when_the_first_finds_nothing(processor):
    second = Detector(*known())
    read = processor(detectors=(processor().detectors[0], second), vision=None)
    assert read(photo("astronaut"), component_map=HAND_MADE).score == pytest.approx(0.9, abs=1e-3)
    assert not second.images
    blind = Detector()
    features = processor(detectors=(blind, second), vision=None)(photo("astronaut"), component_map=HAND_MADE)
    assert len(blind.images) == len(second.images) == 1
    np.testing.assert_allclose(features.landmarks, ASTRONAUT.landmarks)
    np.testing.assert_array_equal(blind.images[0], photo("astronaut"))  # RGB


def test_retinaface_finds_what_insightface_does_not(models):
    with pytest.raises(ValueError, match=r"shows \d+ faces"):
        models(drawing(320, 320))
    (face, *_) = models.detect(drawing(320, 320))
    np.testing.assert_allclose(face.box[2:] - face.box[:2], 512, rtol=0.01)


# no face


def test_no_face_is_an_error_that_says_what_to_do(processor):
    with pytest.raises(ValueError, match=r"No face was found in this ndarray: .*on_no_face='whole_image'"):
        processor()(drawing(), component_map=np.ones((200, 300), np.uint8))


@pytest.mark.parametrize("value", ["ignore", None, True])
def test_what_happens_without_a_face_is_one_of_two(processor, value):
    with pytest.raises(ValueError, match=f"on_no_face is {value!r}, but must be 'raise' or 'whole_image'"):
        processor()(photo("astronaut"), on_no_face=value)
    with pytest.raises(ValueError, match=f"on_no_face is {value!r}"):
        processor()("there is no such file.png", on_no_face=value)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (1000, 1000), (64, 640)], ids=str)
def test_a_drawing_is_taken_as_a_whole_on_grey(processor, size):
    picture = drawing(*size)
    features = processor(parser=Parser(STRIPES[:, None]))(picture, on_no_face="whole_image")
    assert (features.aligned.shape, features.aligned.dtype) == ((512, 512, 3), np.uint8)
    assert (features.face_index, features.landmarks, features.score) == (None, None, None)
    assert features.boxes.shape == (0, 4)
    assert repr(features).startswith("FaceFeatures(the whole image, of 0 found")
    inside = warp_map(np.ones(picture.shape[:2], np.uint8), features.matrix, (512, 512)) == 1
    scale = 512 / max(size)
    assert inside.sum() == pytest.approx(round(size[0] * scale) * round(size[1] * scale), rel=0.01)
    assert all((inside != np.flip(inside, axis)).sum() <= 2 * 512 for axis in (0, 1))  # in the middle
    assert not features.component_map[~inside].any() and features.component_map[inside].any()
    if not inside.all():
        assert len(np.unique(features.aligned[~inside], axis=0)) == 1
    for x, y in ((0, 0), (size[0] // 3, size[1] // 2), (size[0] - 1, size[1] - 1)):
        a, b = np.clip(np.round(features.matrix @ (x, y, 1)).astype(int), 0, 511)
        np.testing.assert_allclose(features.aligned[b, a].astype(int), picture[y, x].astype(int), atol=12)


def test_of_a_whole_image_the_recognizer_is_given_all_of_it(processor, models):
    features = processor(parser=Parser(STRIPES))(drawing(), on_no_face="whole_image")
    expected = models.recognizer.embed(features.aligned, None)
    torch.testing.assert_close(features.id_embedding, torch.from_numpy(expected))
    assert (features.vit_embeds.norm(dim=-1) > 0.99).all()


def test_beside_a_whole_image_lies_the_grey_of_the_aligner(processor):
    beside = processor(parser=Parser(STRIPES), vision=None)(drawing(), on_no_face="whole_image").aligned[0, 0]
    aligned, _ = FaceAligner().align(drawing(), FFHQ_LANDMARKS + 1000)
    assert np.unique(aligned.reshape(-1, 3), axis=0).tolist() == [beside.tolist()]


def test_a_whole_image_takes_a_component_map(processor):
    classes = np.zeros((200, 300), np.uint8)
    classes[50:150, 60:120], classes[50:150, 180:240] = 6, 2
    features = processor(vision=None)(drawing(), on_no_face="whole_image", component_map=classes)
    assert set(features.hidden) == set(FACIAL_COMPONENTS) - {"eyes", "hair"}
    scale = 512 / 300
    for value, left in ((6, 60), (2, 180)):
        rows, columns = np.nonzero(features.component_map == value)
        assert columns.min() == pytest.approx(left * scale, abs=1.5)
        assert columns.max() == pytest.approx((left + 60) * scale, abs=1.5)
        assert rows.min() == pytest.approx(85 + 50 * scale, abs=1.5)


def test_where_there_is_a_face_it_is_taken_and_not_the_whole_image(processor, astronaut):
    assert same(processor()(photo("astronaut"), on_no_face="whole_image", component_map=HAND_MADE), astronaut)


def test_without_detectors_there_is_only_the_whole_image(processor):
    read = processor(detectors=(), vision=None, parser=Parser(STRIPES))
    with pytest.raises(ValueError, match="No face was found"):
        read(photo("astronaut"))
    features = read(photo("astronaut"), on_no_face="whole_image")
    np.testing.assert_array_equal(features.aligned, photo("astronaut"))
    np.testing.assert_allclose(features.matrix, [[1, 0, 0], [0, 1, 0]])


# what is hidden


def test_beyond_the_photo_there_are_no_components(processor):
    """The left half of the face is cut off."""
    cut, shift = photo("astronaut")[:, 224:], (224, 0)
    read = processor(detectors=(Detector(*known(shift=shift)),), parser=Parser(STRIPES[:, None]), recognizer=None)
    features = read(cut)
    inside = warp_map(np.ones(cut.shape[:2], np.uint8), features.matrix, (512, 512)) == 1
    assert not inside[:, :200].any() and inside[:, 300:].any()
    np.testing.assert_array_equal(features.component_map, np.where(inside, STRIPES[:, None], 0))
    assert features.landmarks[0, 0] < 0 and features.boxes[0, 0] < 0
    whole = processor(detectors=(Detector(*known()),), parser=Parser(STRIPES[:, None]), recognizer=None)(
        photo("astronaut")
    )
    assert (whole.component_map == STRIPES[:, None]).mean() > 0.99
    by_map = read(cut, component_map=np.asarray(Image.open(HAND_MADE))[:, 224:])
    assert not by_map.component_map[~inside].any() and by_map.component_map[inside].any()


def test_a_component_beyond_the_photo_is_hidden(processor):
    """The parser sees six columns, of which the photo's border hides the left ones."""
    cut, shift = photo("astronaut")[:, 224:], (224, 0)
    read = processor(detectors=(Detector(*known(shift=shift)),), parser=Parser(STRIPES), recognizer=None)
    assert list(read(cut).hidden) == ["eyebrows", "eyes"]


def test_hidden_components_have_reasons_white_images_and_no_features(processor):
    classes = np.asarray(Image.open(HAND_MADE)).copy()
    classes[classes == 6] = 0
    classes[classes == 2] = 0
    classes[102, 203:205] = 2
    features = processor()(photo("astronaut"), component_map=classes)
    assert list(features.hidden) == ["eyes", "hair"]
    assert features.hidden["hair"] == "not in the photo"
    assert features.hidden["eyes"].startswith("too small") and "0.050%" in features.hidden["eyes"]
    assert features.mask.tolist() == [True, False, True, True, True, False]
    hidden = ~features.mask
    assert (features.component_images[hidden] == 255).all()
    for values in (features.vit_embeds, *features.vit_hidden_states):
        assert not values[hidden].any() and values[features.mask].flatten(1).any(1).all()
    assert "hidden: eyes (too small" in repr(features) and "hair (not in the photo)" in repr(features)


def test_a_hidden_component_changes_nothing_about_the_others(processor, astronaut):
    classes = np.asarray(Image.open(HAND_MADE)).copy()
    classes[classes == 1] = 0
    features = processor()(photo("astronaut"), component_map=classes)
    assert list(features.hidden) == ["eyebrows"]
    np.testing.assert_array_equal(features.component_images[1:], astronaut.component_images[1:])
    torch.testing.assert_close(features.vit_embeds[1:], astronaut.vit_embeds[1:])
    torch.testing.assert_close(features.vit_hidden_states[4][1:], astronaut.vit_hidden_states[4][1:])


def test_how_small_a_component_may_be_is_a_setting(processor):
    classes = np.asarray(Image.open(HAND_MADE)).copy()
    classes[classes == 2] = 0
    classes[102, 203:205] = 2
    hidden = [
        processor(min_area=share, vision=None)(photo("astronaut"), component_map=classes).hidden for share in (0, 0.1)
    ]
    assert list(hidden[0]) == [] and {"eyes", "eyebrows", "nose"} <= set(hidden[1])


@pytest.mark.parametrize("by", ["component_map", "parser"])
def test_a_photo_without_any_component_is_an_error(processor, by):
    read = processor(parser=Parser(0))
    classes = np.zeros((512, 512), np.uint8) if by == "component_map" else None
    with pytest.raises(ValueError, match="this ndarray shows none of the facial components"):
        read(photo("astronaut"), component_map=classes)


# parts


def test_each_part_may_be_an_object_with_its_one_method():
    class Recognizer:
        def embed(self, image, landmarks):
            return np.arange(512) + (0 if landmarks is None else landmarks[0, 0])

    class Aligner:
        def align(self, image, landmarks):
            return np.full((512, 512, 3), 9, np.uint8), np.array([[1.0, 0, 0], [0, 1, 0]])

    class Vision:
        image_size = 20

        def encode(self, images):
            assert images.shape[1:] == (20, 20, 3) and images.dtype == np.uint8
            return torch.ones(len(images), 3) / 3**0.5, [torch.ones(len(images), 2, 7)] * 4

    parts = (Detector(*known()),), Recognizer(), Aligner(), Parser(STRIPES), Vision()
    features = FaceProcessor(*parts)(photo("astronaut"))
    assert (features.aligned == 9).all()
    np.testing.assert_array_equal(features.component_map, np.broadcast_to(STRIPES, (512, 512)))
    assert (
        torch.equal(features.id_embedding, torch.arange(512) + 203.0) and features.id_embedding.dtype == torch.float32
    )
    assert features.component_images.shape == (6, 20, 20, 3)
    assert features.vit_embeds.shape == (6, 3) and len(features.vit_hidden_states) == 4
    assert features.id_embeds.shape == (1, 6, 515)
    assert FaceProcessor(*parts)(drawing(512, 512), on_no_face="whole_image").score == 0.9
    assert FaceProcessor((), *parts[1:])(drawing(), on_no_face="whole_image").id_embedding[0] == 0


def test_of_a_hidden_component_the_vision_model_is_not_asked():
    class Vision:
        image_size, seen = 20, 0

        def encode(self, images):
            self.seen += len(images)
            return torch.ones(len(images), 1), [torch.ones(len(images), 2, 7)]

    vision = Vision()
    FaceProcessor((Detector(*known()),), parser=Parser(STRIPES % 5), vision=vision)(photo("astronaut"))
    assert vision.seen == 4


def test_the_recognizer_and_the_vision_model_may_be_left_out(processor):
    features = processor(recognizer=None, vision=None)(photo("astronaut"), component_map=HAND_MADE)
    assert (features.id_embedding, features.vit_embeds, features.vit_hidden_states) == (None, None, None)
    assert features.component_images.shape == (6, 512, 512, 3)


def test_without_a_parser_each_photo_needs_a_component_map(processor, astronaut):
    read = processor(parser=None)
    with pytest.raises(ValueError, match="has no parser: give a component_map with the photo"):
        read("there is no such file.png")
    assert same(read(photo("astronaut"), component_map=HAND_MADE), astronaut)


def test_with_a_component_map_the_parser_is_not_asked(processor):
    class Broken:
        def parse(self, aligned):
            raise AssertionError

    processor(parser=Broken(), vision=None)(photo("astronaut"), component_map=HAND_MADE)
    with pytest.raises(AssertionError):
        processor(parser=Broken(), vision=None)(photo("astronaut"))


def test_models_given_to_from_pretrained_take_the_place_of_its_own(face_models):
    detector = Detector(*known())
    read = FaceProcessor.from_pretrained(
        "no such pack", detectors=(detector,), recognizer=None, parser=None, vision=None, min_face=10
    )
    assert read.parts == [detector, read.aligner] and read.min_face == 10
    assert read(photo("astronaut"), component_map=HAND_MADE).score == pytest.approx(0.9)


@pytest.mark.parametrize("offload", [False, True])
def test_every_part_that_can_be_placed_is_placed(processor, offload):
    class Placed(Detector, Parser):
        def __init__(self):
            self.at = []

        def embed(self, image, landmarks):
            raise AssertionError

        def place(self, device, offload=False):
            self.at.append((device, offload))

    first, parser, recognizer = Placed(), Placed(), Placed()
    read = processor(detectors=(first, Detector()), recognizer=recognizer, parser=parser, vision=None)
    assert not first.at
    assert read.to("cuda:1", offload) is read
    assert first.at == parser.at == recognizer.at == [(torch.device("cuda:1"), offload)]
    read = processor(detectors=(first,), recognizer=first, parser=parser, vision=None)
    read.to("cpu")
    assert len(first.at) == 2  # one part in two roles is placed once


def test_models_are_placed_where_from_pretrained_says(face_models):
    read = FaceProcessor.from_pretrained(face_models.pack, face_models.clip, device="meta")
    assert {part.device.type for part in read.parts if hasattr(part, "device")} == {"meta"}


def test_the_fingerprint_tells_models_and_settings_apart(models, processor, face_models):
    again = FaceProcessor.from_pretrained(face_models.pack, face_models.clip, weights_dir=face_models.weights)
    assert isinstance(models.fingerprint, str) and again.fingerprint == models.fingerprint
    others = [
        FaceProcessor.from_pretrained(face_models.pack, face_models.eva, weights_dir=face_models.weights),
        processor(),
        processor(grayscale=True),
        processor(min_face=16),
        processor(min_area=0.01),
        processor(vision=None),
        processor(recognizer=None, detectors=()),
    ]
    prints = [models.fingerprint, *(other.fingerprint for other in others)]
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_tells_which_part_does_what():
    class Both(Detector):
        def __init__(self, name):
            super().__init__()
            self.fingerprint = name

        def embed(self, image, landmarks):
            raise AssertionError

    a, b = Both("a"), Both("b")
    assert FaceProcessor((a, b), recognizer=a).fingerprint != FaceProcessor((b, a), recognizer=a).fingerprint
    assert FaceProcessor((a, b), recognizer=a).fingerprint != FaceProcessor((a, b), recognizer=b).fingerprint


def test_with_a_part_that_cannot_be_told_apart_there_is_no_fingerprint(processor):
    assert processor().fingerprint is not None
    assert processor(parser=Parser(STRIPES)).fingerprint is None
    assert processor(detectors=(Detector(),)).fingerprint is None


# what it is made of


SETTINGS = [
    ({"min_face": "64"}, TypeError, "min_face is '64' .*must be a number"),
    ({"min_face": True}, TypeError, "min_face is True .*must be a number"),
    ({"min_face": -1}, ValueError, "min_face is -1, but must be 0 or more"),
    ({"min_face": float("nan")}, ValueError, "min_face is nan, but must be a finite number"),
    ({"min_area": None}, TypeError, "min_area is None .*must be a number"),
    ({"min_area": 5}, ValueError, "min_area is 5, but must be a share, 0 to 1"),
    ({"min_area": -0.1}, ValueError, "min_area is -0.1, but must be a share, 0 to 1"),
    ({"grayscale": "no"}, TypeError, "grayscale is 'no' .*must be True or False"),
    ({"grayscale": 0}, TypeError, "grayscale is 0 .*must be True or False"),
    ({"detectors": Detector()}, TypeError, "detectors is <.*Detector.*>, but must be a sequence"),
    ({"detectors": "insightface"}, TypeError, "detectors is 'insightface', but must be a sequence"),
    ({"detectors": [Detector(), None]}, TypeError, "detectors takes an object with detect, but got None"),
    ({"detectors": [Parser(0)]}, TypeError, "detectors takes an object with detect, but got <.*Parser"),
    ({"recognizer": Parser(0)}, TypeError, "recognizer takes an object with embed, but got <.*Parser"),
    ({"aligner": Detector()}, TypeError, "aligner takes an object with align, but got <.*Detector"),
    ({"parser": Parser}, TypeError, "parser takes an object with parse, but got <class"),
    ({"vision": "openai/clip"}, TypeError, "vision takes an object with image_size and encode, but got 'openai/clip'"),
]


@pytest.mark.parametrize(("setting", "error", "message"), SETTINGS, ids=[str(*setting) for setting, *_ in SETTINGS])
def test_parts_and_settings_are_checked_where_they_are_set(setting, error, message):
    with pytest.raises(error, match=message):
        FaceProcessor(**{"detectors": (), **setting})
    face = FaceProcessor(())
    ((name, value),) = setting.items()
    before = getattr(face, name)
    with pytest.raises(error, match=message):
        setattr(face, name, value)
    assert getattr(face, name) is before


def test_settings_may_be_changed_later(processor):
    read = processor(vision=None)
    features = read(photo("astronaut"), component_map=HAND_MADE)
    read.min_face = 100
    with pytest.raises(ValueError, match="smaller than 100 pixels"):
        read(photo("astronaut"), component_map=HAND_MADE)
    read.min_face, read.grayscale, read.recognizer = 64, True, None
    grey = read(photo("astronaut"), component_map=HAND_MADE)
    assert grey.id_embedding is None and features.id_embedding is not None
    assert not np.array_equal(grey.component_images, features.component_images)


# what the parts give


@pytest.mark.parametrize(
    ("part", "gives", "message"),
    [
        ("recognizer", np.full(512, np.nan, np.float32), "with 512 values that are not finite"),
        ("recognizer", np.zeros((1, 512), np.float32), r"embedding of shape \(1, 512\)"),
        ("parser", np.full((512, 512), 17), r"CELEBAMASK_TO_COMPONENT"),
        ("parser", np.ones((256, 256), np.uint8), r"\(256, 256\)"),
        ("parser", torch.ones(512, 512, dtype=torch.uint8), "must be an image or an array of integers"),
    ],
)  # fmt: skip
def test_what_a_part_of_the_users_gives_is_checked(face_models, part, gives, message):
    class Part:
        def embed(self, image, landmarks):
            return gives

        def parse(self, aligned):
            return gives

    parts = {"recognizer": None, "vision": None, part: Part()}
    face = FaceProcessor.from_pretrained(face_models.pack, weights_dir=face_models.weights, **parts)
    with pytest.raises((ValueError, TypeError), match=message):
        face(photo("astronaut"))


def test_no_part_builds_a_graph(face_models):
    modes = []

    class Recognizer:
        def embed(self, image, landmarks):
            modes.append(torch.is_grad_enabled())
            return torch.ones(512)

    class Vision:
        image_size = 28

        def encode(self, images):
            modes.append(torch.is_grad_enabled())
            return torch.ones(len(images), 8), [torch.ones(len(images), 5, 16)]

    parts = {"recognizer": Recognizer(), "vision": Vision()}
    FaceProcessor.from_pretrained(face_models.pack, weights_dir=face_models.weights, **parts)(photo("astronaut"))
    assert modes == [False, False]


def test_a_fallback_that_cannot_be_had_does_not_stop_the_answer(face_models, tmp_path, caplog):
    face = FaceProcessor.from_pretrained(face_models.pack, weights_dir=tmp_path, recognizer=None, vision=None)
    face.parser = FaceProcessor.from_pretrained(weights_dir=face_models.weights).parser
    with pytest.raises(ValueError, match="No face was found"):
        face(np.zeros((100, 100, 3), np.uint8))
    assert "RetinaFace was not asked" in caplog.text and "detection_Resnet50_Final.pth" in caplog.text
    with pytest.raises(OSError, match=r"detection_Resnet50_Final\.pth"):  # where nothing else has looked
        FaceProcessor(face.detectors[1:], parser=face.parser)(photo("astronaut"))


def test_nothing_is_read_until_it_is_used(tmp_path):
    missing = tmp_path / "missing"
    processor = FaceProcessor.from_pretrained("antelopev2", missing / "clip", weights_dir=missing, cache_dir=missing)
    processor.to("cpu", offload=True)
    assert len(processor.parts) == 5  # detection and recognition are one
    assert not missing.exists()
    with pytest.raises(OSError, match="missing"):
        processor(photo("astronaut"))

"""Pictures of what is seen of a face."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.tiny_face import FACES, HAND_MADE, photo

pytest.importorskip("skimage")
pytest.importorskip("insightface")
pytest.importorskip("facexlib")

from lavieid_adapters import FACIAL_COMPONENTS, DetectedFace, FaceFeatures, FaceProcessor
from lavieid_adapters.faces.components import PALETTE
from lavieid_adapters.faces.photo import Photo
from lavieid_adapters.visualize.overlays import component_overlay

HEIGHT, MARGIN, FACE, ROW = 640, 24, 320, 38  # of the photo, around everything, the aligned face, a row of the legend


class Known:
    """Finds the faces that it was told, and parses an oval of skin with hair above it."""

    def __init__(self, name: str | None):
        self.faces = FACES.get(name, [])

    def detect(self, image):
        return [DetectedFace(np.array(face.box), 0.87, np.array(face.landmarks)) for face in self.faces]

    def parse(self, aligned):
        rows, columns = np.mgrid[:512, :512]
        skin = ((columns - 256) / 140) ** 2 + ((rows - 290) / 190) ** 2 < 1
        return np.where(rows < 130, 6, np.where(skin, 5, 0)).astype(np.uint8)


def read(name: str | None, image: np.ndarray | None = None, **options) -> tuple[np.ndarray, FaceFeatures]:
    image, known = photo(name) if image is None else image, Known(name)
    return image, FaceProcessor((known,), parser=known)(image, **options)


def drawn(image: np.ndarray, features: FaceFeatures) -> tuple[np.ndarray, ...]:
    """The photo, the aligned face, and the legend of a picture, as numbers."""
    picture = component_overlay(image, features)
    assert picture.mode == "RGB"
    width = round(image.shape[1] * HEIGHT / image.shape[0])
    assert picture.size == (width + FACE + 3 * MARGIN, HEIGHT + 2 * MARGIN)
    pixels = np.asarray(picture).astype(int)
    column = width + 2 * MARGIN
    parts = (
        pixels[MARGIN : MARGIN + HEIGHT, MARGIN : MARGIN + width],
        pixels[MARGIN : MARGIN + FACE, column : column + FACE],
        pixels[2 * MARGIN + FACE : MARGIN + HEIGHT, column : column + FACE],
    )
    outside = pixels.copy()
    outside[MARGIN:-MARGIN, MARGIN : MARGIN + width] = outside[MARGIN:-MARGIN, column : column + FACE] = 255
    assert (outside == 255).all()
    return parts


@pytest.fixture(scope="module")
def astronaut():
    return read("astronaut", component_map=HAND_MADE)


@pytest.fixture(scope="module")
def friends():
    return read("t1", face_index=2)


def test_each_component_has_its_colour_where_the_map_says(astronaut):
    image, features = astronaut
    bare = replace(features, component_map=np.zeros_like(features.component_map))
    (photo_with, face_with, _), (photo_without, face_without, _) = drawn(image, features), drawn(image, bare)
    classes = np.asarray(Image.open(HAND_MADE))
    for value, colour in enumerate(PALETTE):
        for shown, with_it, without in (
            (classes == value, photo_with, photo_without),
            (features.component_map == value, face_with, face_without),
        ):
            height, width = with_it.shape[:2]
            # Where the resized mask is whole, no other class is mixed in.
            mask = (
                np.asarray(Image.fromarray(shown.astype(np.float32)).resize((width, height), Image.Resampling.BOX)) == 1
            )
            inner = mask[1:-1, 1:-1].copy()
            for y in (0, 1, 2):
                for x in (0, 1, 2):
                    inner &= mask[y : y + inner.shape[0], x : x + inner.shape[1]]
            assert inner.any() or value == 1  # eyebrows are thin
            found, before = (pixels[1:-1, 1:-1][inner] for pixels in (with_it, without))
            box = (before == 255).all(-1)  # the box is drawn over it
            expected = before if value == 0 else (before + colour) / 2
            close = (np.abs(found - expected) <= 24).all(-1) | box
            assert close.mean() > 0.95, (value, close.mean())
            if value:
                assert (np.abs(found - before).max(-1) > 8).mean() > 0.8


def test_of_several_faces_the_chosen_one_has_the_white_box(friends):
    image, features = friends
    pixels, *_ = drawn(image, features)
    bare, *_ = drawn(image, replace(features, boxes=features.boxes[:0]))
    scale = HEIGHT / image.shape[0]
    assert len(features.boxes) == 6
    for i, box in enumerate(features.boxes):
        left, top, right, bottom = (box * scale).round().astype(int)
        edges = [(left, (top + bottom) // 2), (right - 1, (top + bottom) // 2), ((left + right) // 2, bottom - 1)]
        for x, y in edges:
            around = pixels[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
            before = bare[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
            white, before = ((part == 255).all(-1).sum() for part in (around, before))
            assert (white >= 10 if i == 2 else 10 > white >= 5) and before < 5
    other, *_ = drawn(image, replace(features, face_index=4))
    changed = (pixels != other).any(-1)
    columns = np.flatnonzero(changed.any(0))
    boxes = np.round(features.boxes[[2, 4]] * scale)
    assert columns.min() >= boxes[:, 0].min() - 3 and columns.max() <= boxes[:, 2].max() + 3


def test_faces_are_numbered_when_there_are_several(friends, astronaut):
    image, features = friends
    pixels, *_ = drawn(image, features)
    scale = HEIGHT / image.shape[0]
    left, top, *_ = (features.boxes[0] * scale).round().astype(int)
    number = np.s_[top + 6 : top + 28, left + 5 : left + 20]
    bare, *_ = drawn(image, replace(features, boxes=features.boxes[:0]))
    assert (pixels[number] == 255).all(-1).sum() > 10 > (bare[number] == 255).all(-1).sum()
    image, features = astronaut
    left, top, *_ = np.round(features.boxes[0] * HEIGHT / image.shape[0]).astype(int)
    alone, *_ = drawn(image, features)
    without, *_ = drawn(image, replace(features, boxes=features.boxes[:0]))
    inside = np.s_[top + 6 : top + 28, left + 5 : left + 20]
    np.testing.assert_array_equal(alone[inside], without[inside])


def test_the_legend_has_every_component_and_says_what_is_hidden(astronaut):
    image, features = astronaut
    *_, legend = drawn(image, features)
    for i in range(6):
        assert legend[i * ROW + 11, 13].tolist() == list(PALETTE[i + 1])
    *_, with_hidden = drawn(image, replace(features, hidden={"hair": "not in the photo", "eyes": "too small"}))
    for i, name in enumerate(FACIAL_COMPONENTS):
        row = np.s_[i * ROW : (i + 1) * ROW]
        if name in ("hair", "eyes"):
            assert (with_hidden[i * ROW + 11, 13] == 255).all()  # an empty box
            assert (legend[row] != with_hidden[row]).any()
        else:
            np.testing.assert_array_equal(legend[row], with_hidden[row])
    np.testing.assert_array_equal(legend[6 * ROW :], with_hidden[6 * ROW :])
    *_, for_other_reasons = drawn(image, replace(features, hidden={"hair": "covered by a hat", "eyes": "too small"}))
    changed = np.flatnonzero((for_other_reasons != with_hidden).any((1, 2)))
    assert changed.size and changed.min() >= 5 * ROW and changed.max() < 6 * ROW


def test_the_longest_reason_fits_into_the_picture(astronaut):
    image, features = astronaut
    long = {name: "too small: 0.049% of the aligned face, under 0.050%" for name in FACIAL_COMPONENTS}
    *_, legend = drawn(image, replace(features, hidden=long))
    assert (legend[: 6 * ROW, -4:] == 255).all() and (legend[: 6 * ROW] != 255).any()


def test_the_confidence_is_told_or_that_there_was_no_face(astronaut):
    image, features = astronaut
    *_, legend = drawn(image, features)
    *_, surer = drawn(image, replace(features, score=0.99))
    *_, whole = drawn(image, replace(features, score=None, face_index=None))
    for one, other in ((legend, surer), (legend, whole), (surer, whole)):
        changed = np.flatnonzero((one != other).any((1, 2)))
        assert changed.size and changed.min() >= 6 * ROW


@pytest.mark.parametrize("size", [(300, 200), (200, 300)], ids=str)
def test_a_whole_image_has_components_and_no_box(size):
    picture = np.random.default_rng(0).integers(60, 120, (*size[::-1], 3), dtype=np.uint8)
    classes = np.zeros(size[::-1], np.uint8)
    classes[:100], classes[100:, :100] = 6, 4
    image, features = read(None, picture, on_no_face="whole_image", component_map=classes)
    pixels, face, _ = drawn(image, features)
    bare = replace(features, component_map=np.zeros_like(features.component_map))
    before, face_before, _ = drawn(image, bare)
    scale = HEIGHT / size[1]
    for (x, y), value in {(size[0] // 2, 40): 6, (50, 150): 4, (150, 150): 0}.items():
        a, b = round(x * scale), round(y * scale)
        expected = before[b, a] if value == 0 else (before[b, a] + PALETTE[value]) / 2
        np.testing.assert_allclose(pixels[b, a], expected, atol=3)
    assert (face != face_before).any()
    assert not (pixels == 255).all(-1).any()


def test_what_lies_beyond_the_photo_is_no_trouble():
    cut = np.ascontiguousarray(photo("astronaut")[:, 224:])
    known = Known("astronaut")
    known.detect = lambda image: [
        DetectedFace(np.array((-43, 68, 46, 178)), 0.9, np.array(FACES["astronaut"][0].landmarks) - (224, 0))
    ]
    features = FaceProcessor((known,), parser=known)(cut)
    pixels, *_ = drawn(cut, features)
    bare, *_ = drawn(cut, replace(features, component_map=np.zeros_like(features.component_map)))
    assert (pixels != bare).any()


def test_the_picture_of_a_panorama_is_not_endless():
    wide = np.tile(photo("astronaut")[60:180], (1, 8, 1))
    image, features = read(None, wide, on_no_face="whole_image")
    assert max(component_overlay(image, features).size) <= 4096


@pytest.mark.parametrize("rotation", [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)], ids=str)
@pytest.mark.parametrize("kind", ["path", "text", "image", "file", "photo"])
def test_a_phones_photo_stands_upright_as_it_was_read(tmp_path, kind, rotation):
    """Its file holds the pixels as the sensor lies, and says how to turn them."""
    upright, path = Image.fromarray(photo("astronaut")[:, 60:]), tmp_path / "phone.png"
    exif = Image.Exif()
    exif[0x0112], turn = rotation
    upright.transpose(turn).save(path, exif=exif)
    known = Known(None)
    known.detect = lambda image: [
        DetectedFace(np.array((121, 68, 210, 178)), 0.9, np.array(FACES["astronaut"][0].landmarks) - (60, 0))
    ]
    features = FaceProcessor((known,), parser=known)(path)
    wanted = np.asarray(component_overlay(np.asarray(upright), features))
    lying = np.asarray(Image.open(path))
    assert not np.array_equal(lying, np.asarray(upright))
    with open(path, "rb") as file:
        given = {"path": path, "text": str(path), "image": Image.open(path), "file": file, "photo": Photo(path)}[kind]
        assert np.array_equal(np.asarray(component_overlay(given, features)), wanted)
    if lying.shape != np.asarray(upright).shape:
        with pytest.raises(ValueError, match=r"has 512 × 452 pixels, but .* read from one of 452 × 512"):
            component_overlay(lying, features)


def test_features_of_an_unknown_photo_are_drawn_over_any(astronaut):
    image, features = astronaut
    assert features.photo_size == (512, 512)
    larger = np.pad(image, ((0, 100), (0, 0), (0, 0)))
    with pytest.raises(ValueError, match="has 512 × 612 pixels, but the features were read from one of 512 × 512"):
        component_overlay(larger, features)
    assert component_overlay(larger, replace(features, photo_size=None)).height == HEIGHT + 2 * MARGIN

"""Which pixel belongs to which facial component: the classes, a user's own map, what is hidden, and the images."""

import numpy as np
import pytest
from PIL import Image
from support.tiny_face import FACES, HAND_MADE

from lavieid_adapters import CELEBAMASK_TO_COMPONENT, FACIAL_COMPONENTS
from lavieid_adapters.faces.components import (
    CELEBAMASK_CLASSES,
    NUM_CLASSES,
    PALETTE,
    component_images,
    hidden_components,
    read_component_map,
    warp_map,
)
from lavieid_adapters.faces.facexlib_models import FaceAligner

SIZE = (8, 6)  # width and height
IDS = (np.arange(48) % 7).astype(np.uint8).reshape(6, 8)


@pytest.fixture(scope="module")
def astronaut() -> tuple[np.ndarray, np.ndarray]:
    """A photo and its component map."""
    photo = pytest.importorskip("skimage").data.astronaut()
    return photo, read_component_map(HAND_MADE, (512, 512))


def palette_image(ids: np.ndarray) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette([value for colour in PALETTE for value in colour])
    return image


def component_of(class_name: str) -> str | None:
    index = CELEBAMASK_TO_COMPONENT[list(CELEBAMASK_CLASSES).index(class_name)]
    return None if index == 0 else FACIAL_COMPONENTS[index - 1]


def test_the_table_of_celebamask_reaches_each_component():
    assert CELEBAMASK_TO_COMPONENT.shape == (19,) and CELEBAMASK_TO_COMPONENT.dtype == np.uint8
    assert set(CELEBAMASK_TO_COMPONENT.tolist()) == set(range(NUM_CLASSES)) == set(range(7))
    for side in ("left", "right"):
        assert (component_of(f"{side} eyebrow"), component_of(f"{side} eye")) == ("eyebrows", "eyes")
    assert [component_of(part) for part in ("inner mouth", "upper lip", "lower lip")] == ["mouth"] * 3
    assert [component_of(part) for part in ("nose", "skin", "hair")] == ["nose", "skin", "hair"]


def test_the_order_of_the_classes_is_celebamasks():
    at = {name: i for i, name in enumerate(CELEBAMASK_CLASSES)}
    known = {
        "background": 0, "skin": 1, "left eyebrow": 2, "right eyebrow": 3, "left eye": 4, "right eye": 5, "glasses": 6,
        "left ear": 7, "right ear": 8, "earring": 9, "nose": 10, "inner mouth": 11, "upper lip": 12, "lower lip": 13,
        "neck": 14, "necklace": 15, "clothes": 16, "hair": 17, "hat": 18,
    }  # fmt: skip
    assert at == known


def test_glasses_are_eyes_ears_are_skin_and_what_is_worn_is_nothing():
    assert component_of("glasses") == "eyes"
    assert component_of("left ear") == component_of("right ear") == "skin"
    for worn in ("background", "hat", "neck", "necklace", "earring", "clothes"):
        assert component_of(worn) is None, worn


def test_the_palette_has_a_colour_for_each_class():
    assert len(set(PALETTE)) == NUM_CLASSES


def test_a_component_map_is_read_from_arrays_images_and_files(tmp_path):
    palette_image(IDS).save(tmp_path / "palette.png")
    Image.fromarray(IDS).save(tmp_path / "grey.png")
    assert (Image.open(tmp_path / "palette.png").mode, Image.open(tmp_path / "grey.png").mode) == ("P", "L")
    for source in (
        IDS, IDS.astype(np.int64), IDS.astype(np.uint16), IDS[:, ::-1][:, ::-1], palette_image(IDS),
        Image.fromarray(IDS), tmp_path / "palette.png", str(tmp_path / "palette.png"), tmp_path / "grey.png",
    ):  # fmt: skip
        component_map = read_component_map(source, SIZE)
        assert component_map.dtype == np.uint8
        np.testing.assert_array_equal(component_map, IDS)


def test_a_mask_is_a_map_of_the_first_component(tmp_path):
    Image.fromarray(IDS == 1).save(tmp_path / "mask.png")
    for source in (IDS == 1, tmp_path / "mask.png"):
        np.testing.assert_array_equal(read_component_map(source, SIZE), IDS == 1)


def test_the_map_of_the_caller_is_not_what_is_returned():
    ids = IDS.copy()
    component_map = read_component_map(ids, SIZE)
    ids[:] = 0
    np.testing.assert_array_equal(component_map, IDS)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Image.new("RGB", SIZE), ValueError, "image of mode RGB, but must be a palette or a grey one"),
        (Image.new("RGBA", SIZE), ValueError, "mode RGBA"),
        (IDS.T, ValueError, r"shape \(8, 6\), but the photo is \(6, 8\) \(height, width\): segment the upright photo"),
        (Image.fromarray(IDS.T.copy()), ValueError, r"shape \(8, 6\), but the photo is \(6, 8\)"),
        (np.dstack([IDS] * 3), ValueError, r"shape \(6, 8, 3\)"),
        (IDS + 1, ValueError, r"classes 7, but 0 is nothing and 1 to 6 are eyebrows, .*CELEBAMASK_TO_COMPONENT\["),
        (IDS.astype(np.int64) - 1, ValueError, "classes -1, but"),
        (np.arange(48, dtype=np.uint8).reshape(6, 8), ValueError, "classes 7, 8, 9, 10, 11, 12, 13, 14, but"),
        (IDS / 6, TypeError, "component_map is float64, but must be an image or an array of integers"),
        ([[0, 1]], TypeError, "component_map is list"),
        (7, TypeError, "component_map is int"),
    ],
)
def test_what_is_no_component_map_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        read_component_map(source, SIZE)


def test_a_map_of_celebamasks_classes_is_refused_until_it_is_translated():
    class_ids = (np.arange(48) % 19).reshape(6, 8)
    with pytest.raises(ValueError, match="CELEBAMASK_TO_COMPONENT"):
        read_component_map(class_ids, SIZE)
    component_map = read_component_map(CELEBAMASK_TO_COMPONENT[class_ids], SIZE)
    assert [int(component_map.ravel()[i]) for i in (1, 6, 17, 18)] == [5, 2, 6, 0]


def test_files_that_hold_no_component_map_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("eyes")
    palette_image(np.kron(IDS, np.ones((50, 50), np.uint8))).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_component_map(tmp_path / "nowhere.png", SIZE)
    with pytest.raises(ValueError, match=r"component_map '.*text\.png' is not an image in one of the formats"):
        read_component_map(tmp_path / "text.png", SIZE)
    assert read_component_map(tmp_path / "whole.png", (400, 300)).shape == (300, 400)
    with pytest.raises(ValueError, match=r"component_map '.*cut\.png'"):
        read_component_map(tmp_path / "cut.png", (400, 300))


def test_hidden_components_have_a_reason(astronaut):
    _, component_map = astronaut
    assert hidden_components(component_map, 0) == {}
    share = float((component_map == 1).mean())
    assert hidden_components(component_map, share) == {}  # as large as it must be
    assert hidden_components(component_map, share * 1.01).keys() == {"eyebrows"}
    without = np.where(component_map == 2, 5, component_map)
    hidden = hidden_components(without, 0.001)
    assert list(hidden) == ["eyebrows", "eyes"]
    assert hidden["eyes"] == "not in the photo"
    assert "too small" in hidden["eyebrows"] and f"{share:.3%}" in hidden["eyebrows"] and "0.100%" in hidden["eyebrows"]
    assert set(hidden_components(np.zeros_like(component_map), 0.001).values()) == {"not in the photo"}
    assert len(hidden_components(np.zeros_like(component_map), 0)) == 6


def test_each_image_shows_its_component_alone_on_white(astronaut):
    photo, component_map = astronaut
    colours = [[0, 0, 0], [200, 90, 60], [60, 200, 90], [90, 60, 200], [200, 200, 60], [60, 90, 90], [90, 90, 60]]
    colours = np.array(colours)
    marked = colours.astype(np.uint8)[component_map]  # a photo in which the colour tells the component
    images = component_images(marked, component_map, {}, 224)
    assert images.shape == (6, 224, 224, 3) and images.dtype == np.uint8
    for i, image in enumerate(images):
        shown = (image < 250).any(-1)
        assert 0.02 < shown.mean() < 0.9, FACIAL_COMPONENTS[i]
        # Between white and its colour, and nothing else: the edges are blended.
        colour = colours[i + 1]
        direction = (255 - colour) / np.linalg.norm(255 - colour)
        off = (255 - image.astype(float)) @ direction
        assert np.abs(255 - image - off[..., None] * direction).max() < 3
        assert (np.abs(image - colour).max(-1) <= 2).mean() > 0.03 * shown.mean()
        # As much as in the map: the part is in a square of 1.1 times its longer side.
        rows, columns = np.nonzero(component_map == i + 1)
        side = 1.1 * max(np.ptp(rows) + 1, np.ptp(columns) + 1)
        assert off.mean() / np.linalg.norm(255 - colour) == pytest.approx(len(rows) / side**2, rel=0.08)
    assert not np.array_equal(component_images(photo, component_map, {}, 224), images)


def test_what_is_around_a_component_does_not_matter(astronaut):
    photo, component_map = astronaut
    images = component_images(photo, component_map, {}, 112)
    for i in range(6):
        others = np.where((component_map == i + 1)[..., None], photo, 0)
        again = component_images(others, component_map, {}, 112)
        np.testing.assert_array_equal(again[i], images[i])
        assert not np.array_equal(again, images)


def test_the_colours_of_an_image_are_those_of_the_photo(astronaut):
    photo, component_map = astronaut
    images = component_images(photo, component_map, {}, 336)
    colours = []
    for i in (3, 4, 5):  # the others are so small that all their pixels are blended with white
        inside = ~(images[i] > 250).all(-1)
        colours.append(np.median(images[i][inside], 0))
        np.testing.assert_allclose(colours[-1], np.median(photo[component_map == i + 1], 0), atol=10)
    assert np.linalg.norm(colours[1] - colours[2]) > 50  # skin is not hair


def test_hidden_components_are_white(astronaut):
    photo, component_map = astronaut
    shown = component_images(photo, component_map, {}, 64)
    images = component_images(photo, component_map, {"eyes": "too small", "hair": "not in the photo"}, 64)
    for i, name in enumerate(FACIAL_COMPONENTS):
        if name in ("eyes", "hair"):
            assert (images[i] == 255).all() and not (shown[i] == 255).all()
        else:
            np.testing.assert_array_equal(images[i], shown[i])


def test_without_colours_the_channels_are_equal(astronaut):
    photo, component_map = astronaut
    coloured, grey = (component_images(photo, component_map, {}, 64, grayscale) for grayscale in (False, True))
    assert np.ptp(coloured.astype(int), axis=-1).max() > 30
    assert np.ptp(grey.astype(int), axis=-1).max() == 0
    luma = coloured @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - luma).mean() < 2
    assert photo.flags.writeable and np.ptp(photo.astype(int), axis=-1).max() > 30  # the caller's is as it was


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10), (100, 100), (1, 60), (1, 1)])
def test_a_component_keeps_its_shape_in_the_middle_of_a_square(height, width):
    component_map = np.zeros((256, 256), np.uint8)
    component_map[20 : 20 + height, 40 : 40 + width] = 4
    black = np.zeros((256, 256, 3), np.uint8)
    dark = component_images(black, component_map, hidden_components(component_map, 0), 220)[3, ..., 0] < 128
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    longest = max(height, width)
    assert len(rows) == pytest.approx(200 * height / longest, abs=2 + 220 / longest * 0.6)
    assert len(columns) == pytest.approx(200 * width / longest, abs=2 + 220 / longest * 0.6)
    for at in (rows, columns):
        assert at.mean() == pytest.approx(109.5, abs=1 + 220 / longest)


def test_a_map_is_turned_and_turned_back_without_new_classes(astronaut):
    _, component_map = astronaut
    angle = np.deg2rad(20)
    matrix = np.array([[np.cos(angle), np.sin(angle), -60], [-np.sin(angle), np.cos(angle), 90]])
    turned = warp_map(component_map, matrix, (600, 500))
    assert turned.shape == (500, 600) and set(np.unique(turned)) <= set(range(NUM_CLASSES))
    back = warp_map(turned, matrix, (512, 512), inverse=True)
    assert (turned[:500, :512] != component_map[:500]).mean() > 0.02
    assert (back != component_map).mean() < 0.005
    moved = warp_map(component_map, np.array([[1.0, 0, 3], [0, 1, 5]]), (512, 512))
    np.testing.assert_array_equal(moved[5:, 3:], component_map[:-5, :-3])
    assert not moved[:5].any() and not moved[:, :3].any()


def test_a_map_is_warped_by_whole_classes_there_and_back(astronaut):
    pytest.importorskip("cv2")
    hand_made = astronaut[1]
    _, matrix = FaceAligner().align(astronaut[0], np.array(FACES["astronaut"][0].landmarks))
    there = warp_map(hand_made, matrix, (512, 512))
    assert not np.array_equal(there, hand_made)
    for x, y in ((203, 102), (224, 128), (224, 150)):  # an eye, the nose, the mouth
        a, b = np.round(matrix @ (x, y, 1)).astype(int)
        assert there[b, a] == hand_made[y, x] != 0
    assert set(np.unique(there)) <= set(range(7))
    back = warp_map(there, matrix, (512, 512), inverse=True)
    inside = warp_map(np.ones((512, 512), np.uint8), matrix, (512, 512), inverse=True) == 1
    assert 0.1 < inside.mean() < 0.5
    assert (back == hand_made)[inside].mean() > 0.99
    assert not back[~inside].any()


def test_a_map_is_warped_into_the_size_that_is_asked_for():
    class_ids = np.full((40, 30), 3, np.uint8)
    moved = warp_map(class_ids, np.array([[1.0, 0, 10], [0, 1, 5]]), (60, 50))
    assert moved.shape == (50, 60)
    assert (moved[5:45, 10:40] == 3).all() and np.count_nonzero(moved) == class_ids.size
    again = warp_map(moved, np.array([[1.0, 0, 10], [0, 1, 5]]), (30, 40), inverse=True)
    np.testing.assert_array_equal(again, class_ids)


def test_component_maps_take_the_door_of_photos(tmp_path):
    classes = Image.fromarray(np.ones((40, 60), np.uint8))
    classes.save(tmp_path / "map.eps")
    with pytest.raises(ValueError, match=r"component_map '.*map\.eps' is not an image in one of the formats"):
        read_component_map(tmp_path / "map.eps", (60, 40))
    with pytest.raises(ValueError, match="component_map is a file in the format EPS"):
        image = Image.open(tmp_path / "map.eps")
        image._mode = "L"  # as those of grey have it
        read_component_map(image, (60, 40))
    classes.save(tmp_path / "map.png")
    assert read_component_map(Image.open(tmp_path / "map.png"), (60, 40)).all()
    (tmp_path / "cut.png").write_bytes((tmp_path / "map.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"component_map cannot be decoded \(.*save it again"):
        read_component_map(Image.open(tmp_path / "cut.png"), (60, 40))

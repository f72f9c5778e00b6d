"""Image files that are opened by their header first, and refused by name before pixels are decoded."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from lavieid_adapters.files import images
from lavieid_adapters.files.images import check_pixels, decoding, open_image, open_labels

CLASSES = (np.arange(40 * 60).reshape(40, 60) % 7).astype(np.uint8)


@pytest.fixture
def path(tmp_path):
    """A file of class ids."""
    Image.fromarray(CLASSES).save(tmp_path / "map.png")
    return tmp_path / "map.png"


def test_labels_come_back_as_they_were_saved(path):
    for size in (None, (60, 40)):
        np.testing.assert_array_equal(np.asarray(open_labels(path, "map", size)), CLASSES)


def test_labels_of_another_size_are_refused_with_both(path):
    with pytest.raises(ValueError, match=r"The map '.*map\.png' has 60 × 40 pixels, but the photo has 40 × 60"):
        open_labels(path, "map", (40, 60))


def test_labels_that_are_not_there_damaged_or_no_image_are_refused_by_name(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no map '.*none"):
        open_labels(tmp_path / "none.png", "map")
    data = path.read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"The map '.*cut\.png' is damaged .*save it again"):
        open_labels(tmp_path / "cut.png", "map")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"The map '.*text\.png' is not an image"):
        open_labels(tmp_path / "text.png", "map")


def test_pixels_are_not_decoded_above_the_limit(path, monkeypatch):
    open_labels(path, "map")
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 40 - 1)

    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(ValueError, match=r"The map '.*map\.png' has 60 × 40 pixels, more than .*scale it down"):
        open_labels(path, "map")


def test_the_limit_itself_is_allowed():
    check_pixels((images.MAX_PIXELS, 1), "it")
    with pytest.raises(ValueError, match="it has 128000001 × 1 pixels, more than 128 million"):
        check_pixels((images.MAX_PIXELS + 1, 1), "it")


def test_an_image_is_opened_without_its_pixels_and_without_pillows_warning(path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()
    recwarn.clear()
    with open_image(path, "it", "save it again") as image:
        assert image.size == (60, 40)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40 // 3)
    with pytest.raises(ValueError, match="it is too large"):
        open_image(path, "it", "save it again")


def test_the_hint_is_for_files_of_no_known_format():
    with pytest.raises(ValueError, match=re.escape("it is not an image that Pillow reads. Install more.")):
        open_image(io.BytesIO(b"nothing"), "it", "save it again", " Install more.")


def test_errors_of_decoding_name_the_image_and_others_pass():
    message = r"it cannot be decoded \(cut\): get it again\."
    with pytest.raises(ValueError, match=message), decoding("it", "cannot be decoded", "get it again"):
        raise OSError("cut")
    with pytest.raises(KeyboardInterrupt), decoding("it", "is damaged", "get it again"):
        raise KeyboardInterrupt

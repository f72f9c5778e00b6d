"""Image files that are opened by their header first, and refused by name before pixels are decoded."""

import io

import numpy as np
import pytest
from PIL import Image
from support.mutated_images import READABLE, SIDE, image_files

from lavieid_adapters.files import images
from lavieid_adapters.files.images import check_image, check_pixels, decoding, open_image, open_labels, read_file

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
    check_pixels((images.MAX_PIXELS // 1000, 1000), "it")
    with pytest.raises(ValueError, match="it has 64001 × 1000 pixels, more than 64 million"):
        check_pixels((images.MAX_PIXELS // 1000 + 1, 1000), "it")
    check_pixels((1, images.MAX_SIDE), "it")
    with pytest.raises(ValueError, match="it has 1 × 65536 pixels, more than 65535 a side: scale it down"):
        check_pixels((1, images.MAX_SIDE + 1), "it")


def test_an_image_is_opened_without_its_pixels_and_without_pillows_warning(path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()
    recwarn.clear()
    with open_image(path.read_bytes(), "it", "save it again") as image:
        assert image.size == (60, 40)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40 // 3)
    with pytest.raises(ValueError, match="it is too large"):
        open_image(path.read_bytes(), "it", "save it again")


def box(brand: bytes) -> bytes:
    """The head of a file of ISO's media format."""
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + bytes(100)


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (b"", "is empty: save it again"),
        (b"\n<!DOCTYPE html><html>", "is a web page, not an image. Give the address or the file of the image itself"),
        (b"<?xml?><svg xmlns='http://www.w3.org/2000/svg'/>", r"is a vector drawing \(SVG\).* Save it as JPEG or PNG"),
        (box(b"qt  "), "is a video, not an image. Save one of its frames"),
        (box(b"mp42"), "is a video, not an image. Save one of its frames"),
        (b"\0\0\0\x08wide\0\0mdat", "is a video, not an image"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video, not an image"),
        (b"nothing", "is not an image in one of the formats JPEG, PNG, WEBP, .* Save it as JPEG or PNG"),
    ],
)
def test_the_advice_fits_what_the_file_seems_to_be(data, advice):
    with pytest.raises(ValueError, match=f"it {advice}") as caught:
        open_image(data, "it", "save it again")
    assert "heif" not in str(caught.value)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"heix"])
def test_heic_without_its_package_gets_the_advice_to_install_it(brand, monkeypatch):
    monkeypatch.setattr(images, "_formats", lambda: ("JPEG",))
    with pytest.raises(ValueError, match=r"it is a HEIC image, which needs pillow-heif\. Install it with: pip install"):
        open_image(box(brand), "it", "save it again")
    with pytest.raises(ValueError, match=r"it is an AVIF image, which needs Pillow 11\.3"):
        open_image(box(b"avif"), "it", "save it again")
    monkeypatch.setattr(images, "_formats", lambda: ("JPEG", "HEIF"))
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["BMP"])  # which does not know it, as HEIF's does not if damaged
    with pytest.raises(ValueError, match="it is a damaged HEIC image: save it again"):
        open_image(box(brand), "it", "save it again")


def test_heic_is_read_wherever_its_package_is_installed():
    heif = pytest.importorskip("pillow_heif")
    picture = Image.fromarray(np.arange(64 * 80 * 3, dtype=np.uint32).reshape(64, 80, 3).astype(np.uint8) // 8 * 8)
    buffer = io.BytesIO()
    heif.from_pillow(picture).save(buffer, quality=95)
    images._formats.cache_clear()
    with open_image(buffer.getvalue(), "it", "save it again") as image:
        assert (image.format, image.size) == ("HEIF", (80, 64))
        image.load()


def test_only_the_formats_of_photographs_are_opened_whatever_a_file_is_called(tmp_path, monkeypatch):
    for name, data in image_files().items():
        (tmp_path / "map.png").write_bytes(data)
        if name in READABLE:
            assert open_labels(tmp_path / "map.png", "map").size == (SIDE, SIDE), name
        else:
            Image.open(io.BytesIO(data)).close()  # Pillow would
            with pytest.raises(ValueError, match=r"map\.png' is not an image in one of the formats"):
                open_labels(tmp_path / "map.png", "map")


def test_formats_that_cost_more_have_a_lower_limit(monkeypatch):
    files = image_files()
    monkeypatch.setattr(images, "_MAX_WEBP", SIDE * SIDE - 1)
    with pytest.raises(ValueError, match=f"it has {SIDE} × {SIDE} pixels, more than .* of a WEBP: scale it down"):
        open_image(files["WebP"], "it", "save it again")
    assert open_image(files["PNG"], "it", "save it again").size == (SIDE, SIDE)
    runs = bytearray(files["palette BMP"])
    runs[30:34] = (1).to_bytes(4, "little")
    assert open_image(bytes(runs), "it", "save it again").size == (SIDE, SIDE)
    monkeypatch.setattr(images, "_MAX_BMP_RUNS", SIDE * SIDE - 1)
    with pytest.raises(ValueError, match="of a BMP: scale it down"):
        open_image(bytes(runs), "it", "save it again")
    assert open_image(files["palette BMP"], "it", "save it again").size == (SIDE, SIDE)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    data = image_files()["progressive JPEG"]
    at = data.rindex(b"\xff\xda")
    assert open_image(data[:at] + data[at:-2] * 50, "it", "save it again").size == (SIDE, SIDE)
    with pytest.raises(ValueError, match=r"it is a JPEG of .* scans, but 100 are the most"):
        open_image(data[:at] + data[at:-2] * 5000, "it", "save it again")


def test_files_are_read_up_to_a_size(path, tmp_path, monkeypatch):
    assert read_file(path, "map") == path.read_bytes()
    with pytest.raises(IsADirectoryError, match=r"The map '.*' is a folder\. Give an image file"):
        read_file(tmp_path, "map")
    with pytest.raises(ValueError, match="The path of the map holds a zero byte"):
        read_file("a\0b", "map")
    monkeypatch.setattr(images, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"The map '.*map\.png' has more than 0 MiB, the most that an image may have"):
        read_file(path, "map")


def test_a_users_image_is_checked_before_its_pixels_are_decoded(tmp_path, monkeypatch):
    check_image(Image.new("L", (60, 40)), "it")
    eps = Image.open(io.BytesIO(image_files()["EPS"]))
    with pytest.raises(ValueError, match=r"it is a file in the format EPS, .*give image\.copy\(\)"):
        check_image(eps, "it")
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 40 - 1)
    with pytest.raises(ValueError, match="it has 60 × 40 pixels, more than"):
        check_image(Image.new("L", (60, 40)), "it")


def test_errors_of_decoding_name_the_image_and_others_pass():
    message = r"it cannot be decoded \(cut\): get it again\."
    with pytest.raises(ValueError, match=message), decoding("it", "cannot be decoded", "get it again"):
        raise OSError("cut")
    for other in (RuntimeError("cut"), NotImplementedError("cut"), MemoryError("cut")):
        message = rf"it is damaged \({type(other).__name__} cut\): get it again\."
        with pytest.raises(ValueError, match=message), decoding("it", "is damaged", "get it again"):
            raise other
    with pytest.raises(KeyboardInterrupt), decoding("it", "is damaged", "get it again"):
        raise KeyboardInterrupt

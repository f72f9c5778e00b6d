"""Photographs of every kind and from everywhere, and what is refused before it does harm."""

import io
import os
import struct
import subprocess
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from support.mutated_images import READABLE, SIDE, image_files, mutants
from support.photo_server import PhotoServer

from lavieid_adapters.faces import photo as module
from lavieid_adapters.faces.photo import Photo
from lavieid_adapters.files import images

WIDTH, HEIGHT = 96, 80
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
PICTURE = np.stack([COLUMNS * 2, ROWS * 3, np.full((HEIGHT, WIDTH), 60)], -1).astype(np.uint8)  # no symmetry
GREY = PICTURE[..., 0]
ORIENTATION = 0x0112
EXACT = {"PNG": {}, "TIFF": {}, "WebP": {"lossless": True}, "BMP": {}}
# The visual side of the file's first row and first column, by the standard: what the file holds of an upright picture.
AS_STORED = {
    1: lambda p: p,  # top, left
    2: lambda p: p[:, ::-1],  # top, right
    3: lambda p: p[::-1, ::-1],  # bottom, right
    4: lambda p: p[::-1],  # bottom, left
    5: lambda p: p.transpose(1, 0, 2),  # left, top
    6: lambda p: p.transpose(1, 0, 2)[::-1],  # right, top
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda p: p.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


def encoded(image, kind="PNG", **options) -> bytes:
    """The file of an image or array."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))).save(
        buffer, kind, **{**EXACT.get(kind, {}), **options}
    )
    return buffer.getvalue()


def of_bytes(data: bytes) -> Photo:
    return Photo(io.BytesIO(data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG by hand, of what Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def difference(pixels, wanted=PICTURE) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(np.asarray(pixels, float) - wanted).mean())


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with PhotoServer(encoded(PICTURE)) as server:
        yield server


def test_a_photo_is_the_same_from_everywhere(tmp_path, server):
    data = encoded(PICTURE)
    (tmp_path / "photo.png").write_bytes(data)
    with (tmp_path / "photo.png").open("rb") as file:
        of_file = {
            "path": Photo(tmp_path / "photo.png"),
            "str": Photo(str(tmp_path / "photo.png")),
            "BytesIO": of_bytes(data),
            "open file": Photo(file),
            "URL": Photo(server.url("photo.png")),
        }
    others = {
        "image": Photo(Image.fromarray(PICTURE)),
        "file that Pillow opened": Photo(Image.open(tmp_path / "photo.png")),
        "uint8": Photo(PICTURE),
        "uint16": Photo(PICTURE.astype(np.uint16) * 257),
        "float32": Photo(PICTURE.astype(np.float32) / 255),
        "float64": Photo(PICTURE / 255),
        "RGBA": Photo(np.dstack([PICTURE, np.full_like(GREY, 255)])),
        "not contiguous": Photo(np.ascontiguousarray(PICTURE[:, ::-1])[:, ::-1]),
    }
    for name, photo in (of_file | others).items():
        assert photo.pixels.dtype == np.uint8, name
        np.testing.assert_array_equal(photo.pixels, PICTURE, name)
        assert photo.size == (WIDTH, HEIGHT), name
    assert len({photo.digest for photo in of_file.values()}) == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float64])
def test_a_grey_array_has_three_equal_channels(dtype):
    scale = {np.uint8: 1, np.uint16: 257}.get(dtype, 1 / 255)
    pixels = Photo((GREY.astype(np.float64) * scale).astype(dtype)).pixels
    np.testing.assert_array_equal(pixels, np.dstack([GREY] * 3))


def test_the_digest_tells_contents_apart():
    data, other = encoded(PICTURE), PICTURE.copy()
    other[7, 7, 2] += 1
    image, turned = Image.fromarray(PICTURE), Image.fromarray(PICTURE)
    turned.getexif()[ORIENTATION] = 6
    contents = [
        lambda: of_bytes(data),
        lambda: of_bytes(encoded(other)),
        lambda: Photo(image),
        lambda: Photo(Image.fromarray(other)),
        lambda: Photo(turned),
        lambda: Photo(Image.fromarray(PICTURE.reshape(WIDTH, HEIGHT, 3))),
        lambda: Photo(PICTURE),
        lambda: Photo(other),
        lambda: Photo(PICTURE.reshape(WIDTH, HEIGHT, 3)),
        lambda: Photo(PICTURE.astype(np.uint16)),
    ]
    digests = [make().digest for make in contents]
    assert all(len(digest) == 32 and int(digest, 16) for digest in digests)
    assert len(set(digests)) == len(digests)
    assert [make().digest for make in contents] == digests


def test_palettes_and_their_transparency_count_in_the_digest():
    image, colours, clear = (Image.fromarray(PICTURE).quantize(16) for _ in range(3))
    colours.putpalette([255 - value for value in colours.getpalette()])
    clear.info["transparency"] = 3
    photos = [Photo(i) for i in (image, colours, clear)]
    for other in photos[1:]:
        assert difference(other.pixels, photos[0].pixels) > 1
        assert other.digest != photos[0].digest


def test_what_is_written_to_an_array_afterwards_does_not_change_the_photo():
    for array in (PICTURE, GREY, np.dstack([PICTURE, np.full_like(GREY, 255)])):
        mine = array.copy()
        photo, wanted = Photo(mine), Photo(array).pixels
        mine[:] = 255
        assert Photo(mine).digest != photo.digest
        np.testing.assert_array_equal(photo.pixels, wanted)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WebP", "JPEG", "image"])
@pytest.mark.parametrize("orientation", AS_STORED)
def test_exif_turns_the_photo_upright(kind, orientation):
    stored = Image.fromarray(np.ascontiguousarray(AS_STORED[orientation](PICTURE)))
    exif = stored.getexif()
    exif[ORIENTATION] = orientation
    photo = Photo(stored) if kind == "image" else of_bytes(encoded(stored, kind, exif=exif))
    assert photo.pixels.shape == PICTURE.shape
    assert difference(photo.pixels) <= (2 if kind == "JPEG" else 0)
    assert photo.size == (WIDTH, HEIGHT)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own
@pytest.mark.parametrize("tail", [b"MM\x00\x2a\xff\xff\xff\xff", b"II*\x00\x08\x00\x00\x00\x05", b"nonsense", b""])
def test_damaged_exif_does_not_spoil_a_photo(tail):
    assert difference(of_bytes(encoded(PICTURE, "JPEG", exif=b"Exif\x00\x00" + tail)).pixels) < 2


@pytest.mark.parametrize("kind", EXACT)
def test_formats_without_loss(kind):
    np.testing.assert_array_equal(of_bytes(encoded(PICTURE, kind)).pixels, PICTURE)


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("WebP", {"lossless": False}), ("GIF", {})]
)
def test_formats_with_loss(kind, options):
    assert 0 < difference(of_bytes(encoded(PICTURE, kind, **options)).pixels) < 6


@pytest.mark.parametrize("kind", ["GIF", "WebP", "TIFF", "PNG"])
def test_an_animation_is_its_first_frame_from_a_file_and_its_current_one_from_pillow(kind):
    frames = [Image.fromarray(picture) for picture in (PICTURE, 255 - PICTURE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert difference(of_bytes(data).pixels) < 6 < difference(255 - PICTURE)
    image = Image.open(io.BytesIO(data))
    image.seek(1)
    assert difference(Photo(image).pixels, 255 - PICTURE) < 6


def test_a_cmyk_jpeg():
    cmyk = Image.fromarray(PICTURE).convert("CMYK")
    photo = of_bytes(encoded(cmyk, "JPEG", quality=95))
    assert difference(photo.pixels, np.asarray(cmyk.convert("RGB"))) < 3
    assert difference(photo.pixels) < 3


def test_16_bit_pngs_are_scaled_to_8_bits():
    wide = GREY.astype(np.uint16) * 257
    assert Image.open(io.BytesIO(encoded(wide))).mode.startswith("I")
    np.testing.assert_array_equal(of_bytes(encoded(wide)).pixels, np.dstack([GREY] * 3))
    np.testing.assert_array_equal(of_bytes(encoded(wide, "TIFF")).pixels, np.dstack([GREY] * 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in PICTURE.astype(np.uint16) * 257)
    data = png(WIDTH, HEIGHT, 16, 2, rows)
    assert len(rows) == HEIGHT * (1 + WIDTH * 6)
    np.testing.assert_array_equal(of_bytes(data).pixels, PICTURE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_images_of_every_mode(mode):
    image = Image.fromarray(PICTURE).convert(mode)
    np.testing.assert_array_equal(Photo(image).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WebP", "TIFF", "image"])
def test_transparency_lies_on_white(kind):
    alpha = np.where(COLUMNS < 40, 0, np.where(COLUMNS < 60, 128, 255)).astype(np.uint8)
    image = Image.fromarray(np.dstack([PICTURE, alpha]))
    photo = Photo(image) if kind == "image" else of_bytes(encoded(image, kind))
    assert (photo.pixels[:, :40] == 255).all()
    np.testing.assert_array_equal(photo.pixels[:, 60:], PICTURE[:, 60:])
    half = PICTURE[:, 40:60] * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(photo.pixels[:, 40:60], half, atol=1)
    np.testing.assert_array_equal(Photo(np.asarray(image)).pixels, photo.pixels)


def test_grey_with_transparency_lies_on_white():
    alpha = np.where(COLUMNS < 40, 0, 255).astype(np.uint8)
    photo = of_bytes(encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])))
    assert (photo.pixels[:, :40] == 255).all()
    np.testing.assert_array_equal(photo.pixels[:, 40:], np.dstack([GREY] * 3)[:, 40:])


def test_a_palette_with_and_without_a_transparent_entry():
    ids = (COLUMNS // 32).astype(np.uint8)
    image = Image.fromarray(ids)
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    opaque, clear = of_bytes(encoded(image)), of_bytes(encoded(image, transparency=1))
    colours = np.array([[200, 10, 10], [10, 200, 10], [10, 10, 200]])
    np.testing.assert_array_equal(opaque.pixels, colours[ids])
    colours[1] = 255
    np.testing.assert_array_equal(clear.pixels, colours[ids])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "image", "array"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photo_is_scaled_down_but_tells_its_whole_size(monkeypatch, kind, orientation):
    large = np.asarray(Image.fromarray(PICTURE).resize((WIDTH * 8, HEIGHT * 8), Image.Resampling.BILINEAR))
    if kind == "array":
        orientation = 1
    stored = Image.fromarray(np.ascontiguousarray(AS_STORED[orientation](large)))
    exif = stored.getexif()
    exif[ORIENTATION] = orientation
    source = {
        "array": lambda: large,
        "image": lambda: stored,
        "PNG": lambda: io.BytesIO(encoded(stored, exif=exif)),
        "JPEG": lambda: io.BytesIO(encoded(stored, "JPEG", exif=exif)),
    }[kind]
    assert Photo(source()).pixels.shape == large.shape
    monkeypatch.setattr(module, "MAX_SIDE", WIDTH)
    photo = Photo(source())
    assert photo.pixels.shape == PICTURE.shape
    assert difference(photo.pixels) < 3
    assert photo.size == (WIDTH * 8, HEIGHT * 8)
    assert stored.size == np.asarray(stored).shape[1::-1] and max(stored.size) == WIDTH * 8  # the user's, as it was


def test_a_panorama_keeps_its_shape():
    photo = Photo(np.zeros((600, 6000), np.uint8))
    assert photo.pixels.shape == (410, module.MAX_SIDE, 3)
    assert photo.size == (6000, 600)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"just some text\n" * 100, "is not an image in one of the formats JPEG, PNG, .*Save it as JPEG or PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"is a vector drawing \(SVG\).*Save it as JPEG or PNG"),
        (encoded(PICTURE)[:5], "is not an image in one of the formats JPEG, PNG, .*Save it as JPEG or PNG"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, data, message):
    (tmp_path / "notes.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=rf"notes\.jpg' {message}") as caught:
        _ = Photo(tmp_path / "notes.jpg").pixels
    assert "pillow-heif" not in str(caught.value)


def test_an_empty_file_is_refused_as_empty():
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "PNG")  # and no seek(0)
    with pytest.raises(ValueError, match=r"this BytesIO .*empty"):
        _ = Photo(buffer).pixels


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WebP", "TIFF"])
def test_a_truncated_photo_is_refused(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, PICTURE.shape, np.uint8)
    data = encoded(noise, kind)
    assert of_bytes(data).pixels.shape == noise.shape
    (tmp_path / "photo").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"photo' (is damaged|cannot be decoded|is not an image)") as caught:
        _ = Photo(tmp_path / "photo").pixels
    if kind in ("PNG", "JPEG"):
        assert "truncated" in str(caught.value) and "get the photo again" in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WebP", "TIFF"])
def test_a_damaged_photo_gives_pixels_or_a_value_error(kind):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(PICTURE, kind, **({} if kind == "GIF" else {"exif": exif}))
    rng, refused = np.random.default_rng(0), 0
    for _ in range(100):
        bad = np.frombuffer(data, np.uint8).copy()
        where = rng.integers(0, len(bad) if rng.random() < 0.3 else min(len(bad), 200), 3)
        bad[where] = rng.integers(0, 256, 3)
        try:
            assert of_bytes(bad.tobytes()).pixels.shape[2] == 3
        except ValueError as error:
            assert "this BytesIO" in str(error)
            refused += 1
    assert 0 < refused < 100


def test_a_closed_image_is_refused():
    with Image.open(io.BytesIO(encoded(PICTURE))) as image:
        pass
    with pytest.raises(ValueError, match="this PngImageFile cannot be decoded"):
        Photo(image)


def test_too_few_pixels_are_refused():
    assert Photo(np.zeros((64, 64, 3), np.uint8)).pixels.shape == (64, 64, 3)
    for height, width in ((1, 1), (63, 100), (0, 0)):
        array = np.zeros((height, width, 3), np.uint8)
        with pytest.raises(ValueError, match=rf"this array has {width} × {height} pixels.*at least 64 a side"):
            Photo(array)
    tiny = Image.new("RGB", (1, 1))
    with pytest.raises(ValueError, match="this Image has 1 × 1 pixels"):
        Photo(tiny)
    with pytest.raises(ValueError, match="this BytesIO has 1 × 1 pixels"):
        _ = of_bytes(encoded(tiny)).pixels


@pytest.mark.parametrize(
    ("side", "message"), [(30000, "too large.*900000000 pix"), (12000, "12000 × 12000 pixels, more than 64 million")]
)
def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch, side, message):
    bomb = png(side, side, 8, 0, bytes(1000))
    assert len(bomb) < 200

    class Decoded(BaseException):
        pass

    def load(self):
        raise Decoded

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(Decoded):  # as it is for any other photo
        _ = of_bytes(encoded(PICTURE)).pixels
    with pytest.raises(ValueError, match=rf"this BytesIO .*{message}.*scale it down"):
        _ = of_bytes(bomb).pixels


def test_a_large_photo_within_the_limit_gives_no_warning(monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(encoded(PICTURE)))
    recwarn.clear()
    np.testing.assert_array_equal(of_bytes(encoded(PICTURE)).pixels, PICTURE)
    assert not recwarn.list


def test_arrays_and_images_have_the_same_limit(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    for source in (PICTURE, Image.fromarray(PICTURE)):
        with pytest.raises(ValueError, match=r"this (array|Image) has 96 × 80 pixels.*scale it down"):
            Photo(source)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_an_unknown_range_are_to_be_converted_and_not_fetched_again(mode):
    image = Image.fromarray(GREY).convert(mode).point(lambda value: value * 1 - 100)
    with pytest.raises(ValueError, match=r"this Image.*unknown range.*convert it to 8 bits") as caught:
        _ = Photo(image).pixels
    assert "get the photo again" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros(100, np.uint8), ValueError, r"shape \(100,\) is no photo.*\(height, width, 3\).*RGB"),
        (np.zeros((1, 80, 96, 3), np.uint8), ValueError, r"shape \(1, 80, 96, 3\)"),
        (np.zeros((3, 80, 96), np.uint8), ValueError, r"shape \(3, 80, 96\)"),
        (np.zeros((80, 96, 2), np.uint8), ValueError, r"shape \(80, 96, 2\)"),
        (PICTURE.astype(np.float32), ValueError, "floats must lie in 0 to 1, but this one has 0 to 237: divide"),
        (PICTURE / 255 - 0.5, ValueError, "has -0.5 to 0.42"),
        (PICTURE * np.nan, ValueError, "0 to 1"),
        (PICTURE.astype(np.int64), TypeError, "uint8, uint16 or floats, but this array is int64"),
        (PICTURE > 9, TypeError, "bool"),
        (PICTURE * 1j, TypeError, "complex"),
    ],
)
def test_an_array_that_is_no_photo_is_refused(array, error, message):
    with pytest.raises(error, match=message):
        Photo(array)


def test_a_file_in_text_mode_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "photo.jpg").write_bytes(encoded(PICTURE, "JPEG"))
    for name in ("notes.txt", "photo.jpg"):
        with (
            (tmp_path / name).open(encoding="utf-8") as file,
            pytest.raises(TypeError, match=r"TextIOWrapper .*binary mode, 'rb'"),
        ):
            Photo(file)


def test_a_path_without_a_file_is_refused(tmp_path):
    for path in (tmp_path / "nobody.jpg", str(tmp_path / "nobody.jpg")):
        with pytest.raises(FileNotFoundError, match=f"no photo '{path}'"):
            Photo(path)
    with pytest.raises(IsADirectoryError, match=f"The photo '{tmp_path}' is a folder"):
        Photo(tmp_path)


@pytest.mark.parametrize("source", [torch.zeros(3, 80, 96), None, 7, encoded(PICTURE), [PICTURE]], ids=type)
def test_anything_else_is_refused(source):
    with pytest.raises(TypeError, match=rf"path, a URL, a PIL image, an array or an open.*{type(source).__name__}"):
        Photo(source)


def test_a_url_is_named_without_its_password_also_where_it_is_no_image(server):
    assert Photo(server.url("photo.png")).size == (WIDTH, HEIGHT)
    server.data = b"<!DOCTYPE html><p>Sign in</p>"
    with pytest.raises(ValueError, match=r"'http://127\.0\.0\.1:\d+/photo\.png' is a web page, not an image"):
        _ = Photo(server.url("photo.png?key=secret", "me:secret@")).pixels
    with pytest.raises(OSError, match=r"Could not download 'http.*/missing' \(404"):
        Photo(server.url("missing"))
    with pytest.raises(ValueError, match=r"'ftp://here/photo\.png' is neither http nor https: download it"):
        Photo("ftp://me:secret@here/photo.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own
def test_a_damaged_photo_of_any_format_gives_pixels_or_a_value_error_and_starts_nothing(monkeypatch):
    started = []
    for place, name in ((subprocess, "Popen"), (os, "posix_spawn"), (os, "system"), (os, "fork")):
        monkeypatch.setattr(place, name, lambda *args, **kwargs: started.append(args))
    read = refused = 0
    for number, (name, data) in enumerate(image_files().items()):
        if name in READABLE:
            assert of_bytes(data).size == (SIDE, SIDE), name
        else:
            with pytest.raises(ValueError, match="this BytesIO is not an image in one of the formats"):
                _ = of_bytes(data).pixels
        for bad in mutants(data, 20, number):
            try:
                assert of_bytes(bad).pixels.dtype == np.uint8
                read += 1
            except ValueError as error:
                assert "this BytesIO" in str(error)
                refused += 1
    assert read > 50 < refused
    assert not started


@pytest.mark.parametrize("error", [RuntimeError("decoder"), NotImplementedError(), KeyError("x"), MemoryError()])
def test_every_error_of_a_decoder_becomes_a_value_error_with_the_photos_name(monkeypatch, error):
    def load(self):
        raise error

    photo, data = of_bytes(encoded(PICTURE)), encoded(PICTURE)
    assert photo.pixels.shape == PICTURE.shape
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(
        ValueError, match=rf"this BytesIO cannot be decoded \({type(error).__name__}.*get the photo again"
    ):
        _ = of_bytes(data).pixels


def test_an_open_file_of_another_format_is_not_decoded_for_the_user(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "photo.eps")
    (tmp_path / "photo.eps").rename(tmp_path / "photo.jpg")
    for source in (tmp_path / "photo.jpg", Image.open(tmp_path / "photo.jpg")):
        with pytest.raises(ValueError, match=r"EPS, whose decoder is not safe|is not an image in one of the formats"):
            _ = Photo(source).pixels


@pytest.mark.parametrize("big_endian", [False, True])
def test_grey_of_16_bits_is_scaled_to_the_same_values_in_both_byte_orders(big_endian):
    wide = (GREY.astype(np.uint16) * 257) + np.arange(WIDTH, dtype=np.uint16)
    image = Image.frombytes(
        "I;16B" if big_endian else "I;16", (WIDTH, HEIGHT), wide.astype(">u2" if big_endian else "<u2")
    )
    np.testing.assert_array_equal(Photo(image).pixels, np.dstack([wide // 257] * 3))
    np.testing.assert_array_equal(Photo(Image.fromarray(wide.astype(np.int32))).pixels, np.dstack([wide // 257] * 3))


def test_transparency_is_the_same_in_strips_and_at_once(monkeypatch):
    clear = Image.fromarray(np.dstack([PICTURE, COLUMNS.astype(np.uint8) * 2]))
    whole = Photo(clear).pixels
    assert difference(whole) > 10
    monkeypatch.setattr(module, "_ROWS", 7)
    np.testing.assert_array_equal(Photo(clear).pixels, whole)

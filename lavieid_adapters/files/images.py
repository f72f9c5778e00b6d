"""The one door for image files that come from anywhere: few formats, told by content, and sizes checked before pixels.

Pillow reads some forty formats. One of them (EPS) starts a program on the file, others decode in Python for a minute,
so only those of photographs and of masks are opened, whatever a file is called.
"""

import functools
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

# MPO is several JPEGs in one file, as some cameras write them. HEIF is there if pillow-heif is installed.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")
MAX_PIXELS = 64_000_000  # phones make 48 to 50 million; a decoded RGB image of this size takes 256 MB
MAX_SIDE = 65_535  # the largest that JPEG and GIF know
MAX_BYTES = 256 << 20  # 64 million pixels without compression take 192 MB

# Pixels of what costs more than its decoded picture: WebP's decoder takes 16 bytes a pixel, and the runs of a BMP are
# read in Python.
_MAX_WEBP, _MAX_BMP_RUNS = 40_000_000, 4_000_000
# Scans of a progressive JPEG, of which encoders write about ten: each goes over the whole picture, and needs few bytes.
_MAX_SCANS = 100

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_CONVERT = "Save it as JPEG or PNG, and give that"


def read_file(path: str | os.PathLike, what: str) -> bytes:
    """Return the bytes of an image file.

    Args:
        path: The file.
        what: What errors call it, such as "region".

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If the path cannot be one, or the file has more than MAX_BYTES.
    """
    if "\0" in str(path):
        raise ValueError(f"The path of the {what} holds a zero byte: {str(path)!r}. Give a path without one.")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"The {what} '{path}' is a folder. Give an image file.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no {what} '{path}'.")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    check_bytes(data, f"The {what} '{path}'")
    return data


def check_bytes(data: bytes, name: str) -> None:
    """Raise ValueError if a file, of which at most MAX_BYTES + 1 were read, has more than MAX_BYTES."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} has more than {MAX_BYTES >> 20} MiB, the most that an image may have: scale it down.")


def open_image(data: bytes, name: str, remedy: str) -> Image.Image:
    """Return an image of which the header alone has been read, and whose size allows decoding it.

    Args:
        data: The file's bytes.
        name: What errors call it.
        remedy: What errors of a damaged file tell the reader to do.

    Raises:
        ValueError: If it is of none of `FORMATS`, is damaged, or has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large ({error}): scale it down.") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} {_advice(data, remedy)}.") from error
    except Exception as error:  # decoders raise whatever they like
        raise ValueError(f"{name} is damaged ({_reason(error)}): {remedy}.") from error
    check_pixels(image.size, name)
    check_pixels(image.size, name, most=_most(image), kind=image.format)
    if image.format in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise ValueError(f"{name} is a JPEG of {scans} scans, but {_MAX_SCANS} are the most: save it again.")
    return image


def check_image(image: Image.Image, name: str) -> None:
    """Check a user's Pillow image before its pixels are decoded, which Pillow puts off.

    Raises:
        ValueError: If it is an open file of none of `FORMATS`, or has too many pixels.
    """
    if isinstance(image, ImageFile.ImageFile) and image.format not in FORMATS:
        raise ValueError(
            f"{name} is a file in the format {image.format}, whose decoder is not safe with just any file. If you "
            "trust it, decode it yourself: give image.copy()."
        )
    check_pixels(image.size, name)
    check_pixels(image.size, name, most=_most(image), kind=image.format)


@contextmanager
def decoding(name: str, state: str, remedy: str) -> Iterator[None]:
    """Turn every error of a decoder into a ValueError.

    Args:
        name: What the error calls the image.
        state: What the error says of it, such as "is damaged".
        remedy: What it tells the reader to do.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{name} {state} ({_reason(error)}): {remedy}.") from error


def check_pixels(size: tuple[int, int], name: str, most: int | None = None, kind: str | None = None) -> None:
    """Raise ValueError if an image has too many pixels.

    Args:
        size: Width and height.
        name: What the error calls it.
        most: The largest number of pixels; MAX_PIXELS if None.
        kind: The format that `most` belongs to.
    """
    width, height = size
    most = MAX_PIXELS if most is None else most
    if width * height > most:
        of = f" of a {kind}" if kind and most != MAX_PIXELS else ""
        raise ValueError(
            f"{name} has {width} × {height} pixels, more than {most / 1e6:.0f} million{of}: scale it down."
        )
    if max(size) > MAX_SIDE:
        raise ValueError(f"{name} has {width} × {height} pixels, more than {MAX_SIDE} a side: scale it down.")


def open_labels(path: str | os.PathLike, what: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Return the decoded image of a file that holds a mask or class ids.

    Args:
        path: The file.
        what: What errors call it, such as "region".
        size: The width and height that it must have; any if None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, is damaged, too large or of another size.
    """
    name, remedy = f"The {what} '{path}'", "save it again"
    image = open_image(read_file(path, what), name, remedy)
    if size is not None and image.size != size:
        raise ValueError(
            f"{name} has {image.width} × {image.height} pixels, but the photo has {size[0]} × {size[1]}: segment the "
            "upright photo at its own size."
        )
    with decoding(name, "is damaged", remedy):
        image.load()
    return image


def _most(image: Image.Image) -> int:
    """Return the number of pixels that an open file may have, by what its decoder costs."""
    if image.format == "WEBP":
        return min(_MAX_WEBP, MAX_PIXELS)
    if image.format == "BMP" and image.info.get("compression") in (1, 2):
        return min(_MAX_BMP_RUNS, MAX_PIXELS)
    return MAX_PIXELS


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow reads."""
    _register_heif()
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def _reason(error: Exception) -> str:
    text = str(error)
    return (
        text
        if text and isinstance(error, OSError | SyntaxError | ValueError)
        else f"{type(error).__name__} {text}".strip()
    )


def _advice(data: bytes, remedy: str) -> str:
    """Return what is wrong with a file of none of the formats, and what to do, by what it seems to be."""
    head, brand = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower(), data[8:12]
    if not data:
        return f"is empty: {remedy}"
    if data[4:8] == b"ftyp":
        if brand in _HEIC:
            if "HEIF" in _formats():
                return f"is a damaged HEIC image: {remedy}"
            return "is a HEIC image, which needs pillow-heif. Install it with: pip install pillow-heif"
        if brand in (b"avif", b"avis"):
            if "AVIF" in _formats():
                return f"is a damaged AVIF image: {remedy}"
            return "is an AVIF image, which needs Pillow 11.3 or later. Install it with: pip install -U pillow"
        return "is a video, not an image. Save one of its frames as JPEG or PNG, and give that"
    if data[4:8] in (b"moov", b"mdat", b"wide") or data[:4] == b"\x1a\x45\xdf\xa3" or data[8:12] == b"AVI ":
        return "is a video, not an image. Save one of its frames as JPEG or PNG, and give that"
    if b"<svg" in head:
        return f"is a vector drawing (SVG), not an image of pixels. {_CONVERT}"
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is a web page, not an image. Give the address or the file of the image itself"
    return f"is not an image in one of the formats {', '.join(_formats())}. {_CONVERT}"

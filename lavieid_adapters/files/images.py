"""Image files that come from anywhere: the header is read first, and pixels are decoded only if their number allows."""

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 128_000_000  # cameras of phones make 108 million

# Pillow raises these of damaged or closed images.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, AssertionError, struct.error)


def open_image(file, name: str, remedy: str, hint: str = "") -> Image.Image:
    """Return an image of which the header alone has been read. Its size is not checked yet: see `check_pixels`.

    Args:
        file: A path or an open binary file.
        name: What errors call it.
        remedy: What errors of a damaged file tell the reader to do.
        hint: A sentence, with a space before it, for files that Pillow does not know.

    Raises:
        ValueError: If it is no image, is damaged, or is larger than Pillow's own limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            return Image.open(file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large ({error}): scale it down.") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that Pillow reads.{hint}") from error
    except _BROKEN as error:
        raise ValueError(f"{name} is damaged ({error}): {remedy}.") from error


@contextmanager
def decoding(name: str, state: str, remedy: str) -> Iterator[None]:
    """Turn Pillow's errors of damaged pixels into a ValueError.

    Args:
        name: What the error calls the image.
        state: What the error says of it, such as "is damaged".
        remedy: What it tells the reader to do.
    """
    try:
        yield
    except _BROKEN as error:
        raise ValueError(f"{name} {state} ({error}): {remedy}.") from error


def check_pixels(size: tuple[int, int], name: str) -> None:
    """Raise ValueError if an image of `size` (width, height) has more than MAX_PIXELS pixels."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width} × {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million: scale it down."
        )


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
    name = f"The {what} '{path}'"
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no {what} '{path}'.")
    with open_image(path, name, "save it again") as image:
        if size is not None and image.size != size:
            raise ValueError(
                f"{name} has {image.width} × {image.height} pixels, but the photo has {size[0]} × {size[1]}: segment "
                "the upright photo at its own size."
            )
        check_pixels(image.size, name)
        with decoding(name, "is damaged", "save it again"):
            image.load()
    return image

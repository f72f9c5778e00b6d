"""A photograph, wherever it comes from: upright, 8-bit RGB, and of a size that was checked before it was decoded."""

import os
from functools import cached_property

import numpy as np
from PIL import Image, ImageOps

from ..files.digests import content_digest
from ..files.download import download, shown_url
from ..files.images import MAX_BYTES, check_bytes, check_image, check_pixels, decoding, open_image, read_file

MIN_SIDE = 64  # the smallest face that is read
MAX_SIDE = 4096  # what is larger is scaled down: a face is read at 512 pixels

_ORIENTATION = 0x0112  # EXIF's tag
_ROWS = 512  # that are composed at a time: a whole picture of 64 million pixels three times over takes 768 MB
_AGAIN = "get the photo again"


class Photo:
    """A photograph, decoded when its pixels are first read.

    EXIF's rotation is applied, transparency lies on white, 16-bit grey is scaled to 8 bits, and an animation is its
    current frame, which is the first one when it comes from a file. Files are read by `files.images.open_image`: those
    of photographs, whatever they are called, and HEIC where pillow-heif is installed.

    A URL is fetched within 20 s, also from loopback and private addresses: a service must not pass on the URLs of its
    users, or sets LAVIEID_PUBLIC_URLS_ONLY=1 in its environment, which refuses these addresses, after redirects too.

    Args:
        source: A path, an http(s) URL, a PIL image, an open binary file, or an array (h, w), (h, w, 3) or (h, w, 4) in
            RGB order of uint8, uint16, or floats from 0 to 1.

    Attributes:
        name: Its name in errors.
        digest: 32 hexadecimal digits of its content.

    Raises:
        TypeError, ValueError: If it is none of these, or an array that is no image.
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        OSError: If a download failed.
    """

    def __init__(self, source):
        self.name = f"this {type(source).__name__}"
        if isinstance(source, str | os.PathLike):
            self.name = f"'{shown_url(source) if _is_url(source) else source}'"
        if isinstance(source, Image.Image):
            check_image(source, self.name)
            _check_size(source.size, self.name)
            with decoding(self.name, "cannot be decoded", _AGAIN):
                source.load()
                self._image: bytes | Image.Image = ImageOps.exif_transpose(source)  # a copy: its owner may write to it
            looks = source.getexif().get(_ORIENTATION), source.getpalette(), source.info.get("transparency")
            parts = (source.mode, source.size, *looks, source.tobytes())
        elif isinstance(source, np.ndarray):
            self._image = _from_array(source)
            parts = (source.dtype.str, source.shape, np.ascontiguousarray(source).data)
        else:
            self._image = _read_bytes(source, self.name)
            parts = (self._image,)
        self.digest = content_digest(*parts)

    @property
    def pixels(self) -> np.ndarray:
        """The upright photo, (height, width, 3), uint8, RGB; at most MAX_SIDE a side.

        Raises:
            ValueError: If it is no image, is damaged, or has too many pixels or too few.
        """
        return self._decoded[1]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole upright photo, also where `pixels` are scaled down."""
        return self._decoded[0]

    @cached_property
    def _decoded(self) -> tuple[tuple[int, int], np.ndarray]:
        image = self._image
        if isinstance(image, bytes):
            image = open_image(image, self.name, _AGAIN)
            _check_size(image.size, self.name)
        size = image.size
        with decoding(self.name, "cannot be decoded", _AGAIN):
            if isinstance(self._image, bytes):
                image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # a JPEG can be decoded at a half or less
            image.load()  # a TIFF turns itself, and a PNG may say at its end how it is turned
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            image = ImageOps.exif_transpose(image)
        _check_range(image, self.name)
        with decoding(self.name, "cannot be converted to RGB", _AGAIN):
            image = _to_rgb(image)
            if max(image.size) > MAX_SIDE:
                image.thumbnail((MAX_SIDE, MAX_SIDE))
        return (size[::-1] if turned else size), np.asarray(image)


def _check_size(size: tuple[int, int], name: str) -> None:
    check_pixels(size, name)
    if min(size) < MIN_SIDE:
        raise ValueError(f"{name} has {size[0]} × {size[1]} pixels, but a face needs at least {MIN_SIDE} a side.")


def _check_range(image: Image.Image, name: str) -> None:
    if image.mode == "F":
        raise ValueError(f"The pixels of {name} are floats of an unknown range: convert it to 8 bits.")
    if image.mode == "I":
        least, most = image.getextrema()
        if least < 0 or most > 65535:
            raise ValueError(f"The pixels of {name} are integers of an unknown range: convert it to 8 bits.")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, in PNG and TIFF files
        wide = np.asarray(image)
        image = Image.fromarray(np.floor_divide(wide, 257, out=np.empty(wide.shape, np.uint8), casting="unsafe"))
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB")
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, _ROWS):
        rows = image.crop((0, top, image.width, min(top + _ROWS, image.height))).convert("RGBA")
        whole.paste(Image.alpha_composite(Image.new("RGBA", rows.size, "white"), rows).convert("RGB"), (0, top))
    return whole


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(
            f"An array of shape {array.shape} is no photo: give (height, width), (height, width, 3) or (height, width, "
            "4), in RGB order."
        )
    _check_size(array.shape[1::-1], "this array")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(
                f"A photo of floats must lie in 0 to 1, but this one has {array.min():g} to {array.max():g}: divide "
                "it, or give uint8."
            )
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype == np.uint16:
        array = (array // 257).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise TypeError(f"A photo is uint8, uint16 or floats, but this array is {array.dtype}.")
    return Image.fromarray(np.ascontiguousarray(array)).copy()


def _is_url(source: str | os.PathLike) -> bool:
    return "://" in str(source)


def _read_bytes(source, name: str) -> bytes:
    if hasattr(source, "read"):
        try:
            data = source.read(MAX_BYTES + 1)
        except UnicodeDecodeError as error:
            raise TypeError(f"{name} gives text: open the photo in binary mode, 'rb'.") from error
        if not isinstance(data, bytes):
            raise TypeError(f"{name} gives {type(data).__name__}: open the photo in binary mode, 'rb'.")
        if not data:
            raise ValueError(f"{name} is empty, or has been read to its end: rewind it with seek(0).")
        check_bytes(data, name)
        return data
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"A photo is a path, a URL, a PIL image, an array or an open file, not {type(source)}.")
    return download(str(source)) if _is_url(source) else read_file(source, "photo")

"""A photograph, wherever it comes from: upright, 8-bit RGB, and of a size that was checked before it was decoded."""

import io
import os
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import requests
from PIL import Image, ImageOps
from urllib3.exceptions import HTTPError

from ..files.digests import content_digest
from ..files.images import check_pixels, decoding, open_image

MIN_SIDE = 64  # the smallest face that is read
MAX_SIDE = 4096  # what is larger is scaled down: a face is read at 512 pixels
URL_BYTES, URL_SECONDS = 64 << 20, 20.0

_ORIENTATION = 0x0112  # EXIF's tag
_HEIC = "HEIC photos need pillow-heif and its register_heif_opener()"


class Photo:
    """A photograph, decoded when its pixels are first read.

    EXIF's rotation is applied, transparency lies on white, 16-bit grey is scaled to 8 bits, and an animation is its
    current frame, which is the first one when it comes from a file.

    Args:
        source: A path, an http(s) URL, a PIL image, an open binary file, or an array (h, w), (h, w, 3) or (h, w, 4) in
            RGB order of uint8, uint16, or floats from 0 to 1.

    Attributes:
        name: Its name in errors.
        digest: 32 hexadecimal digits of its content.

    Raises:
        TypeError, ValueError: If it is none of these, or an array that is no image.
        FileNotFoundError: If there is no such file.
        OSError: If a download failed.
    """

    def __init__(self, source):
        self.name = f"'{source}'" if isinstance(source, str | os.PathLike) else f"this {type(source).__name__}"
        if isinstance(source, Image.Image):
            _check_size(source.size, self.name)
            with decoding(self.name, "cannot be decoded", "get the photo again"):
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
            image = open_image(io.BytesIO(image), self.name, "get the photo again", f" {_HEIC}.")
            _check_size(image.size, self.name)
        size = image.size
        with decoding(self.name, "cannot be decoded", "get the photo again"):
            if isinstance(self._image, bytes):
                image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # a JPEG can be decoded at a half or less
            image.load()  # a TIFF turns itself, and a PNG may say at its end how it is turned
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            image = ImageOps.exif_transpose(image)
        image = _to_rgb(image, self.name)
        if max(image.size) > MAX_SIDE:
            image.thumbnail((MAX_SIDE, MAX_SIDE))
        return (size[::-1] if turned else size), np.asarray(image)


def _check_size(size: tuple[int, int], name: str) -> None:
    check_pixels(size, name)
    if min(size) < MIN_SIDE:
        raise ValueError(f"{name} has {size[0]} × {size[1]} pixels, but a face needs at least {MIN_SIDE} a side.")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError(f"The pixels of {name} are floats of an unknown range: convert it to 8 bits.")
    if image.mode.startswith("I"):  # 16-bit grey, in PNG and TIFF files
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError(f"The pixels of {name} are integers of an unknown range: convert it to 8 bits.")
        image = Image.fromarray((wide // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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


def _read_bytes(source, name: str) -> bytes:
    if hasattr(source, "read"):
        try:
            data = source.read()
        except UnicodeDecodeError as error:
            raise TypeError(f"{name} gives text: open the photo in binary mode, 'rb'.") from error
        if not isinstance(data, bytes):
            raise TypeError(f"{name} gives {type(data).__name__}: open the photo in binary mode, 'rb'.")
        if not data:
            raise ValueError(f"{name} is empty, or has been read to its end: rewind it with seek(0).")
        return data
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"A photo is a path, a URL, a PIL image, an array or an open file, not {type(source)}.")
    if "://" in str(source):
        return _download(str(source))
    if not Path(source).is_file():
        raise FileNotFoundError(f"There is no photo {name}.")
    return Path(source).read_bytes()


def _download(url: str) -> bytes:
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"'{url}' is neither http nor https: download it, and give the file.")
    deadline, data = time.monotonic() + URL_SECONDS, bytearray()
    try:
        with requests.get(url, stream=True, timeout=min(5, URL_SECONDS)) as response:
            response.raise_for_status()
            while chunk := response.raw.read1(1 << 16, decode_content=True):  # what is there, without waiting for more
                data += chunk
                if len(data) > URL_BYTES:
                    raise ValueError(f"'{url}' has more than {URL_BYTES >> 20} MiB: give a smaller photo.")
                if time.monotonic() > deadline:
                    raise requests.Timeout(f"not done after {URL_SECONDS:g} s")
    except (requests.RequestException, HTTPError) as error:
        raise OSError(
            f"Could not download '{url}' ({error}). Check the address, or download the photo and pass the file."
        ) from error
    return bytes(data)

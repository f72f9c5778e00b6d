"""Small image files of many formats, and damaged ones of each, from a seed."""

import functools
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, features

SIDE = 72
_OTHERS = {"EPS", "ICNS", "JPEG2000", "DDS", "BLP", "PPM", "TGA", "PCX", "SGI", "ICO", "QOI"}
READABLE = {  # by us, in names of `image_files`
    *("JPEG", "progressive JPEG", "CMYK JPEG", "MPO", "PNG", "palette PNG", "16-bit PNG", "WebP", "lossy WebP"),
    *("moving WebP", "GIF", "TIFF", "LZW TIFF", "Deflate TIFF", "JPEG TIFF", "fax TIFF", "16-bit TIFF", "BMP"),
    *("palette BMP", "AVIF", "AVIF with transparency", "moving AVIF"),
}


@functools.cache
def image_files() -> dict[str, bytes]:
    """Return files by name: of the formats of photographs, and of others that Pillow writes."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    noise = np.random.default_rng(0).integers(0, 60, (SIDE, SIDE, 3))
    picture = Image.fromarray((np.stack([columns * 2, rows * 2, columns + rows], -1) + noise).astype(np.uint8))
    alpha = picture.copy()
    alpha.putalpha(Image.fromarray((rows * 3).astype(np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    grey = Image.fromarray((rows * 900).astype(np.uint16))
    turned = {"exif": exif}
    ways = {
        "JPEG": (picture, "JPEG", turned),
        "progressive JPEG": (picture, "JPEG", {"progressive": True, **turned}),
        "CMYK JPEG": (picture.convert("CMYK"), "JPEG", {}),
        "MPO": (picture, "MPO", {"save_all": True, "append_images": [picture]}),
        "PNG": (alpha, "PNG", turned),
        "palette PNG": (picture.quantize(9), "PNG", {"transparency": 3}),
        "16-bit PNG": (grey, "PNG", {}),
        "WebP": (alpha, "WEBP", {"lossless": True, **turned}),
        "lossy WebP": (picture, "WEBP", turned),
        "moving WebP": (picture, "WEBP", {"save_all": True, "append_images": [alpha]}),
        "GIF": (picture.quantize(9), "GIF", {"save_all": True, "append_images": [picture.rotate(90).quantize(9)]}),
        "TIFF": (alpha, "TIFF", turned),
        "LZW TIFF": (picture, "TIFF", {"compression": "tiff_lzw"}),
        "Deflate TIFF": (picture, "TIFF", {"compression": "tiff_deflate"}),
        "JPEG TIFF": (picture, "TIFF", {"compression": "jpeg"}),
        "fax TIFF": (picture.convert("1"), "TIFF", {"compression": "group4"}),
        "16-bit TIFF": (grey, "TIFF", {}),
        "BMP": (picture, "BMP", {}),
        "palette BMP": (picture.quantize(9), "BMP", {}),
    }
    if features.check("avif"):
        ways["AVIF"] = picture, "AVIF", {"speed": 10, **turned}
        ways["AVIF with transparency"] = alpha, "AVIF", {"speed": 10}
        ways["moving AVIF"] = picture, "AVIF", {"speed": 10, "save_all": True, "append_images": [picture.rotate(90)]}
    Image.init()
    for kind in sorted(_OTHERS & set(Image.SAVE)):
        ways[kind] = picture.quantize(9) if kind == "BLP" else picture, kind, {}
    files = {}
    for name, (image, kind, options) in ways.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged versions of a file: bytes set, bits turned, numbers made extreme, parts cut, doubled or moved."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        bad = bytearray(data)
        for _ in range(rng.integers(1, 5)):
            reach = len(bad) if rng.random() < 0.4 else min(len(bad), 300)
            if not reach:
                break
            at, kind = int(rng.integers(reach)), rng.integers(7)
            if kind == 0:
                bad[at] = rng.integers(256)
            elif kind == 1:
                bad[at] ^= 1 << rng.integers(8)
            elif kind == 2:
                extremes = "ffffffff", "00000000", "7fffffff", "0000ffff", "80000000", "00010000"
                value = bytes.fromhex(extremes[rng.integers(len(extremes))])[:: rng.choice([1, -1])]
                bad[at : at + 4] = value[: int(rng.choice([2, 4]))]
            elif kind == 3:
                del bad[at:]
            elif kind == 4:
                del bad[at : at + int(rng.integers(1, 40))]
            elif kind == 5:
                bad[at:at] = bad[at : at + int(rng.integers(1, 200))]
            else:
                other = int(rng.integers(len(bad)))
                bad[at : at + 16] = bad[other : other + 16]
        yield bytes(bad)

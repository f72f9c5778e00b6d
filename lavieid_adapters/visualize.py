"""Pictures of what the library sees."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .components import PALETTE, warp_map
from .features import FaceFeatures
from .identity import FACIAL_COMPONENTS

_HEIGHT, _MARGIN = 640, 24  # of the picture, and around what is in it


def component_overlay(pixels: np.ndarray, features: FaceFeatures) -> Image.Image:
    """A photo with its facial components drawn over it, beside the aligned face and a legend of what is masked and why.

    Args:
        pixels: The photo, (h, w, 3), uint8, RGB, as `features` were made of it.
        features: What a `FaceProcessor` gave.
    """
    height, width = pixels.shape[:2]
    in_photo = warp_map(features.component_map, features.matrix, (width, height), inverse=True)
    scale = _HEIGHT / height
    photo = _tinted(pixels, in_photo).resize((round(width * scale), _HEIGHT), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(photo)
    for i, box in enumerate(features.boxes):
        chosen = i == features.face_index
        corners = [float(v) * scale for v in box]
        draw.rectangle(corners, outline="white" if chosen else "grey", width=3 if chosen else 2)
        if len(features.boxes) > 1:
            draw.text((corners[0] + 6, corners[1] + 4), str(i), "white", ImageFont.load_default(22))

    face = _tinted(features.aligned, features.component_map).resize((320, 320), Image.Resampling.LANCZOS)
    column = _legend(features, face.width)
    picture = Image.new("RGB", (photo.width + face.width + 3 * _MARGIN, _HEIGHT + 2 * _MARGIN), "white")
    picture.paste(photo, (_MARGIN, _MARGIN))
    picture.paste(face, (photo.width + 2 * _MARGIN, _MARGIN))
    picture.paste(column, (photo.width + 2 * _MARGIN, face.height + 2 * _MARGIN))
    return picture


def _tinted(pixels: np.ndarray, component_map: np.ndarray) -> Image.Image:
    colours = np.array(PALETTE, np.float32)[component_map]
    share = np.where(component_map == 0, 0, 0.5)[..., None]
    return Image.fromarray((pixels * (1 - share) + colours * share).astype(np.uint8))


def _legend(features: FaceFeatures, width: int) -> Image.Image:
    legend = Image.new("RGB", (width, _HEIGHT - 320 - _MARGIN), "white")
    draw = ImageDraw.Draw(legend)
    shares = np.bincount(features.component_map.ravel(), minlength=len(PALETTE)) / features.component_map.size
    for i, name in enumerate(FACIAL_COMPONENTS, start=1):
        top = (i - 1) * 34
        hidden = name in features.hidden
        draw.rectangle([0, top, 26, top + 22], fill=None if hidden else PALETTE[i], outline="black")
        text = f"{name}: masked" if hidden else f"{name}: {shares[i]:.1%} of the aligned face"
        draw.text((38, top + 1), text, "grey" if hidden else "black", ImageFont.load_default(16))
        if hidden:
            draw.text((38, top + 17), features.hidden[name], "grey", ImageFont.load_default(11))
    found = "no face found: the whole image"
    if features.score is not None:
        found = f"face {features.face_index}, found with confidence {features.score:.2f}"
    draw.text((0, len(FACIAL_COMPONENTS) * 34 + 12), found, "black", ImageFont.load_default(16))
    return legend

"""Pictures of what a face processor reads from a photo."""

# h w pixels

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..faces.components import PALETTE, component_shares, warp_map
from ..faces.parts import FaceFeatures
from ..faces.photo import Photo
from ..models.identity import FACIAL_COMPONENTS

_WIDTH, _HEIGHT, _MARGIN = 1280, 640, 24  # of the photo at most, and around what is in the picture
_FACE = 320  # side of the aligned face
_ROW = 38  # of the legend


def component_overlay(photo, features: FaceFeatures) -> Image.Image:
    """Draw the facial components over a photo, beside the aligned face and a legend of what is masked and why.

    Args:
        photo: The photo that the features were read from, in any form that `FaceProcessor` takes; it is opened in the
            same way, so that a phone's photo stands upright.
        features: What the `FaceProcessor` read.

    Raises:
        ValueError, TypeError, OSError: If the photo cannot be read, or if it is not of the size that was read.
    """
    pixels = (photo if isinstance(photo, Photo) else Photo(photo)).pixels
    height, width = pixels.shape[:2]
    if features.photo_size not in (None, (width, height)):
        read = " × ".join(map(str, features.photo_size))
        raise ValueError(
            f"This photo has {width} × {height} pixels, but the features were read from one of {read}. Give the photo "
            "that was read: as an array it has lost the rotation that its file tells."
        )
    in_photo = warp_map(features.component_map, features.matrix, (width, height), inverse=True)
    scale = min(_HEIGHT / height, _WIDTH / width)
    picture = tinted(pixels, in_photo).resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for i, box in enumerate(features.boxes):
        chosen = i == features.face_index
        corners = [float(v) * scale for v in box]
        draw.rectangle(corners, outline="black", width=5 if chosen else 3)
        inner = [corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1]
        draw.rectangle(inner, outline="white", width=3 if chosen else 1)
        if len(features.boxes) > 1:
            at, font = (corners[0] + 7, corners[1] + 4), ImageFont.load_default(22)
            draw.text(at, str(i), "white", font, stroke_width=2, stroke_fill="black")

    face = tinted(features.aligned, features.component_map).resize((_FACE, _FACE), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (picture.width + face.width + 3 * _MARGIN, _HEIGHT + 2 * _MARGIN), "white")
    sheet.paste(picture, (_MARGIN, _MARGIN))
    sheet.paste(face, (picture.width + 2 * _MARGIN, _MARGIN))
    sheet.paste(_legend(features), (picture.width + 2 * _MARGIN, face.height + 2 * _MARGIN))
    return sheet


def tinted(pixels: np.ndarray, component_map: np.ndarray) -> Image.Image:
    """Mix a picture (h, w, 3), uint8, RGB, in halves with the colours of a component map (h, w) where that is not 0."""
    colours = np.array(PALETTE, np.float32)[component_map]
    share = np.where(component_map == 0, 0, 0.5)[..., None]
    return Image.fromarray((pixels * (1 - share) + colours * share).astype(np.uint8))


def _legend(features: FaceFeatures) -> Image.Image:
    legend = Image.new("RGB", (_FACE, _HEIGHT - _FACE - _MARGIN), "white")
    draw = ImageDraw.Draw(legend)
    shares = component_shares(features.component_map)
    for i, name in enumerate(FACIAL_COMPONENTS):
        top = i * _ROW
        hidden = name in features.hidden
        draw.rectangle([0, top, 26, top + 22], fill=None if hidden else PALETTE[i + 1], outline="black")
        text = f"{name}: masked" if hidden else f"{name}: {shares[i]:.1%} of the aligned face"
        draw.text((38, top + 1), text, "grey" if hidden else "black", ImageFont.load_default(16))
        if hidden:
            draw.text((38, top + 17), features.hidden[name], "grey", ImageFont.load_default(11))
    found = "no face found: the whole image"
    if features.score is not None:
        found = f"face {features.face_index}, found with confidence {features.score:.2f}"
    draw.text((0, len(FACIAL_COMPONENTS) * _ROW + 8), found, "black", ImageFont.load_default(16))
    return legend

"""The facial components in a photo: which pixel belongs to which, which of them can be seen, and their images."""

# m components · h w pixels of the aligned face · s side of a component's image

import os
from collections.abc import Container, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..files.images import check_image, decoding, open_labels
from ..models.identity import FACIAL_COMPONENTS

# A component map holds 0 for none of them, and 1 to 6 for FACIAL_COMPONENTS in their order.
NUM_CLASSES = len(FACIAL_COMPONENTS) + 1
ALIGNED_SIZE = 512  # side of an aligned face
GREY = (135, 133, 132)  # beside the photo in it, as in facexlib's alignment
UNKNOWN = 255  # in the component map of a video's frame in which no face was found
PALETTE = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (213, 94, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167),
)  # fmt: skip

# The 19 classes of CelebAMask-HQ, which BiSeNet knows, in their order. Glasses go with the eyes that they cover and are
# part of how somebody looks; ears are skin. What is worn or is no part of the face (hat, earrings, necklace, neck,
# clothes) belongs to no component: the prompt decides on it.
CELEBAMASK_CLASSES = {
    "background": None,
    "skin": "skin",
    "left eyebrow": "eyebrows",
    "right eyebrow": "eyebrows",
    "left eye": "eyes",
    "right eye": "eyes",
    "glasses": "eyes",
    "left ear": "skin",
    "right ear": "skin",
    "earring": None,
    "nose": "nose",
    "inner mouth": "mouth",
    "upper lip": "mouth",
    "lower lip": "mouth",
    "neck": None,
    "necklace": None,
    "clothes": None,
    "hair": "hair",
    "hat": None,
}
# The same as a table that class ids index.
CELEBAMASK_TO_COMPONENT = np.array(
    [0 if name is None else 1 + FACIAL_COMPONENTS.index(name) for name in CELEBAMASK_CLASSES.values()], np.uint8
)


def read_component_map(source, size: tuple[int, int]) -> np.ndarray:
    """Return a user's segmentation of a whole photo, (height, width) of uint8, 0 to 6.

    Args:
        source: An array of class ids, or the path of an image, or a PIL image: a palette PNG or a grey one, whose
            values are the class ids, 0 for nothing and 1 to 6 for `FACIAL_COMPONENTS`.
        size: Width and height of the upright photo.

    Raises:
        ValueError, TypeError: If it has another size than the photo, other classes, or colours instead of classes.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(source, str | os.PathLike):
        source = open_labels(source, "component_map", size)
    if isinstance(source, Image.Image):
        if source.mode not in ("P", "L", "1"):
            raise ValueError(
                f"component_map is an image of mode {source.mode}, but must be a palette or a grey one, whose values "
                "are class ids."
            )
        check_image(source, "component_map")
        with decoding("component_map", "cannot be decoded", "save it again"):
            source = np.asarray(source)
    if not isinstance(source, np.ndarray) or source.dtype.kind not in "biu":
        kind = getattr(source, "dtype", type(source).__name__)
        raise TypeError(f"component_map is {kind}, but must be an image or an array of integers.")
    if source.shape != size[::-1]:
        raise ValueError(
            f"component_map has shape {source.shape}, but the photo is {size[::-1]} (height, width): segment the "
            "upright photo at its own size."
        )
    unknown = sorted(set(np.unique(source).tolist()) - set(range(NUM_CLASSES)))
    if unknown:
        raise ValueError(
            f"component_map has the classes {', '.join(map(str, unknown[:8]))}, but 0 is nothing and 1 to 6 are "
            f"{', '.join(FACIAL_COMPONENTS)}. For CelebAMask-HQ's 19 classes use CELEBAMASK_TO_COMPONENT[class_ids]."
        )
    return source.astype(np.uint8)


def warp_map(component_map: np.ndarray, matrix: np.ndarray, size: tuple[int, int], inverse: bool = False) -> np.ndarray:
    """Return a map (h, w) under an affine matrix (2, 3), or its inverse, in `size` (width, height); 0 beside it."""
    if inverse:
        matrix = _inverse(matrix)
    return _warped(component_map, matrix, size)


def warp_picture(
    picture: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: tuple[int, int, int]
) -> np.ndarray:
    """Return a picture (h, w, 3), uint8, under an affine matrix (2, 3), in `size` (width, height); `fill` beside it."""
    return _warped(picture, matrix, size, Image.Resampling.BILINEAR, fillcolor=fill)


def whole_picture(picture: np.ndarray, side: int, fill: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (h, w, 3), uint8, scaled into the middle of a square (side, side, 3) of the colour `fill`, and
    the matrix (2, 3) from its pixels to the square's."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = round(width * scale), round(height * scale)
    corner = [(side - length) // 2 for length in size]
    square = Image.new("RGB", (side, side), fill)
    square.paste(Image.fromarray(picture).resize(size), tuple(corner))
    # Pixel i of n covers i to i + 1, and its middle is where matrices count from.
    matrix = [[scale, 0, corner[0] + (scale - 1) / 2], [0, scale, corner[1] + (scale - 1) / 2]]
    return np.asarray(square), np.array(matrix)


def _warped(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int], *how, **more) -> np.ndarray:
    matrix = _inverse(matrix)  # Pillow asks where each pixel of the result comes from
    # Our matrices count from the middle of a pixel, Pillow's from its corner.
    shift = 0.5 - matrix[:, :2].sum(1) / 2
    data = np.hstack([matrix[:, :2], matrix[:, 2:] + shift[:, None]]).ravel().tolist()
    return np.asarray(Image.fromarray(pixels).transform(size, Image.Transform.AFFINE, data, *how, **more))


def _inverse(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]


def component_shares(component_map: np.ndarray) -> np.ndarray:
    """Return the share of a component map (h, w) that each component takes, (m,)."""
    return np.bincount(component_map.ravel(), minlength=NUM_CLASSES)[1:] / component_map.size


def hidden_components(component_map: np.ndarray, min_area: float) -> dict[str, str]:
    """Return the components that a component map (h, w) does not show well enough, with the reason.

    Args:
        component_map: 0 to 6.
        min_area: The share of the map that a component needs.
    """
    reasons = {}
    for name, share in zip(FACIAL_COMPONENTS, component_shares(component_map), strict=True):
        if share == 0:
            reasons[name] = "not in the photo"
        elif share < min_area:
            reasons[name] = f"too small: {share:.3%} of the aligned face, under {min_area:.3%}"
    return reasons


def component_mask(hidden: Container[str]) -> np.ndarray:
    """Return True for each component that is not `hidden`, (m,), bool."""
    return np.array([name not in hidden for name in FACIAL_COMPONENTS])


def component_images(
    aligned: np.ndarray, component_map: np.ndarray, hidden: Mapping[str, str], size: int, grayscale: bool = False
) -> np.ndarray:
    """Return each component alone on white, in the square around it: (m, s, s, 3), uint8; all white where it is hidden.

    Args:
        aligned: The aligned face, (h, w, 3), uint8, RGB.
        component_map: (h, w), 0 to 6.
        hidden: The components that are left white.
        size: Side s of an image.
        grayscale: Take the colours away, as ConsisID does.
    """
    if grayscale:
        aligned = np.asarray(Image.fromarray(aligned).convert("L").convert("RGB"))
    face = torch.tensor(aligned)
    images = torch.full((len(FACIAL_COMPONENTS), size, size, 3), 255, dtype=torch.uint8)
    for i, name in enumerate(FACIAL_COMPONENTS):
        if name in hidden:
            continue
        shown = component_map == i + 1
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part = torch.where(torch.from_numpy(shown[inside])[..., None], face[inside], 255)
        side = round(1.1 * max(part.shape[:2]))
        square = part.new_full((side, side, 3), 255)
        top, left = ((side - length) // 2 for length in part.shape[:2])
        square[top : top + part.shape[0], left : left + part.shape[1]] = part
        # In this layout PyTorch's antialiased resizing gives what Pillow's does, in a quarter of the time.
        square = F.interpolate(square.permute(2, 0, 1)[None], (size, size), mode="bicubic", antialias=True)
        images[i] = square[0].permute(1, 2, 0)
    return images.numpy()

"""Photographs of drawn people → facial components: the parts of a face processor that need no download."""

# h w pixels of the photo · m components

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...faces.components import component_images, hidden_components, warp_map
from ...faces.vision import VisionModel
from ..pipeline import weights_folder
from .alignment import Aligner
from .drawn_faces import DrawnFaces

COMPONENT_SIZE = 48  # side of the images that the vision model sees
MIN_AREA = 0.0005  # share of the aligned face that a component needs
MIN_FACE = 24  # side in pixels below which a face is refused: those of a clip are smaller than those of a photo


def reading_parts(
    folder: str | os.PathLike | None = None, *, num_scales: int = 2, dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """Return the arguments of a `FaceProcessor` of drawn people, each loaded on first use and none downloaded.

    This is the photo reader "puppets", which `setup.cfg` registers.

    Args:
        folder: One with `face/` and `vision/`, other than the package's.
        num_scales: Number of the vision model's feature maps.
        dtype: In which the vision model computes; None is bfloat16 on a GPU and float32 elsewhere.

    Returns:
        The processor's arguments.

    Raises:
        FileNotFoundError: If `face/` or `vision/` is not there, or the package's weights are not.
    """
    folder = weights_folder() if folder is None else Path(folder)
    missing = [f"{name}/" for name in ("face", "vision") if not (folder / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"'{folder}' has no {' and no '.join(missing)}, by which photos of drawn people are read. Give the folder "
            "that benchmarks/puppets/train_sight.py wrote."
        )
    faces = DrawnFaces(folder / "face")
    return {
        "detectors": (faces,),
        "recognizer": faces,
        "aligner": Aligner(),
        "parser": faces,
        "vision": VisionModel(folder / "vision", num_scales, dtype, local_files_only=True),
        "min_face": MIN_FACE,
        "min_area": MIN_AREA,
    }


def aligned_components(
    image: np.ndarray, component_map: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, str], np.ndarray]:
    """Return what the face processor makes of a photo, given a component map and landmarks that are known.

    Args:
        image: The photo, (h, w, 3), uint8, RGB.
        component_map: Its components, (h, w), uint8, 0 to 6.
        landmarks: The eyes, the nose and the corners of the mouth, left to right, (5, 2), in pixels from the upper left
            corner, as `Photos` has them.

    Returns:
        The aligned face (512, 512, 3), its map (512, 512), the hidden components with the reason, and each component
        alone on white (m, 48, 48, 3); all of uint8.

    Raises:
        ValueError: If the map is not of the photo's size.
    """
    if image.shape[:2] != component_map.shape:
        raise ValueError(f"component_map has shape {component_map.shape}, but the photo is {image.shape[:2]}.")
    aligned, matrix = Aligner().align(image, np.asarray(landmarks) - 0.5)  # as pixels are counted here
    aligned_map = warp_map(component_map, matrix, aligned.shape[1::-1])
    hidden = hidden_components(aligned_map, MIN_AREA)
    return aligned, aligned_map, hidden, component_images(aligned, aligned_map, hidden, COMPONENT_SIZE)

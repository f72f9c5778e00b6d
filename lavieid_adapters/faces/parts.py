"""What a photo shows of a face, from the aligned picture to the features that the local encoder takes."""

# m components · n faces of the photo · s side of a component's image · p tokens of a ViT feature map · c its width

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .components import component_mask


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """A face in a photo.

    Attributes:
        box: Left, top, right and bottom, (4,), in pixels; may reach beyond the photo.
        score: The detector's confidence, 0 to 1.
        landmarks: x and y of the eyes, the nose and the corners of the mouth, left to right in the picture, (5, 2).

    Raises:
        ValueError: If they are not numbers of these shapes.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray

    def __post_init__(self):
        for name, shape in (("box", (4,)), ("landmarks", (5, 2))):
            value = np.asarray(getattr(self, name), dtype=np.float32)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"A detected face's {name} is {value.tolist()}, but must be finite, of shape {shape}.")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "score", float(self.score))


@dataclass(frozen=True, eq=False, repr=False)
class FaceFeatures:
    """What a photo shows of a face.

    Pixels of the photo are those of the upright one, scaled down where it has more than 4096 a side.

    Attributes:
        aligned: The aligned face, (512, 512, 3), uint8, RGB.
        component_map: Component of each pixel of `aligned`, (512, 512), uint8; 0 for none, 1 to 6 for
            `FACIAL_COMPONENTS`.
        component_images: Each component alone on white, (m, s, s, 3), uint8, RGB; all white where it is hidden.
        hidden: The components that the photo does not show, with the reason.
        matrix: From the photo's pixels to those of `aligned`, (2, 3).
        boxes: All faces from left to right, (n, 4): left, top, right and bottom in pixels of the photo.
        face_index: Which of them it is; None if the whole image was taken.
        landmarks: Its eyes, nose and corners of the mouth, (5, 2), in pixels of the photo; None likewise.
        score: The detector's confidence, 0 to 1; None likewise.
        id_embedding: Identity embedding, (512,), float32; None without a recognizer.
        vit_embeds: Embedding of each component, (m, projection), float32, of length 1, 0 where it is hidden; None
            without a vision model.
        vit_hidden_states: Feature maps, each (m, p, c), float32, 0 where it is hidden; None likewise.
    """

    aligned: np.ndarray
    component_map: np.ndarray
    component_images: np.ndarray
    hidden: Mapping[str, str]
    matrix: np.ndarray
    boxes: np.ndarray
    face_index: int | None = None
    landmarks: np.ndarray | None = None
    score: float | None = None
    id_embedding: Tensor | None = None
    vit_embeds: Tensor | None = None
    vit_hidden_states: tuple[Tensor, ...] | None = None

    def __repr__(self) -> str:
        found = "the whole image" if self.score is None else f"face {self.face_index}, score {self.score:.2f}"
        hidden = ", ".join(f"{name} ({reason})" for name, reason in self.hidden.items())
        return f"FaceFeatures({found}, of {len(self.boxes)} found, hidden: {hidden or 'none'})"

    @property
    def mask(self) -> Tensor:
        """(m,), bool; False where the photo does not show the component."""
        return torch.from_numpy(component_mask(self.hidden))

    @property
    def id_embeds(self) -> Tensor:
        """What `LocalFacialEncoder` takes: the identity embedding beside each component's, (1, m, 512 + projection)."""
        return join_embeds(self.id_embedding[None], self.vit_embeds[None])


def component_features(vision, images: np.ndarray, mask: np.ndarray) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A vision model's features of the components that can be seen; 0 for the others.

    Args:
        vision: Has `encode`, as `VisionModel`.
        images: (..., m, s, s, 3), uint8, RGB.
        mask: (..., m), bool; False where a component is hidden.

    Returns:
        Embeddings (..., m, projection) and feature maps, each (..., m, p, c), on the device of the model.
    """
    embeds, maps = vision.encode(images[mask])
    filled = [v.new_zeros(*mask.shape, *v.shape[1:]) for v in (embeds, *maps)]
    shown = torch.from_numpy(mask)
    for whole, part in zip(filled, (embeds, *maps), strict=True):
        whole[shown] = part
    return filled[0], tuple(filled[1:])


def join_embeds(id_embedding: Tensor, vit_embeds: Tensor) -> Tensor:
    """What `LocalFacialEncoder` takes: the identity embedding (b, i) beside each component's (b, m, projection)."""
    identity = id_embedding.to(vit_embeds)[:, None].expand(-1, vit_embeds.shape[1], -1)
    return torch.cat([identity, vit_embeds], dim=-1)

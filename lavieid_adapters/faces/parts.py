"""The parts of a `FaceProcessor` as protocols, and the values that they exchange.

To read faces by a model of your own, write a class with the one method of a part and pass it to `FaceProcessor`;
nothing needs to be subclassed or registered. `README.md` in this folder shows each. A part may also have

    fingerprint: str              changes with its results; without it no identity is cached on disk
    place(device, offload)        moves it to a `torch.device`, or on to the CPU between uses

`lazy_model.LazyModel` gives a torch model both, and loads it on first use.
"""

# h w pixels of a photo · m components · n faces of the photo · s side of a component's image
# p tokens of a ViT feature map · c its width

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .components import component_mask


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """A face in a photo, in pixels counted from the middle of the upper left one.

    Attributes:
        box: Left, top, right and bottom, (4,), in pixels; may reach beyond the photo.
        score: The detector's confidence, 0 to 1.
        landmarks: x and y of the eyes, the nose and the corners of the mouth, left to right in the picture, (5, 2).

    Raises:
        ValueError: If they are not finite numbers of these shapes.
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
        score = float(self.score)
        if not math.isfinite(score):
            raise ValueError(f"A detected face's score is {score}, but must be finite, from 0 to 1.")
        object.__setattr__(self, "score", score)


class Detector(Protocol):
    """A model that finds faces."""

    def detect(self, image: np.ndarray, /) -> Sequence[DetectedFace]:
        """Find the faces in an image (h, w, 3), uint8, RGB, in any order; an empty list if there is none."""
        ...


class Recognizer(Protocol):
    """A model that tells people apart."""

    def embed(self, image: np.ndarray, landmarks: np.ndarray | None, /) -> np.ndarray | Tensor:
        """Return an identity embedding, (d,), finite; ArcFace's d is 512.

        Args:
            image: (h, w, 3), uint8, RGB.
            landmarks: Eyes, nose and corners of the mouth of the face, (5, 2), float32, in pixels of the image; None if
                the image as a whole is the face.
        """
        ...


class Aligner(Protocol):
    """A rule that cuts a face out of a photo, upright and of one size."""

    def align(self, image: np.ndarray, landmarks: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Return the aligned face, (512, 512, 3), uint8, RGB, and the matrix (2, 3) from the image's pixels to its own.

        Args:
            image: (h, w, 3), uint8, RGB.
            landmarks: As for `Recognizer.embed`.
        """
        ...


class Parser(Protocol):
    """A model that segments an aligned face."""

    def parse(self, aligned: np.ndarray, /) -> np.ndarray:
        """Return the component of each pixel, (512, 512), uint8: 0 for none, 1 to 6 for `FACIAL_COMPONENTS`.

        `CELEBAMASK_TO_COMPONENT[class_ids]` converts the 19 classes of CelebAMask-HQ.

        Args:
            aligned: (512, 512, 3), uint8, RGB.
        """
        ...


class VisionEncoder(Protocol):
    """A vision transformer that describes the image of a component.

    A `num_scales` and a `name` beside these are compared with the encoder's config.
    """

    @property
    def image_size(self) -> int:
        """Side s of the images."""
        ...

    def encode(self, images: np.ndarray, /) -> tuple[Tensor, Sequence[Tensor]]:
        """Return embeddings (m, projection) of length 1, and `num_scales` feature maps (m, p, c), all float32.

        Args:
            images: (m, s, s, 3), uint8, RGB.
        """
        ...


@dataclass(frozen=True, eq=False, repr=False)
class FaceFeatures:
    """Everything that a `FaceProcessor` reads from a photo.

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
        id_embedding: Identity embedding, (d,), float32, of ArcFace d is 512; None without a recognizer.
        vit_embeds: Embedding of each component, (m, projection), float32, of length 1, 0 where it is hidden; None
            without a vision model.
        vit_hidden_states: Feature maps, each (m, p, c), float32, 0 where it is hidden; None likewise.
        photo_size: Width and height of the photo, in its pixels; None if unknown.
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
    photo_size: tuple[int, int] | None = None

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
        """Embeddings for `LocalFacialEncoder`, (1, m, d + projection): the identity's beside each component's.

        Raises:
            ValueError: If the processor had no recognizer or no vision model.
        """
        if self.id_embedding is None or self.vit_embeds is None:
            lacking = "recognizer" if self.id_embedding is None else "vision model"
            raise ValueError(f"These features were read without a {lacking}. Give the FaceProcessor one.")
        return join_embeds(self.id_embedding[None], self.vit_embeds[None])


def check_part(name: str, value: Any, protocol: type) -> Any:
    """Return `value`, an object with the methods and attributes of a protocol.

    Raises:
        TypeError: If it lacks one, or is a class.
    """
    members = [member for member in vars(protocol) if member[0] != "_"]
    # Properties are not called: the image size of a model may have to be read from files that are not downloaded yet.
    lacking = [member for member in members if inspect.getattr_static(value, member, None) is None]
    if isinstance(value, type) or (lacking and not hasattr(value, "__getattr__")):
        raise TypeError(
            f"{name} takes an object with {' and '.join(members)}, but got {value!r}. See {protocol.__name__} in "
            "lavieid_adapters/faces/parts.py."
        )
    return value


def component_features(
    vision: VisionEncoder, images: np.ndarray, mask: np.ndarray
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return a vision model's features of the components that can be seen; 0 for the others.

    Args:
        vision: The model, of which `encode` alone is called.
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
    """Return what `LocalFacialEncoder` takes, (b, m, i + projection).

    Args:
        id_embedding: The identity embedding, (b, i).
        vit_embeds: The embedding of each component, (b, m, projection).
    """
    identity = id_embedding.to(vit_embeds)[:, None].expand(-1, vit_embeds.shape[1], -1)
    return torch.cat([identity, vit_embeds], dim=-1)

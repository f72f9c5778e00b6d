"""A drawn world of people whose faces move, with a detector and a parser that read its pixels by their colours.

It stands for a folder of real clips, and for the face models that would be downloaded. Each facial component has a hue
of its own, and each person a shade of it, so that a parser needs no weights.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lavieid_adapters import FACIAL_COMPONENTS, DetectedFace, FaceProcessor
from lavieid_adapters.visualize.route_video import write_video

HEIGHT, WIDTH, FRAMES, FPS = 192, 256, 17, 8
BACKGROUND = (90, 110, 140)
# Hues far from each other and from the background; a person's shade is one of them, lighter or darker.
HUES = {
    "eyebrows": (20, 160, 60), "eyes": (235, 235, 245), "mouth": (210, 30, 50), "nose": (240, 120, 20),
    "skin": (240, 200, 150), "hair": (70, 30, 110),
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """Somebody of the drawn world: a colour for each facial component, and how wide the face is."""

    colours: dict
    width: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Person":
        """Somebody new."""
        shades = {name: rng.uniform(0.85, 1.1) for name in FACIAL_COMPONENTS}
        colours = {n: tuple(int(min(255, v * shades[n] + rng.uniform(-8, 8))) for v in HUES[n]) for n in HUES}
        return cls(colours, rng.uniform(0.85, 1.1))

    def draw(self, x: float, y: float, size: float, background: tuple[int, int, int] = BACKGROUND) -> np.ndarray:
        """A frame (h, w, 3) with the face around (x, y), `size` pixels from chin to hair."""
        image = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), background)  # twice the size, so that edges become smooth
        draw = ImageDraw.Draw(image)
        for component, shape, boxes in (
            ("hair", draw.ellipse, [(-0.47, -0.56, 0.47, 0.38)]),
            ("skin", draw.ellipse, [(-0.36, -0.36, 0.36, 0.5)]),
            ("eyebrows", draw.rectangle, [(-0.31, -0.27, -0.06, -0.17), (0.06, -0.27, 0.31, -0.17)]),
            ("eyes", draw.ellipse, [(-0.3, -0.14, -0.07, 0.04), (0.07, -0.14, 0.3, 0.04)]),
            ("nose", draw.rectangle, [(-0.06, -0.02, 0.06, 0.2)]),
            ("mouth", draw.ellipse, [(-0.2, 0.24, 0.2, 0.4)]),
        ):
            for left, top, right, bottom in boxes:
                across, down = size * self.width, size
                corners = (x + left * across, y + top * down, x + right * across, y + bottom * down)
                shape([2 * v for v in corners], fill=self.colours[component])
        return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def draw_clip(person: Person, rng: np.random.Generator, path: Path, seconds: float = 2.5) -> None:
    """A person who sways, as a video file."""
    x, y, size = WIDTH * rng.uniform(0.42, 0.58), HEIGHT * rng.uniform(0.48, 0.54), HEIGHT * rng.uniform(0.72, 0.85)
    sway, phase = rng.uniform(4, 14), rng.uniform(0, 2 * math.pi)
    background = tuple(int(v + rng.uniform(-15, 15)) for v in BACKGROUND)
    places = [2 * math.pi * i / (FPS * seconds) + phase for i in range(round(FPS * seconds))]
    frames = (person.draw(x + sway * math.sin(t), y + 3 * math.cos(2 * t), size, background) for t in places)
    write_video(frames, path, FPS)


class ColourParser:
    """Tells the components by the hue that is nearest to each pixel's colour, in a table of 32 × 32 × 32 colours."""

    fingerprint = "drawn-faces-1"

    def __init__(self):
        levels = np.arange(4, 256, 8, dtype=np.float32)
        colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
        hues = np.array([BACKGROUND, *(HUES[name] for name in FACIAL_COMPONENTS)], np.float32)
        self._nearest = ((colours[..., None, :] - hues) ** 2).sum(-1).argmin(-1).astype(np.uint8)

    def parse(self, aligned: np.ndarray) -> np.ndarray:
        """(h, w, 3), uint8 → (h, w), 0 to 6."""
        red, green, blue = np.moveaxis(aligned >> 3, -1, 0)
        return self._nearest[red, green, blue]


class ColourDetector:
    """Finds the one face of a frame by the places of its components."""

    fingerprint = "drawn-faces-1"

    def __init__(self):
        self._parser = ColourParser()

    def detect(self, image: np.ndarray) -> list[DetectedFace]:
        """The face, if there is one of some size."""
        parts = self._parser.parse(image)
        where = {name: np.argwhere(parts == 1 + i)[:, ::-1] for i, name in enumerate(FACIAL_COMPONENTS)}
        if min(len(where[name]) for name in ("eyes", "nose", "mouth", "skin")) < 20:
            return []
        middle = where["nose"].mean(0)
        eyes, mouth = where["eyes"], where["mouth"]
        landmarks = [
            eyes[eyes[:, 0] < middle[0]].mean(0), eyes[eyes[:, 0] >= middle[0]].mean(0), middle,
            mouth[mouth[:, 0].argmin()], mouth[mouth[:, 0].argmax()],
        ]  # fmt: skip
        face = np.concatenate([where["skin"], where["hair"]])
        return [DetectedFace(np.concatenate([face.min(0), face.max(0)]), 1.0, np.array(landmarks))]


class EyeAligner:
    """Brings the eyes to a fixed place in a square of 512 pixels."""

    fingerprint = "drawn-faces-1"

    def align(self, image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The square, and the matrix (2, 3) that leads to it."""
        left, right = landmarks[:2]
        scale = 150 / np.linalg.norm(right - left)
        shift = np.array([256, 250]) - scale * (left + right) / 2
        data = (1 / scale, 0, -shift[0] / scale, 0, 1 / scale, -shift[1] / scale)
        aligned = Image.fromarray(image).transform(
            (512, 512), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=BACKGROUND
        )
        return np.asarray(aligned), np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


class ColourRecognizer:
    """Knows somebody by the brightness of the face's places."""

    fingerprint = "drawn-faces-1"

    def embed(self, image: np.ndarray, landmarks) -> np.ndarray:
        """(h, w, 3) → (512,)."""
        if landmarks is not None:
            image, _ = EyeAligner().align(image, landmarks)
        return np.asarray(Image.fromarray(image).convert("L").resize((32, 16)), np.float32).ravel() / 255


def drawn_faces(vision=None) -> FaceProcessor:
    """Reads the people of this world."""
    return FaceProcessor([ColourDetector()], ColourRecognizer(), EyeAligner(), ColourParser(), vision)

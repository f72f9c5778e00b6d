"""Small videos, of drawn people whose faces are known exactly, and what reads them."""

import json
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw
from support.small_cogvideox import small_components

from lavieid_adapters import DetectedFace, FaceProcessor

FPS = 8
RED, GREEN, BLUE = (200, 60, 60), (60, 180, 60), (60, 60, 200)  # of three people's faces
# x and y of the eyes, the nose and the corners of the mouth: in radii from the middle of a drawn face, and in an
# aligned one of 512 pixels, where its middle is at 256 and its radius is 200.
LANDMARKS = np.array([(-0.35, -0.25), (0.35, -0.25), (0, 0.08), (-0.3, 0.4), (0.3, 0.4)])
ALIGNED = 256 + 200 * LANDMARKS


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    rate: int = FPS,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    rotation: int | None = None,
    matrix: Sequence[int] | None = None,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """A video of frames (h, w, 3), uint8, RGB, `rate` a second, or shown at `times` in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            stream.codec_context.options = {"qp": "0"}
        else:
            stream.bit_rate = 4_000_000
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def draw(*people: tuple[tuple[int, int, int], float, float, float], size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A picture (height, width) of faces, each a colour, x and y of the middle, and a radius."""
    image = Image.new("RGB", size[::-1], (128, 128, 128))
    for colour, x, y, radius in people:
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image)


def walk(colour=RED, frames: int = 9, start: float = 36, radius: float = 20) -> list[np.ndarray]:
    """Somebody who moves three pixels a frame to the right."""
    return [draw((colour, start + 3 * i, 32, radius)) for i in range(frames)]


class DrawnFaces:
    """Detector, recognizer, aligner and parser of drawn faces."""

    fingerprint = "drawn"

    def detect(self, image):
        return [face for colour in (RED, GREEN, BLUE) if (face := _face(image, colour)) is not None]

    def embed(self, image, landmarks):
        x, y = (256, 256) if landmarks is None else landmarks[2].round().astype(int)
        colour = image[np.clip(y, 0, len(image) - 1), np.clip(x, 0, image.shape[1] - 1)].astype(np.float32) - 127.5
        return np.random.default_rng(0).standard_normal((512, 3), np.float32) @ colour

    def align(self, image, landmarks):
        radius = (landmarks[1, 0] - landmarks[0, 0]) / 0.7
        x, y = landmarks[2] - (0, 0.08 * radius)
        scale = 200 / radius
        steps = (np.arange(512) - 256) / scale
        rows, columns = (
            np.clip((steps + v).round().astype(int), 0, n - 1) for v, n in zip((y, x), image.shape, strict=False)
        )
        return image[rows][:, columns], np.array([[scale, 0, 256 - scale * x], [0, scale, 256 - scale * y]])

    def parse(self, aligned):
        return _components().copy()


@cache
def _components() -> np.ndarray:
    """An aligned face's components: hair in the upper part, skin below, and the rest where the landmarks are."""
    components = np.zeros((512, 512), np.uint8)
    rows, columns = np.mgrid[:512, :512]
    face = (rows - 256) ** 2 + (columns - 256) ** 2 < 196**2
    components[face] = 5
    components[face & (rows < 140)] = 6
    for (x, y), component in zip(ALIGNED, (2, 2, 4, 3, 3), strict=True):
        components[(abs(rows - y) < 16) & (abs(columns - x) < 24)] = component
        if component == 2:
            components[(abs(rows - y + 36) < 8) & (abs(columns - x) < 30)] = 1
    return components


def _face(image: np.ndarray, colour: tuple[int, int, int]) -> DetectedFace | None:
    """The face of a colour, if there is one: what compression leaves of it is near enough."""
    there = np.abs(image.astype(int) - colour).sum(-1) < 60
    rows, columns = np.flatnonzero(there.sum(1) > 2), np.flatnonzero(there.sum(0) > 2)
    if len(rows) < 8 or len(columns) < 8:
        return None
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    radius = max(right - left, bottom - top) / 2
    middle = np.array([(left + right - 1) / 2, (top + bottom - 1) / 2])  # counted from the middle of a pixel
    return DetectedFace([left, top, right, bottom], 0.9, middle + radius * LANDMARKS)


def drawn_faces(**parts) -> FaceProcessor:
    """A processor of drawn faces."""
    drawn = DrawnFaces()
    given = {"detectors": [drawn], "recognizer": drawn, "aligner": drawn, "parser": drawn, "min_face": 16}
    return FaceProcessor(**{**given, **parts})


def save_base(folder: Path) -> Path:
    """A small CogVideoX pipeline."""
    from diffusers import CogVideoXPipeline

    CogVideoXPipeline(**small_components()).save_pretrained(folder)
    return folder


def write_clips(path: Path, *clips: dict) -> Path:
    """A clips.jsonl."""
    path.write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    return path

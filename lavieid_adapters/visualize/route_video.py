"""Videos and contact sheets of generated frames, with the router's maps beside them."""

# f frames · h w pixels · m components · H W token grid

import math
import os
import textwrap
from collections.abc import Iterable, Sequence
from itertools import chain
from numbers import Integral

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..faces.components import PALETTE

_HEIGHT, _MARGIN = 240, 8  # of a picture in a contact sheet, and between two


def route_overlay(frame: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return a frame in grey under the colours of the components that its tokens are routed to, (h, w, 3), uint8.

    Args:
        frame: (h, w, 3), uint8, RGB.
        weights: w of eq. 2, (m, H, W), of six components at most; the share that they leave to 1 has no colour.

    Raises:
        ValueError: If a shape does not fit.
    """
    if weights.ndim != 3 or len(weights) >= len(PALETTE):
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}, but must be (components, rows, columns) of at most "
            f"{len(PALETTE) - 1} components: as many have a colour."
        )
    height, width = frame.shape[:2]
    colours = np.einsum("mHW,mc->HWc", weights, np.array(PALETTE[1 : 1 + len(weights)], np.float32))
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in (
        *np.moveaxis(colours.astype(np.float32), -1, 0), weights.sum(0).astype(np.float32)
    )]  # fmt: skip
    *coloured, share = (np.asarray(plane)[..., None] for plane in planes)
    grey = np.asarray(Image.fromarray(frame).convert("L"), np.float32)[..., None]
    mixed = 0.45 * grey + 0.55 * (np.concatenate(coloured, axis=-1) + (1 - share) * grey)
    return mixed.clip(0, 255).astype(np.uint8)


def of_frames(weights: np.ndarray, frames: int) -> np.ndarray:
    """Return the route weights of each frame of a video, (f, m, H, W), from those of the latent frames, (m, F, H, W).

    A latent frame but the first stands for several frames.
    """
    latent = weights.shape[1] - 1
    index = [math.ceil(i * latent / max(1, frames - 1)) for i in range(frames)]
    return weights[:, index].swapaxes(0, 1)


def side_by_side(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Join two videos (f, h, w, 3) into one: beside each other, or if they are wide, one above the other."""
    return np.concatenate([first, second], axis=2 if first.shape[2] <= first.shape[1] else 1)


def video_sheet(reference: np.ndarray, frames: Sequence[np.ndarray], caption: str) -> Image.Image:
    """Draw a reference and frames in a row, with a caption below.

    Args:
        reference, frames: (h, w, 3), uint8, RGB.
        caption: Any text.
    """
    pictures = [Image.fromarray(p) for p in (reference, *frames)]
    pictures = [p.resize((round(p.width * _HEIGHT / p.height), _HEIGHT), Image.Resampling.LANCZOS) for p in pictures]
    width = sum(p.width for p in pictures) + _MARGIN * (len(pictures) + 1)
    lines = textwrap.wrap(caption, width=max(20, width // 9), max_lines=3, placeholder=" …") or [""]
    sheet = Image.new("RGB", (width, _HEIGHT + 2 * _MARGIN + 22 * len(lines)), "white")
    left = _MARGIN
    for picture in pictures:
        sheet.paste(picture, (left, _MARGIN))
        left += picture.width + _MARGIN
    text = "\n".join(lines)
    ImageDraw.Draw(sheet).multiline_text((_MARGIN, _HEIGHT + 12), text, "black", ImageFont.load_default(16), spacing=4)
    return sheet


def write_video(frames: Iterable[np.ndarray], path: str | os.PathLike, fps: int = 8) -> None:
    """Write frames (h, w, 3), uint8, RGB, as H.264, without an odd last row or column, which the format cannot hold.

    Raises:
        ValueError: If `fps` is less than 1 or no whole number, or if there is no frame.
    """
    import av  # here, so that the package's names load without it

    if isinstance(fps, bool) or not isinstance(fps, Integral) or fps < 1:
        raise ValueError(f"fps is {fps!r}, but must be a whole number of at least 1.")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"There is no frame to write to '{os.fspath(path)}'. Give one at least.")
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("libx264", rate=int(fps), options={"crf": "18"})
        stream.height, stream.width = (length // 2 * 2 for length in first.shape[:2])
        stream.pix_fmt = "yuv420p"
        for frame in chain([first], frames):
            even = np.ascontiguousarray(frame[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode(None))

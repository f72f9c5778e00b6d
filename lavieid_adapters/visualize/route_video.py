"""Videos and contact sheets of what was generated, with the router's maps beside it."""

# f frames · h w pixels · m components · H W token grid

import math
import os
import textwrap
from collections.abc import Iterable, Sequence

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..faces.components import PALETTE

_HEIGHT, _MARGIN = 240, 8  # of a picture in a contact sheet, and between two


def route_overlay(frame: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A frame in grey under the colours of the components that its tokens are routed to.

    Args:
        frame: (h, w, 3), uint8, RGB.
        weights: w of eq. 2, (m, H, W); what they leave to 1 is nobody's, and has no colour.

    Returns:
        (h, w, 3), uint8.
    """
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
    """The route weights of each frame of a video, (f, m, H, W), of those of latent frames, (m, F, H, W): a latent frame
    but the first stands for several frames."""
    latent = weights.shape[1] - 1
    index = [math.ceil(i * latent / max(1, frames - 1)) for i in range(frames)]
    return weights[:, index].swapaxes(0, 1)


def side_by_side(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two videos (f, h, w, 3) as one: beside each other, or if they are wide, one above the other."""
    return np.concatenate([first, second], axis=2 if first.shape[2] <= first.shape[1] else 1)


def video_sheet(reference: np.ndarray, frames: Sequence[np.ndarray], caption: str) -> Image.Image:
    """A reference and frames in a row, with a caption below.

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
    """Frames (h, w, 3), uint8, RGB, as H.264; an odd last row or column is left out, which the format cannot hold."""
    with av.open(os.fspath(path), "w") as container:
        stream = None
        for frame in frames:
            frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode(None))

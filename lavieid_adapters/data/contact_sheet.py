"""Training samples at a glance: who is meant, what is labelled in the frames, and what the caption says."""

import json
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..faces.components import NUM_CLASSES, PALETTE
from ..models.identity import FACIAL_COMPONENTS
from ..visualize.overlays import tinted
from .sample_maker import PREVIEW_WIDTH, PREVIEWS, previewed
from .shards import Shards, read_picture

_MARGIN, _GAP = 24, 8
_TOP = 64  # the legend's height
_CAPTION_LINES = 3
_TEXT, _SMALL, _LINE = ImageFont.load_default(17), ImageFont.load_default(13), 23


def shard_sheet(shards: Shards, samples: Sequence[int]) -> Image.Image:
    """Draw a row per sample: the aligned reference and some frames, with their components over them, and the caption.

    Args:
        shards: The shards.
        samples: Their places in the index.
    """
    rows = []
    for i in samples:
        with shards.reading(i):
            rows.append(_row(shards, i))
    width = max(row.width for row in rows) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, _TOP + sum(row.height + _MARGIN for row in rows)), "white")
    draw, header = ImageDraw.Draw(sheet), shards.header
    x = _MARGIN
    for name, colour in zip(FACIAL_COMPONENTS, PALETTE[1:], strict=True):
        draw.rectangle([x, 20, x + 26, 42], fill=colour, outline="black")
        draw.text((x + 36, 21), name, "black", _TEXT)
        x += round(_TEXT.getlength(name)) + 68
    about = f"{len(shards)} samples at {header['fps']:g} fps, encoded by {header['base']}"
    draw.text((width - _MARGIN, 21), about, "grey", _TEXT, anchor="ra")
    y = _TOP
    for row in rows:
        sheet.paste(row, (_MARGIN, y))
        y += row.height + _MARGIN
    return sheet


def _row(shards: Shards, i: int) -> Image.Image:
    members = shards.members(i)
    about = json.loads(members["json"])
    aligned, aligned_map, maps, preview = (
        read_picture(members[name]) for name in ("aligned.png", "aligned_map.png", "maps.png", "preview.jpg")
    )
    height = preview.shape[0]
    face = tinted(aligned, aligned_map).resize((height, height), Image.Resampling.LANCZOS)
    width = height + PREVIEWS * (PREVIEW_WIDTH + _GAP)
    lines = _wrapped(about["caption"], width)
    row = Image.new("RGB", (width, height + _GAP + (len(lines) + 1) * _LINE), "white")
    row.paste(face, (0, 0))
    maps = maps.reshape(about["frames"], about["height"], about["width"])
    for column, number in enumerate(previewed(about["frames"])):
        pixels = preview[:, column * PREVIEW_WIDTH : (column + 1) * PREVIEW_WIDTH]
        row.paste(_frame(pixels, maps[number], about, number), (height + _GAP + column * (PREVIEW_WIDTH + _GAP), 0))
    draw = ImageDraw.Draw(row)
    for number, line in enumerate(lines):
        draw.text((0, height + _GAP + number * _LINE), line, "black", _TEXT)
    hidden = ", ".join(f"{name} ({reason})" for name, reason in about["hidden"].items())
    details = [
        shards.index[i]["key"],
        f"{about['frames']} frames of {about['width']}x{about['height']} from {about['start']:.2f} s",
        f"reference {about['reference']}",
        f"hidden: {hidden or 'none'}",
    ]
    draw.text((0, height + _GAP + len(lines) * _LINE + 2), "   ·   ".join(details), "grey", _SMALL)
    return row


def _frame(pixels: np.ndarray, component_map: np.ndarray, about: dict, number: int) -> Image.Image:
    """Return a frame with its components over it, its time, and a note if no face was found."""
    known = component_map < NUM_CLASSES
    shrunk = Image.fromarray(component_map * known).resize(pixels.shape[1::-1], Image.Resampling.NEAREST)
    frame = tinted(pixels, np.asarray(shrunk))
    text = f"{number / about['fps']:.2f} s" + ("" if known.all() else ", no face found")
    ImageDraw.Draw(frame).text((6, 4), text, "white", _SMALL, stroke_width=2, stroke_fill="black")
    return frame


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of at most `width` pixels; a text that is too long ends in dots."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _TEXT.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == _CAPTION_LINES:
            lines[-1] += " …"
            break
        else:
            lines.append(word)
    return lines

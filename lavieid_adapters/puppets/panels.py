"""The demo's pictures: panels beside each other in each frame of the video, and a contact sheet of them."""

# f frames · h w pixels · m components

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..faces.components import PALETTE
from ..models.identity import FACIAL_COMPONENTS

_SIDE, _MARGIN = 288, 14  # of a panel, and around it
_TITLE, _LABEL = 44, 54  # height of the strips above and below the panels
_INK, _PALE, _PAPER = (28, 30, 38), (110, 114, 126), (250, 249, 246)
_SHOWN = 6  # frames of the contact sheet
_CELL = 176  # side of one of them


@dataclass(frozen=True, eq=False)
class Panel:
    """A video or a still beside others.

    Attributes:
        name: What it is, in a few words.
        about: A few more; None shows the colours of the components instead.
        frames: (f, h, w, 3), uint8, RGB; of one frame for a still.
    """

    name: str
    about: str | None
    frames: np.ndarray

    def at(self, i: int, side: int) -> Image.Image:
        """Return frame i, `side` pixels wide and high."""
        frame = Image.fromarray(self.frames[min(i, len(self.frames) - 1)])
        return frame.resize((side, side), Image.Resampling.LANCZOS)


def with_insets(picture: np.ndarray, insets: Sequence[np.ndarray]) -> np.ndarray:
    """Put others small at the right edge of a picture (h, w, 3): those that lend it a component."""
    whole = Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    side = min(72, (_SIDE - 12) // max(1, len(insets)) - 6)
    for i, inset in enumerate(insets):
        small = Image.fromarray(inset).resize((side, side), Image.Resampling.LANCZOS)
        corner = _SIDE - side - 8, _SIDE - (side + 6) * (len(insets) - i) - 2
        whole.paste(_PAPER, (corner[0] - 3, corner[1] - 3, corner[0] + side + 3, corner[1] + side + 3))
        whole.paste(small, corner)
    return np.asarray(whole)


def side_by_side_frames(panels: Sequence[Panel], title: str) -> list[Image.Image]:
    """Make the frames of a video that shows all panels, with a title above and a label below each."""
    width = len(panels) * (_SIDE + _MARGIN) + _MARGIN
    blank = Image.new("RGB", (width // 2 * 2, _TITLE + _SIDE + _LABEL), _PAPER)
    draw = ImageDraw.Draw(blank)
    draw.text((_MARGIN, 11), title, _INK, ImageFont.load_default(20))
    for left, panel in zip(_lefts(panels), panels, strict=True):
        _label(draw, (left, _TITLE + _SIDE + 6), panel)
    frames = []
    for i in range(max(len(panel.frames) for panel in panels)):
        frame = blank.copy()
        for left, panel in zip(_lefts(panels), panels, strict=True):
            frame.paste(panel.at(i, _SIDE), (left, _TITLE))
        frames.append(frame)
    return frames


def contact_sheet(reference: Panel, panels: Sequence[Panel], title: str) -> Image.Image:
    """Put some frames of each panel in a row, beside the reference."""
    left = _MARGIN + _SIDE + 2 * _MARGIN
    width = left + _SHOWN * (_CELL + 4) + _MARGIN
    row = _CELL + _LABEL
    sheet = Image.new("RGB", (width, _TITLE + len(panels) * row + 4), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 11), title, _INK, ImageFont.load_default(20))
    top = _TITLE + (len(panels) * row - _SIDE - _LABEL) // 2
    sheet.paste(reference.at(0, _SIDE), (_MARGIN, top))
    _label(draw, (_MARGIN, top + _SIDE + 6), reference)
    for i, panel in enumerate(panels):
        for j, frame in enumerate(np.linspace(0, len(panel.frames) - 1, _SHOWN).round().astype(int)):
            sheet.paste(panel.at(frame, _CELL), (left + j * (_CELL + 4), _TITLE + i * row))
        _label(draw, (left, _TITLE + i * row + _CELL + 6), panel)
    return sheet


def _lefts(panels: Sequence[Panel]) -> list[int]:
    return [_MARGIN + i * (_SIDE + _MARGIN) for i in range(len(panels))]


def _label(draw: ImageDraw.ImageDraw, corner: tuple[int, int], panel: Panel) -> None:
    left, top = corner
    draw.text((left, top), panel.name, _INK, ImageFont.load_default(17))
    if panel.about is not None:
        draw.text((left, top + 24), panel.about, _PALE, ImageFont.load_default(13))
        return
    font = ImageFont.load_default(11)
    for name, colour in zip(FACIAL_COMPONENTS, PALETTE[1:], strict=True):
        draw.rectangle((left, top + 27, left + 9, top + 36), fill=colour, outline=_PALE)
        draw.text((left + 12, top + 24), name, _PALE, font)
        left += 17 + round(draw.textlength(name, font))

"""Pictures under the brush: colours and component labels of all frames, and windows on parts of them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# n clips · f frames · h, w pixels


class Bounds(NamedTuple):
    """The rows and columns of a part of the picture; right and bottom are the first beyond it."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass
class Canvas:
    """Frames that are painted back to front.

    Attributes:
        colour: (n, 3, f, h, w) float32, 0..1.
        labels: (n, f, h, w) uint8, 0 for none, else 1 + the number of the component in FACIAL_COMPONENTS.
        x: Of the pixels' centres, from the picture's centre, in units of the picture; broadcasts to (n, f, h, w).
        y: Likewise.
        size: Height and width of the whole picture, in pixels.
        origin: Column and row of the canvas's first pixel in it.
    """

    colour: Tensor
    labels: Tensor
    x: Tensor
    y: Tensor
    size: int
    origin: tuple[int, int] = (0, 0)

    def paint(self, coverage: Tensor, colour: Tensor, label: int | None = None) -> None:
        """Lay a colour over the picture.

        Args:
            coverage: (n, f, h, w), 0..1.
            colour: Broadcasts to (n, 3, f, h, w).
            label: Of the pixels that are covered by more than half; None leaves the labels as they are.
        """
        self.colour.lerp_(colour, coverage[:, None])
        if label is not None:
            self.labels.masked_fill_(coverage > 0.5, label)

    def view(self, bounds: Bounds) -> "Canvas":
        """Return the part within bounds, as a canvas of views: what is painted there is painted here."""
        rows, columns = slice(bounds.top, bounds.bottom), slice(bounds.left, bounds.right)
        return Canvas(
            self.colour[..., rows, columns],
            self.labels[..., rows, columns],
            self.x[..., columns],
            self.y[..., rows, :],
            self.size,
            (self.origin[0] + bounds.left, self.origin[1] + bounds.top),
        )

    def copy(self) -> "Canvas":
        """Return the same canvas in contiguous memory, which windows need."""
        return Canvas(self.colour.contiguous(), self.labels.contiguous(), self.x, self.y, self.size, self.origin)

    def restore(self, copy: "Canvas") -> None:
        """Take over what was painted on a copy."""
        self.colour.copy_(copy.colour)
        self.labels.copy_(copy.labels)

    def window(self, x: Tensor, y: Tensor, wide: float, high: float) -> "Window":
        """Open a part of each frame.

        Args:
            x, y: (n, k f, 1, 1), where its centre should be; it is moved to lie within the picture. With k = 2 there
                are two windows on each frame, those of all frames' left sides first.
            wide, high: As shares of the picture.

        Returns:
            A canvas of copies, to be put back by `Window.close`.
        """
        return Window.open(self, x, y, round(wide * self.size), round(high * self.size))


class Window(Canvas):
    """A part of each frame of a canvas; see `Canvas.window`."""

    def __init__(self, whole: Canvas, index: Tensor, shape: tuple[int, int], x: Tensor, y: Tensor):
        self.whole, self.index = whole, index
        self._shape = (*index.shape[:2], *shape)
        n, f = whole.labels.shape[:2]
        flat = whole.colour.view(n, 3, f, -1)
        halves = [flat.gather(3, half[:, None].expand(n, 3, f, -1)) for half in index.split(f, 1)]
        colour = (torch.cat(halves, 2) if len(halves) > 1 else halves[0]).view(n, 3, *self._shape[1:])
        super().__init__(colour, self.part(whole.labels), x, y, whole.size)

    @classmethod
    def open(cls, whole: Canvas, x: Tensor, y: Tensor, width: int, height: int) -> "Window":
        n, _, rows, columns = whole.labels.shape
        size, device = whole.size, whole.labels.device
        width, height = min(width, columns), min(height, rows)
        left = ((x + 0.5) * size - (width / 2 + whole.origin[0])).round().clamp(0, columns - width).to(torch.int64)
        top = ((y + 0.5) * size - (height / 2 + whole.origin[1])).round().clamp(0, rows - height).to(torch.int64)
        column = left + torch.arange(width, device=device)
        row = top + torch.arange(height, device=device)[:, None]
        index = (row * columns + column).view(n, x.shape[1], height * width)
        step = 1.0 / size
        x = column.to(torch.float32).add_(whole.origin[0] + 0.5).mul_(step).sub_(0.5)
        y = row.to(torch.float32).add_(whole.origin[1] + 0.5).mul_(step).sub_(0.5)
        return cls(whole, index, (height, width), x, y)

    def part(self, field: Tensor) -> Tensor:
        """Cut the window's part out of a field (n, f, h, w) of the whole canvas."""
        n, f = field.shape[:2]
        flat = field.reshape(n, f, -1)
        halves = [flat.gather(2, half) for half in self.index.split(f, 1)]
        return (torch.cat(halves, 1) if len(halves) > 1 else halves[0]).view(self._shape)

    def close(self) -> None:
        """Put the windows back into their canvas; two on one frame must not overlap."""
        f = self.whole.labels.shape[1]
        for start in range(0, self.index.shape[1], f):
            some = slice(start, start + f)
            self._put(self.index[:, some], self.colour[:, :, some], self.labels[:, some])

    def close_halves(self, own: Tensor) -> None:
        """Put two overlapping windows a frame back, of each only its own pixels: (n, 2 f, h, w), bool."""
        f = self.whole.labels.shape[1]
        for start in (0, f):
            some = slice(start, start + f)
            under = Window(self.whole, self.index[:, some], self._shape[2:], self.x, self.y)
            mine = own[:, some]
            labels = torch.where(mine, self.labels[:, some], under.labels)
            self._put(under.index, torch.where(mine[:, None], self.colour[:, :, some], under.colour), labels)

    def _put(self, index: Tensor, colour: Tensor, labels: Tensor) -> None:
        n, f, _ = index.shape
        self.whole.labels.view(n, f, -1).scatter_(2, index, labels.reshape(n, f, -1))
        index = index[:, None].expand(n, 3, f, -1)
        self.whole.colour.view(n, 3, f, -1).scatter_(3, index, colour.reshape(n, 3, f, -1))


def seen(amount: Tensor) -> bool:
    """Return whether any of it is not 0, so that it must be painted.

    True is assumed where a look at it would wait for a GPU, or would break a compiled function in two: to paint what
    covers nothing changes nothing.

    Args:
        amount: Of any shape.
    """
    return amount.is_cuda or torch.compiler.is_compiling() or bool((amount != 0).any())

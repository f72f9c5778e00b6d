"""A background under the brush: one picture a clip, wider than the frames that will show parts of it."""

from functools import cache

import torch
from torch import Tensor

from .shapes import coverage

# n clips · h, w pixels of the plate

Colour = tuple[float, float, float] | Tensor


class Plate:
    """Pictures of the world from -HALF_WIDTH to HALF_WIDTH and -HALF_HEIGHT to HALF_HEIGHT, in units of the picture.

    Attributes:
        x, y: (1, 1, w) and (1, h, 1), of the pixels' centres; right and down.
        colour: (n, 3, h, w) float32.
    """

    HALF_WIDTH, HALF_HEIGHT = 0.66, 0.56

    def __init__(self, r: Tensor, detail: int):
        self.r = r
        self._numbers = r[:, :, None, None].unbind(1)
        width, height = round(2 * self.HALF_WIDTH * detail), round(2 * self.HALF_HEIGHT * detail)
        steps = {"device": r.device, "dtype": torch.float32}
        self.x = (((torch.arange(width, **steps) + 0.5) / width * 2.0 - 1.0) * self.HALF_WIDTH)[None, None, :]
        self.y = (((torch.arange(height, **steps) + 0.5) / height * 2.0 - 1.0) * self.HALF_HEIGHT)[None, :, None]
        # Edges are a little soft, as behind a person who is in focus.
        self.pixel = 1.6 / detail
        self.colour = torch.zeros(len(r), 3, height, width, **steps)

    def random(self, number: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return one of the clips' random numbers, scaled: (n, 1, 1)."""
        return self._numbers[number % len(self._numbers)] * (high - low) + low

    def rgb(self, colour: Colour) -> Tensor:
        """Return a colour of 0..255 as a tensor that broadcasts to (n, 3, h, w)."""
        if isinstance(colour, Tensor):
            return colour
        return _rgb(colour, self.r.device)

    def blend(self, first: Colour, second: Colour, t: Tensor) -> Tensor:
        """Mix two colours by t, (n, 1, 1) or (n, h, w) from 0 to 1."""
        return torch.lerp(self.rgb(first), self.rgb(second), t[:, None])

    def fill(self, top: Colour, bottom: Colour, low: float = -0.56, high: float = 0.56) -> None:
        """Paint a gradient over the whole plate, from the row `low` to the row `high`."""
        t = ((self.y - low) / (high - low)).clamp(0.0, 1.0)
        self.colour.copy_(torch.lerp(self.rgb(top), self.rgb(bottom), t[:, None]).expand_as(self.colour))

    def paint(self, distance: Tensor, colour: Colour, alpha: float | Tensor = 1.0, soft: float = 1.0) -> None:
        """Paint a shape of a signed distance (n, h, w); `soft` widens its edge."""
        self.colour.lerp_(self.rgb(colour), (coverage(distance, self.pixel * soft) * alpha)[:, None])

    def rectangle(self, x: float | Tensor, y: float | Tensor, width: float | Tensor, height: float | Tensor) -> Tensor:
        """Return the distance of an upright rectangle with its middle at (x, y)."""
        return torch.maximum((self.x - x).abs() - 0.5 * width, (self.y - y).abs() - 0.5 * height)

    def disc(
        self, x: float | Tensor, y: float | Tensor, rx: float | Tensor, ry: float | Tensor | None = None
    ) -> Tensor:
        """Return the distance, roughly, of an ellipse with its middle at (x, y)."""
        ry = rx if ry is None else ry
        dx, dy = (self.x - x) / rx, (self.y - y) / ry
        return ((dx * dx + dy * dy).sqrt() - 1.0) * 0.5 * (rx + ry)

    def below(self, line: float | Tensor) -> Tensor:
        """Return the distance of all that lies below a line (n, 1, w) or a height."""
        return line - self.y

    def glow(self, x: float | Tensor, y: float | Tensor, radius: float | Tensor, colour: Colour, alpha: float) -> None:
        """Paint light that fades from (x, y) to a radius."""
        dx, dy = (self.x - x) / radius, (self.y - y) / radius
        t = (1.0 - (dx * dx + dy * dy)).clamp(min=0.0)
        self.colour.lerp_(self.rgb(colour), (alpha * t * t)[:, None])


@cache
def _rgb(colour: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(colour, device=device, dtype=torch.float32).view(1, 3, 1, 1) / 255.0

"""Backgrounds: each clip's place is painted once, a little larger than the picture, and the camera drifts over it."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .grammar import SCENES
from .look import Light
from .plate import Plate
from .scenes_inside import kitchen, library, office, studio
from .scenes_outside import beach, desert, mountains, park, street

# n clips · f frames · h, w pixels

_PAINTERS = {
    "park": park,
    "office": office,
    "beach": beach,
    "street": street,
    "mountains": mountains,
    "library": library,
    "desert": desert,
    "kitchen": kitchen,
}
_DETAIL = 1.25  # pixels of a plate in one of the picture

# Of each scene: the colour of full light, that of the shadow's side, and how far the light may come from a side.
_LIGHTS = {
    "park": ((1.05, 1.02, 0.94), (0.70, 0.66, 0.74), 0.7),
    "office": ((1.02, 1.01, 1.00), (0.72, 0.70, 0.74), 0.8),
    "beach": ((1.08, 1.03, 0.92), (0.72, 0.64, 0.66), 0.8),
    "street": ((0.86, 0.78, 0.80), (0.48, 0.48, 0.72), 0.9),
    "mountains": ((1.00, 1.03, 1.08), (0.66, 0.70, 0.84), 0.7),
    "library": ((1.05, 0.95, 0.80), (0.66, 0.56, 0.54), 0.8),
    "desert": ((1.08, 0.97, 0.84), (0.70, 0.56, 0.56), 0.9),
    "kitchen": ((1.04, 1.01, 0.95), (0.74, 0.69, 0.68), 0.7),
}


@dataclass(frozen=True)
class Backdrop:
    """A painted plate and the camera's way over it.

    Attributes:
        plate: (n, 3, h', w') float32.
        drift: (n, 4), random numbers in 0..1 of the camera's sway.
        moving: Whether there is a camera that sways: not in a photo.
    """

    plate: Tensor
    drift: Tensor
    moving: bool

    def frames(self, time: Tensor, x: Tensor, size: int) -> Tensor:
        """Cut the background of each frame out of the plate.

        Args:
            time: (n, f, 1, 1) seconds.
            x: (n, f, 1, 1), the person's place, which the camera follows a little.
            size: Of the picture, in pixels.

        Returns:
            (n, 3, f, size, size) float32.
        """
        n, f = x.shape[:2]
        grid = (torch.arange(size, device=x.device, dtype=torch.float32) + 0.5) / size - 0.5
        r = self.drift[:, :, None, None, None]
        if self.moving:
            way = time / 5.0 + r[:, 1]
            dx = 0.035 * torch.sin(2.0 * math.pi * way) * (0.4 + 0.6 * r[:, 0]) + 0.22 * x
            dy = 0.012 * torch.sin(2.0 * math.pi * (time / 6.3 + r[:, 2]))
            zoom = 1.0 + 0.03 * torch.sin(2.0 * math.pi * (time / 9.0 + r[:, 3]))
        else:
            dx, dy, zoom = 0.0 * x, 0.0 * x, 1.0 + 0.0 * x
        across = (grid[None, None, None, :] * zoom + dx) / Plate.HALF_WIDTH
        down = (grid[None, None, :, None] * zoom + dy) / Plate.HALF_HEIGHT
        where = torch.stack([across.expand(n, f, size, size), down.expand(n, f, size, size)], -1)
        where = where.view(n, f * size, size, 2)
        picture = F.grid_sample(self.plate, where, mode="bilinear", padding_mode="border", align_corners=False)
        return picture.view(n, 3, f, size, size)


def scene_backdrop(scenes: list[int], r: Tensor, size: int) -> Backdrop:
    """Paint the backgrounds of clips.

    Args:
        scenes: n numbers of SCENES.
        r: (n, >= 32) random numbers in 0..1.
        size: Of the picture, in pixels.

    Returns:
        The backdrop of n clips.
    """
    detail = round(size * _DETAIL)
    whole = None
    for number in sorted(set(scenes)):
        rows = [i for i, scene in enumerate(scenes) if scene == number]
        rows = torch.tensor(rows, device=r.device)
        plate = Plate(r[rows, 4:], detail)
        _PAINTERS[SCENES[number]](plate)
        if whole is None:
            whole = plate.colour.new_empty(len(scenes), *plate.colour.shape[1:])
        whole[rows] = plate.colour
    return Backdrop(whole, r[:, :4], True)


def photo_backdrop(r: Tensor, size: int) -> tuple[Backdrop, Light]:
    """Paint the backgrounds of photos, and light them.

    Args:
        r: (n, >= 32) random numbers in 0..1.
        size: Of the picture, in pixels.

    Returns:
        The backdrop and the light of n photos.
    """
    plate = Plate(r[:, 12:], round(size * _DETAIL))
    studio(plate)
    warm = (r[:, 4:5] - 0.5) * r.new_tensor([[0.14, 0.0, -0.16]])
    colour = 1.02 + warm
    shadow = r.new_tensor([[0.72, 0.68, 0.70]]) - 0.6 * warm
    return Backdrop(plate.colour, r[:, :4], False), _light(1.5 * (r[:, 5] - 0.5), r[:, 6], colour, shadow)


def scene_light(scenes: Tensor, r: Tensor) -> Light:
    """Light clips by their scenes.

    Args:
        scenes: (n,) int64.
        r: (n, >= 3) random numbers in 0..1.

    Returns:
        The light of n clips.
    """
    rows = [_LIGHTS[name] for name in SCENES]
    colour = torch.tensor([row[0] for row in rows], device=r.device)[scenes]
    shadow = torch.tensor([row[1] for row in rows], device=r.device)[scenes]
    spread = torch.tensor([row[2] for row in rows], device=r.device)[scenes]
    colour = colour * (0.95 + 0.08 * r[:, 2:3])
    return _light(2.0 * spread * (r[:, 0] - 0.5), r[:, 1], colour, shadow)


def _light(x: Tensor, height: Tensor, colour: Tensor, shadow: Tensor) -> Light:
    y, z = -0.25 - 0.4 * height, torch.full_like(x, 0.65)
    length = (x * x + y * y + z * z).sqrt()
    x, y, z = ((value / length)[:, None, None, None] for value in (x, y, z))
    return Light(x, y, z, colour[:, :, None, None, None], shadow[:, :, None, None, None])

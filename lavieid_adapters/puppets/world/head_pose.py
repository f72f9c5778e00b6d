"""The turned head: places of its points in the picture, and the point that a pixel shows."""

from typing import NamedTuple

import torch
from torch import Tensor

from .motion import Tracks

# n clips · f frames · h, w pixels
# x, y: the picture, from its centre, in units of the picture; u, v: the picture turned with the head, in units of half
# a head's height; right, down. A head's own coordinates: right, down and towards the camera when it looks ahead.

HEAD = 0.305  # half a head's height at distance 1, in units of the picture
_PERSPECTIVE = 0.10
_NECK = 1.15  # how far below the head's centre it is tilted


class Place(NamedTuple):
    """A point of the head in the picture: where it is, and how wide and high a patch there looks."""

    u: Tensor
    v: Tensor
    wide: Tensor
    high: Tensor
    depth: Tensor


class HeadPose:
    """The turned head of each frame, from its tracks; every value is (n, f, 1, 1)."""

    def __init__(self, tracks: Tracks, size: int):
        self.sin_yaw, self.cos_yaw = tracks.yaw.sin(), tracks.yaw.cos()
        self.sin_pitch, self.cos_pitch = tracks.pitch.sin(), tracks.pitch.cos()
        self.sin_roll, self.cos_roll = tracks.roll.sin(), tracks.roll.cos()
        self.scale = HEAD / tracks.distance
        self.neck_x, self.neck_y = tracks.x, tracks.y + _NECK * self.scale
        # The head tilts around the neck.
        self.x = tracks.x + _NECK * self.scale * self.sin_roll
        self.y = self.neck_y - _NECK * self.scale * self.cos_roll
        self.pixel = 1.0 / (self.scale * size)
        self._sides = None

    def plane(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map points of the picture to (u, v)."""
        dx, dy = (x - self.x) / self.scale, (y - self.y) / self.scale
        return dx * self.cos_roll + dy * self.sin_roll, dy * self.cos_roll - dx * self.sin_roll

    def picture(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Map points of the plane to (x, y): the inverse of `plane`."""
        x = self.x + self.scale * (u * self.cos_roll - v * self.sin_roll)
        return x, self.y + self.scale * (u * self.sin_roll + v * self.cos_roll)

    def turned(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Turn a direction of the head's own coordinates: right, down and towards the camera, as seen."""
        right = x * self.cos_yaw + z * self.sin_yaw
        ahead = z * self.cos_yaw - x * self.sin_yaw
        return right, y * self.cos_pitch - ahead * self.sin_pitch, ahead * self.cos_pitch + y * self.sin_pitch

    def unturned(self, right: Tensor, down: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `turned`, and return right and down alone."""
        y = torch.addcmul(down * self.cos_pitch, near, self.sin_pitch)
        ahead = torch.addcmul(near * self.cos_pitch, down, -self.sin_pitch)
        return torch.addcmul(right * self.cos_yaw, ahead, -self.sin_yaw), y

    def place(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Place:
        """Place a point of the face in the picture; z is its height over the plane through the middle of the head."""
        u, v, depth = self.turned(x, y, z)
        near = 1.0 + _PERSPECTIVE * depth
        # A patch at (x, z) looks to the side by that angle: its width goes with the cosine of it and the yaw together.
        wide = (self.cos_yaw - x / z * self.sin_yaw).clamp(0.12, 1.08) * near
        high = self.cos_pitch * near
        return Place(u * near, v * near, wide, high, depth)

    def both_sides(self) -> tuple["HeadPose", Tensor]:
        """Double the poses for what there is on each side of the face.

        Returns:
            Poses of 2 f frames, the f frames twice; and (1, 2 f, 1, 1), -1 for the first f of them and 1 for the rest.
        """
        if self._sides is None:
            double = HeadPose.__new__(HeadPose)
            vars(double).update(
                {name: torch.cat([value, value], 1) for name, value in vars(self).items() if name != "_sides"}
            )
            side = torch.ones_like(double.x[:1])
            side[:, : self.x.shape[1]] = -1.0
            self._sides = double, side
        return self._sides

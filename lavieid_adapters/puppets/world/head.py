"""The head without its features: its outline, skin in the light, and ears."""

import torch
from torch import Tensor

from .canvas import Canvas, seen
from .head_pose import HeadPose
from .look import Look
from .shapes import coverage, ellipse, smoothstep

# n clips · f frames · h, w pixels

SKIN_LABEL = 5
_DEPTH = 0.65  # how far the face stands before the middle of the head


class Head:
    """The shape of the heads in the plane of the picture.

    Attributes:
        u, v: (n, f, h, w), of the pixels.
        distance: (n, f, h, w), signed, of the outline without ears and hair.
        coverage: (n, f, h, w), by the same.
        lit: (n, f, h, w), 0 on the side that is turned away from the light to 1.
    """

    def __init__(self, canvas: Canvas, pose: HeadPose, look: Look):
        self.pose, self.look = pose, look
        trait, light = look.trait, look.light
        self.u, self.v = u, v = pose.plane(canvas.x, canvas.y)
        # Turned to a side, the chin goes with the face and the back of the head the other way.
        middle = v.clamp(-1.0, 1.2).mul_(0.15 * pose.sin_yaw).sub_(0.01 * pose.sin_yaw)
        self.top = 1.0 - 0.08 * pose.sin_pitch
        bottom = trait["chin_length"] * (1.0 - 0.16 * pose.sin_pitch)
        width = trait["head_width"] * (1.0 + 0.03 * pose.sin_yaw.abs())
        across = smoothstep(-0.15, 1.25, v).mul_((trait["jaw_width"] - 1.0) * width).add_(width)
        fx = (u - middle).div_(across)
        fy = v * torch.where(v < 0.0, 1.0 / self.top, 1.0 / bottom)
        q = torch.addcmul(fx * fx, fy, fy)
        self.distance = (q - 1.0).mul_(0.42)
        self.coverage = coverage(self.distance, pose.pixel)
        # The normal of the skin, as of a ball.
        near = (1.0 - q).clamp_(min=0.0).sqrt_()
        self.lit = smoothstep(-0.25, 0.75, fx.mul_(light.x).add_(fy.mul_(light.y)).add_(near.mul_(light.z)))

    def face_depth(self, x: Tensor | float, y: Tensor | float) -> Tensor:
        """Return how far before the head's middle the face is at (x, y) of the head's own coordinates."""
        width = self.look.trait["head_width"]
        return _DEPTH * (1.0 - 0.8 * (x / width) ** 2 - 0.30 * (y * y)).clamp(min=0.05).sqrt()

    def paint_ears(self, canvas: Canvas, over: bool) -> None:
        """Paint both ears.

        Args:
            canvas: What to paint on.
            over: Whether the ear of the side that is turned to the camera is painted, over the head; otherwise both
                are, to be covered by the head in part.
        """
        look = self.look
        pose, side = self.pose.both_sides()
        visible = smoothstep(0.12, 0.32, -side * pose.sin_yaw)
        if over and not seen(visible):
            return
        size = look.trait["ear_size"]
        u, v, _ = pose.turned(side * (look.trait["head_width"] + 0.015), 0.08, -0.12)
        window = canvas.window(*pose.picture(u, v), 0.18, 0.21)
        wu, wv = pose.plane(window.x, window.y)
        wu, wv = (wu - u) * side, wv - v
        wide = 0.62 * (1.0 + 0.25 * pose.sin_yaw.abs()) * size
        outer = coverage(ellipse(wu - 0.12 * wv, wv, wide, size * 1.18), pose.pixel)
        inner = coverage(ellipse(wu - 0.10 * wv - 0.01, wv, wide * 0.58, size * 0.74), pose.pixel * 1.6).mul_(0.5)
        if over:
            outer, inner = outer * visible, inner * visible
        window.paint(outer, look.skin * (0.45 * look.light.shadow + 0.55), SKIN_LABEL)
        window.paint(inner, look.skin * look.light.shadow * 0.82)
        window.close()

    def paint_skin(self, canvas: Canvas) -> None:
        """Paint the face as one lit surface."""
        skin = self.look.skin
        canvas.paint(self.coverage, torch.lerp(skin * self.look.light.shadow, skin, self.lit[:, None]), SKIN_LABEL)

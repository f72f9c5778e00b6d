"""Hair: a solid around the head with an opening for the face, so that it turns with the head."""

import torch
from torch import Tensor

from .canvas import Canvas, seen
from .hair_styles import hair_shapes
from .head import Head
from .look import Look
from .shapes import bump, coverage, ellipse, smooth_max, smoothstep

# n clips · f frames · h, w pixels

HAIR_LABEL = 6

_MARGIN = 0.08  # around the head with its hair and ears, for soft edges


def hair_end(look: Look) -> Tensor:
    """Return how far down from the middle of the head the hair goes: (n, 1, 1, 1)."""
    end = hair_shapes(look.choice("hair_style"))["end"]
    return end + look.trait["hair_length"] * torch.where(end > 0.3, 1.2, 0.5)


def head_extent(look: Look) -> tuple[Tensor, Tensor, Tensor]:
    """Bound how far the head, with all that is on it, reaches to the sides, up and down: (n, 1, 1, 1) each."""
    trait, shape = look.trait, hair_shapes(look.choice("hair_style"))
    volume = trait["hair_volume"] + shape["volume"] + shape["curl"] + _MARGIN
    ears = trait["head_width"] + trait["ear_size"] + _MARGIN
    side = torch.maximum(1.04 * trait["head_width"] + 0.12 + 0.75 * volume, ears)
    tail = shape["blob_x"] + shape["blob_wide"] + 0.6 * shape["bow"] + 0.25
    side = torch.maximum(side, tail * shape["blob"])
    up = torch.maximum(1.06 + volume.clamp(min=0.0), (shape["blob_high"] - shape["blob_y"] + _MARGIN) * shape["blob"])
    down = torch.maximum(1.10 * trait["chin_length"] + _MARGIN, hair_end(look) + shape["curl"] + _MARGIN)
    down = torch.maximum(down, (shape["blob_high"] + shape["blob_y"] + _MARGIN) * shape["blob"])
    return side, up, down


class Hair:
    """The hair's fields over the picture, of which the parts behind and before the head are painted."""

    def __init__(self, canvas: Canvas, head: Head):
        self.head, self.look, pose = head, head.look, head.pose
        trait, light = self.look.trait, self.look.light
        self.shape = shape = hair_shapes(self.look.choice("hair_style"))
        self.side = torch.where(self.look.choice("hair_side") == 0, -1.0, 1.0)[:, None, None, None]
        u, v = head.u, head.v

        volume = trait["hair_volume"] + shape["volume"]
        middle, level = -0.10 * pose.sin_yaw, -0.12
        wide = trait["head_width"] * (1.0 + 0.04 * pose.sin_yaw.abs()) + 0.02 + 0.75 * volume
        high = head.top + level + volume
        # Hair that falls is a tube below its widest part.
        fall = torch.where(shape["drop"] > 0.5, 0.12, 9.0)
        fx = (u - middle).div_(wide)
        fy = torch.minimum((v - level).div_(high), fall)
        q = torch.addcmul(fx * fx, fy, fy)
        solid = (q - 1.0).mul_(0.48 * wide)
        tips = v - hair_end(self.look)
        if seen(shape["curl"]):
            curls = (13.0 * u + 2.0).sin_().mul_((13.0 * v).sin_()).mul_(shape["curl"])
            solid.add_(curls)
            tips.sub_(curls)
        self.solid = smooth_max(solid, tips, 0.22)

        near = (1.0 - q).clamp_(min=0.0).sqrt_()
        # Where on the head, if it were not turned, this hair would be.
        mx, my = pose.unturned(fx, fy, near)
        self.mx, self.my = mx, my
        sided = mx * self.side
        line = torch.addcmul(shape["line"] + trait["hairline"], sided, sided * shape["curve"] + shape["slant"])
        if seen(shape["part"]):
            line += (sided - shape["part"]).clamp_(min=0.0).mul_(0.55 * (shape["part"] > 0.0))
            line = torch.maximum(line, trait["hairline"] + shape["least"])
        if seen(shape["strands"]):
            line += (22.0 * mx).sin_().mul_(shape["strands"])
        # Inside is negative: below the hairline and between the sides. That the same holds on the back of the head is
        # never seen, so far do the sides reach and so little do heads turn.
        opening = smooth_max(line - my, mx.abs().sub_(shape["opening"]), 0.22).mul_(wide)
        # Beside the head itself there is hair, but below the ears one sees what is behind.
        self.opening = torch.maximum(opening, head.distance - 0.04 - (v - 0.15).clamp_(min=0.0))
        self.pixel = pose.pixel
        self.lit = smoothstep(-0.35, 0.85, fx.mul_(light.x).add_(fy.mul_(light.y)).add_(near.mul_(light.z)))

    def paint_back(self, canvas: Canvas) -> None:
        """Paint what is behind the neck and the body: the far side, a bun, a tail."""
        shape, pose, look = self.shape, self.head.pose, self.look
        u, v = self.head.u, self.head.v
        hair = look.hair * (0.5 * look.light.shadow + 0.5)
        if seen(shape["back"]):
            canvas.paint(coverage(self.solid, self.pixel).mul_(shape["back"]), hair * 0.74, HAIR_LABEL)
        if not seen(shape["blob"]):
            return
        # A pair of buns keeps to both sides; a tail hangs on its own.
        turn = shape["behind"] * pose.sin_yaw
        bu = torch.where(shape["pair"] > 0.5, (u + turn).abs(), (u + turn) * self.side) - shape["blob_x"]
        bv = v - shape["blob_y"]
        bu = torch.addcmul(bu, bv, bv * shape["bow"] - shape["lean"])
        blob = coverage(ellipse(bu, bv, shape["blob_wide"], shape["blob_high"]), self.pixel) * shape["blob"]
        rounded = (0.85 - bump(bu / (shape["blob_wide"] * 1.4)) * 0.85).add_((30.0 * bu).sin_(), alpha=0.10)
        canvas.paint(blob, torch.lerp(look.hair * 1.04, hair * 0.70, rounded[:, None]), HAIR_LABEL)

    def paint_shadow(self, canvas: Canvas) -> None:
        """Paint the shadow that the hair casts on the forehead and the temples."""
        if not seen(self.shape["casts"]):
            return
        shade = (1.0 + self.opening / 0.16).clamp_(0.0, 1.0).mul_(self.head.coverage).mul_(0.30 * self.shape["casts"])
        canvas.paint(shade, self.look.skin * self.look.light.shadow * 0.62)

    def paint_front(self, canvas: Canvas) -> None:
        """Paint what is over the head: all of it but the opening for the face."""
        if not seen(self.shape["dense"]):
            return
        look = self.look
        front = coverage(torch.maximum(self.solid, -self.opening), self.pixel)
        dense = self.shape["dense"]
        thin = dense < 1.0
        if seen(thin):
            front = torch.where(thin, front * self.head.coverage * (dense > 0.0), front)
        strands = (26.0 * self.mx + 5.0 * self.my).sin_()
        shine = bump((self.my + 0.62).add_(strands, alpha=0.04).div_(0.18)).mul_(self.lit)
        tone = (0.72 * self.lit).add_(strands, alpha=0.10).add_(shine, alpha=0.42)
        dark, bright = look.hair * look.light.shadow * 0.94, look.hair * 1.10 + 0.03
        # Skin shines through thin hair, but what is there is hair.
        canvas.labels.masked_fill_(front > 0.5, HAIR_LABEL)
        canvas.paint(front * dense, torch.lerp(dark, bright, tone[:, None]))

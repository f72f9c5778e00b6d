"""Neck, shoulders and clothes: they follow the head's place but not its turns, and tell nothing of identity."""

import torch
from torch import Tensor

from .canvas import Canvas, seen
from .head import Head
from .palette import CLOTHES, one_of
from .shapes import coverage, smooth_max, smooth_min, smoothstep

# n clips · f frames · h, w pixels


def paint_body(canvas: Canvas, head: Head, r: Tensor) -> None:
    """Paint the neck, and clothes with a collar or a pattern.

    Args:
        canvas: What to paint on.
        head: It stands on the neck.
        r: (n, >= 8) random numbers in 0..1, for the clothes.
    """
    look, pose, trait = head.look, head.pose, head.look.trait
    light, e = look.light, pose.pixel
    u, v = (canvas.x - pose.neck_x) / pose.scale, (canvas.y - pose.neck_y) / pose.scale + 1.15
    r = r[:, :, None, None, None]
    second_hue = (r[:, 0] + 0.15 + 0.7 * r[:, 1]) % 1.0
    cloth, second = (look.lit(one_of(CLOTHES, hue.flatten())) for hue in (r[:, 0], second_hue))
    round_, vee = r[:, 2] < 0.4, (r[:, 2] >= 0.4) & (r[:, 2] < 0.75)
    high = ~(round_ | vee)

    # The neck bends to the head; u is wide, v high: rows and columns are combined as late as can be.
    bend = (pose.x - pose.neck_x) / pose.scale * 0.55 * ((1.25 - v) / 0.6).clamp(0.0, 1.2)
    half = 0.30 + 0.12 * (trait["head_width"] - 0.70) + 0.10 * ((v - 1.15) / 0.25).clamp(0.0, 1.0) ** 2
    side = (u - bend).div_(half)
    neck = torch.maximum(side.abs().sub_(1.0).mul_(half), 0.5 - v)
    shade = smoothstep(1.02, 1.42, v).mul(0.38).add(0.62) * (1.0 + side.clamp_(-1.0, 1.0).mul_(0.12 * light.x))
    canvas.paint(coverage(neck, e), torch.mul(look.skin * (0.3 * light.shadow + 0.7), shade[:, None]), 0)

    u2, away = u * u, u.abs()
    slope = 1.30 + 0.20 * away + 0.12 * u2
    shoulders = smooth_max(slope - v, away - 1.13 - 0.1 * v, 0.5)
    circle = (u2 + (v - 1.17) ** 2).sqrt_().sub_(0.44)
    wedge = torch.maximum((v - 1.80 + 1.55 * away).mul_(0.55), away - 0.46)
    collar = v - 1.14 + 0.06 * (1.0 - u2 / 0.16).clamp(min=0.0)
    neckline = torch.where(vee, wedge, torch.where(round_, circle, collar))
    column = torch.maximum(away - 0.36, 1.12 - v)
    whole = torch.where(high, smooth_min(shoulders, column, 0.12), torch.maximum(shoulders, -neckline))
    covered = coverage(whole, e)
    # Light falls off to the sides of the chest and below the chin.
    fold = (smoothstep(1.1, 1.7, v) * 0.16 + 0.88 + (0.10 * light.x * u - 0.084 * u2)).clamp_(0.45, 1.1)
    stripes, buttons = r[:, 3] < 0.30, (r[:, 3] >= 0.30) & (r[:, 3] < 0.55)
    fabric = cloth.expand(-1, -1, *covered.shape[1:]).clone()
    if seen(stripes):
        wave = torch.sin(v * (20.0 + 8.0 * r[:, 4]) - 0.8 * u2)
        fabric.lerp_(second, coverage(wave.mul_(-0.05), e).mul_(stripes)[:, None])
    if seen(buttons):
        fabric.lerp_(second, coverage(away - 0.35 * v + 0.285, e).mul_(buttons)[:, None])
    hem = coverage(torch.where(high, (v - 1.22).abs() - 0.025, neckline.abs_() - 0.045), e)
    fabric.lerp_(torch.where(r[:, None, 5] < 0.5, second, cloth * 0.72), hem.mul_(0.9)[:, None])
    shirt = vee & (r[:, 6] < 0.5)
    if seen(shirt):
        lapel = (v - 1.80 + 1.05 * away).mul_(0.6)
        fabric.lerp_(look.white, coverage(lapel, e).mul_(shirt)[:, None])
        fabric.lerp_(cloth * 0.4, coverage(lapel.abs_() - 0.012, e).mul_(0.4 * shirt)[:, None])
    canvas.paint(covered, fabric.mul_(fold[:, None]), 0)

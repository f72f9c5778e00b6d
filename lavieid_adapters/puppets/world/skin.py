"""Blush, freckles and a beard: what lies on the skin that `head` paints, under the features."""

import torch

from .canvas import Canvas, seen
from .head import Head
from .shapes import bump, coverage, ellipse

# n clips · f frames · h, w pixels of a window


def paint_cheeks(canvas: Canvas, head: Head) -> None:
    """Paint blush and freckles, in a window on each cheek."""
    look, trait = head.look, head.look.trait
    pose, side = head.pose.both_sides()
    x, y = side * (trait["head_width"] * 0.58), trait["eye_level"] + 0.34
    cheek = pose.place(x, y, head.face_depth(x, y))
    window = canvas.window(*pose.picture(cheek.u, cheek.v), 0.25, 0.20)
    u, v = pose.plane(window.x, window.y)
    inside = window.part(head.coverage)
    cu, cv = (u - cheek.u) / cheek.wide, (v - cheek.v) / cheek.high
    pink = (bump(cu / 0.27) * bump(cv / 0.2)).mul_(trait["blush"] * inside)
    window.paint(pink, look.tinted(1.02, 0.66, 0.66))
    freckled = look.is_style("freckles", "freckles")
    if seen(freckled):
        # A lattice that is bent a little looks like freckles.
        grid = torch.sin(24.0 * cu + 5.0 * cv) * torch.sin(23.0 * cv - 4.0 * cu + 2.0)
        spots = (grid - 0.62).mul_(3.2).clamp_(0.0, 1.0)
        spots *= coverage(ellipse(cu + 0.08 * side, cv + 0.02, 0.30, 0.17), 0.12) * inside
        window.paint(spots * (0.62 * freckled), look.tinted(0.66, 0.50, 0.42))
    window.close_halves((u - pose.place(0.0, y, head.face_depth(0.0, y)).u) * side > 0.0)


def paint_beard(canvas: Canvas, head: Head) -> None:
    """Paint beard, stubble or moustache, within the outline of the head."""
    look, pose, trait = head.look, head.pose, head.look.trait
    full, stubble = look.is_style("beard", "beard"), 0.28 * look.is_style("beard", "stubble")
    on_jaw, on_lip = full + stubble, full + stubble + look.is_style("beard", "moustache")
    if not seen(on_lip):
        return
    level = trait["mouth_level"]
    mouth = pose.place(0.0, level, head.face_depth(0.0, level))
    u, v = mouth.u, mouth.v
    window = canvas.window(*pose.picture(u, v - 0.04), 0.62, 0.40)
    wu, wv = pose.plane(window.x, window.y)
    mu, mv = (wu - u) / mouth.wide, (wv - v) / mouth.high
    # The jaw below a curve from ear to ear, without the cheeks and the lips.
    bare = ellipse(mu, mv + 0.46, trait["head_width"] * 0.86, 0.58)
    jaw = coverage(-bare, pose.pixel * 1.6) * coverage(-(mv + 0.62), pose.pixel * 3.0)
    ratio = mu / 0.31
    square = ratio * ratio
    lobes = (mv + 0.115 - 0.11 * square).abs_() + 0.056 * square - 0.058
    over_lip = coverage(torch.maximum(lobes, mu.abs() - 0.31), pose.pixel * 1.2)
    beard = torch.maximum(jaw * on_jaw, over_lip * on_lip) * window.part(head.coverage)
    tone = window.part(head.lit) + 0.30 * torch.sin(34.0 * mu + 6.0 * mv)
    window.paint(beard, torch.lerp(look.hair * look.light.shadow * 0.78, look.hair * 0.84, tone[:, None]))
    window.close()

"""The mouth: lips that smile, speak and pout, with teeth and tongue behind them."""

import torch

from .canvas import Canvas, seen
from .head import Head
from .motion import Tracks
from .shapes import coverage, ellipse, smoothstep

# n clips · f frames · h, w pixels of the window

MOUTH_LABEL = 3


def paint_mouth(canvas: Canvas, head: Head, tracks: Tracks) -> None:
    """Paint the mouth in a window around it."""
    look, pose, trait = head.look, head.pose, head.look.trait
    level = trait["mouth_level"]
    place = pose.place(0.0, level, head.face_depth(0.0, level) + 0.03)
    window = canvas.window(*pose.picture(place.u, place.v + 0.05), 0.34, 0.26)
    u, v = pose.plane(window.x, window.y)
    inside = window.part(head.coverage)
    lu, lv = (u - place.u) / place.wide, (v - place.v) / place.high
    e = pose.pixel / (0.35 * place.wide + 0.65 * place.high)

    half = trait["mouth_width"] * tracks.wide
    ratio = lu / half
    g = (1.0 - ratio * ratio).clamp(min=0.0)
    arc = 0.6 * g + 0.4 * g.sqrt()
    # Corners go up with a smile, and the whole mouth bends with them.
    bend = tracks.smile * 0.13 * half / 0.26 * (ratio * ratio - 0.35)
    lv = lv + bend
    opening = tracks.mouth
    inner_top = -0.05 * opening * arc
    inner_bottom = 0.27 * opening * arc
    bow = 1.0 - 0.28 * (1.0 - (ratio.abs() / 0.22)).clamp(min=0.0)
    top = inner_top - trait["upper_lip"] * arc * bow
    bottom = inner_bottom + trait["lower_lip"] * (0.35 * g + 0.65 * g.sqrt())
    ends = lu.abs() - half

    lips = coverage(torch.maximum(torch.maximum(top - lv, lv - bottom), ends), e) * inside
    upper = 1.0 - smoothstep(-0.01, 0.03, lv - inner_top)
    window.paint(lips, look.lips * (1.0 - 0.16 * upper)[:, None], MOUTH_LABEL)
    shine = coverage(
        ellipse(lu + 0.10 * half, lv - inner_bottom - 0.45 * trait["lower_lip"], half * 0.42, 0.016), e * 2.0
    )
    window.paint(0.30 * shine * lips, look.white)

    gape = smoothstep(0.02, 0.10, opening)
    if seen(gape):
        hole = coverage(torch.maximum(torch.maximum(inner_top - lv, lv - inner_bottom), ends + 0.03), e) * lips
        hole.mul_(gape)
        window.paint(hole, look.lit(look.skin.new_tensor([[0.24, 0.07, 0.09]])))
        tongue = coverage(ellipse(lu, lv - inner_bottom - 0.03, half * 0.62, 0.11), e)
        window.paint(tongue.mul_(hole), look.lit(look.skin.new_tensor([[0.78, 0.36, 0.38]])))
        teeth = coverage(lv - inner_top - 0.022 - 0.035 * g, e)
        window.paint(teeth.mul_(hole), look.white)
    # Closed lips meet in a line, that goes a little beyond them.
    seam = (
        coverage(torch.maximum((lv - 0.5 * (inner_top + inner_bottom)).abs() - 0.013, lu.abs() - half * 1.02), e)
        * inside
    )
    window.paint(0.75 * seam * (1.0 - gape), look.lips * 0.42, MOUTH_LABEL)
    under = coverage((lv - bottom - 0.05).abs() - 0.012, e * 2.2) * (g * 1.4 - 0.6).clamp(0.0, 1.0)
    window.paint(0.22 * under * inside, look.skin * 0.55)
    window.close()

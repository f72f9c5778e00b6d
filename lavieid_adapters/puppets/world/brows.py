"""Brows, and the glasses before the eyes, each side in a window of its own."""

import torch

from .canvas import Canvas, seen
from .eyes import EYES_LABEL
from .head import Head
from .motion import Tracks
from .shapes import box, circle, coverage, smoothstep

# n clips · f frames · h, w pixels of a window · both sides: 2 f frames, see HeadPose.both_sides
# lu, lv: outwards and down from a brow's or an eye's middle, as if one looked straight at it

BROWS_LABEL = 1


def paint_brows(canvas: Canvas, head: Head, tracks: Tracks) -> None:
    """Paint both brows."""
    look, trait = head.look, head.look.trait
    pose, side = head.pose.both_sides()
    raised, frown = (torch.cat([t, t], 1).expand(-1, side.shape[1], 1, 1) for t in (tracks.raised, tracks.frown))
    x, y = side * trait["eye_spacing"], trait["eye_level"] - trait["brow_height"]
    brow = pose.place(x, y - raised, head.face_depth(x, y))
    window = canvas.window(*pose.picture(brow.u, brow.v), 0.27, 0.17)
    u, v = pose.plane(window.x, window.y)
    lu, lv = (u - brow.u).div_(brow.wide * side).sub_(0.02), (v - brow.v).div_(brow.high)
    ratio = lu / trait["brow_length"]
    arch, tilt = 1.2 * trait["brow_arch"], 0.8 * trait["brow_tilt"] + frown
    middle = (ratio * ratio).mul_(arch).sub_(lu * tilt).add_(0.10 * frown.clamp(min=0.0) - arch)
    taper = (1.0 - 0.55 * smoothstep(-0.1, 1.0, ratio)) * (1.0 - 0.3 * smoothstep(0.7, 1.0, -ratio))
    edge = torch.maximum(
        (lv - middle).abs_() - taper * (0.5 * trait["brow_thickness"]), lu.abs() - trait["brow_length"]
    )
    e = pose.pixel / (0.35 * brow.wide + 0.65 * brow.high)
    window.paint(coverage(edge, e).mul_(window.part(head.coverage)).mul_(0.97), look.brows, BROWS_LABEL)
    window.close_halves((u - pose.place(0.0, y, head.face_depth(0.0, y)).u) * side > 0.0)


def paint_glasses(canvas: Canvas, head: Head) -> None:
    """Paint the glasses of those who wear them."""
    look, trait = head.look, head.look.trait
    square = look.is_style("glasses", "square")
    worn = square + look.is_style("glasses", "round")
    if not seen(worn):
        return
    pose, side = head.pose.both_sides()
    gap, level = trait["eye_spacing"], trait["eye_level"]
    x = side * gap
    eye = pose.place(x, level, head.face_depth(x, level) + 0.04)
    window = canvas.window(*pose.picture(eye.u + 0.02 * side, eye.v), 0.30, 0.27)
    u, v = pose.plane(window.x, window.y)
    lu, lv = (u - eye.u).div_(eye.wide * side), (v - eye.v).div_(eye.high)
    e = pose.pixel / (0.35 * eye.wide + 0.65 * eye.high)

    radius = (gap - 0.055).clamp(max=0.30)
    cu, cv = lu - 0.005, lv - 0.010
    # A rectangle with round corners, or a disc.
    ax, ay = (cu.abs() - radius * 0.80).clamp_(min=0.0), (cv.abs() - radius * 0.58).clamp_(min=0.0)
    pane = torch.maximum(
        torch.addcmul(ax * ax, ay, ay).sqrt_() - radius * 0.22, box(cu, cv, radius * 1.02, radius * 0.80)
    )
    lens = torch.lerp(circle(cu, cv, radius), pane, square)
    inner = lu + gap
    bridge = box(inner, lv + 0.05 - 0.25 * inner * inner, gap - radius + 0.01, 0.017)
    arm = torch.maximum((lv + 0.04).abs_() - 0.017, radius - lu)
    shine = torch.maximum(lens + 0.05, (cu * side + cv + 0.5 * radius).abs_() - 0.035)
    glass = torch.maximum(coverage(lens, e).mul_(0.11), coverage(shine, e).mul_(0.34))
    window.paint(glass * worn, torch.ones_like(look.white))
    frame = coverage(torch.minimum(lens.abs_() - (0.021 + 0.009 * square), bridge), e)
    frame = torch.maximum(frame, coverage(arm, e).mul_(window.part(head.coverage))) * worn
    metal = look.skin.new_tensor([[0.56, 0.13, 0.14], [0.12, 0.12, 0.16]])
    window.paint(frame, look.lit(metal[(look.choice("glasses") == 2).long()]), EYES_LABEL)
    window.close_halves((u - pose.place(0.0, level, head.face_depth(0.0, level) + 0.04).u) * side > 0.0)

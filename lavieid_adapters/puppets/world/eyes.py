"""Eyes with lids and lashes, both at once, each in a window of its own."""

import torch

from .canvas import Canvas
from .head import Head
from .motion import Tracks
from .shapes import circle, coverage, smoothstep

# n clips · f frames · h, w pixels of a window · both sides: 2 f frames, see HeadPose.both_sides
# lu, lv: outwards and down from an eye's middle, as if one looked straight at it

EYES_LABEL = 2


def paint_eyes(canvas: Canvas, head: Head, tracks: Tracks) -> None:
    """Paint both eyes.

    Args:
        canvas: What to paint on.
        head: The head that has them.
        tracks: How far they are open and where they look.
    """
    look, trait = head.look, head.look.trait
    pose, side = head.pose.both_sides()
    x, level = side * trait["eye_spacing"], trait["eye_level"]
    eye = pose.place(x, level, head.face_depth(x, level))
    window = canvas.window(*pose.picture(eye.u, eye.v - 0.02), 0.26, 0.20)
    u, v = pose.plane(window.x, window.y)
    inside = window.part(head.coverage)
    lu, straight = (u - eye.u).div_(eye.wide * side), (v - eye.v).div_(eye.high)
    # Sizes in the local coordinates are seen narrower when turned away; lines keep their thickness.
    e = pose.pixel / (0.35 * eye.wide + 0.65 * eye.high)

    width = trait["eye_width"]
    height = width * trait["eye_aspect"]
    up, down = height * 0.60, height * 0.44
    opening, gaze_x, gaze_y = (
        torch.cat([t, t], 1).expand(-1, side.shape[1], 1, 1) for t in (tracks.eyes, tracks.gaze_x, tracks.gaze_y)
    )
    lv = straight + trait["eye_tilt"] * lu
    ratio = lu / width
    g = (1.0 - ratio * ratio).clamp_(min=0.0)
    arc = (0.45 * g).add_(g.sqrt(), alpha=0.55)
    ends = lu.abs().sub_(width)
    opened = (opening * (1.0 - trait["lid"])).clamp(0.0, 1.25)
    whole_top, bottom = arc * (-up * opening.clamp(min=1.0)), arc * down
    lid = arc * (0.72 * down * (1.0 - opened).clamp(min=0.0) - up * opened)

    over_bottom = torch.maximum(lv - bottom, ends)
    whole = coverage(torch.maximum(whole_top - lv, over_bottom), e).mul_(inside)
    window.paint(whole, look.tinted(0.84, 0.75, 0.73), EYES_LABEL)
    open_ = coverage(torch.maximum(lid - lv, over_bottom), e).mul_(whole)
    radius = trait["iris_size"]
    iu = lu - gaze_x * (0.32 * width) * side
    iv = straight - 0.03 * height - gaze_y * (0.35 * height)
    r = torch.addcmul(iu * iu, iv, iv).sqrt_()
    # Within the eye all is mixed first and laid on once: white, rim, iris, pupil, the lid's shadow.
    ball = look.white.expand(-1, -1, *lu.shape[1:]).clone()
    ball.lerp_(look.iris * 0.5, coverage(r - radius, e)[:, None])
    glow = torch.lerp(look.iris, look.iris * 1.3 + 0.05, (iv / radius).clamp(0.0, 1.0)[:, None])
    ball.lerp_(glow, coverage(r - radius * 0.80, e)[:, None])
    ball.lerp_(look.dark * 0.6, coverage(r - radius * 0.40, e)[:, None])
    cast = (1.0 - (lv - lid).div_(0.28 * height)).clamp_(0.0, 1.0).mul_(0.28)
    ball.lerp_(look.white * 0.45, cast[:, None])
    spark = coverage(circle(iu * side + 0.36 * radius, iv + 0.40 * radius, radius * 0.30), e)
    ball.lerp_(torch.ones_like(look.white), spark.mul_(0.95)[:, None])
    window.paint(open_, ball)

    # Lashes thicken outwards; a lid that is shut shows as their line.
    thick = smoothstep(-0.4, 1.0, ratio).mul_(0.016).add_(0.020)
    line = coverage(torch.maximum((lv - lid).abs_() - thick, ends - 0.04 * width), e).mul_(inside)
    below = coverage(torch.maximum((lv - bottom).abs_() - 0.008, ends), e).mul_(0.45 * inside)
    crease = (lv - whole_top + 0.055).sub_(g, alpha=0.02).abs_() - 0.010
    crease = coverage(torch.maximum(crease, ends + 0.1 * width), e * 1.2).mul_(0.40 * inside)
    window.paint(torch.maximum(below, crease), look.skin * 0.48)
    window.paint(line, look.dark, EYES_LABEL)
    window.close_halves((u - pose.place(0.0, level, head.face_depth(0.0, level)).u) * side > 0.0)

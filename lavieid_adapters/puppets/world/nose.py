"""The nose: it stands out of the face, so that it moves most when the head turns."""

import torch

from .canvas import Canvas
from .head import Head
from .shapes import coverage, ellipse, smooth_min, smoothstep

# n clips · f frames · h, w pixels of the window

NOSE_LABEL = 4
_HEIGHT = 0.15  # of the tip over the face


def paint_nose(canvas: Canvas, head: Head) -> None:
    """Paint the nose in a window around it."""
    look, pose, trait = head.look, head.pose, head.look.trait
    root_y = trait["eye_level"] + 0.03
    tip_y = root_y + trait["nose_length"]
    depth = head.face_depth(0.0, tip_y)
    root = pose.place(0.0, root_y, head.face_depth(0.0, root_y))
    tip = pose.place(0.0, tip_y, depth + _HEIGHT)
    base = pose.place(0.0, tip_y, depth)
    middle = pose.picture(0.5 * (root.u + tip.u), 0.5 * (root.v + tip.v))
    window = canvas.window(*middle, 0.27, 0.28)
    u, v = pose.plane(window.x, window.y)
    e = pose.pixel
    width = trait["nose_width"] * (0.55 + 0.45 * base.wide)

    along = ((v - root.v) / (tip.v - root.v).clamp(min=0.05)).clamp(0.0, 1.0)
    ridge_u = torch.lerp(root.u, tip.u, along * along * 0.35 + along * 0.65)
    across = u - ridge_u
    half = trait["nose_bridge"] * (1.0 - along) + 0.62 * width * along
    bridge = torch.maximum(across.abs() - half, torch.maximum(root.v - v, v - tip.v))
    tu, tv = u - tip.u, v - tip.v
    bulb = ellipse(tu, tv, width * 0.72, width * 0.62)
    wing_u = torch.lerp(base.u, tip.u, 0.45)
    wings = ellipse((u - wing_u).abs() - width * 0.62, tv - 0.012, width * 0.40, width * 0.42)
    shape = smooth_min(smooth_min(bulb, wings, 0.05), bridge, 0.06)
    solid = coverage(shape, e)

    # Lit from the side, as a ridge is; it grows out of the forehead without an edge.
    light = look.light
    grown = smoothstep(0.05, 0.6, along)
    slope = (across / (half + 0.04)).clamp(-1.0, 1.0)
    bright = slope * light.x * 0.9 - pose.sin_yaw * slope * 0.6
    base_light = torch.lerp(light.shadow, torch.ones_like(light.shadow), 0.85)
    pale = look.skin * base_light
    red = pale * (1.0 + look.skin.new_tensor([0.05, -0.30, -0.30]).view(1, 3, 1, 1, 1) * trait["nose_redness"][:, None])
    colour = torch.lerp(pale, red, smoothstep(0.45, 1.0, along)[:, None]) * (0.95 + 0.16 * bright)[:, None]
    window.labels.masked_fill_(solid > 0.5, NOSE_LABEL)
    window.paint(solid * (0.25 + 0.75 * grown), colour)
    under = coverage(shape - 0.012, e * 2.5) * smoothstep(0.25, 0.85, tv / width) * (1.0 - 0.6 * solid)
    window.paint(0.55 * under, look.skin * light.shadow * 0.72)
    nostril_u = torch.lerp(base.u, tip.u, 0.6)
    holes = coverage(ellipse((u - nostril_u).abs() - width * 0.40, tv - width * 0.36, width * 0.20, width * 0.13), e)
    window.paint(0.75 * holes * solid, look.skin * 0.32)
    glow = coverage(ellipse(tu - light.x * width * 0.25, tv + width * 0.16, width * 0.24, width * 0.20), e * 2.5)
    window.paint(0.40 * glow, look.skin * 0.6 + look.white * 0.4)
    window.close()

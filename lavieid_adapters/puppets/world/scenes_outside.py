"""Places under the sky."""

import torch

from .plate import Plate
from .shapes import smooth_min

# p: the plate; its random numbers 0 to 19 are the scene's


def _cloud(p: Plate, x, y, size, colour, alpha=0.95) -> None:
    shape = p.disc(x, y, size, size * 0.42)
    shape = smooth_min(shape, p.disc(x - size * 0.45, y + size * 0.12, size * 0.55, size * 0.30), 0.02)
    shape = smooth_min(shape, p.disc(x + size * 0.5, y + size * 0.10, size * 0.60, size * 0.32), 0.02)
    shape = torch.maximum(shape, p.y - y - size * 0.28)
    p.paint(shape, colour, alpha, 1.6)


def park(p: Plate) -> None:
    """Paint lawn, trees, a path, sun and clouds."""
    p.fill((96, 176, 236), (206, 234, 248), -0.56, 0.1)
    sun_x = p.random(0, -0.5, 0.5)
    p.glow(sun_x, -0.36, 0.42, (255, 246, 200), 0.75)
    p.paint(p.disc(sun_x, -0.36, 0.075), (255, 232, 120))
    _cloud(p, p.random(1, -0.6, -0.1), p.random(2, -0.46, -0.32), p.random(3, 0.12, 0.19), (255, 255, 255))
    _cloud(p, p.random(4, 0.1, 0.6), p.random(5, -0.44, -0.28), p.random(6, 0.10, 0.17), (250, 252, 255))
    hills = 0.02 + 0.05 * torch.sin(p.x * p.random(7, 4.0, 7.0) + p.random(8, 0.0, 6.0))
    p.paint(p.below(hills), p.blend((120, 186, 110), (150, 190, 96), p.random(9)))
    bushes = 0.11 - 0.035 * torch.sin(p.x * 21.0 + p.random(10, 0.0, 6.0)).abs()
    p.paint(p.below(bushes), (70, 140, 84))
    p.paint(p.below(0.14 + 0.02 * torch.sin(p.x * 3.0)), p.blend((112, 184, 80), (140, 196, 84), p.random(11)))
    leaf = p.blend((46, 122, 74), (98, 148, 52), p.random(12))
    autumn = p.blend(leaf, (214, 122, 48), (p.random(13) > 0.75).to(torch.float32))
    for i, (x, side) in enumerate(((p.random(14, -0.58, -0.40), -1), (p.random(15, 0.38, 0.60), 1))):
        top = p.random(16 + i, -0.24, -0.10)
        p.paint(p.rectangle(x, 0.12, 0.045, 0.34), (112, 78, 54))
        p.paint(smooth_min(p.disc(x, top, 0.16, 0.15), p.disc(x - 0.10 * side, top + 0.10, 0.13, 0.11), 0.03), autumn)
        p.paint(p.disc(x - 0.04, top - 0.04, 0.09, 0.07), p.blend(autumn, (255, 255, 190), 0.22 + 0.0 * x), 0.9, 3.0)
    path = (p.x - 0.25 * p.random(18, -1.0, 1.0)).abs() - 0.10 - 0.5 * (p.y - 0.2)
    p.paint(torch.maximum(path * 0.8, 0.2 - p.y), (226, 204, 160))


def beach(p: Plate) -> None:
    """Paint sea and sand, a sun, a sail, a palm or an umbrella."""
    dusk = (p.random(0) > 0.7).to(torch.float32)
    p.fill((80, 176, 232), (198, 238, 246), -0.56, 0.02)
    p.colour.lerp_(p.rgb((250, 176, 128)), (0.62 * dusk * (0.6 + p.y).clamp(0.0, 1.0))[:, None])
    sun_x = p.random(1, -0.45, 0.45)
    p.glow(sun_x, -0.22, 0.46, (255, 240, 190), 0.7)
    p.paint(p.disc(sun_x, p.random(2, -0.36, -0.18), 0.085), p.blend((255, 238, 140), (255, 160, 80), dusk))
    _cloud(p, p.random(3, -0.6, 0.6), p.random(4, -0.48, -0.36), p.random(5, 0.1, 0.18), (255, 252, 246), 0.85)
    p.paint(p.below(0.0), p.blend((34, 136, 182), (56, 120, 160), dusk))
    p.paint(p.below(0.06), (60, 172, 196), 0.7, 12.0)
    for i in range(3):
        wave = (
            p.y - 0.04 - 0.035 * i - 0.004 * torch.sin(p.x * (26.0 - 4.0 * i) + p.random(6 + i, 0.0, 6.0))
        ).abs() - 0.004
        p.paint(wave, (220, 246, 250), 0.65)
    boat = p.random(9, -0.55, 0.55)
    sail = torch.maximum((p.x - boat).abs() - 0.05 * (p.y + 0.13) / 0.12, (p.y + 0.07).abs() - 0.06)
    p.paint(sail, (252, 250, 244))
    p.paint(p.rectangle(boat, 0.002, 0.11, 0.018), (176, 70, 60))
    shore = 0.17 + 0.018 * torch.sin(p.x * 7.0 + p.random(10, 0.0, 6.0))
    p.paint(p.below(shore - 0.018), (240, 250, 246))
    p.paint(p.below(shore), p.blend((240, 214, 156), (232, 196, 140), p.random(11)))
    x = torch.where(p.random(12) < 0.5, -0.44, 0.44) + p.random(13, -0.08, 0.08)
    palm = (p.random(14) < 0.5).to(torch.float32)
    bow = 0.12 * (p.y + 0.3) ** 2
    p.paint(torch.maximum((p.x - x - bow).abs() - 0.018, (p.y - 0.0).abs() - 0.32), (132, 92, 58), palm)
    for dx, dy in ((-0.12, 0.02), (0.12, 0.02), (-0.07, -0.05), (0.08, -0.05), (0.0, 0.05)):
        leaf = p.disc(x + dx, -0.31 + dy + 0.0 * x, 0.12, 0.030)
        leaf = leaf + 0.9 * (p.x - x - dx) ** 2 * (1 if dy > 0 else -0.3)
        p.paint(leaf, (48, 138, 78), palm)
    p.paint(p.rectangle(x, 0.10, 0.014, 0.50), (236, 232, 226), 1.0 - palm)
    roof = torch.maximum(p.disc(x, -0.12, 0.21, 0.15), p.y + 0.12)
    stripes = torch.sin((p.x - x) * 44.0) > 0.0
    p.paint(roof, p.blend((232, 78, 70), (250, 246, 238), stripes.to(torch.float32)), 1.0 - palm)


def street(p: Plate) -> None:
    """Paint houses at night with lit windows, a moon, stars and lamps."""
    p.fill((16, 20, 52), (66, 52, 104), -0.56, 0.25)
    moon = p.random(0, -0.5, 0.5)
    p.glow(moon, -0.40, 0.28, (170, 180, 230), 0.5)
    p.paint(p.disc(moon, -0.40, 0.055), (244, 240, 214))
    for i in range(7):
        p.paint(p.disc(p.random(i + 1, -0.64, 0.64), -0.54 + 0.05 * i, 0.006), (230, 232, 255), 0.9)
    for i, (x, width) in enumerate(((-0.54, 0.30), (-0.22, 0.30), (0.14, 0.36), (0.52, 0.34))):
        top = p.random(8 + i, -0.34, -0.10)
        wall = p.blend(((44, 42, 78), (58, 46, 74), (36, 50, 82), (64, 52, 86))[i], (70, 58, 96), p.random(12 + i))
        p.paint(p.rectangle(x, 0.3 + 0.5 * top, width, 0.6 - top), wall)
        column = ((p.x - x + 0.5 * width) / width * (4 if i != 1 else 3)).expand(len(p.r), -1, -1)
        row = ((p.y - top) / 0.11).expand(len(p.r), -1, -1)
        pane = (
            torch.maximum((column - column.floor() - 0.5).abs() - 0.26, (row - row.floor() - 0.5).abs() - 0.29) * 0.09
        )
        pane = torch.maximum(pane, p.rectangle(x, 0.3 + 0.5 * top, width - 0.02, 0.56 - top))
        # Which windows are lit is a wave over their numbers, another one in each clip.
        lit = (torch.sin(column.floor() * 2.3 + row.floor() * 3.7 + p.random(i, 0.0, 6.3)) > -0.1).to(torch.float32)
        p.paint(pane, p.blend((40, 40, 70), (255, 206, 112), lit))
    p.paint(p.below(0.27), (48, 44, 68))
    p.paint(p.below(0.33), (34, 34, 54))
    for x in (p.random(16, -0.5, -0.36), p.random(17, 0.36, 0.52)):
        p.paint(p.rectangle(x, 0.10, 0.018, 0.46), (28, 28, 42))
        p.glow(x, -0.13, 0.24, (255, 208, 128), 0.85)
        p.paint(p.disc(x, -0.13, 0.036), (255, 240, 200))


def mountains(p: Plate) -> None:
    """Paint snowy peaks, firs and a pale sky."""
    p.fill((110, 168, 222), (226, 238, 248), -0.56, 0.15)
    p.glow(p.random(0, -0.5, 0.5), -0.42, 0.5, (255, 250, 232), 0.7)
    for i, (x, width, far) in enumerate(((-0.36, 0.62, 1.0), (0.40, 0.66, 1.0), (0.04, 0.50, 0.0))):
        top = p.random(1 + i, -0.40, -0.22) + 0.1 * (1.0 - far)
        x = x + p.random(4 + i, -0.08, 0.08)
        zigzag = 0.018 * torch.sin(p.x * 34.0 + p.y * 20.0)
        peak = ((p.x - x).abs() * (0.62 / width) + top - p.y + zigzag * 0.5) * 0.75
        rock = (122, 142, 178) if far else (102, 122, 160)
        p.paint(peak, rock)
        lit = torch.maximum(peak, (p.x - x) * 0.8 + zigzag)
        p.paint(lit, (146, 166, 198), 0.8)
        cap = torch.maximum(peak, p.y - top - 0.14 - 1.6 * zigzag - 0.02 * torch.sin(p.x * 50.0))
        p.paint(cap, (250, 252, 255))
        p.paint(torch.maximum(cap, x - p.x), (212, 224, 242))
    p.paint(p.below(0.12 + 0.03 * torch.sin(p.x * 5.0 + p.random(8, 0.0, 6.0))), (228, 238, 250))
    for i in range(6):
        x = -0.6 + 0.24 * i + p.random(9 + i, -0.07, 0.07)
        high = p.random(12 + i, 0.20, 0.34)
        foot = 0.20 + 0.02 * (i % 2)
        for k in range(3):
            base = foot - high * 0.28 * k
            tier = torch.maximum(
                (p.x - x).abs() - (0.10 - 0.024 * k) * (p.y - base + high * 0.42) / (high * 0.42), p.y - base
            )
            tier = torch.maximum(tier, base - high * 0.42 - p.y)
            p.paint(tier * 0.8, ((44, 96, 92), (52, 108, 100), (64, 122, 110))[k])
    p.paint(p.below(0.20 + 0.02 * torch.sin(p.x * 6.0 + p.random(18, 0.0, 6.0))), (246, 250, 255))


def desert(p: Plate) -> None:
    """Paint dunes, mesas and cacti in a warm sky."""
    p.fill((246, 168, 108), (255, 226, 170), -0.56, 0.1)
    p.colour.lerp_(p.rgb((112, 178, 216)), ((p.random(0) < 0.5) * 0.8 * (0.3 - p.y).clamp(0.0, 1.0))[:, None])
    sun = p.random(1, -0.48, 0.48)
    p.glow(sun, -0.30, 0.5, (255, 244, 206), 0.8)
    p.paint(p.disc(sun, -0.30, 0.095), (255, 246, 214))
    for i, x in enumerate((p.random(2, -0.6, -0.3), p.random(3, 0.25, 0.6))):
        top = p.random(4 + i, -0.16, -0.04)
        mesa = torch.maximum((p.x - x).abs() - 0.15 - 0.25 * (p.y - top), top - p.y)
        p.paint(mesa, (196, 104, 74))
        p.paint(torch.maximum(mesa, (p.y - top - 0.05).abs() - 0.012), (170, 84, 64), 0.8)
        p.paint(torch.maximum(mesa, x + 0.03 - p.x), (168, 82, 66), 0.55)
    p.paint(p.below(0.07 + 0.04 * torch.sin(p.x * 4.0 + p.random(6, 0.0, 6.0))), (226, 160, 98))
    p.paint(p.below(0.15 + 0.04 * torch.sin(p.x * 5.0 + p.random(7, 0.0, 6.0))), (236, 182, 116))
    p.paint(p.below(0.26 + 0.03 * torch.sin(p.x * 6.0 + p.random(8, 0.0, 6.0))), (244, 202, 140))
    for i, x in enumerate((p.random(9, -0.56, -0.38), p.random(10, 0.38, 0.58))):
        foot, high = 0.26, p.random(11 + i, 0.26, 0.40)
        green = p.blend((62, 128, 84), (92, 142, 76), p.random(13 + i))
        side = 1.0 if i else -1.0
        body = p.rectangle(x, foot - 0.5 * high, 0.05, high) - 0.012
        arm = torch.minimum(
            p.rectangle(x - side * 0.05, foot - 0.45 * high, 0.07, 0.022) - 0.008,
            p.rectangle(x - side * 0.085, foot - 0.60 * high, 0.022, 0.3 * high) - 0.008,
        )
        p.paint(torch.minimum(body, arm), green)
        p.paint(
            p.rectangle(x - 0.012, foot - 0.5 * high, 0.008, high), p.blend(green, (220, 240, 180), 0.3 + 0.0 * x), 0.8
        )

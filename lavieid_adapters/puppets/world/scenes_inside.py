"""Places under a roof, and the backgrounds of photos."""

import torch
from torch import Tensor

from .palette import ramp
from .plate import Plate

# p: the plate; its random numbers 0 to 19 are the scene's

_WALLS = ((226, 214, 196), (204, 218, 210), (214, 210, 226), (232, 206, 190), (190, 208, 222))
_STUDIO = (
    (70, 84, 110),
    (196, 204, 214),
    (226, 208, 186),
    (120, 138, 124),
    (176, 120, 118),
    (96, 88, 120),
    (210, 184, 120),
)
_BOOKS = ((176, 62, 56), (214, 152, 72), (62, 104, 140), (80, 128, 92), (128, 84, 128), (226, 206, 170), (60, 62, 86))


def _colours(table, t: Tensor) -> Tensor:
    return ramp(table, t)[:, :, None, None]


def _books(p: Plate, y: float, height: float, x: Tensor | float, width: Tensor | float, phase: Tensor) -> None:
    """Paint a row of books that stand on the line y, of many colours and heights."""
    number = ((p.x - x) / 0.042).expand(len(p.r), -1, -1)
    k = number.floor()
    tall = height * (0.74 + 0.24 * torch.sin(k * 4.1 + phase * 7.0).abs())
    table = p.r.new_tensor(_BOOKS) / 255.0
    pick = ((k * 5.0 + (torch.sin(k * 2.7 + phase * 9.0) * 3.0).floor()) % len(_BOOKS)).to(torch.int64)
    colour = table[pick].permute(0, 3, 1, 2)
    shape = torch.maximum((number - k - 0.5).abs() * 0.042 - 0.0185, torch.maximum(y - tall - p.y, p.y - y))
    shape = torch.maximum(shape, (p.x - x).abs() - 0.5 * width)
    p.paint(shape, colour)
    band = torch.maximum(shape, (p.y - y + 0.72 * tall).abs() - 0.008)
    p.paint(band, (240, 222, 170), 0.7)


def _window(p: Plate, x: Tensor, y: float, width: float, height: float, day: Tensor) -> None:
    p.paint(p.rectangle(x, y, width + 0.05, height + 0.05), (250, 248, 242))
    p.paint(p.rectangle(x, y, width, height), p.blend((150, 206, 240), (250, 190, 140), day))
    inside = p.rectangle(x, y, width, height)
    p.paint(torch.maximum(inside, p.disc(x - 0.08, y - 0.06, 0.09, 0.035)), (255, 255, 255), 0.85, 2.0)
    roofs = y + 0.10 - 0.05 * (torch.sin((p.x - x) * 31.0) > 0.0) - 0.03 * (torch.sin((p.x - x) * 17.0 + 1.0) > 0.0)
    p.paint(torch.maximum(inside, p.below(roofs)), p.blend((126, 152, 182), (168, 120, 130), day))
    p.paint(torch.maximum(inside, (p.x - x).abs() - 0.010), (250, 248, 242))
    p.paint(torch.maximum(inside, (p.y - y + 0.02).abs() - 0.009), (250, 248, 242))
    p.paint(p.rectangle(x, y + 0.5 * height + 0.035, width + 0.10, 0.026), (222, 214, 202))


def office(p: Plate) -> None:
    """Paint a window, a shelf with binders, a picture, a desk with a lamp."""
    wall = _colours(_WALLS, p.r[:, 0])
    p.fill(wall * 1.02, wall * 0.86)
    flip = torch.where(p.random(1) < 0.5, -1.0, 1.0)
    _window(p, flip * p.random(2, 0.34, 0.42), -0.16, 0.36, 0.44, (p.random(3) > 0.7).to(torch.float32))
    x = -flip * p.random(4, 0.36, 0.44)
    for i, y in enumerate((-0.20, 0.04)):
        _books(p, y, 0.15, x, p.random(5 + i, 0.26, 0.36), p.random(7 + i))
        p.paint(p.rectangle(x, y + 0.012, 0.42, 0.024), (150, 108, 74))
    p.paint(p.rectangle(x, -0.44, 0.15, 0.12), (90, 84, 80))
    p.paint(p.rectangle(x, -0.44, 0.126, 0.096), _colours(_BOOKS, p.r[:, 9]))
    p.paint(p.below(0.25), (168, 120, 82))
    p.paint(p.below(0.29), (142, 98, 68))
    lamp = flip * p.random(10, 0.44, 0.54)
    p.paint(p.rectangle(lamp, 0.16, 0.014, 0.2), (64, 66, 74))
    shade = torch.maximum((p.x - lamp).abs() - 0.05 - 0.35 * (p.y - 0.02), (p.y - 0.06).abs() - 0.045)
    p.glow(lamp, 0.10, 0.22, (255, 236, 180), 0.5)
    p.paint(shade, _colours(_BOOKS, p.r[:, 11]))
    plant = -flip * p.random(12, 0.50, 0.58)
    for dx in (-0.05, 0.0, 0.05):
        p.paint(p.disc(plant + dx, 0.13 + dx * dx * 10.0, 0.030, 0.085), (70, 140, 92))
    p.paint(p.rectangle(plant, 0.22, 0.10, 0.08), (204, 120, 86))


def library(p: Plate) -> None:
    """Paint shelves full of books, an arch with a lamp."""
    wood = p.blend((104, 66, 46), (130, 82, 50), p.random(0))
    p.fill(wood * 0.82, wood * 0.56)
    for i, y in enumerate((-0.33, -0.11, 0.11, 0.33)):
        _books(p, y, 0.19, p.random(1 + i, -0.05, 0.05), 1.5, p.random(5 + i))
        p.paint(p.rectangle(0.0, y + 0.014, 1.4, 0.030), wood * 1.12)
    for x in (p.random(9, -0.42, -0.30), p.random(10, 0.30, 0.42)):
        p.paint(p.rectangle(x, 0.0, 0.050, 1.2), wood * 1.22)
        p.paint(p.rectangle(x - 0.016, 0.0, 0.008, 1.2), wood * 1.45)
    lamp = torch.where(p.random(11) < 0.5, -1.0, 1.0) * p.random(12, 0.40, 0.52)
    p.glow(lamp, -0.26, 0.46, (255, 214, 130), 0.62)
    p.paint(p.rectangle(lamp, -0.44, 0.010, 0.28), (50, 40, 36))
    shade = torch.maximum((p.x - lamp).abs() - 0.045 - 0.5 * (p.y + 0.33), (p.y + 0.29).abs() - 0.05)
    p.paint(shade, p.blend((66, 128, 96), (214, 148, 70), p.random(13)))
    p.paint(p.disc(lamp, -0.235, 0.035, 0.022), (255, 246, 208))


def kitchen(p: Plate) -> None:
    """Paint tiles, cupboards, a window, pots and a hanging lamp."""
    p.fill((240, 232, 216), (226, 214, 196))
    tone = p.blend((214, 232, 232), (240, 222, 206), p.random(0))
    across, down = (p.x / 0.10).expand(len(p.r), -1, -1), (p.y / 0.10).expand(len(p.r), -1, -1)
    tile = torch.maximum((across - across.floor() - 0.5).abs(), (down - down.floor() - 0.5).abs()) * 0.10 - 0.044
    p.paint(torch.maximum(tile, p.below(-0.12)), tone, 0.9)
    front = _colours(((88, 140, 140), (206, 126, 92), (108, 128, 172), (226, 186, 98)), p.r[:, 1])
    flip = torch.where(p.random(2) < 0.5, -1.0, 1.0)
    for x in (0.24, 0.52):
        p.paint(p.rectangle(flip * x, -0.36, 0.26, 0.36), front)
        p.paint(p.rectangle(flip * x, -0.36, 0.20, 0.29), front * 1.10)
        p.paint(p.disc(flip * (x - 0.09), -0.25, 0.013), (250, 240, 214))
    _window(p, -flip * p.random(3, 0.34, 0.44), -0.20, 0.34, 0.38, (p.random(4) > 0.75).to(torch.float32))
    p.paint(p.below(0.20), (246, 240, 230))
    p.paint(p.below(0.245), front * 0.9)
    for x in (-0.45, -0.15, 0.15, 0.45):
        p.paint(p.rectangle(x, 0.5, 0.006, 0.5), front * 0.7)
    pot = flip * p.random(5, 0.34, 0.52)
    metal = p.blend((196, 70, 62), (90, 98, 112), p.random(6))
    p.paint(p.rectangle(pot, 0.14, 0.16, 0.11), metal)
    p.paint(p.rectangle(pot, 0.075, 0.18, 0.018), metal * 0.75)
    p.paint(p.disc(pot, 0.058, 0.018), (50, 46, 50))
    jar = -flip * p.random(7, 0.40, 0.54)
    for i, dx in enumerate((-0.06, 0.05)):
        p.paint(p.rectangle(jar + dx, 0.13, 0.075, 0.13), _colours(_BOOKS, p.r[:, 8 + i]) * 1.1)
        p.paint(p.rectangle(jar + dx, 0.055, 0.085, 0.026), (170, 124, 84))
    lamp = p.random(10, -0.12, 0.12)
    p.glow(lamp, -0.42, 0.4, (255, 240, 196), 0.6)
    p.paint(p.rectangle(lamp, -0.54, 0.008, 0.14), (60, 56, 56))
    p.paint(
        torch.maximum(p.disc(lamp, -0.41, 0.10, 0.075), p.y + 0.41), p.blend((232, 178, 80), (70, 82, 96), p.random(11))
    )


def studio(p: Plate) -> None:
    """Paint a plain gradient with a glow behind the head, or discs of light out of focus."""
    colour = _colours(_STUDIO, p.r[:, 0])
    p.fill(colour * 0.92, colour * 0.66)
    p.glow(p.random(1, -0.25, 0.25), -0.05, p.random(2, 0.6, 0.8), (colour * 1.28).clamp(max=1.0), 0.8)
    spots = (p.random(3) < 0.45).to(torch.float32)
    for i in range(7):
        tone = p.blend(_colours(_STUDIO, p.r[:, 4 + i]), (255, 244, 220), p.random(5 + i, 0.2, 0.7))
        disc = p.disc(p.random(6 + i, -0.6, 0.6), p.random(9 + i, -0.5, 0.4), p.random(12 + i, 0.05, 0.13))
        p.paint(disc, tone, spots * 0.42, 4.0)

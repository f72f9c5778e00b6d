"""Colours that people come in, as ramps between named ones."""

import torch
from torch import Tensor

# n people · colours are (n, 3), 0..1

SKIN = ((78, 47, 36), (112, 69, 50), (150, 98, 70), (186, 128, 92), (214, 161, 122), (236, 190, 156), (250, 216, 190))
HAIR = (
    (28, 24, 28),
    (52, 36, 30),
    (74, 48, 36),
    (98, 64, 44),
    (134, 84, 46),
    (146, 104, 70),
    (168, 72, 36),
    (206, 112, 44),
    (214, 160, 84),
    (228, 186, 108),
    (240, 214, 150),
    (186, 184, 190),
    (232, 232, 238),
    (232, 120, 160),
    (124, 84, 178),
    (44, 136, 160),
)
IRIS = (
    (66, 38, 22),
    (110, 66, 28),
    (164, 112, 40),
    (112, 140, 52),
    (40, 132, 96),
    (52, 150, 178),
    (58, 112, 204),
    (128, 138, 164),
)
LIPS = ((214, 108, 96), (196, 62, 72), (168, 44, 84), (226, 96, 136), (150, 70, 62))
CLOTHES = (
    (198, 62, 58),
    (228, 132, 62),
    (236, 196, 88),
    (92, 152, 96),
    (54, 128, 132),
    (62, 104, 176),
    (46, 58, 96),
    (122, 82, 152),
    (214, 122, 152),
    (240, 236, 226),
    (72, 76, 84),
    (146, 108, 78),
)


def ramp(table: tuple[tuple[int, int, int], ...], t: Tensor) -> Tensor:
    """Mix the colours at t (n,), 0 the first of the table, 1 the last, of the two nearest: (n, 3)."""
    colours = torch.tensor(table, device=t.device, dtype=torch.float32) / 255.0
    steps = torch.arange(len(table), device=t.device, dtype=torch.float32)
    weights = (1.0 - (t[:, None] * (len(table) - 1) - steps).abs()).clamp(min=0.0)
    return (weights[:, :, None] * colours).sum(1)


def one_of(table: tuple[tuple[int, int, int], ...], t: Tensor) -> Tensor:
    """Pick the colour of the table that t (n,) in 0..1 falls on: (n, 3)."""
    colours = torch.tensor(table, device=t.device, dtype=torch.float32) / 255.0
    return colours[(t * len(table)).to(torch.int64).clamp(0, len(table) - 1)]


def rgb(red: int, green: int, blue: int, device: torch.device | str) -> Tensor:
    """Return one colour as (1, 3, 1, 1, 1), to be broadcast over frames."""
    return torch.tensor([red, green, blue], device=device, dtype=torch.float32).view(1, 3, 1, 1, 1) / 255.0

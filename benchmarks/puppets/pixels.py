"""Videos between bytes and what the VAE takes and gives."""

# n clips · f frames · h w pixels

import torch
from torch import Tensor


def to_vae(video: Tensor) -> Tensor:
    """(n, f, 3, h, w), uint8 → (n, 3, f, h, w), float32, -1 to 1."""
    return video.transpose(1, 2).float() / 127.5 - 1


def from_vae(made: Tensor) -> Tensor:
    """(n, 3, f, h, w), floating point, about -1 to 1 → (n, f, 3, h, w), uint8."""
    return ((made.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).transpose(1, 2)

"""Variants of drawn pictures, each picture its own, without a wait for the GPU."""

# b batch · c channels · h w pixels

import torch
import torch.nn.functional as F
from torch import Tensor

_BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


def photometric(images: Tensor, strength: float = 1.0) -> Tensor:
    """Other light, softer edges and noise, as in photographs, and in what a generator makes.

    Args:
        images: (b, 3, h, w), -1 to 1.
        strength: 1 changes colours by up to about a tenth.
    """
    b, device = len(images), images.device

    def each(*shape: int) -> Tensor:
        return torch.rand(b, *shape, 1, 1, device=device)

    gain = 1 + strength * (0.16 * (each(3) - 0.5) + 0.3 * (each(1) - 0.5))
    x = (images + 1) * gain - 1 + 0.16 * strength * (each(1) - 0.5)
    # A third stays as sharp as it is drawn; some are softened twice.
    once = _soften(x)
    softness = (3 * each(1) - 1) * strength
    x = torch.where(
        softness < 1, torch.lerp(x, once, softness.clamp(0, 1)), torch.lerp(once, _soften(once), softness - 1)
    )
    x = x + 0.07 * strength * (each(1) - 0.4).clamp(min=0) * torch.randn_like(x)
    return x.clamp(-1, 1)


def _soften(x: Tensor) -> Tensor:
    kernel = _BINOMIAL.to(x.device, x.dtype).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=x.shape[1])
    return F.conv2d(x, kernel.transpose(2, 3), groups=x.shape[1])


def geometric(
    images: Tensor,
    maps: Tensor | None = None,
    *,
    shift: float = 0.05,
    zoom: tuple[float, float] = (0.85, 1.15),
    angle: float = 0.0,
    away: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Moved, scaled and turned pictures; beside them is one colour, different for each.

    Args:
        images: (b, 3, h, w), -1 to 1.
        maps: (b, h, w), uint8, moved likewise; 0 beside them.
        shift: By how much of the picture at most.
        zoom: Least and largest scale.
        angle: Degrees at most.
        away: Share of the pictures that are moved out of sight altogether.

    Returns:
        Both, as they came in.
    """
    b, device = len(images), images.device
    turn = (2 * torch.rand(b, device=device) - 1) * (angle * torch.pi / 180)
    low, high = (torch.tensor(bound).log() for bound in zoom)
    scale = torch.exp(-(low + (high - low) * torch.rand(b, device=device)))
    move = 2 * shift * (2 * torch.rand(b, 2, device=device) - 1) * scale[:, None]
    if away:
        move[:, 0] += 10 * (torch.rand(b, device=device) < away)
    cos, sin = turn.cos() * scale, turn.sin() * scale
    matrix = torch.stack([cos, -sin, move[:, 0], sin, cos, move[:, 1]], dim=1).view(b, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    beside = 2 * torch.rand(b, 3, 1, 1, device=device) - 1
    images = F.grid_sample(images - beside, grid, align_corners=False) + beside
    if maps is not None:
        moved = F.grid_sample(maps[:, None].float(), grid, mode="nearest", align_corners=False)
        maps = moved[:, 0].to(torch.uint8)
    return images, maps

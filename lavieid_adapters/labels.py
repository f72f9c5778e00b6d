"""Which facial component each video token shows: y of eq. 5, from component maps of all frames."""

# f frames of the clip · h w its pixels · F H W token grid · c component classes

import torch
import torch.nn.functional as F
from torch import Tensor

from .components import NUM_CLASSES

IGNORED = -100  # cross-entropy's own


def token_labels(
    maps: Tensor,
    grid: tuple[int, int, int],
    *,
    temporal_compression: int = 4,
    patch_frames: int = 1,
    threshold: float = 0.5,
) -> Tensor:
    """The component that takes the greater part of each video token.

    A causal VAE gives frame 0 a latent frame of its own, and latent frame k the frames c·(k-1)+1 to c·k, with c the
    temporal compression. Where a token spans several latent frames, and they do not divide, the first one is repeated
    in front, as CogVideoX 1.5 does.

    Args:
        maps: Component of each pixel, (f, h, w), uint8: 0 for none, 1 to 6 for `FACIAL_COMPONENTS`, 255
            where it is not known.
        grid: The token grid (frames, height, width).
        temporal_compression: Frames a latent frame.
        patch_frames: Latent frames a token.
        threshold: Share of a token's pixels that its component must reach; `IGNORED` where none does.

    Returns:
        (F·H·W,), int64: 0 to 5 for a component, 6 for none of them, `IGNORED`.

    Raises:
        ValueError: If the frames do not fit the grid.
    """
    if maps.ndim != 3 or maps.dtype != torch.uint8:
        raise ValueError(f"maps is {maps.dtype} of shape {tuple(maps.shape)}, but must be uint8 (frames, h, w).")
    latent_frames = (len(maps) - 1) // temporal_compression + 1
    if (len(maps) - 1) % temporal_compression or -(-latent_frames // patch_frames) != grid[0]:
        raise ValueError(
            f"{len(maps)} frames at {temporal_compression} a latent frame and {patch_frames} latent frames a token do "
            f"not make the {grid[0]} frames of the token grid."
        )
    shares = torch.stack([_shares(maps, c, grid[1:]) for c in range(NUM_CLASSES)])  # c f H W
    first, rest = shares[:, :1], shares[:, 1:]
    latent = torch.cat([first, rest.unflatten(1, (-1, temporal_compression)).mean(2)], 1) if len(maps) > 1 else first
    latent = torch.cat([first] * (-latent_frames % patch_frames) + [latent], dim=1)
    share, winner = latent.unflatten(1, (-1, patch_frames)).mean(2).flatten(1).max(dim=0)
    labels = torch.where(winner == 0, NUM_CLASSES - 1, winner - 1)
    return labels.masked_fill((share < threshold) | (share == 0), IGNORED)


def _shares(maps: Tensor, component: int, size: tuple[int, int]) -> Tensor:
    """The share of each cell of a frame that a class takes, (f, H, W)."""
    return F.adaptive_avg_pool2d((maps == component).float(), size)

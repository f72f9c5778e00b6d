"""y of eq. 5: the facial component that each video token shows, from component maps of all frames."""

# f frames of the clip · h w its pixels · F H W token grid · c component classes

import torch
from torch import Tensor

from ..faces.components import NUM_CLASSES

IGNORED = -100  # cross-entropy's own


def token_labels(
    maps: Tensor,
    grid: tuple[int, int, int],
    *,
    temporal_compression: int = 4,
    patch_frames: int = 1,
    threshold: float = 0.5,
) -> Tensor:
    """Return y of eq. 5: the component that takes the greatest part of each video token.

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
        ValueError: If a setting is out of bounds, the frames do not fit the grid, or the maps are coarser.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, but must be a share from 0 to 1.")
    if min(temporal_compression, patch_frames) < 1:
        raise ValueError(
            f"temporal_compression is {temporal_compression} and patch_frames is {patch_frames}, but both must be at "
            "least 1."
        )
    if maps.ndim != 3 or maps.dtype != torch.uint8:
        raise ValueError(f"maps is {maps.dtype} of shape {tuple(maps.shape)}, but must be uint8 (frames, h, w).")
    latent_frames = (len(maps) - 1) // temporal_compression + 1
    if (len(maps) - 1) % temporal_compression or -(-latent_frames // patch_frames) != grid[0]:
        raise ValueError(
            f"{len(maps)} frames at {temporal_compression} a latent frame and {patch_frames} latent frames a token do "
            f"not make the {grid[0]} frames of the token grid."
        )
    if maps.shape[1] < grid[1] or maps.shape[2] < grid[2]:
        raise ValueError(f"maps of {tuple(maps.shape[1:])} pixels are coarser than a token grid of {tuple(grid[1:])}.")
    per_latent = [maps[:1], *(maps[1:].split(temporal_compression) if len(maps) > 1 else ())]
    latent = torch.stack([_shares(frames, grid[1:]) for frames in per_latent], dim=1)  # c F' (H W)
    latent = torch.cat([latent[:, :1]] * (-latent_frames % patch_frames) + [latent], dim=1)
    share, winner = latent.unflatten(1, (-1, patch_frames)).mean(2).flatten(1).max(dim=0)
    labels = torch.where(winner == 0, NUM_CLASSES - 1, winner - 1)
    return labels.masked_fill((share < threshold) | (share == 0), IGNORED)


def _shares(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the share of each cell of a few frames that each class takes, (c, H·W).

    A pixel belongs to the cell in which its middle lies.
    """
    rows, columns = (
        torch.arange(side).mul(2).add(1).mul(cells).div(2 * side, rounding_mode="floor")
        for side, cells in zip(frames.shape[1:], size, strict=True)
    )
    cells = (rows[:, None] * size[1] + columns).int() * (NUM_CLASSES + 1)
    # Counting once is several times as fast as pooling each class.
    counts = torch.bincount(
        (cells + frames.clamp(max=NUM_CLASSES)).flatten(), minlength=size[0] * size[1] * (NUM_CLASSES + 1)
    )
    counts = counts.view(-1, NUM_CLASSES + 1).float()
    return (counts / counts.sum(1, keepdim=True)).T[:NUM_CLASSES]

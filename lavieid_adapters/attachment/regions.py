"""The place of each of several people in the picture: region masks, brought to the grid of the video tokens."""

# k identities · f frames · h w pixels of a mask · n video tokens

import os
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..files.images import check_image, decoding, open_labels


def read_regions(sources) -> list[Tensor]:
    """Return a list of region masks, each as `read_region` gives it.

    Raises:
        ValueError, TypeError: If they are not a list or a tuple, or if one of them is not a region.
    """
    if not isinstance(sources, list | tuple):
        raise TypeError(f"regions is a {type(sources).__name__}, but must be a list of masks. Give one per identity.")
    return [read_region(source) for source in sources]


def read_region(source) -> Tensor:
    """Return a region mask as (1 or f, h, w), float32, 0 to 1.

    Args:
        source: The path of an image, a PIL image, or an array or tensor (h, w) or (f, h, w) of bool, 0 and 1, uint8
            up to 255, or floats from 0 to 1.

    Raises:
        ValueError, TypeError: If it is none of these, has other values, or is empty.
    """
    if isinstance(source, str | os.PathLike):
        source = open_labels(source, "region")
    if isinstance(source, Image.Image):
        check_image(source, "A region")
        with decoding("A region", "cannot be decoded", "save it again"):
            source = np.array(source.convert("L"))
    if not isinstance(source, np.ndarray | Tensor):
        raise TypeError(f"A region is a {type(source).__name__}, but must be an image, an array or a tensor.")
    # Arrays are copied: PyTorch takes no mirrored and no read-only ones.
    region = torch.tensor(source.copy()) if isinstance(source, np.ndarray) else source.detach().cpu()
    scale = 255 if region.dtype == torch.uint8 and region.numel() and region.max() > 1 else 1
    region = region.float() / scale
    if region.ndim not in (2, 3):
        raise ValueError(
            f"A region has shape {tuple(region.shape)}, but must be (height, width) or (frames, height, width)."
        )
    if not region.any():
        raise ValueError("A region is empty, so that its person would be nowhere. Give a mask that has a place.")
    if not (region.isfinite().all() and region.min() >= 0 and region.max() <= 1):
        raise ValueError(f"A region must lie in 0 to 1, but this one has {region.min():g} to {region.max():g}.")
    return region if region.ndim == 3 else region[None]


def check_frames(regions: Sequence[Tensor], frames: int) -> None:
    """Check that masks are static, or of as many frames as the token grid.

    Raises:
        ValueError: If one is neither.
    """
    for region in regions:
        if len(region) not in (1, frames):
            raise ValueError(
                f"A region has {len(region)} frames, but the video tokens have {frames}. Give one mask for all, or one "
                "for each frame of the token grid."
            )


def token_regions(regions: Sequence[Tensor], grid: tuple[int, int, int] | None, num_tokens: int) -> Tensor:
    """Return the share of each video token that lies in each region, (k, n).

    Args:
        regions: k masks (1 or f, h, w).
        grid: The token grid (frames, height, width); None if the host's is not known, then masks are of its size.
        num_tokens: Number n of video tokens.

    Raises:
        ValueError: If the frames do not fit, or without a grid the whole masks.
    """
    if grid is None:
        grid = tuple(regions[0].shape)
        if any(tuple(region.shape) != grid for region in regions) or regions[0].numel() != num_tokens:
            shapes = ", ".join(str(tuple(region.shape)) for region in regions)
            raise ValueError(
                f"The token grid of this transformer is not known, and regions of shape {shapes} do not fit its "
                f"{num_tokens} tokens. Give each as (frames, height, width) of the token grid."
            )
    check_frames(regions, grid[0])
    pooled = [F.adaptive_avg_pool2d(region, grid[1:]).expand(grid[0], -1, -1).flatten() for region in regions]
    return torch.stack(pooled)

"""Layers of the drawn world's networks: a residual block, a U-Net, and pooling inside regions."""

# b batch · c channels · h w pixels of the picture, or of a feature map · r regions

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS = 8


class ResBlock(nn.Module):
    """Two 3 × 3 convolutions, each behind a group norm, added to what came in: (b, c, h, w) → (b, c, h, w)."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class UNet(nn.Module):
    """A U-Net whose skips are added.

    Args:
        widths: Channels of each scale, from the full picture on, each half as large as the one before; multiples of 8.
    """

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        pairs = list(pairwise(widths))
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(ResBlock(width) for width in widths)
        # Of stride 2 with three taps: each pixel is seen by one step at least, so that nothing aliases away.
        self.down = nn.ModuleList(nn.Conv2d(wide, deep, 3, stride=2, padding=1) for wide, deep in pairs)
        self.up = nn.ModuleList(nn.Conv2d(deep, wide, 1) for wide, deep in pairs)
        self.decoder = nn.ModuleList(ResBlock(width) for width in widths[:-1])

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the feature maps of encoder and decoder, each from the full picture on; both end with the deepest.

        Args:
            images: (b, 3, h, w), -1 to 1; h and w divide by 2 once a scale.
        """
        encoded = [self.encoder[0](self.stem(images))]
        for block, down in zip(self.encoder[1:], self.down, strict=True):
            encoded.append(block(down(encoded[-1])))
        decoded = encoded[-1:]
        for scale in reversed(range(len(self.decoder))):
            coarse = F.interpolate(self.up[scale](decoded[0]), scale_factor=2.0, mode="nearest")
            decoded.insert(0, self.decoder[scale](encoded[scale] + coarse))
        return encoded, decoded


def pooled(features: Tensor, regions: Tensor) -> Tensor:
    """Average a feature map inside each of several regions.

    Args:
        features: (b, c, h, w).
        regions: How much of each region lies in a pixel, (b, r, H, W), H and W multiples of h and w; all zero for a
            region that is not there.

    Returns:
        (b, r, c), float32; 0 for a region that is not there.
    """
    weights = F.adaptive_avg_pool2d(regions.float(), features.shape[-2:]).flatten(2)
    weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-4)
    return torch.einsum("brn,bcn->brc", weights, features.float().flatten(2))


def check_images(images: Tensor, size: int, name: str) -> None:
    """Raise if these are no pictures for a network.

    Raises:
        ValueError: If `images` is not floating point of (b, 3, size, size).
    """
    if images.ndim != 4 or images.shape[1:] != (3, size, size) or not images.is_floating_point():
        raise ValueError(
            f"images is {images.dtype} of shape {tuple(images.shape)}, but {name} takes floating point of (batch, 3, "
            f"{size}, {size}), -1 to 1."
        )


def to_network(pictures: Tensor, size: int) -> Tensor:
    """Turn pictures of bytes into what a network takes.

    Args:
        pictures: (b, 3, h, w), uint8.
        size: Side of the result; the pictures are resized, antialiased, if they have another.

    Returns:
        (b, 3, size, size), float32, -1 to 1.

    Raises:
        ValueError: If they are not such pictures, or not square.
    """
    if pictures.ndim != 4 or pictures.dtype != torch.uint8 or pictures.shape[1] != 3:
        raise ValueError(
            f"The pictures are {pictures.dtype} of shape {tuple(pictures.shape)}, but must be uint8 of (batch, 3, h, "
            "w)."
        )
    if pictures.shape[2] != pictures.shape[3]:
        raise ValueError(f"The pictures are {tuple(pictures.shape[2:])} pixels, but must be square. Crop them.")
    x = pictures.float() / 127.5 - 1
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp(-1, 1)
    return x

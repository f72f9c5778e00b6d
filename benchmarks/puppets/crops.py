"""The components of many photos, each alone on white, on the device where the photos are: what
`lavieid_adapters.faces.components.component_images` makes of one photo on the CPU."""

# b photos · m components · h w pixels · s side of a component's image · j pixels of the square around a component

import torch
from torch import Tensor

from lavieid_adapters.models.identity import FACIAL_COMPONENTS

_MARGIN = 1.1


def component_crops(images: Tensor, maps: Tensor, size: int, min_pixels: int = 8) -> tuple[Tensor, Tensor]:
    """Each component alone on white, in the square around it, resized by the antialiased bicubic filter.

    The filter is a product of two matrices, one for the rows and one for the columns, which differ from component to
    component only in numbers: no component needs a size, or a look at its numbers, of its own.

    Args:
        images: (b, 3, h, w), uint8, or floating point from 0 to 255.
        maps: (b, h, w), uint8, 0 to 6.
        size: Side s of the results.
        min_pixels: A component of fewer stays white.

    Returns:
        The images (b, m, 3, s, s), float32 from 0 to 255, and which of them show something (b, m), bool.
    """
    m = len(FACIAL_COMPONENTS)
    shown = maps[:, None] == torch.arange(1, m + 1, device=maps.device, dtype=maps.dtype)[:, None, None]
    visible = shown.sum((2, 3)) >= min_pixels
    first, length = zip(*(_extent(shown.any(dim=dim)) for dim in (3, 2)), strict=True)  # of rows, of columns
    # As Python rounds: the halves to the even one.
    side = (_MARGIN * torch.maximum(*length).double()).round().long()
    rows, columns = (
        _weights(side, first[i], length[i], maps.shape[1 + i], size).flatten(0, 1).unsqueeze(1) for i in (0, 1)
    )
    # White is where nothing is: the filter's weights sum to one.
    darker = (images.float() - 255)[:, None] * shown[:, :, None]
    # Bytes are resized along the rows first, and clamped before the columns follow.
    darker = (darker.flatten(0, 1) @ columns.transpose(2, 3)).clamp(-255, 0)
    crops = 255 + rows @ darker
    crops = crops.unflatten(0, (-1, m)).clamp(0, 255)
    return torch.where(visible[..., None, None, None], crops, 255.0), visible


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """The first index along the last dimension that is True, and how many lie from there to the last one; 0 and n
    where none is."""
    n = occupied.shape[-1]
    ones = occupied.byte()
    first = ones.argmax(dim=-1)
    return first, n - ones.flip(-1).argmax(dim=-1) - first


def _weights(side: Tensor, first: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """How much each pixel of a picture's row counts in each pixel of the resized square: (b, m, s, pixels)."""
    scale = side.double() / size
    support = scale.clamp(min=1)[..., None, None]
    centre = scale[..., None, None] * (torch.arange(size, device=side.device) + 0.5)[:, None]

    def counts(j: Tensor) -> Tensor:
        return _cubic((j[..., None, :] + 0.5 - centre) / support)

    j = torch.arange(round(_MARGIN * pixels) + 1, device=side.device).expand(*side.shape, -1)
    total = (counts(j) * (j < side[..., None])[..., None, :]).sum(-1, keepdim=True)
    place = torch.arange(pixels, device=side.device) - first[..., None] + ((side - length) // 2)[..., None]
    return (counts(place) / total).float()


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel of a = -0.5, which antialiased resizing takes."""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))

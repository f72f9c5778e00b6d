"""The judge of identity: a frame of the drawn world, or a reference photo, → an embedding of who it shows.

It shares no weights with the analyst, so that likeness and components are judged independently.
"""

# b batch · c channels · n pixels of the last feature map · a ways to look at it

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..networks import ResBlock, check_images

_LOOKS = 3


class Recognizer(ModelMixin, ConfigMixin):
    """A residual network with attention in place of the last mean, trained with ArcFace's loss.

    Args:
        size: Side of its pictures.
        widths: Channels after each halving of the picture.
        dim: Channels of an embedding.
    """

    @register_to_config
    def __init__(self, size: int = 96, widths: tuple[int, ...] = (24, 48, 80, 104), dim: int = 128):
        super().__init__()
        layers = []
        for before, width in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), ResBlock(width)]
        self.body = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU())
        self.look = nn.Conv2d(widths[-1], _LOOKS, 1)
        self.embedding = nn.Linear(_LOOKS * widths[-1], dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed pictures.

        Args:
            images: (b, 3, size, size), -1 to 1.

        Returns:
            (b, dim) of length 1, float32.

        Raises:
            ValueError: If the shape does not fit.
        """
        check_images(images, self.config.size, "this recognizer")
        features = self.body(images)
        weights = self.look(features).float().flatten(2).softmax(dim=-1)
        seen = torch.einsum("ban,bcn->bac", weights, features.float().flatten(2))
        return F.normalize(self.embedding(seen.flatten(1).to(features.dtype)).float(), dim=-1)

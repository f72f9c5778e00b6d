"""The networks of the conditioning: one that finds, parses and recognises a face in a photo, and the sizes of the
vision model that looks at its components."""

# b batch · h w pixels · k classes of a component map · d channels

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from transformers import CLIPVisionConfig

from ...faces.components import NUM_CLASSES
from ..networks import UNet, check_images, pooled


class FaceNet(ModelMixin, ConfigMixin):
    """A U-Net for the component map; an identity embedding is read from its deepest features inside the face.

    Args:
        size: Side of its pictures, a multiple of 16.
        widths: Channels of the U-Net's five scales.
        dim: Channels of an embedding.
    """

    @register_to_config
    def __init__(self, size: int = 128, widths: tuple[int, ...] = (16, 24, 40, 64, 80), dim: int = 512):
        super().__init__()
        self.unet = UNet(tuple(widths))
        self.to_maps = nn.Conv2d(widths[0], NUM_CLASSES, 1)
        self.embedding = nn.Linear(widths[-1] + widths[-2], dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Parse and embed photos.

        Args:
            images: (b, 3, size, size), -1 to 1.

        Returns:
            Logits of the component maps, (b, k, size, size), and embeddings (b, dim), whose directions matter; both
            float32.

        Raises:
            ValueError: If the shape does not fit.
        """
        check_images(images, self.config.size, "this FaceNet")
        _, decoded = self.unet(images)
        maps = self.to_maps(decoded[0]).float()
        with torch.autocast(images.device.type, enabled=False):
            face = maps.detach().softmax(dim=1)[:, 1:].sum(dim=1, keepdim=True)
            inside = torch.cat([pooled(features, face)[:, 0] for features in decoded[-2:]], dim=1)
            return maps, self.embedding(inside.to(self.embedding.weight.dtype)).float()


def vision_config() -> CLIPVisionConfig:
    """Configure the vision model that sees one component at a time, alone on white: transformers'
    `CLIPVisionModelWithProjection` at small sizes."""
    return CLIPVisionConfig(
        image_size=48,
        patch_size=8,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=64,
    )

"""The judge of motion: what the analyst reads in the frames of a clip → what the person does in it.

The analyst reads single frames; this is the one network that sees time.
"""

# b batch · f frames · e signs of motion · c channels

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..world.grammar import MOTIONS
from .analyst import POSE, check_world


class MotionReader(ModelMixin, ConfigMixin):
    """Three convolutions over time, then the mean and the largest value of each channel.

    Args:
        signs: Number e of the analyst's signs of motion.
        width: Channels c.
        motions: Names of the motions that it tells apart.

    Raises:
        ValueError: If it knows another world than that of this version.
    """

    @register_to_config
    def __init__(self, signs: int, width: int = 40, motions: tuple[str, ...] = MOTIONS):
        super().__init__()
        check_world("motions", motions, MOTIONS)
        layers = []
        for before in (POSE + signs, width, width):
            layers += [nn.Conv1d(before, width, 5, padding=2), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.to_motion = nn.Linear(2 * width, len(motions))

    def forward(self, pose: Tensor, signs: Tensor) -> Tensor:
        """Tell motions apart.

        Args:
            pose: (b, f, 6), as the analyst reads it.
            signs: (b, f, e).

        Returns:
            Logits, (b, motions).

        Raises:
            ValueError: If the shapes do not fit.
        """
        c = self.config
        if pose.ndim != 3 or pose.shape[2] != POSE or tuple(signs.shape) != (*pose.shape[:2], c.signs):
            raise ValueError(
                f"pose has shape {tuple(pose.shape)} and signs {tuple(signs.shape)}, but this reader takes (batch, "
                f"frames, {POSE}) and (batch, frames, {c.signs})."
            )
        x = self.body(torch.cat([pose, signs], dim=2).transpose(1, 2))
        return self.to_motion(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1))

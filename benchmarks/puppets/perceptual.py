"""How different pictures of drawn people look to a network: to the one the conditioning sees by, never to a judge."""

# n pictures · c channels · h w pixels

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lavieid_adapters.puppets.sight.face_net import FaceNet

_SCALES = 4


class Perceptual(nn.Module):
    """The distance of feature maps of a `FaceNet`, whose pixels are brought to unit length."""

    def __init__(self, face: FaceNet):
        super().__init__()
        self.unet = face.unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, made: Tensor, true: Tensor, weight: Tensor) -> Tensor:
        """The mean distance.

        Args:
            made, true: (n, 3, h, w), -1 to 1; h and w divide by 8.
            weight: Of each pixel, (n, 1, h, w).
        """
        both = torch.cat([made, true]).contiguous(memory_format=torch.channels_last)
        total = made.new_zeros(())
        for features in self._features(both):
            ours, theirs = F.normalize(features.float(), dim=1, eps=1e-3).chunk(2)
            shares = F.adaptive_avg_pool2d(weight, ours.shape[-2:])
            total = total + ((ours - theirs.detach()).square().sum(dim=1, keepdim=True) * shares).sum() / shares.sum()
        return total / _SCALES

    def _features(self, images: Tensor) -> list[Tensor]:
        unet = self.unet
        found = [unet.encoder[0](unet.stem(images))]
        for block, down in zip(unet.encoder[1:_SCALES], unet.down, strict=False):
            found.append(block(down(found[-1])))
        return found

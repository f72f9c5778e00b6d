"""CogVideoX's autoencoder with its channels last, for training and encoding on a GPU.

The weights and, up to roundings, the results are those of diffusers' own forward. A convolution over space and time is
computed as one over single frames that have their two predecessors beside them in the channels, which is what cuDNN is
best at. What lies between two convolutions is one function, which can be compiled.
"""

# b clips · t frames · h w pixels · c channels · n r cells of pixels · z latents

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

_SIZES = 64  # of features, for each of which a function may be compiled


class ChannelsLast:
    """Encodes and decodes with the weights of an autoencoder, which stay where they are.

    Args:
        vae: An autoencoder without quantising convolutions, as CogVideoX's.
        compiled: Whether to compile what lies between the convolutions.
    """

    def __init__(self, vae: AutoencoderKLCogVideoX, compiled: bool = False):
        self._vae, self._silu = vae, silu_of_norm
        if compiled:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SIZES)
            self._silu = torch.compile(silu_of_norm)

    def encode(self, video: Tensor) -> DiagonalGaussianDistribution:
        """The distribution of the latents of videos (b, 3, t, h, w), -1 to 1."""
        return DiagonalGaussianDistribution(self._in_chunks(self._encoder, video, "num_sample_frames_batch_size"))

    def decode(self, latents: Tensor) -> Tensor:
        """Videos (b, 3, t, h, w) of latents (b, c, t, h, w)."""
        return self._in_chunks(self._decoder, latents, "num_latent_frames_batch_size")

    def _in_chunks(self, network, x: Tensor, size: str) -> Tensor:
        """Some frames after the others, the first chunk with those that are left over. Of each chunk the next one knows
        what the convolutions have kept."""
        size, t = getattr(self._vae, size), x.shape[2]
        first = size + t % size if t >= size else t
        kept, made = None, []
        for part in x.permute(0, 2, 3, 4, 1).split([first, *[size] * ((t - first) // size)], dim=1):
            new: list[Tensor] = []
            made.append(network(part.contiguous(), kept, new))
            kept = new
        return torch.cat(made, dim=1).permute(0, 4, 1, 2, 3)

    def _encoder(self, x: Tensor, kept: list[Tensor] | None, new: list[Tensor]) -> Tensor:
        encoder = self._vae.encoder
        x = _causal(encoder.conv_in, x, kept, new)
        for block in encoder.down_blocks:
            for layer in block.resnets:
                x = self._residual(layer, x, None, kept, new)
            for layer in block.downsamplers or ():
                x = _smaller(layer, x)
        for layer in encoder.mid_block.resnets:
            x = self._residual(layer, x, None, kept, new)
        return _causal(encoder.conv_out, self._normed(encoder.norm_out, x, None), kept, new)

    def _decoder(self, z: Tensor, kept: list[Tensor] | None, new: list[Tensor]) -> Tensor:
        decoder = self._vae.decoder
        x = _causal(decoder.conv_in, z, kept, new)
        for layer in decoder.mid_block.resnets:
            x = self._residual(layer, x, z, kept, new)
        for block in decoder.up_blocks:
            for layer in block.resnets:
                x = self._residual(layer, x, z, kept, new)
            for layer in block.upsamplers or ():
                x = _larger(layer, x)
        return _causal(decoder.conv_out, self._normed(decoder.norm_out, x, z), kept, new)

    def _residual(self, layer: nn.Module, x: Tensor, z: Tensor | None, kept, new: list[Tensor]) -> Tensor:
        y = _causal(layer.conv1, self._normed(layer.norm1, x, z), kept, new)
        y = _causal(layer.conv2, self._normed(layer.norm2, y, z), kept, new)
        if layer.in_channels != layer.out_channels:
            x = F.linear(x, layer.conv_shortcut.weight.flatten(1), layer.conv_shortcut.bias)
        return x + y

    def _normed(self, layer: nn.Module, x: Tensor, z: Tensor | None) -> Tensor:
        """SiLU of the group norm, in the decoder as scaled and shifted by the latents; in the dtype of `x`."""
        b, t, h, w, c = x.shape
        if z is None:
            norm, cells, both = layer, x.reshape(b, t * h * w, 1, 1, 1, c), None
        else:
            norm, (high, wide) = layer.norm_layer, z.shape[2:4]
            cells = x.reshape(b, t * high, h // high, wide, w // wide, c)
            # A convolution of single pixels may come before the latents are stretched to the size of the features.
            convs = (layer.conv_y.conv, layer.conv_b.conv)
            weight = torch.cat([conv.weight.flatten(1) for conv in convs])
            both = F.linear(z, weight, torch.cat([conv.bias for conv in convs]))
            both = _in_time(both, t).reshape(b, t * high, 1, wide, 1, 2 * c)
        for some in (cells, both):
            if some is not None:
                torch._dynamo.maybe_mark_dynamic(some, 1)  # one compiled function for all numbers of frames
        return self._silu(cells, both, norm.weight, norm.bias, norm.num_groups, norm.eps).view(x.shape)


def silu_of_norm(x: Tensor, both: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """SiLU of the group norm of cells of pixels, (b, n, r, w, r, c), that may have a gain and an offset each."""
    wide = x.float()
    mean, square = (f.mean((1, 2, 3, 4)).unflatten(1, (groups, -1)).mean(-1, True) for f in (wide, wide.square()))
    scale = weight.view(groups, -1) * (square - mean.square() + eps).rsqrt()  # b g c/g
    shift = bias.view(groups, -1) - mean * scale
    y = wide * scale.flatten(1)[:, None, None, None, None] + shift.flatten(1)[:, None, None, None, None]
    if both is not None:
        gain, offset = both.float().chunk(2, dim=-1)
        y = y * gain + offset
    return F.silu(y).to(x.dtype)


def _causal(layer: nn.Module, x: Tensor, kept: list[Tensor] | None, new: list[Tensor]) -> Tensor:
    """A convolution of 3 × 3 × 3 that looks back in time: at what was kept, or else at the first frame again."""
    before = [x[:, :1]] * 2 if kept is None else [kept[len(new)].to(x.dtype)]
    x = torch.cat([*before, x], dim=1)
    new.append(x[:, -2:])
    t = x.shape[1] - 2
    x = torch.cat([x[:, i : i + t] for i in range(3)], dim=-1)
    return _frames(x, layer.conv.weight.transpose(1, 2).flatten(1, 2), layer.conv.bias, padding=1)


def _frames(x: Tensor, weight: Tensor, bias: Tensor, **settings) -> Tensor:
    """A convolution of each frame."""
    y = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight, bias, **settings)
    return y.permute(0, 2, 3, 1).unflatten(0, (len(x), -1)).contiguous()


def _smaller(layer: nn.Module, x: Tensor) -> Tensor:
    if layer.compress_time and x.shape[1] > 1:
        odd = x.shape[1] % 2
        halved = x[:, odd:].unflatten(1, (-1, 2)).mean(2)
        x = torch.cat([x[:, :1], halved], dim=1) if odd else halved
    return _frames(F.pad(x, (0, 0, 0, 1, 0, 1)), layer.conv.weight, layer.conv.bias, stride=2)


def _larger(layer: nn.Module, x: Tensor) -> Tensor:
    if layer.compress_time and x.shape[1] > 1:
        x = _in_time(x, 2 * x.shape[1] - x.shape[1] % 2)
    b, t, h, w, c = x.shape
    x = x[:, :, :, None, :, None].expand(b, t, h, 2, w, 2, c).reshape(b, t, 2 * h, 2 * w, c)
    return _frames(x, layer.conv.weight, layer.conv.bias, padding=1)


def _in_time(x: Tensor, t: int) -> Tensor:
    """Features (b, t', h, w, c) stretched to t frames; of an odd number the first has one of its own."""
    if t == x.shape[1]:
        return x
    if t % 2 == 0:
        return x.repeat_interleave(t // x.shape[1], dim=1)
    return torch.cat([x[:, :1], x[:, 1:].repeat_interleave((t - 1) // (x.shape[1] - 1), dim=1)], dim=1)

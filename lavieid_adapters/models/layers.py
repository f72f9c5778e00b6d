"""What both adapters are built of: phi (eqs. 3 and 4), the causal block of psi (eq. 4), and layers that follow the
dtype of their input."""

# b batch · f frames · p tokens a frame · n tokens · l context tokens · h heads · d channels of a head

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels


class Linear(nn.Linear):
    """`nn.Linear` whose weight is cast to its input's dtype, so that weights may be stored in another one (fp8,
    float32)."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` whose weight and bias are cast to its input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def zero_init(layer: nn.Linear) -> nn.Linear:
    """Set a layer's weight and bias to zero, so that the adapter that ends with it starts as an exact no-op."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def versions(tensors: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """Where each tensor's values lie and how often they were written to: if this changes, what was made of them is
    stale.

    Writing through `.data` is not seen.
    """
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(b, n, h·d) → (b, h, n, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class CrossAttention(nn.Module):
    """phi of eqs. 3 and 4: queries from `hidden_states`, keys and values from `context`, layer norm on both sides, no
    biases.

    Args:
        dim: Width of `hidden_states` and of the output.
        context_dim: Width of `context`.
        num_heads, head_dim: Heads and channels of each.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int = 16, head_dim: int = 128):
        super().__init__()
        inner_dim = num_heads * head_dim
        self.num_heads, self.head_dim = num_heads, head_dim
        self.norm_query = LayerNorm(dim)
        self.norm_context = LayerNorm(context_dim)
        self.to_query = Linear(dim, inner_dim, bias=False)
        self.to_key_value = Linear(context_dim, 2 * inner_dim, bias=False)
        self.to_out = Linear(inner_dim, dim, bias=False)

    def forward(self, hidden_states: Tensor, context: Tensor) -> Tensor:
        """(b, n, dim), (b, l, context_dim) → (b, n, dim)."""
        query = split_heads(self.to_query(self.norm_query(hidden_states)), self.num_heads)
        key, value = self.keys_values(context)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """(b, l, context_dim) → keys and values, both (b, h, l, d)."""
        key, value = self.to_key_value(self.norm_context(context)).chunk(2, dim=-1)
        return split_heads(key, self.num_heads), split_heads(value, self.num_heads)


def frame_rotation(num_frames: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE on the frame index: two tensors (f, 1, 1, d / 2) of the dtype and device of `like`."""
    frequency = 10000.0 ** (-torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float64) / head_dim)
    angle = torch.arange(num_frames, device=like.device, dtype=torch.float64)[:, None] * frequency
    return angle.cos().to(like.dtype)[:, None, None], angle.sin().to(like.dtype)[:, None, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of the last axis of x (..., f, p, h, d) by the angle of its frame."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def add_linear(x: Tensor, layer: Linear, y: Tensor) -> Tensor:
    """x + layer(y), in place of x when no gradient is recorded: the sum then costs no pass of its own over memory."""
    plain = type(layer) is Linear and layer.bias is None and not hasattr(layer, "_diffusers_hook")
    if torch.is_grad_enabled() or not plain:  # what replaces or wraps the layer (LoRA, offloading) must be called
        return x + layer(y)
    x.view(-1, x.shape[-1]).addmm_(y.reshape(-1, y.shape[-1]), layer.weight.to(x.dtype).t())
    return x


class CausalBlock(nn.Module):
    """One layer of psi (eq. 4): pre-norm self-attention in which a frame sees itself and earlier frames, then a
    feed-forward.

    Args:
        dim: Width of the tokens.
        num_heads: Heads; each has dim / num_heads channels, an even number.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = LayerNorm(dim)
        self.to_query_key_value = Linear(dim, 3 * dim, bias=False)
        self.to_out = Linear(dim, dim, bias=False)
        self.norm_feed_forward = LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            Linear(dim, 4 * dim, bias=False), nn.GELU(approximate="tanh"), Linear(4 * dim, dim, bias=False)
        )

    def attention(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """(b, f, p, dim) → (b, f p, dim), before the output projection."""
        num_frames, frame = x.shape[1:3]
        qkv = self.to_query_key_value(x).unflatten(-1, (3, self.num_heads, -1))  # b f p 3 h d
        if kernels.rotatable(qkv):
            query, key, value = kernels.rotate_query_key(qkv, *rotation).unbind(dim=3)
        else:
            query, key, value = qkv.unbind(dim=3)
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        query, key, value = (t.flatten(1, 2).transpose(1, 2) for t in (query, key, value))  # b h (f p) d
        # One call a frame over the keys up to its own: a masked call would compute the future as well.
        seen = [
            F.scaled_dot_product_attention(
                query[:, :, i * frame : (i + 1) * frame],
                key[:, :, : (i + 1) * frame],
                value[:, :, : (i + 1) * frame],
            )
            for i in range(num_frames)
        ]
        return torch.cat([s.transpose(1, 2) for s in seen], dim=1).flatten(2)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """(b, f, p, dim) and the cosines and sines of `frame_rotation` → (b, f, p, dim)."""
        x = add_linear(x, self.to_out, self.attention(self.norm_attention(x), rotation).view_as(x))
        expand, activation, contract = self.feed_forward
        return add_linear(x, contract, activation(expand(self.norm_feed_forward(x))))

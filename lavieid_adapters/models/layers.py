"""The parts of both adapters: phi (eqs. 3 and 4), the causal block of psi (eq. 4), and layers that follow the dtype of
their input.

A layer's weight is read, instead of the layer being called, only where `is_plain` allows it, or by `linear_map` and
`norm_map`, which ask the layer itself where something wraps it: LoRA, offloading, quantisation, hooks.
"""

# b batch · f frames · p tokens a frame · n tokens · l context tokens · h heads · d channels of a head

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels

EPS = 1e-5  # of every layer norm, PyTorch's own
_WEIGHTS = (nn.Parameter, Tensor, type(None))  # of a plain layer; a Tensor under torch.func.functional_call


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


def is_plain(layer: nn.Module) -> bool:
    """Return whether nothing wraps, hooks or replaces a layer, so that its weight is all that there is to it.

    It is then a `Linear` or a `LayerNorm` of ours and no subclass (PEFT, parametrizations, FSDP), with its class's
    forward (accelerate, diffusers' hooks), without hooks of PyTorch, and its weights are no tensor subclass
    (quantisation, DTensor).
    """
    return (
        type(layer) in (Linear, LayerNorm)
        and "forward" not in layer.__dict__
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        and all(type(parameter) in _WEIGHTS for parameter in layer._parameters.values())
    )


def linear_map(layer: nn.Module, in_features: int, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of the affine map x → weight @ x + bias that a layer computes.

    A wrapped layer is called, on an identity matrix, so that what wraps it acts and gets gradients.

    Args:
        layer: A linear layer, or what stands in its place.
        in_features: Width of its input.
        like: A tensor of the dtype and device that are wanted.

    Returns:
        (out_features, in_features) and (out_features,); the bias of a layer that has none is None, or zeros.
    """
    if is_plain(layer):
        return layer.weight.to(like.dtype), None if layer.bias is None else layer.bias.to(like.dtype)
    unit = torch.eye(in_features, dtype=like.dtype, device=like.device)
    columns = layer(F.pad(unit, (0, 0, 0, 1))).to(like)  # the last row is the image of zero
    return (columns[:-1] - columns[-1]).t(), columns[-1]


def norm_map(norm: nn.Module, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return gain and bias of a layer norm, both (size,); a wrapped one is called, as in `linear_map`."""
    if is_plain(norm):
        return norm.weight.to(like.dtype), norm.bias.to(like.dtype)
    signs = torch.ones(size, dtype=like.dtype, device=like.device)
    signs[1::2] = -1  # no value is zero once normalised
    bias, scaled = norm(torch.stack([torch.zeros_like(signs), signs])).to(like)
    return (scaled - bias) / F.layer_norm(signs, signs.shape, eps=EPS), bias


def zero_init(layer: nn.Linear) -> nn.Linear:
    """Set a layer's weight and bias to zero, so that the adapter that ends with it starts as an exact no-op."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def versions(tensors: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """Return address and version counter of each tensor.

    If they differ from an earlier call, anything computed from the tensors is out of date. Writing through `.data` is
    not seen.
    """
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(b, n, h·d) → (b, h, n, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class CrossAttention(nn.Module):
    """phi of eqs. 3 and 4: phi(l, z) = softmax(Q Kᵀ / √d) V W_O, per head, with Q = LN(z) W_Q and K, V = LN(l) W_KV.

    z is `hidden_states` (the video tokens, or the tokens of chunk c_k), l is `context` (the tokens of one component, or
    psi of the chunk before), LN is layer norm. No projection has a bias.

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
    """Return cosines and sines of RoPE on the frame index: frame i turns channel pair j by i · 10000^(-2 j / d).

    Args:
        num_frames: Number f of frames.
        head_dim: Number d of channels of a head.
        like: A tensor of the dtype and device that are wanted.

    Returns:
        Two tensors (f, 1, 1, d / 2).
    """
    # In float64, which not every kind of device has (MPS has none): those get the angles from the CPU.
    device = like.device if like.device.type in ("cpu", "cuda") else torch.device("cpu")
    frequency = 10000.0 ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float64) / head_dim)
    angle = torch.arange(num_frames, device=device, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos().to(like.dtype), angle.sin().to(like.dtype)
    return cos.to(like.device)[:, None, None], sin.to(like.device)[:, None, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of the last axis of x (..., f, p, h, d) by the angle of its frame."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def add_linear(x: Tensor, layer: Linear, y: Tensor) -> Tensor:
    """Return x + layer(y), written over x if no gradient is recorded and the layer is plain.

    The sum then costs no pass of its own over memory.
    """
    if torch.is_grad_enabled() or not is_plain(layer) or layer.bias is not None:
        return x + layer(y)
    x.view(-1, x.shape[-1]).addmm_(y.reshape(-1, y.shape[-1]), layer.weight.to(x.dtype).t())
    return x


class CausalBlock(nn.Module):
    """One of the N layers of psi (eq. 4): y = x + Attention(LN(x)) W_O, then y + W_2 GELU(W_1 LN(y)).

    In the attention a frame sees itself and earlier frames; queries and keys are turned by RoPE on the frame index.

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

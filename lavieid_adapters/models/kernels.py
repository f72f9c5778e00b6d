"""Eqs. 2 and 3 on a GPU: two Triton kernels around the two large projections, which stay with cuBLAS.

Layer norm is folded away: the projections' weights have rows of mean zero (see `FoldedIdentity`), so a token needs
only the factor 1 / std, which the first kernel finds while it reads the token for its route logits. Nothing of the
size of the video tokens is written but the queries, and the attention's output takes their place.
"""

# b batch · n tokens · h heads · m components · l tokens a component · d channels of a head · r routes, padded to 16

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of torch without Triton (CPU, macOS, Windows) take the plain form in folded_identity.py
    triton = None

_ROUTES = 16  # the smallest width of a matrix product in Triton

if triton is not None:

    @triton.jit
    def _route_kernel(
        tokens, route_weight, route_bias, strength, weights, inverse_std, num_tokens, eps,
        identity_stride, strength_stride,
        DIM: tl.constexpr, REAL_ROUTES: tl.constexpr, COMPONENTS: tl.constexpr, ROUTES: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """Per token: 1 / std, and the softmax over routes of eq. 2 times each component's strength."""
        sample = tl.program_id(1).to(tl.int64)
        rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = rows < num_tokens
        routes, cols = tl.arange(0, ROUTES), tl.arange(0, BLOCK_D)
        tokens += (sample * num_tokens + rows[:, None]) * DIM + cols
        real = routes < REAL_ROUTES
        route_bias += sample * identity_stride * REAL_ROUTES + routes
        route_weight += (sample * identity_stride * REAL_ROUTES + routes[:, None]) * DIM + cols
        strength += sample * strength_stride * COMPONENTS + routes
        logits = tl.zeros((BLOCK_N, ROUTES), tl.float32)
        mean = tl.zeros((BLOCK_N,), tl.float32)
        square = tl.zeros((BLOCK_N,), tl.float32)
        for start in tl.range(0, DIM, BLOCK_D, num_stages=3):
            x = tl.load(tokens + start, mask=inside[:, None], other=0.0)
            w = tl.load(route_weight + start, mask=real[:, None], other=0.0)
            logits = tl.dot(x, tl.trans(w), logits)
            # Chan's update: a sum of squares minus the mean's square would lose the variance of a token far from zero.
            x = x.to(tl.float32)
            block_mean = tl.sum(x, 1) / BLOCK_D
            centred = x - block_mean[:, None]
            shift = block_mean - mean
            mean += shift * BLOCK_D / (start + BLOCK_D)
            square += tl.sum(centred * centred, 1) + shift * shift * start * BLOCK_D / (start + BLOCK_D)
        scale = tl.rsqrt(square / DIM + eps)
        logits = logits * scale[:, None] + tl.load(route_bias, mask=real, other=-3e38)[None, :]
        logits = tl.exp(logits - tl.max(logits, 1)[:, None])
        alpha = tl.load(strength, mask=routes < COMPONENTS, other=0.0)
        logits = logits / tl.sum(logits, 1)[:, None] * alpha[None, :]
        rows = sample * num_tokens + rows
        tl.store(inverse_std + rows, scale, mask=inside)
        tl.store(weights + rows[:, None] * ROUTES + routes, logits, mask=inside[:, None])

    @triton.jit
    def _attend_kernel(
        query, key, key_bias, value, weights, inverse_std, num_tokens, identity_stride,
        HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COMPONENTS: tl.constexpr, LENGTH: tl.constexpr,
        ROUTES: tl.constexpr, BLOCK_N: tl.constexpr,
    ):  # fmt: skip
        """Per token and head: sum over components of w_m · attention over the component's tokens, in place of the
        query."""
        log2_e: tl.constexpr = 1.4426950408889634
        head, sample = tl.program_id(1), tl.program_id(2).to(tl.int64)
        rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = rows < num_tokens
        rows = sample * num_tokens + rows
        tokens, cols = tl.arange(0, LENGTH), tl.arange(0, HEAD_DIM)
        query += rows[:, None] * HEADS * HEAD_DIM + head * HEAD_DIM + cols
        context = (sample * identity_stride * HEADS + head) * COMPONENTS * LENGTH
        q = tl.load(query, mask=inside[:, None], other=0.0)
        scale = tl.load(inverse_std + rows, mask=inside, other=0.0) * log2_e
        out = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
        for component in tl.range(0, COMPONENTS, num_stages=3):
            at = context + component * LENGTH + tokens
            k = tl.load(key + at[:, None] * HEAD_DIM + cols)
            v = tl.load(value + at[:, None] * HEAD_DIM + cols)
            scores = tl.dot(q, tl.trans(k)) * scale[:, None] + tl.load(key_bias + at)[None, :] * log2_e
            scores = tl.exp2(scores - tl.max(scores, 1)[:, None])
            weight = tl.load(weights + rows * ROUTES + component, mask=inside, other=0.0) / tl.sum(scores, 1)
            out = tl.dot((scores * weight[:, None]).to(v.dtype), v, out)
        tl.store(query, out.to(query.dtype.element_ty), mask=inside[:, None])

    @triton.jit
    def _rotate_kernel(
        qkv, cos, sin, tokens_per_frame, num_frames, HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_H: tl.constexpr,
    ):  # fmt: skip
        """Per token: RoPE on its query and key heads, in place."""
        token = tl.program_id(0).to(tl.int64)
        frame = token // tokens_per_frame % num_frames
        cols = tl.arange(0, HALF)
        c = tl.load(cos + frame * HALF + cols).to(tl.float32)[None, :]
        s = tl.load(sin + frame * HALF + cols).to(tl.float32)[None, :]
        # Queries and keys lie beside each other: 2 · HEADS heads of 2 · HALF channels, then the values.
        for start in range(0, 2 * HEADS, BLOCK_H):
            heads = start + tl.arange(0, BLOCK_H)
            inside = (heads < 2 * HEADS)[:, None]
            at = qkv + token * 6 * HEADS * HALF + heads[:, None] * 2 * HALF + cols[None, :]
            first = tl.load(at, mask=inside).to(tl.float32)
            second = tl.load(at + HALF, mask=inside).to(tl.float32)
            tl.store(at, (first * c - second * s).to(qkv.dtype.element_ty), mask=inside)
            tl.store(at + HALF, (second * c + first * s).to(qkv.dtype.element_ty), mask=inside)


def _on_device_of(tensor: Tensor) -> torch.cuda.device:
    """Triton launches on the current GPU, which need not be the tensor's."""
    return torch.cuda.device(tensor.get_device())


# Of the GPU, below which Triton has no instructions for a dtype. A GPU below float16's is not Triton's at all.
_CAPABILITY = {torch.bfloat16: (8, 0), torch.float16: (7, 0), torch.float32: (7, 0)}


@torch.compiler.assume_constant_result
def computes_in(dtype: torch.dtype, device: int) -> bool:
    """Return whether Triton computes in a dtype on a GPU, by its compute capability; in a compiled graph a constant."""
    return dtype in _CAPABILITY and torch.cuda.get_device_capability(device) >= _CAPABILITY[dtype]


def _on_capable_gpu(tensor: Tensor) -> bool:
    """Return whether Triton runs on the tensor's device, and computes in its dtype there."""
    return triton is not None and tensor.is_cuda and computes_in(tensor.dtype, tensor.get_device())


def rotatable(qkv: Tensor) -> bool:
    """Return whether `rotate_query_key` takes this tensor: no gradient is recorded, the GPU and the dtype fit, and half
    a head's channels are a power of two."""
    half = qkv.shape[-1] // 2
    return not torch.is_grad_enabled() and half & (half - 1) == 0 and _on_capable_gpu(qkv)


def rotate_query_key(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on the frame index in place: qkv (b, f, p, 3, h, d), cos and sin (f, 1, 1, d / 2)."""
    batch, num_frames, tokens_per_frame, _, heads, head_dim = qkv.shape
    with _on_device_of(qkv):
        _rotate_kernel[(batch * num_frames * tokens_per_frame,)](
            qkv, cos, sin, tokens_per_frame, num_frames, HEADS=heads, HALF=head_dim // 2, BLOCK_H=16, num_warps=4
        )
    return qkv


def usable(hidden_states: Tensor, folded, strength: Tensor) -> bool:
    """Return whether `route_and_attend` takes these tensors: 16-bit floats on a GPU that computes in them, no gradient,
    and sizes that the kernels tile."""
    _, _, context, head_dim = folded.key.shape
    components = folded.visible.shape[1]
    length = context // components
    return (
        hidden_states.dtype in (torch.bfloat16, torch.float16)
        and _on_capable_gpu(hidden_states)
        and hidden_states.dtype == folded.key.dtype
        and not (
            torch.is_grad_enabled()
            and any(t is not None and t.requires_grad for t in (hidden_states, strength, *vars(folded).values()))
        )
        and hidden_states.shape[-1] % 64 == 0
        and head_dim in (16, 32, 64, 128)
        and length in (16, 32, 64)
        and folded.route_bias.shape[1] <= _ROUTES
    )


def route_and_attend(
    hidden_states: Tensor,
    folded,
    strength: Tensor,
    eps: float,
    in_place: bool,
    region: Tensor | None = None,
    onto: Tensor | None = None,
) -> Tensor:
    """Compute eq. 3 from a folded identity; the arguments must have been checked, and be `usable`.

    Args:
        hidden_states: (b, n, D').
        folded: A `FoldedIdentity` of b samples or one.
        strength: (b or 1, m), 0 where a component is masked.
        eps: Of the layer norm.
        in_place: Whether the result is written over `hidden_states`.
        region: (b or 1, n) or None.
        onto: (b, n, D') or None. The steering is added to it instead, and it is written over.

    Returns:
        (b, n, D').
    """
    hidden_states = hidden_states.contiguous()
    batch, num_tokens, dim = hidden_states.shape
    identities, heads, context, head_dim = folded.key.shape
    components = folded.visible.shape[1]
    # An identity or a strength for the whole batch is read again for each sample.
    identity_stride, strength_stride = int(identities > 1), int(len(strength) > 1)
    weights = hidden_states.new_empty((batch, num_tokens, _ROUTES), dtype=torch.float32)
    inverse_std = hidden_states.new_empty((batch, num_tokens), dtype=torch.float32)
    block_n = 64
    blocks = triton.cdiv(num_tokens, block_n)
    with _on_device_of(hidden_states):
        _route_kernel[(blocks, batch)](
            hidden_states, folded.route_weight, folded.route_bias.float(), strength.float(), weights, inverse_std,
            num_tokens, eps, identity_stride, strength_stride,
            DIM=dim, REAL_ROUTES=folded.route_bias.shape[1], COMPONENTS=components, ROUTES=_ROUTES,
            BLOCK_N=block_n, BLOCK_D=64, num_warps=4,
        )  # fmt: skip
        if region is not None:
            weights *= region[..., None]
        query = F.linear(hidden_states, folded.query_weight)
        _attend_kernel[(blocks, heads, batch)](
            query, folded.key, folded.key_bias.float(), folded.value, weights, inverse_std, num_tokens,
            identity_stride,
            HEADS=heads, HEAD_DIM=head_dim, COMPONENTS=components, LENGTH=context // components,
            ROUTES=_ROUTES, BLOCK_N=block_n, num_warps=4,
        )  # fmt: skip
    in_place, residual = in_place or onto is not None, hidden_states if onto is None else onto
    residual, attended, out_weight = residual.flatten(0, 1), query.flatten(0, 1), folded.out_weight.t()
    # The sum rides on the projection; in place it also spares a copy of the video tokens.
    out = residual.addmm_(attended, out_weight) if in_place else torch.addmm(residual, attended, out_weight)
    if folded.out_bias is not None:
        out.addcmul_(weights.sum(dim=-1).view(-1, 1).to(out.dtype), folded.out_bias)
    return out.view_as(hidden_states)

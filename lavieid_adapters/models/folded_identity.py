"""Eqs. 2 and 3 as they are computed: the identity's part once, and the rest in every step."""

# b batch · n video tokens · r routes: the m components, and the background after them if the router has one
# l tokens a component · h heads · d channels of a head · D' dim

from dataclasses import dataclass, fields, replace

import torch.nn.functional as F
from torch import Tensor

from . import kernels
from .layers import EPS, split_heads


@dataclass
class FoldedIdentity:
    """All of eqs. 2 and 3 that does not depend on the video tokens, computed once per identity and not once per step.

    `LocalRouter.fold` makes it. With x the video tokens z after layer norm without gain and bias, eq. 2 is

        w = softmax(x route_weightᵀ + route_bias) over the routes,

    and eq. 3 is

        z* = z + Σ_m alpha_m w_m (a_m out_weightᵀ + out_bias),
        a_m = softmax((x query_weightᵀ) keyᵀ + key_bias) value for each head, over the tokens of component m.

    `route_weight` and `query_weight` hold the layer norms' gains, and their rows have the mean zero, so that they give
    the same for a token whose mean has not been subtracted.
    """

    route_weight: Tensor  # b r D'
    route_bias: Tensor  # b r, float32; the lowest number where a component is masked
    visible: Tensor  # b m, float32; 0 where a component is masked
    query_weight: Tensor  # (h d) D'
    key: Tensor  # b h (m l) d, divided by the root of d
    key_bias: Tensor  # b h (m l), float32
    value: Tensor  # b h (m l) d
    out_weight: Tensor  # D' (h d)
    out_bias: Tensor | None = None  # D'; None for the router as it is built, which has no biases

    def select(self, index: Tensor | slice) -> "FoldedIdentity":
        """Return the folded form of the batch in which sample i shows identity index[i]."""
        shared = ("query_weight", "out_weight", "out_bias")
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in shared})

    def route_weights(self, hidden_states: Tensor, region: Tensor | None = None) -> Tensor:
        """Return w of eq. 2 without the background's row, (b, m, n); arguments as in `steer`."""
        _check_share("region", region, hidden_states, hidden_states.shape[1])
        weights = self._weights(normalise(hidden_states)) * self.visible[:, None]
        return (weights if region is None else weights * region[..., None]).transpose(1, 2)

    def steer(
        self,
        hidden_states: Tensor,
        strength: Tensor | None = None,
        in_place: bool = False,
        region: Tensor | None = None,
        onto: Tensor | None = None,
    ) -> Tensor:
        """Return z* of eq. 3.

        Args:
            hidden_states: Video tokens z, (b, n, D').
            strength: alpha of each component, (b or 1, m); 1 if None.
            in_place: Whether `hidden_states` may be written over.
            region: The share of each token that is steered, (b or 1, n); 1 if None.
            onto: What the steering is added to instead of z, and may be written over: several identities add up.

        Raises:
            ValueError, TypeError: If a shape, dtype or device does not fit that of the video tokens.
        """
        _check_share("strength", strength, hidden_states, self.visible.shape[1])
        _check_share("region", region, hidden_states, hidden_states.shape[1])
        self._check_alike(hidden_states, onto)
        strength = self.visible if strength is None else self.visible * strength
        if kernels.usable(hidden_states, self, strength):
            return kernels.route_and_attend(hidden_states, self, strength, EPS, in_place, region, onto)

        x = normalise(hidden_states)
        weights = self._weights(x) * strength[:, None]  # b n m
        if region is not None:
            weights = weights * region[..., None]
        query = split_heads(F.linear(x, self.query_weight), self.key.shape[1])
        scores = query @ self.key.transpose(-1, -2) + self.key_bias[:, :, None]  # b h n (m l), float32
        scores = scores.unflatten(-1, (self.visible.shape[1], -1)).softmax(dim=-1)  # b h n m l
        scores = (scores * weights[:, None, :, :, None]).flatten(-2).to(x.dtype)
        out = F.linear((scores @ self.value).transpose(1, 2).flatten(2), self.out_weight)  # b n D'
        if self.out_bias is not None:
            out = out + weights.sum(dim=-1, keepdim=True).to(x.dtype) * self.out_bias
        return (hidden_states if onto is None else onto) + out

    def _weights(self, x: Tensor) -> Tensor:
        """Return w of eq. 2 for normalised video tokens, (b, n, m)."""
        return logits(x, self.route_weight, self.route_bias).softmax(dim=-1)[..., : self.visible.shape[1]]

    def _check_alike(self, hidden_states: Tensor, onto: Tensor | None) -> None:
        if self.visible.device != hidden_states.device:
            raise ValueError(
                f"The identity was folded on {self.visible.device}, but hidden_states is on {hidden_states.device}. "
                "Move the router and the component tokens there, and fold again."
            )
        if onto is None:
            return
        mine, theirs = ((tuple(t.shape), t.dtype, t.device) for t in (onto, hidden_states))
        if mine != theirs:
            raise ValueError(f"onto is {mine}, but hidden_states {theirs}: shape, dtype and device must be the same.")


def normalise(hidden_states: Tensor) -> Tensor:
    """Return x of `FoldedIdentity`: layer norm without gain and bias, which eq. 2 and phi's queries have in common."""
    return F.layer_norm(hidden_states, hidden_states.shape[-1:], eps=EPS)


def logits(x: Tensor, route_weight: Tensor, route_bias: Tensor) -> Tensor:
    """(b, n, D'), (b, r, D') and (b, r) → (b, n, r), of the bias's dtype."""
    return x @ route_weight.transpose(1, 2) + route_bias[:, None]


def _check_share(name: str, share: Tensor | None, hidden_states: Tensor, length: int) -> None:
    """Refuse factors that are neither one row for all video tokens (b, n, D') nor one for each of their samples.

    The kernels would read beyond the end of others.
    """
    if share is None:
        return
    if share.ndim != 2 or share.shape[0] not in (1, len(hidden_states)) or share.shape[1] != length:
        raise ValueError(
            f"{name} has shape {tuple(share.shape)}, but hidden_states of shape {tuple(hidden_states.shape)} need one "
            f"of (1, {length}) or ({len(hidden_states)}, {length})."
        )
    if not share.is_floating_point():
        raise TypeError(f"{name} is {share.dtype}, but must be floating point. Cast it with .to().")
    if share.device != hidden_states.device:
        raise ValueError(f"{name} is on {share.device}, but hidden_states on {hidden_states.device}. Move one of them.")

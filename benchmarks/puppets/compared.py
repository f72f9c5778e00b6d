"""What the local router is compared with: the same conditioning without routes, and eqs. 2 and 3 as printed."""

# b batch · m components · l tokens a component · n video tokens · D token_dim

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lavieid_adapters import LocalRouter
from lavieid_adapters.models.folded_identity import FoldedIdentity, normalise
from lavieid_adapters.models.layers import split_heads


class UnroutedAttention(LocalRouter):
    """z* = z + alpha · phi(l, z) with one softmax over the tokens of all components: cross-attention as ConsisID and
    others have it.

    Attached as a router is. Eq. 2 has no weights here; a larger `inner_dim` makes up for their number.
    """

    @functools.wraps(LocalRouter.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        del self.to_component, self.to_video, self.norm_component, self.aggregate

    def _fold_route(self, tokens: Tensor, component_mask: Tensor) -> tuple[Tensor, Tensor]:
        # No route is above another.
        hidden = tokens.new_zeros(component_mask.shape).masked_fill(~component_mask, torch.finfo(tokens.dtype).min)
        return tokens.new_zeros(*component_mask.shape, self.config.dim), hidden

    def apply_folded(
        self,
        hidden_states: Tensor,
        folded: FoldedIdentity,
        strength: Tensor | None = None,
        in_place: bool = False,
        region: Tensor | None = None,
        onto: Tensor | None = None,
    ) -> Tensor:
        """As `LocalRouter.apply_folded`, for one strength of all components and the whole picture."""
        x, attention = normalise(hidden_states), self.cross_attention
        query = split_heads(F.linear(x, folded.query_weight), attention.num_heads)
        seen = folded.route_bias.repeat_interleave(self.config.tokens_per_component, dim=1)[:, None, None]
        bias = (folded.key_bias[:, :, None] + seen).clamp(min=torch.finfo(torch.float32).min)
        out = F.scaled_dot_product_attention(query, folded.key, folded.value, bias.to(query.dtype), scale=1.0)
        out = F.linear(out.transpose(1, 2).flatten(2), folded.out_weight)
        return hidden_states + (out if strength is None else out * strength[:, :1, None].to(out.dtype))


@dataclass
class LiteralIdentity(FoldedIdentity):
    """The component tokens themselves, beside what is computed of them."""

    tokens: Tensor | None = None  # b m l D


class LiteralRouter(LocalRouter):
    """Eqs. 2 and 3 component by component, in the order in which they are printed."""

    def _fold(self, component_tokens: Tensor, component_mask: Tensor, dtype: torch.dtype) -> LiteralIdentity:
        folded = super()._fold(component_tokens, component_mask, dtype)
        return LiteralIdentity(**vars(folded), tokens=component_tokens)

    def apply_folded(
        self,
        hidden_states: Tensor,
        folded: LiteralIdentity,
        strength: Tensor | None = None,
        in_place: bool = False,
        region: Tensor | None = None,
        onto: Tensor | None = None,
    ) -> Tensor:
        """As `LocalRouter.apply_folded`, for full strength and the whole picture."""
        tokens = folded.tokens.to(hidden_states.dtype)
        video, logits, out = self.to_video(self.norm_video(hidden_states)), [], torch.zeros_like(hidden_states)
        for m in range(tokens.shape[1]):
            component = self.to_component(self.norm_component(tokens[:, m]))
            logits.append(self.aggregate[m].to(video.dtype) @ (component @ video.mT))
        hidden = (folded.visible == 0)[:, :, None]
        weights = torch.stack(logits, dim=1).masked_fill(hidden, torch.finfo(video.dtype).min).softmax(dim=1)
        for m in range(tokens.shape[1]):
            out = out + weights[:, m, :, None] * self.cross_attention(hidden_states, tokens[:, m])
        return hidden_states + out

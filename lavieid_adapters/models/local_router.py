"""The local router (eqs. 2 and 3): six facial components steer the video tokens after one transformer block."""

# b batch · m components · l tokens a component · n video tokens · h heads · d channels of a head
# D token_dim · D' dim · r routes: the m components, and the background after them if the router has one

import functools
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from . import consisid, kernels
from .adapter import Adapter
from .layers import CrossAttention, LayerNorm, Linear, split_heads, zero_init


@dataclass
class FoldedIdentity:
    """All of eqs. 2 and 3 that does not depend on the video tokens, computed once an identity instead of once a step.

    With x the video token after layer norm without gain and bias, logits are `route_weight @ x + route_bias`, scores
    of a head are `(query_weight @ x) · key + key_bias`. Both weights hold the layer norms' gains and have rows of
    mean zero, so that they give the same for a token whose mean has not been taken off.
    """

    route_weight: Tensor  # b r D'
    route_bias: Tensor  # b r, float32; the lowest number where a component is masked
    visible: Tensor  # b m, float32; 0 where a component is masked
    query_weight: Tensor  # (h d) D'
    key: Tensor  # b h (m l) d, divided by the root of d
    key_bias: Tensor  # b h (m l), float32
    value: Tensor  # b h (m l) d
    out_weight: Tensor  # D' (h d)

    def select(self, index: Tensor | slice) -> "FoldedIdentity":
        """The folded form of the batch in which sample i shows identity index[i]."""
        shared = ("query_weight", "out_weight")
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in shared})


class LocalRouter(Adapter):
    """z* = z + alpha · sum over m of w_m ⊙ phi(l_m, z) (eq. 3), with w from the softmax of eq. 2 over the components.

    Args:
        dim: Width D' of the host's video tokens.
        token_dim: Width D of a component token.
        inner_dim: Width D'' of the space in which tokens and components are compared, and of the attention.
        num_heads: Heads of phi; each has inner_dim / num_heads channels.
        num_components: Number M of components.
        tokens_per_component: Number L of tokens a component.
        background: Add an empty route with a learned logit, so that a token can be left alone.
    """

    presets = {  # noqa: RUF012
        "cogvideox-5b": {"dim": 3072},
        "cogvideox-2b": {"dim": 1920},
    }

    @register_to_config
    def __init__(
        self,
        dim: int = 3072,
        token_dim: int = 2048,
        inner_dim: int = 2048,
        num_heads: int = 16,
        num_components: int = 6,
        tokens_per_component: int = 32,
        background: bool = False,
    ):
        super().__init__()
        if inner_dim % num_heads:
            raise ValueError(f"inner_dim {inner_dim} cannot be split over num_heads {num_heads}: choose a divisor.")
        self.norm_component = LayerNorm(token_dim)
        self.norm_video = LayerNorm(dim)
        self.to_component = Linear(token_dim, inner_dim, bias=False)  # W_l
        self.to_video = Linear(dim, inner_dim, bias=False)  # W_z
        # W_m. The mean over the tokens, divided as attention logits are, lets the softmax start far from saturation.
        self.aggregate = nn.Parameter(
            torch.full((num_components, tokens_per_component), 1 / (tokens_per_component * inner_dim**0.5))
        )
        self.background_logit = nn.Parameter(torch.zeros(1)) if background else None
        self.cross_attention = CrossAttention(dim, token_dim, num_heads, inner_dim // num_heads)  # phi
        zero_init(self.cross_attention.to_out)

    @classmethod
    def from_consisid(
        cls, repo_or_folder: str, layer: int = 0, subfolder: str | None = "transformer", **kwargs
    ) -> "LocalRouter":
        """Start phi from one of ConsisID's cross-attentions; what eq. 2 needs starts afresh, and the router is no
        no-op.

        Args:
            repo_or_folder: A Hub repo, or a folder, of a ConsisID pipeline or transformer.
            layer: Which of its cross-attentions, counted from the first block.
            subfolder: Where the transformer lies in it; None if at the top.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            ValueError: If the checkpoint has no face modules, or no such layer.
        """
        return consisid.start_router(cls, repo_or_folder, layer, subfolder, **kwargs)

    def forward(
        self,
        hidden_states: Tensor,
        component_tokens: Tensor,
        component_mask: Tensor | None = None,
        strength: Tensor | None = None,
    ) -> Tensor:
        """Eq. 3.

        Args:
            hidden_states: Video tokens z, (batch, tokens, dim), floating point.
            component_tokens: l, (batch or 1, num_components, tokens_per_component, token_dim).
            component_mask: (batch or 1, num_components), bool; False where the photo does not show the component.
            strength: alpha a component, (batch or 1, num_components); 1 if None.

        Returns:
            z*, of the shape and dtype of `hidden_states`.

        Raises:
            ValueError, TypeError: If a shape or dtype does not fit the router.
        """
        return self.apply_folded(
            hidden_states, self.fold(component_tokens, component_mask, hidden_states.dtype), strength
        )

    def route_logits(
        self, hidden_states: Tensor, component_tokens: Tensor, component_mask: Tensor | None = None
    ) -> Tensor:
        """The softmax's input in eq. 2, (batch, num_components, tokens) in float32 or wider; the background, if the
        router has one, is one more row at the end. Arguments and errors as in `forward`."""
        component_mask = self.check_tokens(component_tokens, component_mask)
        self.check_hidden_states(hidden_states, len(component_tokens))
        wide = _wide(component_tokens.dtype, hidden_states.dtype)
        with torch.autocast(component_tokens.device.type, enabled=False):
            weight, bias = self._fold_route(component_tokens.to(wide), component_mask)
        return _logits(self._normalise(hidden_states), weight.to(hidden_states.dtype), bias).transpose(1, 2)

    def route_weights(
        self, hidden_states: Tensor, component_tokens: Tensor, component_mask: Tensor | None = None
    ) -> Tensor:
        """w of eq. 2, (batch, num_components, tokens): what the background takes is left out. Arguments as in
        `forward`."""
        return self.folded_weights(hidden_states, self.fold(component_tokens, component_mask, hidden_states.dtype))

    def fold(
        self, component_tokens: Tensor, component_mask: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> FoldedIdentity:
        """Compute what depends on the identity alone: (W_m l W_l) W_zᵀ, keys and values (eqs. 2 and 3 reassociated).

        Args:
            component_tokens: l, (batch, num_components, tokens_per_component, token_dim), on the router's device.
            component_mask: (batch, num_components), bool; all visible if None.
            dtype: Dtype of the video tokens it will meet; that of `component_tokens` if None.

        Raises:
            ValueError, TypeError: If a shape or dtype does not fit the router.
        """
        component_mask = self.check_tokens(component_tokens, component_mask)
        dtype = dtype or component_tokens.dtype
        with torch.autocast(component_tokens.device.type, enabled=False):  # it would fold in 16 bits
            return self._fold(component_tokens, component_mask, dtype)

    def _fold(self, component_tokens: Tensor, component_mask: Tensor, dtype: torch.dtype) -> FoldedIdentity:
        # Folding is done once, so it is done in float32 or wider: the products are rounded to `dtype` only at the end.
        wide = _wide(component_tokens.dtype, dtype)
        tokens = component_tokens.to(wide)
        attention = self.cross_attention
        route, route_bias = self._fold_route(tokens, component_mask)

        query_weight = attention.to_query.weight.to(wide)
        query_bias = split_heads((query_weight @ attention.norm_query.bias.to(wide))[None, None], attention.num_heads)
        query_weight = _centred(query_weight * attention.norm_query.weight.to(wide))

        key, value = attention.keys_values(tokens.flatten(1, 2))
        key = key * attention.head_dim**-0.5
        return FoldedIdentity(
            route_weight=route.to(dtype),
            route_bias=route_bias,
            visible=component_mask.to(wide),
            query_weight=query_weight.to(dtype),
            key=key.to(dtype).contiguous(),
            key_bias=(key * query_bias).sum(-1),
            value=value.to(dtype).contiguous(),
            out_weight=attention.to_out.weight.to(dtype),
        )

    def _fold_route(self, tokens: Tensor, component_mask: Tensor) -> tuple[Tensor, Tensor]:
        """`route_weight` and `route_bias` of the folded form, in the dtype of the tokens (b, m, l, D)."""
        wide = tokens.dtype
        route = torch.einsum("ml,bmlD->bmD", self.aggregate.to(wide), self.norm_component(tokens))
        route = self.to_component(route) @ self.to_video.weight.to(wide)
        route_bias = route @ self.norm_video.bias.to(wide)
        route = _centred(route * self.norm_video.weight.to(wide))
        if self.background_logit is not None:
            route = F.pad(route, (0, 0, 0, 1))
            route_bias = torch.cat([route_bias, self.background_logit.to(wide).expand(len(tokens), 1)], dim=1)
        hidden = F.pad(~component_mask, (0, route_bias.shape[1] - component_mask.shape[1]))
        return route, route_bias.masked_fill(hidden, torch.finfo(wide).min)

    def apply_folded(
        self,
        hidden_states: Tensor,
        folded: FoldedIdentity,
        strength: Tensor | None = None,
        in_place: bool = False,
        region: Tensor | None = None,
        onto: Tensor | None = None,
    ) -> Tensor:
        """Eq. 3 on the folded form; `strength` as in `forward`.

        Args:
            hidden_states: Video tokens z, (batch, tokens, dim).
            folded: What `fold` gave.
            strength: alpha a component, (batch or 1, num_components); 1 if None.
            in_place: Whether `hidden_states` may be written over.
            region: The share of each token that is steered, (batch or 1, tokens); 1 if None.
            onto: What the steering is added to instead of z, and may be written over: several identities add up.
        """
        self.check_hidden_states(hidden_states, len(folded.visible))
        strength = folded.visible if strength is None else folded.visible * strength
        if kernels.usable(hidden_states, folded, strength):
            eps = self.norm_video.eps
            return kernels.route_and_attend(hidden_states, folded, strength, eps, in_place, region, onto)

        x = self._normalise(hidden_states)
        weights = self._weights(x, folded) * strength[:, None]  # b n m
        if region is not None:
            weights = weights * region[..., None]
        query = split_heads(F.linear(x, folded.query_weight), self.cross_attention.num_heads)
        scores = query @ folded.key.transpose(-1, -2) + folded.key_bias[:, :, None]  # b h n (m l), float32
        scores = scores.unflatten(-1, (-1, self.config.tokens_per_component)).softmax(dim=-1)
        scores = (scores * weights[:, None, :, :, None]).flatten(-2).to(x.dtype)
        out = (scores @ folded.value).transpose(1, 2).flatten(2)
        return (hidden_states if onto is None else onto) + F.linear(out, folded.out_weight)

    def folded_weights(self, hidden_states: Tensor, folded: FoldedIdentity, region: Tensor | None = None) -> Tensor:
        """w of eq. 2 on the folded form, (batch, num_components, tokens); 0 outside the `region` (batch or 1,
        tokens)."""
        self.check_hidden_states(hidden_states, len(folded.visible))
        weights = self._weights(self._normalise(hidden_states), folded) * folded.visible[:, None]
        return (weights if region is None else weights * region[..., None]).transpose(1, 2)

    def _normalise(self, hidden_states: Tensor) -> Tensor:
        # Gains and biases are in the folded weights; phi's query norm and eq. 2's norm of z are the same but for
        # those.
        return F.layer_norm(hidden_states, hidden_states.shape[-1:], eps=self.norm_video.eps)

    def _weights(self, x: Tensor, folded: FoldedIdentity) -> Tensor:
        logits = _logits(x, folded.route_weight, folded.route_bias)
        return logits.softmax(dim=-1)[..., : folded.visible.shape[1]]

    def check_tokens(self, component_tokens: Tensor, component_mask: Tensor | None) -> Tensor:
        """Refuse tokens or a mask that do not fit the router; return the mask, all True if it is None."""
        c = self.config
        expected = (c.num_components, c.tokens_per_component, c.token_dim)
        if component_tokens.ndim != 4 or tuple(component_tokens.shape[1:]) != expected:
            raise ValueError(
                f"component_tokens has shape {tuple(component_tokens.shape)}, but this router needs (batch, "
                f"{', '.join(map(str, expected))}): num_components, tokens_per_component, token_dim. Encode the photo "
                "with the encoder that this router was trained with."
            )
        if not component_tokens.is_floating_point():
            raise TypeError(f"component_tokens is {component_tokens.dtype}, but must be floating point.")
        if component_mask is None:
            return torch.ones(component_tokens.shape[:2], dtype=torch.bool, device=component_tokens.device)
        if not isinstance(component_mask, Tensor) or component_mask.dtype != torch.bool:
            kind = getattr(component_mask, "dtype", type(component_mask).__name__)
            raise TypeError(f"component_mask is {kind}, but must be a tensor of torch.bool (True: visible).")
        if component_mask.shape != component_tokens.shape[:2]:
            raise ValueError(
                f"component_mask has shape {tuple(component_mask.shape)}, but component_tokens needs one of "
                f"{tuple(component_tokens.shape[:2])}: (batch, num_components)."
            )
        return component_mask

    def check_hidden_states(self, hidden_states: Tensor, identities: int) -> None:
        """Refuse video tokens of another width, or of a batch that `identities` identities do not fit."""
        if hidden_states.ndim != 3 or hidden_states.shape[-1] != self.config.dim:
            raise ValueError(
                f"hidden_states has shape {tuple(hidden_states.shape)}, but this router needs (batch, tokens, "
                f"{self.config.dim}). A router of another host must be trained for this one's width."
            )
        if identities not in (1, len(hidden_states)):
            raise ValueError(
                f"component_tokens holds {identities} identities for a batch of {len(hidden_states)}: give one, or one "
                "a sample."
            )


def _wide(*dtypes: torch.dtype) -> torch.dtype:
    """The widest of some dtypes and float32."""
    return functools.reduce(torch.promote_types, dtypes, torch.float32)


def _logits(x: Tensor, route_weight: Tensor, route_bias: Tensor) -> Tensor:
    """(b, n, D'), (b, r, D') and (b, r) → (b, n, r), of the bias's dtype."""
    return x @ route_weight.transpose(1, 2) + route_bias[:, None]


def _centred(weight: Tensor) -> Tensor:
    """Take each row's mean off: W (z - mean(z)) = (W - mean of W's row) z, so layer norm's centring costs nothing a
    step."""
    return weight - weight.mean(dim=-1, keepdim=True)

"""The local router (eqs. 2 and 3): six facial components steer the video tokens after one transformer block.

`LocalRouter.fold` computes all that does not depend on the video tokens, once per identity; `FoldedIdentity` does the
rest in every step.
"""

# b batch · m components · l tokens a component · n video tokens · h heads · d channels of a head
# D token_dim · D' dim · r routes: the m components, and the background after them if the router has one

import contextlib
import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import consisid
from .adapter import Adapter, register_to_config
from .checks import floating, sizes, switch
from .folded_identity import FoldedIdentity, logits, normalise
from .layers import CrossAttention, LayerNorm, Linear, is_plain, linear_map, norm_map, split_heads, zero_init
from .offloading import fetched


class LocalRouter(Adapter):
    """The local router: it adds to each video token what the facial components say, weighted by its route.

    With video tokens z and the L tokens l_m of component m, both layer-normed in eq. 2:

        w = softmax over m of W_m (l_m W_l) (z W_z)ᵀ        (eq. 2)
        z* = z + alpha Σ_m w_m ⊙ phi(l_m, z)                 (eq. 3)

    W_l is `to_component`, W_z is `to_video`, W_m is row m of `aggregate`, and phi is `cross_attention`. alpha is one
    number for each component, `strength`. A component that the photo does not show is left out of the softmax.

    Args:
        dim: Width D' of the host's video tokens.
        token_dim: Width D of a component token.
        inner_dim: Width D'' of the space in which tokens and components are compared, and of the attention.
        num_heads: Heads of phi; each has inner_dim / num_heads channels.
        num_components: Number M of components.
        tokens_per_component: Number L of tokens a component.
        background: Add an empty route with a learned logit, so that a token can be left alone.

    Raises:
        TypeError, ValueError: If a size is no whole number of at least 1, or if `num_heads` does not divide
            `inner_dim`.
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
        sizes(dim=dim, token_dim=token_dim, inner_dim=inner_dim, num_heads=num_heads)
        sizes(num_components=num_components, tokens_per_component=tokens_per_component)
        switch("background", background)
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
        """Return z* of eq. 3.

        Args:
            hidden_states: Video tokens z, (batch, tokens, dim), floating point.
            component_tokens: l, (batch or 1, num_components, tokens_per_component, token_dim).
            component_mask: (batch or 1, num_components), bool; False where the photo does not show the component.
            strength: alpha a component, (batch or 1, num_components); 1 if None.

        Returns:
            z*, of the shape and dtype of `hidden_states`.

        Raises:
            ValueError, TypeError: If a shape, dtype or device does not fit the router or the other tensors.
        """
        floating("hidden_states", hidden_states)
        return self.apply_folded(
            hidden_states, self.fold(component_tokens, component_mask, hidden_states.dtype), strength
        )

    def route_logits(
        self, hidden_states: Tensor, component_tokens: Tensor, component_mask: Tensor | None = None
    ) -> Tensor:
        """Return the softmax's input in eq. 2, (batch, num_components, tokens), in float32 or wider.

        The background, if the router has one, is one more row at the end. Arguments and errors as in `forward`.
        """
        component_mask = self.check_tokens(component_tokens, component_mask)
        self.check_hidden_states(hidden_states, len(component_tokens))
        wide = _wide(component_tokens.dtype, hidden_states.dtype)
        with torch.autocast(component_tokens.device.type, enabled=False), self._own_weights():
            weight, bias = self._fold_route(component_tokens.to(wide), component_mask)
        return logits(normalise(hidden_states), weight.to(hidden_states.dtype), bias).transpose(1, 2)

    def route_weights(
        self, hidden_states: Tensor, component_tokens: Tensor, component_mask: Tensor | None = None
    ) -> Tensor:
        """Return w of eq. 2, (batch, num_components, tokens), without the background's row. Arguments as in
        `forward`."""
        return self.folded_weights(hidden_states, self.fold(component_tokens, component_mask, hidden_states.dtype))

    def fold(
        self, component_tokens: Tensor, component_mask: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> FoldedIdentity:
        """Compute what depends on the identity alone: (W_m l W_l) W_zᵀ, keys and values (eqs. 2 and 3 reassociated).

        The folded form holds what the layers compute now, so LoRA on them acts and is trained. See `folds_alike` for
        when a folded form may be kept.

        Args:
            component_tokens: l, (batch, num_components, tokens_per_component, token_dim), on the router's device.
            component_mask: (batch, num_components), bool; all visible if None.
            dtype: Dtype of the video tokens it will meet; that of `component_tokens` if None.

        Raises:
            ValueError, TypeError: If a shape or dtype does not fit the router.
        """
        component_mask = self.check_tokens(component_tokens, component_mask)
        dtype = dtype or component_tokens.dtype
        # Autocast would fold in 16 bits.
        with torch.autocast(component_tokens.device.type, enabled=False), self._own_weights():
            return self._fold(component_tokens, component_mask, dtype)

    def folds_alike(self) -> bool:
        """Return whether two folds are equal as long as no weight changes.

        They are if nothing wraps a layer. A wrapper (LoRA, a hook) may be switched or scaled without a trace in the
        weights, so the folded form must not be kept.
        """
        modules: list[nn.Module] = [self]  # by hand, since `modules()` would take longer than all else that a step asks
        while modules:
            module = modules.pop()
            if module._modules:
                modules += module._modules.values()
            elif not is_plain(module):
                return False
        return True

    def _fold(self, component_tokens: Tensor, component_mask: Tensor, dtype: torch.dtype) -> FoldedIdentity:
        # Folding is done once, so it is done in float32 or wider: the products are rounded to `dtype` only at the end.
        wide = _wide(component_tokens.dtype, dtype)
        tokens = component_tokens.to(wide)
        attention = self.cross_attention
        route, route_bias = self._fold_route(tokens, component_mask)

        query_weight, bias = linear_map(attention.to_query, self.config.dim, tokens)
        gain, shift = norm_map(attention.norm_query, self.config.dim, tokens)
        shift = query_weight @ shift if bias is None else query_weight @ shift + bias
        query_bias = split_heads(shift[None, None], attention.num_heads)
        query_weight = _centred(query_weight * gain)

        out_weight, out_bias = linear_map(attention.to_out, self.config.inner_dim, tokens)
        key, value = (part.to(tokens.device) for part in attention.keys_values(tokens.flatten(1, 2)))
        key = key * attention.head_dim**-0.5
        return FoldedIdentity(
            route_weight=route.to(dtype),
            route_bias=route_bias,
            visible=component_mask.to(wide),
            query_weight=query_weight.to(dtype),
            key=key.to(dtype).contiguous(),
            key_bias=(key * query_bias).sum(-1),
            value=value.to(dtype).contiguous(),
            out_weight=out_weight.to(dtype),
            out_bias=None if out_bias is None else out_bias.to(dtype),
        )

    def _own_weights(self) -> contextlib.AbstractContextManager[None]:
        """Hold the weights that hooks of accelerate fetch for a forward of the router or of phi: neither is called."""
        away = any(parameter.is_meta for parameter in self.parameters())
        return fetched(self, self.cross_attention) if away else contextlib.nullcontext()

    def _fold_route(self, tokens: Tensor, component_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return `route_weight` and `route_bias` of the folded form, in the dtype of the tokens (b, m, l, D)."""
        # What wraps a layer may compute on a device of its own (accelerate's `device_map`).
        like, aggregate, tokens = tokens, self.aggregate.to(tokens), self.norm_component(tokens).to(tokens.device)
        if is_plain(self.to_component):  # linear, so that one token a component can be projected instead of L
            component = self.to_component(torch.einsum("ml,bmlD->bmD", aggregate, tokens))
        else:
            component = torch.einsum("ml,bmlD->bmD", aggregate, self.to_component(tokens).to(tokens.device))
        video_weight, video_bias = linear_map(self.to_video, self.config.dim, tokens)
        gain, shift = norm_map(self.norm_video, self.config.dim, tokens)
        route = component @ video_weight
        route_bias = route @ shift if video_bias is None else route @ shift + component @ video_bias
        route = _centred(route * gain)
        if self.background_logit is not None:
            route = F.pad(route, (0, 0, 0, 1))
            route_bias = torch.cat([route_bias, self.background_logit.to(like).expand(len(tokens), 1)], dim=1)
        hidden = F.pad(~component_mask, (0, route_bias.shape[1] - component_mask.shape[1]))
        return route, route_bias.masked_fill(hidden, torch.finfo(like.dtype).min)

    def apply_folded(
        self,
        hidden_states: Tensor,
        folded: FoldedIdentity,
        strength: Tensor | None = None,
        in_place: bool = False,
        region: Tensor | None = None,
        onto: Tensor | None = None,
    ) -> Tensor:
        """Return z* of eq. 3 from the folded form.

        Args:
            hidden_states: Video tokens z, (batch, tokens, dim).
            folded: The result of `fold`.
            strength, in_place, region, onto: As in `FoldedIdentity.steer`.

        Raises:
            ValueError, TypeError: If a shape, dtype or device does not fit the router or the video tokens.
        """
        self.check_hidden_states(hidden_states, len(folded.visible))
        return folded.steer(hidden_states, strength, in_place, region, onto)

    def folded_weights(self, hidden_states: Tensor, folded: FoldedIdentity, region: Tensor | None = None) -> Tensor:
        """Return w of eq. 2 from the folded form, (batch, num_components, tokens); 0 outside the `region` (batch or 1,
        tokens)."""
        self.check_hidden_states(hidden_states, len(folded.visible))
        return folded.route_weights(hidden_states, region)

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
        floating("component_tokens", component_tokens)
        if component_mask is None:
            return torch.ones(component_tokens.shape[:2], dtype=torch.bool, device=component_tokens.device)
        if not isinstance(component_mask, Tensor) or component_mask.dtype != torch.bool:
            kind = component_mask.dtype if isinstance(component_mask, Tensor) else type(component_mask).__name__
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
        floating("hidden_states", hidden_states)
        if identities not in (1, len(hidden_states)):
            raise ValueError(
                f"component_tokens holds {identities} identities for a batch of {len(hidden_states)}: give one, or one "
                "a sample."
            )


def _wide(*dtypes: torch.dtype) -> torch.dtype:
    """Return the widest of some dtypes and float32."""
    return functools.reduce(torch.promote_types, dtypes, torch.float32)


def _centred(weight: Tensor) -> Tensor:
    """Subtract each row's mean: W (z - mean(z)) = (W - mean of W's row) z, so layer norm's centring costs nothing per
    step."""
    return weight - weight.mean(dim=-1, keepdim=True)

"""The local encoder (section 3.2): features of the facial components → the component tokens that the router needs."""

# b batch · m components · p patches of a ViT feature map · l tokens a component · D token_dim

from collections.abc import Sequence

import torch
from diffusers.models.transformers.consisid_transformer_3d import LocalFacialExtractor
from torch import Tensor
from torch.func import functional_call

from ..files.digests import content_digest, weights_digests
from . import consisid
from .adapter import Adapter, register_to_config
from .checks import sizes, switch
from .identity import FACIAL_COMPONENTS, Identity
from .layers import versions

CLIP = "openai/clip-vit-large-patch14-336"


class LocalFacialEncoder(Adapter):
    """ConsisID's local facial extractor, run once per component; its output is the router's l_m (section 3.2).

    Args:
        id_dim: Width of the identity embedding.
        vit_dim: Width of the ViT feature maps, and of the extractor.
        depth: Layers, a multiple of num_scales.
        head_dim, num_heads: Channels a head, and heads.
        num_id_tokens: Tokens that the identity embedding becomes.
        tokens_per_component: Number L of tokens a component.
        token_dim: Width D of a component token.
        ff_mult: Width of the feed-forward as a multiple of vit_dim.
        num_scales: Number of ViT feature maps.
        vision_model: Hub repo of the ViT whose features it takes, or the name of a photo reader that an installed
            package registers (`faces/photo_readers.py`); `FaceProcessor.for_encoder` starts from it.
        grayscale: Whether that ViT sees the components without colours.

    Raises:
        TypeError, ValueError: If a size is no whole number of at least 1, if `num_scales` does not divide `depth`, or
            if another setting is not of its kind.
    """

    presets = {"cogvideox-5b": {}, "cogvideox-2b": {}}  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        id_dim: int = 1280,
        vit_dim: int = 1024,
        depth: int = 10,
        head_dim: int = 64,
        num_heads: int = 16,
        num_id_tokens: int = 5,
        tokens_per_component: int = 32,
        token_dim: int = 2048,
        ff_mult: int = 4,
        num_scales: int = 5,
        vision_model: str = CLIP,
        grayscale: bool = False,
    ):
        super().__init__()
        sizes(id_dim=id_dim, vit_dim=vit_dim, depth=depth, head_dim=head_dim, num_heads=num_heads, ff_mult=ff_mult)
        sizes(num_id_tokens=num_id_tokens, tokens_per_component=tokens_per_component, token_dim=token_dim)
        sizes(num_scales=num_scales)
        switch("grayscale", grayscale)
        if not isinstance(vision_model, str):
            raise TypeError(
                f"vision_model is {vision_model!r}, but must be a name. Give a Hub repo or a photo reader's."
            )
        if depth % num_scales:
            raise ValueError(
                f"depth {depth} must be a multiple of num_scales {num_scales}: each scale has as many layers."
            )
        self._cached_digests: tuple[tuple, tuple[str, str]] | None = None  # (state of the weights, their digests)
        self.extractor = LocalFacialExtractor(
            id_dim=id_dim,
            vit_dim=vit_dim,
            depth=depth,
            dim_head=head_dim,
            heads=num_heads,
            num_id_token=num_id_tokens,
            num_queries=tokens_per_component,
            output_dim=token_dim,
            ff_mult=ff_mult,
            num_scale=num_scales,
        )

    @classmethod
    def from_consisid(
        cls, repo_or_folder: str, subfolder: str | None = "transformer", **kwargs
    ) -> "LocalFacialEncoder":
        """Start from the local facial extractor of a ConsisID checkpoint.

        Args:
            repo_or_folder: A Hub repo, or a folder, of a ConsisID pipeline or transformer.
            subfolder: Where the transformer lies in it; None if at the top.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            ValueError: If the checkpoint has no face modules; lists missing and unexpected keys.
        """
        return consisid.start_encoder(cls, repo_or_folder, subfolder, **kwargs)

    def forward(self, id_embeds: Tensor, vit_hidden_states: Sequence[Tensor]) -> Tensor:
        """Encode the components of a batch of photos.

        Args:
            id_embeds: (b, id_dim), or (b, m, id_dim) where it differs between components.
            vit_hidden_states: num_scales feature maps, each (b, m, p, vit_dim).

        Returns:
            Component tokens, (b, m, tokens_per_component, token_dim).

        Raises:
            ValueError: If a shape does not fit.
        """
        c = self.config
        shapes = [tuple(v.shape) for v in vit_hidden_states]
        if len(shapes) != c.num_scales or len(set(shapes)) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != c.vit_dim:
            raise ValueError(
                f"vit_hidden_states has shapes {shapes}, but this encoder needs {c.num_scales} of (batch, components, "
                f"patches, {c.vit_dim})."
            )
        batch, components = shapes[0][:2]
        if id_embeds.ndim == 2:
            id_embeds = id_embeds[:, None].expand(-1, components, -1)
        if tuple(id_embeds.shape) != (batch, components, c.id_dim):
            raise ValueError(
                f"id_embeds has shape {tuple(id_embeds.shape)}, but must be ({batch}, {c.id_dim}) or ({batch}, "
                f"{components}, {c.id_dim}) beside these feature maps."
            )
        # The extractor is diffusers' own, whose layers take no other dtype than that of their weights.
        dtype = self.dtype  # which asks each layer
        stored_in_8_bits = dtype.itemsize == 1  # in which nothing computes
        dtype = torch.float32 if stored_in_8_bits else dtype
        features = [v.flatten(0, 1).to(dtype) for v in (id_embeds, *vit_hidden_states)]
        if stored_in_8_bits:
            weights = {name: tensor.float() for name, tensor in self.extractor.state_dict().items()}
            tokens = functional_call(self.extractor, weights, (features[0], features[1:]))
        else:
            tokens = self.extractor(features[0], features[1:])
        return tokens.unflatten(0, (batch, components))

    @torch.no_grad()
    def encode(
        self,
        id_embeds: Tensor,
        vit_hidden_states: Sequence[Tensor],
        mask: Tensor | None = None,
        names: Sequence[str] = FACIAL_COMPONENTS,
    ) -> Identity:
        """`forward` for one photo, as an `Identity` that carries this encoder's fingerprint.

        Args:
            id_embeds: (1, id_dim) or (1, m, id_dim).
            vit_hidden_states: num_scales feature maps, each (1, m, p, vit_dim).
            mask: (m,), bool; False where the photo does not show the component.
            names: One a component.

        Raises:
            ValueError: If a shape does not fit, or if there is more than one photo.
        """
        tokens = self(id_embeds, vit_hidden_states)
        if len(tokens) != 1:
            raise ValueError(f"encode takes the features of one photo, but got {len(tokens)}: call it for each.")
        return Identity(tokens[0], mask, tuple(names), self.fingerprint())

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that tell encoders apart, from names, shapes and signs of the weights.

        Signs are the same in every dtype that the encoder may be loaded or stored in.
        """
        return self._digests()[0]

    def weights_digest(self) -> str:
        """Return 16 hexadecimal digits of the weights' values and dtypes.

        The tokens depend on these exactly, whereas `fingerprint` says which tokens a router takes.
        """
        return self._digests()[1]

    def _digests(self) -> tuple[str, str]:
        """Return `fingerprint` and `weights_digest`, which are computed again only when a weight has changed."""
        adapters = self._adapters()
        current = versions(self.parameters()), adapters
        if self._cached_digests is None or self._cached_digests[0] != current:
            signs, values = weights_digests(self.state_dict())
            self._cached_digests = current, (signs, content_digest(values, adapters)[:16] if adapters else values)
        return self._cached_digests[1]

    def _adapters(self) -> str:
        """Return which of PEFT's adapters on the layers act, and how strongly; "" if there are none."""
        states = [
            (name, module.active_adapters, module.disable_adapters, module.merged_adapters, module.scaling)
            for name, module in self.named_modules()
            if hasattr(module, "merged_adapters")
        ]
        return repr(states) if states else ""

"""The identities that are set on a handle, and their prepared form for the activations that they meet."""

# b batch of the host · k identities · m components · l tokens a component · D token_dim

import torch
from torch import Tensor

from .layers import versions
from .router import LocalRouter, PreparedIdentity


class Conditioning:
    """Component tokens of one identity for all samples of a batch, or of one identity a prompt.

    Args:
        router: The router that they are for.
        tokens: (m, l, D) or (k, m, l, D).
        mask: (m,) or (k, m), bool; None if all components are visible.
        videos_per_prompt: How many samples of a batch show one prompt.

    Raises:
        ValueError, TypeError: If they are not tokens of this router.
    """

    def __init__(self, router: LocalRouter, tokens: Tensor, mask: Tensor | None, videos_per_prompt: int):
        if tokens.ndim == 3:
            tokens, mask = tokens[None], None if mask is None else mask[None]
        self.mask = router.check_tokens(tokens, mask)
        if not tokens.isfinite().all():
            raise ValueError("component tokens hold NaN or infinite values: encode the photo again.")
        if videos_per_prompt < 1:
            raise ValueError(f"videos_per_prompt is {videos_per_prompt}, but must be at least 1.")
        self.router, self.tokens, self.videos_per_prompt = router, tokens, videos_per_prompt
        self._kept: tuple[PreparedIdentity, tuple, tuple] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def prepared(self, device: torch.device, dtype: torch.dtype, batch: int) -> PreparedIdentity:
        """The prepared form for a batch of activations, kept until these or the router's weights change.

        Raises:
            ValueError: If the identities do not fit the batch.
        """
        several = len(self) > 1
        sources = (self.tokens, *self.router.parameters())
        trains = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        key = (device, dtype, batch if several else None)
        # Weights are not written to within a compiled forward, whose graph their version counters would break.
        written = () if torch.compiler.is_compiling() else versions(self.router)
        if self._kept is not None and not trains:
            prepared, *made_for = self._kept
            if made_for == [key, written] or (torch.compiler.is_compiling() and made_for[0] == key):
                return prepared
        if self.router.device != device:
            self.router.to(device)
        if self.tokens.device != device:
            self.tokens, self.mask = self.tokens.to(device), self.mask.to(device)
        with torch.set_grad_enabled(trains):
            prepared = self.router.prepare(self.tokens, self.mask, dtype)
            if several:
                index = identity_index(batch, len(self), self.videos_per_prompt)
                prepared = prepared.select(torch.tensor(index, device=device))
        if not trains:  # a graph that is kept would be walked twice
            self._kept = (prepared, key, written)
        return prepared


def identity_index(batch: int, identities: int, videos: int) -> list[int]:
    """Which of several identities each sample shows: a batch is guidance passes × prompts × videos a prompt.

    Raises:
        ValueError: If the batch is not one or two passes.
    """
    passes, rest = divmod(batch, identities * videos)
    if rest or passes not in (1, 2):
        raise ValueError(
            f"{identities} identities with {videos} videos a prompt do not fit a batch of {batch}, which must be "
            f"{identities * videos} samples, or {2 * identities * videos} under guidance: give one identity a prompt, "
            "or one for all, and the pipeline's num_videos_per_prompt."
        )
    return [i for i in range(identities) for _ in range(videos)] * passes

"""The identities that are set on a handle, and their folded form for the activations that they meet."""

# b batch of the host · k identities · m components · l tokens a component · D token_dim

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.checks import size
from ..models.folded_identity import FoldedIdentity
from ..models.layers import versions
from ..models.local_router import LocalRouter
from .regions import check_frames, token_regions


class Conditioning:
    """Component tokens of one identity for a whole batch, of one identity per prompt, or of several in regions.

    Args:
        router: The router.
        tokens: (m, l, D) or (k, m, l, D).
        mask: (m,) or (k, m), bool; None if all components are visible.
        videos_per_prompt: Number of samples of a batch that show one prompt.
        regions: Place of each identity, k masks (1 or frames, height, width); then each sample shows all of them.

    Raises:
        ValueError, TypeError: If they are not tokens of this router.
    """

    def __init__(
        self,
        router: LocalRouter,
        tokens: Tensor,
        mask: Tensor | None,
        videos_per_prompt: int,
        regions: Sequence[Tensor] | None = None,
    ):
        if not isinstance(tokens, Tensor):
            raise TypeError(f"tokens are a {type(tokens).__name__}, but must be a tensor of component tokens.")
        videos_per_prompt = size("videos_per_prompt", videos_per_prompt)
        if tokens.ndim == 3:
            tokens, mask = tokens[None], mask[None] if isinstance(mask, Tensor) else mask
        self.mask = router.check_tokens(tokens, mask)
        if not tokens.isfinite().all():
            raise ValueError("The component tokens hold NaN or infinite values. Encode the photo again.")
        if not self.mask.any(dim=1).all():
            raise ValueError("An identity has no visible component. Use a photo that shows the face.")
        if regions is not None and len(regions) != len(tokens):
            raise ValueError(f"There are {len(regions)} regions for {len(tokens)} identities. Give one for each.")
        self.router, self.tokens, self.videos_per_prompt = router, tokens, videos_per_prompt
        self.regions = regions
        self._kept: FoldedIdentity | None = None  # of the identities
        self._kept_for: tuple | None = None
        self._made_of: tuple | None = None
        self._expanded: tuple[FoldedIdentity, int, FoldedIdentity] | None = None  # from what, batch, to what

    def __len__(self) -> int:
        return len(self.tokens)

    def shown(
        self, hidden_states: Tensor, grid: tuple[int, int, int] | None, order: Tensor | None = None
    ) -> list[tuple[FoldedIdentity, Tensor | None]]:
        """Return the folded identities that video tokens meet, each with its region (1, n), None for all tokens.

        Args:
            hidden_states: Video tokens, (b, n, D').
            grid: Their grid (frames, height, width), None if it is not known.
            order: Row-major number of each token, (n,); None if they are row-major.

        Raises:
            ValueError: If the identities do not fit the batch, or the regions the token grid.
        """
        folded = self.folded(hidden_states.device, hidden_states.dtype, len(hidden_states))
        if self.regions is None:
            return [(folded, None)]
        if self.regions[0].device != hidden_states.device:
            self.regions = [region.to(hidden_states.device) for region in self.regions]
        regions = token_regions(self.regions, grid, hidden_states.shape[1])
        if order is not None:
            regions = regions[:, order.to(regions.device)]
        return [(folded.select(slice(i, i + 1)), regions[i : i + 1]) for i in range(len(self))]

    def folded(self, device: torch.device, dtype: torch.dtype, batch: int) -> FoldedIdentity:
        """Return the folded form for a batch of activations.

        Raises:
            ValueError: If the identities do not fit the batch.
        """
        folded = self.fold(device, dtype)
        if len(self) == 1 or self.regions is not None:
            return folded
        # To keep it within a compiled forward would be another graph from the second step on.
        if torch.compiler.is_compiling() or folded is not self._kept:
            return self._expand(folded, batch)
        if self._expanded is None or self._expanded[0] is not folded or self._expanded[1] != batch:
            with torch.inference_mode(False), torch.no_grad():
                self._expanded = (folded, batch, self._expand(folded, batch))
        return self._expanded[2]

    def fold(self, device: torch.device, dtype: torch.dtype) -> FoldedIdentity:
        """Return the folded form of the identities, cached until weights or the activations' dtype or device change.

        While something wraps a layer of the router (LoRA), each call folds anew.
        """
        sources = (self.tokens, *self.router.parameters())
        trains = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        key = (device, dtype)
        # Weights are not written to within a compiled forward, whose graph their version counters would break.
        compiling = torch.compiler.is_compiling()
        fits = self._kept is not None and self._kept_for == key and not trains
        if fits and (compiling or (self._made_of == versions(sources) and self.router.folds_alike())):
            return self._kept
        if self.router.device != device:
            self.router.place(device)
        self.tokens, self.mask = self.tokens.to(device), self.mask.to(device)
        if trains:
            self._kept = None  # a step will change the weights
            return self.router.fold(self.tokens, self.mask, dtype)
        # What is kept may meet a backward pass later, which tensors of inference mode do not allow.
        with torch.inference_mode(False), torch.no_grad():
            self._kept = self.router.fold(self.tokens, self.mask, dtype)
        self._kept_for = key
        if not compiling:
            self._made_of = versions((self.tokens, *self.router.parameters()))
        return self._kept

    def _expand(self, folded: FoldedIdentity, batch: int) -> FoldedIdentity:
        index = identity_index(batch, len(self), self.videos_per_prompt)
        return folded.select(torch.tensor(index, device=self.tokens.device))

    def check_forward(self, batch: int, passes: int | None, grid: tuple[int, int, int] | None) -> None:
        """Check the batch and the token grid of a forward of the whole transformer, as far as they are known.

        Raises:
            ValueError: If the grid does not fit the regions, or if the batch is not guidance passes × prompts × videos
                per prompt.
        """
        if self.regions is not None:
            if grid is not None:
                check_frames(self.regions, grid[0])
            return
        if passes is None or len(self) == 1:
            return
        wanted = passes * len(self) * self.videos_per_prompt
        if batch != wanted:
            raise ValueError(
                f"{len(self)} identities with {self.videos_per_prompt} videos a prompt need a batch of {wanted} in "
                f"{passes} guidance passes, but the pipeline runs {batch}: give one identity a prompt, or one for all, "
                "and say videos_per_prompt. Photos of one person go into a list of their own, [[a, b]]; several people "
                "in one video need regions."
            )


def identity_index(batch: int, identities: int, videos: int) -> list[int]:
    """Return the identity that each sample shows: a batch is guidance passes × prompts × videos per prompt.

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

"""A router on a transformer: its conditioning, its strength, what it records, and the way to take it off."""

# b batch of the host · m components · n video tokens

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..hosts.host import Arguments, Host, activation_dtype, find_block, weights_device
from ..models.local_router import LocalRouter
from .attachment import Attachment
from .block_hook import ROUTER_HOOK, remove_innermost
from .conditioning import Conditioning
from .forward_context import Observer
from .regions import read_region
from .strength import Strength, delegated


class RouterHandle(Attachment):
    """An attached router: its conditioning, strength and window, and the way to take it off. Made by `attach`.

    Also a context manager, which detaches at its end.

    Attributes:
        router, transformer, block_idx, block: What is attached where.
        strength: What `scale`, `component_scales`, `start` and `end` are kept in; handles of one router may share it.
        observer: What tells the progress of the run; `attach_lavieid` gives it the pipeline's timesteps.
        passes: A function from a forward's arguments to the guidance passes in its batch, None if they are not known.
        notices: Warnings that are given when the router first acts.
    """

    scale = delegated(lambda self: self.strength, Strength, "scale")
    component_scales = delegated(lambda self: self.strength, Strength, "component_scales")
    start = delegated(lambda self: self.strength, Strength, "start")
    end = delegated(lambda self: self.strength, Strength, "end")

    def __init__(self, router: LocalRouter, transformer: nn.Module, block_idx: int, host: Host, names: Sequence[str]):
        self.router, self.transformer, self.block_idx = router, transformer, block_idx
        self.notices: list[str] = []
        self.passes: Callable[[Arguments], int | None] | None = None
        self._host, self.block = host, find_block(transformer, host, block_idx)
        self.strength = Strength(names, weights_device(self.block))
        self.observer = Observer(transformer, host, before=self._before_forward)
        self._grid: tuple[int, int, int] | None = None  # what the user says of it
        self._record: list[Tensor] | None = None
        self._streams: list[Tensor] | None = None
        self._attached = self.enabled = True
        self.clear()

    @property
    def enabled(self) -> bool:
        """Whether the router acts."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled, self._gate = bool(value), torch.tensor(float(value), device=weights_device(self.block))

    def set_tokens(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        videos_per_prompt: int = 1,
        regions: Sequence | None = None,
    ) -> None:
        """Set the identities that the router shows from now on.

        One identity goes to every sample of a batch. Several are one a prompt: a batch is guidance passes (1 or 2) ×
        prompts × videos a prompt in this order, as diffusers' pipelines lay it out, and identity i goes to all samples
        of prompt i. A batch of another size raises.

        Args:
            tokens: Component tokens, (M, L, D) for one identity or (identities, M, L, D).
            mask: (M,) or (identities, M), bool; False where a photo does not show the component.
            videos_per_prompt: The pipeline's `num_videos_per_prompt`.
            regions: For several identities in each video: where each of them is, as masks (height, width) or (frames,
                height, width) of bool or 0 to 1 of any height and width; arrays, tensors or images. Frames are those
                of the token grid: the latents', or half as many in CogVideoX 1.5. A token outside all regions is left
                alone, one in two of them is steered by both.

        Raises:
            ValueError, TypeError: If the tokens are not the router's; what was set before stays.
        """
        self._check_attached()
        if regions is not None:
            self._check_whole_stream("regions")
            if not isinstance(regions, list | tuple):
                raise TypeError(f"regions is a {type(regions).__name__}, but must be a list of masks, one an identity.")
            regions = [read_region(region) for region in regions]
        conditioning = Conditioning(self.router, tokens, mask, videos_per_prompt, regions)
        if not tokens.requires_grad:
            with torch.no_grad():
                device = weights_device(self.block) or self.router.device
                conditioning.fold(device, activation_dtype(self.transformer))
        self._conditioning = conditioning

    def _before_forward(self, batch: int, arguments: Arguments) -> bool:
        """Refuse, ahead of the first block, what shows itself only in a forward; say whether the progress is wanted."""
        if not torch.compiler.is_compiling() and not self.enabled:
            return self.strength.windowed  # which compiled blocks ask for all the same
        passes = self.passes(arguments) if self.passes is not None else None
        if self._conditioning is not None:
            self._check_clip_is_known()
            if self.observer.clip.start is not None or self.observer.clip.folded:
                self._check_whole_stream("Streams that hold more than the clip (given frames, memory)")
            if self._conditioning.regions is not None:
                self._check_whole_stream("regions")
            self._conditioning.check_forward(batch, passes, self.observer.clip.grid)
        if not self.strength.windowed:
            return False
        # Numbers that a compiled forward reads are compiled into it: a new window would be a new graph.
        if not torch.compiler.is_compiling() and self.start >= self.end:
            raise ValueError(
                f"The window begins at start {self.start}, but ends at end {self.end}: start must be less."
            )
        if torch.is_grad_enabled() and getattr(self.transformer, "gradient_checkpointing", False):
            # The second call of a checkpointed block may come after the next forward, and would read its progress.
            raise ValueError(
                "A window (start, end) is for inference: under gradient checkpointing set start to 0 and end to 1."
            )
        return True

    def clear(self) -> None:
        """Forget the identities: the host's output is unchanged until new ones are set."""
        self._conditioning: Conditioning | None = None
        self._warned = False

    @contextmanager
    def record_routes(
        self, grid: tuple[int, int, int] | None = None, onto: list[Tensor] | None = None
    ) -> Iterator[list[Tensor]]:
        """Collect the route maps w of eq. 2 of every forward within the block.

        Args:
            grid: The token grid (frames, height, width); needed only where the host's description has none.
            onto: The list; a new one if None.

        Yields:
            A list that grows by one tensor (batch, M, frames, height, width) a forward, on the host's device.

        Raises:
            ValueError: If the grid is not known, or another recording is running.
        """
        self._check_attached()
        if self._record is not None:
            raise ValueError("Routes are being recorded already: end that recording first.")
        self._check_whole_stream("Route maps")
        if grid is None and self._host.grid is None:
            raise ValueError(
                f"The token grid of {type(self.transformer).__name__} is not known: pass grid=(frames, height, width)."
            )
        self._record, self._grid = [] if onto is None else onto, grid
        try:
            yield self._record
        finally:
            self._record = self._grid = None

    @contextmanager
    def record_stream(self) -> Iterator[list[Tensor]]:
        """Collect z of eqs. 2 and 3, as it leaves the block before the router acts, with its gradient.

        Yields:
            A list that grows by one tensor (batch, tokens, D') a forward, whether the handle is enabled or not.

        Raises:
            ValueError: If another recording is running.
        """
        self._check_attached()
        if self._streams is not None:
            raise ValueError("The stream is being recorded already: end that recording first.")
        self._check_whole_stream("Recorded streams")
        self._streams = []
        try:
            yield self._streams
        finally:
            self._streams = None

    def detach(self) -> None:
        """Take the router off and forget the identities; the host is then what it was. A second call does nothing."""
        if not self._attached:
            return
        hook = self.block._diffusers_hook.get_hook(ROUTER_HOOK)
        hook.handles.remove(self)
        if not hook.handles:
            remove_innermost(self.block, ROUTER_HOOK)
        self.clear()
        self._attached, self._record, self._streams, self.passes = False, None, None, None
        self.observer.close()

    def __repr__(self) -> str:
        if not self._attached:
            return "RouterHandle(detached)"
        count = 0 if self._conditioning is None else len(self._conditioning)
        identities = {0: "no identity", 1: "1 identity"}.get(count, f"{count} identities")
        return (
            f"RouterHandle({self.router.num_parameters() / 1e6:.1f} M parameters after block {self.block_idx} of "
            f"{type(unwrap_module(self.transformer)).__name__}, {identities}, scale {self.scale:g}, "
            f"{'enabled' if self.enabled else 'disabled'})"
        )

    def steer(self, stream: Tensor) -> Tensor:
        """Eq. 3 on the clip's tokens in the stream that leaves the block, with what is set on this handle."""
        idle = self._conditioning is None and self._warned
        if self._streams is None and (idle or (not torch.compiler.is_compiling() and not self.enabled)):
            return stream
        if self._conditioning is not None:
            self._check_clip_is_known()
        return self.observer.clip.steer(stream, self._steer)

    def _steer(self, hidden_states: Tensor) -> Tensor:
        """Eq. 3 on the clip's tokens (b, n, D')."""
        # A checkpoint's second call, in the backward pass, is not another forward.
        if self._streams is not None and torch._C._current_graph_task_id() == -1:
            self._streams.append(hidden_states)
        quiet = torch.compiler.is_compiling()  # neither a warning nor the question for a backward pass can be compiled
        if not quiet and not self.enabled:  # compiled, the gate is 0: to ask here would make a graph for each answer
            return hidden_states
        if self._conditioning is None:
            if not self._warned and not quiet:
                self._warned = True
                warnings.warn(
                    "A LaVieID router is attached but no identity is set, so it changes nothing: call set_identity or "
                    "set_tokens, or detach it.",
                    stacklevel=2,
                )
            return hidden_states
        while self.notices and not quiet:
            warnings.warn(self.notices.pop(), stacklevel=2)
        clip = self.observer.clip
        shown = self._conditioning.shown(hidden_states, clip.grid, clip.order)
        # A checkpoint's second call, in the backward pass, must neither be recorded nor save other tensors than the
        # first.
        if self._record is not None and self.enabled and (quiet or torch._C._current_graph_task_id() == -1):
            with torch.no_grad():
                weights = sum(self.router.folded_weights(hidden_states, *identity) for identity in shown)
                weights = weights.expand(len(hidden_states), -1, -1)
            if clip.order is not None:
                weights = weights[..., clip.order.argsort().to(weights.device)]
            self._record.append(weights.unflatten(-1, self._grid or clip.grid))
        strength = self.strength.now(hidden_states, self.observer.progress)
        if quiet:
            strength = strength * self._gate.to(strength.device, non_blocking=True)
        # What is recorded must not be written over.
        in_place, out = self._host.fresh_output and len(shown) == 1 and self._streams is None, None
        for folded, region in shown:
            out = self.router.apply_folded(hidden_states, folded, strength, in_place, region, onto=out)
        return out

    def _check_clip_is_known(self) -> None:
        if self.observer.clip.hidden:
            raise ValueError(
                f"This forward of {type(unwrap_module(self.transformer)).__name__} does not tell where in its stream "
                "the clip is: call it by the object that the router is attached to, with the arguments that say the "
                "token grid, or detach the router."
            )

    def _check_whole_stream(self, what: str) -> None:
        """Refuse what needs all tokens of a video where each device has a share of them."""
        parallel = getattr(self.transformer, "_parallel_config", None)
        if getattr(parallel, "context_parallel_config", None) is not None:
            raise ValueError(
                f"{what} need all video tokens on one device, but in context parallel each may have a share of them: "
                f"run {type(unwrap_module(self.transformer)).__name__} without enable_parallelism."
            )

    def _check_attached(self) -> None:
        if not self._attached:
            raise ValueError("This router has been detached: attach it again.")

"""A router on a transformer.

A step of a denoising run goes from `RouterHandle._before_forward`, ahead of the transformer's forward, over the hook of
the block, which calls the handles of all routers on it, to `RouterHandle.steer`, which applies eq. 3.
"""

# b batch of the host · m components · n video tokens · s tokens of the stream · D' width of a video token

import inspect
import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.hooks import ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..hosts.host import Grid, Host, activation_dtype, find_block, find_stream, token_width, weights_device
from ..hosts.pipeline import HostPipeline
from ..models.checks import size, whole
from ..models.local_router import LocalRouter
from .block_hook import insert_innermost, remove_innermost
from .conditioning import Conditioning
from .forward_context import ForwardContext, need_whole_stream
from .regions import read_regions
from .strength import Strength, StrengthSettings, component_names

_HOOK = "lavieid_router"  # name of a block's `StreamHook` in its registry


class StreamHook(ModelHook):
    """Passes the video stream that leaves a block through the handles of its routers, in the order of attaching."""

    def __init__(self):
        super().__init__()
        self.handles: list[RouterHandle] = []

    @property
    def stream(self) -> int:
        """Index of the video stream among the block's outputs, on which all handles agree."""
        return self.handles[0].stream

    def post_forward(self, module: nn.Module, output):
        """Return the block's output with the steered stream in it."""
        type_of_output, index = type(output), self.stream  # maybe a named tuple
        stream = output[index] if isinstance(output, tuple) else output
        recorded = False
        for handle in self.handles:
            recorded = recorded or handle.records_stream
        for handle in self.handles:
            stream = handle.steer(stream, overwrite=not recorded)  # which may be what an earlier handle recorded
        if isinstance(output, tuple):
            output = (*output[:index], stream, *output[index + 1 :])
            return type_of_output._make(output) if hasattr(type_of_output, "_make") else output
        return stream


class RouterHandle(StrengthSettings):
    """A router that is attached to a transformer, with its identities, strength and window; made by `attach`.

    As a context manager, it detaches at its end.

    Args:
        router: The router; moved to the transformer's device, unless accelerate offloads it.
        transformer: The transformer.
        block_idx: The block; negative from the last.
        host: Description of the transformer.
        names: Names of the components; `FACIAL_COMPONENTS` for six if None.
        pipeline: Pipeline of the transformer, which tells guidance passes and the progress of a run.
        strength: Strength of another handle of the router, to be shared.
        notices: Warnings that are given, once, when the router first acts; the list may be shared.
        adapter_name: Name among the routers of a block; None if a `LaVieID` has it.
        replaces: Handles that are taken off next, and so are in nobody's way.

    Attributes:
        router, transformer, block_idx, block: The router and its place.
        stream: Index of the video stream among the block's outputs.
        context: Context of the transformer's latest forward.

    Raises:
        ValueError: If the blocks or their video stream are not known, the block is not there, the widths differ, or the
            router is on it already. The transformer is untouched then.
    """

    def __init__(
        self,
        router: LocalRouter,
        transformer: nn.Module,
        block_idx: int,
        host: Host,
        names: Sequence[str] | None = None,
        *,
        pipeline: HostPipeline | None = None,
        strength: Strength | None = None,
        notices: list[str] | None = None,
        adapter_name: str | None = None,
        replaces: Collection["RouterHandle"] = (),
    ):
        super().__init__()
        block = find_block(transformer, host, block_idx)
        stream = find_stream(block, host)
        names = component_names(router.config.num_components, names)
        width = token_width(transformer, host)
        if width not in (None, router.config.dim):
            raise ValueError(
                f"The router is {router.config.dim} wide, but the video tokens of {type(transformer).__name__} are "
                f"{width}. Use a router made for it, such as LocalRouter(dim={width})."
            )
        staying = [handle for handle in attached_handles(block) if not any(handle is other for other in replaces)]
        if any(handle.router is router for handle in staying):
            raise ValueError(
                f"This router is attached to block {block_idx} already. Detach it first, or attach another one."
            )
        if staying and staying[0].stream != stream:
            raise ValueError(
                f"stream is {stream}, but a router on block {block_idx} says {staying[0].stream}. Say the same."
            )

        device = weights_device(block)
        if device is not None:
            router.place(device)
        self.router, self.transformer, self.block = router, transformer, block
        self.block_idx = whole("block_idx", block_idx)
        self.stream, self.adapter_name = stream, adapter_name
        self._strength = Strength(names, device) if strength is None else strength
        self.context = ForwardContext.unknown(host)
        self._host, self._pipeline, self._notices = host, pipeline, [] if notices is None else notices
        self._conditioning: Conditioning | None = None
        self._warned = False
        self._recorded_streams: list[Tensor] | None = None
        self._recorded_routes: list[Tensor] | None = None
        self._grid: Grid | None = None  # of the recorded routes, if the user gives it
        self._switch(True)
        self._argument_names = list(inspect.signature(type(unwrap_module(transformer)).forward).parameters)[1:]

        hook = _stream_hook(block)
        self._pre_hook = transformer.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        try:
            if hook is None:
                hook = StreamHook()
                insert_innermost(block, hook, _HOOK)
        except BaseException:
            self._pre_hook.remove()
            raise
        hook.handles.append(self)

    @property
    def strength(self) -> Strength:
        """Holds `scale`, `component_scales`, `start` and `end`; shared by the handles of one `LaVieID`."""
        return self._strength

    def set_tokens(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        videos_per_prompt: int = 1,
        regions: Sequence | None = None,
    ) -> None:
        """Set the identities that the router shows from now on.

        One identity goes to every sample of a batch. Several are one per prompt: a batch is guidance passes (1 or 2) ×
        prompts × videos per prompt in this order, as diffusers' pipelines lay it out, and identity i goes to all
        samples of prompt i. A batch of another size raises.

        Args:
            tokens: Component tokens, (M, L, D) for one identity or (identities, M, L, D).
            mask: (M,) or (identities, M), bool; False where a photo does not show the component.
            videos_per_prompt: The pipeline's `num_videos_per_prompt`.
            regions: For several identities in each video, the place of each of them: a list of masks (height, width) or
                (frames, height, width) of bool or 0 to 1 of any height and width; arrays, tensors or images. Frames
                are those of the token grid: the latents', or half as many in CogVideoX 1.5. A token outside all regions
                is left alone, one in two of them is steered by both.

        Raises:
            ValueError, TypeError: If the tokens are not the router's; what was set before stays.
        """
        self._conditioning = self._conditioning_of(tokens, mask, videos_per_prompt, regions)

    def _conditioning_of(
        self, tokens: Tensor, mask: Tensor | None, videos_per_prompt: int, regions: Sequence | None
    ) -> Conditioning:
        """Return what `set_tokens` would set; nothing has changed yet."""
        self._need_attached()
        if regions is not None:
            need_whole_stream(self.transformer, "regions")
            regions = read_regions(regions)
        conditioning = Conditioning(self.router, tokens, mask, videos_per_prompt, regions)
        if not tokens.requires_grad:
            with torch.no_grad():
                device = weights_device(self.block) or self.router.execution_device
                conditioning.fold(device, activation_dtype(self.transformer))
        return conditioning

    def clear(self) -> None:
        """Forget the identities: the host's output is unchanged until new ones are set."""
        self._need_attached()
        self._conditioning, self._warned = None, False

    def _before_forward(self, transformer: nn.Module, args: tuple, kwargs: dict) -> None:
        """Read the context of a forward, and refuse ahead of the first block what cannot be done in it."""
        arguments = {**dict(zip(self._argument_names, args, strict=False)), **kwargs}
        latents = arguments.get(self._host.latents)
        if not isinstance(latents, Tensor):
            self.context = ForwardContext.unknown(self._host)
            return
        windowed = self.strength.windowed  # which compiled blocks ask for though the handle is disabled
        self.context = ForwardContext.of(self._host, transformer, arguments, self._pipeline, timed=windowed)
        if not torch.compiler.is_compiling() and not self.enabled:
            return
        if self._conditioning is not None:
            self.context.need_known(self.transformer)
            if not self.context.whole:
                need_whole_stream(self.transformer, "Streams that hold more than the video (given frames, memory)")
            if self._conditioning.regions is not None:
                need_whole_stream(self.transformer, "regions")
            passes = None if self._pipeline is None else self._pipeline.passes(arguments)
            self._conditioning.check_forward(len(latents), passes, self.context.grid)
        if windowed:
            self.strength.check_window(self.transformer)

    def steer(self, stream: Tensor, overwrite: bool = True) -> Tensor:
        """Return the stream that leaves the block with eq. 3 applied to its video tokens.

        Args:
            stream: (b, s, D'), or (b · f, s / f, D') if the host has the frames in the batch.
            overwrite: Whether the stream may be overwritten, as far as the host allows it too.
        """
        compiling = torch.compiler.is_compiling()
        # To ask `enabled` while compiling would make a graph for each answer: `_gate` is 0 or 1 in one graph instead.
        on = compiling or self.enabled
        if self._conditioning is None and on and not compiling:
            self._warn_of_no_identity()
        acts = on and self._conditioning is not None
        if not acts and self._recorded_streams is None:
            return stream
        if acts:
            self.context.need_known(self.transformer)

        tokens = self.context.take(stream)  # b n D'
        # A checkpoint's second call, in the backward pass, is not another forward.
        if self._recorded_streams is not None and not _in_backward():
            self._recorded_streams.append(tokens)
        if not acts:
            return stream

        while self._notices and not compiling:
            warnings.warn(self._notices.pop(), stacklevel=2)
        shown = self._conditioning.shown(tokens, self.context.grid, self.context.order)
        # A checkpoint's second call must neither be recorded nor save other tensors than the first.
        if self._recorded_routes is not None and self.enabled and (compiling or not _in_backward()):
            self._record_routes(tokens, shown)
        strength = self.strength.now(tokens, self.context.progress)  # 1 or b, m
        if compiling:
            strength = strength * self._gate.to(strength.device, non_blocking=True)
        in_place, steered = overwrite and self._host.fresh_output and len(shown) == 1, None
        for folded, region in shown:
            steered = self.router.apply_folded(tokens, folded, strength, in_place, region, onto=steered)
        return self.context.put(stream, steered)

    @property
    def records_stream(self) -> bool:
        """Whether `record_stream` is running."""
        return self._recorded_streams is not None

    @contextmanager
    def record_stream(self) -> Iterator[list[Tensor]]:
        """Collect z of eqs. 2 and 3, as it leaves the block before the router acts, with its gradient.

        Yields:
            A list that grows by one tensor (batch, tokens, D') per forward, whether the handle is enabled or not.

        Raises:
            ValueError: If another recording is running.
        """
        self._need_attached()
        if self._recorded_streams is not None:
            raise ValueError("The stream is being recorded already. End that recording first.")
        need_whole_stream(self.transformer, "Recorded streams")
        self._recorded_streams = []
        try:
            yield self._recorded_streams
        finally:
            self._recorded_streams = None

    @contextmanager
    def record_routes(self, grid: Grid | None = None, onto: list[Tensor] | None = None) -> Iterator[list[Tensor]]:
        """Collect the route maps w of eq. 2 of every forward within the block.

        Args:
            grid: Token grid (frames, height, width); needed only where the host's description has none.
            onto: The list; a new one if None.

        Yields:
            A list that grows by one tensor (batch, M, frames, height, width) per forward, on the host's device.

        Raises:
            TypeError: If the grid is not of three whole numbers.
            ValueError: If the grid is not known, or another recording is running. A forward raises it too, if its grid
                is not known or is not that of its video tokens.
        """
        self._need_attached()
        if self._recorded_routes is not None:
            raise ValueError("Routes are being recorded already. End that recording first.")
        need_whole_stream(self.transformer, "Route maps")
        if grid is not None:
            grid = _checked_grid(grid)
        elif self._host.grid is None:
            raise ValueError(
                f"The token grid of {type(self.transformer).__name__} is not known. Pass grid=(frames, height, width)."
            )
        self._recorded_routes, self._grid = [] if onto is None else onto, grid
        try:
            yield self._recorded_routes
        finally:
            self._recorded_routes = self._grid = None

    def _record_routes(self, tokens: Tensor, shown: list) -> None:
        with torch.no_grad():
            weights = sum(self.router.folded_weights(tokens, *identity) for identity in shown)
            weights = weights.expand(len(tokens), -1, -1)  # b m n
        if self.context.order is not None:
            weights = weights[..., self.context.order.argsort().to(weights.device)]
        grid, count = self._grid or self.context.grid, weights.shape[-1]
        if grid is None:
            raise ValueError("The token grid of this forward is not known. Pass grid=(frames, height, width).")
        if math.prod(grid) != count:
            raise ValueError(
                f"The token grid {tuple(grid)} has {math.prod(grid)} places, but this forward has {count} video "
                "tokens. Pass their grid=(frames, height, width)."
            )
        self._recorded_routes.append(weights.unflatten(-1, grid))

    def _switch(self, value: bool) -> None:
        super()._switch(value)
        self._gate = torch.tensor(float(value), device=weights_device(self.block))

    def _take_off(self) -> None:
        hook = self.block._diffusers_hook.get_hook(_HOOK)
        hook.handles.remove(self)
        if not hook.handles:
            remove_innermost(self.block, _HOOK)
        self._pre_hook.remove()
        self.context = ForwardContext.unknown(self._host)
        self._conditioning = self._pipeline = self._recorded_routes = self._recorded_streams = None

    def _describe(self) -> str:
        count = 0 if self._conditioning is None else len(self._conditioning)
        identities = {0: "no identity", 1: "1 identity"}.get(count, f"{count} identities")
        return (
            f"RouterHandle({self.router.num_parameters() / 1e6:.1f} M parameters after block {self.block_idx} of "
            f"{type(unwrap_module(self.transformer)).__name__}, {identities}, scale {self.scale:g}, "
            f"{'enabled' if self.enabled else 'disabled'})"
        )

    def _warn_of_no_identity(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "A LaVieID router is attached but no identity is set, so it changes nothing: call set_identity or "
                "set_tokens, or detach it.",
                stacklevel=3,
            )


def _checked_grid(grid: Grid) -> Grid:
    if not isinstance(grid, Sequence) or isinstance(grid, str) or len(grid) != 3:
        raise TypeError(f"grid is {grid!r}, but must be three whole numbers. Pass (frames, height, width).")
    frames, height, width = (size("grid", value) for value in grid)
    return frames, height, width


def attached_handles(block: nn.Module) -> list[RouterHandle]:
    """Return the handles of the routers on a block, in the order of attaching."""
    hook = _stream_hook(block)
    return [] if hook is None else list(hook.handles)


def _stream_hook(block: nn.Module) -> StreamHook | None:
    registry = getattr(block, "_diffusers_hook", None)
    return None if registry is None else registry.get_hook(_HOOK)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1

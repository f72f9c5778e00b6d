"""The context of a forward that a block cannot see: the place of the video tokens, and how far the run is."""

# b batch · f frames · n video tokens · s tokens of the stream · d width

import math
from typing import NamedTuple

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..hosts.host import Arguments, Grid, Host
from ..hosts.pipeline import HostPipeline


class ForwardContext(NamedTuple):
    """The place of the video tokens in a stream of one forward, and the progress of the run at it.

    A block's stream may hold other tokens too, such as given frames or memory; `take` and `put` leave them alone.

    Attributes:
        grid: Token grid (frames, height, width); None if it is not known.
        start: Index of the first video token, negative from the end; None if the stream holds no others.
        order: Row-major number of each video token, (n,); None if they are row-major.
        frames_in_batch: Whether the stream is (b · f, n / f, d).
        known: Whether the place of the video tokens is known. False if the stream may hold others, and this forward
            does not tell where.
        progress: Fraction of the run that is behind, (1,) or (b,), on the timesteps' device; None if it was not asked
            for or is not known.
    """

    grid: Grid | None = None
    start: int | None = None
    order: Tensor | None = None
    frames_in_batch: bool = False
    known: bool = True
    progress: Tensor | None = None

    @classmethod
    def unknown(cls, host: Host, progress: Tensor | None = None) -> "ForwardContext":
        """Return what is known without the arguments of a forward."""
        return cls(known=host.video_tokens == "whole" and not host.frames_in_batch, progress=progress)

    @classmethod
    def of(
        cls,
        host: Host,
        transformer: nn.Module,
        arguments: Arguments,
        pipeline: HostPipeline | None = None,
        timed: bool = False,
    ) -> "ForwardContext":
        """Return the context of a forward with these arguments by name.

        Args:
            host: Description of the transformer.
            transformer: The transformer.
            arguments: Arguments of its forward.
            pipeline: Pipeline whose timesteps tell the progress, before the host's description does.
            timed: Whether the progress is wanted.
        """
        progress = _progress(host, arguments, pipeline) if timed else None
        grid = None if host.grid is None else host.grid(transformer, arguments)
        if grid is None:
            return cls.unknown(host, progress)
        order = None if host.order is None else host.order(transformer, arguments, grid)
        if callable(host.video_tokens):
            start = host.video_tokens(transformer, arguments)
        else:
            start = {"whole": None, "first": 0, "last": -math.prod(grid)}[host.video_tokens]
        return cls(grid, start, order, host.frames_in_batch, True, progress)

    @property
    def whole(self) -> bool:
        """Whether the stream is the video tokens (b, n, d), as far as is known."""
        return self.start is None and not self.frames_in_batch

    def need_known(self, transformer: nn.Module) -> None:
        """Check that the place of the video tokens is known.

        Raises:
            ValueError: If the stream may hold others, and the forward does not tell where.
        """
        if not self.known:
            raise ValueError(
                f"This forward of {type(unwrap_module(transformer)).__name__} does not tell where in its stream the "
                "video is. Call it by the object that the router is attached to, with the arguments that say the token "
                "grid, or detach the router."
            )

    def take(self, stream: Tensor) -> Tensor:
        """Return the video tokens (b, n, d) of a stream, as a view of it.

        Raises:
            ValueError: If the stream is shorter than the video.
        """
        if self.frames_in_batch:
            return stream.unflatten(0, (-1, self.grid[0])).flatten(1, 2)
        count, total = self._count(stream), stream.shape[1]
        if total < count:
            raise ValueError(
                f"The stream of this block has {total} tokens, fewer than the {count} of the video. If it is split "
                "over several devices, as by enable_parallelism, the video tokens cannot be told from others: run the "
                "transformer on one."
            )
        return stream if total == count else stream.narrow(1, self.start % total, count)

    def put(self, stream: Tensor, video_tokens: Tensor) -> Tensor:
        """Return the stream with these video tokens (b, n, d) in the place of its own; all others are as they were."""
        if self.frames_in_batch:
            return video_tokens.unflatten(1, (self.grid[0], -1)).flatten(0, 1)
        count, total = self._count(stream), stream.shape[1]
        if total == count:
            return video_tokens
        start = self.start % total
        before, _, after = stream.split([start, count, total - start - count], dim=1)
        return torch.cat([before, video_tokens, after], dim=1)

    def _count(self, stream: Tensor) -> int:
        """Return the number of video tokens in a stream (b, s, d)."""
        return stream.shape[1] if self.start is None else math.prod(self.grid)


def need_whole_stream(transformer: nn.Module, what: str) -> None:
    """Check that a device has all tokens of a video, for something that needs them all.

    Raises:
        ValueError: If each device may have a share of them.
    """
    parallel = getattr(transformer, "_parallel_config", None)
    if getattr(parallel, "context_parallel_config", None) is not None:
        raise ValueError(
            f"{what} need all video tokens on one device, but in context parallel each may have a share of them. Run "
            f"{type(unwrap_module(transformer)).__name__} without enable_parallelism."
        )


def _progress(host: Host, arguments: Arguments, pipeline: HostPipeline | None) -> Tensor | None:
    timestep = arguments.get(host.timestep)
    if timestep is None:
        return None
    timestep = torch.as_tensor(timestep)
    timestep = host.level(timestep.reshape(timestep.shape[0] if timestep.ndim else 1, -1))
    progress = None if pipeline is None else pipeline.progress(timestep)
    if progress is None and host.progress is not None:
        progress = host.progress(timestep.float())
    return progress

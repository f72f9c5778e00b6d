"""Where the tokens of the clip are in the stream that leaves a block, which may hold others as well."""

# b batch · f frames · n tokens of the clip · s tokens of the stream · d width

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..hosts.host import Arguments, Host


class ClipTokens(NamedTuple):
    """The place of the clip's tokens in a forward.

    Attributes:
        grid: (frames, height, width); None if it is not known.
        start: Index of the first, negative from the end; None if there are no others, or nothing is known of them.
        order: The row-major number of each token, (n,); None if they are row-major.
        folded: Whether the stream is (b · f, n / f, d).
        hidden: Whether there may be others, and this forward does not tell where.
    """

    grid: tuple[int, int, int] | None = None
    start: int | None = None
    order: Tensor | None = None
    folded: bool = False
    hidden: bool = False

    @classmethod
    def unknown(cls, host: Host) -> "ClipTokens":
        """What is known without a forward."""
        return cls(hidden=host.video_tokens != "whole" or host.frames_in_batch)

    @classmethod
    def of(cls, host: Host, transformer: nn.Module, arguments: Arguments) -> "ClipTokens":
        """The place in a forward with these arguments by name."""
        grid = None if host.grid is None else host.grid(transformer, arguments)
        if grid is None:
            return cls.unknown(host)
        order = None if host.order is None else host.order(transformer, arguments, grid)
        if callable(host.video_tokens):
            start = host.video_tokens(transformer, arguments)
        else:
            start = {"whole": None, "first": 0, "last": -math.prod(grid)}[host.video_tokens]
        return cls(grid, start, order, host.frames_in_batch)

    def steer(self, stream: Tensor, steer: Callable[[Tensor], Tensor]) -> Tensor:
        """The stream with `steer`, from (b, n, d) to the same, on the clip's tokens; all others are as they were.

        Raises:
            ValueError: If the stream is shorter than the clip.
        """
        if self.folded:
            frames = self.grid[0]
            steered = steer(stream.unflatten(0, (-1, frames)).flatten(1, 2))
            return steered.unflatten(1, (frames, -1)).flatten(0, 1)
        if self.start is None:
            return steer(stream)
        count, total = math.prod(self.grid), stream.shape[1]
        if total == count:
            return steer(stream)
        if total < count:
            raise ValueError(
                f"The stream of this block has {total} tokens, fewer than the {count} of the clip: where it is split "
                "over several devices, as by enable_parallelism, the clip's tokens cannot be told from others: run the "
                "transformer on one."
            )
        start = self.start % total
        before, clip, behind = stream.split([start, count, total - start - count], dim=1)
        return torch.cat([before, steer(clip), behind], dim=1)

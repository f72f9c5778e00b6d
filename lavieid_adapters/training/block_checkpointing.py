"""Gradient checkpointing that recomputes no more of the host's blocks than the memory requires."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_MARGIN = 0.06  # share of the memory that is left to fragmentation


class BlockCheckpointing:
    """Policy that decides for each block of a host whether its activations are stored, or recomputed in backward.

    The last blocks keep theirs: they are the first to be freed, before earlier ones need room to be computed again.
    Blocks up to the router's need no gradient and keep nothing.

    Args:
        blocks: The host's blocks.
        first: The first block that gradients reach.
        recomputed: How many are computed again: a number, "all", or "auto" for as few as the memory of a GPU allows,
            which a first step with all of them finds out.

    Attributes:
        kept: How many keep their activations; None until it is known.
    """

    def __init__(self, blocks: Sequence[nn.Module], first: int, recomputed: int | str = "auto"):
        self._place = {id(block): i for i, block in enumerate(blocks)}
        self._first, self._count, self._auto = first, len(blocks), recomputed == "auto"
        self.kept = None if self._auto else 0 if recomputed == "all" else max(0, len(blocks) - first - recomputed)
        self._block = self._size = self._before = 0  # bytes a block keeps; the largest batch; bytes before its step

    def __call__(self, block: nn.Module, *args):
        """Run a block; diffusers calls this in its place under `enable_gradient_checkpointing`."""
        place = self._place[id(block)]
        if place < self._first or place >= self._count - (self.kept or 0):
            return block(*args)
        if self.kept is None and place == self._count - 1 and args[0].is_cuda:
            before = torch.cuda.memory_allocated(args[0].device)
            out = block(*args)
            self._block = torch.cuda.memory_allocated(args[0].device) - before
            return out
        return checkpoint(block.__call__, *args, use_reentrant=False)

    def begin(self, device: torch.device, size: int) -> None:
        """Begin a step. A batch that is larger than all earlier ones is measured anew."""
        if self._auto and size > self._size:
            self.kept, self._block, self._size = None, 0, size
        if self.kept is None and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)

    def settle(self, device: torch.device, limit: float | None = None) -> None:
        """End a step, after the optimizer: store as many activations as the measured step has left room for.

        Args:
            device: The GPU.
            limit: Bytes that may be taken; the GPU's memory if None.
        """
        if self.kept is not None or not self._block:  # known, or no gradient has come through the blocks yet
            return
        # Others may be at work on the card.
        total = min(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device), limit or float("inf"))
        # The optimizer's state has come after the peak of the first step, and will stay.
        grown = max(0, torch.cuda.memory_allocated(device) - self._before)
        room = total * (1 - _MARGIN) - torch.cuda.max_memory_allocated(device) - grown
        self.kept = int(max(0, min(self._count - self._first, 1 + room // self._block)))
        torch.cuda.empty_cache()  # pieces of the sizes that computing again has needed

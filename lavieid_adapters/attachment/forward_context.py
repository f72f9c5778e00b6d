"""What a block cannot see of the forward it belongs to: how far the denoising run is, and where the clip's tokens
are."""

import inspect
from collections.abc import Callable

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..hosts.host import Arguments, Host
from .clip_tokens import ClipTokens


class Observer:
    """Reads the arguments of each forward of a transformer, by a pre-hook, until it is closed.

    Args:
        transformer, host: The transformer and its description.
        before: Called with the batch size and the arguments before each forward; says whether the progress is wanted.

    Attributes:
        progress: Fraction of the run that is behind, (1,) or (batch,), on the device of the timesteps.
        clip: Where the clip's tokens are in the stream.
        clock: A function from timesteps (batch,) to the progress, or None if that is not known; then the host's
            description tells it.
    """

    def __init__(self, transformer: nn.Module, host: Host, before: Callable[[int, Arguments], bool]):
        self.host, self.before = host, before
        self.progress: Tensor | None = None
        self.clip = ClipTokens.unknown(host)
        self.clock: Callable[[Tensor], Tensor | None] | None = None
        self._names = list(inspect.signature(type(unwrap_module(transformer)).forward).parameters)[1:]
        self._removable = transformer.register_forward_pre_hook(self._read, with_kwargs=True)

    def close(self) -> None:
        """Stop reading, and let go of what was read."""
        self._removable.remove()
        self.progress, self.clip, self.clock = None, ClipTokens.unknown(self.host), None

    def _read(self, transformer: nn.Module, args: tuple, kwargs: dict) -> None:
        arguments = {**dict(zip(self._names, args, strict=False)), **kwargs}
        latents, timestep = arguments.get(self.host.latents), arguments.get(self.host.timestep)
        self.clip, self.progress = ClipTokens.unknown(self.host), None
        if not isinstance(latents, Tensor):
            return
        self.clip = ClipTokens.of(self.host, transformer, arguments)
        if not self.before(len(latents), arguments) or timestep is None:
            return
        timestep = torch.as_tensor(timestep)
        timestep = self.host.level(timestep.reshape(timestep.shape[0] if timestep.ndim else 1, -1))
        if self.clock is not None:
            self.progress = self.clock(timestep)
        if self.progress is None and self.host.progress is not None:
            self.progress = self.host.progress(timestep.float())

"""What a block cannot see of the forward it belongs to: how far the denoising run is, and the token grid."""

import inspect
from collections.abc import Callable

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from .hosts import Host


class Observer:
    """Reads the arguments of each forward of a transformer, by a pre-hook, until it is closed.

    Args:
        transformer, host: The transformer and its description.
        before: Called with the batch size before each forward; says whether the progress is wanted.

    Attributes:
        progress: Fraction of the run that is behind, (1,) or (batch,), on the device of the timesteps.
        grid: Token grid (frames, height, width); None if the host's description has none.
        timesteps: A function that gives the run's timesteps, first step first, or None if they are not known: then
            progress is 1 - t / 1000.
    """

    def __init__(self, transformer: nn.Module, host: Host, before: Callable[[int], bool]):
        self.host, self.before = host, before
        self.progress: Tensor | None = None
        self.grid: tuple[int, int, int] | None = None
        self.timesteps: Callable[[], Tensor | None] | None = None
        forward = inspect.signature(type(unwrap_module(transformer)).forward)
        self._positions = {name: i - 1 for i, name in enumerate(forward.parameters)}
        self._removable = transformer.register_forward_pre_hook(self._read, with_kwargs=True)

    def close(self) -> None:
        """Stop reading, and let go of what was read."""
        self._removable.remove()
        self.progress = self.grid = self.timesteps = None

    def _argument(self, name: str, args: tuple, kwargs: dict):
        position = self._positions.get(name, len(args))
        return kwargs.get(name, args[position] if position < len(args) else None)

    def _read(self, transformer: nn.Module, args: tuple, kwargs: dict) -> None:
        latents, timestep = (self._argument(name, args, kwargs) for name in ("hidden_states", "timestep"))
        if not isinstance(latents, Tensor):
            return
        self.grid = None if self.host.grid is None else self.host.grid(transformer, tuple(latents.shape))
        self.progress = None
        if not self.before(len(latents)) or timestep is None:
            return
        timestep = torch.as_tensor(timestep).float()
        timestep = timestep.reshape(timestep.shape[0] if timestep.ndim else 1, -1).amax(1)
        run = self.timesteps() if self.timesteps is not None else None
        if run is None:
            self.progress = 1 - timestep / 1000
        else:  # on the device, since reading a number off it would make the host wait; all samples are at one step
            run = run.to(timestep)
            self.progress = (run > timestep[:1, None]).sum(1) / len(run)

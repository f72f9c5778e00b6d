"""What a block cannot see of the forward it belongs to: how far the denoising run is, and the token grid."""

import inspect
from collections.abc import Callable

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from .hosts import Host


class Observer:
    """Reads the arguments of a transformer's forward, by a pre-hook that is there only while something is wanted of it.

    Attributes:
        progress: Fraction of the run that is behind, (batch,) or (1,), on the device of the timesteps.
        grid: Token grid (frames, height, width); None if the host's description has none.
        timesteps: A function that gives the run's timesteps, first step first; without it, progress is 1 - t / 1000.
    """

    def __init__(self, transformer: nn.Module, host: Host):
        self.transformer, self.host = transformer, host
        self.progress: Tensor | None = None
        self.grid: tuple[int, int, int] | None = None
        self.timesteps: Callable[[], Tensor] | None = None
        self._wanted: set[str] = set()
        self._removable = None

    def want(self, what: str, wanted: bool) -> None:
        """Begin or stop to read "progress" or "grid"."""
        (self._wanted.add if wanted else self._wanted.discard)(what)
        if self._wanted and self._removable is None:
            self._removable = self.transformer.register_forward_pre_hook(self._read, with_kwargs=True)
        elif not self._wanted and self._removable is not None:
            self._removable.remove()
            self._removable = None

    def close(self) -> None:
        """Stop reading, and let go of what was read."""
        self.want("progress", False)
        self.want("grid", False)
        self.progress = self.grid = self.timesteps = None

    def _read(self, transformer: nn.Module, args: tuple, kwargs: dict) -> None:
        signature = inspect.signature(type(unwrap_module(transformer)).forward)
        arguments = signature.bind_partial(transformer, *args, **kwargs).arguments
        if "grid" in self._wanted and self.host.grid is not None:
            self.grid = self.host.grid(transformer, tuple(arguments["hidden_states"].shape))
        if "progress" not in self._wanted:
            return
        if torch.is_grad_enabled() and getattr(transformer, "gradient_checkpointing", False):
            # The second call of a checkpointed block may come after the next forward, and would read its progress.
            raise ValueError(
                "A window (start, end) is for inference: under gradient checkpointing set start to 0 and end to 1."
            )
        timestep = torch.as_tensor(arguments["timestep"]).reshape(-1).float()
        if self.timesteps is None:
            self.progress = 1 - timestep / 1000
        else:  # on the device, since reading a number off it would make the host wait
            run = self.timesteps().to(timestep)
            self.progress = (run > timestep[:, None]).sum(1) / len(run)

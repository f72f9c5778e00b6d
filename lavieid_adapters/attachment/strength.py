"""How strongly a router acts: alpha of eq. 3, its share for each component, and the window of the run in which it
acts."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ..models.checks import finite, fraction


def delegated(target: Callable, cls: type, name: str) -> property:
    """A property that is another object's, with its documentation."""

    def get(self):
        return getattr(target(self), name)

    def put(self, value) -> None:
        setattr(target(self), name, value)

    return property(get, put, doc=getattr(cls, name).__doc__)


class Strength:
    """alpha a component, as a tensor: so that neither a change of it nor a window recompiles or makes the host wait.

    Args:
        names: The components' names.
        device: Where the host is, if that is known.
    """

    def __init__(self, names: Sequence[str], device: torch.device | None = None):
        self.names = tuple(names)
        self._scale, self._component_scales = 1.0, dict.fromkeys(self.names, 1.0)
        self._start, self._end = 0.0, 1.0
        self.windowed = False
        self._alpha = torch.ones(1, len(self.names), device=device)
        self._bounds = torch.tensor([0.0, math.inf], device=device)

    @property
    def scale(self) -> float:
        """alpha of eq. 3, any finite number; 0 leaves the host as it is."""
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale = finite("scale", value)
        self._update()

    @property
    def component_scales(self) -> Mapping[str, float]:
        """Strength of each component by name, on top of `scale`; those that are not named when set become 1."""
        return MappingProxyType(self._component_scales)

    @component_scales.setter
    def component_scales(self, scales: Mapping[str, float]) -> None:
        unknown = sorted(set(scales) - set(self.names))
        if unknown:
            raise ValueError(f"No component is called {', '.join(unknown)}: choose from {', '.join(self.names)}.")
        scales = {name: finite(name, value) for name, value in scales.items()}
        self._component_scales = {**dict.fromkeys(self.names, 1.0), **scales}
        self._update()

    @property
    def start(self) -> float:
        """The fraction of the denoising run, from 0 to 1, before which the router does not act.

        The fraction is that of the steps in a pipeline (`attach_lavieid`), of each part for one that makes a video in
        parts; a transformer alone knows only the timestep t, and takes 1 - t / 1000 (t / 1000 where it rises).
        """
        return self._start

    @start.setter
    def start(self, value: float) -> None:
        self._start = fraction("start", value)
        self._update()

    @property
    def end(self) -> float:
        """The fraction of the denoising run from which on the router no longer acts; as `start`."""
        return self._end

    @end.setter
    def end(self, value: float) -> None:
        self._end = fraction("end", value)
        self._update()

    def now(self, like: Tensor, progress: Tensor | None) -> Tensor:
        """alpha a component, (1 or batch, components), on the device of `like`, 0 for samples outside the window.

        Args:
            like: Video tokens, (batch, tokens, width).
            progress: Fraction of the run that is behind, (1,) or (batch,).

        Raises:
            ValueError: If there is a window, but nothing tells the progress.
        """
        alpha, bounds = (t.to(like.device, non_blocking=True) for t in (self._alpha, self._bounds))
        if not torch.compiler.is_compiling():  # a graph that moved them would not fit its own next call
            self._alpha, self._bounds = alpha, bounds
        if not self.windowed:
            return alpha
        if progress is None:
            raise ValueError(
                "A window (start, end) needs a transformer whose forward takes `hidden_states` and `timestep` (or what "
                "its Host says), and a pipeline where these do not tell the progress, as in Cosmos: set start to 0 and "
                "end to 1."
            )
        progress = progress.to(like.device)[: len(like)]  # a cache may run one pass of guidance alone
        inside = (progress >= bounds[0]) & (progress < bounds[1])
        return alpha * inside[:, None]

    def _update(self) -> None:
        device = self._alpha.device
        self.windowed = (self._start, self._end) != (0, 1)
        self._alpha = torch.tensor([[self._scale * s for s in self._component_scales.values()]], device=device)
        # The run's last step is inside a window that ends with the run.
        self._bounds = torch.tensor([self._start, math.inf if self._end == 1 else self._end], device=device)

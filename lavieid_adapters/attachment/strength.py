"""The strength of a router: alpha of eq. 3, its share for each component, and the window of the run it acts in."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ..models.checks import finite, fraction
from ..models.identity import FACIAL_COMPONENTS
from .handle import Handle


def component_names(count: int, names: Sequence[str] | None = None) -> list[str]:
    """Return names for a router's components: those that are given, or `FACIAL_COMPONENTS` for six.

    Raises:
        ValueError: If there are not as many names as components, or if they are not different texts.
    """
    if names is None:
        return list(FACIAL_COMPONENTS) if count == len(FACIAL_COMPONENTS) else [f"component_{i}" for i in range(count)]
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names is {names!r}, but must be a list of texts. Give one for each component.")
    if len(names) != count:
        raise ValueError(f"{len(names)} names for the router's {count} components. Give one for each.")
    if len(set(names)) < count:
        raise ValueError(
            f"names is {list(names)!r}, but no two components may share a name. Give {count} different ones."
        )
    return list(names)


class Strength:
    """The scale alpha of each component, kept as a tensor.

    So neither a change of it nor a window recompiles the host or synchronises with the GPU.

    Args:
        names: The components' names.
        device: Device of the host, if it is known.

    Attributes:
        scale, component_scales, start, end: As in `StrengthSettings`; changed by `set`.
        windowed: Whether the router acts in a part of the run only.
    """

    def __init__(self, names: Sequence[str], device: torch.device | None = None):
        self.names = tuple(names)
        self.scale, self.start, self.end, self.windowed = 1.0, 0.0, 1.0, False
        self.component_scales: Mapping[str, float] = MappingProxyType(dict.fromkeys(self.names, 1.0))
        self._alpha = torch.ones(1, len(self.names), device=device)
        self._bounds = torch.tensor([0.0, math.inf], device=device)

    def set(
        self,
        *,
        scale: float | None = None,
        component_scales: Mapping[str, float] | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> None:
        """Change what is given.

        Raises:
            TypeError, ValueError: If a value is none of its setting; nothing has changed then.
        """
        scale = self.scale if scale is None else finite("scale", scale)
        start = self.start if start is None else fraction("start", start)
        end = self.end if end is None else fraction("end", end)
        scales = self.component_scales if component_scales is None else self._checked(component_scales)
        self.scale, self.component_scales, self.start, self.end = scale, scales, start, end
        self.windowed = (start, end) != (0, 1)
        device = self._alpha.device
        self._alpha = torch.tensor([[scale * share for share in scales.values()]], device=device)
        # The run's last step is inside a window that ends with the run.
        self._bounds = torch.tensor([start, math.inf if end == 1 else end], device=device)

    def _checked(self, scales: Mapping[str, float]) -> Mapping[str, float]:
        if not isinstance(scales, Mapping):
            raise TypeError(f"component_scales is {scales!r}, but must be a dict of numbers by component.")
        unknown = sorted(set(scales) - set(self.names), key=str)
        if unknown:
            raise ValueError(
                f"No component is called {', '.join(map(str, unknown))}. Choose from {', '.join(self.names)}."
            )
        scales = {name: finite(f"component_scales['{name}']", value) for name, value in scales.items()}
        return MappingProxyType({**dict.fromkeys(self.names, 1.0), **scales})

    def now(self, like: Tensor, progress: Tensor | None) -> Tensor:
        """Return alpha of each component, (1 or batch, components), 0 for samples outside the window.

        Args:
            like: Video tokens, (batch, tokens, width); the result is on their device.
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
                "its Host says), and a pipeline where these do not tell the progress, as in Cosmos. Set start to 0 and "
                "end to 1."
            )
        progress = progress.to(like.device)[: len(like)]  # a cache may run one pass of guidance alone
        inside = (progress >= bounds[0]) & (progress < bounds[1])
        return alpha * inside[:, None]

    def check_window(self, transformer: nn.Module) -> None:
        """Check, ahead of a forward of the transformer, that its window can be kept to.

        Raises:
            ValueError: If the window has no end after its start, or under gradient checkpointing.
        """
        # Numbers that a compiled forward reads are compiled into it: a new window would be a new graph.
        if not torch.compiler.is_compiling() and self.start >= self.end:
            raise ValueError(
                f"The window begins at start {self.start}, but ends at end {self.end}. Set start to less than end."
            )
        if torch.is_grad_enabled() and getattr(transformer, "gradient_checkpointing", False):
            # The second call of a checkpointed block may come after the next forward, and would read its progress.
            raise ValueError(
                "A window (start, end) is for inference. Under gradient checkpointing set start to 0 and end to 1."
            )


class StrengthSettings(Handle):
    """A handle with the settings of a router's strength."""

    @property
    def strength(self) -> Strength:
        """Holds the settings; handles of one router may share it."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        """alpha of eq. 3, any finite number; 0 leaves the host as it is."""
        return self.strength.scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._set_strength(scale=value)

    @property
    def component_scales(self) -> Mapping[str, float]:
        """Strength of each component by name, on top of `scale`; those that are not named when set become 1."""
        return self.strength.component_scales

    @component_scales.setter
    def component_scales(self, scales: Mapping[str, float]) -> None:
        self._set_strength(component_scales=scales)

    @property
    def start(self) -> float:
        """The fraction of the denoising run, from 0 to 1, before which the router does not act.

        In a pipeline (`attach_lavieid`) it is the fraction of the steps, of each part for a pipeline that makes a video
        in parts. A transformer alone knows only the timestep t, and takes 1 - t / 1000 (t / 1000 where it rises).
        """
        return self.strength.start

    @start.setter
    def start(self, value: float) -> None:
        self._set_strength(start=value)

    @property
    def end(self) -> float:
        """The fraction of the denoising run from which on the router no longer acts; as `start`."""
        return self.strength.end

    @end.setter
    def end(self, value: float) -> None:
        self._set_strength(end=value)

    def _set_strength(self, **settings) -> None:
        self._need_attached()
        for name, value in settings.items():
            if value is None:  # which `set` takes for a setting that is not given
                raise TypeError(f"{name} is None, but must be set to a value.")
        self.strength.set(**settings)

"""People: each a row of continuous parameters and of discrete styles, all visible."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.identity import FACIAL_COMPONENTS
from .hashing import as_seeds, uniform

# n people

TRAINING_PEOPLE = range(0, 900_000)
TEST_PEOPLE = range(1_000_000, 1_100_000)
EVALUATION_PEOPLE = range(1_000_000, 1_000_064)


class Parameter(NamedTuple):
    """A continuous trait of a person; lengths are in units of half a head's height."""

    name: str
    component: str
    low: float
    high: float


class Style(NamedTuple):
    """A discrete trait of a person, with the odds of each choice."""

    name: str
    component: str
    choices: tuple[str, ...]
    odds: tuple[float, ...]


PARAMETERS = (
    Parameter("brow_thickness", "eyebrows", 0.055, 0.145),
    Parameter("brow_tilt", "eyebrows", -0.28, 0.30),
    Parameter("brow_height", "eyebrows", 0.255, 0.335),
    Parameter("brow_arch", "eyebrows", 0.0, 0.09),
    Parameter("brow_length", "eyebrows", 0.19, 0.29),
    Parameter("brow_lightness", "eyebrows", 0.35, 0.85),
    Parameter("eye_width", "eyes", 0.185, 0.25),
    Parameter("eye_aspect", "eyes", 0.72, 1.04),
    Parameter("eye_spacing", "eyes", 0.315, 0.405),
    Parameter("eye_level", "eyes", -0.09, 0.05),
    Parameter("eye_tilt", "eyes", -0.16, 0.24),
    Parameter("iris_hue", "eyes", 0.0, 1.0),
    Parameter("iris_lightness", "eyes", 0.75, 1.2),
    Parameter("iris_size", "eyes", 0.095, 0.125),
    Parameter("lid", "eyes", 0.0, 0.30),
    Parameter("mouth_width", "mouth", 0.19, 0.34),
    Parameter("upper_lip", "mouth", 0.035, 0.085),
    Parameter("lower_lip", "mouth", 0.045, 0.115),
    Parameter("mouth_level", "mouth", 0.545, 0.64),
    Parameter("lip_hue", "mouth", 0.0, 1.0),
    Parameter("lip_strength", "mouth", 0.25, 0.95),
    Parameter("nose_length", "nose", 0.25, 0.39),
    Parameter("nose_width", "nose", 0.10, 0.19),
    Parameter("nose_bridge", "nose", 0.035, 0.075),
    Parameter("nose_redness", "nose", 0.0, 0.45),
    Parameter("head_width", "skin", 0.70, 0.86),
    Parameter("jaw_width", "skin", 0.62, 1.12),
    Parameter("chin_length", "skin", 0.93, 1.13),
    Parameter("ear_size", "skin", 0.13, 0.21),
    Parameter("skin_lightness", "skin", 0.0, 1.0),
    Parameter("skin_hue", "skin", -1.0, 1.0),
    Parameter("blush", "skin", 0.0, 0.5),
    Parameter("hair_hue", "hair", 0.0, 1.0),
    Parameter("hair_lightness", "hair", 0.75, 1.2),
    Parameter("hair_volume", "hair", 0.08, 0.22),
    Parameter("hairline", "hair", -0.10, 0.08),
    Parameter("hair_length", "hair", -0.12, 0.16),
)

STYLES = (
    Style(
        "hair_style",
        "hair",
        (
            "bald",
            "buzz cut",
            "short",
            "side part",
            "fringe",
            "bob",
            "long",
            "curly",
            "afro",
            "bun",
            "ponytail",
            "two buns",
        ),
        (0.05, 0.06, 0.11, 0.12, 0.11, 0.11, 0.11, 0.09, 0.07, 0.07, 0.06, 0.04),
    ),
    Style("hair_side", "hair", ("left", "right"), (0.5, 0.5)),
    Style("glasses", "eyes", ("none", "round", "square"), (0.72, 0.15, 0.13)),
    Style("freckles", "skin", ("none", "freckles"), (0.82, 0.18)),
    Style("beard", "skin", ("none", "stubble", "beard", "moustache"), (0.70, 0.08, 0.14, 0.08)),
)

_PARAMETERS, _CHANCES = 101, 102  # the streams of random numbers
_COLUMNS = {name: [i for i, p in enumerate(PARAMETERS) if p.component == name] for name in FACIAL_COMPONENTS}
_STYLE_COLUMNS = {name: [i for i, s in enumerate(STYLES) if s.component == name] for name in FACIAL_COMPONENTS}


@dataclass(frozen=True, eq=False)
class People:
    """Drawn persons.

    Attributes:
        values: (n, len(PARAMETERS)) float32 in 0..1, scaled to low..high when drawn.
        styles: (n, len(STYLES)) int64, each the number of a choice.

    Raises:
        ValueError, TypeError: If the fields are no such tensors.
    """

    values: Tensor
    styles: Tensor

    def __post_init__(self):
        for name, value, width, dtype in (
            ("values", self.values, len(PARAMETERS), torch.float32),
            ("styles", self.styles, len(STYLES), torch.int64),
        ):
            if not isinstance(value, Tensor) or value.dtype != dtype:
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"People {name} are {kind}, but must be a tensor of {dtype}.")
            if value.ndim != 2 or value.shape[1] != width:
                raise ValueError(f"People {name} have shape {tuple(value.shape)}, but must be (n, {width}).")
        if len(self.values) != len(self.styles):
            raise ValueError(f"People have {len(self.values)} rows of values and {len(self.styles)} of styles.")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | slice | Tensor) -> "People":
        """Return some of the people, as People; a number gives one person."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"Person {index} of {len(self)} people.")
            index %= len(self)
            index = slice(index, index + 1)
        return People(self.values[index], self.styles[index])

    def to(self, device: torch.device | str) -> "People":
        """Return the same people on another device."""
        return People(self.values.to(device), self.styles.to(device))

    def trait(self, name: str) -> Tensor:
        """Return one parameter as it is drawn: (n,) float32 in its low..high."""
        for i, parameter in enumerate(PARAMETERS):
            if parameter.name == name:
                return parameter.low + (parameter.high - parameter.low) * self.values[:, i]
        raise ValueError(f"There is no parameter {name!r}. Choose one of {', '.join(p.name for p in PARAMETERS)}.")

    def style(self, name: str) -> Tensor:
        """Return one style: (n,) int64, the number of its choice."""
        for i, style in enumerate(STYLES):
            if style.name == name:
                return self.styles[:, i]
        raise ValueError(f"There is no style {name!r}. Choose one of {', '.join(s.name for s in STYLES)}.")

    def with_component(self, name: str, other: "People") -> "People":
        """Return these people with one facial component of others.

        Args:
            name: One of FACIAL_COMPONENTS.
            other: As many people, or one person for all.

        Returns:
            New People.

        Raises:
            ValueError: If the component is unknown, or the numbers of people do not fit.
        """
        if name not in _COLUMNS:
            raise ValueError(f"There is no component {name!r}. Choose one of {', '.join(FACIAL_COMPONENTS)}.")
        if len(other) not in (1, len(self)):
            raise ValueError(f"{len(other)} people cannot lend {name} to {len(self)}. Give as many, or one.")
        values, styles = self.values.clone(), self.styles.clone()
        values[:, _COLUMNS[name]] = other.values[:, _COLUMNS[name]].to(values.device)
        styles[:, _STYLE_COLUMNS[name]] = other.styles[:, _STYLE_COLUMNS[name]].to(styles.device)
        return People(values, styles)

    def mix(self, **components: "People") -> "People":
        """Return these people with several components of others, as in `a.mix(eyes=b, hair=c)`."""
        mixed = self
        for name, other in components.items():
            mixed = mixed.with_component(name, other)
        return mixed


def people(seeds: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> People:
    """Return the people of some seeds; a seed is the same person in every batch and on every device.

    Args:
        seeds: (n,) whole numbers, of TRAINING_PEOPLE or TEST_PEOPLE.
        device: Where to hold them.

    Returns:
        n people.

    Raises:
        TypeError, ValueError: If the seeds are not n whole numbers from 0 on.
    """
    seeds = as_seeds(seeds, device)
    chances = uniform(seeds, len(STYLES), _CHANCES)
    styles = []
    for i, style in enumerate(STYLES):
        total, chosen = 0.0, torch.zeros_like(seeds)
        for odds in style.odds[:-1]:
            total += odds
            chosen += chances[:, i] >= total
        styles.append(chosen)
    return People(uniform(seeds, len(PARAMETERS), _PARAMETERS), torch.stack(styles, 1))

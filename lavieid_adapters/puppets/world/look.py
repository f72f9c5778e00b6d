"""Traits and colours of people under a light, ready to be broadcast over frames."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .palette import HAIR, IRIS, LIPS, SKIN, ramp
from .person import PARAMETERS, STYLES, People

# n people · traits and styles are (n, 1, 1, 1), colours (n, 3, 1, 1, 1)

_STYLE = {style.name: (i, style.choices) for i, style in enumerate(STYLES)}


@dataclass(frozen=True)
class Light:
    """The light: its direction and its colour.

    Attributes:
        x, y, z: (n, 1, 1, 1), of a vector of length 1: right, down, towards the camera.
        colour: (n, 3, 1, 1, 1), that of a white thing in full light.
        shadow: (n, 3, 1, 1, 1), by which full light is multiplied on the side that is turned away.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    colour: Tensor
    shadow: Tensor

    def __getitem__(self, some: slice) -> "Light":
        """Return the light of some of the people."""
        return Light(**{name: value[some] for name, value in vars(self).items()})


class Look:
    """People's traits by name, their styles, and the colours that follow from them under a light."""

    def __init__(self, people: People, light: Light):
        low = torch.tensor([p.low for p in PARAMETERS], device=people.values.device)
        high = torch.tensor([p.high for p in PARAMETERS], device=people.values.device)
        values = torch.lerp(low, high, people.values)
        columns = values[:, :, None, None, None].unbind(1)
        self.trait = {p.name: column for p, column in zip(PARAMETERS, columns, strict=True)}
        self.styles = people.styles
        self.light = light
        flat = {p.name: column for p, column in zip(PARAMETERS, values.unbind(1), strict=True)}

        skin = ramp(SKIN, flat["skin_lightness"])
        hue = flat["skin_hue"][:, None] * skin.new_tensor([0.045, -0.008, -0.055])
        skin = (skin * (1.0 + hue)).clamp(0.0, 1.0)
        hair = (ramp(HAIR, flat["hair_hue"]) * flat["hair_lightness"][:, None]).clamp(0.0, 0.92)
        iris = (ramp(IRIS, flat["iris_hue"]) * flat["iris_lightness"][:, None]).clamp(0.0, 1.0)
        # Lips are the skin's, the redder the stronger; on dark skin they stay darker than the ramp.
        painted = ramp(LIPS, flat["lip_hue"]) * (0.45 + 0.55 * skin.mean(1, keepdim=True))
        natural = skin * skin.new_tensor([0.88, 0.60, 0.60])
        lips = torch.lerp(natural, painted, flat["lip_strength"][:, None])
        brows = hair * flat["brow_lightness"][:, None] * 0.82
        self.skin, self.hair, self.iris = self.lit(skin), self.lit(hair), self.lit(iris)
        self.lips, self.brows = self.lit(lips), self.lit(brows)
        self.white = self.lit(skin.new_tensor([[0.97, 0.97, 0.98]]))
        self.dark = self.lit(skin.new_tensor([[0.13, 0.09, 0.09]]))

    def lit(self, colour: Tensor) -> Tensor:
        """Light a colour (n, 3): (n, 3, 1, 1, 1)."""
        return colour[:, :, None, None, None] * self.light.colour

    def choice(self, name: str) -> Tensor:
        """Return the number of a style's choice: (n,) int64."""
        return self.styles[:, _STYLE[name][0]]

    def is_style(self, name: str, choice: str) -> Tensor:
        """Return whether a style is this choice: (n, 1, 1, 1), 0 or 1."""
        number = _STYLE[name][1].index(choice)
        return (self.choice(name) == number).to(torch.float32)[:, None, None, None]

    def tinted(self, red: float, green: float, blue: float) -> Tensor:
        """Return the skin's colour, each channel times a factor."""
        return self.skin * self.skin.new_tensor([red, green, blue]).view(1, 3, 1, 1, 1)

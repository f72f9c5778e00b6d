"""What brushes of the drawn world are tried on: one small frame, a plain person, a head, and light from the front."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.puppets.world.canvas import Canvas
from lavieid_adapters.puppets.world.head import Head
from lavieid_adapters.puppets.world.head_pose import HeadPose
from lavieid_adapters.puppets.world.look import Light, Look
from lavieid_adapters.puppets.world.motion import Tracks
from lavieid_adapters.puppets.world.person import PARAMETERS, STYLES, People, people

# n people · h w pixels

LABEL = {name: i + 1 for i, name in enumerate(FACIAL_COMPONENTS)}
SIZE = 96
_CALM = {
    "yaw": 0.0, "pitch": 0.0, "roll": 0.0, "x": 0.0, "y": 0.0, "distance": 1.0, "smile": 0.0, "raised": 0.0,
    "frown": 0.0, "wide": 1.0, "eyes": 1.0, "mouth": 0.0, "gaze_x": 0.0, "gaze_y": 0.0, "time": 0.0,
}  # fmt: skip

Brush = Callable[[Canvas, Head, Tracks], None]


def changed(crowd: People, **values: float) -> People:
    """These people with other parameters, 0 to 1."""
    new = crowd.values.clone()
    for name, value in values.items():
        new[:, [p.name for p in PARAMETERS].index(name)] = value
    return People(new, crowd.styles)


def styled(crowd: People, **choices: str) -> People:
    """These people with other styles."""
    styles = crowd.styles.clone()
    for i, style in enumerate(STYLES):
        if style.name in choices:
            styles[:, i] = style.choices.index(choices[style.name])
    return People(crowd.values, styles)


PLAIN = styled(people(range(100, 104)), glasses="none", beard="none", freckles="none", hair_style="short")


def around(mask: Tensor, pixels: int = 1) -> Tensor:
    """The pixels of a mask and those beside them: at an edge, a pixel belongs to what covers more of it."""
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    return torch.nn.functional.max_pool2d(flat, 2 * pixels + 1, 1, pixels).view(mask.shape) > 0


def calm_tracks(n: int = 1, **changes: float) -> Tracks:
    """One frame of a calm face that looks ahead; keywords change what they name."""
    return Tracks(**{name: torch.full((n, 1, 1, 1), value) for name, value in {**_CALM, **changes}.items()})


def front_light(n: int = 1, x: float = 0.0) -> Light:
    """White light from above the camera; `x` moves it to a side."""
    direction = torch.tensor([x, -0.4, 0.65])
    x, y, z = (value.expand(n, 1, 1, 1) for value in direction / direction.norm())
    return Light(x, y, z, torch.ones(n, 3, 1, 1, 1), torch.full((n, 3, 1, 1, 1), 0.6))


def head_of(crowd: People = PLAIN[:1], light: Light | None = None, **tracks: float) -> tuple[Canvas, Head, Tracks]:
    """A grey canvas, and the heads of some people on it, not yet painted."""
    moved = calm_tracks(len(crowd), **tracks)
    grid = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    colour = torch.full((len(crowd), 3, 1, SIZE, SIZE), 0.5)
    labels = torch.zeros(len(crowd), 1, SIZE, SIZE, dtype=torch.uint8)
    canvas = Canvas(colour, labels, grid[None, None, None, :], grid[None, None, :, None], SIZE)
    return canvas, Head(canvas, HeadPose(moved, SIZE), Look(crowd, light or front_light(len(crowd)))), moved


class Picture(NamedTuple):
    """A painted frame of one person: colours (3, h, w), 0 to 1, and labels (h, w)."""

    colour: Tensor
    labels: Tensor

    def where(self, component: str) -> Tensor:
        """The pixels of a component, (h, w), bool."""
        return self.labels == LABEL[component]

    def middle(self, component: str) -> tuple[float, float]:
        """Column and row of a component's middle."""
        rows, columns = torch.nonzero(self.where(component), as_tuple=True)
        return columns.float().mean().item(), rows.float().mean().item()

    def differs(self, other: "Picture", by: float = 0.01) -> Tensor:
        """The pixels (h, w) of which a colour differs."""
        return (self.colour - other.colour).abs().amax(0) > by


def skin(canvas: Canvas, head: Head, tracks: Tracks) -> None:
    """The brush under all others: the bare face."""
    head.paint_skin(canvas)


def paint(*brushes: Brush, crowd: People = PLAIN[:1], light: Light | None = None, **tracks: float) -> Picture:
    """Paint one person by some brushes, one after the other."""
    canvas, head, moved = head_of(crowd, light, **tracks)
    for brush in brushes:
        brush(canvas, head, moved)
    return Picture(canvas.colour[0, :, 0], canvas.labels[0, 0])

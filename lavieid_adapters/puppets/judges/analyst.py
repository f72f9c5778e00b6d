"""The judge of what a frame of the drawn world shows: its components, and of each what it looks like; the scene, the
expression and the pose."""

# b batch · h w pixels · k classes of a component map · m components · p parameters · c d channels · e signs of motion

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ...faces.components import NUM_CLASSES
from ...models.identity import FACIAL_COMPONENTS
from ..networks import UNet, check_images, pooled
from ..world.grammar import EXPRESSIONS, SCENES
from ..world.person import PARAMETERS, STYLES

# What the world was when an analyst was trained. It is part of its config: numbers mean nothing in another world.
_PARAMETERS = tuple((p.name, p.component, p.low, p.high) for p in PARAMETERS)
_STYLES = tuple((s.name, s.component, tuple(s.choices)) for s in STYLES)

POSE = 6
_MOMENTS = 6
_M = len(FACIAL_COMPONENTS)
_EXPRESSIVE = [FACIAL_COMPONENTS.index(name) for name in ("eyebrows", "eyes", "mouth", "skin")]


@dataclass
class Analysis:
    """The readings of an analyst in frames.

    Attributes:
        maps: Logits of the component maps, (b, k, h, w).
        values: Parameters of the person, (b, p), 0 to 1; without meaning where the component is not visible.
        styles: One (b, choices) of logits for each style.
        scene, expression: Logits, (b, scenes) and (b, expressions).
        pose: (b, 6): yaw, pitch, roll in radians; x and y in units of the picture; distance.
        subject, background: Features of the person and of what is beside and above, (b, d).
        signs: What a motion may be told by, beside the pose, (b, e).
    """

    maps: Tensor
    values: Tensor
    styles: list[Tensor]
    scene: Tensor
    expression: Tensor
    pose: Tensor
    subject: Tensor
    background: Tensor
    signs: Tensor


class Analyst(ModelMixin, ConfigMixin):
    """A U-Net for the component map; each component's parameters are then read from features pooled inside it.

    Args:
        size: Side of its pictures, a multiple of 16.
        widths: Channels of the U-Net's five scales.
        hidden: Width of the heads.
        parameters: Name, component, low and high of each parameter of the world that it knows.
        styles: Name, component and choices of each style.
        scenes, expressions: Their names.

    Raises:
        ValueError: If it knows another world than that of this version.
    """

    @register_to_config
    def __init__(
        self,
        size: int = 96,
        widths: tuple[int, ...] = (16, 32, 48, 64, 96),
        hidden: int = 64,
        parameters: tuple = _PARAMETERS,
        styles: tuple = _STYLES,
        scenes: tuple[str, ...] = SCENES,
        expressions: tuple[str, ...] = EXPRESSIONS,
    ):
        super().__init__()
        check_world("parameters", parameters, _PARAMETERS)
        check_world("styles", styles, _STYLES)
        check_world("scenes", scenes, SCENES)
        check_world("expressions", expressions, EXPRESSIONS)
        self.unet = UNet(tuple(widths))
        self.to_maps = nn.Conv2d(widths[0], NUM_CLASSES, 1)
        seen = sum(widths[:3])
        relative = _M * _MOMENTS
        self._columns = [[i for i, p in enumerate(parameters) if p[1] == name] for name in FACIAL_COMPONENTS]
        self._style_columns = [[i for i, s in enumerate(styles) if s[1] == name] for name in FACIAL_COMPONENTS]
        self._choices = [len(s[2]) for s in styles]
        self.looks = nn.ModuleList(
            _head(
                seen + relative + POSE,
                hidden,
                len(columns) + sum(self._choices[i] for i in style_columns),
            )
            for columns, style_columns in zip(self._columns, self._style_columns, strict=True)
        )
        self.to_pose = _head(widths[-1] + 2 * relative, hidden, POSE)
        self.to_expression = _head(len(_EXPRESSIVE) * seen + relative + POSE, hidden, len(expressions))
        dim = widths[2] + widths[3]
        self.to_scene = nn.Linear(dim, len(scenes))
        # Features of different frames all share one large mean, beside which cosines say little: it is taken away.
        for name in ("subject", "background"):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_std", torch.ones(dim))

    @property
    def num_signs(self) -> int:
        """The number e of signs of motion."""
        return 2 * _M * _MOMENTS + len(self.config.expressions)

    def forward(self, images: Tensor) -> Analysis:
        """Read frames.

        Args:
            images: (b, 3, size, size), -1 to 1.

        Raises:
            ValueError: If the shape does not fit.
        """
        check_images(images, self.config.size, "this analyst")
        encoded, decoded = self.unet(images)
        maps = self.to_maps(decoded[0])
        # Places are read to a fraction of a pixel, for which half precision has too few digits.
        with torch.autocast(images.device.type, enabled=False):
            return self._read(maps.float(), [x.float() for x in encoded], [x.float() for x in decoded])

    def _read(self, maps: Tensor, encoded: list[Tensor], decoded: list[Tensor]) -> Analysis:
        # Detached: what the components look like must not move their borders.
        regions = maps.detach().softmax(dim=1)[:, 1:]
        absolute, relative = _moments(regions)
        seen = torch.cat([pooled(features, regions) for features in decoded[:3]], dim=-1)

        pose = self.to_pose(torch.cat([decoded[-1].mean((2, 3)), absolute, relative], dim=1))
        turned = torch.cat([relative, pose.detach()], dim=1)
        values, styles = self._traits(seen, turned)
        expression = self.to_expression(torch.cat([seen[:, _EXPRESSIVE].flatten(1), turned], dim=1))

        inside = regions.sum(dim=1, keepdim=True)
        places = torch.cat([inside, background_region(inside)], dim=1)
        subject, background = torch.cat([pooled(features, places) for features in encoded[2:4]], dim=-1).unbind(1)
        return Analysis(
            maps=maps,
            values=values,
            styles=styles,
            scene=self.to_scene(background),
            expression=expression,
            pose=pose,
            subject=(subject - self.subject_mean) / self.subject_std,
            background=(background - self.background_mean) / self.background_std,
            signs=torch.cat([absolute, relative, expression.detach().softmax(dim=1)], dim=1),
        )

    def _traits(self, seen: Tensor, turned: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Read values and logits of styles, each from the features (b, m, c) of its own component and from where the
        components are, (b, d)."""
        values: list[Tensor | None] = [None] * len(self.config.parameters)
        styles: list[Tensor | None] = [None] * len(self._choices)
        for i, head in enumerate(self.looks):
            columns, style_columns = self._columns[i], self._style_columns[i]
            sizes = [1] * len(columns) + [self._choices[j] for j in style_columns]
            read = head(torch.cat([seen[:, i], turned], dim=1)).split(sizes, dim=1)
            for column, value in zip(columns, read[: len(columns)], strict=True):
                values[column] = value.sigmoid()
            for column, value in zip(style_columns, read[len(columns) :], strict=True):
                styles[column] = value
        return torch.cat(values, dim=1), styles

    @torch.no_grad()
    def standardise(self, subject: Tensor, background: Tensor) -> None:
        """Scale the features so that these, (n, d) as `forward` gives them, have mean 0 and standard deviation 1."""
        for name, features in (("subject", subject.float()), ("background", background.float())):
            mean, std = getattr(self, f"{name}_mean"), getattr(self, f"{name}_std")
            mean += std * features.mean(0)
            std *= features.std(0).clamp(min=1e-3)


def background_region(inside: Tensor) -> Tensor:
    """Return where the background is, which no map tells from neck and clothes: outside a box around the head with some
    margin, above the chin, and in the upper part of the picture, which shoulders do not reach.

    Args:
        inside: How much of a pixel the head takes, (b, 1, h, w), 0 to 1.

    Returns:
        (b, 1, h, w), 0 or 1, and a trace everywhere, which decides where a head fills the picture or there is none.
    """
    head = inside > 0.5
    columns, rows = head.any(dim=2, keepdim=True).float(), head.any(dim=3, keepdim=True).float()
    margin = inside.shape[-1] // 16
    beside = F.max_pool2d(columns, (1, 2 * margin + 1), 1, (0, margin)) == 0
    over = F.max_pool2d(rows, (2 * margin + 1, 1), 1, (margin, 0)) == 0
    above_chin = rows.flip(2).cumsum(dim=2).flip(2) > 0
    upper = torch.linspace(0, 1, inside.shape[-2], device=inside.device)[:, None] < 0.6
    return ((beside | over) & above_chin & upper).float() + 1e-3


def check_world(what: str, known: tuple, now: tuple) -> None:
    """Raise if a network was trained in another world.

    Raises:
        ValueError: If `known`, from its config, is not what the world has `now`.
    """
    known, now = _lists(known), _lists(now)
    if known != now:
        differ = [item for item in known if item not in now] + [item for item in now if item not in known]
        raise ValueError(
            f"This network knows {len(known)} {what} of the drawn world, which now has {len(now)}; they differ in "
            f"{differ[:3] or 'their order'}. Train it again with benchmarks/puppets/train_sight.py."
        )


def _lists(value):
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _head(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, out))


def _moments(regions: Tensor) -> tuple[Tensor, Tensor]:
    """Return size, place, spread and slant of each region (b, m, h, w), 0 to 1: in the picture, and relative to the
    whole of them; each (b, 6 m). A region that is not there has zeros."""
    h, w = regions.shape[2:]
    y, x = (torch.linspace(-1, 1, side, device=regions.device) for side in (h, w))
    axes = torch.stack([torch.ones(h, w, device=regions.device), *torch.meshgrid(x, y, indexing="xy")])
    powers = torch.stack([*axes, axes[1] ** 2, axes[2] ** 2, axes[1] * axes[2]]).flatten(1)
    sums = torch.einsum("bmn,kn->bmk", regions.flatten(2), powers) / (h * w)
    whole = sums.sum(dim=1, keepdim=True)

    def central(sums: Tensor) -> tuple[Tensor, ...]:
        area = sums[..., 0]
        mean = sums[..., 1:] / (area[..., None] + 1e-4)
        mx, my = mean[..., 0], mean[..., 1]
        spread = [(second - first**2).clamp(min=0).sqrt() for second, first in ((mean[..., 2], mx), (mean[..., 3], my))]
        return area, mx, my, *spread, mean[..., 4] - mx * my

    area, mx, my, sx, sy, slant = central(sums)
    there = area / (area + 1e-4)
    total, cx, cy, *_ = central(whole)
    scale = total.sqrt() + 0.05
    absolute = torch.stack([area.sqrt(), mx, my, sx, sy, 4 * slant], dim=-1)
    moved = [(mx - cx) * there / scale, (my - cy) * there / scale]
    relative = torch.stack([area.sqrt() / scale, *moved, sx / scale, sy / scale, slant / scale**2], dim=-1)
    return absolute.flatten(1), relative.flatten(1)

"""The judges of the drawn world together: what they say of videos, frame by frame. They share nothing with the models
that the conditioning sees by."""

# n videos · f frames · h w pixels · m components · p parameters · s styles · d channels

import os
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from ...faces.components import NUM_CLASSES
from ...models.identity import FACIAL_COMPONENTS
from ..networks import to_network
from ..pipeline import weights_folder
from ..world.person import PARAMETERS, People
from .analyst import Analyst
from .motion_reader import MotionReader
from .recognizer import Recognizer

FOLDERS = {"recognizer": Recognizer, "analyst": Analyst, "motion": MotionReader}

# Shares of a picture. A head as far away as motions take it has twice as much skin, and eyes or a mouth twice as large.
MIN_SKIN, MIN_FEATURE = 0.02, 0.001
MIN_VISIBLE = 0.0008  # under which a component's parameters cannot be read: 8 pixels of 96 × 96


@dataclass
class Verdict:
    """The verdict of the judges on videos.

    Attributes:
        embeddings: Who each frame shows, (n, f, 128), of length 1; without meaning where there is no face.
        face: Whether a frame shows a face, (n, f), bool; see `has_face`.
        maps: Components as they are parsed, (n, f, h, w), uint8: 0 for none, 1 to 6.
        visible: Whether a component is large enough for its parameters to be read, (n, f, m), bool.
        values: (n, f, p), 0 to 1.
        styles: (n, f, s), int64.
        scene, motion, expression: What the whole video shows, (n,), int64; scene and expression by the mean of the
            frames' logits.
        pose: (n, f, 6).
        subject, background: Features for `temporal_consistency`, (n, f, d).
    """

    embeddings: Tensor
    face: Tensor
    maps: Tensor
    visible: Tensor
    values: Tensor
    styles: Tensor
    scene: Tensor
    motion: Tensor
    expression: Tensor
    pose: Tensor
    subject: Tensor
    background: Tensor

    @property
    def prompts(self) -> Tensor:
        """Numbers of the scene, the motion and the expression, (n, 3), as `Clips.prompts`."""
        return torch.stack([self.scene, self.motion, self.expression], dim=1)

    def to(self, device: str | torch.device) -> "Verdict":
        return Verdict(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def component_errors(self, people: People) -> Tensor:
        """Measure how far each component is from that of the person whom a video should show: the mean absolute error
        of its parameters, over the frames that show a face and the component.

        Args:
            people: One a video.

        Returns:
            (n, m), in units of the parameters' ranges; NaN where no frame shows the component.

        Raises:
            ValueError: If there are not as many people as videos.
        """
        if len(people) != len(self.values):
            raise ValueError(f"{len(people)} people for {len(self.values)} videos. Give one a video.")
        wrong = (self.values - people.values.to(self.values.device)[:, None]).abs()
        counted = (self.visible & self.face[..., None]).float()
        errors = []
        for i, name in enumerate(FACIAL_COMPONENTS):
            columns = [j for j, parameter in enumerate(PARAMETERS) if parameter.component == name]
            each = wrong[..., columns].mean(dim=-1)
            errors.append((each * counted[..., i]).sum(dim=1) / counted[..., i].sum(dim=1))
        return torch.stack(errors, dim=1)


class Judges:
    """A recogniser, an analyst and a reader of motions, in evaluation mode and float32."""

    def __init__(self, recognizer: Recognizer, analyst: Analyst, motion: MotionReader):
        self.recognizer, self.analyst, self.motion = (
            m.eval().requires_grad_(False) for m in (recognizer, analyst, motion)
        )
        if motion.config.signs != analyst.num_signs:
            raise ValueError(
                f"The reader of motions takes {motion.config.signs} signs, but this analyst gives {analyst.num_signs}. "
                "Load two that were trained together."
            )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike | None = None) -> "Judges":
        """Load the judges that were trained in the drawn world.

        Args:
            folder: One with `recognizer/`, `analyst/` and `motion/`, other than the package's.

        Raises:
            FileNotFoundError: If one of the three is missing, or the package's weights are.
            ValueError: If they were trained in another drawn world.
        """
        folder = weights_folder() / "judges" if folder is None else Path(folder)
        missing = [name for name in FOLDERS if not (folder / name / "config.json").is_file()]
        if missing:
            raise FileNotFoundError(
                f"'{folder}' has no {' and no '.join(missing)}. Give the folder that benchmarks/puppets/train_sight.py "
                "wrote."
            )
        # The files may hold half precision.
        models = {
            name: model.from_pretrained(folder / name, torch_dtype=torch.float32) for name, model in FOLDERS.items()
        }
        return cls(**models)

    def to(self, device: str | torch.device) -> "Judges":
        for model in (self.recognizer, self.analyst, self.motion):
            model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.recognizer.device

    @torch.no_grad()
    def embed(self, pictures: Tensor, batch: int = 256) -> Tensor:
        """Embed whom pictures show, whether reference photos or frames.

        Args:
            pictures: (n, 3, h, w), uint8, square; resized to the recogniser's 96 × 96 if they are not.
            batch: Pictures at a time.

        Returns:
            (n, 128) of length 1, float32, on the judges' device.

        Raises:
            ValueError: If they are no such pictures.
        """
        size = self.recognizer.config.size
        return torch.cat([self.recognizer(to_network(part.to(self.device), size)) for part in pictures.split(batch)])

    @torch.no_grad()
    def judge(self, video: Tensor, batch: int = 256) -> Verdict:
        """Judge what videos show.

        Args:
            video: (n, f, 3, 96, 96), uint8, on any device.
            batch: Frames at a time.

        Returns:
            The verdict, on the judges' device.

        Raises:
            ValueError: If it is no such video.
        """
        size = self.analyst.config.size
        if video.ndim != 5 or video.dtype != torch.uint8 or video.shape[2:] != (3, size, size):
            raise ValueError(
                f"video is {video.dtype} of shape {tuple(video.shape)}, but must be uint8 of (videos, frames, 3, "
                f"{size}, {size})."
            )
        parts = [self._frames(frames.to(self.device)) for frames in video.flatten(0, 1).split(batch)]
        f = video.shape[1]
        joined = {name: torch.cat([part[name] for part in parts]).unflatten(0, (-1, f)) for name in parts[0]}
        signs = joined.pop("signs")
        whole = {name: joined.pop(name).mean(dim=1).argmax(dim=1) for name in ("scene", "expression")}
        motion = torch.cat(
            [self.motion(*x).argmax(dim=1) for x in zip(joined["pose"].split(batch), signs.split(batch), strict=True)]
        )
        return Verdict(**joined, **whole, motion=motion)

    def _frames(self, frames: Tensor) -> dict[str, Tensor]:
        """Judge single frames (b, 3, h, w), uint8; of what only a whole video decides, give the logits."""
        images = to_network(frames, self.analyst.config.size)
        read = self.analyst(images)
        maps = read.maps.argmax(dim=1).to(torch.uint8)
        return {
            "embeddings": self.recognizer(images),
            "face": has_face(maps),
            "maps": maps,
            "visible": shares(maps) >= MIN_VISIBLE,
            "values": read.values,
            "styles": torch.stack([logits.argmax(dim=1) for logits in read.styles], dim=1),
            "pose": read.pose,
            "subject": read.subject,
            "background": read.background,
            "scene": read.scene,
            "expression": read.expression,
            "signs": read.signs,
        }


def shares(maps: Tensor) -> Tensor:
    """Return the share of each map (..., h, w), uint8, that each component takes: (..., m), float32."""
    return torch.stack([(maps == i).float().mean(dim=(-2, -1)) for i in range(1, NUM_CLASSES)], dim=-1)


def has_face(maps: Tensor) -> Tensor:
    """Return whether a parsed picture has a face: at least 2 % of it skin, and 0.1 % eyes or 0.1 % mouth.

    Args:
        maps: (..., h, w), uint8, 0 to 6.

    Returns:
        (...), bool.
    """
    share = dict(zip(FACIAL_COMPONENTS, shares(maps).unbind(-1), strict=True))
    return (share["skin"] >= MIN_SKIN) & ((share["eyes"] >= MIN_FEATURE) | (share["mouth"] >= MIN_FEATURE))

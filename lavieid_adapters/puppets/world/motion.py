"""Movement, blinks, speech and expression of a head over a clip, as smooth functions of time."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .grammar import EXPRESSIONS, MOTIONS
from .shapes import bump, smoothstep

# n clips · f frames · every track is (n, f, 1, 1), to be broadcast over the rows and columns of pictures

# Of each expression: corners of the mouth up, brows up, brows' inner ends down, eyes open, mouth open, mouth wide.
_EXPRESSION = {
    "neutral": (0.05, 0.0, 0.0, 1.0, 0.0, 1.0),
    "smiling": (1.0, 0.025, -0.02, 0.86, 0.13, 1.18),
    "surprised": (0.0, 0.12, -0.04, 1.22, 0.62, 0.74),
    "angry": (-0.5, -0.055, 0.26, 0.84, 0.0, 0.92),
    "sad": (-0.95, 0.02, -0.26, 0.80, 0.0, 0.90),
}


@dataclass(frozen=True)
class Tracks:
    """All that changes over time.

    Attributes:
        yaw, pitch, roll: Radians; positive turns to the right of the picture, looks up, tilts clockwise.
        x, y: Where the head would be without roll, from the picture's centre, in units of the picture.
        distance: 1 is the usual one; the picture of the head is in inverse proportion to it.
        smile, raised, frown, wide: Corners of the mouth up, brows up, inner ends of the brows down, mouth wide.
        eyes: 0 closed to 1 open and above.
        mouth: 0 closed to 1 wide open.
        gaze_x, gaze_y: Of the eyes, -1..1.
        time: Seconds.
    """

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    x: Tensor
    y: Tensor
    distance: Tensor
    smile: Tensor
    raised: Tensor
    frown: Tensor
    wide: Tensor
    eyes: Tensor
    mouth: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    time: Tensor

    def __getitem__(self, some: slice) -> "Tracks":
        """Return the tracks of some of the clips."""
        return Tracks(**{name: value[some] if len(value) > 1 else value for name, value in vars(self).items()})


def _expressions(numbers: Tensor) -> tuple[Tensor, ...]:
    table = torch.tensor([_EXPRESSION[name] for name in EXPRESSIONS], device=numbers.device)
    return tuple(table[numbers].T[:, :, None, None, None])


def clip_tracks(r: Tensor, motion: Tensor, expression: Tensor, frames: int, fps: float, seconds: float) -> Tracks:
    """Move the heads of clips.

    Args:
        r: (n, >= 24) random numbers in 0..1.
        motion, expression: (n,) int64.
        frames: How many frames to draw; a motion takes `seconds`, of which these are the first.
        fps: Frames a second.
        seconds: How long a motion takes.

    Returns:
        Tracks of (n, frames, 1, 1).
    """
    r = r[:, :, None, None, None].unbind(1)
    time = torch.arange(frames, device=motion.device, dtype=torch.float32)[None, :, None, None] / fps
    t = time / seconds
    is_ = {name: (motion == i).to(torch.float32)[:, None, None, None] for i, name in enumerate(MOTIONS)}
    smile, raised, frown, eyes, mouth, wide = _expressions(expression)
    pi2 = 2.0 * math.pi

    def sway(i: int, amplitude: float, period: float) -> Tensor:
        return amplitude * torch.sin(pi2 * (time / (period * (0.85 + 0.3 * r[i])) + r[i + 1]))

    # A motion begins from rest and comes to rest.
    ease = smoothstep(0.0, 0.16, t) * smoothstep(0.0, 0.12, 1.03 - t)
    swing = torch.sin(pi2 * (1.7 + 0.5 * r[0]) * t)
    nod = 0.5 - 0.5 * torch.cos(pi2 * (2.4 + 0.9 * r[0]) * t)
    lean = torch.sin(pi2 * (0.95 + 0.3 * r[0]) * t)
    travel = smoothstep(0.04, 0.96, t)
    either = torch.where(r[1] < 0.5, -1.0, 1.0)
    step = torch.sin(pi2 * 1.9 * time + pi2 * r[2])
    walking = is_["approach"] + is_["retreat"] + is_["cross"]
    strength = 0.85 + 0.3 * r[3]
    quiet = 1.0 - 0.75 * (is_["turn"] + is_["cross"])

    up = is_["look_up"] * smoothstep(0.08, 0.38, t) * (1.0 - 0.25 * smoothstep(0.85, 1.0, t)) * strength
    turned = is_["turn"] * (1.08 * travel - 0.54) * (0.9 + 0.1 * r[3])
    crossed = is_["cross"] * either * (0.36 * travel - 0.18)
    yaw = quiet * (0.28 * (r[4] - 0.5) + sway(5, 0.035, 3.6)) + turned + 0.37 * ease * strength * swing * is_["shake"]
    yaw = yaw + 0.34 * either * is_["cross"]
    pitch = 0.12 * (r[7] - 0.5) + sway(8, 0.02, 2.9) - 0.36 * ease * strength * nod * is_["nod"] + 0.40 * up
    roll = 0.10 * (r[10] - 0.5) + sway(11, 0.018, 4.3) + 0.34 * ease * strength * lean * is_["tilt"]
    roll = roll + 0.02 * step * walking

    spread = 0.07 * (1.0 - is_["cross"])
    x = spread * (r[13] - 0.5) + sway(14, 0.006, 4.7) + crossed + 0.012 * step * (is_["approach"] + is_["retreat"])
    y = 0.025 * (r[16] - 0.5) - 0.02 - 0.011 * step.abs() * walking
    distance = 0.97 + 0.12 * r[17] + walking * 0.03
    near, far = 0.86, 1.36
    closer = is_["approach"] * (far + (near - far) * travel) + is_["retreat"] * (near + (far - near) * travel)
    moved = is_["approach"] + is_["retreat"]
    distance = distance * (1.0 - moved) + closer * moved

    blink = bump((t - 0.12 - 0.3 * r[18]) / 0.06) + bump((t - 0.55 - 0.35 * r[19]) / 0.06)
    syllables = torch.sin(pi2 * (2.1 * time + r[20])) * (0.62 + 0.38 * torch.sin(pi2 * (0.83 * time + r[21])))
    speech = is_["talk"] * ease * (0.30 + 0.42 * syllables).clamp(min=0.0)
    look = 0.35 * torch.sin(pi2 * (0.21 * time + r[22]))
    return Tracks(
        yaw=yaw,
        pitch=pitch + 0.05 * is_["talk"] * syllables,
        roll=roll,
        x=x,
        y=y,
        distance=distance,
        smile=smile + 0 * t,
        raised=raised + 0.03 * up + 0.02 * speech,
        frown=frown + 0 * t,
        wide=wide * (1.0 - 0.22 * speech),
        eyes=eyes * (1.0 - blink.clamp(max=1.0)),
        mouth=mouth + speech * (1.0 - 0.5 * mouth),
        gaze_x=look * (1.0 - is_["shake"]) - 0.5 * yaw * is_["shake"],
        gaze_y=-0.55 * up - 0.1 + 0.2 * r[23],
        time=time,
    )


def photo_tracks(r: Tensor) -> Tracks:
    """Pose the heads of reference photos: towards the camera within 25 degrees, neutral or smiling.

    Args:
        r: (n, >= 10) random numbers in 0..1.

    Returns:
        Tracks of (n, 1, 1, 1).
    """
    r = r[:, :, None, None, None].unbind(1)
    smiling = (r[0] < 0.5).to(torch.float32)
    none = torch.zeros_like(r[0])
    return Tracks(
        yaw=0.76 * (r[1] - 0.5),
        pitch=0.24 * (r[2] - 0.5),
        roll=0.22 * (r[3] - 0.5),
        x=0.05 * (r[4] - 0.5),
        y=0.03 * (r[5] - 0.5) - 0.005,
        distance=0.88 + 0.16 * r[6],
        smile=0.05 + 0.8 * smiling,
        raised=none,
        frown=none,
        wide=1.0 + 0.14 * smiling,
        eyes=1.0 - 0.1 * smiling,
        mouth=0.12 * smiling * (r[7] < 0.5),
        gaze_x=0.3 * (r[8] - 0.5),
        gaze_y=none,
        time=none,
    )

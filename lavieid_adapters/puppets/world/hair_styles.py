"""The shapes of the hair styles, in numbers."""

import torch
from torch import Tensor

from .person import STYLES

# n people; lengths in units of half a head's height

_PLAIN = {
    "volume": 0.0,  # beyond the person's own
    "line": -0.55,  # where the opening begins: -1 the crown, 0 the middle
    "curve": 0.0,  # how fast it comes down to the sides
    "slant": 0.0,  # towards one side
    "part": 0.0,  # how far from the middle the hair is parted
    "least": -0.80,  # above which it never begins
    "strands": 0.0,  # how deep the fringe is cut into
    "opening": 0.84,  # how far to the sides the opening reaches
    "end": 0.12,  # how far down the hair goes
    "drop": 0.0,  # whether it falls straight down from the widest part: 0 or 1
    "curl": 0.0,  # of the outline
    "back": 1.0,  # whether some is seen behind the head
    "dense": 1.0,  # 0 if there is none, 1 if no skin shines through
    "casts": 1.0,  # whether it throws a shadow on the face
    "blob": 0.0,  # whether there is a bun or a tail; where, how large, how bent
    "blob_x": 0.0,
    "blob_y": 0.0,
    "blob_wide": 0.3,
    "blob_high": 0.3,
    "bow": 0.0,
    "lean": 0.0,
    "behind": 0.3,  # how far behind the middle of the head
    "pair": 0.0,  # whether there is one on each side
}
_BUN = {"blob": 1.0, "blob_y": -1.26, "blob_wide": 0.36, "blob_high": 0.27, "behind": 0.15}
_TAIL = {"blob": 1.0, "blob_x": 0.98, "blob_y": 0.20, "blob_wide": 0.23, "blob_high": 0.86, "bow": 0.28, "lean": 0.10}
_STYLES = {
    "bald": {"volume": -0.5, "dense": 0.0, "back": 0.0, "casts": 0.0},
    "buzz cut": {"volume": -0.09, "line": -0.52, "curve": 0.10, "end": 0.02, "dense": 0.62, "back": 0.0, "casts": 0.0},
    "short": {"volume": 0.02, "line": -0.50, "curve": -0.10, "curl": 0.012},
    "side part": {"volume": 0.04, "line": -0.60, "slant": 0.34, "part": 0.35, "least": -0.66, "end": 0.14},
    "fringe": {
        "volume": 0.03,
        "line": -0.38,
        "curve": 0.06,
        "strands": 0.022,
        "opening": 0.80,
        "end": 0.34,
        "curl": 0.010,
    },
    "bob": {
        "volume": 0.06,
        "line": -0.41,
        "curve": 0.10,
        "slant": 0.08,
        "strands": 0.015,
        "opening": 0.74,
        "end": 0.88,
        "drop": 1.0,
    },
    "long": {"volume": 0.02, "line": -0.62, "curve": 0.50, "slant": 0.10, "opening": 0.74, "end": 1.95, "drop": 1.0},
    "curly": {"volume": 0.12, "line": -0.50, "curve": 0.25, "opening": 0.76, "end": 0.95, "drop": 1.0, "curl": 0.045},
    "afro": {"volume": 0.24, "line": -0.50, "opening": 0.76, "end": 0.55, "curl": 0.030},
    "bun": {"volume": -0.01, "line": -0.58, "curve": 0.15, "opening": 0.88, "end": 0.08, **_BUN},
    "ponytail": {"line": -0.56, "curve": 0.10, "slant": 0.15, "opening": 0.86, **_TAIL},
    "two buns": {
        "line": -0.54,
        "curve": 0.20,
        "opening": 0.86,
        "end": 0.10,
        **_BUN,
        "blob_x": 0.70,
        "blob_y": -0.92,
        "blob_wide": 0.31,
        "pair": 1.0,
    },
}
_CHOICES = next(style.choices for style in STYLES if style.name == "hair_style")
_TABLE = [list((_PLAIN | _STYLES[name]).values()) for name in _CHOICES]


def hair_shapes(choices: Tensor) -> dict[str, Tensor]:
    """Look up the numbers of people's hair styles.

    Args:
        choices: (n,) int64, numbers of the style "hair_style".

    Returns:
        (n, 1, 1, 1) float32 by name.
    """
    rows = torch.tensor(_TABLE, device=choices.device)[choices]
    return dict(zip(_PLAIN, rows[:, :, None, None, None].unbind(1), strict=True))

"""A drawn world in which identity, components and motion are known exactly, with a small CogVideoX trained in it.

Public are the names of `__all__`, loaded when they are first used. The room may import anything but `training`, `cli`,
`app` and `comfyui`, and nothing but `cli` and `app` imports it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline import load_pipeline, weights_folder
    from .sight.reading import reading_parts
    from .world.draw import draw_clips, draw_photos
    from .world.grammar import caption
    from .world.person import EVALUATION_PEOPLE, TEST_PEOPLE, TRAINING_PEOPLE, People, people

# Public name → the module that defines it. None is a module's: importing the module would put it in the name's place.
_HOME = {
    "EVALUATION_PEOPLE": "world.person",
    "TEST_PEOPLE": "world.person",
    "TRAINING_PEOPLE": "world.person",
    "People": "world.person",
    "caption": "world.grammar",
    "draw_clips": "world.draw",
    "draw_photos": "world.draw",
    "load_pipeline": "pipeline",
    "people": "world.person",
    "reading_parts": "sight.reading",
    "weights_folder": "pipeline",
}

# As a literal, which type checkers read.
__all__ = [
    "EVALUATION_PEOPLE",
    "TEST_PEOPLE",
    "TRAINING_PEOPLE",
    "People",
    "caption",
    "draw_clips",
    "draw_photos",
    "load_pipeline",
    "people",
    "reading_parts",
    "weights_folder",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""A drawn world in which identity, components and motion are known exactly, with a small CogVideoX trained in it."""

import importlib

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
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

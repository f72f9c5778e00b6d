"""The note on a pipeline of the LaVieIDs that are attached to it, by name, so that attaching again finds them.

They live as long as the pipeline, since the note is on it. It is apart from `lavieid.py`, which writes it, so that
`attach.py` can read it for a user who has lost them.
"""

from collections.abc import Mapping
from typing import Any

DEFAULT = "default"  # name under which adapters are attached if none is given

_NOTE = "_lavieid_attached"  # attribute of a pipeline


def noted(pipe) -> Mapping[str, Any]:
    """Return what is attached to a pipeline, by name. A copy of a pipeline has none, though it has the note."""
    return {name: lavieid for name, lavieid in getattr(pipe, _NOTE, {}).items() if lavieid.pipe is pipe}


def note(lavieid) -> None:
    """Note on its pipeline that a `LaVieID` is attached, in place of another of its name."""
    _write(lavieid.pipe, {**noted(lavieid.pipe), lavieid.adapter_name: lavieid})


def forget(lavieid) -> None:
    """Undo `note`. A pipeline without others is as it was."""
    _write(lavieid.pipe, {name: other for name, other in noted(lavieid.pipe).items() if other is not lavieid})


def _write(pipe, attached: Mapping[str, Any]) -> None:
    if attached:
        setattr(pipe, _NOTE, attached)
    elif hasattr(pipe, _NOTE):
        delattr(pipe, _NOTE)

"""The choice of one face in a photo, and the errors that list the faces where the choice is not clear."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from .parts import DetectedFace


def check_choice(face_index: int | str | None, on_no_face: str) -> None:
    """Check the settings that choose a face, before any photo is opened.

    Raises:
        TypeError, ValueError: If one is of another type, or another text.
    """
    if on_no_face not in ("raise", "whole_image"):
        raise ValueError(f"on_no_face is {on_no_face!r}, but must be 'raise' or 'whole_image'.")
    if face_index is None or (isinstance(face_index, str) and face_index == "largest"):
        return
    if isinstance(face_index, bool) or not isinstance(face_index, Integral):
        error = ValueError if isinstance(face_index, str) else TypeError
        raise error(f"face_index is {face_index!r}, but must be a whole number, 'largest' or None.")


def choose_face(
    faces: Sequence[DetectedFace], face_index: int | str | None, on_no_face: str, min_face: float, photo: str
) -> int | None:
    """Return the index of the face to read; None for the whole image.

    Args:
        faces: All faces of the photo, from left to right.
        face_index, on_no_face: As `check_choice` lets through.
        min_face: Side in pixels that a face needs.
        photo: The photo's name in errors.

    Raises:
        ValueError: If there is no face, several and no index, none of that index, or if the face is too small.
    """
    if not faces:
        if on_no_face == "whole_image":
            return None
        raise ValueError(
            f"No face was found in {photo}: use a photo that shows it larger or from the front. For a drawing, or a "
            "picture of nothing but the face, say on_no_face='whole_image'."
        )
    boxes = "".join(f"\n  {i}: {_box(face.box)}" for i, face in enumerate(faces))
    if face_index is None and len(faces) > 1:
        raise ValueError(f"{photo} shows {len(faces)} faces: say face_index, or 'largest'.{boxes}")
    if face_index == "largest":
        face_index = max(range(len(faces)), key=lambda i: np.prod(faces[i].box[2:] - faces[i].box[:2]))
    index = 0 if face_index is None else int(face_index)
    if not 0 <= index < len(faces):
        raise ValueError(f"face_index is {face_index!r}, but the faces of {photo} are:{boxes}")
    if (faces[index].box[2:] - faces[index].box[:2]).min() < min_face:
        raise ValueError(
            f"The face in {photo} at {_box(faces[index].box)} is smaller than {min_face:g} pixels: use a closer photo, "
            "or a processor of a smaller min_face."
        )
    return index


def _box(box: np.ndarray) -> str:
    left, top, right, bottom = box.round().astype(int).tolist()
    return f"left {left}, top {top}, right {right}, bottom {bottom} ({right - left} × {bottom - top} pixels)"

"""The choice of one face in a photo, without any model."""

import numpy as np
import pytest

from lavieid_adapters import DetectedFace
from lavieid_adapters.faces.face_choice import check_choice, choose_face


def face(left: float, side: float) -> DetectedFace:
    return DetectedFace([left, 10, left + side, 10 + side], 0.9, np.ones((5, 2)))


FACES = [face(0, 80), face(100, 120), face(300, 30)]


def choose(faces=FACES, face_index=None, on_no_face="raise", min_face=20) -> int | None:
    check_choice(face_index, on_no_face)
    return choose_face(faces, face_index, on_no_face, min_face, "this photo")


def test_one_face_needs_no_index_and_several_do():
    assert choose(FACES[:1]) == 0
    with pytest.raises(ValueError, match="this photo shows 3 faces: say face_index, or 'largest'") as caught:
        choose()
    assert str(caught.value).splitlines()[1:] == [
        "  0: left 0, top 10, right 80, bottom 90 (80 × 80 pixels)",
        "  1: left 100, top 10, right 220, bottom 130 (120 × 120 pixels)",
        "  2: left 300, top 10, right 330, bottom 40 (30 × 30 pixels)",
    ]


@pytest.mark.parametrize(("index", "chosen"), [(0, 0), (2, 2), (np.int64(1), 1), ("largest", 1)], ids=repr)
def test_a_face_is_chosen_by_its_index_or_its_size(index, chosen):
    found = choose(face_index=index)
    assert found == chosen and type(found) is int


@pytest.mark.parametrize("index", [3, -1, np.int64(7)], ids=repr)
def test_an_index_beyond_the_faces_lists_them(index):
    with pytest.raises(ValueError, match="but the faces of this photo are:\n  0: left 0") as caught:
        choose(face_index=index)
    assert str(caught.value).startswith(f"face_index is {index!r}")


@pytest.mark.parametrize("index", [True, 1.0, np.float32(1), b"largest", np.arange(2), [0]], ids=repr)
def test_an_index_of_another_type_is_refused(index):
    with pytest.raises(TypeError, match=r"face_index is .*, but must be a whole number, 'largest' or None\.$"):
        check_choice(index, "raise")


@pytest.mark.parametrize("index", ["", "1", "Largest", "smallest"], ids=repr)
def test_an_index_of_other_text_is_refused(index):
    with pytest.raises(ValueError, match=f"face_index is {index!r}, but must be a whole number, 'largest' or None"):
        check_choice(index, "raise")


@pytest.mark.parametrize("value", ["ignore", "", None, True, 0, ["raise"]], ids=repr)
def test_without_a_face_one_of_two_things_happens(value):
    with pytest.raises(ValueError, match=r"on_no_face is .*, but must be 'raise' or 'whole_image'"):
        check_choice(None, value)
    check_choice(None, "whole_image")


def test_without_a_face_it_is_the_whole_image_or_an_error():
    assert choose([], on_no_face="whole_image") is None
    assert choose(FACES[:1], on_no_face="whole_image") == 0
    with pytest.raises(ValueError, match=r"No face was found in this photo: .*on_no_face='whole_image'"):
        choose([], face_index=0)


def test_the_chosen_face_must_be_large_enough_and_the_others_need_not():
    assert choose(face_index=2, min_face=30) == 2 and choose(face_index=0, min_face=80) == 0
    with pytest.raises(ValueError, match=r"\(30 × 30 pixels\) is smaller than 30.5 pixels: use a closer photo"):
        choose(face_index=2, min_face=30.5)

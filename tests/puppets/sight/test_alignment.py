"""How a drawn face is brought to its place."""

import numpy as np
import pytest

from lavieid_adapters.puppets.sight.alignment import TEMPLATE, Aligner, alignment


def test_a_similarity_is_found_again():
    turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    matrix = alignment(TEMPLATE @ turn.T + (30, -12))
    assert matrix[:, :2] @ turn == pytest.approx(np.eye(2), abs=1e-9)
    assert matrix @ (30, -12, 1) == pytest.approx([0, 0], abs=1e-6)


def test_landmarks_in_one_point_are_refused():
    with pytest.raises(ValueError, match="must be five different points"):
        alignment(np.full((5, 2), 7))


def test_the_eyes_of_an_aligned_face_are_where_the_template_says():
    image = np.zeros((128, 128, 3), np.uint8)
    landmarks = np.array([[40.0, 50.0], [70.0, 62.0], [52.0, 70.0], [38.0, 80.0], [60.0, 90.0]])
    for x, y in landmarks.round().astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    aligned, matrix = Aligner().align(image, landmarks)
    assert aligned.shape == (512, 512, 3) and aligned.dtype == np.uint8 and matrix.shape == (2, 3)
    for landmark in landmarks:
        x, y = (matrix @ np.append(landmark, 1)).round().astype(int)
        assert aligned[y, x].min() > 128
    assert abs((matrix @ np.append(landmarks.mean(0), 1)) - TEMPLATE.mean(0)).max() < 1e-6
    assert (aligned == 0).all(-1).mean() > 0.3

"""Where faces are in a picture of drawn people: landmarks of a component map, blobs, and the network's view."""

import numpy as np
import pytest
import torch

from lavieid_adapters.puppets import TEST_PEOPLE, draw_photos, people
from lavieid_adapters.puppets.sight.drawn_faces import VIEW, DrawnFaces, as_view, blobs, face_landmarks
from lavieid_adapters.puppets.sight.face_net import FaceNet

COUNT = 24


@pytest.fixture(scope="module")
def photos():
    return draw_photos(people(TEST_PEOPLE[:COUNT]), range(COUNT))


def test_the_map_tells_the_landmarks_glasses_or_not(photos):
    found = np.stack([face_landmarks(m) for m in photos.maps.numpy()]) + 0.5
    off = np.abs(found - photos.landmarks.numpy())
    assert off.mean() < 1 and np.quantile(off, 0.95) < 3 and off.max() < 8


def test_a_map_without_eyes_has_no_landmarks(photos):
    component_map = photos.maps[0].numpy().copy()
    component_map[component_map == 2] = 0
    assert face_landmarks(component_map) is None


def test_blobs_are_told_apart():
    mask = np.zeros((40, 60), bool)
    mask[2:6, 2:6] = mask[6:9, 6:9] = True  # touch at a corner
    mask[20:38, 10:50] = True
    mask[22:36, 12:48] = False  # a ring
    mask[28:30, 20:22] = True
    labels = blobs(mask)
    assert (labels > 0).tolist() == mask.tolist()
    assert sorted(np.bincount(labels[mask])[1:].tolist()) == [4, 25, 18 * 40 - 14 * 36]
    assert blobs(np.zeros((4, 4), bool)).tolist() == np.zeros((4, 4), int).tolist()


def test_a_blob_is_one_however_long_its_way():
    mask = np.zeros((61, 61), bool)  # a line to and fro over the picture, and a point beside its end
    mask[::4] = True
    for i, row in enumerate(range(0, 60, 4)):
        mask[row : row + 4, 0 if i % 2 else 60] = True
    mask[58, 30] = True
    labels = blobs(mask)
    assert labels.max() == 2 and (labels > 0).tolist() == mask.tolist()
    assert sorted(np.bincount(labels.ravel())[1:].tolist()) == [1, mask.sum() - 1]


def test_blobs_are_those_that_a_flood_fills():
    mask = np.random.default_rng(0).random((40, 50)) < 0.35
    labels, numbers = blobs(mask), set()
    assert labels.max() > 10
    left = {tuple(at) for at in np.argwhere(mask)}
    while left:
        todo, part = [left.pop()], set()
        while todo:
            y, x = todo.pop()
            part.add((y, x))
            beside = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= beside
            todo += beside
        (number,) = {labels[at] for at in part}
        assert (labels == number).sum() == len(part) and number not in numbers
        numbers.add(number)
    assert numbers == set(range(1, labels.max() + 1))


def test_the_network_sees_the_aligned_face_at_a_fourth_of_its_size():
    aligned = np.zeros((512, 512, 3), np.uint8)
    aligned[::4] = 200
    assert as_view(aligned).shape == (VIEW, VIEW, 3) and set(np.unique(as_view(aligned))) == {50}


@pytest.fixture
def untrained(tmp_path):
    torch.manual_seed(0)
    FaceNet().save_pretrained(tmp_path / "face")
    return DrawnFaces(tmp_path / "face")


def test_an_untrained_network_finds_nobody_and_embeds_all_the_same(photos, untrained):
    picture = photos.images[0].permute(1, 2, 0).numpy()
    assert untrained.detect(picture) == []
    embedding = untrained.embed(picture, photos.landmarks[0].numpy())
    assert embedding.shape == (512,) and np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    other = untrained.embed(photos.images[1].permute(1, 2, 0).numpy(), photos.landmarks[1].numpy())
    assert np.abs(other - embedding).max() > 1e-4


def test_its_fingerprint_is_its_files(untrained, tmp_path):
    again = DrawnFaces(tmp_path / "face")
    assert again.fingerprint == untrained.fingerprint
    torch.manual_seed(1)
    FaceNet().save_pretrained(tmp_path / "other")
    assert DrawnFaces(tmp_path / "other").fingerprint != untrained.fingerprint

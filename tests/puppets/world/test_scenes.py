"""Backgrounds and light of clips and photos, by their seeds."""

import pytest
import torch

from lavieid_adapters.puppets.world.grammar import SCENES
from lavieid_adapters.puppets.world.hashing import uniform
from lavieid_adapters.puppets.world.scenes import photo_backdrop, scene_backdrop, scene_light

SIZE = 48
R = uniform(torch.arange(3), 32, 5)
ALL = list(range(len(SCENES)))


def test_equal_seeds_give_equal_places_and_others_give_others():
    for number in ALL:
        first, again = (scene_backdrop([number] * 3, R, SIZE).plate for _ in range(2))
        assert torch.equal(first, again)
        assert (first[0] - first[1]).abs().mean() > 0.005, SCENES[number]


def test_a_place_does_not_depend_on_the_batch():
    mixed = scene_backdrop([2, 0, 2], R, SIZE).plate
    for row, number in enumerate((2, 0, 2)):
        torch.testing.assert_close(mixed[row], scene_backdrop([number], R[row : row + 1], SIZE).plate[0])


def test_places_differ_and_their_light_with_them():
    plates = torch.stack([scene_backdrop([number], R[:1], SIZE).plate[0] for number in ALL])
    distances = (plates[:, None] - plates).abs().mean((2, 3, 4))
    assert distances.add(torch.eye(len(ALL))).min() > 0.03
    light = scene_light(torch.tensor(ALL), R[:1].expand(len(ALL), -1))
    colours = light.colour.flatten(1)
    assert torch.cdist(colours, colours).add(torch.eye(len(ALL))).min() > 0.005
    torch.testing.assert_close(light.x**2 + light.y**2 + light.z**2, torch.ones(len(ALL), 1, 1, 1))
    assert (light.z > 0).all() and (light.y < 0).all()  # from the front and above


def frames(backdrop, time: list[float], x: float = 0.0) -> torch.Tensor:
    steps = torch.tensor(time).view(1, -1, 1, 1)
    return backdrop.frames(steps, torch.full((len(R), len(time), 1, 1), x), SIZE)


def test_the_camera_of_a_clip_drifts_and_follows_the_person():
    backdrop = scene_backdrop([3] * 3, R, SIZE)
    shown = frames(backdrop, [0.0, 0.125, 2.0])
    assert shown.shape == (3, 3, 3, SIZE, SIZE) and shown.min() >= 0
    early, late = (shown[:, :, i] - shown[:, :, 0] for i in (1, 2))
    assert late.abs().mean() > 2 * early.abs().mean() > 0
    assert (frames(backdrop, [0.0], 0.2) - shown[:, :, :1]).abs().mean() > 0.01


def test_that_of_a_photo_stands_still():
    backdrop, light = photo_backdrop(R, SIZE)
    assert (backdrop.plate[0] - backdrop.plate[1]).abs().mean() > 0.01
    shown = frames(backdrop, [0.0, 2.0])
    assert torch.equal(shown[:, :, 0], shown[:, :, 1])
    assert light.colour.shape == (3, 3, 1, 1, 1) and not torch.equal(light.colour[0], light.colour[1])


@pytest.mark.parametrize("size", [32, 96])
def test_a_plate_grows_with_the_picture(size):
    assert scene_backdrop([0], R[:1], size).plate.shape[-1] == pytest.approx(1.32 * 1.25 * size, abs=2)

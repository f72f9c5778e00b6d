"""Places under the sky."""

import pytest
import torch

from lavieid_adapters.puppets.world.hashing import uniform
from lavieid_adapters.puppets.world.plate import Plate
from lavieid_adapters.puppets.world.scenes_outside import beach, desert, mountains, park, street

PAINTERS = [park, beach, street, mountains, desert]
R = uniform(torch.arange(4), 28, 9)


def painted(painter, r: torch.Tensor = R) -> torch.Tensor:
    plate = Plate(r, 48)
    plate.colour.fill_(-1)
    painter(plate)
    return plate.colour


@pytest.mark.parametrize("painter", PAINTERS)
def test_every_pixel_is_painted_and_a_colour(painter):
    colour = painted(painter)
    assert colour.min() >= 0 and colour.max() <= 1 and colour.std() > 0.05
    assert len(colour[0].flatten(1).T.unique(dim=0)) > 100


@pytest.mark.parametrize("painter", PAINTERS)
def test_each_clip_has_its_own_by_its_random_numbers(painter):
    colour = painted(painter)
    assert (colour[0] - colour[1]).abs().mean() > 0.01
    torch.testing.assert_close(painted(painter, R[2:3])[0], colour[2])


def test_a_street_at_night_is_dark_and_the_mountains_are_pale():
    brightness = {painter: painted(painter).mean() for painter in PAINTERS}
    assert max(brightness, key=brightness.get) is mountains
    others = [value for painter, value in brightness.items() if painter is not street]
    assert brightness[street] < 0.6 * min(others)


def test_grass_is_green_sand_is_yellow_and_the_sky_is_over_them():
    lawn, sand, dunes = (painted(painter)[:, :, -4:].mean((0, 2, 3)) for painter in (park, beach, desert))
    assert lawn[1] > lawn[0] and lawn[1] > lawn[2]
    for yellow in (sand, dunes):
        assert yellow[0] > yellow[1] > yellow[2]
    sky = painted(park)[:, :, :4].mean((0, 2, 3))
    assert sky[2] > sky[0]


def test_in_some_parks_it_is_autumn():
    autumn, summer = R[:1].clone(), R[:1].clone()
    autumn[:, 13], summer[:, 13] = 0.9, 0.1
    change = painted(park, autumn) - painted(park, summer)
    assert change[:, 0].max() > 0.2 and (change.abs().amax(1) > 0.05).float().mean() < 0.3

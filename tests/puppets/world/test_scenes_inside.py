"""Places under a roof, and the backgrounds of photos."""

import pytest
import torch

from lavieid_adapters.puppets.world.hashing import uniform
from lavieid_adapters.puppets.world.plate import Plate
from lavieid_adapters.puppets.world.scenes_inside import kitchen, library, office, studio

PAINTERS = [office, library, kitchen, studio]
R = uniform(torch.arange(4), 28, 9)


def painted(painter, r: torch.Tensor = R) -> torch.Tensor:
    plate = Plate(r, 48)
    plate.colour.fill_(-1)
    painter(plate)
    return plate.colour


@pytest.mark.parametrize("painter", PAINTERS)
def test_every_pixel_is_painted_and_a_colour(painter):
    colour = painted(painter)
    assert colour.min() >= 0 and colour.max() <= 1 + 1e-6 and colour.std() > 0.03


@pytest.mark.parametrize("painter", PAINTERS)
def test_each_clip_has_its_own_by_its_random_numbers(painter):
    colour = painted(painter)
    assert (colour[0] - colour[1]).abs().mean() > 0.01
    torch.testing.assert_close(painted(painter, R[2:3])[0], colour[2])


def test_they_are_told_apart():
    pictures = torch.stack([painted(painter)[0] for painter in PAINTERS])
    distances = (pictures[:, None] - pictures).abs().mean((2, 3, 4))
    assert distances.add(torch.eye(len(PAINTERS))).min() > 0.05


def test_a_photos_background_has_fewer_edges_than_a_place():
    def edges(painter) -> float:
        colour = painted(painter)
        return (colour.diff(dim=3).abs() > 0.1).float().mean().item()

    assert edges(studio) < 0.25 * edges(library) and edges(studio) < 0.5 * edges(office)

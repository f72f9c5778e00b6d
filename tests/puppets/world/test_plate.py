"""Painting a background."""

import pytest
import torch

from lavieid_adapters.puppets.world.plate import Plate

R = torch.linspace(0.0, 0.9, 20).view(2, 10)


@pytest.fixture
def plate() -> Plate:
    plate = Plate(R, 64)
    plate.fill((0, 0, 0), (0, 0, 0))
    return plate


def at(plate: Plate, x: float, y: float) -> list[float]:
    """The colour of the first clip's pixel at a place."""
    column, row = (plate.x[0, 0] - x).abs().argmin(), (plate.y[0, :, 0] - y).abs().argmin()
    return plate.colour[0, :, row, column].tolist()


def test_it_is_wider_than_the_picture(plate):
    assert plate.colour.shape == (2, 3, round(1.12 * 64), round(1.32 * 64))
    assert plate.x.min() < -0.6 and plate.x.max() > 0.6 and plate.y.min() < -0.5 and plate.y.max() > 0.5
    torch.testing.assert_close(plate.x, -plate.x.flip(2))


def test_random_numbers_are_the_clips_and_scaled(plate):
    torch.testing.assert_close(plate.random(3, 2.0, 4.0).flatten(), 2 + 2 * R[:, 3])
    assert torch.equal(plate.random(13), plate.random(3))  # they begin again


def test_a_gradient_goes_from_its_first_row_to_its_last(plate):
    plate.fill((255, 0, 0), (0, 0, 255), -0.2, 0.2)
    assert at(plate, 0.3, -0.4) == [1, 0, 0] and at(plate, 0.3, 0.4) == [0, 0, 1]
    assert at(plate, 0.0, 0.0) == pytest.approx([0.5, 0, 0.5], abs=0.05)


@pytest.mark.parametrize("shape", ["rectangle", "disc"])
def test_shapes_are_painted_inside_and_not_outside(plate, shape):
    distance = getattr(plate, shape)(0.2, -0.1, 0.2, 0.2)
    assert distance.shape[1:] == plate.colour.shape[2:]
    plate.paint(distance, (255, 255, 255))
    assert at(plate, 0.2, -0.1) == [1] * 3
    for x, y in ((0.5, -0.1), (0.2, 0.2), (-0.2, -0.1)):
        assert at(plate, x, y) == [0] * 3


def test_below_a_line(plate):
    plate.paint(plate.below(0.1), (255, 255, 255), alpha=0.5)
    assert at(plate, 0.0, 0.3) == [0.5] * 3 and at(plate, 0.0, 0.0) == [0] * 3


def test_an_edge_is_wider_where_it_is_soft(plate):
    hard = Plate(R, 64)
    hard.fill((0, 0, 0), (0, 0, 0))
    for each, soft in ((hard, 1.0), (plate, 8.0)):
        each.paint(each.below(0.0), (255, 255, 255), soft=soft)
    between = [((each.colour > 0.02) & (each.colour < 0.98)).sum() for each in (hard, plate)]
    assert between[1] > 3 * between[0] > 0


def test_a_glow_fades(plate):
    plate.glow(0.0, 0.0, 0.4, (255, 255, 255), 0.8)
    inner, middle, outer = (at(plate, x, 0.0)[0] for x in (0.0, 0.2, 0.45))
    assert 0.8 >= inner > 0.7 > middle > 0.1 and outer == 0


def test_a_blend_is_between_its_colours(plate):
    blend = plate.blend((255, 0, 0), (0, 0, 255), torch.tensor([0.25, 1.0]).view(2, 1, 1))
    torch.testing.assert_close(blend.flatten(1), torch.tensor([[0.75, 0, 0.25], [0, 0, 1]]))

"""Ramps between named colours."""

import pytest
import torch

from lavieid_adapters.puppets.world import palette
from lavieid_adapters.puppets.world.palette import CLOTHES, HAIR, IRIS, LIPS, SKIN, one_of, ramp, rgb


@pytest.mark.parametrize("table", [SKIN, HAIR, IRIS, LIPS, CLOTHES])
def test_a_ramp_goes_through_its_colours_within_0_to_1(table):
    colours = ramp(table, torch.linspace(0, 1, len(table)))
    torch.testing.assert_close(colours * 255, torch.tensor(table).float(), atol=1e-2, rtol=0)
    between = ramp(table, torch.linspace(0, 1, 2 * len(table) - 1))
    torch.testing.assert_close(between[1::2], (colours[1:] + colours[:-1]) / 2, atol=1e-5, rtol=0)
    fine = ramp(table, torch.rand(200))
    assert fine.min() >= 0 and fine.max() <= 1


def test_skin_is_ordered_by_its_lightness():
    lightness = ramp(SKIN, torch.linspace(0, 1, 50)).mean(1)
    assert (lightness.diff() > 0).all()


def test_no_two_colours_of_a_table_are_alike():
    for name in ("SKIN", "HAIR", "IRIS", "LIPS", "CLOTHES"):
        colours = torch.tensor(getattr(palette, name)).float()
        assert torch.cdist(colours, colours).add(torch.eye(len(colours)) * 1e3).min() > 10, name


def test_one_of_gives_each_colour_its_share():
    t = torch.arange(0, 1, 1 / (4 * len(CLOTHES))) + 1e-4
    chosen = (one_of(CLOTHES, t) * 255).round()
    assert torch.equal(chosen, torch.tensor(CLOTHES).float().repeat_interleave(4, 0))
    assert torch.equal(one_of(CLOTHES, torch.tensor([1.0])), one_of(CLOTHES, torch.tensor([0.999])))


def test_one_colour_broadcasts_over_frames():
    colour = rgb(255, 0, 51, "cpu")
    assert colour.shape == (1, 3, 1, 1, 1)
    torch.testing.assert_close(colour.flatten(), torch.tensor([1.0, 0.0, 0.2]))

"""Signed distances, and what is painted of them."""

import torch

from lavieid_adapters.puppets.world.shapes import (
    box,
    bump,
    circle,
    coverage,
    ellipse,
    smooth_max,
    smooth_min,
    smoothstep,
)

X, Y = torch.meshgrid(torch.linspace(-2, 2, 81), torch.linspace(-2, 2, 81), indexing="xy")


def test_coverage_is_a_half_on_the_edge_and_goes_over_one_pixel():
    distance = torch.tensor([-1.0, -0.05, 0.0, 0.025, 0.05, 1.0])
    torch.testing.assert_close(coverage(distance, 0.1), torch.tensor([1.0, 1.0, 0.5, 0.25, 0.0, 0.0]))


def test_the_covered_area_is_the_shapes():
    area = coverage(circle(X, Y, 1.0), 0.05).sum() * 0.05**2
    torch.testing.assert_close(area, torch.tensor(torch.pi), rtol=5e-3, atol=0)
    area = coverage(box(X, Y, 1.0, 0.5), 0.05).sum() * 0.05**2
    torch.testing.assert_close(area, torch.tensor(2.0), rtol=5e-3, atol=0)


def test_distances_are_negative_inside():
    assert torch.equal(ellipse(X, Y, 1.5, 0.8) < 0, (X / 1.5) ** 2 + (Y / 0.8) ** 2 < 1)
    torch.testing.assert_close(circle(X, Y, 1.0), (X**2 + Y**2).sqrt() - 1)
    assert torch.equal(box(X, Y, 1.01, 0.51) < 0, (X.abs() < 1.01) & (Y.abs() < 0.51))
    near = circle(X, Y, 1.0).abs() < 0.1
    torch.testing.assert_close(ellipse(X, Y, 1.0, 1.0)[near], circle(X, Y, 1.0)[near], atol=6e-3, rtol=0)


def test_steps_and_hills_are_smooth():
    x = torch.linspace(-1, 2, 301)
    step = smoothstep(0.0, 1.0, x)
    assert (step[x <= 0] == 0).all() and (step[x >= 1] == 1).all() and (step.diff() >= -1e-6).all()
    torch.testing.assert_close(step, 1 - step.flip(0), atol=1e-5, rtol=0)
    hill = bump(x)
    assert hill.max() == 1 == bump(torch.tensor(0.0)) and (hill[x.abs() >= 1] == 0).all()
    assert hill.diff().abs().max() < 0.02


def test_joined_fields_are_rounded_only_where_they_meet():
    a, b = X, Y
    upper, lower = smooth_max(a, b, 0.5), smooth_min(a, b, 0.5)
    meet = (a - b).abs() < 0.5
    assert (upper >= torch.maximum(a, b)).all() and (lower <= torch.minimum(a, b)).all()
    torch.testing.assert_close(upper[~meet], torch.maximum(a, b)[~meet])
    torch.testing.assert_close(lower[~meet], torch.minimum(a, b)[~meet])
    assert (upper - torch.maximum(a, b))[a == b].min() > 0.1
    torch.testing.assert_close(lower, -smooth_max(-a, -b, 0.5))

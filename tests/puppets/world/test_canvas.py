"""Painting on frames and on windows of them."""

import pytest
import torch
from support.easel import SIZE

from lavieid_adapters.puppets.world.canvas import Bounds, Canvas, seen

N, F = 2, 3


@pytest.fixture
def canvas() -> Canvas:
    grid = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    colour, labels = torch.zeros(N, 3, F, SIZE, SIZE), torch.zeros(N, F, SIZE, SIZE, dtype=torch.uint8)
    return Canvas(colour, labels, grid[None, None, None, :], grid[None, None, :, None], SIZE)


def place(value: float, sides: int = 1) -> torch.Tensor:
    return torch.full((N, sides * F, 1, 1), value)


def test_a_colour_is_laid_on_by_its_coverage_and_labelled_beyond_half(canvas):
    coverage = torch.zeros(N, F, SIZE, SIZE)
    coverage[..., 10, 10], coverage[..., 10, 11] = 0.25, 0.75
    canvas.paint(coverage, torch.full((1, 3, 1, 1, 1), 0.8), label=4)
    torch.testing.assert_close(canvas.colour[..., 10, 9:12], torch.tensor([0.0, 0.2, 0.6]).expand(N, 3, F, 3))
    assert canvas.labels[..., 10, 9:12].unique(dim=0).tolist() == [[[0, 0, 4]] * F]
    canvas.paint(torch.ones(N, F, SIZE, SIZE), torch.ones(1, 3, 1, 1, 1))
    assert (canvas.colour == 1).all() and (canvas.labels == 4).sum() == N * F


def test_a_view_is_a_part_of_the_same_memory(canvas):
    view = canvas.view(Bounds(20, 30, 60, 50))
    assert view.labels.shape == (N, F, 20, 40) and view.origin == (20, 30)
    assert view.x[0, 0, 0, 0] == canvas.x[0, 0, 0, 20] and view.y[0, 0, 0, 0] == canvas.y[0, 0, 30, 0]
    view.paint(torch.ones(N, F, 20, 40), torch.ones(1, 3, 1, 1, 1), 2)
    assert (canvas.labels == 2).sum() == N * F * 800 and (canvas.labels[..., 30:50, 20:60] == 2).all()


def test_a_copy_is_painted_apart_and_restored(canvas):
    view = canvas.view(Bounds(0, 0, 40, 40))
    copy = view.copy()
    copy.paint(torch.ones(N, F, 40, 40), torch.ones(1, 3, 1, 1, 1), 3)
    assert not canvas.labels.any()
    view.restore(copy)
    assert (canvas.labels == 3).sum() == N * F * 1600 and canvas.colour.sum() == 3 * N * F * 1600


@pytest.mark.parametrize(("x", "left"), [(0.0, 36), (0.2, 55), (0.9, 72), (-0.9, 0)])
def test_a_window_lies_where_it_is_asked_for_and_within_the_picture(canvas, x, left):
    window = canvas.window(place(x), place(0.0), 0.25, 0.5)
    assert window.labels.shape == (N, F, 48, 24)
    torch.testing.assert_close(window.x[0, 0, 0], canvas.x[0, 0, 0, left : left + 24])
    window.paint(torch.ones(N, F, 48, 24), torch.ones(1, 3, 1, 1, 1), 5)
    assert not canvas.labels.any()  # until it is closed
    window.close()
    assert (canvas.labels == 5).sum() == N * F * 48 * 24
    assert (canvas.labels[..., 24:72, left : left + 24] == 5).all()
    assert torch.equal(canvas.colour[:, 0] == 1, canvas.labels == 5)


def test_a_window_on_a_view_counts_from_the_picture(canvas):
    view = canvas.view(Bounds(20, 20, 80, 80)).copy()
    window = view.window(place(0.0), place(0.0), 0.25, 0.25)
    torch.testing.assert_close(window.x[0, 0, 0], canvas.x[0, 0, 0, 36:60])


def test_part_is_the_windows_part_of_a_field(canvas):
    field = torch.arange(SIZE * SIZE).view(SIZE, SIZE).expand(N, F, SIZE, SIZE)
    window = canvas.window(place(0.0), place(0.0), 0.25, 0.25)
    assert torch.equal(window.part(field), field[..., 36:60, 36:60])


def test_two_windows_on_a_frame_are_put_back_one_after_the_other(canvas):
    x = torch.cat([place(-0.2), place(0.2)], 1)
    window = canvas.window(x, place(0.0, 2), 0.25, 0.25)
    window.labels[:, :F], window.labels[:, F:] = 1, 2
    window.close()
    assert (canvas.labels[..., 36:60, 17:41] == 1).all() and (canvas.labels[..., 36:60, 55:79] == 2).all()


def test_overlapping_windows_put_back_their_own_halves(canvas):
    x = torch.cat([place(-0.05), place(0.05)], 1)
    window = canvas.window(x, place(0.0, 2), 0.25, 0.25)
    window.labels[:, :F], window.labels[:, F:] = 1, 2
    side = torch.ones(1, 2 * F, 1, 1)
    side[:, :F] = -1
    window.close_halves((window.x * side > 0).expand_as(window.labels))
    rows = canvas.labels[..., 36:60, :]
    assert (rows[..., 31:48] == 1).all() and (rows[..., 48:65] == 2).all()
    assert (canvas.labels > 0).sum() == N * F * 24 * 34


def test_what_is_all_zero_is_not_seen():
    assert not seen(torch.zeros(2, 2)) and seen(torch.tensor([0.0, 0.1]))

"""Brows that are raised and frown, and glasses of those who wear them."""

import torch
from support.easel import PLAIN, changed, paint, skin, styled

from lavieid_adapters.puppets.world.brows import paint_brows, paint_glasses


def brows(**settings):
    return paint(skin, paint_brows, **settings)


def glasses(canvas, head, tracks):
    paint_glasses(canvas, head)


def test_they_are_two_and_raised_they_are_higher():
    calm, raised = brows(), brows(raised=0.12)
    assert calm.where("eyebrows")[:, :48].sum() == calm.where("eyebrows")[:, 48:].sum() > 10
    assert raised.middle("eyebrows")[1] < calm.middle("eyebrows")[1] - 2


def test_a_frown_lowers_their_inner_ends():
    def inner_below_outer(frown: float) -> float:
        rows, columns = torch.nonzero(brows(frown=frown).where("eyebrows"), as_tuple=True)
        away = (columns - 47.5).abs()
        inner, outer = away < away.median(), away > away.median()
        return (rows[inner].float().mean() - rows[outer].float().mean()).item()

    assert inner_below_outer(0.26) > inner_below_outer(0.0) + 0.5 > inner_below_outer(-0.26) + 1


def test_their_thickness_is_the_persons():
    thin, thick = (brows(crowd=changed(PLAIN[:1], brow_thickness=value)) for value in (0.0, 1.0))
    assert thick.where("eyebrows").sum() > 1.5 * thin.where("eyebrows").sum()


def test_no_glasses_paint_nothing():
    assert torch.equal(paint(skin, glasses).colour, paint(skin).colour)


def test_frames_are_eyes_to_the_map_and_round_ones_are_not_square():
    bare = paint(skin)
    round_, square = (paint(skin, glasses, crowd=styled(PLAIN[:1], glasses=kind)) for kind in ("round", "square"))
    for worn in (round_, square):
        assert worn.where("eyes").sum() > 30
        assert worn.differs(bare, 0.1)[worn.where("eyes")].float().mean() > 0.95
    assert (round_.where("eyes") ^ square.where("eyes")).sum() > 20

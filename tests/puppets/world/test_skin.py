"""Blush, freckles and beards: on the head alone, and only of those who have them."""

import torch
from support.easel import PLAIN, changed, head_of, paint, skin, styled

from lavieid_adapters.puppets.world.skin import paint_beard, paint_cheeks

BARE = changed(PLAIN[:1], blush=0.0, skin_lightness=0.7)


def cheeks(canvas, head, tracks):
    paint_cheeks(canvas, head)


def beard(canvas, head, tracks):
    paint_beard(canvas, head)


def test_blush_reddens_both_cheeks():
    none, blushing = (paint(skin, cheeks, crowd=changed(BARE, blush=value)) for value in (0.0, 1.0))
    assert torch.equal(none.colour, paint(skin, crowd=BARE).colour)
    change = blushing.colour - none.colour
    assert change[1].amin() < -0.03 and change[2].amin() < -0.03 and change[0].amin() > -0.01
    left, right = (-change[1][:, half].sum() for half in (slice(0, 48), slice(48, 96)))
    torch.testing.assert_close(left, right, rtol=0.05, atol=0)


def test_freckles_are_darker_spots_of_those_who_have_them():
    plain, freckled = (paint(skin, cheeks, crowd=styled(BARE, freckles=kind)) for kind in ("none", "freckles"))
    spots = plain.differs(freckled)
    assert 5 < spots.sum() < 600 and (freckled.colour <= plain.colour + 1e-6).all()


def test_a_beard_covers_the_jaw_and_a_moustache_the_lip_alone():
    bare = paint(skin, crowd=BARE)
    assert torch.equal(paint(skin, beard, crowd=BARE).colour, bare.colour)
    full, stubble, moustache = (
        paint(skin, beard, crowd=styled(BARE, beard=kind)) for kind in ("beard", "stubble", "moustache")
    )
    _, head, _ = head_of(BARE)
    for picture in (full, stubble, moustache):
        assert (head.coverage[0, 0][picture.differs(bare)] > 0).all()
    assert full.differs(bare).sum() > 3 * moustache.differs(bare).sum() > 0
    lowest = [torch.nonzero(p.differs(bare))[:, 0].max() for p in (full, moustache)]
    assert lowest[0] > lowest[1] + 5
    changes = [(p.colour - bare.colour).abs().sum() for p in (full, stubble)]
    assert changes[0] > 2 * changes[1]


def test_the_map_says_skin_under_all_of_it():
    worn = paint(skin, cheeks, beard, crowd=styled(BARE, beard="beard", freckles="freckles"))
    assert torch.equal(worn.labels, paint(skin, crowd=BARE).labels)

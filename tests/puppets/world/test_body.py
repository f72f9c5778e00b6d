"""Neck, shoulders and clothes: they follow the head's place, and tell nothing of identity."""

from functools import partial

import torch
from support.easel import LABEL, PLAIN, Picture, changed, paint, skin

from lavieid_adapters.puppets.world.body import paint_body

CLOTHES = torch.linspace(0.05, 0.95, 8)


def body(canvas, head, tracks, clothes: torch.Tensor = CLOTHES):
    paint_body(canvas, head, clothes[None])


def dressed(clothes: torch.Tensor = CLOTHES, **settings) -> Picture:
    return paint(partial(body, clothes=clothes), **settings)


def test_it_is_below_the_head_and_no_component():
    picture = dressed()
    painted = (picture.colour - 0.5).abs().amax(0) > 0.01
    assert painted[-1].float().mean() > 0.5 and not painted[:30].any()
    assert not picture.labels.any()
    covered = paint(lambda canvas, head, tracks: canvas.labels.fill_(LABEL["hair"]), body)
    assert not covered.labels[-5:, 30:66].any() and covered.where("hair")[:30].all()


def test_it_follows_the_heads_place_but_not_its_turns():
    still, moved, turned = dressed(), dressed(x=0.25), dressed(yaw=0.5, pitch=0.2)
    assert torch.equal(still.colour, turned.colour)

    def middle(picture: Picture) -> torch.Tensor:
        return torch.nonzero((picture.colour - 0.5).abs().amax(0)[-3:] > 0.01)[:, 1].float().mean()

    assert middle(moved) > middle(still) + 10


def test_clothes_follow_from_random_numbers_alone():
    other = CLOTHES.clone()
    other[0] = 0.6
    assert dressed().differs(dressed(other), 0.1).sum() > 200
    torch.testing.assert_close(dressed().colour, dressed(CLOTHES.clone()).colour)


def test_patterns_and_collars_differ():
    pictures = []
    for collar in (0.1, 0.5, 0.9):
        for pattern in (0.1, 0.4, 0.9):
            clothes = CLOTHES.clone()
            clothes[2], clothes[3] = collar, pattern
            pictures.append(dressed(clothes))
    pairs = [(a, b) for i, a in enumerate(pictures) for b in pictures[:i]]
    assert all(a.differs(b, 0.05).sum() > 10 for a, b in pairs)


def test_the_neck_has_the_persons_skin():
    dark, light = (paint(skin, body, crowd=changed(PLAIN[:1], skin_lightness=value)) for value in (0.0, 1.0))
    neck = (slice(None), slice(72, 76), slice(46, 50))
    assert light.colour[neck].mean() > dark.colour[neck].mean() + 0.2
    clothes = (slice(None), slice(92, 96), slice(22, 28))
    torch.testing.assert_close(light.colour[clothes], dark.colour[clothes], atol=0.02, rtol=0)

"""Hair around a head, before and behind it."""

import pytest
import torch
from support.easel import PLAIN, changed, head_of, paint, skin, styled

from lavieid_adapters.puppets.world.hair import Hair, hair_end, head_extent
from lavieid_adapters.puppets.world.person import STYLES

NAMES = STYLES[0].choices


def front(canvas, head, tracks):
    Hair(canvas, head).paint_front(canvas)


def back(canvas, head, tracks):
    Hair(canvas, head).paint_back(canvas)


def shadow(canvas, head, tracks):
    Hair(canvas, head).paint_shadow(canvas)


def of_style(name: str, *brushes, **settings):
    return paint(*brushes, crowd=styled(PLAIN[:1], hair_style=name), **settings)


def test_it_is_over_the_forehead_and_leaves_the_face_open():
    bare, haired = paint(skin), of_style("short", skin, front)
    hair = haired.where("hair")
    assert hair.sum() > 200 and hair[:30].sum() > 0.5 * hair.sum()
    assert haired.where("skin")[45:60, 42:54].all()
    assert (bare.labels[haired.where("skin")] == bare.labels[45, 48]).all()


@pytest.mark.parametrize("name", NAMES)
def test_styles_differ_from_short_hair_and_stay_within_their_extent(name):
    picture = of_style(name, back, skin, front)
    if name != "short":
        assert picture.differs(of_style("short", back, skin, front), 0.05).sum() > 10
    canvas, head, _ = head_of(styled(PLAIN[:1], hair_style=name))
    side, up, down = (value.item() for value in head_extent(head.look))
    hair = picture.where("hair")
    assert hair.any() != (name == "bald")
    u, v = head.u.expand_as(canvas.labels)[0, 0][hair], head.v.expand_as(canvas.labels)[0, 0][hair]
    assert (u.abs() <= side).all() and (v >= -up).all() and (v <= down).all()


def test_long_hair_goes_further_down_and_length_is_the_persons():
    def end(name: str, length: float) -> float:
        _, head, _ = head_of(changed(styled(PLAIN[:1], hair_style=name), hair_length=length))
        return hair_end(head.look).item()

    assert end("long", 0.5) > end("bob", 0.5) + 0.5 > end("short", 0.5) + 1
    assert end("short", 1.0) > end("short", 0.0) and end("long", 1.0) > end("long", 0.0)
    lowest = [torch.nonzero(of_style(name, back).where("hair"))[:, 0].max() for name in ("long", "short")]
    assert lowest[0] > lowest[1] + 10


def test_a_tail_hangs_on_the_persons_side():
    left, right = (
        paint(back, crowd=styled(PLAIN[:1], hair_style="ponytail", hair_side=side)) for side in ("left", "right")
    )
    assert left.middle("hair")[0] < 47 and right.middle("hair")[0] > 48


def test_it_turns_with_the_head():
    left, right = (of_style("side part", skin, front, yaw=yaw) for yaw in (-0.5, 0.5))
    assert right.middle("skin")[0] > left.middle("skin")[0] + 4


def test_it_throws_a_shadow_on_the_head_and_nowhere_else():
    bare, shaded = paint(skin), of_style("fringe", skin, shadow)
    moved = bare.differs(shaded)
    assert moved.sum() > 50 and bare.where("skin")[moved].float().mean() > 0.95
    assert (shaded.colour <= bare.colour + 1e-6).all()
    assert torch.equal(of_style("bald", skin, shadow).colour, bare.colour)


def test_skin_shines_through_a_buzz_cut_which_is_hair_all_the_same():
    thick, thin = of_style("short", skin, front), of_style("buzz cut", skin, front)
    assert thin.where("hair").sum() > 100
    both = thick.where("hair") & thin.where("hair")
    bare = paint(skin)
    assert (thin.colour - bare.colour)[:, both].abs().mean() < (thick.colour - bare.colour)[:, both].abs().mean()

"""Eyes that close and look about."""

import torch
from support.easel import PLAIN, around, changed, paint, skin

from lavieid_adapters.puppets.world.eyes import paint_eyes

PERSON = changed(PLAIN[:1], eye_width=1.0, eye_aspect=1.0, lid=0.0, iris_lightness=0.2)


def eyes(crowd=PERSON, **tracks):
    return paint(skin, paint_eyes, crowd=crowd, **tracks)


def white(picture) -> torch.Tensor:
    return (picture.colour.amin(0) > 0.8) & picture.where("eyes")


def test_the_map_says_eyes_where_they_are_painted():
    bare, painted = paint(skin, crowd=PERSON), eyes()
    changed_pixels = bare.differs(painted, 0.1)
    assert painted.where("eyes").sum() > 80
    assert around(painted.where("eyes"), 3)[changed_pixels].all()  # with the crease of the lid
    assert changed_pixels[painted.where("eyes")].float().mean() > 0.9
    left, right = painted.where("eyes")[:, :48], painted.where("eyes")[:, 48:]
    assert left.sum() == right.sum() > 0  # of a face from the front


def test_lids_that_close_hide_the_white_but_stay_eyes():
    assert white(eyes()).sum() > 10
    shut = eyes(eyes=0.0)
    assert not white(shut).any() and shut.where("eyes").sum() > 40


def test_a_gaze_moves_the_pupils_and_nothing_outside_the_eyes():
    def pupils(gaze: float) -> float:
        picture = eyes(gaze_x=gaze)
        inner = picture.where("eyes") & ~around(~picture.where("eyes"), 1)  # without the lashes
        dark = torch.where(inner, 1.0 - picture.colour.mean(0), 0.0).clamp(min=0.5) - 0.5
        return ((dark * torch.arange(96.0)).sum() / dark.sum()).item()

    assert pupils(1.0) > pupils(0.0) + 0.4 > pupils(-1.0) + 0.8
    left, right = eyes(gaze_x=-1.0), eyes(gaze_x=1.0)
    assert around(left.where("eyes"))[left.differs(right)].all() and torch.equal(left.labels, right.labels)


def test_wide_open_eyes_are_higher_than_calm_ones():
    assert eyes(eyes=1.22).where("eyes").sum() > eyes().where("eyes").sum()


def test_the_iris_has_the_persons_hue():
    low, high = (eyes(changed(PERSON, iris_hue=value)) for value in (0.05, 0.85))
    moved = low.differs(high)
    assert moved.sum() > 10 and low.where("eyes")[moved].all()
    difference = (high.colour - low.colour)[:, moved].mean(1)
    assert difference[2] > 0.1 > difference[0]  # from brown to blue

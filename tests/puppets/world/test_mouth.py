"""The mouth: lips that open, smile and are no more than the mouth."""

import torch
from support.easel import PLAIN, around, changed, paint, skin

from lavieid_adapters.puppets.world.mouth import paint_mouth


def test_it_opens_where_the_map_says_mouth_and_nowhere_else():
    closed, opened = (paint(skin, paint_mouth, mouth=value) for value in (0.0, 0.9))
    assert opened.where("mouth").sum() > 1.3 * closed.where("mouth").sum()
    moved, own = closed.differs(opened), closed.where("mouth") | opened.where("mouth")
    assert moved.sum() > 50 and moved[own].sum() > 0.8 * moved.sum()
    assert around(own, 3)[moved].all()  # beside the lips there is the shadow under them


def test_behind_open_lips_are_teeth_and_a_dark_hole():
    closed, opened = (paint(skin, paint_mouth, mouth=value) for value in (0.0, 0.9))
    brightness = [picture.colour.mean(0)[picture.where("mouth")] for picture in (closed, opened)]
    assert brightness[1].min() < brightness[0].min() and brightness[1].max() > brightness[0].max() + 0.05


def test_a_smile_lifts_the_corners():
    def corners_above_middle(smile: float) -> float:
        rows, columns = torch.nonzero(paint(skin, paint_mouth, smile=smile).where("mouth"), as_tuple=True)
        ends = (columns <= columns.min() + 2) | (columns >= columns.max() - 2)
        inner = (columns - columns.float().mean()).abs() < 4
        return (rows[inner].float().mean() - rows[ends].float().mean()).item()

    assert corners_above_middle(1.0) > corners_above_middle(0.0) + 1 > corners_above_middle(-1.0) + 2


def test_its_parameters_change_it_and_the_face_beside_it_stays():
    narrow, wide = (paint(skin, paint_mouth, crowd=changed(PLAIN[:1], mouth_width=value)) for value in (0.0, 1.0))
    assert wide.where("mouth").any(0).sum() > 1.4 * narrow.where("mouth").any(0).sum()
    moved = narrow.differs(wide)
    assert moved.any() and around(wide.where("mouth") | narrow.where("mouth"), 3)[moved].all()


def test_it_is_painted_on_the_head_alone():
    bare, painted = paint(skin, yaw=0.9), paint(skin, paint_mouth, yaw=0.9)
    assert bare.differs(painted).any()
    assert (bare.labels[painted.where("mouth")] > 0).all()

"""The nose: it stands out of the face."""

from support.easel import PLAIN, around, changed, paint, skin

from lavieid_adapters.puppets.world.mouth import paint_mouth
from lavieid_adapters.puppets.world.nose import paint_nose


def nose(canvas, head, tracks):
    paint_nose(canvas, head)


def test_it_moves_most_when_the_head_turns():
    ahead, turned = (paint(skin, paint_mouth, nose, yaw=yaw) for yaw in (0.0, 0.4))
    moved = {name: turned.middle(name)[0] - ahead.middle(name)[0] for name in ("skin", "mouth", "nose")}
    assert moved["nose"] > moved["mouth"] + 1 > moved["skin"] + 2


def test_a_head_that_looks_up_lifts_it():
    assert paint(skin, nose, pitch=0.3).middle("nose")[1] < paint(skin, nose).middle("nose")[1] - 2


def test_the_map_says_nose_where_it_is_painted():
    bare, painted = paint(skin), paint(skin, nose)
    moved = bare.differs(painted, 0.05)
    assert moved.sum() > 20 and painted.where("nose").sum() > 40
    assert around(painted.where("nose"), 2)[moved].all()  # with the shadow under it


def test_its_width_and_length_are_the_persons():
    def size(**values: float) -> tuple[int, int]:
        where = paint(skin, nose, crowd=changed(PLAIN[:1], **values)).where("nose")
        return where.any(0).sum().item(), where.any(1).sum().item()

    assert size(nose_width=1.0)[0] >= size(nose_width=0.0)[0] + 4
    assert size(nose_length=1.0)[1] >= size(nose_length=0.0)[1] + 3


def test_a_red_nose_is_redder():
    pale, red = (paint(skin, nose, crowd=changed(PLAIN[:1], nose_redness=value)) for value in (0.0, 1.0))
    change = (red.colour - pale.colour)[:, pale.where("nose")].mean(1)
    assert change[0] > 0 and change[1] < -0.02 and change[2] < -0.02

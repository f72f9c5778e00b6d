"""The bare head: its outline, the light on it, and the ears."""

import torch
from support.easel import PLAIN, changed, front_light, head_of, paint, skin


def ears(over: bool):
    return lambda canvas, head, tracks: head.paint_ears(canvas, over)


def test_it_covers_the_middle_and_leaves_the_corners():
    _, head, _ = head_of()
    assert head.coverage[0, 0, 40:56, 40:56].min() == 1 and head.coverage[0, 0, :8].max() == 0
    assert torch.equal(head.coverage > 0.5, head.distance < 0)
    assert torch.equal(paint(skin).where("skin"), head.coverage[0, 0] > 0.5)


def test_its_size_follows_the_person_and_the_distance():
    def extent(crowd=PLAIN[:1], **tracks: float) -> tuple[int, int]:
        shown = paint(skin, crowd=crowd, **tracks).where("skin")
        return shown.any(0).sum().item(), shown.any(1).sum().item()

    assert extent(changed(PLAIN[:1], head_width=1.0))[0] > extent(changed(PLAIN[:1], head_width=0.0))[0] + 5
    assert extent(changed(PLAIN[:1], chin_length=1.0))[1] > extent(changed(PLAIN[:1], chin_length=0.0))[1] + 2
    near, far = extent(distance=0.9), extent(distance=1.8)
    assert abs(near[0] - 2 * far[0]) <= 2 and abs(near[1] - 2 * far[1]) <= 2


def test_the_side_towards_the_light_is_brighter():
    left, right = (paint(skin, light=front_light(x=x)).colour.mean(0) for x in (-0.8, 0.8))
    assert right[48, 60] > right[48, 35] + 0.05
    torch.testing.assert_close(left, right.flip(1), atol=1e-4, rtol=0)


def test_the_face_stands_out_most_in_its_middle():
    _, head, _ = head_of()
    depths = [head.face_depth(torch.tensor(x), torch.tensor(y)).item() for x, y in ((0, 0), (0.4, 0), (0, 0.6))]
    assert depths[0] > max(depths[1:]) and min(depths[1:]) > 0


def test_ears_stand_beside_the_head():
    bare, eared = paint(skin), paint(ears(False), skin)
    beside = eared.where("skin") & ~bare.where("skin")
    assert beside[:, :48].sum() == beside[:, 48:].sum() > 5
    large, small = (
        paint(ears(False), skin, crowd=changed(PLAIN[:1], ear_size=v)).where("skin").sum() for v in (1.0, 0.0)
    )
    assert large > small + 10


def test_of_a_turned_head_one_ear_is_over_it():
    ahead, bare = paint(skin, ears(True)), paint(skin)
    assert torch.equal(ahead.colour, bare.colour)
    turned, bare = paint(skin, ears(True), yaw=0.5), paint(skin, yaw=0.5)
    moved = torch.nonzero(turned.differs(bare))
    assert len(moved) > 10 and (moved[:, 1] < 48).all()  # the face looks to the right, the left ear to the camera

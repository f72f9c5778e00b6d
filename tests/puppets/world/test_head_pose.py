"""Where points of a turned head are in the picture."""

import math

import torch
from support.easel import calm_tracks

from lavieid_adapters.puppets.world.head_pose import HEAD, HeadPose


def pose(**tracks: float) -> HeadPose:
    return HeadPose(calm_tracks(**tracks), 96)


def test_plane_and_picture_are_inverse():
    turned = pose(roll=0.4, x=0.1, y=-0.2, distance=1.3)
    x, y = torch.rand(2, 1, 1, 5, 5)
    assert (turned.plane(x, y)[0] - pose().plane(x, y)[0]).abs().max() > 0.1
    for given, again in zip((x, y), turned.picture(*turned.plane(x, y)), strict=True):
        torch.testing.assert_close(again, given, atol=1e-5, rtol=0)


def test_turned_and_unturned_are_inverse():
    head = pose(yaw=0.5, pitch=-0.3)
    x, y, z = torch.rand(3, 1, 1, 4, 4)
    right, down, near = head.turned(x, y, z)
    assert (right - x).abs().max() > 0.1
    torch.testing.assert_close(right**2 + down**2 + near**2, x**2 + y**2 + z**2)  # it is a rotation
    for given, again in zip((x, y), head.unturned(right, down, near), strict=True):
        torch.testing.assert_close(again, given, atol=1e-5, rtol=0)


def test_positive_angles_turn_right_look_up_and_tilt_clockwise():
    tip = (0.0, 0.0, 0.8)
    assert pose().place(*tip).u.item() == pose().place(*tip).v.item() == 0
    assert pose(yaw=0.3).place(*tip).u.item() > 0.1
    assert pose(pitch=0.3).place(*tip).v.item() < -0.1
    crown = pose(roll=0.3).picture(torch.tensor(0.0), torch.tensor(-1.0))[0]
    assert crown.item() > 0.05


def test_a_patch_that_is_turned_away_looks_narrower():
    ahead, turned = (pose(yaw=yaw).place(0.3, 0.0, 0.6) for yaw in (0.0, 0.8))
    assert turned.wide.item() < 0.7 * ahead.wide.item() and turned.depth.item() < ahead.depth.item()


def test_twice_as_far_is_half_as_large():
    near, far = pose(distance=1.0), pose(distance=2.0)
    assert near.scale.item() == 2 * far.scale.item() and abs(near.scale.item() - HEAD) < 1e-6
    assert far.pixel.item() == 2 * near.pixel.item() and math.isclose(near.pixel.item(), 1 / (HEAD * 96), rel_tol=1e-6)


def test_it_tilts_around_the_neck():
    straight, tilted = pose(), pose(roll=0.3)
    assert tilted.x.item() > 0.05 and tilted.y.item() > straight.y.item()
    assert tilted.neck_x.item() == 0 and tilted.neck_y.item() == straight.neck_y.item()


def test_both_sides_are_the_frames_twice():
    head = HeadPose(calm_tracks(2, yaw=0.2), 96)
    double, side = head.both_sides()
    assert side.flatten().tolist() == [-1, 1]
    assert double.x.shape == (2, 2, 1, 1) and torch.equal(double.sin_yaw[:, :1], head.sin_yaw)
    assert head.both_sides()[0] is double

"""How heads move, blink, speak and feel."""

import math

import pytest
import torch

from lavieid_adapters.puppets.world.grammar import EXPRESSIONS, MOTIONS
from lavieid_adapters.puppets.world.hashing import uniform
from lavieid_adapters.puppets.world.motion import Tracks, clip_tracks, photo_tracks

N, FRAMES = 6, 33
R = uniform(torch.arange(N), 32, 1)


def tracks(motion: str = "tilt", expression: str = "neutral", frames: int = FRAMES) -> Tracks:
    numbers = [torch.full((N,), names.index(name)) for names, name in ((MOTIONS, motion), (EXPRESSIONS, expression))]
    return clip_tracks(R, *numbers, frames, 8, FRAMES / 8)


def test_fewer_frames_are_the_first_of_the_same_motion():
    whole, start = tracks("nod"), tracks("nod", frames=7)
    assert whole.pitch.std(1).min() > 0.02
    for name, value in vars(start).items():
        assert torch.equal(value.expand(N, 7, 1, 1), getattr(whole, name)[:, :7].expand(N, 7, 1, 1)), name


def test_everybody_blinks_and_opens_the_eyes_again():
    eyes = tracks().eyes
    assert (eyes.amin(1) < 0.5).all() and (eyes.amax(1) == 1).all() and (eyes.median(1).values > 0.9).all()


def test_only_who_talks_moves_the_mouth():
    assert (tracks("talk").mouth.std(1) > 0.05).all()
    for motion in set(MOTIONS) - {"talk"}:
        assert not tracks(motion).mouth.any(), motion


@pytest.mark.parametrize(
    ("expression", "name", "sign"),
    [
        ("smiling", "smile", 1), ("sad", "smile", -1), ("angry", "frown", 1), ("sad", "frown", -1),
        ("surprised", "raised", 1), ("surprised", "mouth", 1), ("smiling", "wide", 1),
    ],
)  # fmt: skip
def test_expressions_are_told_by_their_signs(expression, name, sign):
    felt, calm = (getattr(tracks(expression=e), name).mean() for e in (expression, "neutral"))
    assert sign * (felt - calm) > 0.02


def test_a_motion_does_not_change_the_expression_nor_the_other_way_round():
    assert not torch.equal(tracks("nod").pitch, tracks("tilt").pitch)
    assert torch.equal(tracks("nod").smile, tracks("tilt").smile)
    assert torch.equal(tracks(expression="sad").roll, tracks(expression="smiling").roll)


def test_who_walks_closer_becomes_larger_and_who_turns_goes_from_left_to_right():
    distance, yaw = tracks("approach").distance.flatten(1), tracks("turn").yaw.flatten(1)
    assert (distance.diff() <= 1e-6).all() and (distance[:, 0] > distance[:, -1] + 0.3).all()
    assert (yaw[:, 0] < -0.2).all() and (yaw[:, -1] > 0.2).all()


def test_some_of_the_tracks():
    whole = tracks("nod")
    some = whole[1:3]
    assert torch.equal(some.yaw, whole.yaw[1:3])
    assert torch.equal(some.time, whole.time)  # one for all clips


def test_photos_look_to_the_camera_neutral_or_smiling():
    photos = photo_tracks(uniform(torch.arange(500), 32, 2))
    assert photos.yaw.abs().max() < math.radians(25) and photos.yaw.std() > 0.1
    assert photos.pitch.abs().max() < math.radians(25) and photos.roll.abs().max() < math.radians(25)
    assert len(photos.smile.unique()) == 2 and 0.4 < (photos.smile > 0.5).float().mean() < 0.6
    assert (photos.mouth[photos.smile < 0.5] == 0).all() and photos.mouth.any()
    assert photos.eyes.min() > 0.8

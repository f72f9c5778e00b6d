"""Clips and photos: drawn the same again, with maps, poses and landmarks that agree with the picture."""

import pytest
import torch
from support.easel import LABEL, PLAIN, around, changed, styled
from torch import Tensor

from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.puppets.world import draw as world
from lavieid_adapters.puppets.world.canvas import Bounds
from lavieid_adapters.puppets.world.draw import FRAMES, PHOTO_SIZE, SIZE, draw_clips, draw_photos
from lavieid_adapters.puppets.world.grammar import EXPRESSIONS, MOTIONS, SCENES, prompt_ids
from lavieid_adapters.puppets.world.person import STYLES, people


def prompt(motion: str = "talk", scene: str = "office", expression: str = "neutral") -> Tensor:
    return torch.tensor([[SCENES.index(scene), MOTIONS.index(motion), EXPRESSIONS.index(expression)]])


@pytest.fixture(scope="module")
def clips():
    return draw_clips(people(range(4)), range(4))


@pytest.fixture(scope="module")
def photos():
    return draw_photos(people(range(40)), range(40))


def test_shapes_are_as_said(clips, photos):
    assert clips.video.shape == (4, FRAMES, 3, SIZE, SIZE) and clips.video.dtype == torch.uint8
    assert clips.maps.shape == (4, FRAMES, SIZE, SIZE) and clips.maps.dtype == torch.uint8
    assert clips.pose.shape == (4, FRAMES, 6) and clips.pose.dtype == torch.float32
    assert clips.prompts.shape == (4, 3) and [prompt_ids(text) for text in clips.captions] == [
        tuple(row) for row in clips.prompts.tolist()
    ]
    assert photos.images.shape == (40, 3, PHOTO_SIZE, PHOTO_SIZE) and photos.images.dtype == torch.uint8
    assert photos.maps.shape == (40, PHOTO_SIZE, PHOTO_SIZE) and photos.landmarks.shape == (40, 5, 2)
    assert clips.maps.max() == len(FACIAL_COMPONENTS)


def test_a_clip_alone_is_the_clip_in_a_batch_to_rounding(clips, photos):
    alone = draw_clips(people([2]), [2])
    assert_alike(alone.video[0], clips.video[2])
    assert (alone.maps[0] != clips.maps[2]).float().mean() < 1e-4
    torch.testing.assert_close(alone.pose[0], clips.pose[2])
    assert alone.captions[0] == clips.captions[2]
    photo = draw_photos(people([7]), [7])
    assert_alike(photo.images[0], photos.images[7])
    torch.testing.assert_close(photo.landmarks[0], photos.landmarks[7])


def assert_alike(first, second):
    difference = (first.int() - second.int()).abs()
    assert difference.max() <= 1 and difference.float().mean() < 1e-3


def test_the_seed_changes_the_clip_but_not_the_number_of_threads(clips):
    other = draw_clips(people([2]), [3], frames=3)
    assert not torch.equal(other.video[0], clips.video[2, :3])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = draw_clips(people([0, 1]), [0, 1], frames=3)
        torch.set_num_threads(3)
        assert torch.equal(draw_clips(people([0, 1]), [0, 1], frames=3).video, single.video)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_fewer_frames_are_the_first_of_the_clip(clips):
    start = draw_clips(people([1]), [1], frames=5)
    assert torch.equal(start.pose[0], clips.pose[1, :5])
    assert (start.video[0].int() - clips.video[1, :5].int()).abs().max() <= 1


def test_to_draw_only_where_the_head_is_loses_nothing(monkeypatch):
    styles = [choice for choice in STYLES[0].choices]
    crowd = people(range(len(styles)))
    crowd.styles[:, 0] = torch.arange(len(styles))
    motions = torch.tensor([[0, i % len(MOTIONS), 0] for i in range(len(styles))])
    cropped = draw_clips(crowd, range(len(styles)), motions, frames=4)
    everywhere = Bounds(0, 0, SIZE, SIZE)
    monkeypatch.setattr(world, "_bounds", lambda *_: (everywhere, everywhere))
    whole = draw_clips(crowd, range(len(styles)), motions, frames=4)
    assert (whole.video.int() - cropped.video.int()).abs().max() <= 1
    assert torch.equal(whole.maps, cropped.maps)


@pytest.mark.parametrize(
    ("name", "component"),
    [("iris_hue", "eyes"), ("hair_hue", "hair"), ("lip_hue", "mouth"), ("brow_thickness", "eyebrows")],
)
def test_a_parameter_changes_its_component(name, component):
    low, high = (draw_clips(changed(PLAIN, **{name: value}), range(4), frames=1) for value in (0.1, 0.75))
    difference = (low.video.int() - high.video.int()).abs().sum(2).float()
    inside = (low.maps == LABEL[component]) | (high.maps == LABEL[component])
    assert difference[inside].mean() > 8.0
    if name == "hair_hue":  # brows have the hair's colour
        inside |= low.maps == LABEL["eyebrows"]
    assert difference[around(inside)].sum() > 0.97 * difference.sum()


def test_nothing_outside_the_eyes_changes_with_the_iris():
    low, high = (draw_photos(changed(PLAIN, iris_hue=value), range(4)) for value in (0.1, 0.8))
    moved = (low.images.int() - high.images.int()).abs().sum(1) > 3
    assert moved.sum() > 100
    assert around(low.maps == LABEL["eyes"])[moved].all()
    assert (low.maps[moved] == LABEL["eyes"]).float().mean() > 0.95


def test_a_lent_component_changes_itself_most():
    lender = styled(people(range(200, 204)), hair_style="long")
    before, after = (draw_photos(crowd, range(4)) for crowd in (PLAIN, PLAIN.with_component("hair", lender)))
    difference = (before.images.int() - after.images.int()).abs().sum(1).float()
    hair = (before.maps == LABEL["hair"]) | (after.maps == LABEL["hair"])
    assert difference[hair].mean() > 10 * difference[before.maps == LABEL["eyes"]].mean()


def test_components_are_seen_in_nearly_all_photos(photos):
    for name, least in (("eyes", 1.0), ("mouth", 1.0), ("nose", 1.0), ("skin", 1.0), ("eyebrows", 0.9), ("hair", 0.85)):
        seen = (photos.maps == LABEL[name]).flatten(1).sum(1) >= 20
        assert seen.float().mean() >= least, name


def test_faces_are_large(photos):
    clips = draw_clips(PLAIN, range(4), prompt("talk").expand(4, 3), frames=1)
    for maps, low, high in ((clips.maps[:, 0], 52, 80), (photos.maps, 70, 128)):
        rows = (maps > 0).any(2).sum(1)
        assert low <= rows.float().mean() <= high
    eyes = clips.maps[:, 0] == LABEL["eyes"]
    assert (eyes.flatten(1).sum(1) >= 80).all()


def test_landmarks_lie_on_their_components(photos):
    number = torch.arange(len(photos.maps))
    for i, name in enumerate(("eyes", "eyes", "nose", "mouth", "mouth")):
        x, y = photos.landmarks[:, i].long().clamp(0, PHOTO_SIZE - 1).unbind(1)
        # Within two pixels: corners of the mouth are thin.
        near = torch.stack(
            [photos.maps[number, y + dy, x + dx] == LABEL[name] for dy in (-2, -1, 0, 1, 2) for dx in (-2, -1, 0, 1, 2)]
        )
        assert near.any(0).float().mean() > 0.95, name
    x = photos.landmarks[..., 0]
    assert (x[:, 0] < x[:, 2]).all() and (x[:, 2] < x[:, 1]).all() and (x[:, 3] < x[:, 4]).all()


def test_motions_move_what_they_say():
    def poses(motion: str) -> Tensor:
        return draw_clips(people(range(3)), range(3), prompt(motion).expand(3, 3), size=32).pose

    def span(pose: Tensor) -> Tensor:
        return (pose.amax(1) - pose.amin(1)).mean(0)

    yaw, pitch, roll, x, _, distance = range(6)
    assert span(poses("nod"))[pitch] > 3 * span(poses("nod"))[yaw]
    assert span(poses("shake"))[yaw] > 3 * span(poses("shake"))[pitch]
    assert span(poses("tilt"))[roll] > 3 * span(poses("tilt"))[pitch]
    assert span(poses("cross"))[x] > 3 * span(poses("nod"))[x]
    turn, near, far, up = (poses(motion) for motion in ("turn", "approach", "retreat", "look_up"))
    assert (turn[:, -1, yaw] - turn[:, 0, yaw] > 0.8).all() and turn[..., yaw].abs().max() < 0.8
    assert (near[:, 0, distance] - near[:, -1, distance] > 0.3).all()
    assert (far[:, -1, distance] - far[:, 0, distance] > 0.3).all()
    assert (up[:, 16, pitch] - up[:, 0, pitch] > 0.2).all()


def test_a_talking_mouth_opens_and_a_calm_one_does_not():
    talking, calm = (
        (draw_clips(PLAIN, range(4), prompt(motion).expand(4, 3)).maps == LABEL["mouth"]).flatten(2).sum(2).float()
        for motion in ("talk", "tilt")
    )
    assert (talking.std(1) > 2 * calm.std(1)).all()


def test_the_background_is_steady_but_not_frozen():
    video = draw_clips(PLAIN[:2], range(2), prompt("talk").expand(2, 3)).video[..., :30, :16].float()
    steps = (video[:, 1:] - video[:, :-1]).abs().mean((2, 3, 4))
    assert (video[:, 0] - video[:, 16]).abs().mean() > 0.5
    assert steps.max() < 12.0


def test_a_person_is_drawn_in_every_scene_and_size():
    rows = torch.cat([prompt("talk", scene) for scene in SCENES])
    clips = draw_clips(people([5] * len(SCENES)), [9] * len(SCENES), rows, frames=1, size=48)
    corners = clips.video[:, 0, :, :12, :12].float().mean((2, 3))
    assert torch.cdist(corners, corners).add(torch.eye(len(SCENES)) * 99).min() > 2.0
    assert all((clips.maps == label).flatten(1).any(1).all() for label in LABEL.values())


def test_what_cannot_be_drawn_is_refused():
    two = people([0, 1])
    with pytest.raises(ValueError, match="2 people and 3 seeds"):
        draw_clips(two, [0, 1, 2])
    with pytest.raises(ValueError, match="no people"):
        draw_photos(two[:0], [])
    with pytest.raises(ValueError, match=r"shape \(1, 3\), but 2 clips need \(2, 3\)"):
        draw_clips(two, [0, 1], prompt())
    with pytest.raises(TypeError, match=r"torch\.float32"):
        draw_clips(two, [0, 1], torch.zeros(2, 3))
    with pytest.raises(ValueError, match="The motion is 99, but must be 0 to"):
        draw_clips(two, [0, 1], torch.tensor([[0, 99, 0], [0, 0, 0]]))
    with pytest.raises(ValueError, match="size 8"):
        draw_clips(two, [0, 1], size=8)
    with pytest.raises(ValueError, match="frames 0"):
        draw_clips(two, [0, 1], frames=0)
    with pytest.raises(ValueError, match=r"size 64\.0"):
        draw_photos(two, [0, 1], size=64.0)

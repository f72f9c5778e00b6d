"""The judges' structure, untrained: shapes, files, what is refused, and what follows from true component maps."""

import json

import pytest
import torch
from diffusers import ModelMixin

from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.puppets import pipeline as base
from lavieid_adapters.puppets.judges.analyst import Analyst
from lavieid_adapters.puppets.judges.judges import Judges, has_face, shares
from lavieid_adapters.puppets.judges.motion_reader import MotionReader
from lavieid_adapters.puppets.judges.recognizer import Recognizer
from lavieid_adapters.puppets.world.draw import draw_clips, draw_photos
from lavieid_adapters.puppets.world.person import PARAMETERS, STYLES, people


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def judges() -> Judges:
    torch.manual_seed(0)
    analyst = Analyst()
    return Judges(Recognizer(), analyst, MotionReader(analyst.num_signs))


@pytest.fixture(scope="module")
def clips():
    return draw_clips(people([3, 4]), [1, 2], frames=3)


@pytest.fixture(scope="module")
def verdict(judges, clips):
    return judges.judge(clips.video)


@pytest.fixture(scope="module")
def folder(judges, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    judges.recognizer.save_pretrained(folder / "recognizer")
    judges.analyst.save_pretrained(folder / "analyst")
    judges.motion.save_pretrained(folder / "motion")
    return folder


def test_they_are_small(judges):
    assert count(judges.recognizer) <= 550_000
    assert count(judges.analyst) <= 700_000
    assert count(judges.motion) <= 50_000


def test_a_verdict_has_a_row_for_each_frame_or_video(verdict):
    frames = (2, 3)
    assert verdict.embeddings.shape == (*frames, 128)
    torch.testing.assert_close(verdict.embeddings.norm(dim=-1), torch.ones(frames))
    assert verdict.face.shape == frames and verdict.face.dtype == torch.bool
    assert verdict.maps.shape == (*frames, 96, 96) and verdict.maps.dtype == torch.uint8
    assert verdict.visible.shape == (*frames, 6)
    assert verdict.values.shape == (*frames, len(PARAMETERS))
    assert verdict.values.min() >= 0 and verdict.values.max() <= 1
    assert verdict.styles.shape == (*frames, len(STYLES))
    assert verdict.prompts.shape == (2, 3) and verdict.prompts.dtype == torch.int64
    assert verdict.pose.shape == (*frames, 6)
    assert verdict.subject.shape == verdict.background.shape and verdict.subject.shape[:2] == frames


def test_a_verdict_depends_on_the_frame_alone_and_not_on_the_batch(judges, clips, verdict):
    again = judges.judge(clips.video[1:], batch=2)
    for name in ("embeddings", "values", "pose", "subject", "background"):
        mine, theirs = getattr(again, name), getattr(verdict, name)[1:]
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        assert (getattr(verdict, name)[0] - getattr(verdict, name)[1]).abs().max() > 1e-4, "nothing is told apart"


def test_photos_and_frames_are_embedded_alike(judges, clips, verdict):
    torch.testing.assert_close(judges.embed(clips.video[0], batch=2), verdict.embeddings[0], rtol=1e-4, atol=1e-5)
    photos = draw_photos(people([3, 4]), [1, 2])
    assert judges.embed(photos.images).shape == (2, 128)


def test_component_errors_are_of_frames_that_show_the_component(verdict):
    crowd = people([3, 4])
    seen = type(verdict)(**vars(verdict))
    seen.face = torch.tensor([[True, True, False], [False, False, False]])
    seen.visible = torch.ones(2, 3, 6, dtype=torch.bool)
    seen.visible[0, 1, 1] = False  # the eyes, in the frame in the middle
    errors = seen.component_errors(crowd)
    assert errors[1].isnan().all()
    for i, name in enumerate(FACIAL_COMPONENTS):
        columns = [j for j, parameter in enumerate(PARAMETERS) if parameter.component == name]
        wrong = (seen.values[0] - crowd.values[0]).abs()[:, columns].mean(1)
        wanted = wrong[0] if name == "eyes" else wrong[:2].mean()
        torch.testing.assert_close(errors[0, i], wanted)
    with pytest.raises(ValueError, match="1 people for 2 videos"):
        seen.component_errors(crowd[0])


def test_true_maps_of_drawn_clips_have_faces_and_others_have_none():
    seeds = list(range(500, 512))
    retreating = torch.tensor([[0, 5, 0]]).expand(12, 3).contiguous()  # as small as heads become
    clips = draw_clips(people(seeds), seeds, retreating)
    assert has_face(clips.maps[:, ::8]).all()
    assert not has_face(torch.zeros(1, 96, 96, dtype=torch.uint8)).any()
    smooth = torch.where(clips.maps == 5, clips.maps, 0)  # skin without eyes and a mouth
    assert not has_face(smooth[:, 0]).any()
    assert shares(smooth)[..., 4].min() > 0.02


def test_saved_in_half_precision_they_load_in_float32_and_say_the_same(judges, clips, verdict, folder, tmp_path):
    loaded = Judges.from_pretrained(folder).judge(clips.video)
    for name, value in vars(verdict).items():
        assert torch.equal(getattr(loaded, name), value), name
    for name in ("recognizer", "analyst", "motion"):
        model = getattr(Judges.from_pretrained(folder), name)
        assert isinstance(model, ModelMixin) and not model.training
        model.half().save_pretrained(tmp_path / name)
    halves = Judges.from_pretrained(tmp_path)
    assert halves.analyst.dtype == halves.recognizer.dtype == torch.float32
    torch.testing.assert_close(halves.judge(clips.video).values, verdict.values, rtol=0, atol=1e-2)


def test_another_world_than_that_of_the_training_is_refused(folder, tmp_path):
    (tmp_path / "analyst").mkdir()
    config = json.loads((folder / "analyst" / "config.json").read_text())
    assert len(config["parameters"]) == len(PARAMETERS)
    config["parameters"] = [["brow_thickness", "eyebrows", 0.5, 0.6], *config["parameters"][1:]]
    (tmp_path / "analyst" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"differ in .*brow_thickness.* Train it again"):
        Analyst.from_config(Analyst.load_config(tmp_path / "analyst"))
    with pytest.raises(ValueError, match="knows 2 motions of the drawn world"):
        MotionReader(8, motions=("nod", "jump"))
    analyst = Analyst()
    with pytest.raises(ValueError, match="takes 8 signs, but this analyst gives"):
        Judges(Recognizer(), analyst, MotionReader(8))


def test_missing_folders_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no recognizer and no analyst and no motion"):
        Judges.from_pretrained(tmp_path)


def test_the_packages_judges_are_the_default(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="The drawn world's weights are missing"):
        Judges.from_pretrained()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="judges' has no recognizer and no analyst and no motion"):
        Judges.from_pretrained()
    (tmp_path / "judges").symlink_to(folder, target_is_directory=True)
    assert isinstance(Judges.from_pretrained(), Judges)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda j: j.judge(torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8)), r"\(1, 2, 3, 64, 64\), but must be uint8"),
        (lambda j: j.judge(torch.zeros(1, 2, 3, 96, 96)), "float32 of shape"),
        (lambda j: j.embed(torch.zeros(1, 3, 96, 96)), "float32 of shape .* must be uint8"),
        (lambda j: j.embed(torch.zeros(1, 3, 96, 90, dtype=torch.uint8)), r"\(96, 90\) pixels, but must be square"),
        (lambda j: j.recognizer(torch.zeros(1, 3, 128, 128)), r"\(1, 3, 128, 128\), but this recognizer .* 96, 96"),
        (lambda j: j.analyst(torch.zeros(1, 3, 96, 96, dtype=torch.uint8)), "uint8 of shape .* takes floating point"),
        (lambda j: j.motion(torch.zeros(1, 3, 6), torch.zeros(1, 3, 5)), r"\(1, 3, 5\), but this reader takes"),
    ],
)
def test_wrong_inputs_are_refused(judges, call, message):
    with pytest.raises(ValueError, match=message):
        call(judges)

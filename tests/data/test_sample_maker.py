"""A clip becomes a sample: its files, the line of the index, and the reasons against it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

pytest.importorskip("av")

from support.tiny_clips import BLUE, RED, drawn_faces, save_base, walk, write_video

from lavieid_adapters.data.base_encoders import BaseEncoders
from lavieid_adapters.data.clips import Clip, Rejected
from lavieid_adapters.data.sample_maker import PREVIEW_WIDTH, PREVIEWS, SampleMaker, previewed
from lavieid_adapters.data.shards import read_picture
from lavieid_adapters.data.video import Bucket


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Those of a small CogVideoX."""
    base = save_base(tmp_path_factory.mktemp("samples") / "base")
    return BaseEncoders(base, 16, torch.float32, torch.device("cpu"))


@pytest.fixture
def clips(tmp_path):
    """Two clips of one person, and one of another."""
    for name, colour in (("a", RED), ("b", RED), ("c", BLUE)):
        write_video(tmp_path / f"{name}.mp4", walk(colour, frames=9, start=30 + ord(name) - 97))
    return [Clip(Path(f"{n}.mp4"), f"Clip {n}.", None, "red" if n != "c" else None, tmp_path) for n in "abc"]


def maker(clips, encoders, seed: int = 0, min_face_share: float = 0.5) -> SampleMaker:
    return SampleMaker(clips, encoders, drawn_faces(), [Bucket(5, 64, 96)], 8.0, min_face_share, seed)


def test_a_sample_holds_the_clip_its_person_and_what_the_base_makes_of_both(clips, encoders):
    members, line = maker(clips, encoders).make(clips[0])
    assert line == {"video": "a.mp4", "person": "red", "frames": 5, "height": 64, "width": 96}
    about, tensors = json.loads(members["json"]), load(members["safetensors"])
    assert about["caption"] == "Clip a." and about["fps"] == 8 and about["reference"].startswith("b.mp4#t=")
    assert torch.equal(tensors["prompt_embeds"], encoders.encode_prompt("Clip a."))
    assert tensors["latents"].shape == (2, 4, 8, 12)
    maps = read_picture(members["maps.png"])
    assert maps.shape == (5 * 64, 96) and set(np.unique(maps)) >= {0, 5}
    assert read_picture(members["preview.jpg"]).shape == (160, PREVIEWS * PREVIEW_WIDTH, 3)


def test_a_clip_without_a_name_is_its_own_reference(clips, encoders):
    members, line = maker(clips, encoders).make(clips[2])
    assert line["person"] is None and json.loads(members["json"])["reference"].startswith("c.mp4#t=")


def test_the_same_seed_gives_the_same_bytes_and_another_other_latents(clips, encoders):
    first, again, other = (maker(clips, encoders, seed).make(clips[0])[0] for seed in (0, 0, 1))
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {"safetensors"}


def test_an_empty_caption_is_refused_before_the_video_is_read(clips, encoders):
    with pytest.raises(Rejected, match="empty caption"):
        maker(clips, encoders).make(Clip(Path("nothing.mp4"), " \n"))


def test_latents_that_are_not_finite_are_refused(clips, encoders, monkeypatch):
    monkeypatch.setattr(encoders, "encode_frames", lambda frames, seed: torch.full((2, 4, 8, 12), torch.nan))
    with pytest.raises(Rejected, match=r"latents are not finite: in torch\.float32"):
        maker(clips, encoders).make(clips[0])


@pytest.mark.parametrize("frames", [1, 5, 49])
def test_previews_run_from_the_first_frame_to_the_last(frames):
    shown = previewed(frames)
    assert len(shown) == PREVIEWS and shown == sorted(shown) and (shown[0], shown[-1]) == (0, frames - 1)

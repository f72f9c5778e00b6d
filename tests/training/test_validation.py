"""What a run generates on the way: whom, with what, and which pictures."""

import av
import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from PIL import Image
from support.small_cogvideox import PROMPT, small_components
from support.tiny_clips import RED, DrawnFaces, draw, drawn_faces
from support.tiny_shards import write_shards

from lavieid_adapters import FaceProcessor
from lavieid_adapters.training.trainer import Trainer


def frames(path) -> np.ndarray:
    with av.open(str(path)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def perturb(trainer) -> None:
    weight = trainer.adapters["router"].cross_attention.to_out.weight
    torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(0))


def test_the_first_samples_are_shown_as_the_adapters_make_them(here, tmp_path):
    trainer = Trainer(here.config(tmp_path / "out", validate_every=1))
    assert [subject.prompt for subject in trainer.validation.subjects] == ["Person 0 walks.", "Person 1 walks."]
    assert trainer.validation.subjects[1].hidden == ["hair"]
    trainer.validation(tmp_path / "fresh", [0, 1])
    assert sorted(p.name for p in (tmp_path / "fresh").iterdir()) == ["0.mp4", "0.png", "1.mp4", "1.png"]
    trainer.validation(tmp_path / "again", [0])  # the same noise each time
    assert (tmp_path / "again" / "0.mp4").read_bytes() == (tmp_path / "fresh" / "0.mp4").read_bytes()
    perturb(trainer)
    trainer.validation(tmp_path / "acting", [0])
    fresh, acting = frames(tmp_path / "fresh" / "0.mp4"), frames(tmp_path / "acting" / "0.mp4")
    assert fresh.shape == acting.shape and not np.array_equal(fresh[:, :32], acting[:, :32])
    trainer.validation(None, [0])  # what a process does that does not write


def test_one_sample_is_enough(here, tmp_path):
    shards = write_shards(tmp_path / "shards", [(5, 32, 48)], base=here.base)
    trainer = Trainer(here.config(tmp_path / "out", validate_every=1, steps=1, shards=str(shards)))
    folder = trainer.run() / "validation" / "step-00000001"
    assert sorted(p.name for p in folder.iterdir()) == ["0.mp4", "0.png"]


def test_without_a_router_the_video_is_shown_alone(here, tmp_path):
    trainer = Trainer(here.config(tmp_path / "out", "tam", validate_every=1, steps=1))
    video = frames(trainer.run() / "validation" / "step-00000001" / "0.mp4")
    assert video.shape[1:] == (32, 48, 3)
    plain = Trainer(here.config(tmp_path / "plain", "tam", validate_every=1))
    torch.nn.init.normal_(plain.adapters["tam"].to_latents.weight, std=0.5)
    plain.validation(tmp_path / "refined", [0])
    assert not np.array_equal(frames(tmp_path / "refined" / "0.mp4"), video)


def test_a_host_whose_tokens_span_frames_gives_as_many_frames_as_the_clip_has(tmp_path, here):
    # As CogVideoX 1.5: three latent frames are padded to four, of which one is to be dropped again.
    components = small_components(patch_size_t=2, patch_bias=False)
    CogVideoXPipeline(**components).save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    shards = write_shards(tmp_path / "shards", [(9, 32, 48)] * 2, base=base)
    trainer = Trainer(here.config(tmp_path / "out", base=base, shards=str(shards), validate_every=1, steps=1))
    folder = trainer.run() / "validation" / "step-00000001"
    assert frames(folder / "0.mp4").shape == (9, 64, 48, 3)


def test_a_reference_that_is_not_there_is_found_out_before_the_first_step(here, tmp_path):
    entry = {"reference": str(tmp_path / "nobody.jpg"), "prompt": PROMPT}
    with pytest.raises((OSError, ValueError)) as caught:
        Trainer(here.config(tmp_path / "out", validate_every=1, validation=[entry]))
    assert "nobody.jpg" in str(caught.value)


def test_references_without_a_router_are_refused(here, tmp_path):
    (tmp_path / "a.jpg").touch()
    entry = {"reference": str(tmp_path / "a.jpg"), "prompt": PROMPT}
    with pytest.raises(ValueError, match="validation names references, but there is no router to show them"):
        Trainer(here.config(tmp_path / "out", "tam", validate_every=1, validation=[entry]))


def test_named_people_and_prompts_are_generated(here, tmp_path, monkeypatch):
    """A detector and a parser of drawn faces stand where the face models would be downloaded to."""
    monkeypatch.setattr(FaceProcessor, "for_encoder", lambda encoder, **kwargs: drawn_faces())
    Image.fromarray(draw((RED, 48, 32, 24))).save(tmp_path / "person.png")
    entries = [{"reference": str(tmp_path / "person.png"), "prompt": PROMPT}]
    monkeypatch.setattr(DrawnFaces, "embed", lambda self, image, landmarks: np.ones(12, np.float32))
    config = here.config(tmp_path / "out", steps=2, validate_every=2, validation=entries, checkpoint_every=2)
    out = Trainer(config).run()
    with Image.open(out / "validation" / "step-00000002" / "0.png") as sheet:
        assert sheet.width > sheet.height
    assert not (out / "validation" / "step-00000002" / "1.png").exists()


def test_a_photo_that_is_not_there_is_named_before_anything_is_loaded(here, tmp_path):
    entry = {"reference": "nowhere.jpg", "prompt": PROMPT}
    with pytest.raises(FileNotFoundError, match=r"no photo 'nowhere.jpg', which validation names"):
        Trainer(here.config(tmp_path / "out", validate_every=1, validation=[entry]))

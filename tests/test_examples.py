"""The example that users copy: offline in the drawn world, and on a base, adapters and a photo of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

import av
import generate
import numpy as np
import pytest
from diffusers import CogVideoXPipeline
from PIL import Image, ImageSequence
from support import tiny
from support.small_cogvideox import small_components
from support.tiny_face import HAND_MADE, THIRD_PARTY_WARNINGS, photo

from lavieid_adapters.models.checkpoint import Metadata, save_folder

EXAMPLE = Path(generate.__file__)
pytestmark = THIRD_PARTY_WARNINGS


@pytest.fixture
def generate_prints(monkeypatch, capsys):
    """Run the example with arguments, in this process, which has loaded the libraries; what it prints."""

    def prints(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
        generate.main()
        return capsys.readouterr().out

    return prints


def test_generate_runs_end_to_end_on_the_cpu(generate_prints, tmp_path):
    out = generate_prints("--steps", "1", "--frames", "5", "--output", str(tmp_path / "clip.gif"))
    assert "after detaching: 0.0" in out and "1 identity" in out
    frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(tmp_path / "clip.gif"))]
    assert len(frames) == 5
    assert frames[0].shape == (96, 2 * 96, 3)
    before, attached = np.split(np.stack(frames).astype(int), 2, axis=2)
    assert before.std() > 0 and np.abs(attached - before).mean() > 1


@pytest.mark.slow
def test_generate_goes_from_a_photo_to_a_video(tmp_path):
    Image.fromarray(generate.drawn_photo()).save(tmp_path / "photo.png")
    command = [sys.executable, str(EXAMPLE), "--image", str(tmp_path / "photo.png")]
    command += ["--prompt", "A person talks in a kitchen, with a calm face."]
    command += ["--steps", "2", "--frames", "9", "--output", str(tmp_path / "clip.gif")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "Identity(6 × 8 × 96 tokens" in run.stdout
    assert "after detaching: 0.0" in run.stdout
    assert Image.open(tmp_path / "clip.gif").n_frames == 9


def test_a_video_in_another_format_needs_no_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio", None)
    frames = np.zeros((2, 4, 4, 3))
    frames[1] = 1
    generate.save(frames, tmp_path / "new" / "clip.mp4")
    with av.open(str(tmp_path / "new" / "clip.mp4")) as video:
        first, second = (frame.to_ndarray(format="rgb24").mean() for frame in video.decode(video=0))
    assert first < 10 and second > 245


def test_a_model_needs_a_person(generate_prints, capsys):
    with pytest.raises(SystemExit):
        generate_prints("--model", "zai-org/CogVideoX-5b")
    assert "--model needs a person: give --image or --identity" in capsys.readouterr().err


def test_generate_reads_a_photo_by_the_default_face_models(face_models, generate_prints, tmp_path, monkeypatch):
    """The way of a real model: a pipeline's folder, adapters' folder, and the models where their libraries put them."""
    pytest.importorskip("insightface")
    CogVideoXPipeline(**small_components(sample_width=12, sample_height=8)).save_pretrained(tmp_path / "model")
    encoder = tiny.encoder(id_dim=524, vision_model=str(face_models.clip))
    save_folder({"router": tiny.router(), "encoder": encoder, "tam": tiny.tam()}, tmp_path / "adapters", Metadata())
    shutil.copytree(face_models.pack, tmp_path / "home" / ".insightface" / "models" / "antelopev2")
    Image.fromarray(photo("astronaut")).save(tmp_path / "photo.png")
    options = {
        "model": tmp_path / "model", "adapters": tmp_path / "adapters", "image": tmp_path / "photo.png",
        "component-map": HAND_MADE, "prompt": "She smiles.", "steps": 1, "frames": 5, "output": tmp_path / "clip.gif",
    }  # fmt: skip
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    out = generate_prints(*(f"--{name}={value}" for name, value in options.items()))
    assert "hidden: none" in out and "after detaching: 0.0" in out
    assert Image.open(tmp_path / "clip.gif").n_frames == 5


def test_a_map_without_a_photo_is_refused(generate_prints, capsys):
    with pytest.raises(SystemExit):
        generate_prints("--identity", "me.safetensors", "--component-map", "map.png")
    assert "--component-map goes with a photo" in capsys.readouterr().err

import shutil
import subprocess
import sys
from pathlib import Path

import generate
import numpy as np
import pytest
from diffusers import CogVideoXPipeline
from generate import small_components
from PIL import Image, ImageSequence
from support import tiny
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
    assert "after detaching: 0.0" in out
    frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(tmp_path / "clip.gif"))]
    assert len(frames) == 5
    assert frames[0].shape == (128, 192, 3)
    assert np.stack(frames).std() > 0


@pytest.mark.slow
def test_generate_goes_from_a_photo_to_a_video(tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (96, 80, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    command = [sys.executable, str(EXAMPLE), "--image", str(tmp_path / "photo.jpg"), "--prompt", "She smiles."]
    command += ["--steps", "2", "--frames", "9", "--output", str(tmp_path / "clip.gif")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "Identity(6 × 8 × 32 tokens" in run.stdout
    assert "after detaching: 0.0" in run.stdout
    assert Image.open(tmp_path / "clip.gif").n_frames == 9


def test_a_video_format_of_an_extra_that_is_missing_names_the_pip_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio", None)
    with pytest.raises(ImportError, match=r"pip install 'lavieid-adapters\[app\]'"):
        generate.save_video(np.zeros((2, 4, 4, 3)), tmp_path / "clip.mp4")


def test_generate_reads_a_photo_by_the_default_face_models(face_models, generate_prints, tmp_path, monkeypatch):
    """The way of a real model: a pipeline's folder, adapters' folder, and the models where their libraries put them."""
    pytest.importorskip("insightface")
    # The example computes in bfloat16, for which CPUs have no fast convolution.
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

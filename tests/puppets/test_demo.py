"""The demo: what it refuses, and from the trained weights the whole of it."""

import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from lavieid_adapters.cli import main as cli
from lavieid_adapters.puppets import caption
from lavieid_adapters.puppets import pipeline as base
from lavieid_adapters.puppets.demo import run_demo

PROMPT = caption(0, 0, 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prompt", "A dragon sleeps."], "must name one scene"),
        (["--identity", "100000"], "There is no person 100000. Give a number from 0 to 99999"),
        (["--mix", "eyes=-1"], "There is no person -1"),
        (["--mix", "ears=4"], "'ears' is no component. Give one of eyebrows, eyes"),
        (["--component", "ears=0"], "'ears' is no component"),
        (["--mix", "eyes=7", "--mix", "hair=5", "eyes=4"], "--mix sets 'eyes' twice, to 7 and to 4: say it once"),
        (["--component", "hair=0", "hair=0.5"], "--component sets 'hair' twice, to 0 and to 0.5"),
        (["--steps", "0"], "0 denoising steps are too few"),
        ([], "The drawn world's weights are missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_shown_is_one_line_and_status_1(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base, "WEIGHTS", tmp_path / "weights")
    assert cli.main(["demo", *argv, "--out", str(tmp_path / "out")]) == 1
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("lavieid: ") and message in error and len(error.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--mix", "--component"])
def test_several_settings_are_given_at_once_or_one_by_one(option, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base, "WEIGHTS", tmp_path / "weights")
    for argv in (
        [option, "hair=3", "ears=4"],
        [option, "hair=3", option, "ears=4"],
        [option, "ears=4", option, "hair=3"],
    ):
        assert cli.main(["demo", *argv]) == 1
        assert "'ears' is no component" in capsys.readouterr().err  # each is looked at


@pytest.mark.parametrize("argv", [["--mix", "eyes"], ["--mix", "eyes=two"], ["--component", "hair"], ["--seed", "x"]])
def test_a_setting_that_is_none_shows_the_usage(argv, capsys):
    with pytest.raises(SystemExit):
        cli.main(["demo", *argv])
    assert "usage: lavieid demo" in capsys.readouterr().err


def test_help_lists_what_a_prompt_can_say(capsys):
    with pytest.raises(SystemExit):
        cli.main(["demo", "--help"])
    out = capsys.readouterr().out
    assert PROMPT in out and all(word in out for word in ("scenes: park", "motions: nod", "faces: neutral"))


@pytest.fixture
def trained():
    if not (base.WEIGHTS / "model_index.json").is_file():
        pytest.skip("the trained weights are not in this checkout")


def test_the_demo_writes_a_video_a_moving_picture_and_a_sheet(trained, tmp_path, capsys):
    argv = ["--identity", "3", "--mix", "eyes=7", "hair=12", "--component", "mouth=0", "--steps", "1"]
    argv += ["--guidance", "1"]
    assert cli.main(["demo", *argv, "--out", str(tmp_path)]) == 0
    out, error = capsys.readouterr()
    assert (
        out.startswith(f"{tmp_path}: demo.mp4, demo.")
        and "with the eyes of person 7" in out
        and "whatever mouth the base gives" in out
    )
    assert "without LaVieID: 100%" in error and "   with LaVieID: 100%" in error
    with av.open(str(tmp_path / "demo.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 33 and frames[0].shape[1] == 4 * 302 + 14
    (moving,) = {*tmp_path.glob("demo.webp"), *tmp_path.glob("demo.gif")}
    assert Image.open(moving).n_frames == 33
    without, with_ = (np.stack(frames)[:, 44:332, left : left + 288].astype(int) for left in (316, 618))
    assert np.abs(without - with_).mean() > 1
    assert Image.open(tmp_path / "demo.png").height > 600


@pytest.mark.slow
def test_the_demo_needs_no_extra_and_no_network(trained, tmp_path):
    blocked = ["insightface", "facexlib", "onnxruntime", "cv2", "timm", "imageio", "scipy", "matplotlib"]
    code = f"""
import socket, sys
for name in {blocked}:
    sys.modules[name] = None
def refuse(*args, **kwargs):
    raise OSError("no network")
socket.socket.connect = refuse
from lavieid_adapters.cli.main import main
sys.exit(main(["demo", "--steps", "2", "--out", {str(tmp_path)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "What to look at" in done.stdout and (tmp_path / "demo.mp4").is_file()


@pytest.mark.slow
def test_the_same_numbers_give_the_same_pictures(trained, tmp_path):
    for name in "ab":
        run_demo(tmp_path / name, PROMPT, steps=1, guidance=1.0)
    first, second = (np.asarray(Image.open(tmp_path / name / "demo.png")) for name in "ab")
    assert np.array_equal(first, second)

"""`lavieid prepare`, `inspect` and `convert-consisid`."""

import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import tiny_face

from lavieid_adapters.cli import main as cli

pytestmark = tiny_face.THIRD_PARTY_WARNINGS


@pytest.fixture(scope="module")
def filmed(prepared, tmp_path_factory):
    """A base, and two clips of the astronaut, beside one that is missing."""
    pytest.importorskip("av")
    pytest.importorskip("accelerate")
    from support.tiny_clips import save_base, write_clips, write_video

    folder = tmp_path_factory.mktemp("filmed")
    save_base(folder / "base")
    write_video(folder / "videos" / "a.mp4", [tiny_face.photo("astronaut")] * 5)
    names = ("a", "a", "missing")
    clips = [{"video": f"videos/{name}.mp4", "caption": f"She walks {i}."} for i, name in enumerate(names)]
    write_clips(folder / "clips.jsonl", *clips)
    return folder


@pytest.fixture
def prepare(filmed, face_models, blind, tmp_path, monkeypatch):
    """Run `lavieid prepare` in a folder with the clips."""
    shutil.copytree(filmed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    models = ["--base", "base", "--model-pack", str(face_models.pack), "--weights-dir", str(blind)]
    settings = ["--buckets", "1x256x256", "1x256x384", "--min-face", "40", "--dtype", "float32"]
    settings += ["--samples-per-shard", "1"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda *argv: cli.main(["prepare", "clips.jsonl", "--out", "shards", *settings, *models, *argv])
    torch.set_num_threads(before)


def test_clips_become_shards_that_can_be_inspected(prepare, capsys):
    from lavieid_adapters.data.shards import Shards

    assert prepare() == 0
    out, err = capsys.readouterr()
    assert out == "shards: 2 samples in 2 shards, 1 clips rejected\n"
    assert re.search(r"no such file +│ +1 +│ +videos/missing\.mp4", err) and "Traceback" not in err
    shards = Shards("shards")
    assert shards.header["base"] == "base" and shards.header["dtype"] == "float32"
    assert {(line["frames"], line["height"], line["width"]) for line in shards.index} == {(1, 256, 256)}
    assert cli.main(["inspect", "shards", "-o", "sheets/sheet.png", "--samples", "1"]) == 0
    assert capsys.readouterr().out == "sheets/sheet.png: 1 of 2 samples\n"
    one = Image.open("sheets/sheet.png")
    assert cli.main(["inspect", "shards", "-o", "sheet.jpg"]) == 0
    assert capsys.readouterr().out == "sheet.jpg: 2 of 2 samples\n"
    assert Image.open("sheet.jpg").height > one.height
    assert prepare("--fps", "4") == 1
    assert "fps 8.0 instead of 4.0" in capsys.readouterr().err


def test_terminated_it_says_so_and_goes_on_when_it_is_repeated(prepare, capsys):
    journal = Path("shards", "journal-00000.jsonl")

    def stop():
        while not (journal.is_file() and journal.stat().st_size):  # until the first clip is done
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    handler = signal.getsignal(signal.SIGTERM)
    assert prepare() == 130
    assert signal.getsignal(signal.SIGTERM) is handler
    assert capsys.readouterr().err.endswith("lavieid: stopped; the same command goes on where it was\n")
    first = journal.read_text()
    assert first and not Path("shards", "index.jsonl").exists()
    assert cli.main(["inspect", "shards", "-o", "sheet.png"]) == 1
    assert "lavieid prepare has not finished, run it again" in capsys.readouterr().err
    assert prepare() == 0
    assert journal.read_text().startswith(first)
    assert capsys.readouterr().out == "shards: 2 samples in 2 shards, 1 clips rejected\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--base", "no/such-base"], "'no/such-base' is no folder here"),
        (["--buckets", "48x256x256"], "has 48 frames"),
        (["--buckets", "wide"], "Write frames, height and width"),
        (["--device", "toaster"], "toaster"),
        (["--weights-dir", "nowhere"], "'nowhere/detection_Resnet50_Final.pth' is not there"),
        (["--out", "clips.jsonl"], "'clips.jsonl' is a file"),
        (["--out", "videos"], "holds other files (a.mp4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_prepared_is_one_line_and_status_1(prepare, capsys, tmp_path, argv, message):
    before = sorted(tmp_path.rglob("*"))
    assert prepare(*argv) == 1
    out, err = capsys.readouterr()
    error = err[err.find("lavieid: ") :]
    assert out == "" and "Traceback" not in err
    assert error.startswith("lavieid: ") and message in error and len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_list_that_is_wrong_names_the_line(prepare, capsys):
    Path("clips.jsonl").write_text('{"video": "a.mp4", "captoin": "x"}')
    assert prepare() == 1
    assert capsys.readouterr().err == "lavieid: 'clips.jsonl', line 1: 'captoin' is not known: say caption.\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["prepare", "clips.jsonl", "--out", "shards"],
        ["prepare", "clips.jsonl", "--base", "base"],
        ["prepare", "clips.jsonl", "--base", "b", "--out", "o", "--fps", "0"],
        ["prepare", "clips.jsonl", "--base", "b", "--out", "o", "--fps", "nan"],
        ["prepare", "clips.jsonl", "--base", "b", "--out", "o", "--min-face-share", "1.5"],
        ["prepare", "clips.jsonl", "--base", "b", "--out", "o", "--dtype", "int8"],
        ["inspect", "shards"],
        ["inspect", "shards", "-o", "a.png", "--samples", "-1"],
        ["convert-consisid", "list.txt"],
    ],
    ids=" ".join,
)
def test_data_commands_show_their_usage(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2 and f"usage: lavieid {argv[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["prepare", "inspect", "convert-consisid"])
def test_help_of_a_data_command_has_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert re.search(rf"\n  lavieid {command} \S+ .*\n", capsys.readouterr().out)


def test_consisids_list_is_converted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    Path("videos", "a.mp4").touch()
    Path("captions.json").write_text('[{"path": "a.mp4", "cap": "x"}, {"path": "b.mp4", "cap": "x"}]')
    assert cli.main(["convert-consisid", "captions.json", "-o", "clips.jsonl"]) == 0
    assert capsys.readouterr().out == "clips.jsonl: 1 clips, left out: 1 no such video\n"
    assert Path("clips.jsonl").read_text() == '{"video": "videos/a.mp4", "caption": "x"}\n'
    assert cli.main(["inspect", "videos", "-o", "sheet.png"]) == 1
    assert "these are no shards" in capsys.readouterr().err

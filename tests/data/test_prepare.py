"""Clips become shards: what is in them, what is rejected and why, and that nothing stops them for good."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

pytest.importorskip("av")
pytest.importorskip("accelerate")

from diffusers import CogVideoXPipeline
from support.prepare_script import run
from support.tiny_clips import BLUE, RED, draw, drawn_faces, save_base, walk, write_clips, write_video

from lavieid_adapters.data.clips import read_clips
from lavieid_adapters.data.prepare import prepare_clips
from lavieid_adapters.data.shards import Shards
from lavieid_adapters.data.video import Bucket, read_frames
from lavieid_adapters.faces.components import PALETTE

TESTS = Path(__file__).parents[1]
GOOD = 8


def read(out) -> dict[str, dict[str, bytes]]:
    """Key → members."""
    shards = Shards(out)
    return {line["key"]: shards.members(i) for i, line in enumerate(shards.index)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several are slower for models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, and clips of which GOOD can be used."""
    folder = tmp_path_factory.mktemp("prepare")
    save_base(folder / "base")
    lines = []
    for i in range(GOOD):
        video = write_video(
            folder / "videos" / f"{i}.mp4", walk((RED, BLUE)[i % 2], frames=5 if i == 3 else 9, start=30 + i)
        )
        lines.append({"video": str(video.relative_to(folder)), "caption": f"She walks through a park {i}."})
    lines[1] |= {"person": "blue"}
    lines[5] |= {"person": "blue"}
    Image.fromarray(draw((RED, 60, 60, 40), size=(120, 120))).save(folder / "red.png")
    lines[2] |= {"reference": "red.png"}
    write_video(folder / "videos" / "nobody.mp4", [draw()] * 9)
    write_video(folder / "videos" / "short.mp4", walk(frames=3))
    (folder / "videos" / "broken.mp4").write_bytes((folder / "videos" / "0.mp4").read_bytes()[:900])
    (folder / "sound.mp4").write_text("nothing")
    bad = [("nobody", "x"), ("short", "x"), ("broken", "x"), ("missing", "x"), ("0", " \n")]
    lines += [{"video": f"videos/{name}.mp4", "caption": caption} for name, caption in bad]
    lines += [{"video": "videos/0.mp4", "caption": "x", "reference": "videos/0.mp4"}]
    lines += [{"video": "videos/0\x00.mp4", "caption": "x"}]
    write_clips(folder / "clips.jsonl", *lines)
    return folder


@pytest.fixture(scope="module")
def made(folder):
    """The folder of the shards of a run that nothing disturbed."""
    run(folder, folder / "made")
    return folder / "made"


# what is in a sample


def test_every_file_of_a_sample_is_as_documented(made):
    shards = Shards(made)
    assert len(shards) == GOOD and shards.null_prompt.shape == (16, 32)
    assert sorted(line["video"] for line in shards.index) == [f"videos/{i}.mp4" for i in range(GOOD)]
    for i, line in enumerate(shards.index):
        members = shards.members(i)
        frames = line["frames"]
        assert (frames, line["height"], line["width"]) == (5 if line["video"] == "videos/3.mp4" else 9, 64, 96)
        about, tensors = json.loads(members["json"]), load(members["safetensors"])
        assert about["caption"].startswith("She walks through a park") and about["fps"] == 8 and about["start"] >= 0
        assert {k: about[k] for k in ("video", "person", "frames", "height", "width")} == {
            k: line[k] for k in ("video", "person", "frames", "height", "width")
        }
        assert about["hidden"] == {} and np.shape(about["matrix"]) == (2, 3)
        assert tensors["latents"].shape == ((frames - 1) // 4 + 1, 4, 8, 12)
        assert tensors["prompt_embeds"].shape == (16, 32) and tensors["id_embedding"].shape == (512,)
        assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
        pictures = {name: Image.open(io.BytesIO(members[name])) for name in members if name[-3:] in ("png", "jpg")}
        sizes = {name: (picture.size, picture.mode) for name, picture in pictures.items()}
        assert sizes == {
            "maps.png": ((96, 64 * frames), "P"),
            "aligned.png": ((512, 512), "RGB"),
            "aligned_map.png": ((512, 512), "P"),
            "preview.jpg": ((6 * 240, 160), "RGB"),
        }
        assert tuple(pictures["maps.png"].getpalette()[: 3 * len(PALETTE)]) == sum(PALETTE, ())
        assert set(np.unique(np.asarray(pictures["maps.png"]))) == set(range(7))


def test_latents_and_prompts_are_those_of_the_base(folder, made):
    pipe = CogVideoXPipeline.from_pretrained(folder / "base")
    shards = Shards(made)
    for i, line in enumerate(shards.index):
        tensors = load(shards.members(i)["safetensors"])
        frames, _, _ = read_frames(folder / line["video"], 8, [Bucket(line["frames"], line["height"], line["width"])])
        with torch.no_grad():
            pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            given = pipe.vae.encode(pixels).latent_dist
            embeds, _ = pipe.encode_prompt(
                json.loads(shards.members(i)["json"])["caption"],
                do_classifier_free_guidance=False,
                max_sequence_length=16,
            )
        mean, std = (v[0].transpose(0, 1) * pipe.vae.config.scaling_factor for v in (given.mean, given.std))
        drawn = (tensors["latents"] - mean) / std  # from the standard normal distribution
        assert drawn.abs().max() < 6 and drawn.std() == pytest.approx(1, abs=0.15)
        torch.testing.assert_close(tensors["prompt_embeds"], embeds[0])
    torch.testing.assert_close(
        shards.null_prompt, pipe.encode_prompt("", do_classifier_free_guidance=False, max_sequence_length=16)[0][0]
    )


def test_the_references_are_the_photo_another_clip_or_the_clip_itself(made):
    places = {}
    for members in read(made).values():
        about = json.loads(members["json"])
        places[about["video"]] = about["reference"].partition("#t=")[0]
    expected = {f"videos/{i}.mp4": f"videos/{i}.mp4" for i in range(GOOD)}
    expected |= {"videos/2.mp4": "red.png", "videos/1.mp4": "videos/5.mp4", "videos/5.mp4": "videos/1.mp4"}
    assert places == expected


def test_half_precision_is_kept(folder, tmp_path):
    os.symlink(folder / "base", tmp_path / "base")
    video = write_video(tmp_path / "a.mp4", walk(frames=5))
    write_clips(tmp_path / "clips.jsonl", {"video": video.name, "caption": "x"})
    run(tmp_path, tmp_path / "half", dtype=torch.bfloat16)
    members = next(iter(read(tmp_path / "half").values()))
    kinds = {name: tensor.dtype for name, tensor in load(members["safetensors"]).items()}
    assert kinds == {"latents": torch.bfloat16, "prompt_embeds": torch.bfloat16, "id_embedding": torch.float32}
    assert Shards(tmp_path / "half").null_prompt.dtype == torch.bfloat16


# what is rejected


def test_each_clip_that_cannot_be_used_is_rejected_with_its_reason(made):
    lines = [json.loads(line) for line in (made / "rejected.jsonl").read_text().splitlines()]
    assert sorted((line["video"], line["reason"]) for line in lines) == [
        ("videos/0\x00.mp4", "no such file"),
        ("videos/0.mp4", "empty caption"),
        ("videos/0.mp4", "unreadable reference"),
        ("videos/broken.mp4", "unreadable"),
        ("videos/missing.mp4", "no such file"),
        ("videos/nobody.mp4", "no face"),
        ("videos/short.mp4", "too short"),
    ]
    assert all(line["detail"] for line in lines if line["reason"] != "empty caption")


def test_an_error_in_one_clip_does_not_stop_the_others(folder, tmp_path):
    class Moody:
        fingerprint = "moody"

        def detect(self, image):
            faces = drawn_faces().detect(image)
            if faces and faces[0].box[0] < 12:
                raise ValueError("I do not like this one.")
            return faces

    usable, rejected = run(folder, tmp_path / "out", face=drawn_faces(detectors=[Moody()]))
    failed = [line for line in rejected if line["reason"] == "could not be processed"]
    assert len(failed) == 2  # one of them has an unreadable reference, which is never read
    assert len(usable) == GOOD - 1
    assert failed[0]["detail"] == "ValueError: I do not like this one."


def test_latents_that_are_not_finite_reject_a_clip(folder, tmp_path, monkeypatch):
    broken = CogVideoXPipeline.from_pretrained(folder / "base")
    broken.vae.encoder.conv_in.conv.weight.data[0, 0, 0, 0, 0] = torch.inf
    broken.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"None of \d+ clips can be used\. Read the reasons in '.*rejected\.jsonl'"):
        run(folder, tmp_path / "out", base=tmp_path / "base")
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert sum(line["reason"] == "latents are not finite" for line in lines) == GOOD
    with pytest.raises(ValueError, match="holds no samples"):
        Shards(tmp_path / "out")


def test_the_table_of_reasons_counts_them(folder, tmp_path, capsys):
    write_clips(tmp_path / "clips.jsonl", *[{"video": f"{i}.mp4", "caption": "x"} for i in range(3)])
    os.symlink(folder / "base", tmp_path / "base")
    with pytest.raises(ValueError, match="None of 3 clips"):
        run(tmp_path, tmp_path / "out")
    table = capsys.readouterr().err
    assert "why clips cannot be used" in table
    assert any("no such file" in line and " 3 " in line for line in table.splitlines())


# what stops it, and that it goes on


def script(*args, launcher: tuple[str, ...] = ()) -> str:
    """What a process of its own prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent)))}
    command = [sys.executable, *launcher, str(TESTS / "support" / "prepare_script.py"), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def disturbed(folder, tmp_path_factory):
    """A folder of the outcomes of runs that were killed, and that met a full disk, and what was printed."""
    out = tmp_path_factory.mktemp("disturbed")
    return out, script(folder, out, "disturbed").splitlines()


def test_killed_at_random_moments_and_resumed_it_makes_the_same(made, disturbed):
    out, (counts, *_) = disturbed
    counts = json.loads(counts)
    assert len(counts) >= 3 and any(0 < count < GOOD + 7 for count in counts)
    assert read(out / "killed") == read(made)
    for name in ("index.jsonl", "rejected.jsonl", "shards.json"):
        assert (out / "killed" / name).read_text() == (made / name).read_text()


def test_a_full_disk_stops_it_and_more_room_lets_it_go_on(made, disturbed):
    out, (_, message, counts) = disturbed
    assert "no room in" in message and "make some, and run the same again" in message
    (count,) = json.loads(counts)
    assert 0 < count < GOOD + 7
    assert read(out / "full_disk") == read(made)


def test_two_processes_make_the_same_as_one(folder, made, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    script(folder, tmp_path / "out", launcher=launcher)
    ranks = {line["shard"][6:11] for line in Shards(tmp_path / "out").index}
    assert ranks == {"00000", "00001"}
    assert read(tmp_path / "out") == read(made)
    assert (tmp_path / "out" / "rejected.jsonl").read_text() == (made / "rejected.jsonl").read_text()
    usable, _ = run(folder, tmp_path / "out")  # one process finds nothing left to do
    assert len(usable) == GOOD and read(tmp_path / "out") == read(made)


def test_what_is_done_is_not_done_again(folder, made, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in made.glob("*.tar")}
    lines = (folder / "clips.jsonl").read_text()
    try:
        (folder / "clips.jsonl").write_text(
            lines + json.dumps({"video": "videos/0.mp4", "caption": "One more."}) + "\n"
        )
        usable, _ = run(folder, made)
        assert len(usable) == GOOD + 1
        assert {p.name: p.stat().st_mtime_ns for p in made.glob("*.tar") if p.name != sorted(before)[-1]} == {
            name: before[name] for name in sorted(before)[:-1]
        }
        for line in made.glob("journal*"):
            content = line.read_text().splitlines()
            line.write_text("".join(f"{text}\n" for text in content[:-1]))
    finally:
        (folder / "clips.jsonl").write_text(lines)
    usable, _ = run(folder, made)
    assert len(usable) == GOOD


def test_what_was_rejected_is_tried_again_if_one_says_so_and_what_the_list_drops_leaves_the_index(folder, tmp_path):
    out, good = tmp_path / "out", read_clips(folder / "clips.jsonl")[0]
    late = replace(good, video=Path("late.mp4"), folder=tmp_path)
    settings = {"base": folder / "base", "face": drawn_faces(), "buckets": [Bucket(5, 64, 96)], "dtype": torch.float32}
    _, rejected = prepare_clips([good, late], out, **settings)
    assert [line["key"] for line in rejected] == [late.key]

    shutil.copy(good.folder / good.video, tmp_path / "late.mp4")
    _, rejected = prepare_clips([good, late], out, **settings)
    assert [line["key"] for line in rejected] == [late.key]
    usable, rejected = prepare_clips([good, late], out, **settings, retry_rejected=True)
    assert {line["key"] for line in usable} == {good.key, late.key} and not rejected

    prepare_clips([late], out, **settings)
    assert [line["key"] for line in Shards(out).index] == [late.key]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 4}, r"holds shards of other settings: fps 8\.0 instead of 4\.0\. Use those, or another folder"),
        ({"dtype": torch.bfloat16, "seed": 3}, "dtype float32 instead of bfloat16, seed 0 instead of 3"),
        ({"min_face_share": 0.9}, r"min_face_share 0\.5 instead of 0\.9"),
        ({"max_sequence_length": 8}, "max_sequence_length 16 instead of 8"),
        ({"face": drawn_faces(min_face=20)}, "face .*16.* instead of .*20"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_other_settings_are_refused_by_name(folder, made, settings, message):
    before = {path.name: path.read_bytes() for path in made.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=message):
        run(folder, made, **settings)
    assert {path.name: path.read_bytes() for path in made.iterdir() if path.is_file()} == before


def test_another_base_is_refused_and_a_moved_one_is_not(folder, made, tmp_path):
    moved = CogVideoXPipeline.from_pretrained(folder / "base")
    moved.save_pretrained(tmp_path / "moved")
    usable, _ = run(folder, made, base=tmp_path / "moved")
    assert len(usable) == GOOD
    Shards(made).check_base(tmp_path / "moved")
    moved.vae.encoder.conv_in.conv.weight.data.neg_()
    moved.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other settings: vae"):
        run(folder, made, base=tmp_path / "other")
    with pytest.raises(ValueError, match=r"made with the vae of .*base', which is not that of .*other': prepare"):
        Shards(made).check_base(tmp_path / "other")


def test_a_folder_of_something_else_is_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other files \(thesis\.txt\)\. Give an empty folder"):
        run(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"is a file\. Give a folder"):
        run(folder, tmp_path / "out" / "thesis.txt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, r"fps is 0, but must be a number greater than 0\."),
        ({"fps": float("nan")}, "fps is nan, but"),
        ({"fps": "8"}, "fps is '8', but"),
        ({"dtype": torch.int8}, "dtype is torch.int8, but must be a floating dtype of torch"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16', but"),
        ({"samples_per_shard": 0}, r"samples_per_shard is 0, but must be a whole number of at least 1\."),
        ({"samples_per_shard": 2.5}, r"samples_per_shard is 2\.5, but"),
        ({"min_face_share": 1.5}, r"min_face_share is 1\.5, but must be a number from 0 to 1\."),
        ({"min_face_share": float("nan")}, "min_face_share is nan, but"),
        ({"max_sequence_length": 0}, "max_sequence_length is 0, but must be a whole number of at least 1, or None"),
        ({"max_sequence_length": True}, "max_sequence_length is True, but"),
        ({"seed": 0.5}, r"seed is 0\.5, but must be a whole number"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_would_die_later_are_refused_before_anything_is_loaded(folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path / "out", base="no/such-base", **settings)
    assert not (tmp_path / "out").exists()


def test_a_base_or_a_face_model_that_is_not_there_stops_it_at_once(folder, tmp_path):
    with pytest.raises(OSError, match="'no/such-base' is no folder here, is not in the cache"):
        run(folder, tmp_path / "out", base="no/such-base")
    with pytest.raises(ValueError, match=r"has no config\.json and safetensors files in 'vae'"):
        run(folder, tmp_path / "out", base=tmp_path)

    class Missing:
        def parse(self, aligned):
            raise FileNotFoundError("parsing.pth is not there")

    with pytest.raises(FileNotFoundError, match=r"parsing\.pth is not there"):
        run(folder, tmp_path / "out", face=drawn_faces(parser=Missing()))
    for name in ("recognizer", "parser"):
        with pytest.raises(
            ValueError, match=r"lacks a detector, a recognizer or a parser\. Give one that has all three"
        ):
            run(folder, tmp_path / "out", face=drawn_faces(**{name: None}))
    with pytest.raises(ValueError, match=r"15 clips and 0 buckets\. Give at least one of each"):
        run(folder, tmp_path / "out", buckets=[])
    assert not (tmp_path / "out").exists()

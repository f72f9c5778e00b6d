"""ConsisID's layout becomes a list of clips; what is missing is counted."""

import json
from pathlib import Path

import pytest

from lavieid_adapters.data.clips import read_clips
from lavieid_adapters.data.consisid_clips import convert_consisid


def entry(path: str, cap="A person speaks.", **more) -> dict:
    size = {"size": 601696, "resolution": {"height": 940, "width": 720}, "fps": 30.0, "duration": 8.13}
    return {"path": path, "cap": cap, **size, **more}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two sets of videos with captions, and the list that names them from the working directory."""
    lines = []
    for name, entries in {
        "one": [entry("a.mp4", " She reads. "), entry("/far/away/b.mp4"), entry("gone.mp4"), entry("c", "Ärmel")],
        "two": [entry("d.mp4", None), entry("a.mp4", "He cooks."), entry("e.mp4", "  ")],
    }.items():
        videos = tmp_path / "datasets" / name / "videos"
        videos.mkdir(parents=True)
        for video in "abcde":
            (videos / f"{video}.mp4").write_bytes(b"video")
        captions = tmp_path / "datasets" / "captions" / f"{name}.json"
        captions.parent.mkdir(exist_ok=True)
        captions.write_text(json.dumps(entries), encoding="utf-8")
        lines.append(f"datasets/{name}/videos,datasets/captions/{name}.json,datasets/{name}\n")
    (tmp_path / "datasets" / "total_train_data.txt").write_text("\n".join(lines))
    return tmp_path


EXPECTED = [
    ("datasets/one/videos/a.mp4", "She reads."),
    ("datasets/one/videos/b.mp4", "A person speaks."),
    ("datasets/one/videos/c.mp4", "Ärmel"),
    ("datasets/two/videos/a.mp4", "He cooks."),
]


@pytest.mark.parametrize("here", [".", "datasets/one", "/"])
def test_a_list_of_sets_becomes_clips_wherever_one_stands(data, monkeypatch, here):
    monkeypatch.chdir(data / here)
    counts = convert_consisid(data / "datasets" / "total_train_data.txt", data / "clips.jsonl")
    assert counts == {"clips": 4, "no such video": 1, "no caption": 2}
    clips = read_clips(data / "clips.jsonl")
    assert [(str(clip.video), clip.caption) for clip in clips] == EXPECTED
    assert all((clip.folder / clip.video).is_file() and clip.person is None for clip in clips)


def test_a_file_of_captions_has_its_videos_beside_it_or_where_one_says(data):
    published = data / "published"
    published.mkdir()
    (published / "video_caption_train.json").write_text(json.dumps([entry("x/y/a.mp4"), entry("z.mp4")]))
    with pytest.raises(FileNotFoundError, match=r"published/videos'.* is not there: unpack"):
        convert_consisid(published / "video_caption_train.json", data / "clips.jsonl")
    videos = data / "datasets" / "one" / "videos"
    counts = convert_consisid(published / "video_caption_train.json", published / "list" / "clips.jsonl", videos)
    assert counts == {"clips": 1, "no such video": 1}
    (clip,) = read_clips(published / "list" / "clips.jsonl")
    assert clip.video == (videos / "a.mp4").resolve()  # it is not below the list's folder
    videos.rename(published / "videos")
    convert_consisid(published / "video_caption_train.json", published / "clips.jsonl")
    (clip,) = read_clips(published / "clips.jsonl")
    assert clip.video == Path("videos/a.mp4")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n", "line 1 has 2 fields, but must have three"),
        ("\na,b,c,d\n", "line 2 has 4 fields"),
        ("datasets/none,datasets/captions/one.json,x", "names 'datasets/none', which is neither here nor beside"),
        ("datasets/one/videos,datasets/captions/none.json,x", r"names 'datasets/captions/none\.json'"),
        ("datasets/one/videos,broken.json,x", r"broken\.json' is no JSON"),
        ("datasets/one/videos,object.json,x", r"object\.json' is not a list of objects"),
        ("datasets/one/videos,number.json,x", '"cap" of a.mp4 is 7, but must be text'),
        (
            "datasets/one/videos,other.json,x",
            r"No entry of .* can be used \(1 no such video\): are the videos unpacked",
        ),
        ("", r"No entry of .* can be used \(it has none\)"),
    ],
)
def test_what_is_not_this_layout_is_named(data, content, message):
    (data / "broken.json").write_text("[")
    (data / "object.json").write_text("{}")
    (data / "number.json").write_text(json.dumps([entry("a.mp4", 7)]))
    (data / "other.json").write_text(json.dumps([entry("other.mp4")]))
    (data / "list.txt").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert_consisid(data / "list.txt", data / "clips.jsonl")
    assert not (data / "clips.jsonl").exists()


def test_a_source_that_is_not_there_or_videos_for_a_list_are_refused(data):
    with pytest.raises(FileNotFoundError, match=r"There is no '.*none\.txt': give a total_train_data\.txt"):
        convert_consisid(data / "none.txt", data / "clips.jsonl")
    with pytest.raises(ValueError, match="names the folders of videos itself"):
        convert_consisid(data / "datasets" / "total_train_data.txt", data / "clips.jsonl", data)

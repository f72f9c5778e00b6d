"""A list of clips is read as it is meant, or the line that is wrong is named; ConsisID's data becomes such a list."""

import json
from pathlib import Path

import pytest

from lavieid_adapters.data.clips import Clip, Rejected, convert_consisid, read_clips


def test_every_field_is_read_and_what_is_left_out_is_none(tmp_path):
    lines = [
        {"video": "a/1.mp4", "caption": "She reads."},
        {"caption": "Er kocht. 你好", "video": "/far/2.mp4", "reference": "me.jpg", "person": "alice"},
        {"video": "3.mp4", "caption": "", "reference": None, "person": None},
    ]
    path = tmp_path / "clips.jsonl"
    path.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8-sig")
    one, two, three = read_clips(path)
    assert one == Clip(Path("a/1.mp4"), "She reads.", None, None, tmp_path)
    assert two == Clip(Path("/far/2.mp4"), "Er kocht. 你好", Path("me.jpg"), "alice", tmp_path)
    assert three.caption == "" and three.reference is None
    assert one.folder / one.video == tmp_path / "a/1.mp4" and two.folder / two.video == Path("/far/2.mp4")


def test_a_key_tells_clips_apart_wherever_their_folder_lies():
    clip = Clip(Path("a.mp4"), "She reads.", Path("b.jpg"), "alice")
    assert len(clip.key) == 16 and int(clip.key, 16) >= 0
    assert Clip(Path("a.mp4"), "She reads.", Path("b.jpg"), "alice", Path("/elsewhere")).key == clip.key
    others = [
        Clip(Path("b.mp4"), "She reads.", Path("b.jpg"), "alice"),
        Clip(Path("a.mp4"), "She reads", Path("b.jpg"), "alice"),
        Clip(Path("a.mp4"), "She reads.", None, "alice"),
        Clip(Path("a.mp4"), "She reads.", Path("b.jpg"), None),
        Clip(Path("a.mp4"), "She reads.", Path("b.jpg"), "None"),
    ]
    assert len({clip.key, *(other.key for other in others)}) == 6


def test_a_line_that_is_there_twice_counts_once(tmp_path):
    lines = [
        '{"video": "a.mp4", "caption": "x"}',
        '{"caption": "x", "video": "./a.mp4"}',
        '{"video": "b.mp4", "caption": "x"}',
    ]
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    assert [str(clip.video) for clip in read_clips(tmp_path / "clips.jsonl")] == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("video: a.mp4", "no JSON"),
        ('{"video": "a.mp4", "caption": "x"', "no JSON"),
        ('["a.mp4", "x"]', "a list, but must be an object"),
        ('"a.mp4"', "a str, but must be an object"),
        ('{"video": "a.mp4"}', "'caption' is missing"),
        ('{"caption": "x"}', "'video' is missing"),
        ('{"vidoe": "a.mp4", "caption": "x"}', "'vidoe' is not known: say video"),
        ('{"video": "a.mp4", "caption": "x", "captions": 1}', "'captions' is not known: say caption"),
        ('{"video": "a.mp4", "caption": "x", "fps": 8}', "'fps' is not known: there are"),
        ('{"video": "a.mp4", "caption": "x", "folder": "."}', "'folder' is not known"),
        ('{"video": 1, "caption": "x"}', "'video' is 1, but must be text."),
        ('{"video": "a.mp4", "caption": null}', "'caption' is null, but must be text."),
        ('{"video": "a.mp4", "caption": "x", "person": 7}', "'person' is 7, but must be text or null"),
        ('{"video": "", "caption": "x"}', "'video' is empty: give a path"),
        ('{"video": "a.mp4", "caption": "x", "reference": ""}', "'reference' is empty: leave it out"),
        ("[" * 100_000, "no JSON"),
    ],
    ids=lambda text: text[:50],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = tmp_path / "clips.jsonl"
    path.write_text('{"video": "a.mp4", "caption": "x"}\n\n' + line + "\n")
    with pytest.raises(ValueError) as caught:
        read_clips(path)
    assert str(caught.value).startswith(f"'{path}', line 3: ") and message in str(caught.value)


def test_what_is_no_list_is_an_error(tmp_path):
    path = tmp_path / "clips.jsonl"
    for read in (read_clips, lambda folder: convert_consisid(folder, path)):
        with pytest.raises(IsADirectoryError, match=f"'{tmp_path}' is a folder"):
            read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no list of clips .*clips\.jsonl"):
        read_clips(path)
    path.write_text("\n \n")
    with pytest.raises(ValueError, match="lists no clips"):
        read_clips(path)
    path.write_bytes(b'{"video": "\xff.mp4"}')
    with pytest.raises(ValueError, match=r"clips\.jsonl' is not UTF-8"):
        read_clips(path)


def test_a_rejection_says_its_class_and_its_detail_apart():
    error = Rejected("too short", "1.00 s")
    assert (str(error), error.reason, error.detail) == ("too short: 1.00 s", "too short", "1.00 s")
    assert str(Rejected("no face")) == "no face"


# ConsisID's data


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

"""A list of clips is read as it is meant, or the line that is wrong is named."""

import json
from pathlib import Path

import pytest

from lavieid_adapters.data.clips import Clip, Rejected, read_clips


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

"""The list of clips to train on: its entries, the file it is read from, and ConsisID's data as such a file."""

import difflib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from ..files.atomic import written_aside
from ..files.digests import content_digest

# Why an entry of ConsisID's data is left out.
NO_FILE, NO_CAPTION = "no such video", "no caption"


class Rejected(ValueError):
    """The error of a clip that cannot be used.

    Attributes:
        reason: One of a few texts, to count by.
        detail: The values of this clip.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Clip:
    """A video of one person, and what is known of it.

    Attributes:
        video: Path of the video, as written in the list.
        caption: Description of the video.
        reference: Path of a photo of the person, as written in the list.
        person: A name that all clips of one person share.
        folder: The folder that the paths are relative to.
    """

    video: Path
    caption: str
    reference: Path | None = None
    person: str | None = None
    folder: Path = Path()

    @property
    def key(self) -> str:
        """16 hexadecimal digits of all but the folder: the same wherever the data lies."""
        reference = None if self.reference is None else str(self.reference)
        return content_digest(str(self.video), self.caption, reference, self.person)[:16]


def read_clips(path: str | os.PathLike) -> list[Clip]:
    """Read the clips of a .jsonl file.

    Each line is an object with "video" and "caption", and optionally "reference" and "person". Paths are
    relative to the file's folder. A line that occurs twice counts once.

    Args:
        path: The .jsonl file.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If a line is malformed, with its number, or if there is none.
    """
    path, clips = Path(path), {}
    if path.is_dir():
        raise IsADirectoryError(
            f"'{path}' is a folder, but clips are read from a list. Write a .jsonl file of lines "
            '{"video": "a.mp4", "caption": "She reads."}, and give that.'
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no list of clips '{path}'.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not UTF-8 text ({error}): save it as such.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                clip = _parse_clip(line, path.parent)
            except ValueError as error:
                raise ValueError(f"'{path}', line {number}: {error}") from error
            clips.setdefault(clip.key, clip)
    if not clips:
        raise ValueError(f'\'{path}\' lists no clips: write one JSON object a line, with "video" and "caption".')
    return list(clips.values())


def _parse_clip(line: str, folder: Path) -> Clip:
    try:
        entry = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"this is no JSON ({error}).") from error
    if not isinstance(entry, dict):
        raise ValueError(f'this is a {type(entry).__name__}, but must be an object: {{"video": ..., "caption": ...}}.')
    known = [field.name for field in fields(Clip) if field.name != "folder"]
    for name in entry:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ValueError(f"'{name}' is not known: {f'say {near[0]}' if near else f'there are {known}'}.")
    for name in known:
        optional = name in ("reference", "person")
        value = entry.get(name)
        if name not in entry and not optional:
            raise ValueError(f"'{name}' is missing.")
        if not (isinstance(value, str) or (optional and value is None)):
            raise ValueError(f"'{name}' is {json.dumps(value)[:80]}, but must be text{' or null' * optional}.")
        if value == "" and name != "caption":
            raise ValueError(f"'{name}' is empty: {'leave it out' if optional else 'give a path'}.")
    reference = entry.get("reference")
    return Clip(
        Path(entry["video"]),
        entry["caption"],
        None if reference is None else Path(reference),
        entry.get("person"),
        folder,
    )


def convert_consisid(
    source: str | os.PathLike, out: str | os.PathLike, videos: str | os.PathLike | None = None
) -> Counter:
    """Write a clips.jsonl of ConsisID's data.

    ConsisID's tracks and masks are not used, because `prepare_clips` finds and parses the faces itself. Which clips
    show the same person is not in the data.

    Args:
        source: A `total_train_data.txt`, of lines "folder of videos,file of captions,folder of annotations"; or one
            file of captions, a JSON list of objects with "path" and "cap", such as the published
            `video_caption_train.json`.
        out: The clips.jsonl; its paths are relative to its folder where the videos are in it.
        videos: Folder of the videos, for one file of captions; "videos" beside it if None.

    Returns:
        The number of entries written, under "clips", and left out, under each reason.

    Raises:
        FileNotFoundError: If `source`, or what it names, is not there.
        IsADirectoryError: If `source` is a folder.
        ValueError: If a file is not of this layout, or if none of its videos is there.
    """
    source, out = Path(source), Path(out)
    if source.is_dir():
        raise IsADirectoryError(f"'{source}' is a folder: give the total_train_data.txt, or a JSON file of captions.")
    if not source.is_file():
        raise FileNotFoundError(f"There is no '{source}': give a total_train_data.txt, or a JSON file of captions.")
    if source.suffix == ".json":
        parts = [(source.parent / "videos" if videos is None else Path(videos), source)]
    elif videos is not None:
        raise ValueError(f"'{source}' names the folders of videos itself: leave them out.")
    else:
        parts = list(_parts(source))
    counts, lines = Counter(clips=0), {}
    for folder, captions in parts:
        if not folder.is_dir():
            raise FileNotFoundError(f"'{folder}', the folder of the videos of '{captions}', is not there: unpack them.")
        for entry in _entries(captions):
            # Captions name the videos of another machine.
            video = folder / entry["path"].replace("\\", "/").rpartition("/")[2]
            if not video.suffix:
                video = video.with_name(f"{video.name}.mp4")
            if not (entry.get("cap") or "").strip():
                counts[NO_CAPTION] += 1
            elif not video.is_file():
                counts[NO_FILE] += 1
            else:
                line = {"video": _relative(video, out.parent), "caption": entry["cap"].strip()}
                lines[json.dumps(line, ensure_ascii=False)] = None
    counts["clips"] = len(lines)
    if not lines:
        left = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason != "clips")
        raise ValueError(f"No entry of '{source}' can be used ({left or 'it has none'}): are the videos unpacked?")
    with written_aside(out.parent) as new:
        (new / out.name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return counts


def _parts(source: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the folders of videos and the files of captions that a total_train_data.txt names."""
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        fields = [field.strip() for field in line.split(",")]
        if not line.strip():
            continue
        if len(fields) != 3:
            raise ValueError(
                f"'{source}', line {number} has {len(fields)} fields, but must have three: folder of videos,file of "
                "captions,folder of annotations."
            )
        yield _found(source, fields[0]), _found(source, fields[1])


def _found(source: Path, named: str) -> Path:
    """Return a path that a list names, seen from the working directory, or from a folder that the list is in."""
    places = [Path(), *source.absolute().parents]
    for place in places:
        if (place / named).exists():
            return place / named
    raise FileNotFoundError(f"'{source}' names '{named}', which is neither here nor beside the list, nor further up.")


def _entries(captions: Path) -> list[dict]:
    try:
        entries = json.loads(captions.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{captions}' is no JSON ({error}).") from error
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("path"), str) for e in entries
    ):
        raise ValueError(f'\'{captions}\' is not a list of objects with "path" and "cap".')
    if wrong := next((e for e in entries if not isinstance(e.get("cap"), str | None)), None):
        raise ValueError(f"'{captions}': \"cap\" of {wrong['path']} is {wrong['cap']!r}, but must be text.")
    return entries


def _relative(video: Path, folder: Path) -> str:
    video, folder = video.resolve(), folder.resolve()
    return str(video.relative_to(folder) if video.is_relative_to(folder) else video)

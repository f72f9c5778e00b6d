"""ConsisID's layout of training data as a list of clips."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..files.atomic import written_aside

# Why an entry is left out.
NO_FILE, NO_CAPTION = "no such video", "no caption"


def convert_consisid(
    source: str | os.PathLike, out: str | os.PathLike, videos: str | os.PathLike | None = None
) -> Counter:
    """Write a clips.jsonl of ConsisID's data.

    Its tracks and masks are not used: faces are found, and parsed into components, by `prepare`. Nor are clips of one
    person known as such.

    Args:
        source: A `total_train_data.txt`, of lines "folder of videos,file of captions,folder of annotations"; or one
            file of captions, a JSON list of objects with "path" and "cap", such as the published
            `video_caption_train.json`.
        out: The clips.jsonl; its paths are relative to its folder where the videos are in it.
        videos: Folder of the videos, for one file of captions; "videos" beside it if None.

    Returns:
        How many entries are written, "clips", and how many left out for each reason.

    Raises:
        FileNotFoundError: If `source`, or what it names, is not there.
        ValueError: If a file is not of this layout, or if none of its videos is there.
    """
    source, out = Path(source), Path(out)
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
    """The folders of videos and the files of captions that a list of them names."""
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
    """What a list names: as seen from the working directory, or from a folder that the list is in."""
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

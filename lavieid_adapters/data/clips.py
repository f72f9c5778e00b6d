"""Clips to train on: what is known of each, and why one cannot be used."""

import difflib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

from ..files.digests import content_digest


class Rejected(ValueError):
    """A clip that cannot be used.

    Attributes:
        reason: One of a few, to count by.
        detail: What is the matter with this one.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Clip:
    """A video of one person, and what is known of it.

    Attributes:
        video: Its path, as it is written in the list.
        caption: What happens in it.
        reference: Path of a photo of the person, as it is written.
        person: A name that clips of one person share.
        folder: What the paths are relative to.
    """

    video: Path
    caption: str
    reference: Path | None = None
    person: str | None = None
    folder: Path = Path()

    @property
    def key(self) -> str:
        """16 hexadecimal digits of what is known of it; the same wherever its folder lies."""
        reference = None if self.reference is None else str(self.reference)
        return content_digest(str(self.video), self.caption, reference, self.person)[:16]


def read_clips(path: str | os.PathLike) -> list[Clip]:
    """The clips of a file of one JSON object a line: "video", "caption", and perhaps "reference" and "person".

    Paths are relative to the file's folder. A line that is there twice counts once.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed, with its number, or if there is none.
    """
    path, clips = Path(path), {}
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

"""Writing shards, so that a kill at any moment neither loses nor repeats a sample, and damages none."""

import errno
import json
import mmap
import os
import re
import stat
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..files.atomic import lock, written_aside
from .archive import BLOCK, END, Stretch, archived, find_header, find_samples
from .shards import INDEX, REJECTED, SHARD_NAME, SIZE, check_line, read_lines

FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_JOURNAL_NAME = re.compile(r"journal-(\d{5})\.jsonl")
_LINE = ("video", "person", *SIZE)  # what a sample's own "json" holds of its line


class ShardWriter:
    """Writer of the shards of one process: appends samples, and a line on each to the process's journal.

    A sample counts once its line, which comes last, is in the journal. When a writer opens, whole samples that the
    journal lacks, because it was lost or cut, get their lines again from the tars. Only the beginning of one sample,
    which is what a kill leaves, is cut off.

    Args:
        folder: Folder of the shards.
        rank: The number of this process.
        samples_per_shard: Samples in one tar file.

    Raises:
        ValueError: If `samples_per_shard` is less than 1, or the journal, or a shard of it, is damaged. Nothing has
            then been changed.
        OSError: If another writer of this rank is at work, or if the journal is a link or no file.
    """

    def __init__(self, folder: str | os.PathLike, rank: int = 0, samples_per_shard: int = 100):
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {samples_per_shard}, but must be at least 1.")
        self.folder, self.rank, self.samples_per_shard = Path(folder), rank, samples_per_shard
        path = self.folder / f"journal-{rank:05d}.jsonl"
        _check_own_file(path)
        self._tar, self._journal = None, open(path, "ab", buffering=0)  # noqa: SIM115
        try:
            lock(self._journal, path)
            lines, size = _read_journal(path)
            found = self._lines_of_tars(lines)
            self._journal.truncate(size)
            for line in found:
                self._note(line)
            lines += found
            shards = [line["shard"] for line in lines if "shard" in line]
            self._number = int(max(shards)[-9:-4]) if shards else 0
            self._count = shards.count(self._name)
            self._end = max(
                (line["offset"] + line["size"] for line in lines if line.get("shard") == self._name), default=0
            )
            self._mend()
        except BaseException:
            self._journal.close()
            raise

    def write(self, key: str, members: Mapping[str, bytes], line: Mapping) -> None:
        """Append one sample.

        Args:
            key: Its name.
            members: Its files by their suffixes, such as "json" or "maps.png".
            line: What the index is to say of it, beside where it is.

        Raises:
            OSError: If the disk is full; what was written before is whole.
        """
        if self._count >= self.samples_per_shard:
            self._end_shard()
            self._number, self._count, self._end = self._number + 1, 0, 0
        data = b"".join(archived(f"{key}.{suffix}", content) for suffix, content in members.items())
        with naming_full_disk(self.folder):
            if self._tar is None:
                self._tar = self._opened()
            _append(self._tar, data)
            place = {"shard": self._name, "offset": self._end, "size": len(data)}
            # Before the line, lest an interrupt in between lets `close` cut off what the journal knows.
            self._end, self._count = self._end + len(data), self._count + 1
            self._note({"key": key, **place, **line})

    def reject(self, key: str, video: str, reason: str, detail: str) -> None:
        """Note a clip that cannot be used."""
        with naming_full_disk(self.folder):
            self._note({"key": key, "video": video, "reason": reason, "detail": detail})

    def close(self) -> None:
        """End the shard; a writer that opens later goes on with it."""
        with self._journal:
            self._end_shard()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @property
    def _name(self) -> str:
        return f"shard-{self.rank:05d}-{self._number:05d}.tar"

    def _note(self, line: Mapping) -> None:
        _append(self._journal, json.dumps(line).encode() + b"\n")

    def _lines_of_tars(self, lines: list[dict]) -> list[dict]:
        """Return lines on the whole samples of this rank's shards that the journal's `lines` lack.

        Raises:
            ValueError: If a shard has lost what the journal knows, or holds samples that cannot be told from damage.
        """
        known, found = defaultdict(list), []
        for line in lines:
            if "shard" in line:
                if int(line["shard"][6:11]) != self.rank:
                    raise ValueError(
                        f"The journal of process {self.rank} in '{self.folder}' names {line['shard']}, a shard of "
                        "another process. Copy the journals again."
                    )
                known[line["shard"]].append((line["offset"], line["offset"] + line["size"]))
        for name in sorted({*known, *(path.name for path in self._shards())}):
            path, places = self.folder / name, sorted(known[name])
            size, end = _size(path), max((end for _, end in places), default=0)
            if size < end:
                raise ValueError(
                    f"'{path}' has {size} bytes, but its journal knows {end}: get it again, or delete "
                    f"'{self.folder}' and prepare the clips again."
                )
            ends = [0, *(end for _, end in places)]
            gaps = [gap for gap in zip(ends, [*(begin for begin, _ in places), size], strict=True) if gap[0] < gap[1]]
            if places and gaps == [(end, size)] and size == end + len(END):
                continue  # nothing of a large file is read where all is well
            if not size:
                continue
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for begin, stop in gaps:
                    try:
                        found += [self._line(data, name, sample) for sample in find_samples(data, begin, stop)[0]]
                    except (ValueError, KeyError, TypeError, RecursionError) as error:
                        raise ValueError(
                            f"'{path}' holds something between bytes {begin} and {stop} that its journal does not know "
                            f"({error}). Copy the shard and the journal again, or move the shard away."
                        ) from error
        return found

    @staticmethod
    def _line(data: mmap.mmap, shard: str, sample: Stretch) -> dict:
        begin, end = sample.contents["json"]
        about = json.loads(data[begin:end])
        place = {"shard": shard, "offset": sample.begin, "size": sample.end - sample.begin}
        line = {"key": sample.key, **place, **{name: about[name] for name in _LINE}}
        check_line(line)
        return line

    def _shards(self) -> list[Path]:
        """Return this rank's shards that lie in the folder."""
        paths = sorted(self.folder.glob(f"shard-{self.rank:05d}-*.tar"))
        return [path for path in paths if SHARD_NAME.fullmatch(path.name)]

    def _mend(self) -> None:
        """Leave nothing half-written in the rank's shards, in which the journal now knows every whole sample."""
        for path in self._shards():
            if path.name > self._name or not self._end:
                _remove_torn(path)
        path = self.folder / self._name
        if self._end and _size(path) != self._end + len(END):
            self._tar = self._opened()
            self._end_shard()

    def _opened(self) -> BinaryIO:
        path = self.folder / self._name
        _check_own_file(path)
        path.touch()
        tar = open(path, "r+b", buffering=0)  # noqa: SIM115
        tar.truncate(self._end)
        tar.seek(self._end)
        return tar

    def _end_shard(self) -> None:
        if self._tar is not None:
            with self._tar as tar, naming_full_disk(self.folder):
                self._tar = None
                tar.truncate(self._end)
                tar.seek(self._end)
                _append(tar, END)


def mend_shards(folder: str | os.PathLike) -> None:
    """Give whole samples that no journal knows their lines again, and cut off what a kill has left half-written.

    Args:
        folder: Of the shards. No process may be writing to it.

    Raises:
        ValueError, OSError: As `ShardWriter` does.
    """
    folder = Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [_JOURNAL_NAME.fullmatch(name) or SHARD_NAME.fullmatch(name) for name in names]
    for rank in sorted({int(match[1]) for match in found if match}):
        ShardWriter(folder, rank).close()


def finished_keys(folder: str | os.PathLike, rejected: bool = True) -> set[str]:
    """Return the keys of the clips that any process has written, and with `rejected` of those it has rejected."""
    lines = [line for path in _journals(Path(folder)) for line in _read_journal(path)[0]]
    return {line["key"] for line in lines if rejected or "shard" in line}


def write_index(folder: str | os.PathLike, keys: Container[str] | None = None) -> tuple[list[dict], list[dict]]:
    """Merge the journals of all processes, which must have ended, into one index and one list of rejected clips.

    Args:
        folder: Of the shards.
        keys: The clips that are wanted; all if None. What was made of others stays where it is.

    Returns:
        The lines of both, sorted by key.
    """
    folder, found = Path(folder), {}
    mend_shards(folder)  # another number of processes may have been at work before
    for path in _journals(folder):
        for line in _read_journal(path)[0]:
            if "shard" in line or "shard" not in found.get(line["key"], ()):  # one that was rejected may be tried again
                found[line["key"]] = line
    found = {key: line for key, line in found.items() if keys is None or key in keys}
    lines = [found[key] for key in sorted(found)]
    usable, rejected = ([line for line in lines if ("shard" in line) == there] for there in (True, False))
    with naming_full_disk(folder), written_aside(folder) as new:
        for name, part in ((INDEX, usable), (REJECTED, rejected)):
            (new / name).write_text("".join(json.dumps(line) + "\n" for line in part))
    return usable, rejected


def _journals(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("journal-*.jsonl")) if _JOURNAL_NAME.fullmatch(path.name)]


def _read_journal(path: Path) -> tuple[list[dict], int]:
    """Return the whole lines of a journal, and where they end."""
    _check_own_file(path)
    data = path.read_bytes()
    size = data.rfind(b"\n") + 1
    return read_lines(data[:size], path), size


def _check_own_file(path: Path) -> None:
    """Raise OSError if a path is there, but is no file of its own: writing would change a link's target."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
        raise OSError(f"'{path}' is {what}. Put the file itself there, or take it away.")


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"'{path}' is no regular file. Put the shard there, or take it away.")
    return status.st_size


def _remove_torn(path: Path) -> None:
    """Delete a shard of no more than the beginning of one sample, and set anything else aside under a hidden name."""
    with open(path, "rb") as file:
        block = file.read(BLOCK)
    if len(block) < BLOCK or find_header(block) is not None or not any(block):
        path.unlink()
    else:
        path.replace(path.with_name(f".{path.name}.unreadable"))


def _append(file: BinaryIO, data: bytes) -> None:
    """Write to an unbuffered file, and through to the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Say of a full disk what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        reason = os.strerror(error.errno)
        raise OSError(error.errno, f"no room in '{folder}' ({reason}): make some, and run the same again") from error

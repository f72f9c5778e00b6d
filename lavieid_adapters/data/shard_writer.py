"""Writing shards, so that a kill at any moment neither loses nor repeats a sample, and damages none."""

import errno
import json
import os
import tarfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..files.atomic import lock, written_aside
from .shards import INDEX, REJECTED, read_lines

FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_END = bytes(1024)  # of a tar archive


class ShardWriter:
    """Writer of the shards of one process: appends samples, and a line on each to the process's journal.

    A sample counts once its line, which comes last, is in the journal. What a kill has left half-written is cut off
    when a writer opens.

    Args:
        folder: Folder of the shards.
        rank: The number of this process.
        samples_per_shard: Samples in one tar file.

    Raises:
        ValueError: If `samples_per_shard` is less than 1, or the journal, or a shard of it, is damaged.
        OSError: If another writer of this rank is at work.
    """

    def __init__(self, folder: str | os.PathLike, rank: int = 0, samples_per_shard: int = 100):
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {samples_per_shard}, but must be at least 1.")
        self.folder, self.rank, self.samples_per_shard = Path(folder), rank, samples_per_shard
        path = self.folder / f"journal-{rank:05d}.jsonl"
        self._tar, self._journal = None, open(path, "ab", buffering=0)  # noqa: SIM115
        try:
            lock(self._journal, path)
            lines, size = _read_journal(path)
            self._journal.truncate(size)
            shards = [line["shard"] for line in lines if "shard" in line]
            self._number = int(shards[-1][-9:-4]) if shards else 0
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
        data = b"".join(_archived(f"{key}.{suffix}", content) for suffix, content in members.items())
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

    def _mend(self) -> None:
        """Leave nothing of the rank's shards but what its journal knows."""
        for path in self.folder.glob(f"shard-{self.rank:05d}-*.tar"):
            if path.name > self._name or not self._end:
                path.unlink()
        path = self.folder / self._name
        size = path.stat().st_size if path.exists() else 0
        if size < self._end:
            raise ValueError(
                f"'{path}' has {size} bytes, but its journal knows {self._end}: get it again, or delete "
                f"'{self.folder}' and prepare the clips again."
            )
        if self._end and size != self._end + len(_END):
            self._tar = self._opened()
            self._end_shard()

    def _opened(self) -> BinaryIO:
        path = self.folder / self._name
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
                _append(tar, _END)


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
    for path in _journals(folder):
        ShardWriter(folder, int(path.stem[-5:])).close()  # another number of processes may have been at work before
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
    return sorted(folder.glob("journal-*.jsonl"))


def _read_journal(path: Path) -> tuple[list[dict], int]:
    """Return the whole lines of a journal, and where they end."""
    data = path.read_bytes()
    size = data.rfind(b"\n") + 1
    return read_lines(data[:size], path), size


def _archived(name: str, content: bytes) -> bytes:
    """Return a file as tar archives hold it, without time or owner, so that the bytes depend on the content alone."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


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

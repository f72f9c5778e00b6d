"""The files of samples in a tar archive: written, read strictly, and found again where no journal knows of them."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from mmap import mmap

BLOCK = 512  # tar archives are made of blocks of this size
END = bytes(2 * BLOCK)  # of an archive
_MAGIC, _MAGIC_AT = b"ustar", 257


@dataclass
class Stretch:
    """A sample in an archive.

    Attributes:
        key: Its name.
        begin, end: The bytes that it takes.
        contents: First and last byte of the content of each of its files, by suffix.
    """

    key: str
    begin: int
    end: int
    contents: dict[str, tuple[int, int]] = field(default_factory=dict)


def archived(name: str, content: bytes) -> bytes:
    """Return a file as tar archives hold it, without time or owner, so that the bytes depend on the content alone."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK)


def read_files(data: bytes) -> dict[str, bytes]:
    """Return the files of a part of an archive, by name.

    Raises:
        ValueError: If the part holds anything but whole files; `tarfile` stops at damage without an error.
    """
    place, found = 0, {}
    for name, start, size, place in _files(data, 0, len(data)):  # noqa: B007
        found[name] = data[start : start + size]
    if place != len(data) or not found:
        raise ValueError(f"no whole file at byte {place}")
    return found


def find_samples(data: bytes | mmap, begin: int, end: int) -> tuple[list[Stretch], int]:
    """Return the whole samples of a stretch of an archive, and where they end.

    A sample is whole if another one, or the end of the archive, follows: a kill may have left any beginning of the last
    one, and only that.

    Raises:
        ValueError: If a sample follows something that is neither a sample nor the end of the archive.
    """
    samples: list[Stretch] = []
    place = begin
    for name, start, size, place in _files(data, begin, end):
        key, _, suffix = name.partition(".")
        if not samples or samples[-1].key != key:
            samples.append(Stretch(key, samples[-1].end if samples else begin, place))
        samples[-1].contents[suffix] = start, start + size
        samples[-1].end = place
    ended = place == end < len(data) or data[place : min(place + len(END), end)] == END
    torn = samples.pop() if samples and not ended else None
    whole_until = samples[-1].end if samples else begin
    at = data.find(_MAGIC, place, end)
    while at >= 0:
        header = find_header(data[at - _MAGIC_AT : at - _MAGIC_AT + BLOCK])
        if header is not None and (torn is None or header[0].partition(".")[0] != torn.key):
            raise ValueError(f"{header[0]} follows {at - _MAGIC_AT - place} bytes that belong to no sample")
        at = data.find(_MAGIC, at + 1, end)
    return samples, whole_until


def _files(data: bytes | mmap, begin: int, end: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield the name of each whole file, where its content begins, its size, and where the next file begins."""
    place = begin
    while place + BLOCK <= end:
        header = find_header(data[place : place + BLOCK])
        if header is None:
            return
        name, size = header
        start, place = place + BLOCK, place + BLOCK + size + -size % BLOCK
        if place > end:
            return
        yield name, start, size, place


def find_header(block: bytes) -> tuple[str, int] | None:
    """Return the name and the size of the file that a block of 512 bytes announces; None if it announces none."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError):
        return None
    return (info.name, info.size) if info.isreg() and info.size >= 0 else None

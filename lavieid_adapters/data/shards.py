"""Training samples on disk: tar shards in WebDataset's layout beside an index, and how they are read."""

# n tokens of a prompt · d their width

import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..files.digests import part_digest
from ..files.images import decoding, open_image
from .archive import read_files

FORMAT = "lavieid-shards"
VERSION = 1
HEADER, NULL_PROMPT, INDEX, REJECTED = "shards.json", "null_prompt.safetensors", "index.jsonl", "rejected.jsonl"
PARTS = ("vae", "text_encoder")  # of the base model, that made the samples
SIZE = ("frames", "height", "width")
SHARD_NAME = re.compile(r"shard-(\d{5})-(\d{5})\.tar")
# Libraries raise these of a sample's damaged files, whatever their bytes lead to.
_BROKEN = (
    OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, SyntaxError, EOFError,
    AssertionError, struct.error, SafetensorError, Image.DecompressionBombError,
)  # fmt: skip


class DamagedSample(ValueError):
    """A shard's files of one sample that cannot be read."""


class Shards:
    """The samples of a folder that `prepare_clips` has made.

    Args:
        folder: The folder.

    Attributes:
        header: The settings that the samples were made with.
        index: Key, place and size of each sample, sorted by key.
        null_prompt: Embedding of the empty prompt, (n, d).

    Raises:
        ValueError: If it holds no shards, unfinished ones, those of another version, none that can be used, or less
            than its index says.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.header = read_header(self.folder)
        if not (self.folder / INDEX).is_file():
            raise ValueError(f"'{folder}' has no {INDEX}: lavieid prepare has not finished, run it again.")
        self.index = read_lines((self.folder / INDEX).read_bytes(), self.folder / INDEX)
        for number, line in enumerate(self.index, 1):
            if "shard" not in line or not all(_count(line.get(name)) and line[name] for name in SIZE):
                raise ValueError(
                    f"'{self.folder / INDEX}', line {number} is damaged (no place or no size of a sample): copy it "
                    "again, or prepare the clips again."
                )
        if not self.index:
            raise ValueError(f"'{folder}' holds no samples: {REJECTED} says why no clip could be used.")
        ends = {}
        for line in self.index:
            ends[line["shard"]] = max(ends.get(line["shard"], 0), line["offset"] + line["size"])
        for name, end in sorted(ends.items()):
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else None
            if size is None or size < end:
                found = "is not there" if size is None else f"has {size} bytes of {end}"
                raise ValueError(f"'{path}' {found}: copy it again, or delete '{folder}' and prepare the clips again.")
        try:
            if not (self.folder / NULL_PROMPT).is_file():  # a pipe would never end
                raise FileNotFoundError("no such file")
            self.null_prompt: Tensor = load_file(self.folder / NULL_PROMPT)["prompt_embeds"]
        except (OSError, KeyError, SafetensorError) as error:
            raise ValueError(
                f"'{self.folder / NULL_PROMPT}' is missing or damaged ({error}): copy it again."
            ) from error

    def __len__(self) -> int:
        return len(self.index)

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """Frames, height and width of each sample."""
        return [tuple(line[name] for name in SIZE) for line in self.index]

    def members(self, i: int) -> dict[str, bytes]:
        """Return the files of sample `i` by their suffixes, such as "json" or "maps.png".

        Raises:
            ValueError: If the shard is damaged there.
        """
        line = self.index[i]
        with open(self.folder / line["shard"], "rb") as file:  # for each sample, so that any process may read
            file.seek(line["offset"])
            data = file.read(line["size"])
        with self.reading(i):
            return {name.removeprefix(f"{line['key']}."): content for name, content in read_files(data).items()}

    @contextmanager
    def reading(self, i: int) -> Iterator[None]:
        """Turn whatever the damaged files of sample `i` lead to into a ValueError that names the shard and the key."""
        try:
            yield
        except DamagedSample:
            raise
        except _BROKEN as error:
            line = self.index[i]
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            raise DamagedSample(
                f"'{self.folder / line['shard']}' is damaged at {line['key']} ({reason}). Copy it again, or delete it "
                "with its lines in the journal and prepare the clips again."
            ) from error

    def check_base(self, base: str | os.PathLike, **hub) -> None:
        """Check that a base model's VAE, and its text encoder if the base is a folder, are those that made the samples.

        Args:
            base: Hub repo or folder of the pipeline.
            hub: For a Hub repo: `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            ValueError: If one of them is another, or if the header does not say which made them.
            OSError: If the base cannot be had.
        """
        # Training needs no text encoder, whose gigabytes would have to come from the Hub.
        for part in PARTS if os.path.isdir(base) else PARTS[:1]:
            if not isinstance(self.header.get(part), str):
                raise ValueError(f"'{self.folder / HEADER}' is damaged (no {part}): copy it again.")
            if part_digest(base, part, **hub) != self.header[part]:
                raise ValueError(
                    f"'{self.folder}' was made with the {part} of '{self.header.get('base')}', which is not that of "
                    f"'{base}': prepare the clips again with --base {base}."
                )


def read_picture(data: bytes) -> np.ndarray:
    """Return the pixels of one of a sample's pictures: (h, w, 3), or (h, w) of classes.

    Raises:
        ValueError: If it is no image, is damaged, or has too many pixels.
    """
    name, remedy = "A picture of a sample", "prepare its clip again"
    image = open_image(data, name, remedy)
    with decoding(name, "is damaged", remedy):
        return np.array(image)


def read_header(folder: Path) -> dict:
    """Return the settings that a folder's samples were made with.

    Raises:
        ValueError: If it holds no shards, those of another version, or damaged ones.
    """
    path = folder / HEADER
    if not path.is_file():
        raise ValueError(f"'{folder}' has no {HEADER}: these are no shards, make some with lavieid prepare.")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        found = header.get("format"), header.get("version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"'{path}' is damaged ({error}): copy it again.") from error
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"'{path}' is of format {found[0]} {found[1]}, but this version reads {FORMAT} {VERSION}: prepare the "
            "clips again, or use the version of lavieid-adapters that made it."
        )
    return header


def read_lines(data: bytes, path: Path) -> list[dict]:
    """Return the lines of an index or a journal: each is an object, of a sample or of a rejected clip.

    Raises:
        ValueError: If a line is damaged.
    """
    lines = []
    for number, text in enumerate(data.splitlines(), 1):
        try:
            line = json.loads(text)
            check_line(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"'{path}', line {number} is damaged ({error}): copy it again, or prepare the clips again."
            ) from error
        lines.append(line)
    return lines


def check_line(line: Mapping) -> None:
    """Raise ValueError if a line of an index or a journal lacks what every reader of it takes."""
    if not isinstance(line, dict) or not isinstance(line.get("key"), str):
        raise ValueError("no object with a key")
    if "shard" not in line:
        if not all(isinstance(line.get(name), str) for name in ("video", "reason")):
            raise ValueError("neither a shard nor a reason")
    elif not isinstance(line["shard"], str) or not SHARD_NAME.fullmatch(line["shard"]):
        raise ValueError(f"shard {line['shard']!r}")  # a path would lead out of the folder
    elif not all(_count(line.get(name)) for name in ("offset", "size")):
        raise ValueError("no offset or no size")


def _count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

"""Atomic saves: files are written to a folder aside and then renamed, and a lock keeps a second writer out."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None


@contextmanager
def written_aside(target: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder, and move the files that are put there into `target` once the block has ended well.

    Files of the same name are replaced, others are left alone. After an error, in the block or in a rename, nothing has
    changed.

    Raises:
        ValueError: If `target` is a file.
        IsADirectoryError: If one of the files has the name of a folder in `target`.
    """
    target = Path(target)
    if target.is_file():
        raise ValueError(f"'{target}' is a file: give a folder to save to.")
    # A rename stays within a file system, and a folder that is there may be on another one than its parent.
    place = target if target.is_dir() else target.parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{target.name}-") as scratch, ExitStack() as undo:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        yield new
        for file in sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file()):
            if (target / file).is_dir():
                raise IsADirectoryError(f"'{target / file}' is a folder: give another name.")
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            if (target / file).exists():
                (old / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(target / file, old / file)
                undo.callback(os.replace, old / file, target / file)
            else:
                undo.callback((target / file).unlink, missing_ok=True)
            os.replace(new / file, target / file)
        undo.pop_all()


def lock(file: BinaryIO, path: str | os.PathLike) -> None:
    """Lock an open file until it is closed, against other processes that call this function.

    Raises:
        OSError: If another process has locked it.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"'{path}' is being written by another process: wait for it, or end it.") from error
        except OSError:  # not every network's file system can lock
            pass

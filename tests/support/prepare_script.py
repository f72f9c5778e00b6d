"""Prepares the drawn clips of a folder in a process of its own, or in many that are disturbed:
`prepare_script.py FOLDER OUT [disturbed]`."""

import logging
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from support.tiny_clips import drawn_faces

from lavieid_adapters.data.clips import read_clips
from lavieid_adapters.data.prepare import prepare_clips
from lavieid_adapters.data.shard_writer import finished_keys
from lavieid_adapters.data.video import Bucket


def run(folder: Path, out: Path, **settings):
    """`prepare` of `folder / "clips.jsonl"` for `folder / "base"`."""
    given = {"buckets": [Bucket(5, 64, 96), Bucket(9, 64, 96)], "dtype": torch.float32, "samples_per_shard": 3}
    face = settings.pop("face", None) or drawn_faces()
    clips = read_clips(folder / "clips.jsonl")
    return prepare_clips(clips, out, **{"base": folder / "base", "face": face, **given, **settings})


def in_child(folder: Path, out: Path, kill_after: float | None = None) -> int:
    """Run in a child, which is killed some seconds after its first clip is done; its status, negative if killed."""
    before, pid = journalled(out), os.fork()
    if pid == 0:
        status = 1
        try:
            run(folder, out)
            status = 0
        except OSError as error:
            print(error, flush=True)
        finally:
            os._exit(status)
    if kill_after is not None:
        while journalled(out) == before and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.01)
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def journalled(out: Path) -> int:
    """Bytes of the journals."""
    return sum(path.stat().st_size for path in out.glob("journal-*.jsonl"))


def killed(folder: Path, out: Path) -> list[int]:
    """Kill it at random moments until it ends well; how many clips were finished after each kill."""
    counts, delays = [], random.Random(0)
    while (status := in_child(folder, out, delays.uniform(0, 0.4))) == -signal.SIGKILL:
        counts.append(len(finished_keys(out)))
    assert status == 0
    return counts


def full_disk(folder: Path, out: Path) -> list[int]:
    """Let no file grow beyond 60 kB, and then any; how many clips were finished before."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    assert in_child(folder, out) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    counts = [len(finished_keys(out))]
    assert in_child(folder, out) == 0
    return counts


def main(folder: Path, out: Path, how: str = "") -> None:
    if how != "disturbed":
        run(folder, out)
        return
    # A fork of a process that has threads may hang, so that nothing runs in this one.
    for disturb in (killed, full_disk):
        print(disturb(folder, out / disturb.__name__), flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    main(*map(Path, sys.argv[1:3]), *sys.argv[3:])

"""Shards that are written survive a kill at any moment: nothing is lost, repeated or damaged."""

import json
import os
import resource
import shutil
import signal
import tarfile
import time

import pytest

from lavieid_adapters.data.shard_writer import ShardWriter, finished_keys, write_index


def sample(i: int) -> tuple[str, dict[str, bytes], dict]:
    """A key, files of several sizes, and a line."""
    members = {"json": json.dumps({"i": i}).encode(), "maps.png": bytes([i]) * (700 * i + 1), "empty.txt": b""}
    return f"{i:016x}", members, {"frames": i}


def write(folder, keys, rank: int = 0, samples_per_shard: int = 2) -> None:
    """Write what is not there yet, and reject every fifth."""
    folder.mkdir(exist_ok=True)
    done = finished_keys(folder)
    with ShardWriter(folder, rank, samples_per_shard) as writer:
        for i in keys:
            if f"{i:016x}" not in done:
                if i % 5 == 4:
                    writer.reject(f"{i:016x}", f"{i}.mp4", "no face", "0 of 9")
                else:
                    writer.write(*sample(i))


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}


@pytest.fixture
def whole(tmp_path):
    """A folder of seven samples and two rejections, and what is in it."""
    write(tmp_path / "whole", range(9))
    return files(tmp_path / "whole")


def test_every_sample_is_where_its_line_says(tmp_path, whole):
    assert list(whole) == ["journal-00000.jsonl", *(f"shard-00000-{n:05d}.tar" for n in range(4))]
    lines = [json.loads(line) for line in whole["journal-00000.jsonl"].splitlines()]
    assert [line["key"] for line in lines] == [f"{i:016x}" for i in range(9)]
    assert lines[4] == {"key": f"{4:016x}", "video": "4.mp4", "reason": "no face", "detail": "0 of 9"}
    for i, line in enumerate(lines):
        if "shard" in line:
            assert line["frames"] == i
            part = whole[line["shard"]][line["offset"] : line["offset"] + line["size"]]
            assert part.startswith(f"{i:016x}.json\0".encode())
    for name in list(whole)[1:]:
        with tarfile.open(tmp_path / "whole" / name) as tar:
            assert all(tar.extractfile(member).read() is not None for member in tar)
        assert whole[name].endswith(bytes(1024)) and len(whole[name]) % 512 == 0


def test_what_is_finished_is_known_by_its_keys(tmp_path, whole):
    assert finished_keys(tmp_path / "whole") == {f"{i:016x}" for i in range(9)}
    assert finished_keys(tmp_path / "nowhere") == set()


def test_writing_nothing_more_changes_nothing(tmp_path, whole):
    write(tmp_path / "whole", range(9))
    assert files(tmp_path / "whole") == whole


@pytest.mark.parametrize("count", range(10))
def test_a_writer_goes_on_where_another_stopped(tmp_path, whole, count):
    write(tmp_path / "two", range(count))
    write(tmp_path / "two", range(9))
    assert files(tmp_path / "two") == whole


def test_after_a_kill_between_any_two_bytes_the_rest_is_written_and_nothing_twice(tmp_path, whole):
    """The states that a kill can leave: the tar up to some byte, the journal up to a line whose sample is whole."""
    data = whole["journal-00000.jsonl"]
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    states = []
    for number, end in enumerate([0, *ends[:-1]]):
        states.append((number, data[: end + 7], None))  # a torn line
        states += [(number, data[:end], cut) for cut in (0, 1, 513, 1700)]  # a torn sample
    for state, (number, journal, cut) in enumerate(states):
        folder = tmp_path / str(state)
        write(folder, range(number))
        (folder / "journal-00000.jsonl").write_bytes(journal)
        known = [json.loads(line) for line in journal[: journal.rfind(b"\n") + 1].splitlines()]
        shards = [line for line in known if "shard" in line]
        name = shards[-1]["shard"] if shards else "shard-00000-00000.tar"
        if sum(line["shard"] == name for line in shards) == 2:  # the next one has begun
            name = f"shard-00000-{int(name[-9:-4]) + 1:05d}.tar"
        end = max((line["offset"] + line["size"] for line in shards if line["shard"] == name), default=0)
        if cut is not None:
            tar = (folder / name).read_bytes() if end else b""
            (folder / name).write_bytes(tar[:end] + os.urandom(cut))
        assert len(finished_keys(folder)) == number
        write(folder, range(9))
        assert files(folder) == whole, (number, cut)
        shutil.rmtree(folder)


def test_a_writer_that_is_killed_at_random_moments_is_followed_by_others(tmp_path, whole):
    folder, kills, keys = tmp_path / "killed", 0, range(9)
    for attempt in range(200):
        pid = os.fork()
        if pid == 0:
            try:
                write(folder, keys)
            finally:
                os._exit(0)
        time.sleep(0.001 * (attempt % 7))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            break
    assert kills > 3
    write(folder, keys)
    assert files(folder) == whole


def test_several_processes_write_shards_of_their_own_and_share_an_index(tmp_path):
    folder = tmp_path / "ranks"
    write(folder, range(0, 9, 2), rank=0)
    write(folder, range(1, 6, 2), rank=1)
    (folder / "shard-00001-00001.tar").open("ab").write(b"torn")  # rank 1 was killed, and only rank 0 comes back
    write(folder, range(9), rank=0)
    usable, rejected = write_index(folder)
    assert [line["frames"] for line in usable] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert [line["video"] for line in rejected] == ["4.mp4"]
    assert [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()] == usable
    assert [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()] == rejected
    assert {line["shard"][6:11] for line in usable} == {"00000", "00001"}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            assert tar.getmembers()
        assert path.read_bytes().endswith(bytes(1024))


def test_two_writers_of_one_rank_are_refused(tmp_path):
    with ShardWriter(tmp_path), pytest.raises(OSError, match=r"journal-00000\.jsonl' is being written by another"):
        ShardWriter(tmp_path)
    ShardWriter(tmp_path).close()


def test_a_shard_that_has_lost_what_its_journal_knows_is_an_error(tmp_path, whole):
    path = tmp_path / "whole" / "shard-00000-00003.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"shard-00000-00003\.tar' has 600 bytes, but its journal knows \d+"):
        ShardWriter(tmp_path / "whole")
    path.unlink()
    with pytest.raises(ValueError, match="has 0 bytes"):
        ShardWriter(tmp_path / "whole")


def test_a_damaged_line_inside_a_journal_is_named(tmp_path, whole):
    path = tmp_path / "whole" / "journal-00000.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"key": "0000000000000002"', b"{{{{"))
    for act in (finished_keys, write_index, ShardWriter):
        with pytest.raises(ValueError, match=r"journal-00000\.jsonl', line 3 is damaged"):
            act(tmp_path / "whole")


def test_a_full_disk_is_told_and_what_was_written_is_whole(tmp_path, whole):
    folder = tmp_path / "full"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
        with pytest.raises(OSError, match=r"no room in '.*full' \(File too large\): make some, and run the same again"):
            write(folder, range(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 0 < len(finished_keys(folder)) < 9
    write(folder, range(9))
    assert files(folder) == whole


def test_a_shard_of_no_samples_is_refused_before_a_file_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"samples_per_shard is 0, but must be at least 1\."):
        ShardWriter(tmp_path, samples_per_shard=0)
    assert not list(tmp_path.iterdir())

"""Shards that are written survive a kill at any moment: nothing is lost, repeated or damaged."""

import json
import os
import resource
import shutil
import signal
import tarfile
import time

import pytest

from lavieid_adapters.data.shard_writer import ShardWriter, finished_keys, mend_shards, write_index


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


# what a journal does not know


def whole_sample(i: int) -> tuple[str, dict[str, bytes], dict]:
    """A sample that says itself what its line is to say, as those that are prepared do."""
    line = {"video": f"{i}.mp4", "person": None, "frames": 9, "height": 64, "width": 96 + i}
    return f"{i:016x}", {"json": json.dumps({**line, "caption": "x"}).encode(), "maps.png": bytes(700 * i + 1)}, line


def prepared(folder, keys=range(8), rank: int = 0):
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, rank, 3) as writer:
        for i in keys:
            writer.write(*whole_sample(i))
    return folder


JOURNAL = "journal-00000.jsonl"


def kept_lines(count: int, more: bytes = b""):
    def harm(path):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:count]) + more)

    return harm


@pytest.mark.parametrize(
    "harm",
    [
        os.unlink,
        *[kept_lines(count, more) for count in range(8) for more in (b"", b'{"key": "0')],
        lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[3:])),
        lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[::2])),
    ],
)
def test_a_journal_that_was_lost_or_cut_is_made_again_from_the_tars(tmp_path, harm):
    """The tars stay as they are, byte for byte, and no sample is left out or made again."""
    folder = prepared(tmp_path / "out")
    before = files(folder)
    harm(folder / JOURNAL)
    mend_shards(folder)
    after = files(folder)
    known = lambda data: sorted(data.splitlines())  # noqa: E731
    assert known(after.pop(JOURNAL)) == known(before.pop(JOURNAL))
    assert after == before
    assert finished_keys(folder) == {f"{i:016x}" for i in range(8)}
    prepared(folder, [8])
    prepared(tmp_path / "nine", range(9))
    assert {k: v for k, v in files(folder).items() if k != JOURNAL} == {
        k: v for k, v in files(tmp_path / "nine").items() if k != JOURNAL
    }


def test_a_run_that_was_killed_and_whose_journal_is_lost_loses_no_more_than_the_torn_sample(tmp_path):
    folder = prepared(tmp_path / "out")
    path = folder / "shard-00000-00002.tar"
    before = path.read_bytes()
    path.write_bytes(before[: -len(bytes(1024)) - 600])
    (folder / JOURNAL).unlink()
    usable, _ = write_index(folder)
    assert [line["width"] for line in usable] == [96 + i for i in range(7)]
    prepared(folder, [7])
    assert path.read_bytes() == before


def test_shards_whose_journals_are_all_lost_are_indexed(tmp_path):
    folder = prepared(prepared(tmp_path / "out"), range(8, 12), rank=3)
    expected = write_index(folder)
    for path in folder.glob("journal*"):
        path.unlink()
    assert write_index(folder) == expected and len(expected[0]) == 12


@pytest.mark.parametrize("journal", [True, False])
def test_damage_before_other_samples_stops_it_and_changes_nothing(tmp_path, journal):
    folder = prepared(tmp_path / "out")
    path = folder / "shard-00000-00000.tar"
    path.write_bytes(path.read_bytes()[:40] + bytes(100) + path.read_bytes()[140:])
    if journal:
        kept_lines(0)(folder / JOURNAL)
    else:
        (folder / JOURNAL).unlink()
    before = files(folder)
    with pytest.raises(ValueError, match=r"shard-00000-00000\.tar' holds something between bytes 0 and \d+ that its"):
        mend_shards(folder)
    assert {k: v for k, v in files(folder).items() if v or k != JOURNAL} == {
        k: v for k, v in before.items() if v or k != JOURNAL
    }


def test_whole_samples_that_do_not_say_what_they_are_stop_it(tmp_path, whole):
    (tmp_path / "whole" / JOURNAL).unlink()
    with pytest.raises(ValueError, match=r"shard-00000-00000\.tar' holds something .* does not know \('video'\)"):
        ShardWriter(tmp_path / "whole")
    assert {k: v for k, v in files(tmp_path / "whole").items() if v} == {k: whole[k] for k in whole if k != JOURNAL}


def test_a_file_that_is_no_tar_is_set_aside_and_not_deleted(tmp_path):
    folder = prepared(tmp_path / "out")
    foreign = os.urandom(5000)
    (folder / "shard-00000-00009.tar").write_bytes(foreign)
    mend_shards(folder)
    assert not (folder / "shard-00000-00009.tar").exists()
    assert (folder / ".shard-00000-00009.tar.unreadable").read_bytes() == foreign


@pytest.mark.parametrize("act", [finished_keys, write_index, mend_shards, ShardWriter])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_a_journal_that_is_no_file_of_its_own_is_refused_and_its_target_left_alone(tmp_path, act, kind):
    folder, target = prepared(tmp_path / "out"), tmp_path / "target"
    (folder / JOURNAL).unlink()
    if kind == "link":
        target.write_text("years of work")
    if kind.endswith("link"):
        (folder / JOURNAL).symlink_to(target)
    else:
        {"pipe": os.mkfifo, "folder": os.mkdir}[kind](folder / JOURNAL)
    before = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    with pytest.raises(OSError, match=r"journal-00000\.jsonl' is (a symbolic link|no regular file)"):
        act(folder)
    assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == before
    assert (target.read_text() == "years of work") if kind == "link" else not target.exists()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_shard_to_write_to_that_is_no_file_of_its_own_is_refused(tmp_path, kind):
    folder, target = prepared(tmp_path / "out"), tmp_path / "target"
    path = folder / "shard-00000-00002.tar"
    path.rename(target)
    content = target.read_bytes()
    if kind == "link":
        path.symlink_to(target)
    else:
        os.mkfifo(path)
    with pytest.raises(OSError, match=r"shard-00000-00002\.tar' is (a symbolic link|no regular file)"):
        prepared(folder, [8])
    assert target.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b"7",
        b"{}",
        b'{"key": 5}',
        b'{"key": "a"}',
        b'{"key": "a", "video": "v", "reason": []}',
        b'{"key": "a", "shard": "../../etc/passwd", "offset": 0, "size": 1}',
        b'{"key": "a", "shard": ["shard"], "offset": 0, "size": 1}',
        b'{"key": "a", "shard": "shard-00000-00000.tar", "offset": -1, "size": 1}',
        b'{"key": "a", "shard": "shard-00000-00000.tar", "offset": 0, "size": true}',
        b'{"key": "a", "shard": "shard-00000-00000.tar", "offset": 0}',
        b"\xff\xfe",
    ],
    ids=lambda line: line[:60].decode(errors="replace"),
)
def test_whatever_is_no_line_of_a_journal_is_named(tmp_path, line):
    folder = prepared(tmp_path / "out")
    with open(folder / JOURNAL, "ab") as file:
        file.write(line + b"\n")
    before = files(folder)
    for act in (finished_keys, write_index, ShardWriter):
        with pytest.raises(ValueError, match=r"journal-00000\.jsonl', line 9 is damaged"):
            act(folder)
    assert files(folder) == before

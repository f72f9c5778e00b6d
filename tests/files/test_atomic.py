"""Saves that leave no half behind, and one writer at a time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.adapter_files import contents

from lavieid_adapters.files.atomic import lock, written_aside


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_rename_that_fails_leaves_what_was_there(tmp_path, monkeypatch, failing):
    target = tmp_path / "target"

    def fill(folder: Path, text: str) -> None:
        (folder / "sub").mkdir(parents=True)
        for name in ("a", "sub/b", "z"):
            (folder / name).write_text(text)

    fill(target, "old")
    before, replace, calls = contents(target), os.replace, []

    def failing_replace(source, destination):
        calls.append(source)
        if len(calls) == failing:
            raise PermissionError("in use")
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing_replace)
        with pytest.raises(PermissionError), written_aside(target) as folder:
            fill(folder, "new")
    assert contents(target) == before
    assert os.listdir(tmp_path) == ["target"]


def test_an_error_in_the_block_leaves_what_was_there_and_no_new_folder(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), written_aside(tmp_path / "target") as folder:
            (folder / "a").write_text("half")
            raise KeyboardInterrupt
        assert os.listdir(tmp_path) == []
    with written_aside(tmp_path / "target") as folder:
        (folder / "a").write_text("whole")
    assert contents(tmp_path) == {"target/a": b"whole"}


def test_a_folder_on_another_file_system_than_its_parent_can_be_saved_to(tmp_path):
    elsewhere = Path("/dev/shm")
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    mounted = elsewhere / f"lavieid-{os.getpid()}"
    mounted.mkdir()
    try:
        (tmp_path / "target").symlink_to(mounted)  # as a mount point would
        with written_aside(tmp_path / "target") as folder:
            (folder / "a").write_text("whole")
        assert contents(mounted) == {"a": b"whole"}
    finally:
        shutil.rmtree(mounted)


def test_files_of_the_same_name_are_replaced_and_others_left(tmp_path):
    for name, text in (("a", "old"), ("mine", "mine")):
        (tmp_path / name).write_text(text)
    with written_aside(tmp_path) as folder:
        assert not os.listdir(folder)
        (folder / "a").write_text("new")
        assert (tmp_path / "a").read_text() == "old"  # until the block has ended
    assert contents(tmp_path) == {"a": b"new", "mine": b"mine"}


@pytest.mark.parametrize("inside", [False, True], ids=["target", "file"])
def test_a_file_and_a_folder_do_not_replace_each_other(tmp_path, inside):
    if inside:
        (tmp_path / "a").mkdir()
        with pytest.raises(IsADirectoryError, match="a' is a folder"), written_aside(tmp_path) as folder:
            (folder / "a").write_text("new")
        assert (tmp_path / "a").is_dir() and os.listdir(tmp_path) == ["a"]
    else:
        (tmp_path / "taken").write_text("mine")
        with pytest.raises(ValueError, match="taken' is a file"), written_aside(tmp_path / "taken"):
            pytest.fail("the block must not run")
        assert contents(tmp_path) == {"taken": b"mine"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_a_lock_keeps_another_process_out_until_the_file_is_closed(tmp_path):
    path = tmp_path / "index"
    code = f"from lavieid_adapters.files.atomic import lock\nlock(open({str(path)!r}, 'ab'), 'the index')"

    def other() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    with open(path, "ab") as file:
        lock(file, path)
        refused = other()
        assert refused.returncode and "OSError: 'the index' is being written by another process" in refused.stderr
    assert other().returncode == 0

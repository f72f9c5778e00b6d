"""What is fetched from a folder and from the Hub, what is uploaded, and errors that name the repo and the remedy."""

import os

import pytest
from huggingface_hub.errors import EntryNotFoundError

from lavieid_adapters.files.hub import fetch, fetch_file, hub_errors, upload

FILES = {"config.json": b"{}", "sub/weights.safetensors": b"some", "other.bin": b"large"}


def test_a_folder_is_returned_as_it_is(tmp_path):
    assert fetch(tmp_path, ["nothing"]) == tmp_path
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("a")
    assert fetch_file(tmp_path, "a", "sub") == tmp_path / "sub" / "a"
    with pytest.raises(FileNotFoundError, match=r"There is no '.*sub/b'"):
        fetch_file(tmp_path, "b", "sub")


def test_of_a_repo_only_the_named_files_are_fetched(hub):
    hub.repos["me/repo"] = dict(FILES)
    folder = fetch("me/repo", ["config.json", "sub/*.safetensors", "not there"])
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(FILES) - {"other.bin"}
    assert any("/resolve/" in request for request in hub.requests)
    assert not any("other.bin" in request for request in hub.requests if "/resolve/" in request)


def test_one_file_of_a_repo(hub):
    hub.repos["me/repo"] = dict(FILES)
    assert fetch_file("me/repo", "weights.safetensors", "sub").read_bytes() == b"some"
    assert not any("config.json" in request for request in hub.requests)
    with pytest.raises(EntryNotFoundError):
        fetch_file("me/repo", "nothing")


def test_an_upload_is_one_commit_to_a_repo_that_is_created_if_need_be(hub, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"one")
    upload(tmp_path, "me/new", commit_message="First")
    assert hub.repos["me/new"] == {"sub/a": b"one"}
    (tmp_path / "b").write_bytes(b"two")
    upload(tmp_path, "me/new")
    assert hub.repos["me/new"] == {"sub/a": b"one", "b": b"two"}
    assert sum("/commit/" in request for request in hub.requests) == 2


def test_a_path_that_is_no_folder_is_said_to_be_none(tmp_path):
    for get in (lambda name: fetch(name, ["a"]), lambda name: fetch_file(name, "a")):
        with pytest.raises(ValueError, match=r"nowhere' is neither a folder nor the id of a Hub repo\. Check the path"):
            get(tmp_path / "nowhere")


def test_a_repo_that_is_neither_cached_nor_reachable_is_named():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    for get in (lambda name: fetch(name, ["a"]), lambda name: fetch_file(name, "a")):
        with pytest.raises(OSError, match=r"'me/nowhere' is no folder here, is not in the cache.*HF_HUB_OFFLINE"):
            get("me/nowhere")


def test_a_connection_that_breaks_is_an_error_of_its_own_and_other_errors_pass(hub):
    hub.repos["me/repo"], hub.break_downloads = {"weights.safetensors": bytes(10_000)}, True
    with pytest.raises(OSError, match=r"connection broke during a transfer of 'me/repo'.*try again") as caught:
        fetch("me/repo", ["weights.safetensors"])
    assert type(caught.value) is OSError  # not a transport error of the HTTP library
    with pytest.raises(KeyError, match="mine"), hub_errors("me/repo"):
        raise KeyError("mine")

"""Shards are checked at the door, read by any process, and by the webdataset library as well."""

import json
import os
import tarfile

import pytest
import torch
from safetensors.torch import save_file
from support.read_shards import Read
from torch.utils.data import DataLoader

from lavieid_adapters.data.shard_writer import ShardWriter, write_index
from lavieid_adapters.data.shards import Shards

HEADER = {"format": "lavieid-shards", "version": 1, "base": "me/base", "vae": "0" * 16, "text_encoder": "1" * 16}


def members(i: int) -> dict[str, bytes]:
    return {"json": json.dumps({"i": i}).encode(), "maps.png": bytes([i]) * (600 + i), "preview.jpg": b""}


@pytest.fixture
def folder(tmp_path):
    """Five samples in three shards, as if they were prepared."""
    (tmp_path / "shards.json").write_text(json.dumps(HEADER))
    save_file({"prompt_embeds": torch.arange(6.0).view(3, 2)}, tmp_path / "null_prompt.safetensors")
    with ShardWriter(tmp_path, samples_per_shard=2) as writer:
        for i in (3, 1, 4, 0, 2):
            writer.write(f"{i:016x}", members(i), {"frames": 9, "height": 64, "width": 96, "video": f"{i}.mp4"})
    write_index(tmp_path)
    return tmp_path


def test_samples_are_read_in_the_order_of_their_keys(folder):
    shards = Shards(folder)
    assert shards.header == HEADER and len(shards) == 5
    assert torch.equal(shards.null_prompt, torch.arange(6.0).view(3, 2))
    assert [line["video"] for line in shards.index] == [f"{i}.mp4" for i in range(5)]
    assert len({line["shard"] for line in shards.index}) == 3
    for i in (4, 0, 2, 2, 1, 3):
        assert shards.members(i) == members(i)


def test_other_processes_read_the_same(folder):
    shards = Shards(folder)
    shards.members(0)
    loader = DataLoader(Read(shards), num_workers=2, multiprocessing_context="forkserver")
    sizes, processes = zip(*((int(size), int(process)) for size, process in loader), strict=True)
    assert sizes == (600, 601, 602, 603, 604)
    assert len(set(processes)) == 2 and os.getpid() not in processes


def test_forks_do_not_disturb_one_another(folder):
    shards = Shards(folder)
    shards.members(0)
    children = []
    for start in range(4):
        pid = os.fork()
        if pid == 0:
            same = all(shards.members(i % 5) == members(i % 5) for i in range(start, start + 50))
            os._exit(0 if same else 1)
        children.append(pid)
    assert all(shards.members(i % 5) == members(i % 5) for i in range(50))
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4


def test_webdataset_reads_them(folder):
    wds = pytest.importorskip("webdataset")
    tars = sorted(map(str, folder.glob("*.tar")))
    samples = {sample["__key__"]: sample for sample in wds.WebDataset(tars, shardshuffle=False)}
    shards = Shards(folder)
    assert sorted(samples) == [line["key"] for line in shards.index]
    for i, key in enumerate(sorted(samples)):
        assert {k: v for k, v in samples[key].items() if k[0] != "_"} == shards.members(i)


def test_any_tar_reads_them_and_they_tell_nothing_of_who_made_them(folder):
    with tarfile.open(sorted(folder.glob("*.tar"))[0]) as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos] == [f"{i:016x}.{name}" for i in (3, 1) for name in members(0)]
    assert {(info.mtime, info.uid, info.uname, info.gname) for info in infos} == {(0, 0, "", "")}


def remove(name):
    return lambda folder: (folder / name).unlink()


def header(**changes):
    return lambda folder: (folder / "shards.json").write_text(json.dumps({**HEADER, **changes}))


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def pipe(name):
    return lambda folder: (os.unlink(folder / name), os.mkfifo(folder / name))


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def line(**changes):
    def harm(folder):
        first, *rest = (folder / "index.jsonl").read_text().splitlines()
        (folder / "index.jsonl").write_text("\n".join([json.dumps({**json.loads(first), **changes}), *rest]))

    return harm


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove("shards.json"), r"has no shards\.json: these are no shards, make some with lavieid prepare"),
        (remove("index.jsonl"), r"has no index\.jsonl: lavieid prepare has not finished, run it again"),
        (cut("index.jsonl", 0), r"holds no samples: rejected\.jsonl says why"),
        (cut("index.jsonl", 50), r"index\.jsonl', line 1 is damaged"),
        (header(version=2), "is of format lavieid-shards 2, but this version reads lavieid-shards 1"),
        (header(format="webdataset"), "is of format webdataset 1"),
        (cut("shards.json", 9), r"shards\.json' is damaged"),
        (remove("shard-00000-00001.tar"), r"shard-00000-00001\.tar' is not there: copy it again"),
        (cut("shard-00000-00001.tar", 700), r"shard-00000-00001\.tar' has 700 bytes of \d+: copy it again"),
        (remove("null_prompt.safetensors"), r"null_prompt\.safetensors' is missing or damaged"),
        (cut("null_prompt.safetensors", 20), r"null_prompt\.safetensors' is missing or damaged"),
        (pipe("null_prompt.safetensors"), r"null_prompt\.safetensors' is missing or damaged"),
        (pipe("index.jsonl"), r"has no index\.jsonl"),
        (pipe("shards.json"), r"has no shards\.json"),
        (pipe("shard-00000-00001.tar"), r"shard-00000-00001\.tar' is not there"),
        (text("shards.json", "[" * 100_000), r"shards\.json' is damaged"),
        (text("index.jsonl", "[" * 100_000), r"index\.jsonl', line 1 is damaged"),
        (text("index.jsonl", "5"), r"index\.jsonl', line 1 is damaged"),
        (text("index.jsonl", '{"key": "a", "video": "b", "reason": "c"}'), "line 1 is damaged .no place or no size"),
        (line(frames=None), "line 1 is damaged .no place or no size"),
        (line(height=0), "line 1 is damaged .no place or no size"),
        (line(offset="0"), "line 1 is damaged .no offset or no size"),
        (line(shard="../shard-00000-00001.tar"), "line 1 is damaged .shard"),
    ],
)
def test_what_is_no_whole_set_of_shards_is_refused_at_the_door(folder, harm, message):
    Shards(folder)
    harm(folder)
    with pytest.raises(ValueError, match=message):
        Shards(folder)


def test_a_folder_that_is_not_there_is_no_shards(tmp_path):
    with pytest.raises(ValueError, match=r"has no shards\.json"):
        Shards(tmp_path / "nowhere")


def test_damage_inside_a_shard_is_named_when_it_is_read(folder):
    shards = Shards(folder)
    line = shards.index[2]
    path = folder / line["shard"]
    data = bytearray(path.read_bytes())
    data[line["offset"] : line["offset"] + 512] = os.urandom(512)
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=rf"{line['shard']}' is damaged at {line['key']}"):
        shards.members(2)
    assert shards.members(1) == members(1)


@pytest.mark.parametrize("file", [0, 1, 2])
def test_damage_of_any_header_of_a_sample_is_named(folder, file):
    """`tarfile` stops without a word at a header that is damaged behind the first."""
    shards = Shards(folder)
    line = shards.index[2]
    path = folder / line["shard"]
    data = bytearray(path.read_bytes())
    header = data.index(f"{line['key']}.{list(members(2))[file]}".encode())
    data[header + 110] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=rf"{line['shard']}' is damaged at {line['key']}"):
        shards.members(2)


def test_a_header_that_does_not_say_which_base_made_them_is_named(folder):
    header(vae=None)(folder)
    with pytest.raises(ValueError, match=r"shards\.json' is damaged \(no vae\)"):
        Shards(folder).check_base("me/base")

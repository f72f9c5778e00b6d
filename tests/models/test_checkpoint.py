"""The folder of all adapters: on disk, through the real Hub client, and where it does not fit the pipeline."""

import json
import os
import socket
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from support import tiny
from support.adapter_files import BUILDERS, WEIGHTS, Planted, contents, equal
from support.hub_server import HubServer, point_client_at
from support.small_cogvideox import small_components

from lavieid_adapters import TAM, LocalRouter, attach_lavieid
from lavieid_adapters.models.checkpoint import ADAPTERS, Metadata, by_name, load_folder, save_folder

FILES = {"README.md", *(f"{name}/{file}" for name in ADAPTERS for file in ("config.json", WEIGHTS))}


def adapters(seed: int = 0) -> dict:
    return {"router": tiny.router(seed), "encoder": tiny.encoder(seed), "tam": tiny.tam(seed)}


def all_equal(mine: dict, theirs: dict) -> bool:
    return mine.keys() == theirs.keys() and all(equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def components() -> dict:
    return small_components()


@pytest.fixture
def pipe(components) -> CogVideoXPipeline:
    return CogVideoXPipeline(**components)


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder of `adapters()`, trained for block 1 of a named base model."""
    save_folder(adapters(), tmp_path / "lavieid", Metadata("zai-org/CogVideoX-5b", block_idx=1))
    return tmp_path / "lavieid"


def on_hub(hub: HubServer, folder: Path, repo_id: str = "me/lavieid") -> str:
    hub.repos[repo_id] = contents(folder)
    return repo_id


def test_a_folder_of_all_comes_back(saved):
    assert set(contents(saved)) == FILES
    loaded, metadata = load_folder(saved)
    assert all_equal(loaded, adapters())
    assert not all_equal(loaded, adapters(seed=1))
    assert metadata == Metadata("zai-org/CogVideoX-5b", 1, tiny.encoder().fingerprint())


def test_each_adapter_of_a_folder_loads_alone(saved):
    for name, cls in ADAPTERS.items():
        assert equal(cls.from_pretrained(saved, subfolder=name), BUILDERS[cls]())
        assert equal(cls.from_pretrained(saved / name), BUILDERS[cls]())


def test_a_folder_may_hold_some_of_the_adapters_or_be_that_of_one(tmp_path):
    save_folder({"tam": tiny.tam()}, tmp_path / "some", Metadata(encoder="0123456789abcdef"))
    loaded, metadata = load_folder(tmp_path / "some")
    assert all_equal(loaded, {"tam": tiny.tam()})
    assert metadata.encoder == "0123456789abcdef"  # kept for a router whose encoder is not there
    tiny.tam().save_pretrained(tmp_path / "one")
    assert all_equal(load_folder(tmp_path / "one")[0], {"tam": tiny.tam()})


def test_weights_are_loaded_in_the_dtype_that_is_asked_for(saved):
    loaded, _ = load_folder(saved, torch_dtype=torch.bfloat16)
    assert {adapter.dtype for adapter in loaded.values()} == {torch.bfloat16}


def test_a_folder_without_a_card_loads_as_one_of_block_0(saved):
    (saved / "README.md").unlink()
    assert load_folder(saved)[1] == Metadata(None, 0, "")


@pytest.mark.parametrize(
    "card",
    ["", "# Mine\n", "---\nlicense: mit\n---\n", "---\nlavieid: yes\n---\n", "---\nbase_model:\n- a/b\n- c/d\n---\n"],
    ids=["empty", "no front matter", "no record", "another record", "two base models"],
)
def test_a_card_that_was_rewritten_does_not_keep_the_adapters_from_loading(saved, pipe, card):
    (saved / "README.md").write_text(card)
    pipe.register_to_config(_name_or_path="a/b")
    with attach_lavieid(pipe, saved) as lavieid:
        assert lavieid.metadata.block_idx == 0


def edit_card(folder: Path, name: str, value: str) -> None:
    """Write a value, as YAML, over that of a line of the card's record; delete the line if it is empty."""
    path = folder / "README.md"
    card = path.read_text()
    line = next(line for line in card.splitlines(keepends=True) if line.startswith(f"  {name}:"))
    path.write_text(card.replace(line, f"  {name}: {value}\n" if value else ""))


@pytest.mark.parametrize("name", ["base_model", "block_idx", "encoder"])
@pytest.mark.parametrize("value", ["null", "~", ""])
def test_what_a_card_lacks_or_has_as_null_is_unknown(saved, pipe, name, value):
    known = load_folder(saved)[1]
    assert known == Metadata("zai-org/CogVideoX-5b", 1, tiny.encoder().fingerprint())
    edit_card(saved, name, value)
    metadata = load_folder(saved)[1]
    assert getattr(metadata, name) == getattr(Metadata(), name) != getattr(known, name)
    attach_lavieid(pipe, saved).detach()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("block_idx", "first", "'first'"),
        ("block_idx", "1.5", "1.5"),
        ("block_idx", "true", "True"),
        ("block_idx", "[1]", r"\[1\]"),
        ("encoder", "12345678", "12345678"),
        ("encoder", "false", "False"),
        ("base_model", "5", "5"),
    ],
)
def test_a_card_with_values_of_other_types_is_refused_by_file_and_value(saved, name, value, shown):
    edit_card(saved, name, value)
    with pytest.raises(ValueError, match=rf"README\.md' records {shown} as the {name}"):
        load_folder(saved)


@pytest.mark.parametrize("kept", [0, 100, 40_000])
def test_one_truncated_adapter_refuses_the_folder_and_names_it(saved, pipe, kept):
    weights = saved / "tam" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises((ValueError, OSError), match=r"lavieid/tam"):
        attach_lavieid(pipe, saved)
    assert "decode_latents" not in vars(pipe)


def test_one_renamed_adapter_refuses_the_folder_and_names_it(saved):
    (saved / "tam" / WEIGHTS).rename(saved / "tam" / "weights.safetensors")
    with pytest.raises(ValueError, match=r"lavieid/tam' has no .*weights\.safetensors"):
        load_folder(saved)


def test_an_adapter_in_the_place_of_another_is_refused(saved):
    (saved / "tam").rename(saved / "router2")
    (saved / "router").rename(saved / "tam")
    with pytest.raises(ValueError, match=r"tam' holds a LocalRouter, not a TAM"):
        load_folder(saved)


def test_a_folder_of_something_else_is_refused_and_lists_what_is_there(tmp_path, components):
    components["transformer"].save_pretrained(tmp_path / "pipeline" / "transformer")
    with pytest.raises(ValueError, match=r"none of router, encoder, tam, but transformer"):
        load_folder(tmp_path / "pipeline")
    with pytest.raises(ValueError, match=r"holds a CogVideoXTransformer3DModel, which is no adapter"):
        load_folder(tmp_path / "pipeline" / "transformer")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nothing"):
        load_folder(tmp_path / "empty")


def test_a_path_that_is_not_there_is_said_to_be_no_folder(tmp_path):
    for place in (tmp_path / "adaptors", "./out/adaptors"):
        with pytest.raises((ValueError, OSError), match="folder") as caught:
            load_folder(place)
        assert "adaptors" in str(caught.value)


def test_saving_over_a_folder_leaves_foreign_files(saved):
    (saved / "identity.safetensors").write_bytes(b"mine")
    (saved / "samples").mkdir()
    (saved / "samples" / "a.gif").write_bytes(b"GIF")
    save_folder(adapters(seed=1), saved, Metadata())
    assert all_equal(load_folder(saved)[0], adapters(seed=1))
    assert (saved / "identity.safetensors").read_bytes() == b"mine"
    assert (saved / "samples" / "a.gif").read_bytes() == b"GIF"
    assert os.listdir(saved.parent) == ["lavieid"]


def test_saving_over_a_folder_leaves_foreign_files_in_the_folders_of_the_adapters(saved):
    (saved / "encoder" / "notes.txt").write_text("mine")
    save_folder(adapters(seed=1), saved, Metadata())
    assert all_equal(load_folder(saved)[0], adapters(seed=1))
    assert (saved / "encoder" / "notes.txt").read_text() == "mine"


def test_a_save_that_fails_at_the_second_adapter_leaves_the_old_folder_and_no_scratch(saved, monkeypatch):
    before, written = contents(saved), []

    def full_disk(tensors, filename, metadata=None):
        written.append(filename)
        if len(written) == 2:
            raise OSError("No space left on device")
        save_file(tensors, filename, metadata)

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_folder(adapters(seed=1), saved, Metadata())
    assert len(written) == 2
    assert contents(saved) == before
    assert os.listdir(saved.parent) == ["lavieid"]


def test_the_card_of_all_records_what_the_adapters_belong_to(saved):
    card = ModelCard.load(saved / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == "zai-org/CogVideoX-5b"
    assert card.data.to_dict()["lavieid"] == {
        "base_model": "zai-org/CogVideoX-5b",
        "block_idx": 1,
        "encoder": tiny.encoder().fingerprint(),
    }
    for line in ("- Base model: zai-org/CogVideoX-5b", "- Transformer block: 1", "- Licence: apache-2.0"):
        assert line in card.text
    for name, adapter in adapters().items():
        row = next(line for line in card.text.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"{k} {v}" in row for k, v in adapter.config.items() if k[0] != "_")
    assert "attach_lavieid(pipe" in card.text
    assert "## Responsible use" in card.text and "consent" in card.text


def test_the_cards_use_works_as_it_is_printed(saved, pipe, tmp_path):
    tiny.encoder().encode(*tiny.features(tiny.encoder())).save(tmp_path / "identity.safetensors")
    card = ModelCard.load(saved / "README.md").text
    code = card.split("```python\n")[1].split("```")[0].replace("<this repo or folder>", str(saved))
    code = code.replace("identity.safetensors", str(tmp_path / "identity.safetensors"))
    code = code.replace('autumn."', 'autumn.", num_inference_steps=1, num_frames=9, max_sequence_length=16')
    used = {"pipe": pipe}
    exec(code, used)
    assert len(used["video"]) == 9
    used["lavieid"].detach()


def test_attached_adapters_save_and_come_back_on_their_block(saved, pipe, tmp_path):
    with attach_lavieid(pipe, saved) as lavieid:
        assert lavieid.metadata.block_idx == 1
        assert all_equal({name: getattr(lavieid, name) for name in ADAPTERS}, adapters())
        lavieid.save_pretrained(tmp_path / "again")
    assert load_folder(tmp_path / "again")[1] == load_folder(saved)[1]
    assert all_equal(load_folder(tmp_path / "again")[0], adapters())


def test_a_base_model_other_than_the_adapters_warns_with_both_names(saved, pipe):
    pipe.register_to_config(_name_or_path="zai-org/CogVideoX1.5-5B")
    with pytest.warns(
        UserWarning, match=r"trained on 'zai-org/CogVideoX-5b', but the pipeline is 'zai-org/CogVideoX1.5-5B'"
    ):
        attach_lavieid(pipe, saved).detach()


@pytest.mark.parametrize("name", ["zai-org/CogVideoX-5b", "/models/CogVideoX-5B", "me/CogVideoX-5b", None])
def test_the_adapters_base_model_or_a_copy_of_it_does_not_warn(saved, pipe, name):
    pipe.register_to_config(_name_or_path=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach_lavieid(pipe, saved).detach()


def test_another_block_than_the_adapters_warns_and_is_taken(saved, pipe):
    with pytest.warns(UserWarning, match="trained for block 1, but is attached to block 2"):
        lavieid = attach_lavieid(pipe, saved, block_idx=2)
    assert lavieid.metadata.block_idx == lavieid.handle.block_idx == 2
    lavieid.detach()


@pytest.mark.parametrize(
    ("name", "adapter", "message"),
    [
        ("router", lambda: tiny.router(dim=32), r"router is 32 wide, but .* are 64"),
        ("tam", lambda: tiny.tam(latent_channels=8), r"8 latent channels, but .* has 4"),
    ],
)
def test_adapters_of_another_width_are_refused_and_the_pipe_is_untouched(tmp_path, pipe, name, adapter, message):
    save_folder({**adapters(), name: adapter()}, tmp_path / "lavieid", Metadata())
    with pytest.raises(ValueError, match=message):
        attach_lavieid(pipe, tmp_path / "lavieid")
    assert "decode_latents" not in vars(pipe)
    registries = [m._diffusers_hook for m in pipe.transformer.modules() if hasattr(m, "_diffusers_hook")]
    assert not any(registry.hooks for registry in registries)


def test_push_and_pull_of_all_adapters(hub, pipe):
    with attach_lavieid(pipe, adapters()) as lavieid:
        lavieid.push_to_hub("me/lavieid", license="cc-by-nc-4.0", commit_message="First")
    assert set(hub.repos["me/lavieid"]) == FILES
    assert sum(request.startswith("POST /api/models/me/lavieid/commit/") for request in hub.requests) == 1
    with attach_lavieid(pipe, "me/lavieid") as lavieid:
        assert all_equal({name: getattr(lavieid, name) for name in ADAPTERS}, adapters())
    card = ModelCard.load("me/lavieid")
    assert card.data.license == "cc-by-nc-4.0"


@pytest.mark.parametrize("cls", BUILDERS)
def test_push_and_pull_of_one_adapter(hub, cls):
    adapter = BUILDERS[cls]()
    adapter.push_to_hub("me/one", license="mit")
    assert set(hub.repos["me/one"]) == {"README.md", "config.json", WEIGHTS}
    assert equal(cls.from_pretrained("me/one"), adapter)
    assert equal(*load_folder("me/one")[0].values(), adapter)
    assert ModelCard.load("me/one").data.license == "mit"


def test_save_pretrained_pushes_when_it_is_asked_to(hub, tmp_path):
    tiny.router().save_pretrained(
        tmp_path / "mine", push_to_hub=True
    )  # to a repo of the folder's name, as in diffusers
    tiny.router().save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/other", commit_message="Mine")
    assert hub.repos["tester/mine"] == hub.repos["me/other"] == contents(tmp_path / "mine")
    assert equal(LocalRouter.from_pretrained("me/other"), tiny.router())


def test_one_adapter_of_a_repo_of_all_is_pulled_without_the_others(hub, saved):
    repo = on_hub(hub, saved)
    assert equal(LocalRouter.from_pretrained(repo, subfolder="router"), tiny.router())
    assert any("/router/" in request for request in hub.requests)
    assert not any("/tam/" in request or "/encoder/" in request for request in hub.requests)


def test_foreign_files_of_a_repo_are_not_fetched(hub, saved, tmp_path):
    torch.save({"x": Planted(tmp_path / "marker")}, saved / "router" / "diffusion_pytorch_model.bin")
    (saved / "samples.mp4").write_bytes(bytes(1000))
    loaded, _ = load_folder(on_hub(hub, saved))
    assert all_equal(loaded, adapters())
    fetched = {request.split("/", 5)[-1] for request in hub.requests if request.startswith("GET /me/lavieid/resolve/")}
    assert fetched == FILES
    assert not (tmp_path / "marker").exists()


def test_an_index_on_the_hub_cannot_name_a_pickle_as_a_shard(hub, saved):
    router = saved / "router"
    torch.save(tiny.router().state_dict(), router / "shard.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tiny.router().state_dict(), "shard.bin")}
    (router / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert equal(LocalRouter.from_pretrained(on_hub(hub, router)), tiny.router())
    assert not any("shard.bin" in request or "index.json" in request for request in hub.requests)
    assert equal(load_folder(on_hub(hub, saved, "me/all"))[0]["router"], tiny.router())  # does not read an index


def test_a_second_pull_comes_from_the_cache(hub, saved):
    repo = on_hub(hub, saved)
    load_folder(repo)
    hub.requests.clear()
    assert all_equal(load_folder(repo)[0], adapters())
    assert not any("/resolve/" in request for request in hub.requests)
    hub.repos.clear()
    assert all_equal(load_folder(repo, local_files_only=True)[0], adapters())


def test_a_connection_that_breaks_once_in_a_download_is_resumed(hub, saved):
    hub.break_after = 4096
    repo = on_hub(hub, saved)
    assert all_equal(load_folder(repo)[0], adapters())
    assert hub.break_after is None  # it did break

    hub.break_after = 4096
    assert equal(TAM.from_pretrained(on_hub(hub, saved / "tam", "me/tam")), tiny.tam())
    assert hub.break_after is None


@pytest.mark.parametrize("one", [False, True], ids=["all", "one"])
def test_a_connection_that_keeps_breaking_is_an_error_and_leaves_no_half_weights(hub, saved, pipe, tmp_path, one):
    repo, hub.break_downloads = on_hub(hub, saved), True

    def pull(**kwargs):
        if one:
            return {"router": LocalRouter.from_pretrained(repo, subfolder="router", **kwargs)}
        return load_folder(repo, **kwargs)[0]

    with pytest.raises(OSError, match=r"connection broke during a transfer of 'me/lavieid.*try again") as caught:
        pull()
    assert type(caught.value) is OSError  # not a transport error of the HTTP library
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert any(request.startswith("GET ") and request.endswith(WEIGHTS) for request in hub.requests)
    assert not any(path.suffix in (".safetensors", ".incomplete") for path in cached)
    with pytest.raises(OSError):  # what is in the cache is not taken for all
        pull(local_files_only=True)
    if not one:
        with pytest.raises(OSError):
            attach_lavieid(pipe, repo)
        assert "decode_latents" not in vars(pipe)

    hub.break_downloads = False
    loaded = pull()
    assert all_equal(loaded, {name: adapters()[name] for name in loaded})


@pytest.mark.parametrize("one", [False, True], ids=["all", "one"])
def test_a_broken_upload_is_an_error_and_commits_nothing(hub, pipe, one):
    lavieid = attach_lavieid(pipe, adapters())
    pushed = lavieid.router if one else lavieid
    hub.break_uploads = True
    with pytest.raises((OSError, RuntimeError), match=WEIGHTS):
        pushed.push_to_hub("me/lavieid")
    assert not hub.repos["me/lavieid"]
    assert not any("/commit/" in request for request in hub.requests)

    hub.break_uploads = False
    pushed.push_to_hub("me/lavieid")
    assert len(hub.repos["me/lavieid"]) == (3 if one else len(FILES))
    lavieid.detach()


def test_a_broken_upload_over_a_repo_leaves_what_is_there(hub, saved):
    before = contents(saved / "router")
    repo = on_hub(hub, saved / "router")
    hub.break_uploads = True
    with pytest.raises((OSError, RuntimeError)):
        tiny.router(seed=1).push_to_hub(repo)
    assert hub.repos[repo] == before


def test_a_repo_that_is_not_there_fails_fast_with_its_name(hub):
    begin = time.perf_counter()
    for pull in (load_folder, LocalRouter.from_pretrained):
        with pytest.raises(OSError, match=r"me/nothing"):
            pull("me/nothing")
    assert time.perf_counter() - begin < 5


def test_a_repo_of_something_else_is_refused_without_fetching_it(hub):
    hub.repos["me/other"] = {"README.md": b"# Other", "model.safetensors": bytes(10_000), "unet/config.json": b"{}"}
    with pytest.raises(ValueError, match=r"'me/other' has none of router, encoder, tam"):
        load_folder("me/other")
    assert not any("model.safetensors" in request for request in hub.requests if "/resolve/" in request)


def test_offline_fails_fast_with_the_name():
    begin = time.perf_counter()
    for pull in (load_folder, LocalRouter.from_pretrained):
        with pytest.raises(OSError, match="me/nothing"):
            pull("me/nothing")
    assert time.perf_counter() - begin < 5


def test_a_hub_that_cannot_be_reached_fails_fast_with_the_name(monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point_client_at(f"http://127.0.0.1:{free.getsockname()[1]}", monkeypatch, tmp_path / "cache")
        begin = time.perf_counter()
        for pull in (load_folder, LocalRouter.from_pretrained):
            with pytest.raises(OSError, match="me/nothing"):
                pull("me/nothing")
        assert time.perf_counter() - begin < 5


def test_several_adapters_of_one_kind_are_refused(pipe):
    router, tam = tiny.router(), tiny.tam()
    assert by_name([tam, router]) == {"router": router, "tam": tam}
    for several in ([router, tiny.router()], [router, tam, router], iter([router, router])):
        with pytest.raises(ValueError, match=r"Several adapters are a router \(LocalRouter\)"):
            by_name(several)
    with pytest.raises(ValueError, match=r"Several adapters are a tam \(TAM\)"):
        attach_lavieid(pipe, [tam, tiny.tam()])
    for wrong in ([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)], 5, [None]):
        with pytest.raises(TypeError, match=r"but adapters are router: LocalRouter"):
            by_name(wrong)


@pytest.mark.parametrize("recorded", [1, -2])
@pytest.mark.parametrize("asked", [1, -2, np.int64(1), np.int64(-2)])
def test_the_adapters_block_counted_from_either_end_does_not_warn(pipe, tmp_path, recorded, asked):
    assert len(pipe.transformer.transformer_blocks) == 3
    save_folder(adapters(), tmp_path / "lavieid", Metadata(block_idx=recorded))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lavieid = attach_lavieid(pipe, tmp_path / "lavieid", block_idx=asked)
    with lavieid:
        assert lavieid.handle.block is pipe.transformer.transformer_blocks[1]
        lavieid.save_pretrained(tmp_path / "again")
    assert load_folder(tmp_path / "again")[1].block_idx == recorded


def test_a_block_that_is_not_there_is_not_taken_for_the_adapters(pipe, saved):
    for block_idx in (4, -5):  # either is block 1 modulo 3
        with pytest.warns(UserWarning, match="trained for block 1"), pytest.raises(ValueError, match="has 3 blocks"):
            attach_lavieid(pipe, saved, block_idx=block_idx)


@pytest.mark.parametrize("block_idx", [False, True, 0.0, 1.0, "1"])
def test_a_block_that_is_no_whole_number_is_refused_with_any_adapters(pipe, saved, block_idx):
    for given in (None, saved, adapters(), tiny.tam()):
        with pytest.raises(TypeError, match=r"block_idx is .*, but must be a whole number"):
            attach_lavieid(pipe, given, block_idx=block_idx)


def test_a_folder_of_tam_alone_says_nothing_of_a_routers_block(pipe, tmp_path):
    save_folder({"tam": tiny.tam()}, tmp_path / "lavieid", Metadata(block_idx=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach_lavieid(pipe, tmp_path / "lavieid", block_idx=2).detach()

"""One adapter's files: strict loading, nothing pickled, and saves that leave no half behind."""

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from support import tiny
from support.adapter_files import BUILDERS, WEIGHTS, Planted, contents, equal
from support.lora import add_lora, linear_layers

from lavieid_adapters import TAM, LocalRouter


def edit_config(folder: Path, **settings) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder of `tiny.router()`."""
    folder = tmp_path / "router"
    tiny.router().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("cls", BUILDERS)
def test_an_adapter_comes_back_from_its_folder(cls, tmp_path):
    adapter, other = BUILDERS[cls](seed=1), BUILDERS[cls](seed=2)
    assert not equal(adapter, other)
    adapter.save_pretrained(tmp_path / "adapter")
    loaded = cls.from_pretrained(tmp_path / "adapter")
    assert equal(loaded, adapter)
    assert {k: v for k, v in loaded.config.items() if k[0] != "_"} == {
        k: v for k, v in adapter.config.items() if k[0] != "_"
    }
    assert not loaded.training
    assert sorted(os.listdir(tmp_path / "adapter")) == ["README.md", "config.json", WEIGHTS]


def test_dtype_subfolder_variant_and_loading_info_are_diffusers_own(tmp_path):
    router = tiny.router()
    router.save_pretrained(tmp_path / "all" / "router", variant="fp16")
    assert (tmp_path / "all" / "router" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    loaded, info = LocalRouter.from_pretrained(
        tmp_path / "all", subfolder="router", variant="fp16", torch_dtype=torch.bfloat16, output_loading_info=True
    )
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.to_video.weight, router.to_video.weight.bfloat16())
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_keywords_that_are_not_known_are_refused(saved, tmp_path):
    with pytest.raises(TypeError, match="does not know subfolders: it takes subfolder"):
        LocalRouter.from_pretrained(saved, subfolders="router")
    with pytest.raises(TypeError, match="does not know max_shard_size"):
        tiny.router().save_pretrained(tmp_path / "new", max_shard_size="20KB")
    assert not (tmp_path / "new").exists()


def test_presets_take_overrides_and_an_unknown_one_lists_those_there_are():
    sizes = {"token_dim": 32, "inner_dim": 64, "num_heads": 2}
    router = LocalRouter.from_preset("cogvideox-2b", **sizes)
    assert router.config.dim == LocalRouter.presets["cogvideox-2b"]["dim"]
    assert LocalRouter.from_preset("cogvideox-2b", dim=64, **sizes).config.dim == 64
    with pytest.raises(ValueError, match=r"LocalRouter has no preset 'cogvideox'.*cogvideox-5b, cogvideox-2b"):
        LocalRouter.from_preset("cogvideox")


def test_missing_and_unexpected_keys_are_listed(saved):
    weights = load_file(saved / WEIGHTS)
    weights["to_audio.weight"] = weights.pop("to_video.weight")
    save_file(weights, saved / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError) as caught:
        LocalRouter.from_pretrained(saved)
    message = str(caught.value)
    assert str(saved) in message
    assert "missing keys: to_video.weight\n" in message
    assert "unexpected keys: to_audio.weight" in message


@pytest.mark.parametrize("kept", [0, 4, 1000, -8], ids=["empty", "within the length", "within the header", "short"])
def test_truncated_weights_are_refused_as_damaged(saved, kept):
    whole = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(whole[:kept])
    with pytest.raises(ValueError, match="damaged") as caught:
        LocalRouter.from_pretrained(saved)
    assert str(saved) in str(caught.value) and "again" in str(caught.value)
    (saved / WEIGHTS).write_bytes(whole)
    LocalRouter.from_pretrained(saved)


def test_a_git_lfs_pointer_in_place_of_the_weights_is_named(saved):
    (saved / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        LocalRouter.from_pretrained(saved)


def test_weights_of_another_format_under_the_name_are_refused(saved):
    (saved / WEIGHTS).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    with pytest.raises(ValueError, match="damaged"):
        LocalRouter.from_pretrained(saved)


def test_renamed_weights_are_refused_with_the_name_that_is_needed(saved):
    (saved / WEIGHTS).rename(saved / "router.safetensors")
    with pytest.raises(ValueError, match=rf"has no {WEIGHTS}, but .*router\.safetensors"):
        LocalRouter.from_pretrained(saved)


def test_weights_of_a_variant_that_was_not_asked_for_are_not_taken(saved):
    (saved / WEIGHTS).rename(saved / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises((ValueError, OSError), match=WEIGHTS):
        LocalRouter.from_pretrained(saved)


def test_the_folder_of_another_adapter_is_refused(saved):
    with pytest.raises(ValueError, match=r"holds a LocalRouter, not a TAM"):
        TAM.from_pretrained(saved)


def test_a_setting_that_this_version_does_not_know_is_refused_by_name(saved):
    edit_config(saved, temperature=2.0)
    with pytest.raises(ValueError, match=r"does not know: temperature"):
        LocalRouter.from_pretrained(saved)


def test_a_config_of_other_sizes_than_the_weights_is_refused_with_both(saved):
    edit_config(saved, dim=32)
    with pytest.raises(ValueError, match=r"norm_query.*\[32\].*\[64\]"):
        LocalRouter.from_pretrained(saved)


@pytest.mark.parametrize("config", [None, "{"], ids=["missing", "cut off"])
def test_a_config_that_is_missing_or_no_json_is_refused(saved, config):
    (saved / "config.json").unlink()
    if config:
        (saved / "config.json").write_text(config)
    with pytest.raises(OSError if config else ValueError, match=r"config\.json") as caught:
        LocalRouter.from_pretrained(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 0}, "num_heads is 0"),
        ({"dim": "64"}, "dim is '64'"),
        ({"background": None}, "background is None"),
    ],
)
def test_a_config_that_builds_nothing_is_refused_by_its_file(saved, settings, message):
    edit_config(saved, **settings)
    with pytest.raises(ValueError, match=rf"router/config\.json' does not build a LocalRouter: {message}"):
        LocalRouter.from_pretrained(saved)


def test_foreign_files_beside_the_weights_are_ignored(saved):
    (saved / "notes.txt").write_text("mine")
    save_file({"x": torch.zeros(1)}, saved / "other.safetensors")
    assert equal(LocalRouter.from_pretrained(saved), tiny.router())


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "instead"])
def test_a_pickle_is_never_unpickled(saved, tmp_path, beside):
    marker = tmp_path / "marker"
    pickled = pickle.dumps({"to_video.weight": Planted(marker)})
    pickle.loads(pickled)["to_video.weight"].close()
    assert marker.exists()
    marker.unlink()

    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "adapter.pt"):
        (saved / name).write_bytes(pickled)
    if beside:
        assert equal(LocalRouter.from_pretrained(saved), tiny.router())
    else:
        (saved / WEIGHTS).unlink()
        with pytest.raises(ValueError, match="pickled weights are never loaded"):
            LocalRouter.from_pretrained(saved)
    assert not marker.exists()


def test_a_pickle_under_the_name_of_the_weights_is_never_unpickled(saved, tmp_path):
    torch.save({"to_video.weight": Planted(tmp_path / "marker")}, saved / WEIGHTS)
    with pytest.raises((ValueError, OSError)):
        LocalRouter.from_pretrained(saved)
    assert not (tmp_path / "marker").exists()


def test_an_index_cannot_name_a_pickle_as_a_shard(saved):
    weights = load_file(saved / WEIGHTS)
    (saved / WEIGHTS).unlink()
    torch.save(weights, saved / "shard.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "shard.bin")}
    (saved / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises((ValueError, OSError)):
        LocalRouter.from_pretrained(saved)


def test_other_formats_can_neither_be_asked_for_nor_be_written(saved, tmp_path):
    with pytest.raises(TypeError, match="does not know use_safetensors"):
        LocalRouter.from_pretrained(saved, use_safetensors=False)
    with pytest.raises(TypeError, match="does not know safe_serialization"):
        tiny.router().save_pretrained(tmp_path / "new", safe_serialization=False)
    assert not (tmp_path / "new").exists()


def test_no_folder_and_no_cached_repo_fails_with_the_name(tmp_path):
    with pytest.raises(ValueError, match="nowhere' is neither a folder nor the id of a Hub repo"):
        LocalRouter.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(OSError, match="'me/nowhere' is no folder here, is not in the cache"):
        LocalRouter.from_pretrained("me/nowhere")


def test_saving_to_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match="taken' is a file: give a folder"):
        tiny.router().save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_saving_over_a_folder_replaces_the_adapter_and_leaves_foreign_files(saved):
    (saved / "notes.txt").write_text("mine")
    (saved / "samples").mkdir()
    (saved / "samples" / "a.gif").write_bytes(b"GIF")
    other = tiny.router(seed=1)
    other.save_pretrained(saved)
    assert equal(LocalRouter.from_pretrained(saved), other)
    assert (saved / "notes.txt").read_text() == "mine"
    assert (saved / "samples" / "a.gif").read_bytes() == b"GIF"
    assert os.listdir(saved.parent) == ["router"]


def test_an_adapter_can_be_saved_over_the_files_it_was_loaded_from(saved):
    router = LocalRouter.from_pretrained(saved)
    with torch.no_grad():
        router.to_video.weight.add_(1)
    router.save_pretrained(saved)
    assert equal(LocalRouter.from_pretrained(saved), router)
    assert not equal(router, tiny.router())


def test_a_folder_with_an_index_of_several_weight_files_is_refused(saved):
    weights = load_file(saved / WEIGHTS)
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, WEIGHTS)}
    (saved / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"an adapter has one, {WEIGHTS}: delete the index"):
        LocalRouter.from_pretrained(saved)


def test_a_save_that_fails_while_writing_leaves_the_old_adapter_and_no_scratch(saved, monkeypatch):
    before = contents(saved)

    def full_disk(tensors, filename, metadata=None):
        Path(filename).write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full_disk)
        for target in (saved, saved.parent / "new"):
            with pytest.raises(OSError, match="No space left"):
                tiny.router(seed=1).save_pretrained(target)
    assert contents(saved) == before
    assert os.listdir(saved.parent) == ["router"]
    tiny.router(seed=1).save_pretrained(saved)
    assert contents(saved) != before


@pytest.mark.parametrize("cls", BUILDERS)
def test_the_card_says_what_it_is_and_how_to_use_it(cls, tmp_path):
    adapter = BUILDERS[cls]()
    adapter.save_pretrained(tmp_path / "adapter", license="cc-by-nc-4.0")
    card = ModelCard.load(tmp_path / "adapter" / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.library_name == "lavieid-adapters"
    assert {"lavieid", "adapter"} <= set(card.data.tags)
    assert "Base model: not recorded" in card.text and "Licence: cc-by-nc-4.0" in card.text
    tiny.router().save_pretrained(tmp_path / "based", base_model="zai-org/CogVideoX-5b")
    based = ModelCard.load(tmp_path / "based" / "README.md")
    assert based.data.base_model == "zai-org/CogVideoX-5b"
    assert "Base model: zai-org/CogVideoX-5b" in based.text
    assert "## Responsible use" in card.text and "consent" in card.text
    for name, value in adapter.config.items():
        assert name.startswith("_") or f"{name} {value}" in card.text
    code = card.text.split("```python\n")[1].split("```")[0].replace("<this repo or folder>", str(tmp_path / "adapter"))
    used = {}
    exec(code, used)
    assert equal(used["adapter"], adapter)


@pytest.mark.parametrize("cls", BUILDERS)
def test_an_adapter_with_a_lora_is_not_saved_since_it_could_not_be_loaded(cls, tmp_path):
    adapter = BUILDERS[cls]()
    add_lora(adapter, linear_layers(adapter)[0])
    with pytest.raises(ValueError, match=r"holds weights that are not its own .* of a LoRA.*Merge or unload"):
        adapter.save_pretrained(tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    plain = BUILDERS[cls]()
    plain.save_pretrained(tmp_path / "adapter")
    assert equal(cls.from_pretrained(tmp_path / "adapter"), plain)

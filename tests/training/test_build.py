"""What a run refuses before its first step, and with which words."""

import shutil
import time
from dataclasses import replace
from importlib.metadata import entry_points

import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXVideoToVideoPipeline
from support import tiny
from support.small_cogvideox import small_components
from support.tiny_shards import write_shards
from support.tiny_training import SIZES

from lavieid_adapters import TrainingConfig
from lavieid_adapters.faces.photo_readers import GROUP
from lavieid_adapters.models.checkpoint import Metadata, save_folder
from lavieid_adapters.training.build import vision_model
from lavieid_adapters.training.trainer import Trainer


def saved(folder, metadata=None, **adapters):
    """A folder of adapters."""
    save_folder(adapters, folder, metadata or Metadata())
    return str(folder)


def refused(here, tmp_path, *parts: str, error=ValueError, **settings) -> str:
    """That a run is refused before it has begun, with some parts of the message."""
    with pytest.raises(error) as caught:
        Trainer(here.config(tmp_path / "out", **settings))
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert not (tmp_path / "out" / "checkpoints").exists()
    return message


def test_a_run_that_fits_begins(here, tmp_path):
    adapters = saved(tmp_path / "adapters", router=tiny.router(), encoder=tiny.encoder())
    trainer = Trainer(here.config(tmp_path / "out", adapters=adapters))
    assert trainer.first == 0 and trainer.metadata.base_model == str(here.base)


@pytest.mark.parametrize(
    ("base", "error", "part"),
    [("nobody/nothing", OSError, "HF_HUB_OFFLINE"), ("/nowhere/at/all", ValueError, "Check the path")],
)
def test_a_missing_base_fails_fast(here, tmp_path, base, error, part):
    begun = time.monotonic()
    refused(here, tmp_path, base, part, base=base, error=error)
    assert time.monotonic() - begun < 20  # no waiting for a Hub that cannot be reached
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_shards_of_another_base_are_refused(here, tmp_path, part):
    # An own seed for each part makes another one of it.
    components = small_components()
    tiny.randomise(components[part], seed=1)
    CogVideoXPipeline(**components).save_pretrained(tmp_path / "base")
    message = f"was made with the {part} of '{here.base}', which is not that of '{tmp_path / 'base'}'"
    remedy = f"prepare the clips again with --base {tmp_path / 'base'}"
    refused(here, tmp_path, str(here.shards), message, remedy, base=str(tmp_path / "base"))
    assert not (tmp_path / "out").exists()


def test_a_base_whose_transformer_alone_is_another_is_taken(here, tmp_path):
    components = small_components(num_layers=1)
    CogVideoXPipeline(**components).save_pretrained(tmp_path / "base")
    Trainer(here.config(tmp_path / "out", base=str(tmp_path / "base"), steps=1)).run()


def test_adapters_of_another_width_are_refused(here, tmp_path):
    adapters = saved(tmp_path / "adapters", router=tiny.router(dim=32), encoder=tiny.encoder())
    refused(here, tmp_path, "32", "64", "LocalRouter(dim=64)", adapters=adapters)


def test_sizes_for_adapters_that_are_there_are_refused(here, tmp_path):
    adapters = saved(tmp_path / "adapters", router=tiny.router(), encoder=tiny.encoder())
    refused(
        here, tmp_path, f"'{adapters}' has a router", "take router: out of the config",
        adapters=adapters, router=SIZES["router"],
    )  # fmt: skip


def test_a_router_without_an_encoder_is_refused(here, tmp_path):
    adapters = saved(tmp_path / "adapters", router=tiny.router())
    refused(here, tmp_path, f"'{adapters}' has a router, but no encoder", stage="tam", adapters=adapters)


@pytest.mark.parametrize(
    ("setting", "theirs"), [("tokens_per_component", 4), ("token_dim", 16)], ids=["tokens", "width"]
)
def test_a_router_and_an_encoder_that_do_not_fit_are_refused(here, tmp_path, setting, theirs):
    adapters = saved(tmp_path / "adapters", router=tiny.router(), encoder=tiny.encoder(**{setting: theirs}))
    wanted = tiny.router().config[setting]
    refused(here, tmp_path, f"{setting} is {wanted} in the router, but {theirs} in the encoder", adapters=adapters)
    sizes = {"router": SIZES["router"], "encoder": {**SIZES["encoder"], setting: theirs}}
    refused(here, tmp_path / "fresh", f"{setting} is {wanted} in the router, but {theirs} in the encoder", **sizes)


@pytest.mark.parametrize(
    ("setting", "theirs"), [("id_dim", 32), ("vit_dim", 24), ("num_scales", 1)], ids=["identity", "ViT", "scales"]
)
def test_an_encoder_that_does_not_fit_the_vision_model_is_refused(here, tmp_path, setting, theirs):
    ours = SIZES["encoder"].get(setting, 5)
    if setting == "num_scales":
        theirs, ours = 6, 6  # as many as the ViT has blocks
        settings = {**SIZES["encoder"], "num_scales": 6, "depth": 6}
    else:
        settings = {**SIZES["encoder"], setting: theirs}
    refused(here, tmp_path, str(theirs), str(ours), encoder=settings)


def test_the_vision_model_of_a_photo_reader_is_what_the_reader_brings(monkeypatch):
    encoder = tiny.encoder(num_scales=2, depth=2, vision_model="puppets")
    config = TrainingConfig(base="base", shards="shards", output="output")
    (entry,) = entry_points(group=GROUP, name="puppets")
    found = vision_model(config, encoder, torch.device("cpu"))
    assert found.num_scales == 2 and found.fingerprint == entry.load()(num_scales=2, dtype=None)["vision"].fingerprint
    assert vision_model(replace(config, vision_model="me/vit"), encoder, torch.device("cpu")).name == "me/vit"
    monkeypatch.setattr("lavieid_adapters.training.build.read_with", lambda *_: {"detectors": []})
    with pytest.raises(ValueError, match="'puppets' brings no vision model"):
        vision_model(config, encoder, torch.device("cpu"))


def test_a_vision_model_that_is_not_there_is_named(here, tmp_path):
    refused(here, tmp_path, "nobody/vit", vision_model="nobody/vit", error=OSError)


def test_a_tam_that_does_not_fit_the_latents_is_refused(here, tmp_path):
    adapters = saved(tmp_path / "channels", tam=tiny.tam(latent_channels=8, chunks=2))
    refused(here, tmp_path, "8", "4", stage="tam", adapters=adapters)
    sizes = {**SIZES["tam"], "chunks": 4}  # of two latent frames
    refused(here, tmp_path / "chunks", "chunks", "4", "2", stage="tam", tam=sizes)


def test_a_base_of_other_latent_channels_is_refused(here, tmp_path):
    components = small_components(in_channels=8)
    CogVideoXPipeline(**components).save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    refused(
        here,
        tmp_path,
        str(here.shards),
        "latents of 4 channels",
        f"'{base}' takes 8",
        "cannot be trained here",
        base=base,
    )


def test_another_pipeline_than_text_to_video_is_refused(here, tmp_path):
    CogVideoXVideoToVideoPipeline(**small_components()).save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    refused(here, tmp_path, base, "CogVideoXVideoToVideoPipeline", "training knows CogVideoXPipeline", base=base)


def test_a_block_that_is_not_there_is_refused(here, tmp_path):
    refused(here, tmp_path, "block_idx is 3, but CogVideoXTransformer3DModel has 3 blocks", block_idx=3)
    refused(here, tmp_path, "block_idx is -4", block_idx=-4)
    refused(here, tmp_path, "block_idx is 3", block_idx=3, stage="tam", tam=SIZES["tam"], router={}, encoder={})


def test_lora_on_layers_that_are_not_there_is_refused(here, tmp_path):
    refused(here, tmp_path, "to_z", lora_rank=2, lora_targets=["to_z"])


def test_a_schedule_that_is_not_known_is_refused(here, tmp_path):
    refused(here, tmp_path, "sinus", lr_scheduler="sinus")


def test_more_samples_a_batch_than_there_are_are_refused(here, tmp_path):
    with pytest.raises(ValueError, match=r"batch_size is 5, but the shards hold 4 of \(5, 32, 48\)"):
        Trainer(here.config(tmp_path / "out", batch_size=5)).run()
    shards = write_shards(tmp_path / "shards", [(5, 32, 48), (5, 48, 32)], base=here.base)
    with pytest.raises(ValueError, match=r"1 of \(5, 32, 48\), 1 of \(5, 48, 32\): lower it"):
        Trainer(here.config(tmp_path / "two", batch_size=2, shards=str(shards))).run()


def test_shards_that_are_not_there_or_none_are_refused(here, tmp_path):
    refused(here, tmp_path, "nowhere", "lavieid prepare", shards=str(tmp_path / "nowhere"))
    shards = shutil.copytree(here.shards, tmp_path / "shards")
    next(iter(sorted(shards.glob("*.tar")))).unlink()
    refused(here, tmp_path, "is not there", shards=str(shards))
    assert not (tmp_path / "out").exists()


def test_settings_that_could_not_begin_may_be_put_right_in_the_same_folder(here, tmp_path):
    wrong = {**SIZES["encoder"], "token_dim": 16}
    refused(here, tmp_path, "token_dim", encoder=wrong)
    Trainer(here.config(tmp_path / "out", steps=1)).run()


def test_adapters_of_another_base_are_taken_with_a_warning(here, tmp_path):
    adapters = saved(tmp_path / "adapters", Metadata("me/other"), router=tiny.router(), encoder=tiny.encoder())
    with pytest.warns(UserWarning, match=r"were trained on 'me/other', but the pipeline is"):
        trainer = Trainer(here.config(tmp_path / "out", adapters=adapters))
    assert trainer.metadata.base_model == str(here.base)


class Bare:
    """A vision model of a photo reader that needs no device."""

    image_size = 64

    def encode(self, images):
        return torch.zeros(len(images), 8), [torch.zeros(len(images), 4, 8)] * 2


def test_a_vision_model_needs_no_place_but_must_see(monkeypatch):
    encoder = tiny.encoder(num_scales=2, depth=2, vision_model="puppets")
    config = TrainingConfig(base="base", shards="shards", output="output")
    bare = Bare()
    monkeypatch.setattr("lavieid_adapters.training.build.read_with", lambda *_: {"vision": bare})
    assert vision_model(config, encoder, torch.device("cpu")) is bare
    monkeypatch.setattr("lavieid_adapters.training.build.read_with", lambda *_: {"vision": Bare})
    with pytest.raises(TypeError, match="the photo reader 'puppets' takes an object with image_size and encode"):
        vision_model(config, encoder, torch.device("cpu"))

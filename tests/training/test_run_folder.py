"""The folder of a run: whose it is, what is in it at any moment, and what of it goes to the Hub."""

import json
import os
import shutil

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from support import tiny

from lavieid_adapters import LocalRouter, attach_lavieid
from lavieid_adapters.models.checkpoint import Metadata
from lavieid_adapters.training.config import TrainingConfig
from lavieid_adapters.training.run_folder import LORA_WEIGHTS, RECORD, Result, RunFolder, push_run

WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA = "transformer_blocks.0.attn1.to_q.lora_{}.weight"
ADAPTER_FILES = {f"{name}/{file}" for name in ("router", "encoder") for file in ("config.json", WEIGHTS)}


def config(output, **changed) -> TrainingConfig:
    return TrainingConfig.from_dict({"base": "me/base", "shards": "shards", "output": str(output), **changed})


def result(seed: int = 0, lora: bool = False) -> Result:
    weights = {LORA.format("A"): torch.ones(2, 64), LORA.format("B"): torch.full((64, 2), float(seed))}
    settings = {"r": 2, "lora_alpha": 4, "target_modules": ["to_q"], "peft_type": "LORA"}
    adapters = {"router": tiny.router(seed), "encoder": tiny.encoder(seed)}
    record = {"steps": seed, "clips": 7, "learning_rate": 3e-6}
    return Result(adapters, Metadata("me/base", 1), record, (weights, settings) if lora else None)


def write(folder: RunFolder, step: int, keep_last: int = 3, lora: bool = False):
    tensors = {"optimizer/a/exp_avg": torch.full((3,), float(step)), "rng/cpu": torch.get_rng_state()}
    return folder.save(step, result(step, lora), {"step": step, "bad_steps": 0}, tensors, keep_last)


def names(folder: RunFolder) -> list[str]:
    return sorted(p.name for p in folder.checkpoints.iterdir())


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A run's, with one checkpoint."""
    folder = RunFolder(tmp_path / "out")
    folder.claim(config(tmp_path / "out"))
    write(folder, 1)
    folder.release()
    return folder


def test_a_new_folder_keeps_the_settings(tmp_path):
    wanted = config(tmp_path / "deep" / "out", learning_rate=1e-5, adam_betas=[0.8, 0.9], router={"inner_dim": 64})
    folder = RunFolder(wanted.output)
    assert folder.latest() is None
    folder.claim(wanted)
    assert TrainingConfig.from_dict(yaml.safe_load((folder.path / "config.yaml").read_text())) == wanted
    assert folder.latest() is None


def test_the_same_settings_go_on(folder, tmp_path):
    again = RunFolder(tmp_path / "out")
    again.claim(config(tmp_path / "out"))
    assert again.latest() == folder.latest() == tmp_path / "out" / "checkpoints" / "step-00000001"


def test_another_process_at_work_is_waited_for(folder, tmp_path):
    one, other = RunFolder(tmp_path / "out"), RunFolder(tmp_path / "out")
    one.claim(config(tmp_path / "out"))
    with pytest.raises(OSError, match=r"out' is being written by another process"):
        other.claim(config(tmp_path / "out"))
    one.release()
    other.claim(config(tmp_path / "out"))


def test_other_settings_are_refused_and_listed(folder, tmp_path):
    with pytest.raises(ValueError) as caught:
        folder.claim(config(tmp_path / "out", learning_rate=1e-4, stage="both", adam_betas=[0.5, 0.6]))
    message = str(caught.value)
    assert f"'{tmp_path / 'out'}' holds another run" in message
    assert "learning_rate was 3e-06 and is 0.0001" in message and "stage was 'router' and is 'both'" in message
    assert "adam_betas was [0.9, 0.999] and is [0.5, 0.6]" in message
    assert "set output to another folder, or the settings back" in message
    assert "steps" not in message
    folder.release()
    folder.claim(config(tmp_path / "out"))


def test_settings_that_change_no_weight_may_change(folder, tmp_path):
    changed = {
        "steps": 20, "checkpointing": "all", "memory_gib": 24, "num_workers": 0, "checkpoint_every": 3, "keep_last": 1,
        "max_bad_steps": 2, "validate_every": 0, "validation_steps": 5, "guidance_scale": 2.0, "log_every": 1,
        "tracker": None, "validation": [{"reference": "a.jpg", "prompt": "b"}],
    }  # fmt: skip
    folder.claim(config(tmp_path / "out", **changed))
    kept = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert {name: kept[name] for name in changed} == changed


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"out' holds thesis\.tex, and no run: set output to an empty or a new folder"):
        RunFolder(tmp_path / "out").claim(config(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").claim(config(tmp_path / "empty"))
    assert (tmp_path / "empty" / "config.yaml").is_file()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises((ValueError, OSError), match="out"):
        RunFolder(tmp_path / "out").claim(config(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_checkpoint_comes_back(folder):
    state, tensors = RunFolder.load_state(folder.latest())
    assert state == {"step": 1, "bad_steps": 0}
    assert torch.equal(tensors["optimizer/a/exp_avg"], torch.ones(3))
    assert tensors["rng/cpu"].dtype == torch.uint8
    loaded = LocalRouter.from_pretrained(folder.latest(), subfolder="router").state_dict()
    wanted = tiny.router(1).state_dict()
    assert all(torch.equal(loaded[k], wanted[k]) for k in wanted)


def test_the_last_checkpoints_are_kept(folder):
    for step in (2, 9, 10, 100):
        path = write(folder, step, keep_last=2)
        assert folder.latest() == path
    assert names(folder) == ["step-00000010", "step-00000100"]
    write(folder, 101, keep_last=1)
    assert names(folder) == ["step-00000101"]


def test_the_same_step_again_takes_the_place_of_the_first(folder):
    first = (folder.latest() / "state.safetensors").read_bytes()
    folder.save(1, result(5), {"step": 1}, {"x": torch.zeros(1)}, keep_last=3)
    assert names(folder) == ["step-00000001"]
    assert (folder.latest() / "state.safetensors").read_bytes() != first
    assert RunFolder.load_state(folder.latest())[0] == {"step": 1}


def test_what_a_killed_process_has_left_is_no_checkpoint_and_goes(folder, tmp_path):
    for left in (".step-00000002-abcdefgh", ".step-00000000-old"):
        (folder.checkpoints / left / "router").mkdir(parents=True)
        (folder.checkpoints / left / "router" / "config.json").write_text("{")
    assert folder.latest().name == "step-00000001"
    folder.claim(config(tmp_path / "out"))
    assert names(folder) == ["step-00000001"]


def test_a_run_that_was_killed_before_it_had_written_its_settings_may_begin_again(tmp_path):
    (tmp_path / "out" / ".out-abcdefgh" / "new").mkdir(parents=True)
    (tmp_path / "out" / ".lock").touch()
    RunFolder(tmp_path / "out").claim(config(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == [".lock", "config.yaml"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(folder):
    before = (folder.latest() / "state.safetensors").read_bytes()
    # What cannot be saved as JSON comes last, when all else has been written.
    with pytest.raises(TypeError):
        folder.save(2, result(2), {"step": object()}, {}, keep_last=1)
    assert names(folder) == ["step-00000001"]
    assert (folder.latest() / "state.safetensors").read_bytes() == before


def test_the_card_tells_how_the_adapters_were_trained(folder):
    card = ModelCard.load(folder.latest() / "README.md")
    for row in ("| steps | 1 |", "| clips | 7 |", "| learning rate | 3e-06 |"):
        assert row in card.text
    assert "## Training" in card.text and "Base model: me/base" in card.text and "Transformer block: 1" in card.text
    assert card.data.base_model == "me/base"
    assert json.loads((folder.latest() / RECORD).read_text())["clips"] == 7


def test_a_run_that_has_not_ended_is_pushed_from_its_last_checkpoint(folder, hub):
    write(folder, 12, lora=True)
    push_run(folder.path, "me/run", commit_message="Twelve")
    assert set(hub.repos["me/run"]) == {*ADAPTER_FILES, "README.md", RECORD, LORA_WEIGHTS}
    assert json.loads(hub.repos["me/run"][RECORD])["steps"] == 12
    assert sum(request.startswith("POST /api/models/me/run/commit/") for request in hub.requests) == 1
    push_run(folder.checkpoints / "step-00000001", "me/first")
    assert set(hub.repos["me/first"]) == {*ADAPTER_FILES, "README.md", RECORD}
    assert json.loads(hub.repos["me/first"][RECORD])["steps"] == 1


def test_a_run_that_has_ended_is_pushed_and_attached_from_the_hub(folder, hub):
    from diffusers import CogVideoXPipeline
    from support.small_cogvideox import small_components

    result(30, lora=True).save(folder.path)
    (folder.path / "validation").mkdir()
    (folder.path / "validation" / "0.png").write_bytes(b"PNG")
    push_run(str(folder.path), "me/run")
    assert set(hub.repos["me/run"]) == {*ADAPTER_FILES, "README.md", RECORD, LORA_WEIGHTS}
    pipe = CogVideoXPipeline(**small_components())
    lavieid = attach_lavieid(pipe, "me/run")
    assert lavieid.handle.block_idx == 1
    wanted, pulled = tiny.router(30).state_dict(), lavieid.router.state_dict()
    assert all(torch.equal(pulled[k], wanted[k]) for k in wanted)
    pipe.load_lora_weights("me/run", weight_name=LORA_WEIGHTS)
    loaded = dict(pipe.transformer.named_parameters())
    name = "transformer_blocks.0.attn1.to_q.lora_B.default_0.weight"
    assert torch.equal(loaded[name], torch.full((64, 2), 30.0))


@pytest.mark.parametrize("kind", ["missing", "empty", "claimed", "adapters"])
def test_a_folder_without_a_result_is_not_pushed(hub, tmp_path, kind):
    target = tmp_path / "out"
    if kind == "claimed":
        RunFolder(target).claim(config(target))
    elif kind == "adapters":
        tiny.router().save_pretrained(target)
    elif kind == "empty":
        target.mkdir()
    with pytest.raises(
        ValueError, match=r"is no folder of a training run that has written a checkpoint.*training\.json"
    ):
        push_run(target, "me/run")
    assert "me/run" not in hub.repos


def test_a_result_whose_checkpoints_are_gone_is_not_written_over(folder, tmp_path):
    folder.finish(result(1))
    shutil.rmtree(folder.checkpoints)
    other = RunFolder(folder.path)
    with pytest.raises(ValueError, match=r"'.*out' holds the result of a run whose checkpoints are gone"):
        other.claim(config(tmp_path / "out"))
    assert (folder.path / "training.json").is_file()

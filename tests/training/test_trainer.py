"""The loop: what it trains and leaves alone, and that it goes on exactly after whatever has ended it."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import av
import pytest
import torch
from diffusers import CogVideoXPipeline
from PIL import Image
from safetensors.torch import load
from support.tiny_shards import sample_members
from support.tiny_training import SIZES, WEIGHTS, Process, World, different, weights, write_config

from lavieid_adapters import TAM, LocalFacialEncoder, LocalRouter, attach_lavieid
from lavieid_adapters.cli.main import main
from lavieid_adapters.training import trainer as train
from lavieid_adapters.training.run_folder import RunFolder
from lavieid_adapters.training.trainer import Trainer

# All that a run may carry from one step to the next.
EVERYTHING = {
    "stage": "both", "tam_max_noise": 0.7, "lora_rank": 2, "route_warmup_steps": 2, "lr_scheduler": "linear",
    "lr_warmup_steps": 3, "null_prompt": 0.3, "steps": 12, "checkpoint_every": 1,
}  # fmt: skip
COMMAND = [sys.executable, "-m", "lavieid_adapters", "train"]


@pytest.fixture(scope="module")
def uninterrupted(here, tmp_path_factory) -> Path:
    """The folder of a run that nothing has stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = write_config(folder / "run.yaml", here.settings(folder / "out", **EVERYTHING))
    with Process(config, folder / "log") as run:
        assert run.wait() == 0, run.output
    return folder / "out"


def pipeline(here: World) -> CogVideoXPipeline:
    pipe = CogVideoXPipeline.from_pretrained(here.base)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, here: World) -> torch.Tensor:
    members = load(sample_members(0)["safetensors"])
    embeds = members["prompt_embeds"][None]
    return pipe(
        prompt_embeds=embeds, negative_prompt_embeds=torch.zeros_like(embeds), num_frames=5, height=32, width=48,
        num_inference_steps=2, output_type="latent", generator=torch.Generator().manual_seed(0),
    ).frames  # fmt: skip


@torch.no_grad()
def route(trainer: Trainer) -> float:
    """Eq. 5 over all samples at noises that no step has seen."""
    batches = [trainer.samples[i, 10_000 + 4 * j + i] for i in range(4) for j in range(4)]
    return sum(trainer.step(batch, route_only=True)["route"].item() for batch in batches) / len(batches)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def steps_of(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))


def poison(shards: Path, *samples: int) -> None:
    """Make the latents of some samples NaN."""
    for sample in samples:
        latents = load(sample_members(sample)["safetensors"])["latents"]
        raw, wrong = latents.numpy().tobytes(), torch.full_like(latents, float("nan")).numpy().tobytes()
        found = 0
        for tar in shards.glob("*.tar"):
            found += tar.read_bytes().count(raw)
            tar.write_bytes(tar.read_bytes().replace(raw, wrong))
        assert found == 1


def test_the_adapters_learn_and_the_host_stays_what_it_was(here, tmp_path):
    trainer = Trainer(here.config(tmp_path / "out", steps=40, route_warmup_steps=30, batch_size=4, learning_rate=2e-3))
    host, before = state(trainer.step.transformer), {n: state(a) for n, a in trainer.adapters.items()}
    files = {p: p.read_bytes() for p in here.base.rglob("*") if p.is_file()}
    at_first = route(trainer)
    out = trainer.run()
    assert route(trainer) < 0.9 * at_first

    assert not different(state(trainer.step.transformer), host)
    assert {p: p.read_bytes() for p in here.base.rglob("*") if p.is_file()} == files
    for name, cls in (("router", LocalRouter), ("encoder", LocalFacialEncoder)):
        loaded = state(cls.from_pretrained(out, subfolder=name))
        assert not different(loaded, state(trainer.adapters[name]))
        changed = different(loaded, before[name])
        assert len(changed) > 0.9 * len(loaded), sorted(set(loaded) - set(changed))

    pipe = pipeline(here)
    without = generate(pipe, here)
    lavieid = attach_lavieid(pipe, out)
    assert lavieid.handle.block_idx == 0 and lavieid.encoder is not None and lavieid.tam is None
    batch = trainer.samples[0, 0]
    with torch.no_grad():
        lavieid.handle.set_tokens(*trainer.step.component_tokens(batch.images, batch.mask, batch.id_embedding))
    steered = generate(pipe, here)
    assert not torch.equal(steered, without)
    lavieid.detach()
    assert torch.equal(generate(pipe, here), without)


def test_a_run_that_is_killed_at_any_moment_ends_in_the_same_weights(here, uninterrupted, tmp_path):
    out, rng = tmp_path / "out", random.Random(0)
    config = write_config(tmp_path / "run.yaml", here.settings(out, **EVERYTHING))
    waited_for, kills, while_writing = ["step", "writing", "writing", "start"], 0, 0
    for attempt in range(8):
        moment = waited_for[attempt % len(waited_for)]
        begun = steps_of(out)[-1:]
        with Process(config, tmp_path / "log") as run:
            if moment == "start":
                time.sleep(rng.uniform(0, 0.6))
            while run and moment != "start":
                # So that each attempt comes further than the last.
                if steps_of(out)[-1:] != begun and (moment == "step" or list(out.glob("checkpoints/.step-*"))):
                    time.sleep(rng.uniform(0, 0.15 if moment == "step" else 0.008))
                    break
                time.sleep(0.0005)
            if not run:
                break
            run.send(signal.SIGKILL)
            kills += run.wait() == -signal.SIGKILL
        while_writing += any(out.glob("checkpoints/.step-*"))
    begun = steps_of(out)[-1:]
    with Process(config, tmp_path / "last") as run:
        assert run.wait() == 0, run.output
    assert kills >= 4 and while_writing >= 1, (kills, while_writing)
    assert f"from step {begun[0]}" in run.output

    assert not different(weights(out), weights(uninterrupted))
    last, wanted = (weights(RunFolder(folder).latest()) for folder in (out, uninterrupted))
    assert any("optimizer" in name for name in last) and any("lora" in name for name in last)
    assert not different(last, wanted)
    assert not list(out.glob("checkpoints/.step-*"))
    assert steps_of(out) == steps_of(uninterrupted) == [10, 11, 12]


def test_sigterm_leaves_a_checkpoint_from_which_the_run_goes_on_exactly(here, uninterrupted, tmp_path):
    settings = here.settings(tmp_path / "out", **{**EVERYTHING, "checkpoint_every": 100, "num_workers": 1})
    config, log = write_config(tmp_path / "run.yaml", settings), tmp_path / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        open(log, "w") as file,
        subprocess.Popen(
            [*COMMAND, "--config", str(config)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        ) as run,
    ):
        try:
            while "step 2:" not in log.read_text() and run.poll() is None:
                time.sleep(0.01)
            os.killpg(run.pid, signal.SIGTERM)  # as a terminal or a cluster does: the readers of samples get it, too
            assert run.wait(60) == 0, log.read_text()
        finally:
            run.kill()
    (step,) = steps_of(tmp_path / "out")
    assert 2 <= step < EVERYTHING["steps"]
    assert f"stopped after step {step}; the same command goes on" in log.read_text()
    assert not (tmp_path / "out" / "router").exists()

    with Process(config, tmp_path / "second", "num_workers=0") as run:
        assert run.wait() == 0, run.output
    assert not different(weights(tmp_path / "out"), weights(uninterrupted))


@pytest.mark.parametrize("moment", [(Trainer, "_train_step"), (train, "average_gradients"), (Trainer, "_save")])
def test_a_signal_is_heard_at_any_moment_of_a_step(here, tmp_path, monkeypatch, moment):
    """Sent once, in the middle of the work."""
    sent, function = [], getattr(*moment)

    def interrupted(*args):
        if not sent:
            sent.append(True)
            signal.raise_signal(signal.SIGTERM)
        return function(*args)

    monkeypatch.setattr(*moment, interrupted)
    handler = signal.getsignal(signal.SIGTERM)
    settings = {"steps": 6, "checkpoint_every": 2, "keep_last": 6}
    Trainer(here.config(tmp_path / "out", **settings)).run()
    assert sent and signal.getsignal(signal.SIGTERM) == handler
    assert max(steps_of(tmp_path / "out")) <= 3
    assert not (tmp_path / "out" / "router").exists()
    Trainer(here.config(tmp_path / "out", **settings)).run()
    assert max(steps_of(tmp_path / "out")) == 6 and (tmp_path / "out" / "router").exists()


def test_a_step_that_is_not_finite_is_skipped(here, tmp_path, capsys):
    shards = shutil.copytree(here.shards, tmp_path / "shards")
    poison(shards, 2)
    config = here.config(tmp_path / "out", shards=str(shards), steps=6, checkpoint_every=1, keep_last=6)
    out = Trainer(config).run()
    bad = [
        int(n) for n in re.findall(r"step (\d+): loss or gradient not finite, step skipped", capsys.readouterr().out)
    ]
    assert 0 < len(bad) < 4
    for step in range(2, 7):
        before, after = (weights(out / "checkpoints" / f"step-{n:08d}") for n in (step - 1, step))
        assert bool(different(before, after)) == (step not in bad), step
    assert all(v.isfinite().all() for v in weights(out).values())


def test_too_many_steps_that_are_not_finite_end_the_run(here, tmp_path, capsys):
    shards = shutil.copytree(here.shards, tmp_path / "shards")
    poison(shards, 0, 1, 3)
    settings = here.settings(
        tmp_path / "out", shards=str(shards), steps=100, checkpoint_every=1, keep_last=100, max_bad_steps=3
    )
    config = write_config(tmp_path / "run.yaml", settings)
    assert main(["train", "--config", str(config)]) == 1
    told = capsys.readouterr()
    steps = steps_of(tmp_path / "out")
    last = RunFolder(tmp_path / "out").latest()
    assert f"step {steps[-1] + 1}: loss or gradient not finite, step skipped (3 in a row)" in told.out
    assert (
        f"lavieid: 3 steps in a row were not finite. Lower learning_rate, or look at the clips. {last} is intact"
        in (told.err)
    )
    assert all(v.isfinite().all() for v in weights(last).values())
    LocalRouter.from_pretrained(last, subfolder="router")
    assert not (tmp_path / "out" / "router").exists()
    # It goes on counting where it was.
    assert main(["train", "--config", str(config)]) == 1
    assert "(3 in a row)" in capsys.readouterr().out and steps_of(tmp_path / "out") == steps


def test_a_full_disk_leaves_the_last_checkpoint_intact(here, tmp_path):
    out = tmp_path / "out"
    settings = {"steps": 3, "checkpoint_every": 1}
    config = write_config(tmp_path / "run.yaml", here.settings(out, **settings))
    with Process(config, tmp_path / "log", "steps=1") as run:
        assert run.wait() == 0
    shutil.rmtree(out / "router")  # the result
    last = RunFolder(out).latest()
    sizes = [(last / file).stat().st_size for file in ("state.safetensors", f"encoder/{WEIGHTS}")]
    before = {p: p.read_bytes() for p in last.rglob("*") if p.is_file()}
    for size in sizes:
        with Process(config, tmp_path / f"log{size}", file_limit=size - 1) as run:
            assert run.wait() == 1, run.output
        assert "The checkpoint of step 2 could not be written to" in run.output
        assert "step-00000001 is intact: make room, and start again." in run.output
        assert "Traceback" not in run.output
        assert {p: p.read_bytes() for p in last.rglob("*") if p.is_file()} == before
        assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-00000001"]
    with Process(config, tmp_path / "third") as run:
        assert run.wait() == 0, run.output
    with Process(config, tmp_path / "third", f"output={tmp_path / 'other'}") as run:
        assert run.wait() == 0, run.output
    assert not different(weights(out), weights(tmp_path / "other"))
    # The result itself, once all steps are done.
    with Process(config, tmp_path / "fourth", file_limit=sizes[1] - 1) as run:
        assert run.wait() == 1, run.output
    assert "Traceback" not in run.output
    assert not different(weights(out), weights(tmp_path / "other"))


def test_only_the_last_checkpoints_are_kept(here, tmp_path):
    trainer = Trainer(here.config(tmp_path / "out", steps=5, checkpoint_every=1, keep_last=2))
    trainer.run()
    assert sorted(p.name for p in (tmp_path / "out" / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]
    # Another number is no other run.
    Trainer(here.config(tmp_path / "out", steps=7, checkpoint_every=2, keep_last=3)).run()
    assert steps_of(tmp_path / "out") == [5, 6, 7]


@pytest.mark.parametrize("stage", ["tam", "both"])
def test_the_stages_train_what_they_say(here, trained, tmp_path, stage):
    given = {name: state(cls.from_pretrained(trained, subfolder=name)) for name, cls in (
        ("router", LocalRouter), ("encoder", LocalFacialEncoder), ("tam", TAM)
    )}  # fmt: skip
    trainer = Trainer(here.config(tmp_path / "out", stage, adapters=str(trained), tam_max_noise=0.9))
    assert not any(different(state(trainer.adapters[name]), given[name]) for name in given)
    out = trainer.run()
    for name, adapter in trainer.adapters.items():
        assert bool(different(state(adapter), given[name])) == (name == "tam" or stage == "both")
        assert not different(state(type(adapter).from_pretrained(out, subfolder=name)), state(adapter))


def test_tam_learns_what_the_router_makes_of_the_host_or_the_host_alone(here, trained, tmp_path, capsys):
    adapters = shutil.copytree(trained, tmp_path / "adapters")
    shutil.rmtree(adapters / "tam")
    settings = {"stage": "tam", "steps": 8, "tam_max_noise": 0.3, "tam": SIZES["tam"]}
    alone = Trainer(here.config(tmp_path / "alone", **settings))
    beside = Trainer(here.config(tmp_path / "beside", **{**settings, "adapters": str(adapters)}))
    assert sorted(alone.adapters) == ["tam"] and sorted(beside.adapters) == ["encoder", "router", "tam"]
    losses = {}
    for name, trainer in (("alone", alone), ("beside", beside)):
        capsys.readouterr()
        out = trainer.run()
        text = capsys.readouterr().out
        losses[name] = [float(v) for v in re.findall(r"\btam ([\d.]+)", text.partition("step 1:")[2])]
        assert len(losses[name]) == 8 and "diffusion" not in text
        assert sorted(p.name for p in out.iterdir() if p.is_dir()) == sorted([*trainer.adapters, "checkpoints"])
    assert losses["alone"][0] != losses["beside"][0]


def test_lora_and_adapters_are_loaded_together(here, tmp_path):
    trainer = Trainer(here.config(tmp_path / "out", lora_rank=2, lora_alpha=4, lora_targets=["to_q", "to_out.0"]))
    host = state(trainer.step.transformer)
    out = trainer.run()
    changed = different(state(trainer.step.transformer), host)
    assert changed and all("lora_" in name for name in changed)
    batch = trainer.samples[0, 0]
    with torch.no_grad():
        tokens = trainer.step.component_tokens(batch.images, batch.mask, batch.id_embedding)
        prediction = trainer.step(batch)["diffusion"].item()

    pipe = pipeline(here)
    outputs = [generate(pipe, here)]
    pipe.load_lora_weights(out)
    outputs.append(generate(pipe, here))
    lavieid = attach_lavieid(pipe, out)
    lavieid.handle.set_tokens(*tokens)
    outputs.append(generate(pipe, here))
    assert not any(torch.equal(outputs[i], outputs[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert pipe.transformer.peft_config["default_0"].lora_alpha == 4
    trainer.step.transformer, trainer.step.handle = pipe.transformer, lavieid.handle
    with torch.no_grad():
        assert trainer.step(batch)["diffusion"].item() == pytest.approx(prediction, rel=1e-6)
    lavieid.detach()
    pipe.unload_lora_weights()
    assert torch.equal(generate(pipe, here), outputs[0])


def test_two_processes_are_one_that_accumulates_and_a_signal_to_one_stops_both(here, tmp_path):
    settings = {"stage": "both", "tam_max_noise": 0.5, "steps": 5, "lora_rank": 2, "route_warmup_steps": 1}
    one = Trainer(here.config(tmp_path / "one", gradient_accumulation=2, **settings)).run()
    config = write_config(tmp_path / "run.yaml", here.settings(tmp_path / "two", **settings))

    def two(*overrides: str, stop_at: str | None = None) -> list[str]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with ExitStack() as stack:
            runs = [
                stack.enter_context(
                    Process(config, tmp_path / f"log{rank}", *overrides,
                            environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
                )
                for rank in range(2)
            ]  # fmt: skip
            if stop_at:
                while stop_at not in runs[0].output and runs[0]:
                    time.sleep(0.005)
                runs[1].send(signal.SIGTERM)
            assert [run.wait() for run in runs] == [0, 0], [run.output for run in runs]
            return [run.output for run in runs]

    outputs = two("steps=1000", "checkpoint_every=1000", stop_at="step 2:")
    assert "batch 2 on 2 × cpu" in outputs[0]
    assert "step" not in outputs[1]  # only the main process tells
    (step,) = steps_of(tmp_path / "two")
    assert f"stopped after step {step}" in outputs[0]
    if step >= 5:  # on a machine that was busy elsewhere
        shutil.rmtree(tmp_path / "two")
    two()
    other = Trainer(here.config(tmp_path / "other", **settings)).run()
    mine, theirs, others = (weights(folder) for folder in (one, tmp_path / "two", other))
    assert mine.keys() == theirs.keys() == others.keys() and len(mine) > 100
    # AdamW makes a step of what is no more than a rounding in some gradients.
    equal, far = (sum((mine[k] - w[k]).square().sum().item() for k in mine) ** 0.5 for w in (theirs, others))
    assert equal < 1e-3 * far
    apart = [(mine[k] - theirs[k]).abs() > 1e-6 + 1e-5 * mine[k].abs() for k in mine]
    assert sum(v.sum().item() for v in apart) < 0.05 * sum(v.numel() for v in apart)


def test_validation_shows_videos_and_changes_nothing(here, tmp_path):
    settings = {"stage": "both", "tam_max_noise": 0.5, "lora_rank": 2, "steps": 3}
    plain = Trainer(here.config(tmp_path / "plain", **settings)).run()
    out = Trainer(here.config(tmp_path / "shown", validate_every=2, **settings)).run()
    assert not different(weights(out), weights(plain))
    last, wanted = (weights(RunFolder(folder).latest()) for folder in (out, plain))
    assert not different(last, wanted)
    assert sorted(p.name for p in (out / "validation").iterdir()) == ["step-00000002", "step-00000003"]
    for folder in (out / "validation").iterdir():
        assert sorted(p.name for p in folder.iterdir()) == ["0.mp4", "0.png", "1.mp4", "1.png"]
        with av.open(str(folder / "1.mp4")) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert {f.shape for f in frames} == {(64, 48, 3)}  # the route maps below
    assert (out / "validation" / "step-00000002" / "0.mp4").read_bytes() != (
        out / "validation" / "step-00000003" / "0.mp4"
    ).read_bytes()
    with Image.open(out / "validation" / "step-00000003" / "0.png") as sheet:
        assert sheet.width > 5 * 48 and sheet.height > 240


def test_other_clips_or_another_global_batch_do_not_go_on_with_a_run(here, tmp_path):
    shards = shutil.copytree(here.shards, tmp_path / "shards")
    settings = {"shards": str(shards), "steps": 2}
    Trainer(here.config(tmp_path / "out", **settings)).run()
    with pytest.raises(
        ValueError, match=r"had global batch 1, but now 2\. Set gradient_accumulation so that batch_size"
    ):
        Trainer(here.config(tmp_path / "out", **{**settings, "steps": 4}, gradient_accumulation=2))
    lines = (shards / "index.jsonl").read_text().splitlines(keepends=True)
    (shards / "index.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match=r"had clips 4 \(.*\), but now 3 \(.*\)\. Take the shards as they were"):
        Trainer(here.config(tmp_path / "out", **{**settings, "steps": 4}))


def test_fewer_steps_than_are_done_are_refused(here, tmp_path):
    Trainer(here.config(tmp_path / "out", steps=2)).run()
    with pytest.raises(ValueError, match=r"steps is 1, but '.*out' has done 2"):
        Trainer(here.config(tmp_path / "out", steps=1))


def test_a_lora_to_begin_with_is_refused(here, tmp_path):
    out = Trainer(here.config(tmp_path / "out", steps=1, lora_rank=2)).run()
    with pytest.raises(ValueError, match="has a LoRA of the host, which a run cannot begin with: fuse it"):
        Trainer(here.config(tmp_path / "next", "tam", adapters=str(out)))


def test_the_host_may_be_stored_in_8_bits(here, tmp_path):
    out = Trainer(here.config(tmp_path / "out", steps=2, host_storage="fp8")).run()
    plain = Trainer(here.config(tmp_path / "plain", steps=2)).run()
    mine, theirs = weights(out), weights(plain)
    assert different(mine, theirs)
    assert all(value.isfinite().all() for value in mine.values())

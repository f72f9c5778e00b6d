"""`lavieid train` and `lavieid push`."""

import signal
import subprocess
import sys
import time
from dataclasses import fields

import pytest

pytest.importorskip("accelerate")

import torch
from support.tiny_training import different, weights, write_config

from lavieid_adapters import Trainer, TrainingConfig
from lavieid_adapters.cli.main import main
from lavieid_adapters.training.run_folder import RunFolder


def test_a_config_is_trained_and_its_overrides_count(here, tmp_path, capsys):
    config = write_config(tmp_path / "run.yaml", here.settings(tmp_path / "out"))
    assert main(["train", "--config", str(config), "steps=2", "seed=3"]) == 0
    out, err = capsys.readouterr()
    assert f"the adapters are in {tmp_path / 'out'}" in out and "2 steps" in out and "Traceback" not in err
    wanted = Trainer(here.config(tmp_path / "python", steps=2, seed=3)).run()
    other = Trainer(here.config(tmp_path / "other", steps=2)).run()
    assert different(weights(wanted), weights(other))
    assert not different(weights(tmp_path / "out"), weights(wanted))


def test_the_command_says_what_is_wrong_and_ends_with_1(here, tmp_path, capsys):
    config = write_config(tmp_path / "run.yaml", here.settings(tmp_path / "out"))
    assert main(["train", "--config", str(config), "learning_rat=1"]) == 1
    assert (
        capsys.readouterr().err
        == "lavieid: 'learning_rat' is none of the config's options. Did you mean 'learning_rate'?\n"
    )
    assert main(["train", "--config", str(tmp_path / "none.yaml")]) == 1
    assert "There is no config file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_gpu_is_one_line_that_says_what_to_do(here, tmp_path, capsys, monkeypatch):
    config = write_config(tmp_path / "run.yaml", here.settings(tmp_path / "out"))

    def full(trainer):
        trainer.folder.release()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")

    monkeypatch.setattr(Trainer, "run", full)
    assert main(["train", "--config", str(config)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lavieid: ")]
    assert line.startswith("lavieid: out of GPU memory (CUDA out of memory). Set checkpointing to all, host_storage")


def test_help_describes_every_option_with_its_default_and_bounds(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "lavieid train --config examples/training/cogvideox.yaml" in out
    assert "  learning_rate: a number, greater than 0 (default 3e-06)\n      Learning rate of AdamW.\n" in out
    assert "  base: text (required)\n" in out
    assert all(f"\n  {field.name}: " in out for field in fields(TrainingConfig))


@pytest.mark.parametrize("argv", [["train"], ["train", "steps=2"], ["push"], ["push", "folder"]], ids=" ".join)
def test_what_is_missing_shows_the_usage(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2 and f"usage: lavieid {argv[0]}" in capsys.readouterr().err


def test_a_folder_without_a_run_is_not_pushed(tmp_path, capsys):
    assert main(["push", str(tmp_path), "me/lavieid"]) == 1
    assert "is no folder of a training run" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_sigterm_to_the_launcher_of_one_process_leaves_a_checkpoint(here, tmp_path):
    config = write_config(tmp_path / "run.yaml", here.settings(tmp_path / "out", steps=100_000))
    launch = ["--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, "-m", "lavieid_adapters", "train"]
    command += ["--config", str(config)]
    with open(tmp_path / "log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as run:
        while "step 2:" not in (tmp_path / "log").read_text() and run.poll() is None:
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
    end = time.monotonic() + 60
    while "the same command goes on" not in (tmp_path / "log").read_text() and time.monotonic() < end:
        time.sleep(0.05)
    step = int(RunFolder(tmp_path / "out").latest().name.removeprefix("step-"))
    assert f"stopped after step {step}" in (tmp_path / "log").read_text()

"""What is told of a run: means over steps, in the terminal and in a tracker's files."""

import importlib.util

import pytest
from accelerate import Accelerator

from lavieid_adapters.training.log import TrainingLog
from lavieid_adapters.training.trainer import Trainer


def told(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]


def test_an_entry_is_the_mean_over_the_steps_since_the_last(capsys):
    with TrainingLog(Accelerator(), 0, 5, 2) as log:
        for number in range(1, 6):
            log.step(number, {"loss": (number * 2.0, 2.0), "accuracy": (1.0, 4.0), "tam": (0.0, 0.0)}, 3e-6)
    lines = told(capsys)
    assert [line.partition(":")[0] for line in lines] == ["step 2", "step 4", "step 5"]  # and the last in any case
    assert "loss 1.5 " in lines[0] and "loss 3.5 " in lines[1] and "loss 5 " in lines[2]
    assert all("accuracy 0.25" in line and "learning rate 3e-06" in line for line in lines)
    assert not any("tam" in line for line in lines)


def test_a_mean_weighs_by_counts_and_a_step_without_figures_adds_nothing(capsys):
    with TrainingLog(Accelerator(), 0, 3, 3) as log:
        log.step(1, {"accuracy": (1.0, 1.0)}, 1.0)
        log.step(2, {}, 1.0)
        log.step(3, {"accuracy": (0.0, 3.0)}, 1.0)
    assert "accuracy 0.25" in told(capsys)[0]


def test_steps_without_any_figures_still_say_where_the_run_is(capsys):
    with TrainingLog(Accelerator(), 0, 2, 1) as log:
        log.step(1, {}, 1.0)
        log.say("step 1 [was] skipped")
    lines = told(capsys)
    assert lines[0].startswith("step 1: learning rate 1") and lines[1] == "step 1 [was] skipped"  # no markup


def test_tensorboard_has_the_curves_of_a_run_and_of_its_continuation(here, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"tracker": "tensorboard", "log_every": 2, "stage": "both", "tam_max_noise": 1.0}
    Trainer(here.config(tmp_path / "out", steps=4, **settings)).run()
    Trainer(here.config(tmp_path / "out", steps=7, **settings)).run()
    (folder,) = {path.parent for path in (tmp_path / "out").rglob("events.out*") if path.parent.name == "lavieid"}
    events = EventAccumulator(str(folder)).Reload()
    names = {"loss", "diffusion", "route", "tam", "accuracy", "learning_rate", "seconds_per_step"}
    assert {f"train/{name}" for name in names} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6, 7]
    assert all(0 <= event.value <= 1 for event in events.Scalars("train/accuracy"))
    assert [event.value for event in events.Scalars("train/learning_rate")] == pytest.approx([3e-3] * 4)


def test_a_tracker_that_is_not_installed_is_named(here, tmp_path):
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    with pytest.raises(ImportError, match=r"tracker is 'wandb', which is not installed\. Install it with pip"):
        Trainer(here.config(tmp_path / "out", tracker="wandb"))
    assert not (tmp_path / "out").exists()

"""The yardstick itself: what it attaches, counts and finds, and, where a checkout is given, its verdict."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from support import tiny, yardstick
from support.small_cogvideox import small_components
from support.yardstick_plugin import Adapters, Outcomes

TESTS = Path(__file__).resolve().parents[1]
INPUTS = tiny.transformer_inputs()


@torch.no_grad()
def forward(model):
    return model(**INPUTS, return_dict=False)[0]


def build():
    return tiny.transformer(use_rotary_positional_embeddings=False)


@pytest.mark.parametrize("trained", [False, True])
def test_what_is_built_or_loaded_has_a_router(tmp_path, trained):
    base, drawn = forward(build()), torch.rand(3)
    with Adapters(trained) as adapters:
        model = build()
        assert torch.equal(torch.rand(3), drawn)  # the adapters' own random numbers are not those of the tests
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path).eval()
        for one in (model, loaded):
            assert torch.equal(forward(one), base) != trained
        with pytest.raises(TypeError, match="can be neither copied nor pickled"):
            copy.deepcopy(model)
    forward(build())  # without one again
    counted = {"transformers": 2, "router forwards": 2, "host forwards": 2, "host forwards without a router": 0}
    assert adapters.counts == counted


@pytest.mark.parametrize("trained", [False, True])
def test_a_pipeline_that_is_built_has_tam_as_well(trained):
    def run(pipe):
        pipe.set_progress_bar_config(disable=True)
        call = {"prompt": "a park", "height": 64, "width": 96, "num_frames": 9, "num_inference_steps": 1}
        return pipe(**call, generator=torch.Generator().manual_seed(0), max_sequence_length=16, output_type="pt").frames

    base = run(diffusers.CogVideoXPipeline(**small_components()))
    with Adapters(trained) as adapters:
        frames = run(diffusers.CogVideoXPipeline(**small_components()))
    assert torch.equal(frames, base) != trained
    built = {"transformers": 1, "pipelines": 1, "router forwards": 2, "TAM refinements": 1}
    assert adapters.counts == {**built, "host forwards": 1, "host forwards without a router": 0}


def test_outcomes_messages_and_numbers_are_compared():
    same = {"outcome": "passed", "message": "", "numbers": "1"}
    failed = {"outcome": "failed", "message": "off by 1", "numbers": "1"}
    plain = {"same": same, "fails": same, "worse": failed, "drifts": same, "gone": same}
    other = {
        "same": same,
        "fails": failed,
        "worse": {**failed, "message": "off by 2"},
        "drifts": {**same, "numbers": "2"},
    }
    found = yardstick.differing(plain, other)
    assert list(found) == ["drifts", "fails", "gone", "worse"]
    assert "other numbers" in found["drifts"] and "passed → failed: off by 1" in found["fails"]
    assert "passed → absent" in found["gone"] and "off by 2" in found["worse"]


def test_the_numbers_of_a_test_are_those_of_hosts_and_decoders():
    outcomes, model = Outcomes(), build()
    digests = [outcomes.digest()]
    hook = torch.nn.modules.module.register_module_forward_hook(outcomes.note)
    try:
        torch.nn.Linear(2, 2)(torch.ones(2))
        digests.append(outcomes.digest())
        forward(model)
        digests.append(outcomes.digest())
    finally:
        hook.remove()
    assert digests[0] == digests[1] != digests[2]


def test_a_run_in_which_no_router_ran_is_no_proof(tmp_path, monkeypatch, capsys):
    same = {"tests": {"one": {"outcome": "failed", "message": "cannot be collected", "numbers": ""}}, "counts": {}}
    monkeypatch.setattr(yardstick, "run_both", lambda *args: [same, same])
    monkeypatch.setattr(sys, "argv", ["yardstick.py", str(tmp_path)])
    assert yardstick.main() == 1
    assert "No router ran" in capsys.readouterr().out
    monkeypatch.setattr(yardstick, "run_both", lambda *args: [same, {**same, "counts": {"router forwards": 1}}])
    assert yardstick.main() == 0


@pytest.mark.parametrize(("without", "status"), [(0, 0), (5, 0), (6, 1)])
def test_a_run_in_which_many_forwards_had_no_router_is_no_proof(tmp_path, monkeypatch, capsys, without, status):
    counts = {"router forwards": 100, "host forwards": 100, "host forwards without a router": without}
    sides = [{"tests": {}, "counts": {}}, {"tests": {}, "counts": counts}]
    monkeypatch.setattr(yardstick, "run_both", lambda *args: sides)
    monkeypatch.setattr(sys, "argv", ["yardstick.py", str(tmp_path)])
    assert yardstick.main() == status
    assert ("6 of 100 forwards ran without a router, more than 5%" in capsys.readouterr().out) == bool(status)
    monkeypatch.setattr(sys, "argv", ["yardstick.py", str(tmp_path), "tests/one.py"])  # maybe one that tests caches
    assert yardstick.main() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("--trained", "tests/pipelines/wan/test_wan.py")], ids=["untrained", "trained"]
)
def test_the_yardstick_of_a_checkout(options):
    checkout = os.environ.get("DIFFUSERS_CHECKOUT")
    if not checkout:
        pytest.skip("set DIFFUSERS_CHECKOUT to a checkout of diffusers, which has its tests")
    command = [sys.executable, "-m", "support.yardstick", checkout, *options]
    run = subprocess.run(command, capture_output=True, text=True, cwd=TESTS)
    assert run.returncode == 0, run.stdout + run.stderr

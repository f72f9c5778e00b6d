"""`lavieid demo`: what it passes on. The demo itself is tested in tests/puppets."""

from pathlib import Path

import pytest

from lavieid_adapters.cli.main import main
from lavieid_adapters.puppets import demo
from lavieid_adapters.puppets.world.grammar import MOTIONS, SCENES


@pytest.fixture
def asked(monkeypatch):
    """The arguments with which the demo was run."""
    given = {}
    monkeypatch.setattr(demo, "run_demo", lambda out, prompt, **rest: given.update(rest, out=out, prompt=prompt))
    return given


def test_without_options_it_is_the_demo_of_the_readme(asked, capsys):
    assert main(["demo"]) == 0
    assert asked == {
        "out": Path("outputs/demo"), "prompt": asked["prompt"], "identity": 3, "mix": {}, "component_scales": {},
        "tam": True, "seed": 0, "steps": 20, "guidance": 4.0,
    }  # fmt: skip
    assert "in a park" in asked["prompt"] and "turns" in asked["prompt"]


def test_options_are_passed_on(asked):
    argv = ["--mix", "eyes=7", "hair=12", "--mix", "nose=1", "--component", "hair=0.5", "--no-tam", "--seed", "2"]
    assert main(["demo", *argv, "--steps", "3", "--guidance", "1.5", "--identity", "9", "--out", "there"]) == 0
    assert asked["mix"] == {"eyes": 7, "hair": 12, "nose": 1} and asked["component_scales"] == {"hair": 0.5}
    assert (asked["tam"], asked["seed"], asked["steps"], asked["guidance"]) == (False, 2, 3, 1.5)
    assert (asked["identity"], asked["out"]) == (9, Path("there"))


def test_a_component_that_is_set_twice_is_refused(asked, capsys):
    assert main(["demo", "--mix", "eyes=7", "eyes=4"]) == 1
    assert capsys.readouterr().err.startswith("lavieid: --mix sets 'eyes' twice, to 7 and to 4")
    assert not asked


def test_help_lists_what_a_prompt_may_hold(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    out = capsys.readouterr().out
    assert all(word in out for word in (*SCENES, *MOTIONS))

"""What several commands share: devices, pictures, and how a command is added."""

import argparse
from pathlib import Path

import pytest
import torch

from lavieid_adapters.cli.shared import add_command, add_models, check_picture, to_device


def test_a_command_runs_what_it_was_given_and_shows_its_text_as_it_is(capsys):
    parser = argparse.ArgumentParser(prog="lavieid")
    commands = parser.add_subparsers()
    command = add_command(
        commands, "bake", lambda args: f"{args.loaves} loaves", "bake bread", "Bake.\n\n  lavieid bake 3"
    )
    command.add_argument("loaves", type=int)
    args = parser.parse_args(["bake", "3"])
    assert args.run(args) == "3 loaves"
    with pytest.raises(SystemExit):
        parser.parse_args(["bake", "--help"])
    assert "Bake.\n\n  lavieid bake 3" in capsys.readouterr().out
    assert "bake bread" in parser.format_help()


def test_models_have_defaults_that_need_no_folder():
    parser = argparse.ArgumentParser()
    add_models(parser)
    args = parser.parse_args([])
    assert vars(args) == {"model_pack": "antelopev2", "weights_dir": None, "cache_dir": None, "device": "cpu"}


def test_a_device_is_torchs():
    assert to_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["toaster", "cuda:99", ""])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(ValueError, match=rf"There is no device {name} here \(.*\)\. Pass --device cpu, cuda or mps"):
        to_device(name)


def test_a_pictures_suffix_is_one_that_can_be_written():
    for name in ("a.png", "b.JPG", "folder/c.webp"):
        check_picture(Path(name))
    for name in ("a.what", "a", "a.safetensors", "png"):
        with pytest.raises(ValueError, match=f"'{name}' must end in the name of a picture format"):
            check_picture(Path(name))

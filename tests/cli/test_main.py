"""The `lavieid` command: which commands there are, and how errors end."""

import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from lavieid_adapters import __version__
from lavieid_adapters.cli import main as cli


def test_the_installed_command_is_main():
    (command,) = entry_points(group="console_scripts", name="lavieid")
    assert command.load() is cli.main


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"lavieid-adapters {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [[], ["info"], ["fly", "away"], ["parse"], ["parse", "me.png"], ["identity", "me.png"], ["identity", "-o", "me"]],
    ids=str,
)
def test_without_a_command_or_its_argument_the_usage_is_shown(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "usage: lavieid" in capsys.readouterr().err


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(
        re.search(rf"^ +{name} +\w+", out, re.M)
        for name in ("info", "identity", "parse", "prepare", "inspect", "train")
    )


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("info", ["a folder or a Hub repo, or a .safetensors file", "lavieid info me/lavieid-cogvideox-5b"]),
        ("parse", ["lavieid parse group.jpg -o parts.png --face-index 2", "picture, such as .png", "which face"]),
        ("identity", ["lavieid identity front.jpg side.jpg -o", "identity file, .safetensors", "--adapters REPO"]),
    ],
)
def test_help_of_a_command_says_how_it_is_used(command, says, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    options = [
        "--face-index",
        "--whole-image",
        "--component-map",
        "--model-pack",
        "--weights-dir",
        "--cache-dir",
        "--device",
    ]
    for text in says + (options if command != "info" else []):
        assert text in out
    assert ("--vision-model" in out) == (command == "identity")


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "lavieid_adapters", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"lavieid-adapters {__version__}\n")


def test_help_is_fast_because_it_imports_nothing_heavy():
    code = """
import sys
from lavieid_adapters.cli.main import main
try:
    main(["--help"])
except SystemExit:
    print([name for name in ("torch", "numpy", "diffusers", "yaml", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "train adapters on prepared clips" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_a_value_of_another_type_ends_in_one_line_too(monkeypatch, capsys):
    def describe(path):
        raise TypeError("scale is 'much', but must be a number.")

    monkeypatch.setattr("lavieid_adapters.cli.info.describe", describe)
    assert cli.main(["info", "me"]) == 1
    assert capsys.readouterr() == ("", "lavieid: scale is 'much', but must be a number.\n")

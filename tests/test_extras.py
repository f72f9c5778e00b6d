"""Optional packages: imported when needed, and a missing one names its pip command."""

import ast
import json
import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

import lavieid_adapters
from lavieid_adapters.extras import require


def test_a_module_that_is_there_is_returned():
    assert require("json", "app") is json


def test_a_submodule_can_be_required():
    assert require("importlib.metadata", "app").metadata is metadata


def test_a_missing_module_names_the_pip_command():
    with pytest.raises(ImportError, match=r"needs no_such_module.*pip install 'lavieid-adapters\[face\]'") as caught:
        require("no_such_module", "face")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_module_that_breaks_on_import_says_why(tmp_path, monkeypatch):
    (tmp_path / "lavieid_broken.py").write_text("raise ImportError('libGL.so.1 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"libGL\.so\.1 is missing.*\[face\]"):
        require("lavieid_broken", "face")


def test_every_extra_that_the_code_names_is_declared():
    package, examples = Path(lavieid_adapters.__file__).parent, Path(__file__).parent.parent / "examples"
    calls = [
        (path, node)
        for path in [*package.rglob("*.py"), *examples.glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == "require"
    ]
    assert calls
    declared = set(metadata("lavieid-adapters").get_all("Provides-Extra"))
    for path, call in calls:
        assert ast.literal_eval(call.args[1]) in declared, path


def test_all_is_all_of_the_extras():
    declared = metadata("lavieid-adapters")
    extras = set(declared.get_all("Provides-Extra")) - {"all"}
    lines = [r for r in declared.get_all("Requires-Dist") if r.startswith("lavieid-adapters[")]
    (line,) = [r for r in lines if 'extra == "all"' in r]
    assert set(re.search(r"\[(.*?)\]", line)[1].split(",")) == extras
    assert {"face", "train", "eval", "app", "test"} <= extras

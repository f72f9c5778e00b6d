"""The README's tables and names, against the code."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch
from support.hosts.table import left_out, markdown

import lavieid_adapters
from lavieid_adapters import TAM, LocalFacialEncoder, LocalRouter

PACKAGE = Path(__file__).parent.parent / "lavieid_adapters"  # an installed package has no READMEs
ROOMS = sorted(PACKAGE.glob("*/README.md"))
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_parameter_counts_are_those_of_the_presets():
    for cls, column in ((LocalRouter, 2), (TAM, 3), (LocalFacialEncoder, 4)):
        for name in cls.presets:
            row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
            with torch.device("meta"):
                count = cls.from_preset(name).num_parameters() / 1e6
            assert row.split("|")[column].split()[0] == f"{count:.1f}", (cls, name)


def test_every_public_function_is_shown_in_use_and_every_import_is_public():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    imported = {name for line in re.findall(r"from lavieid_adapters import (.*)", code) for name in line.split(", ")}
    assert imported <= set(lavieid_adapters.__all__)
    for name in set(lavieid_adapters.__all__) - {
        "DetectedFace",
        "FACIAL_COMPONENTS",
        "FaceFeatures",
        "LaVieID",
        "RouterHandle",
        *("Aligner", "Detector", "Parser", "Recognizer", "VisionEncoder"),  # for annotations; see the README of faces
    }:  # come from the others
        assert re.search(rf"\b{name}[(.\[]", code), name
    compile(code, "README.md", "exec")


@pytest.mark.parametrize("readme", ROOMS, ids=[path.parent.name for path in ROOMS])
def test_the_readme_of_a_room_compiles_imports_what_there_is_and_links_to_files(readme):
    text = readme.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lavieid_adapters"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in link or (readme.parent / link).exists(), link


def test_the_readme_of_faces_names_each_protocol_with_its_method():
    text = (PACKAGE / "faces" / "README.md").read_text(encoding="utf-8")
    for name, method in {
        "Aligner": "align", "Detector": "detect", "Parser": "parse", "Recognizer": "embed", "VisionEncoder": "encode",
    }.items():  # fmt: skip
        assert hasattr(getattr(lavieid_adapters, name), method) and f"`{name}.{method}`" in text


def test_the_tables_of_hosts_are_those_of_the_data():
    assert markdown() in README and left_out() in README, (
        "print them by `PYTHONPATH=tests python -m support.hosts.table`"
    )


def modes() -> dict[str, bool]:
    """The ways of running that tests/attachment/modes marks, and whether they are refused."""
    found = {}
    for file in (Path(__file__).parent / "attachment" / "modes").glob("test_*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.mode":
                refused = any(keyword.arg == "refused" and keyword.value.value for keyword in call.keywords)
                assert found.setdefault(call.args[0].value, refused) == refused
    return found


def test_the_ways_of_running_are_those_that_are_tested():
    table = README.split("| way of running |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    wanted, why = modes(), "print the table by `PYTHONPATH=tests python -m support.modes.table`"
    assert sorted(name for name, *_ in rows) == sorted(wanted), why
    for name, *hosts in rows:
        assert {cell == "refused, with an error" for cell in hosts} == {wanted[name]}, why
        assert all(re.fullmatch("works|–|not run: .+|refused, with an error", cell) for cell in hosts), why

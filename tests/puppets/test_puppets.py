"""The room as a whole: its public names, loaded when they are used, and who may import it."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from lavieid_adapters import puppets

FOLDER = Path(puppets.__file__).parent


@pytest.mark.parametrize("name", puppets.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(puppets, name)
    assert name in dir(puppets)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__ and value.__name__ == name


def test_the_public_names_are_those_that_a_type_checker_sees():
    (guarded,) = [node for node in ast.parse((FOLDER / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in guarded.body for alias in node.names}
    assert seen == puppets._HOME and sorted(seen) == sorted(puppets.__all__)


def test_importing_the_room_loads_nothing_of_it():
    code = (
        "import sys, lavieid_adapters.puppets as p; print([n for n in sys.modules if n.startswith(p.__name__ + '.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'lavieid_adapters\.puppets' has no attribute 'Puppet'"):
        _ = puppets.Puppet


def test_every_file_has_a_test_file_of_its_name():
    here = Path(__file__).parent
    files = {path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.py") if path.stem != "__init__"}
    assert len(files) > 30
    assert [str(path) for path in sorted(files) if not (here / path.parent / f"test_{path.name}.py").is_file()] == []


def test_no_file_outside_but_the_commands_knows_the_drawn_world():
    package = FOLDER.parent
    allowed = {FOLDER, package / "cli", package / "app"}
    others = [path for path in package.rglob("*.py") if not allowed & set(path.parents)]
    assert len(others) > 50
    assert [str(path) for path in others if "puppet" in path.read_text(encoding="utf-8").lower()] == []


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [("world", {"sight", "judges", "networks", "pipeline"}), ("sight", {"judges"}), ("judges", {"sight"})],
)
def test_the_judges_share_nothing_with_sight_and_the_world_knows_neither(folder, forbidden):
    imported = set()
    for path in (FOLDER / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                imported.add((node.module or "").split(".")[0])
                imported.update(alias.name for alias in node.names)
    assert imported or folder == "world"
    assert not imported & forbidden

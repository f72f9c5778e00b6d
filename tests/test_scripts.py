"""Examples and benchmarks: what they import exists, and none of them needs the tests."""

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
THERE = {folder: {path.stem for path in folder.glob("*.py")} for folder in {path.parent for path in SCRIPTS}}


def imports(path: Path) -> list[tuple[str, list[str]]]:
    """Modules that a script imports, and the names it takes from each, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module, [alias.name for alias in node.names]))
    return found


def test_there_are_scripts():
    assert {"generate", "train_small", "full_size", "train_base"} <= {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_exists(path):
    for module, names in imports(path):
        first = module.split(".")[0]
        if first == "lavieid_adapters":
            home = importlib.import_module(module)
            missing = [name for name in names if not hasattr(home, name)]
            if hasattr(home, "__path__"):  # a folder, of which a file may be meant
                missing = [name for name in missing if find_spec(f"{module}.{name}") is None]
            assert not missing, f"{path}: {module} has no {', '.join(missing)}"
        elif first in THERE[path.parent]:  # a script beside it
            tree = ast.parse((path.parent / f"{first}.py").read_text(encoding="utf-8"))
            defined = {name for node in tree.body for name in names_of(node)}
            assert set(names) <= defined, f"{path}: {first}.py has no {set(names) - defined}"
        else:
            assert first not in ("support", "conftest"), f"{path} needs the tests"


def names_of(node: ast.stmt) -> set[str]:
    """The names that a statement of a module gives to others."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}

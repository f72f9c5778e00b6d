"""The package as a whole: what an import of it loads, its public names, and which of its files may import which."""

import ast
import inspect
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import lavieid_adapters

PACKAGE = Path(lavieid_adapters.__file__).parent
HEAVY = ("insightface", "facexlib", "accelerate", "diffusers", "transformers")


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def module_name(path: Path) -> str:
    """Dotted name of a file within the package; a folder's `__init__.py` has the folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, node: ast.stmt) -> set[str]:
    """Names within the package that an import statement of a file may refer to: modules, or what is in them."""
    if isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
        folder = ("lavieid_adapters", *path.relative_to(PACKAGE).parts[:-1])
        base = folder[: len(folder) - node.level + 1] if node.level else ()
        source = ".".join([*base, *([node.module] if node.module else [])])
        names = {source} | {f"{source}.{alias.name}" for alias in node.names}
        if source == "lavieid_adapters":  # a public name stands for the module that defines it
            homes = lavieid_adapters._HOME
            names |= {f"{source}.{homes[alias.name]}" for alias in node.names if alias.name in homes}
    else:
        names = set()
    return {name.removeprefix("lavieid_adapters.") for name in names if name.startswith("lavieid_adapters.")}


@cache
def modules() -> dict[str, Path]:
    """The files of the package by their dotted names within it; its own `__init__` is ''."""
    return {module_name(path): path for path in PACKAGE.rglob("*.py")}


@cache
def imports() -> dict[str, set[str]]:
    """Module of the package → the modules of the package that it imports, those inside functions too."""
    graph = {}
    for name, path in modules().items():
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        graph[name] = {target for node in nodes for target in imported(path, node)} & set(modules()) - {name}
    return graph


def test_relative_imports_are_resolved_from_their_own_folder():
    path = PACKAGE / "puppets" / "reading.py"
    for code, target in {
        "from ..components import warp_map": "components",
        "from .base import weights_folder": "puppets.base",
        "from . import words": "puppets.words",
        "from lavieid_adapters.puppets.sight.face_net import FaceNet": "puppets.sight.face_net",
        "import lavieid_adapters.models.tam": "models.tam",
        "from lavieid_adapters import TAM": "models.tam",
    }.items():
        assert target in imported(path, ast.parse(code).body[0]), code


def test_importing_the_package_loads_one_file_and_nothing_heavy():
    code = f"""
import torch, sys
before = set(sys.modules)
import lavieid_adapters
print(sorted(set(sys.modules) - before - {{"importlib"}}))
lavieid_adapters.Identity
print([name for name in {HEAVY} if name in sys.modules])
print("lavieid_adapters.models.identity" in sys.modules)
"""
    assert run(code).splitlines() == ["['lavieid_adapters']", "[]", "True"]


def test_no_public_name_needs_or_loads_the_packages_of_an_extra():
    code = """
import sys
for name in ("scipy", "matplotlib"):  # which others load where they are
    sys.modules[name] = None  # as if it were not installed
from lavieid_adapters import *
print(LocalRouter.__name__, TAM.__name__, attach_lavieid.__name__)
optional = {"insightface", "facexlib", "timm", "cv2", "onnxruntime", "av", "webdataset", "gradio", "imageio"}
print(optional & set(sys.modules))
"""
    assert run(code) == "LocalRouter TAM attach_lavieid\nset()\n"


@pytest.mark.parametrize("name", lavieid_adapters.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(lavieid_adapters, name)
    assert name in dir(lavieid_adapters)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert value.__module__.startswith("lavieid_adapters.") and value.__name__ == name
    assert value.__doc__ and not value.__doc__.startswith(f"{name}(")  # a dataclass without one shows its signature
    for attribute, member in vars(value).items():
        if inspect.isfunction(member) and attribute[0] != "_":
            assert member.__doc__, f"{name}.{attribute}"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'lavieid_adapters' has no attribute 'Router'"):
        _ = lavieid_adapters.Router


def test_the_version_is_the_installed_ones():
    assert lavieid_adapters.__version__ == version("lavieid-adapters")


def test_the_package_says_that_it_is_typed():
    assert files("lavieid_adapters").joinpath("py.typed").is_file()


# Room → the rooms that its files may import at their top; a file beside the rooms is one of its own.
ROOMS = {
    "files": set(),
    "hosts": set(),
    "extras": set(),
    "models": {"files"},
    "faces": {"models", "files", "extras"},
    "attachment": {"models", "hosts", "files"},
    "visualize": {"faces", "models"},
    "evaluation": {"faces", "models", "files", "extras"},
    "data": {"faces", "models", "hosts", "files", "visualize", "extras"},
    "training": {"data", "attachment", "faces", "models", "hosts", "files", "visualize", "extras"},
    "puppets": {"data", "attachment", "evaluation", "faces", "models", "hosts", "files", "visualize", "extras"},
    "cli": set(),
    "__main__": {"cli"},
}
# What a room or a file may import inside a function besides: its caller may not need it, and it may be large.
LATER = {
    "attachment.lavieid": {"faces"},
    "cli": {*ROOMS} - {"__main__"},
}
# Some rooms use of another a part alone.
PARTS = {
    ("visualize", "faces"): {"faces.components", "faces.parts", "faces.photo"},
    ("visualize", "models"): {"models.identity"},
    ("evaluation", "models"): {"models.identity"},
    ("data", "models"): {"models.identity"},
    ("attachment", "faces"): {"faces.processor", "faces.reader"},
}


def room(module: str) -> str:
    return module.partition(".")[0]


def top_imports(path: Path) -> set[str]:
    """Modules of the package that are imported when a file is: not inside functions, and not for type checkers."""

    def statements(body):
        for node in body:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from statements(node.orelse)
                continue
            yield node
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for field in ("body", "orelse", "finalbody"):
                    yield from statements(getattr(node, field, []))
                for handler in getattr(node, "handlers", []):
                    yield from statements(handler.body)

    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for node in statements(tree.body) for name in imported(path, node)} & set(modules())


def test_rooms_import_only_what_the_layout_allows():
    wrong, seen = [], set()
    for name, path in modules().items():
        if not name:  # what is public lies in all rooms, and is imported when it is used
            continue
        for targets, allowed in (
            (top_imports(path), ROOMS[room(name)]),
            (imports()[name], ROOMS[room(name)] | LATER.get(room(name), LATER.get(name, set()))),
        ):
            for target in targets:
                pair = room(name), room(target)
                if pair[0] == pair[1] or not target:
                    continue
                seen.add(pair)
                parts = PARTS.get(pair)
                if pair[1] not in allowed or (parts is not None and target not in parts and target != pair[1]):
                    wrong.append(f"{name} → {target}")
    assert not wrong, sorted(set(wrong))
    assert {("attachment", "models"), ("data", "faces"), ("training", "data"), ("puppets", "faces")} <= seen


def test_no_file_stands_beside_the_rooms():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "extras.py"}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {name for name in ROOMS if not (PACKAGE / f"{name}.py").is_file()}


def test_modules_import_each_other_in_no_circle():
    graph = imports()
    assert graph["attachment.lavieid"] and "faces.components" in graph["puppets.sight.reading"]  # it is not empty
    files = {name for name, path in modules().items() if path.name != "__init__.py"}
    TopologicalSorter({name: graph[name] & files for name in files}).prepare()  # raises CycleError


def test_router_tam_and_encoder_do_not_know_each_other():
    graph, three = imports(), {"models.local_router", "models.tam", "models.facial_encoder"}
    for name in three:
        reached, todo = set(), [name]
        while todo:
            reached |= (new := graph[todo.pop()] - reached)
            todo += new
        assert not reached & three - {name}, name


def test_a_room_says_what_it_is_and_imports_nothing():
    inits = [path for path in PACKAGE.rglob("__init__.py") if path.parent not in (PACKAGE, PACKAGE / "puppets")]
    assert len(inits) >= len(ROOMS) - 4
    for path in inits:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) and len(tree.body) == 1, path


def test_the_drawn_world_is_known_to_itself_and_to_commands_alone():
    for name, path in modules().items():
        if room(name) not in ("puppets", "cli"):
            text = path.read_text(encoding="utf-8").lower()
            assert "puppet" not in text and "drawn world" not in text, name


def test_each_file_has_a_test_file_of_its_name():
    tests = Path(__file__).parent
    lacking = []
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE)
        if inside.name not in ("__init__.py", "__main__.py"):
            wanted = tests / inside.parent / f"test_{inside.name}"
            if not wanted.is_file() or "def test_" not in wanted.read_text(encoding="utf-8"):
                lacking.append(str(inside))
    assert not lacking, sorted(lacking)


def test_a_type_checker_sees_all_public_names_where_they_are_defined():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names if alias.asname == alias.name}
    assert seen == lavieid_adapters._HOME


def test_only_these_two_files_know_the_face_packages():
    """They are imported by `require("insightface...", "face")`, or not at all."""
    knowing = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        named += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        named += [ast.literal_eval(c.args[0]) for c in calls if getattr(c.func, "id", None) == "require"]
        if {name.split(".")[0] for name in named} & {"insightface", "facexlib"}:
            knowing.add(path.name)
    assert knowing == {"insightface_models.py", "facexlib_models.py"}

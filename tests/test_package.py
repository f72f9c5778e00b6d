"""The package as a whole: what an import of it loads, its public names, and which of its files may import which."""

import ast
import inspect
import subprocess
import sys
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
    else:
        names = set()
    return {name.removeprefix("lavieid_adapters.") for name in names if name.startswith("lavieid_adapters.")}


def imports() -> dict[str, set[str]]:
    """Module of the package → the modules of the package that it imports, those inside functions too."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    graph = {}
    for name, path in files.items():
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        graph[name] = {target for node in nodes for target in imported(path, node)} & set(files) - {name}
    return graph


def test_relative_imports_are_resolved_from_their_own_folder():
    path = PACKAGE / "puppets" / "reading.py"
    for code, target in {
        "from ..components import warp_map": "components",
        "from .base import weights_folder": "puppets.base",
        "from . import words": "puppets.words",
        "from lavieid_adapters.puppets.sight.face_net import FaceNet": "puppets.sight.face_net",
        "import lavieid_adapters.models.tam": "models.tam",
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


def test_imports_go_one_way():
    graph = imports()
    assert graph["attachment.lavieid"] and "faces.components" in graph["puppets.sight.reading"]  # it is not empty
    TopologicalSorter(graph).prepare()  # raises CycleError
    assert not [
        name
        for name, targets in graph.items()
        if targets & {"cli.main", "training.trainer"} and name not in ("", "cli.train", "__main__")
    ]
    three = {"models.local_router", "models.tam", "models.facial_encoder"}
    for name in three:
        reached, todo = set(), [name]
        while todo:
            reached |= (new := graph[todo.pop()] - reached)
            todo += new
        assert not reached & (three | {"attachment.router_handle", "attachment.lavieid", "hosts.host"}) - {name}, name
    assert graph["models.layers"] <= {"models", "models.kernels"}


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

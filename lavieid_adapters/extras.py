"""Packages that only some parts of the library need."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import a module that comes with one of the library's extras.

    Raises:
        ImportError: If it is not installed; names the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs {module}, which cannot be imported ({error}). Install it with: pip install "
            f"'lavieid-adapters[{extra}]'"
        ) from error

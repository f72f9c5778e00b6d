"""The command `info`. It reads any file of ours, so that it belongs to no other group of commands."""

import argparse
from pathlib import Path

from .shared import add_command

_INFO = """\
Say what a folder of adapters, or an identity file, holds: sizes, base model, block, which facial components are
hidden, and which encoder made it.

  lavieid info me/lavieid
  lavieid info alice.safetensors"""


def describe(path: Path) -> str:
    """Return a description of a folder of adapters or an identity file.

    Raises:
        ValueError, OSError: If it is neither, or damaged.
    """
    if path.suffix == ".safetensors":
        from ..models.identity import Identity

        return repr(Identity.load(path))
    if not path.is_dir():
        raise FileNotFoundError(f"'{path}' is neither a folder of adapters nor an identity file (.safetensors).")
    from ..files.model_card import settings_line
    from ..models.checkpoint import inspect_folder

    adapters, metadata = inspect_folder(path)
    lines = [f"base model {metadata.base_model or 'not recorded'}, block {metadata.block_idx}"]
    for name, adapter in adapters.items():
        lines.append(f"{name:8} {adapter.num_parameters() / 1e6:7.1f} M parameters: {settings_line(adapter.config)}")
    return "\n".join(lines)


def add_info_command(commands: argparse._SubParsersAction) -> None:
    """Add the command `info`."""
    about = "say what a folder of adapters or an identity file holds"
    command = add_command(commands, "info", lambda args: describe(args.path), about, _INFO)
    command.add_argument("path", type=Path, help="a folder, or a .safetensors file")

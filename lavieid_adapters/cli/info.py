"""The command `info`. It reads any file of ours, so that it belongs to no other group of commands."""

import argparse
from pathlib import Path

from .shared import add_command

_INFO = """\
Say what adapters, or an identity file, hold: sizes, base model, block, which facial components are hidden, and which
encoder they belong to.

  lavieid info me/lavieid-cogvideox-5b
  lavieid info my-lavieid
  lavieid info alice.safetensors

Adapters are a folder or a Hub repo, which is fetched as `attach_lavieid` would."""


def describe(path: Path) -> str:
    """Return a description of a folder of adapters, a Hub repo of adapters, or an identity file.

    Raises:
        ValueError, OSError: If it is none of these, cannot be fetched, or is damaged.
    """
    if path.suffix == ".safetensors":
        from ..models.identity import Identity

        return repr(Identity.load(path))
    hub = len(path.parts) == 2 and not path.is_absolute() and path.parts[0] != ".." and not path.exists()
    if not path.is_dir() and not hub:
        raise FileNotFoundError(
            f"'{path}' is neither a folder of adapters nor an identity file (.safetensors), nor the name of a Hub repo "
            "(owner/name). Check the path."
        )
    from ..files.model_card import settings_line
    from ..models.checkpoint import inspect_folder

    adapters, metadata = inspect_folder(path)
    base, encoder = metadata.base_model or "not recorded", metadata.encoder or "not recorded"
    lines = [f"base model {base}, block {metadata.block_idx}, encoder {encoder}"]
    for name, adapter in adapters.items():
        lines.append(f"{name:8} {adapter.num_parameters() / 1e6:7.1f} M parameters: {settings_line(adapter.config)}")
    return "\n".join(lines)


def add_info_command(commands: argparse._SubParsersAction) -> None:
    """Add the command `info`."""
    about = "say what adapters or an identity file hold"
    command = add_command(commands, "info", lambda args: describe(args.path), about, _INFO)
    command.add_argument("path", type=Path, help="a folder or a Hub repo, or a .safetensors file")

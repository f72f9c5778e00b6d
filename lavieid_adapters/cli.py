"""The `lavieid` command."""

import argparse
import sys
from pathlib import Path

from . import __version__


def describe(path: Path) -> str:
    """What a folder of adapters, or an identity file, holds.

    Raises:
        ValueError, OSError: If it is neither, or damaged.
    """
    if path.suffix == ".safetensors":
        from .identity import Identity

        return repr(Identity.load(path))
    if not path.is_dir():
        raise FileNotFoundError(f"'{path}' is neither a folder of adapters nor an identity file (.safetensors).")
    from .card import settings
    from .folder import inspect_folder

    adapters, metadata = inspect_folder(path)
    lines = [f"base model {metadata.base_model or 'not recorded'}, block {metadata.block_idx}"]
    for name, adapter in adapters.items():
        lines.append(f"{name:8} {adapter.num_parameters() / 1e6:7.1f} M parameters: {settings(adapter)}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lavieid", description="Adapters that make a video diffusion transformer keep one person's identity."
    )
    parser.add_argument("--version", action="version", version=f"lavieid-adapters {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    info = commands.add_parser(
        "info",
        help="say what a folder of adapters or an identity file holds",
        description="Say what a folder of adapters, or an identity file, holds: sizes, base model, block, "
        "which facial components are hidden, and which encoder made it.",
    )
    info.add_argument("path", type=Path, help="a folder, or a .safetensors file")
    arguments = parser.parse_args(argv)
    try:
        print(describe(arguments.path))
    except (ValueError, OSError) as error:
        print(f"lavieid: {error}", file=sys.stderr)
        return 1
    return 0

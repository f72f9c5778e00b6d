"""The `lavieid` command: reads the command line, runs one command, and says what is wrong in one line.

Each command returns the line that is printed, or None. Nothing heavier than argparse is imported before one runs.
"""

import argparse
import sys

from .. import __version__
from .data import add_data_commands
from .demo import add_demo_command
from .info import add_info_command
from .photos import add_photo_commands
from .train import add_training_commands


def main(argv: list[str] | None = None) -> int:
    """Run a command; return 0, 1 after an error, or 130 if it was stopped."""
    arguments = _parser().parse_args(argv)
    try:
        said = arguments.run(arguments)
        if said is not None:
            print(said)
    except KeyboardInterrupt as error:
        print(f"lavieid: {str(error) or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        print(f"lavieid: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lavieid", description="Adapters that make a video diffusion transformer keep one person's identity."
    )
    parser.add_argument("--version", action="version", version=f"lavieid-adapters {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_demo_command(commands)
    add_info_command(commands)
    add_photo_commands(commands)
    add_data_commands(commands)
    add_training_commands(commands)
    return parser

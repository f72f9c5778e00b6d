"""The commands that train adapters, and upload what a run has made."""

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

from .shared import add_command

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_EXAMPLE = "examples/training/cogvideox.yaml"
_TRAIN = f"""\
Train adapters on the shards that lavieid prepare has written.

  lavieid train --config {_EXAMPLE}
  lavieid train --config {_EXAMPLE} output=outputs/lora lora_rank=64
  accelerate launch --config_file examples/training/accelerate_fsdp2.yaml \\
      -m lavieid_adapters train --config {_EXAMPLE}

Stopped in whatever way, the same command goes on where it was."""

_PUSH = """\
Upload the adapters of a training run, its LoRA if it has one, and a card with the training's settings, the base model
and the number of clips, as one commit. Of a run that has not ended, its last checkpoint.

  lavieid push outputs/lavieid-cogvideox-5b me/lavieid-cogvideox-5b"""


def train(args: argparse.Namespace) -> None:
    """Train adapters.

    Raises:
        MemoryError: If the GPU's memory is used up.
        FloatingPointError: If too many steps in a row were not finite.
        ValueError, OSError, ImportError: As `TrainingConfig.load` and `Trainer` do.
    """
    stop_with_launcher()
    import torch

    from ..training.config import TrainingConfig
    from ..training.trainer import Trainer

    try:
        Trainer(TrainingConfig.load(args.config, args.overrides)).run()
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"out of GPU memory ({str(error).partition('. ')[0]}). Set checkpointing to all, host_storage to fp8, or "
            "use more GPUs with FSDP."
        ) from error


def push(args: argparse.Namespace) -> str:
    """Upload what a training run has made."""
    from ..training.run_folder import push_run

    return f"{push_run(args.folder, args.repo, private=args.private or None)}"


def stop_with_launcher() -> None:
    """Ask Linux for a SIGTERM when `accelerate launch` ends, which forwards no signal to a single process."""
    if sys.platform == "linux" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def add_training_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands `train` and `push`."""
    command = add_command(commands, "train", train, "train adapters on prepared clips", _TRAIN, add_help=False)
    command.add_argument("-h", "--help", action=_OptionsHelp, nargs=0, help="show this message, with all options")
    command.add_argument("--config", required=True, metavar="YAML", help=f"such as {_EXAMPLE}")
    command.add_argument("overrides", nargs="*", metavar="OPTION=VALUE", help="in the place of what the file says")

    command = add_command(commands, "push", push, "upload what a training run has made", _PUSH)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="the run's output, or one of its checkpoints")
    command.add_argument("repo", metavar="REPO", help="name or organisation/name; created if it is not there")
    command.add_argument("--private", action="store_true", help="create it as a private one")


class _OptionsHelp(argparse.Action):
    """`--help` that lists the config's options. Only then are they imported, so that other commands stay fast."""

    def __call__(self, parser, namespace, values, option_string=None):
        parser.epilog = f"options of the config:\n{_options()}"
        parser.print_help()
        parser.exit()


def _options() -> str:
    """Return a paragraph for each option of the config, from its field's metadata."""
    import json
    import textwrap
    from dataclasses import fields
    from typing import get_type_hints

    from ..training.config import TrainingConfig
    from ..training.options import expected

    hints, defaults, lines = get_type_hints(TrainingConfig), TrainingConfig.defaults(), []
    for field in fields(TrainingConfig):
        default = f" (default {json.dumps(defaults[field.name])})" if field.name in defaults else " (required)"
        lines.append(f"  {field.name}: {expected(field, hints[field.name])}{default}")
        lines += textwrap.wrap(field.metadata["help"], 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)

"""The command that shows what the adapters do, without a download."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from .shared import add_command


def demo(args: argparse.Namespace) -> str:
    """Write the demo's video and pictures."""
    import diffusers
    import transformers

    from ..puppets.demo import run_demo

    diffusers.utils.logging.disable_progress_bar()  # of loading; those of denoising stay
    transformers.utils.logging.disable_progress_bar()
    return run_demo(
        args.out,
        args.prompt,
        identity=args.identity,
        mix=_by_name("--mix", args.mix),
        component_scales=_by_name("--component", args.component),
        tam=not args.no_tam,
        seed=args.seed,
        steps=args.steps,
        guidance=args.guidance,
    )


def add_demo_command(commands: argparse._SubParsersAction) -> None:
    """Add the command `demo`."""
    from ..puppets.world.grammar import EXPRESSIONS, MOTIONS, SCENES, caption  # words alone, no torch

    prompt = caption(SCENES.index("park"), MOTIONS.index("turn"), EXPRESSIONS.index("smiling"))
    text = f"""\
Draw a person, and let a small CogVideoX, which was trained in a drawn world and comes with the package, make a video
of the prompt: without LaVieID, and with it. On two CPU cores in less than a minute, without a download.

  lavieid demo
  lavieid demo --identity 5 --prompt "{caption(3, 7, 0)}"
  lavieid demo --mix eyes=7 hair=12
  lavieid demo --component hair=0 skin=0.5

A prompt says where somebody is, what happens and, if you like, with which face, such as
  {caption(0, 0, 1)}
  {caption(2, 4, 2, 1)}
  scenes: {", ".join(SCENES)}
  motions: {", ".join(MOTIONS)}
  faces: {", ".join(EXPRESSIONS)}"""
    command = add_command(commands, "demo", demo, "show what the adapters do, without a download", text)
    command.add_argument("--prompt", default=prompt, help="(%(default)s)")
    command.add_argument(
        "--identity", type=int, default=3, metavar="N", help="who: 0 to 99,999, all unseen in training (%(default)s)"
    )
    command.add_argument(
        "--mix",
        type=_setting(int),
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=N",
        help="components that others lend, such as eyes=7",
    )
    command.add_argument(
        "--component",
        type=_setting(float),
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=STRENGTH",
        help="strengths of components; at 0, such as hair=0, one is left to the base",
    )
    command.add_argument("--no-tam", action="store_true", help="the router alone")
    command.add_argument("--seed", type=int, default=0, help="of the noise and the photos (%(default)s)")
    command.add_argument("--steps", type=int, default=20, help="of denoising (%(default)s)")
    command.add_argument("--guidance", type=float, default=4.0, help="scale of guidance (%(default)s)")
    command.add_argument("--out", type=Path, default=Path("outputs/demo"), metavar="DIR", help="(%(default)s)")


def _by_name(option: str, settings: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return settings by their names.

    Raises:
        ValueError: If a name occurs twice.
    """
    named = {}
    for name, value in settings:
        if name in named:
            raise ValueError(f"{option} sets '{name}' twice, to {named[name]:g} and to {value:g}: say it once.")
        named[name] = value
    return named


def _setting(kind: type) -> Callable[[str], tuple[str, float]]:
    def setting(text: str) -> tuple[str, float]:
        name, equals, value = text.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"'{text}' is no setting: say NAME=VALUE, such as hair=0")
        try:
            return name.strip(), kind(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{value}' in '{text}' is no number") from error

    return setting

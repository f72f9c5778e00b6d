"""Options and checks that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_command(
    commands: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], str | None],
    about: str,
    text: str,
    **settings,
) -> argparse.ArgumentParser:
    """Add a command and return its parser.

    Args:
        commands: All commands.
        name: Its name.
        run: Does the work; returns the line that is printed, or None.
        about: Its line in the list of commands.
        text: The head of its own help, as it is.
        settings: Other arguments of `ArgumentParser`.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(name, help=about, description=text, formatter_class=formatter, **settings)
    command.set_defaults(run=run)
    return command


def add_models(command: argparse.ArgumentParser) -> None:
    """Add the options of the models that read faces."""
    models = command.add_argument_group("models, which are downloaded on first use")
    models.add_argument(
        "--model-pack", default="antelopev2", metavar="PACK", help="insightface's, by name or folder (%(default)s)"
    )
    models.add_argument("--weights-dir", metavar="DIR", help="folder of facexlib's .pth files")
    models.add_argument("--cache-dir", metavar="DIR", help="where downloads go, if not where each library puts them")
    models.add_argument("--device", default="cpu", help="cpu, cuda or mps (%(default)s)")


def to_device(name: str):
    """Return the torch device of a name.

    Raises:
        ValueError: If there is no such device here.
    """
    import torch

    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"There is no device {name} here ({reason}). Pass --device cpu, cuda or mps.") from error


def check_picture(path: Path) -> None:
    """Check that a path ends in the suffix of a picture format.

    Raises:
        ValueError: If it does not.
    """
    from PIL import Image

    Image.init()
    if Image.EXTENSION.get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"'{path}' must end in the name of a picture format, such as .png or .jpg.")

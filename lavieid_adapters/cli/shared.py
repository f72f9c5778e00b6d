"""What several of the commands take."""

import argparse


def add_models(command: argparse.ArgumentParser) -> None:
    """Options of the models that read faces."""
    models = command.add_argument_group("models, which are downloaded on first use")
    models.add_argument(
        "--model-pack", default="antelopev2", metavar="PACK", help="insightface's, by name or folder (%(default)s)"
    )
    models.add_argument("--weights-dir", metavar="DIR", help="folder of facexlib's .pth files")
    models.add_argument("--cache-dir", metavar="DIR", help="where downloads go, if not where each library puts them")
    models.add_argument("--device", default="cpu", help="cpu, cuda or mps (%(default)s)")


def to_device(name: str):
    """The torch device of a name.

    Raises:
        ValueError: If there is none here.
    """
    import torch

    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name} is not to be had here ({reason}): say cpu, cuda or mps.") from error


def check_picture(path) -> None:
    """Make sure that a path's suffix is that of a picture format.

    Raises:
        ValueError: If it is not.
    """
    from PIL import Image

    Image.init()
    if Image.EXTENSION.get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"'{path}' must end in the name of a picture format, such as .png or .jpg.")

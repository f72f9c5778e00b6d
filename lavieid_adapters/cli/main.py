"""The `lavieid` command."""

import argparse
import contextlib
import sys
from pathlib import Path

from .. import __version__
from .data import add_data_commands
from .demo import add_demo_command
from .shared import add_models, check_picture, to_device

CONSISID = "BestWishYsh/ConsisID-preview"


def describe(path: Path) -> str:
    """What a folder of adapters, or an identity file, holds.

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


def identity(args: argparse.Namespace) -> str:
    """Read photos of one person and write an identity file."""
    from ..faces.processor import FaceProcessor
    from ..faces.reader import IdentityReader
    from ..models.facial_encoder import LocalFacialEncoder

    if args.output.suffix != ".safetensors":
        raise ValueError(f"'{args.output}' must end in .safetensors.")
    device = to_device(args.device)
    if args.adapters:
        encoder = LocalFacialEncoder.from_pretrained(args.adapters, subfolder="encoder", cache_dir=args.cache_dir)
    else:
        encoder = LocalFacialEncoder.from_consisid(CONSISID, cache_dir=args.cache_dir)
    face = FaceProcessor.for_encoder(
        encoder,
        model_pack=args.model_pack,
        weights_dir=args.weights_dir,
        cache_dir=args.cache_dir,
        **({"vision_model": args.vision_model} if args.vision_model else {}),
    )
    reader = IdentityReader(encoder, face).to(device)
    made = reader(args.photos, **_choices(args))
    made.save(args.output)
    return f"{args.output}, for the encoder of {args.adapters or CONSISID}: {made}"


def parse(args: argparse.Namespace) -> str:
    """Write a picture of the facial components that a photo shows."""
    from ..faces.photo import Photo
    from ..faces.processor import FaceProcessor
    from ..files.atomic import written_aside
    from ..visualize.overlays import component_overlay

    check_picture(args.output)
    face = FaceProcessor.from_pretrained(
        args.model_pack,
        device=to_device(args.device),
        weights_dir=args.weights_dir,
        cache_dir=args.cache_dir,
        recognizer=None,
        vision=None,
    )
    photo = Photo(args.photos)
    features = face(photo, **_choices(args))
    with written_aside(args.output.parent) as folder:
        component_overlay(photo.pixels, features).save(folder / args.output.name)
    masked = "; ".join(f"{name}: {reason}" for name, reason in features.hidden.items())
    count = len(features.mask)
    return f"{args.output}: {count - len(features.hidden)} of {count} components, masked: {masked or 'none'}"


def push(args: argparse.Namespace) -> str:
    """Upload what a training run has made."""
    from ..training.run_folder import push_run

    return f"{push_run(args.folder, args.repo, private=args.private or None)}"


def _choices(args: argparse.Namespace) -> dict:
    index = args.face_index
    with contextlib.suppress(TypeError, ValueError):  # the processor refuses the rest, with the faces' boxes
        index = int(index)
    maps = args.component_map or [None]
    return {
        "face_index": index,
        "on_no_face": "whole_image" if args.whole_image else "raise",
        "component_map": maps[0] if len(maps) == 1 else maps,
    }


_IDENTITY = """\
Read one person from one or more photos, and write what the adapters need to know of them into one small file:

  lavieid identity photo.jpg -o alice.safetensors
  lavieid identity photo.jpg -o alice.safetensors --adapters me/lavieid-cogvideox-5b
  lavieid identity front.jpg side.jpg -o alice.safetensors --adapters my-lavieid

The file holds no picture, and its use needs no face package. It belongs to the encoder of the adapters; without any,
to ConsisID's, from which adapters may start."""

_PARSE = """\
Draw what is seen of a face: the photo with its six facial components over it, a legend, and what is masked and why.

  lavieid parse photo.jpg -o parts.png
  lavieid parse group.jpg -o parts.png --face-index 2

Look at it first when a likeness is poor."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lavieid", description="Adapters that make a video diffusion transformer keep one person's identity."
    )
    parser.add_argument("--version", action="version", version=f"lavieid-adapters {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_demo_command(commands)
    info = commands.add_parser(
        "info",
        help="say what a folder of adapters or an identity file holds",
        description="Say what a folder of adapters, or an identity file, holds: sizes, base model, block, "
        "which facial components are hidden, and which encoder made it.",
    )
    info.add_argument("path", type=Path, help="a folder, or a .safetensors file")
    info.set_defaults(run=lambda args: describe(args.path))

    for name, run, about, text in (
        ("identity", identity, "make an identity file of one person's photos", _IDENTITY),
        ("parse", parse, "draw the facial components that a photo shows", _PARSE),
    ):
        command = commands.add_parser(
            name, help=about, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == "identity":
            command.add_argument("photos", metavar="PHOTO", nargs="+", help="photos of one person: files or URLs")
        else:
            command.add_argument("photos", metavar="PHOTO", help="a file or a URL")
        made = "identity file, .safetensors" if name == "identity" else "picture, such as .png"
        command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=f"the {made}")
        if name == "identity":
            command.add_argument("--adapters", metavar="REPO", help="Hub repo or folder of the adapters it is for")
            command.add_argument("--vision-model", metavar="REPO", help="Hub repo or folder of the ViT, if moved")
        _add_reading(command)
        command.set_defaults(run=run)
    add_data_commands(commands)
    upload = commands.add_parser(
        "push",
        help="upload what a training run has made",
        description="Upload the adapters of a training run, its LoRA if it has one, and a card with the training's "
        "settings, the base model and the number of clips, as one commit. Of a run that has not ended, its last "
        "checkpoint.",
    )
    upload.add_argument("folder", type=Path, metavar="FOLDER", help="the run's output, or one of its checkpoints")
    upload.add_argument("repo", metavar="REPO", help="name or organisation/name; created if it is not there")
    upload.add_argument("--private", action="store_true", help="create it as a private one")
    upload.set_defaults(run=push)
    return parser


def _add_reading(command: argparse.ArgumentParser) -> None:
    faces = command.add_argument_group("which face")
    faces.add_argument(
        "--face-index", metavar="N", help="of several faces: its number from left to right, from 0, or 'largest'"
    )
    faces.add_argument(
        "--whole-image", action="store_true", help="where no face is found, take the picture as one: for drawings"
    )
    faces.add_argument(
        "--component-map",
        metavar="PNG",
        action="append",
        help="your own segmentation: palette or grey, 0 nothing, 1 to 6 components; once, or once a photo",
    )
    add_models(command)


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        said = arguments.run(arguments)
        if said is not None:  # of several processes one speaks
            print(said)
    except KeyboardInterrupt as error:
        print(f"lavieid: {str(error) or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"lavieid: {error}", file=sys.stderr)
        return 1
    return 0

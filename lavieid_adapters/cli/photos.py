"""The commands that read a person from photos: `identity` and `parse`."""

import argparse
import contextlib
from pathlib import Path

from .shared import add_command, add_models, check_picture, to_device

CONSISID = "BestWishYsh/ConsisID-preview"

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
    photo = Photo(args.photo)
    features = face(photo, **_choices(args))
    with written_aside(args.output.parent) as folder:
        component_overlay(photo.pixels, features).save(folder / args.output.name)
    masked = "; ".join(f"{name}: {reason}" for name, reason in features.hidden.items())
    count = len(features.mask)
    return f"{args.output}: {count - len(features.hidden)} of {count} components, masked: {masked or 'none'}"


def add_photo_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands `identity` and `parse`."""
    command = add_command(commands, "identity", identity, "make an identity file of one person's photos", _IDENTITY)
    command.add_argument("photos", metavar="PHOTO", nargs="+", help="photos of one person: files or URLs")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the identity file, .safetensors"
    )
    command.add_argument("--adapters", metavar="REPO", help="Hub repo or folder of the adapters it is for")
    command.add_argument("--vision-model", metavar="REPO", help="Hub repo or folder of the ViT, if moved")
    _add_reading(command, several=True)

    command = add_command(commands, "parse", parse, "draw the facial components that a photo shows", _PARSE)
    command.add_argument("photo", metavar="PHOTO", help="a file or a URL")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the picture, such as .png")
    _add_reading(command, several=False)


def _add_reading(command: argparse.ArgumentParser, several: bool) -> None:
    faces = command.add_argument_group("which face")
    faces.add_argument(
        "--face-index", metavar="N", help="of several faces: its number from left to right, from 0, or 'largest'"
    )
    faces.add_argument(
        "--whole-image", action="store_true", help="where no face is found, take the picture as one: for drawings"
    )
    segmentation = "your own segmentation: palette or grey, 0 nothing, 1 to 6 components"
    if several:
        segmentation += "; once, or once a photo"
    faces.add_argument("--component-map", metavar="PNG", action="append" if several else "store", help=segmentation)
    add_models(command)


def _choices(args: argparse.Namespace) -> dict:
    index = args.face_index
    with contextlib.suppress(TypeError, ValueError):  # the processor refuses the rest, with the faces' boxes
        index = int(index)
    maps = args.component_map
    return {
        "face_index": index,
        "on_no_face": "whole_image" if args.whole_image else "raise",
        "component_map": maps[0] if isinstance(maps, list) and len(maps) == 1 else maps,
    }

"""The commands that make training data, and look at it."""

import argparse
import os
import signal
from collections.abc import Callable
from pathlib import Path

from .shared import add_command, add_models, check_picture, to_device

_PREPARE = """\
Turn clips into training samples for one base model, once: their latents, captions, and whose face is where.

  lavieid prepare clips.jsonl --base zai-org/CogVideoX-5b --out shards/ --device cuda
  lavieid prepare clips.jsonl --base zai-org/CogVideoX-5b --out shards/ --buckets 49x480x720 49x720x480
  accelerate launch -m lavieid_adapters prepare clips.jsonl --base zai-org/CogVideoX-5b --out shards/ --device cuda

A line of clips.jsonl is {"video": "a.mp4", "caption": "She reads.", "reference": "face.jpg", "person": "alice"}, the
last two if they are known. Stopped in whatever way, the same command goes on where it was. What cannot be used is in
rejected.jsonl, with the reason. What is taken out of the list is left out of the index."""

_INSPECT = """\
Draw some samples: the person, frames with the facial components over them, and the caption.

  lavieid inspect shards/ -o sheet.png
  lavieid inspect shards/ -o sheet.jpg --samples 20"""

_CONVERT = """\
List the clips of ConsisID's training data, for lavieid prepare:

  lavieid convert-consisid datasets/total_train_data.txt -o clips.jsonl
  lavieid convert-consisid ConsisID-preview-Data/video_caption_train.json -o clips.jsonl --videos unpacked/"""


def prepare(args: argparse.Namespace) -> str | None:
    """Make shards of clips, in one process or in those of `accelerate launch`."""
    import torch

    from ..data.clips import read_clips
    from ..data.prepare import prepare_clips
    from ..data.video import Bucket
    from ..faces.processor import FaceProcessor

    buckets = [Bucket.parse(text) for text in args.buckets]
    # accelerate starts several processes, of which each has a GPU.
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if args.device == "cuda" else args.device
    clips, device = read_clips(args.clips), to_device(device)
    face = FaceProcessor.from_pretrained(
        args.model_pack,
        weights_dir=args.weights_dir,
        cache_dir=args.cache_dir,
        vision=None,
        min_face=args.min_face,
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends the shard, as Ctrl-C does
    try:
        made = prepare_clips(
            clips,
            args.out,
            base=args.base,
            face=face,
            buckets=buckets,
            fps=args.fps,
            dtype=getattr(torch, args.dtype),
            device=device,
            samples_per_shard=args.samples_per_shard,
            min_face_share=args.min_face_share,
            max_sequence_length=args.max_sequence_length,
            seed=args.seed,
            tiling=args.tiling,
            retry_rejected=args.retry_rejected,
            cache_dir=args.cache_dir,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on where it was") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if made is None:
        return None
    usable, rejected = made
    shards = len({line["shard"] for line in usable})
    return f"{args.out}: {len(usable)} samples in {shards} shards, {len(rejected)} clips rejected"


def inspect(args: argparse.Namespace) -> str:
    """Draw a contact sheet of shards."""
    import numpy as np

    from ..data.contact_sheet import shard_sheet
    from ..data.shards import Shards
    from ..files.atomic import written_aside

    check_picture(args.output)
    shards = Shards(args.shards)
    count = min(args.samples, len(shards))
    samples = np.linspace(0, len(shards) - 1, count).round().astype(int).tolist()
    with written_aside(args.output.parent) as folder:
        shard_sheet(shards, samples).save(folder / args.output.name)
    return f"{args.output}: {count} of {len(shards)} samples"


def convert_consisid(args: argparse.Namespace) -> str:
    """List the clips of ConsisID's data."""
    from ..data.clips import convert_consisid as convert

    counts = convert(args.source, args.output, args.videos)
    left = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason != "clips")
    return f"{args.output}: {counts['clips']} clips, left out: {left or 'none'}"


def add_data_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands `prepare`, `inspect` and `convert-consisid`."""
    command = add_command(commands, "prepare", prepare, "make training samples of clips", _PREPARE)
    command.add_argument("clips", type=Path, metavar="CLIPS", help="the list, a .jsonl")
    command.add_argument("--base", required=True, metavar="REPO", help="Hub repo or folder of the base pipeline")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the shards")
    pixels = command.add_argument_group("what is taken of a clip")
    pixels.add_argument("--fps", type=_positive(float), default=8, help="frames a second (%(default)s)")
    pixels.add_argument(
        "--buckets",
        nargs="+",
        default=["49x480x720"],
        metavar="FxHxW",
        help="frames, height and width; the longest that a clip fills, and the nearest in shape (49x480x720)",
    )
    pixels.add_argument(
        "--min-face", type=_positive(int), default=64, metavar="PIXELS", help="smallest side of a reference's face (64)"
    )
    pixels.add_argument(
        "--min-face-share",
        type=_share,
        default=0.5,
        metavar="SHARE",
        help="of the frames that show a face (%(default)s)",
    )
    how = command.add_argument_group("how")
    how.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="(%(default)s)")
    how.add_argument(
        "--max-sequence-length", type=_positive(int), metavar="N", help="tokens of a caption, if not the base's"
    )
    how.add_argument("--seed", type=int, default=0, help="of the draws from the VAE (%(default)s)")
    how.add_argument(
        "--tiling", action="store_true", help="let the VAE work by tiles: less memory, slightly other latents"
    )
    how.add_argument("--retry-rejected", action="store_true", help="try again what an earlier run has rejected")
    how.add_argument("--samples-per-shard", type=_positive(int), default=100, metavar="N", help="(%(default)s)")
    add_models(command)

    command = add_command(commands, "inspect", inspect, "draw a contact sheet of training samples", _INSPECT)
    command.add_argument("shards", type=Path, metavar="SHARDS", help="their folder")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the picture, such as .png")
    command.add_argument("--samples", type=_positive(int), default=8, metavar="N", help="how many (%(default)s)")

    command = add_command(commands, "convert-consisid", convert_consisid, "list the clips of ConsisID's data", _CONVERT)
    command.add_argument("source", type=Path, metavar="SOURCE", help="total_train_data.txt, or a .json of captions")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the list, a .jsonl")
    command.add_argument("--videos", type=Path, metavar="DIR", help="the videos of a .json, if not 'videos' beside it")


def _positive(kind: type) -> Callable[[str], float]:
    def positive(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    return positive


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value

"""From clips to shards, in one process or in many, resumable at any moment."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ..extras import require
from ..faces.components import ALIGNED_SIZE
from ..faces.processor import FaceProcessor
from ..files.atomic import written_aside
from ..files.digests import part_digest
from .base_encoders import BaseEncoders, text_length
from .clips import Clip, Rejected
from .sample_maker import SampleMaker
from .shard_writer import FULL_DISK, ShardWriter, finished_keys, mend_shards, naming_full_disk, write_index
from .shards import FORMAT, HEADER, NULL_PROMPT, PARTS, REJECTED, VERSION, read_header
from .video import Bucket

FAILED = "could not be processed"  # why a clip cannot be used, if nothing better is known


def prepare_clips(
    clips: Sequence[Clip],
    out: str | os.PathLike,
    *,
    base: str | os.PathLike,
    face: FaceProcessor,
    buckets: Sequence[Bucket] = (Bucket(49, 480, 720),),
    fps: float = 8,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    samples_per_shard: int = 100,
    min_face_share: float = 0.5,
    max_sequence_length: int | None = None,
    seed: int = 0,
    tiling: bool = False,
    retry_rejected: bool = False,
    **hub,
) -> tuple[list[dict], list[dict]] | None:
    """Encode clips once into shards of training samples: latents, captions, reference, components in every frame.

    Samples that `out` holds already are not made again, so a run that was stopped in whatever way goes on when it is
    repeated; a journal that is missing or cut is made again from the shards. Under `accelerate launch` the processes
    share the clips; their number may change.

    Args:
        clips: The clips, from `read_clips`.
        out: Folder of the shards.
        base: Hub repo or folder of the pipeline that is to be trained.
        face: Reads faces, with a recognizer and a parser; a vision model is not used here.
        buckets: Lengths and sizes that clips are cut and resized to.
        fps: Frames per second that are taken of a clip.
        dtype: Dtype in which the base model computes, and of the stored latents and embeddings.
        device: Device of the models; "cuda" is one GPU for each process.
        samples_per_shard: Samples in one tar file.
        min_face_share: Share of a clip's frames in which a face must be found, 0 to 1.
        max_sequence_length: Tokens of a prompt; as many as the base's transformer takes if None.
        seed: Seed of the samples that are drawn from the VAE's distributions.
        tiling: Whether the VAE works by tiles: less memory, slightly other latents.
        retry_rejected: Whether clips that an earlier run has rejected are tried again.
        hub: For a Hub repo: `revision`, `token`, `cache_dir`, `local_files_only`.

    Returns:
        The lines of the index and those of the rejected clips; None in other processes than the main one.

    Raises:
        ValueError: If a setting is out of bounds, no clip can be used, `out` holds something else or damaged shards,
            or `base` or `face` do not fit.
        OSError: If a download fails, or if the disk is full.
    """
    if not clips or not buckets:
        raise ValueError(
            f"There is nothing to prepare with {len(clips)} clips and {len(buckets)} buckets. Give at least one of "
            "each."
        )
    _check_settings(fps, dtype, samples_per_shard, min_face_share, max_sequence_length, seed)
    out, device = Path(out), torch.device(device)
    state = require("accelerate", "train").PartialState(cpu=device.type == "cpu", timeout=timedelta(days=30))
    if state.num_processes > 1 and device.index is None:
        device = state.device
    with state.main_process_first():  # it downloads what the others then find
        digests = {part: part_digest(base, part, **hub) for part in PARTS}
        _try_out(face.to(device))
        if max_sequence_length is None:
            max_sequence_length = text_length(base, **hub)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "base": os.fspath(base),
            **digests,
            "face": face.fingerprint,
            "buckets": sorted(map(str, buckets)),
            "fps": float(fps),
            "dtype": str(dtype).removeprefix("torch."),
            "max_sequence_length": max_sequence_length,
            "min_face_share": min_face_share,
            "seed": seed,
            "tiling": tiling,
        }
        _check_folder(out, header)
        if state.is_main_process:
            mend_shards(out)  # or samples that a lost journal knew would be made again
        finished = finished_keys(out, rejected=not retry_rejected)
        todo = [clip for clip in clips if clip.key not in finished]
        if todo or not (out / HEADER).is_file():
            encoders = BaseEncoders(base, max_sequence_length, dtype, device, tiling, **hub)
        if not (out / HEADER).is_file():
            with naming_full_disk(out), written_aside(out) as new:
                save_file({"prompt_embeds": encoders.encode_prompt("")}, new / NULL_PROMPT)
                (new / HEADER).write_text(json.dumps(header, indent=2) + "\n")
    state.wait_for_everyone()  # until then nobody writes, so that all have found the same clips finished
    if todo:
        maker = SampleMaker(clips, encoders, face, buckets, float(fps), min_face_share, seed)
        with ShardWriter(out, state.process_index, samples_per_shard) as writer, _bar(state.is_main_process) as shown:
            for clip in shown(todo[state.process_index :: state.num_processes]):
                _add(clip, maker, writer)
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    usable, rejected = write_index(out, {clip.key for clip in clips})
    _show_reasons(rejected)
    if not usable:
        raise ValueError(f"None of {len(rejected)} clips can be used. Read the reasons in '{out / REJECTED}'.")
    return usable, rejected


def _check_settings(fps, dtype, samples_per_shard, min_face_share, max_sequence_length, seed) -> None:
    """Raise ValueError for a setting that would die, or reject every clip, after the models have been loaded."""

    def check(name: str, value, right: bool, expected: str) -> None:
        if not right:
            raise ValueError(f"{name} is {value!r}, but must be {expected}.")

    def whole(value) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def number(value) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

    check("fps", fps, number(fps) and fps > 0, "a number greater than 0")
    check("dtype", dtype, isinstance(dtype, torch.dtype) and dtype.is_floating_point, "a floating dtype of torch")
    count, most = samples_per_shard, max_sequence_length
    check("samples_per_shard", count, whole(count) and count >= 1, "a whole number of at least 1")
    share = min_face_share
    check("min_face_share", share, number(share) and 0 <= share <= 1, "a number from 0 to 1")
    check(
        "max_sequence_length",
        most,
        most is None or (whole(most) and most >= 1),
        "a whole number of at least 1, or None",
    )
    check("seed", seed, whole(seed), "a whole number")


def _add(clip: Clip, maker: SampleMaker, writer: ShardWriter) -> None:
    try:
        members, line = maker.make(clip)
    except Rejected as error:
        writer.reject(clip.key, str(clip.video), error.reason, error.detail)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of whatever library: one clip does not stop the others
        if getattr(error, "errno", None) in FULL_DISK:
            raise
        writer.reject(clip.key, str(clip.video), FAILED, f"{type(error).__name__}: {error}")
    else:
        writer.write(clip.key, members, line)


def _try_out(face: FaceProcessor) -> None:
    """Load every part of a processor that will be used: an error later would count as one of a clip."""
    if face.recognizer is None or face.parser is None or not face.detectors:
        raise ValueError(
            "Shards hold identity embeddings and component maps, but the face processor lacks a detector, a recognizer "
            "or a parser. Give one that has all three."
        )
    grey = np.full((ALIGNED_SIZE, ALIGNED_SIZE, 3), 128, np.uint8)
    for detector in face.detectors:
        detector.detect(grey)
    face.recognizer.embed(grey, None)
    face.parser.parse(grey)


def _check_folder(out: Path, header: dict) -> None:
    """Check that a folder is empty, or holds shards of the same settings."""
    if (out / HEADER).is_file():
        found = read_header(out)
        wrong = [k for k in header if k != "base" and header[k] != found.get(k)]  # a base may have moved
        if wrong:
            differences = ", ".join(f"{k} {found.get(k)} instead of {header[k]}" for k in wrong)
            raise ValueError(f"'{out}' holds shards of other settings: {differences}. Use those, or another folder.")
    elif out.exists():
        if not out.is_dir():
            raise ValueError(f"'{out}' is a file. Give a folder for the shards.")
        others = sorted(p.name for p in out.iterdir() if p.name[0] != "." and p.name != NULL_PROMPT)
        if others:
            raise ValueError(
                f"'{out}' holds other files ({', '.join(others[:4])}). Give an empty folder, or a new one."
            )


@contextmanager
def _bar(is_main_process: bool) -> Iterator[Callable[[Sequence[Clip]], Iterable[Clip]]]:
    """Give a function that yields clips one by one, with a progress bar for this process."""
    progress, text = require("rich.progress", "train"), require("rich.text", "train")

    class Rate(progress.ProgressColumn):
        def render(self, task):
            return text.Text(f"{task.speed * 60:.1f} clips/min" if task.speed else "")

    columns = [
        progress.TextColumn("preparing"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeRemainingColumn(),
    ]
    console = require("rich.console", "train").Console(stderr=True)
    # A clip may take a minute: the rate is that of the last hour.
    with progress.Progress(*columns, console=console, disable=not is_main_process, speed_estimate_period=3600) as bar:
        yield bar.track


def _show_reasons(rejected: Sequence[dict]) -> None:
    if rejected:
        table = require("rich.table", "train").Table("why clips cannot be used", "clips", "for example")
        plain = require("rich.text", "train").Text  # a path's brackets are no markup
        examples = {line["reason"]: plain(line["video"]) for line in rejected}
        for reason, count in Counter(line["reason"] for line in rejected).most_common():
            table.add_row(reason, str(count), examples[reason])
        require("rich.console", "train").Console(stderr=True).print(table)

"""One training run on one GPU, on several with the host on each, and on several with the host sharded by FSDP2.

    python benchmarks/training_scaling.py --gpus 2

CogVideoX-5B's size with random weights, 49 frames of 720×480 as shards of random samples, through `accelerate launch -m
lavieid_adapters train` as a user starts it. All runs have the same global batch, one sample a GPU, so their
losses should be the same but for rounding; one GPU takes it by gradient accumulation.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
import yaml
from full_size import full_size_pipeline
from PIL import Image
from safetensors.torch import save, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timing import machine
from training_step import CLIP_L
from transformers import CLIPVisionModelWithProjection

from lavieid_adapters.data.shard_writer import ShardWriter, write_index
from lavieid_adapters.data.shards import FORMAT, HEADER, NULL_PROMPT, PARTS, VERSION
from lavieid_adapters.files.digests import part_digest

SIZE = {"frames": 49, "height": 480, "width": 720}


def save_models(folder: Path) -> None:
    """A pipeline and a ViT at full size, with random weights."""
    full_size_pipeline().save_pretrained(folder / "base", max_shard_size="4GB")
    torch.cuda.empty_cache()
    with torch.device("cuda"):
        CLIPVisionModelWithProjection(CLIP_L).save_pretrained(folder / "vision")
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": 336, "size": {"shortest_edge": 336}}
    (folder / "vision" / "preprocessor_config.json").write_text(json.dumps(processor))


def save_shards(folder: Path, base: Path, samples: int) -> None:
    """Random samples in the files that `lavieid prepare` writes."""
    folder.mkdir()
    header = {"format": FORMAT, "version": VERSION, "base": str(base), **{p: part_digest(base, p) for p in PARTS}}
    (folder / HEADER).write_text(json.dumps(header))
    save_file({"prompt_embeds": torch.randn(226, 4096).bfloat16()}, folder / NULL_PROMPT)
    rng = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for i in range(samples):
            torch.manual_seed(i)
            tensors = {
                "latents": torch.randn(13, 16, 60, 90).bfloat16(),
                "prompt_embeds": torch.randn(226, 4096).bfloat16(),
                "id_embedding": torch.randn(512),
            }
            coarse = Image.fromarray(rng.integers(0, 7, (49 * 30, 45), dtype=np.uint8))
            aligned = Image.fromarray(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8))
            parts = Image.fromarray(rng.integers(0, 7, (8, 8), dtype=np.uint8)).resize((512, 512), Image.NEAREST)
            pictures = {
                "maps.png": coarse.resize((720, 49 * 480), Image.NEAREST), "aligned.png": aligned,
                "aligned_map.png": parts,
            }  # fmt: skip
            members = {"json": json.dumps({**SIZE, "caption": "", "hidden": {}}).encode(), "safetensors": save(tensors)}
            for name, picture in pictures.items():
                file = io.BytesIO()
                picture.save(file, "PNG")
                members[name] = file.getvalue()
            writer.write(f"{i:016d}", members, SIZE)
    write_index(folder)


def train(work: Path, name: str, launch: list[str], **settings) -> tuple[list[float], list[float]]:
    """The losses and the seconds of a run's steps."""
    config = {
        "base": str(work / "base"), "shards": str(work / "shards"), "output": str(work / name),
        "vision_model": str(work / "vision"), "learning_rate": 3e-5, "validate_every": 0, "checkpoint_every": 1000,
        "log_every": 1, **settings,
    }  # fmt: skip
    (work / f"{name}.yaml").write_text(yaml.safe_dump(config))
    command = [*launch, "-m", "lavieid_adapters", "train", "--config", str(work / f"{name}.yaml")]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    print(f"{name}: {time.perf_counter() - begin:.0f} s in all", file=sys.stderr, flush=True)
    if done.returncode:
        print(f"{name} failed:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}", flush=True)
        return [], []
    events = EventAccumulator(str(next((work / name).rglob("events.*")).parent))
    events.Reload()
    return [[e.value for e in events.Scalars(f"train/{tag}")] for tag in ("loss", "seconds_per_step")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16)
    args = parser.parse_args()
    gpus, launch = args.gpus, [sys.executable, "-m", "accelerate.commands.launch"]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        save_models(work)
        save_shards(work / "shards", work / "base", 4 * gpus)
        examples = Path(__file__).parent.parent / "examples" / "training"
        several = ["--num_processes", str(gpus)]
        single = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        runs = {}
        for name, flags, settings in (
            (f"1 GPU, {gpus} samples accumulated", single, {"gradient_accumulation": gpus}),
            (
                f"{gpus} GPUs, data parallel",
                ["--config_file", str(examples / "accelerate_data_parallel.yaml"), *several],
                {},
            ),
            (f"{gpus} GPUs, FSDP2", ["--config_file", str(examples / "accelerate_fsdp2.yaml"), *several], {}),
        ):
            runs[name] = train(
                work, name.replace(" ", "_").replace(",", ""), [*launch, *flags], steps=args.steps, **settings
            )
    print(machine())
    print("| | s a step | least to most | samples a second | of the ideal | largest difference of a loss |")
    print("| --- | --- | --- | --- | --- | --- |")
    reference, one = None, None
    for name, (losses, seconds) in runs.items():
        if not losses:
            continue
        steady = seconds[4:]  # the first ones compile and measure the memory
        rate = gpus / median(steady)
        reference, one = reference or losses, one or rate
        ideal = one if rate is one else one * gpus
        apart = max(abs(a - b) / abs(b) for a, b in zip(losses, reference, strict=True))
        spread = f"{min(steady):.3f} to {max(steady):.3f}"
        print(f"| {name} | {median(steady):.3f} | {spread} | {rate:.3f} | {rate / ideal:.1%} | {apart:.2%} |")
    for name, (losses, _) in runs.items():
        print(f"{name}: losses {' '.join(f'{loss:.4f}' for loss in losses)}")


if __name__ == "__main__":
    main()

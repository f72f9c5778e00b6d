"""Train in the drawn world, from clips on disk to a video with the result: two CPU cores, some minutes, no download.

Draws clips of people as video files, prepares them as `lavieid prepare` does, trains a fresh router and encoder on the
base that comes with the package, stops half-way and goes on, and measures eq. 5 on clips of people whom the adapters
have not seen. Every step of the way is that of a real base; the clips, the base and the run are small.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lavieid_adapters import (
    FaceProcessor,
    Shards,
    Trainer,
    TrainingConfig,
    attach_lavieid,
    prepare_clips,
    read_clips,
)
from lavieid_adapters.data.contact_sheet import shard_sheet
from lavieid_adapters.data.dataset import TrainingSamples
from lavieid_adapters.data.labels import IGNORED
from lavieid_adapters.data.video import Bucket
from lavieid_adapters.puppets import (
    TEST_PEOPLE,
    TRAINING_PEOPLE,
    draw_clips,
    draw_photos,
    load_pipeline,
    people,
    reading_parts,
    weights_folder,
)
from lavieid_adapters.training.losses import route_targets
from lavieid_adapters.visualize.route_video import of_frames, route_overlay, side_by_side, video_sheet, write_video

FRAMES, SIDE, FPS = 9, 96, 8
PROMPT = "A person talks in a park, with a smile."


def write_clips(folder: Path, seeds: range) -> Path:
    """Draw one clip of each person as a video file; return the clips.jsonl that lists them."""
    folder.mkdir(parents=True)
    drawn, lines = draw_clips(people(seeds), seeds, frames=FRAMES), []
    for seed, video, caption in zip(seeds, drawn.video, drawn.captions, strict=True):
        write_video(video.permute(0, 2, 3, 1).numpy(), folder / f"{seed}.mp4", FPS)
        lines.append(json.dumps({"video": f"{seed}.mp4", "caption": caption, "person": f"person {seed}"}))
    (folder / "clips.jsonl").write_text("\n".join(lines))
    return folder / "clips.jsonl"


@torch.no_grad()
def measure(trainer: Trainer, shards: Shards) -> tuple[float, float, float]:
    """Return eq. 5, the share of video tokens whose component the router finds, and that of the most frequent one."""
    samples = TrainingSamples(shards, trainer.samples.format)
    losses, correct, targets = [], 0, []
    for i in range(len(samples)):
        batch = samples[i, i]
        result = trainer.step(batch, route_only=True)
        losses.append(result["route"].item())
        correct += result["correct"].item()
        labels = route_targets(torch.empty(1, 6, batch.labels.shape[1]), batch.labels, batch.mask)
        targets.append(labels[labels != IGNORED])
    targets = torch.cat(targets)
    return float(np.mean(losses)), correct / len(targets), (targets.bincount().max() / len(targets)).item()


def generate(adapters: Path, output: Path) -> float:
    """Save a video of somebody new with the trained adapters; return how much they change a pixel on average."""
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)

    def run() -> np.ndarray:
        seed = torch.Generator().manual_seed(0)
        return pipe(PROMPT, num_frames=FRAMES, num_inference_steps=4, generator=seed, output_type="np").frames[0]

    before = run()
    photo = draw_photos(people(TEST_PEOPLE[:1]), seeds=[0]).images[0].permute(1, 2, 0).numpy()
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(photo)  # read by the models that the encoder's config names
        with lavieid.record_routes() as routes:
            video = run()
    pixels = (video * 255).round().astype(np.uint8)
    weights = of_frames(routes[-1][-1].numpy(), FRAMES)
    overlays = np.stack([route_overlay(frame, w) for frame, w in zip(pixels, weights, strict=True)])
    write_video(side_by_side(pixels, overlays), output / "video.mp4", FPS)
    video_sheet(photo, list(side_by_side(pixels, overlays)[::2]), PROMPT).save(output / "video.png")
    return float(np.abs(video - before).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150, help="training steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/train_small"), help="default: %(default)s")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - begin:4.0f} s] {text}", flush=True)

    base, face = weights_folder(), FaceProcessor(**reading_parts())
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for name, seeds in (("seen", TRAINING_PEOPLE[:8]), ("unseen", TEST_PEOPLE[:3])):
            clips = read_clips(write_clips(work / f"{name}-clips", seeds))
            say(f"{len(clips)} clips of as many people drawn ({name})")
            prepare_clips(clips, work / name, base=base, face=face, buckets=[Bucket(FRAMES, SIDE, SIDE)], fps=FPS,
                          dtype=torch.float32)  # fmt: skip
            say(f"prepared into {work / name}")
        shard_sheet(Shards(work / "seen"), [0, 2, 4, 6]).save(args.output / "samples.png")

        sizes = {"token_dim": 96, "tokens_per_component": 8, "num_heads": 4}
        settings = {
            "base": str(base), "shards": str(work / "seen"), "output": str(work / "run"),
            "router": {"inner_dim": 128, **sizes},
            "encoder": {
                "id_dim": 512 + 64, "vit_dim": 96, "num_scales": 2, "depth": 2, "head_dim": 24,
                "vision_model": "puppets", **sizes,
            },
            "route_warmup_steps": args.steps * 9 // 10, "learning_rate": 2e-3, "weight_decay": 0.0, "dtype": "float32",
            "num_workers": 0, "checkpoint_every": 50, "validate_every": 0, "log_every": 25, "tracker": None,
        }  # fmt: skip
        unseen = Shards(work / "unseen")
        trainer = Trainer(TrainingConfig.from_dict({**settings, "steps": args.steps // 2}))
        loss_before, found_before, majority = measure(trainer, unseen)
        trainer.run()
        trainer = Trainer(TrainingConfig.from_dict({**settings, "steps": args.steps}))
        say(f"going on from step {trainer.first}")
        trainer.run()
        loss, found, _ = measure(trainer, unseen)
        say("on clips of people it has not seen:")
        print(
            f"  route loss                        {loss_before:.3f} before, {loss:.3f} after ({loss / loss_before:.0%})"
        )
        print(f"  video tokens routed right         {found_before:.1%} before, {found:.1%} after")
        print(f"  of the most frequent component    {majority:.1%}")
        change = generate(work / "run", args.output)
        say(f"{args.output}/video.mp4 made with the adapters, which change a pixel by {change:.4f} on average")
    if loss > loss_before / 2 or found < majority + 0.15 or change == 0:
        raise SystemExit("The adapters have not learned what they should.")


if __name__ == "__main__":
    main()

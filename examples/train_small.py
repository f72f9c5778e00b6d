"""Train on a drawn world, from clips on disk to a video with the result: two CPU cores, a few minutes, no download.

Draws clips of people, prepares them as `lavieid prepare` does, trains the router and the encoder of a small CogVideoX
of random weights, stops half-way and goes on, and measures eq. 5 on clips of people it has not seen. The models are
small and the faces are read by their colours; every step of the way is the real one.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXPipeline
from drawn_faces import FPS, FRAMES, HEIGHT, WIDTH, Person, draw_clip, drawn_faces
from generate import PROMPT, small_components, small_vision

from lavieid_adapters import FaceProcessor, IdentityReader, VisionModel, attach_lavieid
from lavieid_adapters.data.clips import read_clips
from lavieid_adapters.data.contact_sheet import shard_sheet
from lavieid_adapters.data.dataset import TrainingSamples
from lavieid_adapters.data.labels import IGNORED
from lavieid_adapters.data.prepare import prepare
from lavieid_adapters.data.shards import Shards
from lavieid_adapters.data.video import Bucket
from lavieid_adapters.training.config import TrainingConfig
from lavieid_adapters.training.losses import route_targets
from lavieid_adapters.training.trainer import Trainer
from lavieid_adapters.visualize.route_video import route_overlay, side_by_side, video_sheet, write_video


def save_base(folder: Path) -> Path:
    """A small CogVideoX of random weights as a pipeline's folder; its VAE's latents are of about unit variance."""
    parts = small_components(
        num_layers=2, sample_width=WIDTH // 8, sample_height=HEIGHT // 8, sample_frames=FRAMES,
        use_rotary_positional_embeddings=False,
    )  # fmt: skip
    drawn = torch.from_numpy(np.stack([Person.random(np.random.default_rng(0)).draw(128, 96, 150)] * 5))
    with torch.no_grad():
        latents = parts["vae"].encode(drawn.permute(3, 0, 1, 2)[None] / 127.5 - 1).latent_dist.mode()
    parts["vae"].register_to_config(scaling_factor=1 / latents.std().item())
    CogVideoXPipeline(**parts).save_pretrained(folder)
    return folder


def draw_clips(folder: Path, people: int, clips_each: int, seed: int) -> Path:
    """Clips of people as video files, listed in a clips.jsonl."""
    rng, lines = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for number in range(people):
        person = Person.random(rng)
        for clip in range(clips_each):
            name = f"person{number}-{clip}.mp4"
            draw_clip(person, rng, folder / name)
            lines.append(json.dumps({"video": name, "caption": PROMPT, "person": f"person{number}"}))
    (folder / "clips.jsonl").write_text("\n".join(lines))
    return folder / "clips.jsonl"


@torch.no_grad()
def measure(trainer: Trainer, shards: Shards) -> tuple[float, float, float]:
    """Eq. 5, the share of video tokens whose component the router finds, and the share of the most frequent one."""
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


def generate(base: Path, vision: Path, adapters: Path, output: Path) -> float:
    """A video of somebody new with the trained adapters, as any user would make it; how much they change it."""
    pipe = CogVideoXPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "num_inference_steps": 4, "output_type": "np"}

    def run() -> np.ndarray:
        seed = torch.Generator().manual_seed(0)
        return pipe(PROMPT, guidance_scale=6.0, max_sequence_length=16, generator=seed, **settings).frames[0]

    before = run()
    photo = Person.random(np.random.default_rng(9)).draw(128, 96, 150)
    with attach_lavieid(pipe, adapters) as lavieid:
        face: FaceProcessor = drawn_faces(VisionModel(vision, lavieid.encoder.config.num_scales))
        lavieid.reader = IdentityReader(lavieid.encoder, face)
        lavieid.set_identity(photo)
        with lavieid.record_routes() as routes:
            video = run()
    pixels = (video * 255).round().astype(np.uint8)
    weights = routes[-1][-1].numpy().swapaxes(0, 1)[[0] + [1 + i // 4 for i in range(FRAMES - 1)]]
    overlays = np.stack([route_overlay(frame, w) for frame, w in zip(pixels, weights, strict=True)])
    write_video(side_by_side(pixels, overlays), output / "video.mp4")
    video_sheet(photo, list(side_by_side(pixels, overlays)[::4]), PROMPT).save(output / "video.png")
    return float(np.abs(video - before).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/train_small"), help="default: %(default)s")
    args = parser.parse_args()
    begin = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - begin:4.0f} s] {text}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        base, vision, face = save_base(work / "base"), small_vision(work / "vision", 32), drawn_faces()
        for name, people, each, seed in (("seen", 8, 2, 1), ("unseen", 4, 1, 2)):
            clips = read_clips(draw_clips(work / f"{name}-clips", people, each, seed))
            say(f"{len(clips)} clips of {people} people drawn ({name})")
            prepare(
                clips, work / name, base=base, face=face, buckets=[Bucket(FRAMES, HEIGHT, WIDTH)], fps=FPS,
                dtype=torch.float32,
            )  # fmt: skip
            say(f"prepared into {work / name}")
        shard_sheet(Shards(work / "seen"), [0, 3, 6, 9]).save(_made(args.output) / "samples.png")

        sizes = {"token_dim": 32, "tokens_per_component": 8, "num_heads": 2}
        settings = {
            "base": str(base), "shards": str(work / "seen"), "output": str(work / "run"), "vision_model": str(vision),
            "router": {"inner_dim": 64, **sizes},
            "encoder": {"id_dim": 512 + 16, "vit_dim": 32, "depth": 5, "head_dim": 16, **sizes},
            "route_warmup_steps": args.steps * 5 // 6, "learning_rate": 2e-3, "weight_decay": 0.0, "dtype": "float32",
            "label_threshold": 0.35, "num_workers": 0, "checkpoint_every": 50, "validate_every": 0, "log_every": 25,
            "tracker": None,
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
        change = generate(base, vision, work / "run", args.output)
        say(f"{args.output}/video.mp4 made with the adapters, which change a pixel by {change:.4f} on average")
    if loss > loss_before / 2 or found < majority + 0.15 or change == 0:
        raise SystemExit("The adapters have not learned what they should.")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()

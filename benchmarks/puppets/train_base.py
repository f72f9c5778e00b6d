"""Train the drawn world's CogVideoX from nothing, without any identity input, on latents of the trained VAE:

    torchrun --nproc-per-node 2 benchmarks/puppets/train_base.py --out DIR --minutes 9
    torchrun --nproc-per-node 2 benchmarks/puppets/train_base.py --out DIR --minutes 20 --resume

It learns from the first latent frame of the clips, then from whole clips: what people look like is cheapest learnt from
single pictures. The clips are drawn and encoded anew while it learns.

DIR/base holds two sets of weights: `transformer/` and `text_encoder/` are the ones to use, averages or what has been
learnt at the end of the falling learning rate, whichever errs less on unseen people; `going_on/` are those before the
rate fell, from which `--resume` goes on. DIR/base.png shows videos of the ones to use.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import accelerate
import numpy as np
import torch
from channels_last import ChannelsLast
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from models import new_scheduler, new_text_encoder, new_tokenizer, new_transformer
from PIL import Image
from pixels import to_vae
from pools import Pool
from samples import ADAPTER_PEOPLE, BASE_PEOPLE, CLIP_SEED, token_ids
from timed import MovingAverage, train
from torch import Tensor, nn
from transformers import T5EncoderModel

from lavieid_adapters import TrainingConfig
from lavieid_adapters.puppets import draw_clips
from lavieid_adapters.puppets.world.draw import SIZE
from lavieid_adapters.puppets.world.grammar import EXPRESSIONS, MOTIONS, SCENES, caption
from lavieid_adapters.puppets.world.person import TEST_PEOPLE, people
from lavieid_adapters.training.losses import add_noise, draw_timesteps, prediction_target

_PICTURES, _CLIPS = 768, 96  # in a step of a process: latents of one frame, or of nine
_LARGEST_FILE = "15MB"
_CELL = 4  # pixels, and frames, of one latent
# How much a latent of nothing, eyebrows, eyes, mouth, nose, skin and hair counts, as far as it can be told from noise.
_WEIGHTS = (1.0, 4.0, 6.0, 6.0, 3.0, 2.0, 1.5)
_TEST_SEED = 1 << 43


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results, with vae/ in it")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--clips", type=int, default=8192, help="in memory at a time, a process")
    parser.add_argument("--pictures", type=float, default=0.2, help="share of the time, its first, for single frames")
    parser.add_argument("--fall", type=float, default=0.15, help="share of the time, its last; 0 to go on at once")
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    parser.add_argument("--resume", action="store_true", help="go on from DIR/base/going_on, with whole clips")
    parser.add_argument("--tiny", action="store_true", help="few clips, small batches: does it run?")
    args = parser.parse_args()
    begin = time.perf_counter()
    deadline = begin + 60 * args.minutes
    accelerator = accelerate.Accelerator(cpu=args.tiny)
    device, rank = accelerator.device, accelerator.process_index
    cuda = device.type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    vae = AutoencoderKLCogVideoX.from_pretrained(args.out / "vae", dtype=torch.bfloat16 if cuda else torch.float32)
    vae = vae.to(device).eval().requires_grad_(False)
    tokenizer, scheduler = new_tokenizer(), new_scheduler()
    encode = Encoder(vae, tokenizer, compiled=cuda)
    null = token_ids(tokenizer, [""]).to(device)

    torch.manual_seed(0)  # the same weights in all processes
    folder = args.out / "base"
    text_encoder, transformer = new_text_encoder(), new_transformer(args.tiny)
    if args.resume:
        old = folder / "going_on"
        text_encoder = T5EncoderModel.from_pretrained(old / "text_encoder", dtype=torch.float32)
        transformer = CogVideoXTransformer3DModel.from_pretrained(old / "transformer", dtype=torch.float32)
    text_encoder, transformer = text_encoder.to(device).train(), transformer.to(device).train()
    average = MovingAverage(text_encoder, transformer, share=0.06)
    # Other clips each time that training goes on.
    torch.manual_seed(time.time_ns() % 2**31 + rank)
    first = int(torch.randint(1 << 30, ())) * 64
    size, held = (2, 4) if args.tiny else (64, args.clips)

    def draw(chunk: int) -> dict[str, Tensor]:
        seeds = first + torch.arange(chunk * size, (chunk + 1) * size, device=device)
        return encode(BASE_PEOPLE + seeds % (ADAPTER_PEOPLE - BASE_PEOPLE), seeds + CLIP_SEED)

    pool = Pool(draw, held // size).fill(begin + 0.15 * (deadline - begin))
    accelerator.print(f"base: {len(pool)} clips a process in {time.perf_counter() - begin:.1f} s", flush=True)
    test = encode(torch.tensor(TEST_PEOPLE[40_000 : 40_000 + size], device=device), torch.arange(size) + _TEST_SEED)
    blank = CogVideoXPipeline(tokenizer, average.models[0], vae, average.models[1], scheduler)
    if cuda:
        for block in transformer.transformer_blocks:
            block.compile(dynamic=False)
    accelerator.wait_for_everyone()

    def losses(models: tuple[nn.Module, nn.Module], sample: dict[str, Tensor], frames: int, draws: Tensor):
        """The loss that is learnt from, and the plain one, of (b, 2) uniform numbers."""
        clean, weights = sample["latents"][:, :frames].float(), sample["weights"][:, :frames].float()
        noise = torch.randn_like(clean)
        timesteps = draw_timesteps(scheduler, draws[:, 0])
        noisy = add_noise(scheduler, clean, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            ids = torch.where(draws[:, 1:] < TrainingConfig.null_prompt, null, sample["ids"])
            made = models[1](
                noisy, models[0](ids)[0], timesteps, image_rotary_emb=positions[frames], return_dict=False
            )[0]  # fmt: skip
        error = (made.float() - prediction_target(scheduler, clean, noise, timesteps)).square().mean(2)
        signal = scheduler.alphas_cumprod.to(device, torch.float32)[timesteps].view(-1, 1, 1, 1)
        weights = torch.lerp(torch.ones_like(weights), weights, signal)
        return (error * weights).sum() / weights.sum(), error.detach().mean()

    positions = {
        frames: blank._prepare_rotary_positional_embeddings(SIZE, SIZE, frames, device)
        for frames in (1, test["latents"].shape[1])
    }
    clip_frames = max(positions)

    @torch.no_grad()
    def tested(models: tuple[nn.Module, nn.Module]) -> float:
        """The plain loss on unseen people, always of the same noise."""
        with torch.random.fork_rng(devices=[device] if cuda else []), torch.compiler.set_stance("force_eager"):
            torch.manual_seed(1)
            draws = torch.rand(len(test["ids"]), 2, device=device)
            draws[:, 0] = torch.linspace(0, 1 - 1e-6, len(draws))
            return losses(models, test, clip_frames, draws)[1].item()

    def save(models: list[nn.Module], to: Path) -> None:
        for name, shape, model in zip(("text_encoder", "transformer"), average.models, models, strict=True):
            half = copy.deepcopy(shape)  # of which no function is compiled
            half.load_state_dict(model.state_dict())
            half.half().save_pretrained(to / name, max_shard_size=_LARGEST_FILE)

    def keep() -> None:
        save(average.models, folder)
        if not fallen:
            save([text_encoder, transformer], folder / "going_on")

    def before_fall() -> None:
        keep()
        fallen.append(True)

    fallen: list[bool] = []
    report = {"minutes": args.minutes, "processes": accelerator.num_processes, "phases": []}
    pictures, clips = (8, 2) if args.tiny else (_PICTURES, _CLIPS)
    phases = [(clip_frames, clips, 1.0)]
    if not args.resume and args.pictures > 0:
        phases = [(1, pictures, args.pictures), (clip_frames, clips, 1 - args.pictures)]
    left = sum(share for _, _, share in phases)
    for frames, batch, share in phases:
        last = (frames, batch, share) == phases[-1]
        plain: list[Tensor] = []

        def loss_of(step: int, frames=frames, batch=batch, plain=plain) -> Tensor:
            if step % 40 == 39:
                pool.draw()
            draws = torch.rand(batch, 2, device=device)
            # One timestep of each part of the schedule: less chance, so that steps agree more.
            draws[:, 0] = (torch.arange(batch, device=device) + draws[:, 0]) / batch
            loss, error = losses((text_encoder, transformer), pool.sample(batch), frames, draws.clamp(max=1 - 1e-6))
            plain.append(error)
            return loss

        now = time.perf_counter()
        until = now + (deadline - now) * share / left
        left -= share
        steps, seconds = train(
            f"base, {frames} latent frames", [*transformer.parameters(), *text_encoder.parameters()], loss_of, until,
            args.learning_rate, accelerator=accelerator, keep=keep, fall=args.fall if last else 0.0,
            after_step=average.update, before_fall=before_fall if last else None,
        )  # fmt: skip
        curve = torch.stack(plain).float()
        parts = [round(part.mean().item(), 5) for part in curve.chunk(20)]
        report["phases"].append(
            {"frames": frames, "batch": batch, "steps": steps, "seconds_per_step": seconds, "losses": parts}
        )
    if accelerator.is_main_process:
        report |= {"clips_drawn": pool.drawn * size * accelerator.num_processes}
        report |= {"loss_of_average": tested(average.models), "loss_of_last": tested([text_encoder, transformer])}
        print(json.dumps(report), flush=True)
        (args.out / "base.json").write_text(json.dumps(report, indent=1))
        keep()
        if report["loss_of_last"] < report["loss_of_average"]:
            save([text_encoder, transformer], folder)
            for model, now in zip(average.models, (text_encoder, transformer), strict=True):
                model.load_state_dict(now.state_dict())
        for model in average.models:
            model.to(vae.dtype)
        contact_sheet(blank, 2 if args.tiny else 10, 2 if args.tiny else 50).save(args.out / "base.png")
    accelerator.end_training()


class Encoder:
    """Draws clips and encodes them.

    Args:
        vae: On the device of training.
        tokenizer: Of the captions.
        compiled: Whether the encoder is.
    """

    def __init__(self, vae: AutoencoderKLCogVideoX, tokenizer, compiled: bool):
        self._vae, self._tokenizer, self._fast = vae, tokenizer, ChannelsLast(vae, compiled)

    @torch.no_grad()
    def __call__(self, crowd: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """A clip of each of n people by their numbers: `latents` (n, f, c, h, w) in the VAE's normalised space and its
        dtype, `weights` of each place (n, f, h, w), and `ids` of the captions, (n, l)."""
        clips = draw_clips(people(crowd, self._vae.device), seeds.to(self._vae.device))
        latents = self._fast.encode(to_vae(clips.video).to(self._vae.dtype)).mode()
        latents = latents.transpose(1, 2) * self._vae.config.scaling_factor
        weights = torch.tensor(_WEIGHTS, device=self._vae.device)[clips.maps.long()]
        weights = torch.nn.functional.avg_pool2d(weights, _CELL)
        later = weights[:, 1:].unflatten(1, (-1, _CELL)).mean(2)
        return {
            "latents": latents.to(self._vae.dtype).contiguous(),
            "weights": torch.cat([weights[:, :1], later], dim=1).to(self._vae.dtype),
            "ids": token_ids(self._tokenizer, clips.captions).to(self._vae.device),
        }


@torch.no_grad()
def contact_sheet(pipe: CogVideoXPipeline, count: int, steps: int) -> Image.Image:
    """Six frames of each of some videos of the pipeline, one a row."""
    pipe.set_progress_bar_config(disable=True)
    captions = [caption(i % len(SCENES), (3 * i) % len(MOTIONS), i % len(EXPRESSIONS)) for i in range(count)]
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    rows = pipe(
        captions, num_inference_steps=steps, guidance_scale=4.0, generator=generators, output_type="np"
    ).frames  # fmt: skip
    strips = [np.concatenate(list(row[:: len(row) // 6][:6]), axis=1) for row in rows]
    sheet = Image.fromarray((np.concatenate(strips) * 255).round().astype(np.uint8))
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()

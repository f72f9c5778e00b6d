"""Train the drawn world's CogVideoX from nothing, without any identity input, on latents of the trained VAE:

    torchrun --nproc-per-node 1 benchmarks/puppets/train_base.py --out DIR --minutes 9

It learns from the first latent frame of the clips, then from whole clips: what people look like is cheapest learnt from
single pictures. Its last samples are in DIR/base.png. `--resume` goes on from the weights that are in DIR/base.
"""

import argparse
import json
import time
from pathlib import Path

import accelerate
import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from models import new_scheduler, new_text_encoder, new_tokenizer, new_transformer
from PIL import Image
from samples import BASE_PEOPLE, CLIP_SEED, encode_clips, token_ids
from timed import train
from torch import Tensor
from transformers import T5EncoderModel

from lavieid_adapters import TrainingConfig, diffusion_loss
from lavieid_adapters.puppets.world.draw import SIZE
from lavieid_adapters.puppets.world.grammar import EXPRESSIONS, MOTIONS, SCENES, caption
from lavieid_adapters.puppets.world.person import people
from lavieid_adapters.training.losses import add_noise, draw_timesteps

# Latent frames, clips a step and a process, and the share of the time.
_PHASES = ((1, 768, 0.2), (9, 96, 0.8))
_TINY = ((1, 8, 0.5), (9, 2, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results, with vae/ in it")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--clips", type=int, default=12_000, help="a process")
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="few clips, small batches: does it run?")
    args = parser.parse_args()
    begin = time.perf_counter()
    deadline = begin + 60 * args.minutes
    accelerator = accelerate.Accelerator(cpu=args.tiny)
    device, rank = accelerator.device, accelerator.process_index
    cuda = device.type == "cuda"
    torch.manual_seed(rank)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    vae = AutoencoderKLCogVideoX.from_pretrained(args.out / "vae", dtype=torch.bfloat16 if cuda else torch.float32)
    vae = vae.to(device).eval()
    tokenizer, scheduler = new_tokenizer(), new_scheduler()
    count = 4 if args.tiny else args.clips
    seeds = torch.arange(count, device=device) + BASE_PEOPLE + rank * count
    drawn = [(part, clips.captions) for clips, part in encode_clips(vae, people(seeds, device), seeds + CLIP_SEED)]
    latents = torch.cat([part for part, _ in drawn])
    ids = token_ids(tokenizer, [text for _, captions in drawn for text in captions]).to(device)
    null = token_ids(tokenizer, [""]).to(device)
    accelerator.print(f"base: {count} clips a process in {time.perf_counter() - begin:.1f} s", flush=True)

    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.manual_seed(0)  # the same weights in all processes
        text_encoder, transformer = new_text_encoder(), new_transformer()
        if args.resume:
            text_encoder = T5EncoderModel.from_pretrained(args.out / "base/text_encoder", dtype=torch.float32)
            transformer = CogVideoXTransformer3DModel.from_pretrained(
                args.out / "base/transformer", dtype=torch.float32
            )
    text_encoder, transformer = text_encoder.to(device).train(), transformer.to(device).train()
    pipe = CogVideoXPipeline(tokenizer, text_encoder, vae, transformer, scheduler)
    if cuda:
        for block in transformer.transformer_blocks:
            block.compile(dynamic=False)
    accelerator.wait_for_everyone()

    def keep() -> None:
        text_encoder.save_pretrained(args.out / "base/text_encoder")
        transformer.save_pretrained(args.out / "base/transformer")

    report = {"clips": count * accelerator.num_processes, "processes": accelerator.num_processes, "phases": []}
    phases = _TINY if args.tiny else _PHASES[1:] if args.resume else _PHASES
    left = sum(share for _, _, share in phases)
    for frames, batch, share in phases:
        positions = pipe._prepare_rotary_positional_embeddings(SIZE, SIZE, frames, device)
        losses = []

        def loss_of(step: int, frames=frames, batch=batch, positions=positions, losses=losses) -> Tensor:
            index = torch.randint(len(latents), (batch,), device=device)
            clean = latents[index, :frames].float()
            noise, draws = torch.randn_like(clean), torch.rand(batch, 2, device=device)
            timesteps = draw_timesteps(scheduler, draws[:, 0])
            noisy = add_noise(scheduler, clean, noise, timesteps)
            with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
                text = text_encoder(torch.where(draws[:, 1:] < TrainingConfig.null_prompt, null, ids[index]))[0]
                made = transformer(noisy, text, timesteps, image_rotary_emb=positions, return_dict=False)[0]
            loss = diffusion_loss(made, clean, noise, timesteps, scheduler)
            losses.append(loss.detach())
            return loss

        now = time.perf_counter()
        until = now + (deadline - now) * share / left
        left -= share
        parameters = [*transformer.parameters(), *text_encoder.parameters()]
        steps, seconds = train(
            f"base, {frames} latent frames", parameters, loss_of, until, args.learning_rate,
            accelerator=accelerator, keep=keep,
        )  # fmt: skip
        last = torch.stack(losses[-200:]).mean().item()
        report["phases"].append(
            {"frames": frames, "batch": batch, "steps": steps, "seconds_per_step": seconds, "loss": last}
        )
    if accelerator.is_main_process:
        print(json.dumps(report), flush=True)
        (args.out / "base.json").write_text(json.dumps(report, indent=1))
        for model in (text_encoder, transformer):
            model.half().eval()
        keep()
        for model in (text_encoder, transformer):
            model.to(vae.dtype)
        contact_sheet(pipe, 2 if args.tiny else 10, 2 if args.tiny else 50).save(args.out / "base.png")
    accelerator.end_training()


@torch.no_grad()
def contact_sheet(pipe: CogVideoXPipeline, count: int, steps: int) -> Image.Image:
    """Six frames of each of some videos of the pipeline, one a row."""
    pipe.set_progress_bar_config(disable=True)
    captions = [caption(i % len(SCENES), (3 * i) % len(MOTIONS), i % len(EXPRESSIONS)) for i in range(count)]
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    # To compile the blocks once more, for this batch, would take longer than the videos do.
    with torch.compiler.set_stance("force_eager"):
        rows = pipe(
            captions, num_inference_steps=steps, guidance_scale=4.0, generator=generators, output_type="np"
        ).frames  # fmt: skip
    strips = [np.concatenate(list(row[:: len(row) // 6][:6]), axis=1) for row in rows]
    sheet = Image.fromarray((np.concatenate(strips) * 255).round().astype(np.uint8))
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()

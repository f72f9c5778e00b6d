"""Train the drawn world's autoencoder from nothing, and then go on with longer clips:

    python benchmarks/puppets/train_vae.py --out DIR --minutes 6
    torchrun --nproc-per-node 2 benchmarks/puppets/train_vae.py --out DIR --minutes 3 --resume --frames 17 --batch 12
    torchrun --nproc-per-node 2 benchmarks/puppets/train_vae.py --out DIR --minutes 3 --resume --frames 33 --batch 6 \\
        --decoder-only

Clips of 9 frames are cheap, but show neither half of it what follows the first frames: the autoencoder works on 8 at a
time. The loss looks at the face's components more than at the sky, for an eye is a few pixels of thousands.
"""

# n clips · c channels · f frames · h w pixels

import argparse
import json
import time
from pathlib import Path

import accelerate
import torch
from diffusers import AutoencoderKLCogVideoX
from models import new_vae
from pixels import to_vae
from pools import Pool, cast
from timed import train
from torch import Tensor

from lavieid_adapters.puppets import draw_clips
from lavieid_adapters.puppets.world.draw import FRAMES
from lavieid_adapters.puppets.world.person import TEST_PEOPLE

# Of a pixel of nothing, eyebrows, eyes, mouth, nose, skin and hair.
_WEIGHTS = (1.0, 6.0, 10.0, 6.0, 3.0, 2.0, 1.5)
_KL, _EDGES = 1e-5, 0.5


def reconstruction_loss(made: Tensor, video: Tensor, maps: Tensor) -> Tensor:
    """Mean absolute and squared error, and that of the differences of neighbouring pixels, weighted by component.

    Args:
        made, video: (n, c, f, h, w), -1 to 1.
        maps: (n, f, h, w), 0 to 6.
    """
    weight = torch.tensor(_WEIGHTS, device=maps.device)[maps.long()][:, None]
    weight = weight / weight.mean()
    error = made - video
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    edges = (across.abs() * weight[..., 1:]).mean() + (down.abs() * weight[..., 1:, :]).mean()
    return ((error.abs() + error.square()) * weight).mean() + _EDGES * edges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results; this one is vae/")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--batch", type=int, default=24, help="a process")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--decoder-only", action="store_true", help="the latents, of which others learn, stay as they are"
    )
    parser.add_argument("--tiny", action="store_true", help="few clips, small batches: does it run?")
    args = parser.parse_args()
    deadline = time.perf_counter() + 60 * args.minutes
    accelerator = accelerate.Accelerator(cpu=args.tiny)
    device, rank = accelerator.device, accelerator.process_index
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    vae = new_vae()
    if args.resume:
        vae = AutoencoderKLCogVideoX.from_pretrained(args.out / "vae", dtype=torch.float32)
    vae = vae.to(device).train()
    vae.encoder.requires_grad_(not args.decoder_only)
    torch.manual_seed(rank)
    clips, chunks = (4, 2) if args.tiny else (64, 100)
    crowd = cast(range(rank * clips * chunks * 8, (rank + 1) * clips * chunks * 8), device)

    def draw(chunk: int) -> dict[str, Tensor]:
        numbers = torch.arange(chunk * clips, (chunk + 1) * clips, device=device)
        drawn = draw_clips(crowd[numbers % len(crowd)], numbers + (7 + rank) * 1_000_000)
        return {"video": drawn.video, "maps": drawn.maps}

    begin = time.perf_counter()
    pool = Pool(draw, chunks).fill(begin + 0.12 * (deadline - begin))
    print(f"vae: {len(pool)} clips drawn in {time.perf_counter() - begin:.1f} s", flush=True)

    def loss_of(step: int) -> Tensor:
        if step % 10 == 9:
            pool.draw()
        sample = pool.sample(args.batch)
        start = int(torch.randint(FRAMES - args.frames + 1, ()))
        video, maps = (sample[k][:, start : start + args.frames] for k in ("video", "maps"))
        video = to_vae(video)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            posterior = vae.encode(video).latent_dist
            made = vae.decode(posterior.sample()).sample
        return reconstruction_loss(made.float(), video, maps) + _KL * posterior.kl().mean() / 100

    steps, seconds = train("vae", vae.parameters(), loss_of, deadline, args.learning_rate, accelerator=accelerator)
    if not accelerator.is_main_process:
        accelerator.end_training()
        return
    report = {"steps": steps, "seconds_per_step": seconds, **evaluate(vae, device, 4 if args.tiny else 64)}
    if not args.decoder_only:
        vae.register_to_config(scaling_factor=report["scaling_factor"])
    vae.half().save_pretrained(args.out / "vae")
    (args.out / "vae.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report), flush=True)
    accelerator.end_training()


@torch.no_grad()
def evaluate(vae, device: torch.device, count: int) -> dict[str, float]:
    """Errors on clips of unseen people, of 0 to 1 a pixel, and what brings the latents to unit deviation."""
    seeds = range(TEST_PEOPLE[30_000], TEST_PEOPLE[30_000] + count)
    vae = vae.eval()
    errors, latents = [], []
    for part in range(0, count, 4):
        drawn = draw_clips(cast(range(seeds[part], seeds[part] + 4), device), range(4))
        video = to_vae(drawn.video)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            z = vae.encode(video).latent_dist.mode()
            made = vae.decode(z).sample.float().clamp(-1, 1)
        latents.append(z.float())
        error = (made - video).transpose(1, 2) / 2
        eyes = (drawn.maps == 2)[:, :, None].expand_as(error)
        errors.append(torch.stack([error.abs().mean(), error.square().mean(), error[eyes].abs().mean()]))
    l1, mse, eyes = torch.stack(errors).mean(0)
    return {
        "l1": l1.item(),
        "psnr": (-10 * mse.log10()).item(),
        "l1_eyes": eyes.item(),
        "scaling_factor": 1 / torch.cat(latents).std().item(),
    }


if __name__ == "__main__":
    main()

"""Train the drawn world's autoencoder from nothing, and then its decoder alone:

    torchrun --nproc-per-node 2 benchmarks/puppets/train_vae.py --out DIR --minutes 5
    python benchmarks/puppets/train_vae.py --out DIR --minutes 4 --resume --decoder-only --long 1

Others learn from the latents, whose channels the first command brings to a deviation of 1: once they do,
`--decoder-only` leaves the encoder as it is. The loss looks at the face's
components more than at the sky, for an eye is a few pixels of thousands, and at what the conditioning's face network
sees (DIR/face, of train_sight.py). Clips of 17 frames show both halves of how the autoencoder works: on the first 9
frames, and on 8 at a time that follow others; at the end whole clips are learnt.
"""

# n clips · c channels · f frames · h w pixels

import argparse
import copy
import json
import time
from pathlib import Path

import accelerate
import torch
import torch.nn.functional as F
from channels_last import ChannelsLast
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D
from models import new_vae
from perceptual import Perceptual
from pixels import to_vae
from pools import Pool, cast
from timed import train
from torch import Tensor, nn

from lavieid_adapters.puppets import draw_clips
from lavieid_adapters.puppets.sight.face_net import FaceNet
from lavieid_adapters.puppets.world.draw import FRAMES
from lavieid_adapters.puppets.world.person import TEST_PEOPLE

# Of a pixel of nothing, eyebrows, eyes, mouth, nose, skin and hair.
_WEIGHTS = (1.0, 10.0, 16.0, 10.0, 5.0, 3.0, 2.5)
_KL, _EDGES, _LOOK = 1e-4, 0.5, 0.1
_SHORT = 17  # frames of a clip until the end
_LOOKED_AT = 2  # frames of all clips that the face network sees


def pixel_weights(maps: Tensor) -> Tensor:
    """How much each pixel counts, of component maps (n, f, h, w): a component reaches a pixel beyond its border."""
    weight = torch.tensor(_WEIGHTS, device=maps.device)[maps.long()]
    weight = F.max_pool2d(weight, 3, 1, 1)
    return weight / weight.mean()


def reconstruction_loss(made: Tensor, video: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute and squared error, and that of the differences of neighbouring pixels.

    Args:
        made, video: (n, c, f, h, w), -1 to 1.
        weight: (n, f, h, w), of mean 1.
    """
    weight = weight[:, None]
    error = made - video
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    edges = (across.abs() * weight[..., 1:]).mean() + (down.abs() * weight[..., 1:, :]).mean()
    return ((error.abs() + error.square()) * weight).mean() + _EDGES * edges


class Objective(nn.Module):
    """What the autoencoder minimises, of videos (n, c, f, h, w), -1 to 1, and weights of their pixels, (n, f, h, w): a
    module, of which a CUDA graph can be captured, since the steps are many and their kernels small.

    Args:
        vae: Which learns.
        looks: The distance that the face network sees.
        decoder_only: Whether the encoder stays as it is.
    """

    def __init__(self, vae: AutoencoderKLCogVideoX, looks: Perceptual, decoder_only: bool):
        super().__init__()
        self.vae, self.looks, self._decoder_only = vae, looks, decoder_only
        self._fast = ChannelsLast(vae, compiled=vae.device.type == "cuda")

    def forward(self, video: Tensor, weight: Tensor) -> Tensor:
        cuda, shown = video.is_cuda, torch.randint(video.shape[2], (_LOOKED_AT,), device=video.device)
        with torch.autocast(video.device.type, torch.bfloat16, enabled=cuda, cache_enabled=not cuda):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._decoder_only):
                posterior = self._fast.encode(video)
                latents = posterior.sample()
            made = self._fast.decode(latents).float()
            look = self.looks(
                *(x.index_select(2, shown).transpose(1, 2).flatten(0, 1) for x in (made, video, weight[:, None]))
            )
        loss = reconstruction_loss(made, video, weight) + _LOOK * look
        if not self._decoder_only:
            mean, log_variance = posterior.mean.float(), posterior.logvar.float()
            loss = loss + _KL * 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results; this one is vae/")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--long", type=float, default=0.25, help="share of the time, its last, with whole clips")
    parser.add_argument("--batch", type=int, default=12, help="clips a process")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true", help="go on from the weights in DIR/vae")
    parser.add_argument(
        "--decoder-only", action="store_true", help="the latents, of which others learn, stay as they are"
    )
    parser.add_argument(
        "--no-graph", action="store_true", help="no CUDA graph of a step, which takes twice as long then"
    )
    parser.add_argument("--tiny", action="store_true", help="few clips, small batches: does it run?")
    args = parser.parse_args()
    begin = time.perf_counter()
    deadline = begin + 60 * args.minutes
    accelerator = accelerate.Accelerator(cpu=args.tiny)
    device, rank = accelerator.device, accelerator.process_index
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    vae = new_vae(args.tiny)
    if args.resume:
        vae = AutoencoderKLCogVideoX.from_pretrained(args.out / "vae", dtype=torch.float32)
    vae = vae.to(device).train()
    vae.encoder.requires_grad_(not args.decoder_only)
    looks = Perceptual(FaceNet.from_pretrained(args.out / "face", torch_dtype=torch.float32)).to(device)
    torch.manual_seed(time.time_ns() % 2**31 + rank)
    clips, chunks = (4, 2) if args.tiny else (64, 100)
    crowd = cast(range(rank * clips * chunks * 8, (rank + 1) * clips * chunks * 8), device)
    # Other clips each time that training goes on: their seeds lie below those of the other stages.
    first = (1 + 2 * int(torch.randint(500, ())) + rank) * 10_000_000

    def draw(chunk: int) -> dict[str, Tensor]:
        numbers = torch.arange(chunk * clips, (chunk + 1) * clips, device=device)
        drawn = draw_clips(crowd[numbers % len(crowd)], numbers + first)
        return {"video": drawn.video, "maps": drawn.maps}

    pool = Pool(draw, chunks).fill(begin + 0.12 * (deadline - begin))
    print(f"vae: {len(pool)} clips drawn in {time.perf_counter() - begin:.1f} s", flush=True)

    objective = Objective(vae, looks, decoder_only=args.decoder_only)
    lengths = (_SHORT, FRAMES) if args.long < 1 else (FRAMES,)
    objectives = dict.fromkeys(lengths, objective)
    if cuda and not args.no_graph:
        for frames in lengths:
            sample = pool.sample(args.batch)
            video, maps = (sample[k][:, :frames] for k in ("video", "maps"))
            objectives[frames] = torch.cuda.make_graphed_callables(
                copy.copy(objective), (to_vae(video), pixel_weights(maps)), allow_unused_input=True
            )
        print(f"vae: captured after {time.perf_counter() - begin:.1f} s", flush=True)

    def loss_of(step: int) -> Tensor:
        if step % 10 == 9:
            pool.draw()
        sample = pool.sample(args.batch)
        late = time.perf_counter() > deadline - args.long * (deadline - begin)
        frames = lengths[-1] if late else lengths[0]
        start = int(torch.randint(FRAMES - frames + 1, ()))
        video, maps = (sample[k][:, start : start + frames] for k in ("video", "maps"))
        return objectives[frames](to_vae(video), pixel_weights(maps))

    def keep() -> None:
        new = AutoencoderKLCogVideoX.from_config(vae.config)
        new.load_state_dict(vae.state_dict())
        new.half().save_pretrained(args.out / "vae")

    steps, seconds = train(
        "vae", vae.parameters(), loss_of, deadline, args.learning_rate, accelerator=accelerator, keep=keep
    )
    if accelerator.is_main_process:
        torch.backends.cudnn.benchmark = False  # for each shape would take longer than it saves
        if not args.decoder_only:
            normalise(vae.eval(), to_vae(pool.sample(4 if args.tiny else 192)["video"]))
        report = {"steps": steps, "seconds_per_step": seconds, "processes": accelerator.num_processes}
        report |= evaluate(vae, device, 1 if args.tiny else 64)
        keep()
        name = "decoder" if args.decoder_only else "vae"
        (args.out / f"{name}.json").write_text(json.dumps(report, indent=1))
        print(json.dumps(report), flush=True)
    accelerator.end_training()


@torch.no_grad()
def normalise(vae: AutoencoderKLCogVideoX, video: Tensor) -> None:
    """Give each channel of the latents a mean of 0 and a deviation of 1, by changes of weights on both sides of them.

    Channels that deviate little would else be drowned by noise while a base learns them. Decoded videos stay the same,
    but for the borders: convolutions see zeros there, which are other latents now. The decoder learns that in no time.

    Args:
        vae: In evaluation mode.
        video: (n, c, f, h, w), -1 to 1, of which the moments are taken.
    """
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in video.split(4)])
    mean, std = (f(latents, (0, 2, 3, 4)) for f in (torch.mean, torch.std))
    out = vae.encoder.conv_out.conv
    moments, log_variance = out.weight.chunk(2)[0], out.bias.chunk(2)[1]
    moments /= std.view(-1, 1, 1, 1, 1)
    log_variance -= 2 * std.log()
    out.bias[: len(mean)].sub_(mean).div_(std)
    norms = [m for m in vae.decoder.modules() if isinstance(m, CogVideoXSpatialNorm3D)]
    for layer in (vae.decoder.conv_in, *(conv for norm in norms for conv in (norm.conv_y, norm.conv_b))):
        layer.conv.bias += (layer.conv.weight * mean.view(1, -1, 1, 1, 1)).sum((1, 2, 3, 4))
        layer.conv.weight *= std.view(1, -1, 1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


@torch.no_grad()
def evaluate(vae, device: torch.device, count: int) -> dict[str, float]:
    """Errors on clips of unseen people, of 0 to 1 a pixel, and how much the channels of the latents deviate and are
    uncertain."""
    seeds = range(TEST_PEOPLE[30_000], TEST_PEOPLE[30_000] + count)
    vae = vae.eval()
    errors, latents, deviations = [], [], []
    for part in (seeds[i : i + 4] for i in range(0, count, 4)):
        drawn = draw_clips(cast(part, device), range(len(part)))
        video = to_vae(drawn.video)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            posterior = vae.encode(video).latent_dist
            z = posterior.mode()
            made = vae.decode(z).sample.float().clamp(-1, 1)
        latents.append(z.float())
        deviations.append(posterior.std.float().mean((0, 2, 3, 4)))
        error = (made - video).transpose(1, 2) / 2
        eyes = (drawn.maps == 2)[:, :, None].expand_as(error)
        errors.append(torch.stack([error.abs().mean(), error.square().mean(), error[eyes].abs().mean()]))
    l1, mse, eyes = torch.stack(errors).mean(0)
    latents = torch.cat(latents)
    return {
        "l1": l1.item(),
        "psnr": (-10 * mse.log10()).item(),
        "l1_eyes": eyes.item(),
        "channel_std": latents.std((0, 2, 3, 4)).tolist(),
        "posterior_std": torch.stack(deviations).mean(0).tolist(),
    }


if __name__ == "__main__":
    main()

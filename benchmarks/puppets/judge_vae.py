"""What an autoencoder of the drawn world loses, by the judges: clips of unseen people as drawn, and through it:

    python benchmarks/puppets/judge_vae.py --out DIR                      # of DIR/vae, by the judges in DIR
    python benchmarks/puppets/judge_vae.py --out DIR --vae lavieid_adapters/puppets/weights/vae --name shipped

Writes DIR/judged_NAME.json, and DIR/judged_NAME.png: rows of faces as drawn, and below each the same through it.
"""

# n clips · f frames · h w pixels

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ablation import figures_of, photos_of, questions
from diffusers import AutoencoderKLCogVideoX
from PIL import Image
from pools import through_vae
from torch import Tensor

from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.puppets import draw_clips
from lavieid_adapters.puppets.judges.judges import Judges
from lavieid_adapters.puppets.world.person import EVALUATION_PEOPLE, people

_CLIP_SEED = 1 << 44  # as in ablation.py
_FACES, _SIDE, _ZOOM = 10, 56, 3


def psnr(error: Tensor, counted: Tensor) -> float:
    """Decibels of errors (n, f, 3, h, w), bytes, over the pixels (n, f, h, w) that are counted."""
    square = error.square().mean(2)
    return (10 * (255**2 * counted.sum() / (square * counted).sum()).log10()).item()


def faces(video: Tensor, maps: Tensor) -> np.ndarray:
    """The middle frame's face of some clips, side by side."""
    pictures = []
    for clip, parsed in zip(video[:, 16], maps[:, 16], strict=True):
        y, x = (int(v.float().mean()) for v in (parsed > 0).nonzero(as_tuple=True))
        top, left = (min(max(v - _SIDE // 2, 0), clip.shape[-1] - _SIDE) for v in (y, x))
        pictures.append(clip[:, top : top + _SIDE, left : left + _SIDE].permute(1, 2, 0).cpu().numpy())
    return np.concatenate(pictures, axis=1)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results")
    parser.add_argument("--vae", type=Path, help="another one than DIR/vae")
    parser.add_argument("--name", default="vae")
    parser.add_argument("--people", type=int, default=len(EVALUATION_PEOPLE))
    parser.add_argument("--prompts", type=int, default=4, help="for each person")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    vae = AutoencoderKLCogVideoX.from_pretrained(args.vae or args.out / "vae", torch_dtype=dtype).to(device).eval()
    judges = Judges.from_pretrained(args.out).to(device)
    crowd = people(torch.tensor(list(EVALUATION_PEOPLE[: args.people])), device)
    asked = questions(len(crowd), args.prompts, 1)
    shown = crowd[asked.person.to(device)]
    own = judges.embed(photos_of(crowd)).cpu()[asked.person]
    drawn = draw_clips(shown, asked.seeds.to(device) + _CLIP_SEED, asked.prompts)
    made = through_vae(vae, drawn.video)
    report: dict[str, dict] = {}
    for name, video in (("drawn", drawn.video), ("through the VAE", made)):
        figures = figures_of(judges.judge(video).to("cpu"), video.cpu(), own, shown.to("cpu"), asked.prompts)
        report[name] = {figure: values.nanmean().item() for figure, values in figures.items()}
    error, maps = made.float() - drawn.video.float(), drawn.maps
    report["PSNR"] = {"all": psnr(error, torch.ones_like(maps)), "face": psnr(error, maps > 0)}
    report["PSNR"] |= {name: psnr(error, maps == i + 1) for i, name in enumerate(FACIAL_COMPONENTS)}
    (args.out / f"judged_{args.name}.json").write_text(json.dumps(report, indent=1))
    shown_figures = [f for f in report["drawn"] if f.endswith(("FaceSim", "error", "right", "expression"))]
    for figure in shown_figures:
        print(f"{figure}: drawn {report['drawn'][figure]:.4f}, through it {report['through the VAE'][figure]:.4f}")
    print("PSNR", {name: round(value, 2) for name, value in report["PSNR"].items()}, flush=True)
    rows = []
    for first in (0, 1):
        some = slice(first * _FACES * args.prompts, (first + 1) * _FACES * args.prompts, args.prompts)
        rows += [faces(video[some], maps[some]) for video in (drawn.video, made) if len(maps[some])]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * _ZOOM, sheet.height * _ZOOM), Image.Resampling.NEAREST).save(
        args.out / f"judged_{args.name}.png"
    )


if __name__ == "__main__":
    main()

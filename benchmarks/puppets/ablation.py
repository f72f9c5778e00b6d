"""What each part of LaVieID does in the drawn world, judged by networks that share nothing with the conditioning:

    python benchmarks/puppets/ablation.py --out DIR            # DIR holds the results of the training stages
    python benchmarks/puppets/ablation.py --out DIR --rows base lavieid   # some rows, as one of several processes

Each row makes a video of each of 64 unseen people (`EVALUATION_PEOPLE`), to 4 prompts, from 2 seeds; the same for all
rows. DIR/ablation keeps what was judged of each row, and the table is made of all that are there.
"""

# n videos · f frames · m components · d channels

import argparse
import json
import time
from pathlib import Path

import torch
from compared import LiteralRouter, UnroutedAttention
from samples import encode_clips
from train_adapters import VARIANTS, load_base

from lavieid_adapters import TAM, FaceProcessor, LocalFacialEncoder, LocalRouter, attach
from lavieid_adapters.identity import FACIAL_COMPONENTS
from lavieid_adapters.metrics import (
    bootstrap_interval,
    face_similarity,
    flicker,
    frechet_distance,
    second_difference_flicker,
    temporal_consistency,
)
from lavieid_adapters.puppets.grammar import EXPRESSIONS, MOTIONS, SCENES, caption
from lavieid_adapters.puppets.judges import Judges, Verdict
from lavieid_adapters.puppets.person import EVALUATION_PEOPLE, People, people
from lavieid_adapters.puppets.reading import reading_parts
from lavieid_adapters.puppets.world import draw_photos

PROMPTS, SEEDS = 4, 2  # of each person
_PHOTO_SEED, _CLIP_SEED = 77_000, 88_000
_GUIDANCE, _STEPS = 4.0, 50

# Of each row: the latents it begins with, and TAM's number of chunks, None without TAM.
ROWS = {
    "base": ("base", None),
    "unrouted": ("unrouted", None),
    "router": ("lavieid", None),
    "TAM": ("base", 4),
    "LaVieID": ("lavieid", 4),
    "LaVieID, eqs. 2 and 3 as printed": ("literal", 4),
    "LaVieID without L_route": ("no-route-loss", 4),
    "LaVieID with a background route": ("background", 4),
    "LaVieID after the middle block": ("middle", 4),
    "LaVieID after the last block": ("last", 4),
    "LaVieID, K = 1": ("lavieid", 1),
    "LaVieID, K = 2": ("lavieid", 2),
    "LaVieID, K = 8": ("lavieid", 8),
    "real clips through the VAE": ("drawn", None),
}


def questions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each video the person's number, the prompt (n, 3) and the seed."""
    count = len(EVALUATION_PEOPLE) * PROMPTS * SEEDS
    person = torch.arange(count) // (PROMPTS * SEEDS)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([len(SCENES), len(MOTIONS), len(EXPRESSIONS)])
    prompts = (torch.rand(count // SEEDS, 3, generator=generator) * sizes).long().repeat_interleave(SEEDS, dim=0)
    return person, prompts, torch.arange(count)


def photos_of_evaluation(device: torch.device) -> torch.Tensor:
    """The references, one of each person, (n, 3, h, w), uint8."""
    unseen = people(torch.tensor(list(EVALUATION_PEOPLE)), device)
    return draw_photos(unseen, torch.arange(len(unseen), device=device) + _PHOTO_SEED).images


def read_references(out: Path, photos: torch.Tensor, device: torch.device) -> list:
    """What the package's own face processor sees in photos (n, 3, h, w): `FaceFeatures`."""
    read = FaceProcessor(**reading_parts(out, dtype=torch.float32)).to(device)
    return [read(photo.permute(1, 2, 0).cpu().numpy(), on_no_face="whole_image") for photo in photos]


@torch.no_grad()
def sample(pipe, kind: str, out: Path, references: list, batch: int, steps: int) -> torch.Tensor:
    """Latents (n, f, c, h, w) of all questions from the base with one kind of conditioning."""
    device, handle = pipe.device, None
    if kind not in ("base", "drawn"):
        name = "lavieid" if kind == "literal" else kind
        cls = UnroutedAttention if kind == "unrouted" else LocalRouter
        router = cls.from_pretrained(out / "adapters" / name / "router")
        if kind == "literal":
            weights = router.state_dict()
            router = LiteralRouter.from_config(router.config)
            router.load_state_dict(weights)
        router.to(device)
        encoder = LocalFacialEncoder.from_pretrained(out / "adapters" / name / "encoder").to(device)
        handle = attach(router, pipe.transformer, VARIANTS[name][0].get("block_idx", 0))
        tokens = torch.cat([
            encoder(f.id_embeds.to(device), [h[None].to(device) for h in f.vit_hidden_states]) for f in references
        ])  # fmt: skip
        mask = torch.stack([f.mask for f in references]).to(device)
    person, prompts, seeds = questions()
    if kind == "drawn":
        crowd = people(torch.tensor(list(EVALUATION_PEOPLE)), device)[person.to(device)]
        parts = encode_clips(pipe.vae, crowd, (seeds + _CLIP_SEED).to(device), prompts.to(device))
        return torch.cat([latents for _, latents in parts])
    made = []
    for part in torch.arange(len(seeds)).split(batch):
        if handle is not None:
            handle.set_tokens(tokens[person[part]], mask[person[part]])
        made.append(
            pipe(
                [caption(*prompt) for prompt in prompts[part].tolist()], num_inference_steps=steps,
                guidance_scale=_GUIDANCE, output_type="latent",
                generator=[torch.Generator().manual_seed(s) for s in seeds[part].tolist()],
            ).frames
        )  # fmt: skip
    if handle is not None:
        handle.detach()
    return torch.cat(made)


@torch.no_grad()
def decode(pipe, latents: torch.Tensor) -> torch.Tensor:
    """Videos (n, f, 3, h, w), uint8, on the CPU."""
    made = []
    for part in latents.split(16):
        video = pipe.decode_latents(part.to(pipe.vae.dtype))
        made.append(((video.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).transpose(1, 2).cpu())
    return torch.cat(made)


def figures_of(verdict: Verdict, video: torch.Tensor, own: torch.Tensor, crowd: People) -> dict[str, torch.Tensor]:
    """The figures of each video, (n,) each.

    Args:
        verdict: On the CPU.
        video: (n, f, 3, h, w), uint8.
        own: Embedding of each video's reference, (n, d).
        crowd: Whom each video should show.
    """
    _, prompts, _ = questions()
    errors = verdict.component_errors(crowd)
    right = (verdict.prompts == prompts).float()
    return {
        "FaceSim": face_similarity(verdict.embeddings, own, verdict.face),
        "subject": temporal_consistency(verdict.subject),
        "background": temporal_consistency(verdict.background),
        "flicker": flicker(video),
        "second difference": second_difference_flicker(video),
        "scene": right[:, 0],
        "motion": right[:, 1],
        "expression": right[:, 2],
        "no face": 1 - verdict.face.float().mean(dim=1),
        **{f"{name} error": errors[:, i] for i, name in enumerate(FACIAL_COMPONENTS)},
    }


@torch.no_grad()
def judge_rows(args: argparse.Namespace, folder: Path) -> None:
    """Make, judge and keep the rows that are asked for."""
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    pipe = load_base(args.out, device, dtype)
    pipe.set_progress_bar_config(disable=True)
    judges = Judges.from_pretrained(args.out).to(device)
    person, _, _ = questions()
    unseen = people(torch.tensor(list(EVALUATION_PEOPLE)))
    photos = photos_of_evaluation(device)
    references = read_references(args.out, photos, device)
    own = judges.embed(photos).cpu()[person]
    tam = None
    if (args.out / "adapters/tam/tam").is_dir():
        tam = TAM.from_pretrained(args.out / "adapters/tam/tam").to(device)
    latents: dict[str, torch.Tensor] = {}
    for name in sorted(args.rows, key=lambda name: ROWS[name][0]):  # rows of the same latents together
        kind, chunks = ROWS[name]
        begin = time.perf_counter()
        if kind not in latents:
            latents = {kind: sample(pipe, kind, args.out, references, args.batch, args.steps)}
        made = latents[kind]
        if chunks is not None:
            made = torch.cat([tam.refine(part, chunks) for part in made.split(64)])
        video = decode(pipe, made)
        verdict = judges.judge(video).to("cpu")
        kept = figures_of(verdict, video, own, unseen[person])
        features = torch.cat([verdict.subject, verdict.background], dim=-1).mean(dim=1)
        report = {"figures": kept, "features": features, "video": video[:: PROMPTS * SEEDS][:12, ::8].clone()}
        torch.save(report, folder / f"{list(ROWS).index(name):02d}.pt")
        print(f"{name}: FaceSim {kept['FaceSim'].mean():.4f}, {time.perf_counter() - begin:.1f} s", flush=True)


def table(folder: Path) -> str:
    """All rows that were judged, with 95 % intervals over people, as Markdown."""
    person, _, _ = questions()
    rows = {
        name: torch.load(folder / f"{i:02d}.pt") for i, name in enumerate(ROWS) if (folder / f"{i:02d}.pt").is_file()
    }
    real = rows.get("real clips through the VAE")
    names = list(next(iter(rows.values()))["figures"])
    lines = ["| | " + " | ".join([*names, "Fréchet"]) + " |", "| --- |" + " --- |" * (len(names) + 1)]
    told = {}
    for row, report in rows.items():
        cells, told[row] = [], {}
        for name in names:
            values = report["figures"][name].double()
            seen = values.isfinite()
            mean, low, high = bootstrap_interval(values[seen], person[seen])
            told[row][name] = mean, low, high
            digits = 3 if abs(mean) < 2 else 2
            cells.append(f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}")
        distance = "" if real is None or row == "real clips through the VAE" else (
            f"{frechet_distance(report['features'], real['features']):.1f}"
        )  # fmt: skip
        lines.append(f"| {row} | " + " | ".join([*cells, distance]) + " |")
    (folder / "ablation.json").write_text(json.dumps(told, indent=1))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), metavar="ROW", help="; ".join(ROWS))
    parser.add_argument("--batch", type=int, default=64, help="videos at a time")
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    folder = args.out / "ablation"
    folder.mkdir(exist_ok=True)
    judge_rows(args, folder)
    print(table(folder), flush=True)


if __name__ == "__main__":
    main()

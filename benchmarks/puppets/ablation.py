"""What each part of LaVieID does in the drawn world, judged by networks that share nothing with the conditioning:

    python benchmarks/puppets/ablation.py --out DIR            # DIR holds the results of the training stages
    python benchmarks/puppets/ablation.py --out DIR --rows base router    # some rows, as one of several processes

By default the rows are those whose adapters are there. Each makes a video of each of 64 unseen people
(`EVALUATION_PEOPLE`), to 4 prompts, from 2 seeds; the same for all rows. Variants of the router are compared without
TAM, which would act alike on all of them. What was judged of each row is kept in DIR/ablation, or where `--to` says,
and the tables are made of all that are there. Each variant is one training: differences within what another training
would change are none.
"""

# n videos · f frames · m components · d channels

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import torch
from compared import LiteralRouter, UnroutedAttention
from figures import STYLE_COMPONENT_OF
from pixels import from_vae
from rows import ROWS, file_of, lacking, read_rows
from samples import encode_clips
from tables import tables
from train_adapters import VARIANTS, load_base

from lavieid_adapters import TAM, FaceProcessor, LocalFacialEncoder, LocalRouter, attach
from lavieid_adapters.evaluation.metrics import (
    face_similarity,
    flicker,
    second_difference_flicker,
    temporal_consistency,
)
from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.puppets.judges.judges import Judges, Verdict
from lavieid_adapters.puppets.sight.reading import reading_parts
from lavieid_adapters.puppets.world.draw import draw_photos
from lavieid_adapters.puppets.world.grammar import EXPRESSIONS, MOTIONS, SCENES, caption
from lavieid_adapters.puppets.world.person import EVALUATION_PEOPLE, STYLES, People, people

_PHOTO_SEED, _CLIP_SEED = 1 << 45, 1 << 44  # of which nothing was drawn for any training
_GUIDANCE = 4.0
_SECOND_CHUNK = 9  # its first frame: the first of four chunks has 3 of 9 latent frames


class Questions(NamedTuple):
    """What is asked of each row: of n videos the person's number (n,), the prompt (n, 3), and the seed (n,)."""

    person: torch.Tensor
    prompts: torch.Tensor
    seeds: torch.Tensor


def questions(crowd: int, prompts: int, seeds: int) -> Questions:
    """So many prompts for each person of a crowd, and so many seeds for each of these."""
    count = crowd * prompts * seeds
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([len(SCENES), len(MOTIONS), len(EXPRESSIONS)])
    drawn = (torch.rand(count // seeds, 3, generator=generator) * sizes).long().repeat_interleave(seeds, dim=0)
    return Questions(torch.arange(count) // (prompts * seeds), drawn, torch.arange(count))


def photos_of(crowd: People) -> torch.Tensor:
    """The references, one of each person, (n, 3, h, w), uint8."""
    return draw_photos(crowd, torch.arange(len(crowd), device=crowd.values.device) + _PHOTO_SEED).images


def read_references(out: Path, photos: torch.Tensor, device: torch.device) -> list:
    """What the package's own face processor sees in photos (n, 3, h, w): `FaceFeatures`."""
    read = FaceProcessor(**reading_parts(out, dtype=torch.float32)).to(device)
    pixels = photos.permute(0, 2, 3, 1).cpu().numpy()
    features = [read(picture, face_index="largest", on_no_face="whole_image") for picture in pixels]
    missed = sum(each.score is None for each in features)
    print(f"{len(features)} references were read, {missed} of them without a face that was found", flush=True)
    return features


@torch.no_grad()
def sample(
    pipe, source: str, out: Path, references: list, crowd: People, asked: Questions, batch: int, steps: int
) -> torch.Tensor:
    """Latents (n, f, c, h, w) of all questions about a crowd from the base with the conditioning of a row's source."""
    device, handle = pipe.device, None
    if source not in ("base", "drawn"):
        name = "lavieid" if source == "literal" else source
        cls = UnroutedAttention if VARIANTS[name].unrouted else LocalRouter
        router = cls.from_pretrained(out / "adapters" / name / "router")
        if source == "literal":
            weights = router.state_dict()
            router = LiteralRouter.from_config(router.config)
            router.load_state_dict(weights)
        router.to(device)
        encoder = LocalFacialEncoder.from_pretrained(out / "adapters" / name / "encoder").to(device)
        handle = attach(router, pipe.transformer, VARIANTS[name].settings.get("block_idx", 0))
        tokens = torch.cat([
            encoder(f.id_embeds.to(device), [h[None].to(device) for h in f.vit_hidden_states]) for f in references
        ])  # fmt: skip
        mask = torch.stack([f.mask for f in references]).to(device)
    person, prompts, seeds = asked
    if source == "drawn":
        shown = crowd[person.to(device)]
        parts = encode_clips(pipe.vae, shown, (seeds + _CLIP_SEED).to(device), prompts.to(device))
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
def decode(pipe, latents: torch.Tensor, contrast: float) -> torch.Tensor:
    """Videos (n, f, 3, h, w), uint8, on the CPU; `contrast` scales each frame's distance from its mean colour."""
    videos = []
    for part in latents.to(pipe.vae.dtype).split(16):
        video = pipe.decode_latents(part)  # n 3 f h w
        mean = video.mean((-2, -1), keepdim=True)
        videos.append(from_vae(torch.lerp(mean, video, contrast)).cpu())  # a factor of 1 gives the video to the bit
    return torch.cat(videos)


def figures_of(
    verdict: Verdict, video: torch.Tensor, own: torch.Tensor, shown: People, prompts: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The figures of each video, (n,) each.

    Args:
        verdict: On the CPU.
        video: (n, f, 3, h, w), uint8.
        own: Embedding of each video's reference, (n, d).
        shown: Whom each video should show, on the CPU.
        prompts: What each was asked to show, (n, 3).
    """
    right = (verdict.prompts == prompts).float()
    errors = verdict.component_errors(shown)
    counted = (verdict.visible & verdict.face[..., None])[..., STYLE_COMPONENT_OF]
    right_styles = (verdict.styles == shown.styles[:, None]) & counted
    return {
        "FaceSim": face_similarity(verdict.embeddings, own, verdict.face),
        "subject": temporal_consistency(verdict.subject),
        "background": temporal_consistency(verdict.background),
        "flicker": flicker(video),
        "second difference": second_difference_flicker(video),
        "scene": right[:, 0],
        "motion": right[:, 1],
        "expression": right[:, 2],
        "contrast": video.float().std((-2, -1)).mean((1, 2)),
        "no face": 1 - verdict.face.float().mean(dim=1),
        "subject later": temporal_consistency(verdict.subject[:, _SECOND_CHUNK:]),
        "background later": temporal_consistency(verdict.background[:, _SECOND_CHUNK:]),
        "styles right": right_styles.sum((1, 2)) / counted.sum((1, 2)),
        **{f"{s.name} right": right_styles[..., i].sum(1) / counted[..., i].sum(1) for i, s in enumerate(STYLES)},
        **{f"{name} error": errors[:, i] for i, name in enumerate(FACIAL_COMPONENTS)},
        **{f"{name} seen": verdict.visible[..., i].float().mean(dim=1) for i, name in enumerate(FACIAL_COMPONENTS)},
    }


@torch.no_grad()
def judge_rows(args: argparse.Namespace, folder: Path) -> None:
    """Make, judge and keep the rows that are asked for."""
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    missing = {name: lacking(args.out, name) for name in args.rows or ROWS}
    if args.rows is None:
        for name in [name for name, parts in missing.items() if parts]:
            print(f"{name}: left out, since {', '.join(missing.pop(name))} is not trained", flush=True)
    elif any(missing.values()):
        parts = ", ".join(sorted(set().union(*missing.values())))
        raise FileNotFoundError(f"'{args.out / 'adapters'}' lacks {parts}: train them, or leave out the rows of them.")
    crowd = people(torch.tensor(list(EVALUATION_PEOPLE[: args.people])), device)
    settings = {
        "people": len(crowd), "prompts": args.prompts, "seeds": args.seeds, "steps": args.steps, "guidance": _GUIDANCE,
    }  # fmt: skip
    for name, report in read_rows(folder).items():
        if name not in missing and report["settings"] != settings:
            raise ValueError(
                f"'{folder}' has rows, such as {name!r}, of other settings, {report['settings']}, than {settings}: "
                "give another folder with --to."
            )
    pipe = load_base(args.out, device, dtype)
    pipe.set_progress_bar_config(disable=True)
    judges = Judges.from_pretrained(args.out).to(device)
    asked = questions(len(crowd), args.prompts, args.seeds)
    photos = photos_of(crowd)
    references = read_references(args.out, photos, device)
    own, shown = judges.embed(photos).cpu()[asked.person], crowd.to("cpu")[asked.person]
    latents: dict[str, torch.Tensor] = {}
    for name in sorted(missing, key=lambda name: ROWS[name].source):  # rows of the same latents together
        row, begin = ROWS[name], time.perf_counter()
        if row.source not in latents:
            made = sample(pipe, row.source, args.out, references, crowd, asked, args.batch, args.steps)
            latents = {row.source: made}
        made = latents[row.source]
        if row.tam is not None:
            tam = TAM.from_pretrained(args.out / "adapters" / row.tam / "tam").to(device)
            made = torch.cat([tam.refine(part, row.chunks, mirror_first=row.mirror_first) for part in made.split(64)])
        video = decode(pipe, made, row.contrast)
        verdict = judges.judge(video).to("cpu")
        kept = figures_of(verdict, video, own, shown, asked.prompts)
        report = {
            "settings": settings,
            "figures": kept,
            "features": torch.cat([verdict.subject, verdict.background], dim=-1).mean(dim=1),
            "video": video[:: args.prompts * args.seeds][:12, ::8].clone(),
        }
        torch.save(report, file_of(folder, name))
        print(f"{name}: FaceSim {kept['FaceSim'].mean():.4f}, {time.perf_counter() - begin:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help="; ".join(ROWS))
    parser.add_argument("--people", type=int, default=len(EVALUATION_PEOPLE), help="how many of the 64")
    parser.add_argument("--prompts", type=int, default=4, help="for each person")
    parser.add_argument("--seeds", type=int, default=2, help="for each prompt")
    parser.add_argument("--batch", type=int, default=64, help="videos at a time")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--to", type=Path, help="folder of the rows (DIR/ablation)")
    args = parser.parse_args()
    folder = args.to or args.out / "ablation"
    folder.mkdir(parents=True, exist_ok=True)
    judge_rows(args, folder)
    print(tables(read_rows(folder)), flush=True)


if __name__ == "__main__":
    main()

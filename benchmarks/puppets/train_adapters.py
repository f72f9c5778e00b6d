"""Train adapters on the frozen base, and what the ablation compares them with:

    python benchmarks/puppets/train_adapters.py --out DIR lavieid no-route-loss tam

Each is an entry of VARIANTS and goes into a folder of its name in DIR/adapters. All routers have the same samples and,
but for those that say so, steps and batches. A variant behind another's adapters, or given another's encoder, wants
that one to be there. A report's "spread" says how much a component's tokens differ between people,
after the layer norm through which the router sees them: near 0 nothing of a photo is left in them.
"""

# b batch · m components · p patches · d channels

import argparse
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from compared import UnroutedAttention
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from models import new_encoder, new_router, new_scheduler, new_tam, new_tokenizer
from samples import ADAPTER_PEOPLE, Samples, token_ids
from timed import train
from torch import Tensor
from transformers import T5EncoderModel

from lavieid_adapters import LocalFacialEncoder, LocalRouter, TrainingConfig, VisionModel
from lavieid_adapters.data.dataset import Batch
from lavieid_adapters.faces.parts import component_features, join_embeds
from lavieid_adapters.models.adapter import Adapter
from lavieid_adapters.puppets.sight.face_net import FaceNet
from lavieid_adapters.training.step import TrainingStep

# As a pipeline denoises, from a level at which much is open.
_GUIDED = {"stage": "tam", "tam_max_noise": 0.9, "tam_denoising_steps": 8, "tam_guidance_scale": 4.0}
_NO_ROUTES = {"lambda_route": 0.0}
_STRONG = {"lambda_diff": 10.0}  # eq. 1 is 14 to 38 times smaller here than eq. 5


@dataclass(frozen=True)
class Variant:
    """What is trained, and how it differs from LaVieID.

    Attributes:
        settings: Of the training.
        router: Arguments of the router's constructor.
        unrouted: Cross-attention of the same parameter count instead of the router.
        rate: Learning rate, of `--learning-rate`.
        encoder: The variant whose trained encoder it takes as it is; its own one if None.
        behind: The variant whose router and encoder act where a TAM learns; the base alone if None.
        seed: Of its first weights and its batches.
        length: Of its training, of `--steps` or `--tam-steps`.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    router: dict[str, Any] = field(default_factory=dict)
    unrouted: bool = False
    rate: float = 1.0
    encoder: str | None = None
    behind: str | None = None
    seed: int = 0
    length: int = 1


_UNROUTED = Variant(_NO_ROUTES, {"inner_dim": 384, "num_heads": 6}, unrouted=True)
VARIANTS = {
    "lavieid": Variant(),
    "lavieid-again": Variant(seed=1),
    "unrouted": _UNROUTED,
    "unrouted-slow": replace(_UNROUTED, rate=0.3),
    "unrouted-slower": replace(_UNROUTED, rate=0.1),
    "unrouted-given": replace(_UNROUTED, encoder="lavieid"),
    "router-given": Variant(encoder="lavieid"),
    "strong-diffusion-given": Variant(_STRONG, encoder="lavieid"),
    "no-route-loss-given": Variant(_NO_ROUTES, encoder="lavieid"),
    "no-route-loss": Variant(_NO_ROUTES),
    "no-route-loss-slow": Variant(_NO_ROUTES, rate=0.3),
    "strong-diffusion": Variant(_STRONG),
    "strong-diffusion-again": Variant(_STRONG, seed=1),
    "strong-diffusion-long": Variant(_STRONG, length=2),
    "background": Variant(router={"background": True}),
    "background-slow": Variant(router={"background": True}, rate=0.3),
    "middle": Variant({"block_idx": 3}),
    "last": Variant({"block_idx": -1}),
    "tam": Variant(_GUIDED, behind="lavieid"),
    "tam-long": Variant(_GUIDED, behind="lavieid", length=2),
    "tam-alone": Variant(_GUIDED),
    "tam-one-step": Variant({"stage": "tam"}, behind="lavieid"),
}


class Features:
    """What the vision model sees of all references, kept on the GPU: b samples take theirs by their numbers."""

    @torch.no_grad()
    def __init__(self, vision: VisionModel, samples: Samples, dtype: torch.dtype):
        parts = []
        for images, mask in zip(samples.images.cpu().split(128), samples.mask.cpu().split(128), strict=True):
            embeds, maps = component_features(vision, images.numpy(), mask.numpy())
            parts.append([embeds.to(dtype), *(m.to(dtype) for m in maps)])
        self.embeds, *self.maps = (torch.cat(column) for column in zip(*parts, strict=True))

    def of(self, index: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embeddings (b, m, d) and feature maps, each (b, m, p, d), float32."""
        return self.embeds[index].float(), [m[index].float() for m in self.maps]


class Step(TrainingStep):
    """The library's training step, with the vision model's features from memory: a batch's `images` are numbers of
    samples."""

    features: Features

    def component_tokens(self, images: Tensor, mask: Tensor, id_embedding: Tensor) -> tuple[Tensor, Tensor]:
        embeds, maps = self.features.of(images)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.encoder(join_embeds(id_embedding, embeds), maps).float(), mask


def is_trained(out: Path, variant: str) -> bool:
    """Whether a variant's adapters are in a folder of results."""
    return (out / "adapters" / variant / "report.json").is_file()  # which is written last


def check(variants: list[str], out: Path) -> None:
    """Refuse a variant that wants another one's adapters, if these are neither there nor trained before it."""
    for i, name in enumerate(variants):
        for other in {VARIANTS[name].behind, VARIANTS[name].encoder} - {None, *variants[:i]}:
            if not is_trained(out, other):
                raise FileNotFoundError(f"{name} wants the adapters of {other}: name {other} before it.")


def load_transformer(out: Path, device: torch.device, dtype: torch.dtype) -> CogVideoXTransformer3DModel:
    """The trained transformer of a folder of results, frozen."""
    transformer = CogVideoXTransformer3DModel.from_pretrained(out / "base/transformer", dtype=dtype)
    return transformer.to(device).eval().requires_grad_(False)


def load_base(out: Path, device: torch.device, dtype: torch.dtype) -> CogVideoXPipeline:
    """The pipeline that the stages before have left in a folder."""
    parts = {
        "vae": AutoencoderKLCogVideoX.from_pretrained(out / "vae", dtype=dtype),
        "text_encoder": T5EncoderModel.from_pretrained(out / "base/text_encoder", dtype=dtype),
    }
    parts = {name: model.to(device).eval().requires_grad_(False) for name, model in parts.items()}
    parts["transformer"] = load_transformer(out, device, dtype)
    return CogVideoXPipeline(tokenizer=new_tokenizer(), scheduler=new_scheduler(), **parts)


def new_adapters(variant: Variant, out: Path) -> dict[str, Adapter]:
    """Router and encoder of a variant, untrained but for an encoder that is another's."""
    router = new_router(UnroutedAttention if variant.unrouted else LocalRouter, **variant.router)
    if variant.encoder is None:
        return {"router": router, "encoder": new_encoder()}
    given = LocalFacialEncoder.from_pretrained(out / "adapters" / variant.encoder / "encoder", dtype=torch.float32)
    return {"router": router, "encoder": given}


@torch.no_grad()
def spread(step: Step, samples: Samples, count: int = 256) -> float:
    """Mean standard deviation over people of component tokens after layer norm, whose own is 1."""
    index = torch.arange(min(count, len(samples)), device=step.device)
    tokens, _ = step.component_tokens(index, samples.mask[index], samples.id_embedding[index])
    return F.layer_norm(tokens, tokens.shape[-1:]).std(0).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results")
    parser.add_argument("--samples", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--tam-steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    check(args.variants, args.out)
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    pipe = load_base(args.out, device, dtype)
    face = FaceNet.from_pretrained(args.out / "face", dtype=torch.float32).to(device).eval()
    samples = Samples.of(pipe.vae, face, pipe.tokenizer, ADAPTER_PEOPLE, args.samples)
    vision = VisionModel(args.out / "vision", 2, dtype=torch.float32)
    vision.place(device, False)
    features = Features(vision, samples, dtype)
    null = token_ids(pipe.tokenizer, [""]).to(device)
    with torch.no_grad():
        null_prompt = pipe.text_encoder(null)[0][0]
    hosts: dict[int, CogVideoXTransformer3DModel] = {}
    for name in args.variants:
        begin = time.perf_counter()
        variant = VARIANTS[name]
        block = variant.settings.get("block_idx", 0)
        fresh = block not in hosts
        if fresh:
            hosts[block] = load_transformer(args.out, device, dtype)
        pipe.transformer = hosts[block]
        config = TrainingConfig(
            base="puppets", shards="none", output="none", dtype=str(dtype).removeprefix("torch."), checkpointing=0,
            tracker=None, compile=fresh, **variant.settings,
        )  # fmt: skip
        torch.manual_seed(1000 * variant.seed)
        adapters = {"tam": new_tam()} if config.stage == "tam" else new_adapters(variant, args.out)
        own = dict(adapters)  # which are saved
        given = () if variant.encoder is None else ("encoder",)
        trained = torch.nn.ModuleDict({part: adapter for part, adapter in own.items() if part not in given})
        if variant.behind is not None:
            folder = args.out / "adapters" / variant.behind
            adapters |= {
                "router": LocalRouter.from_pretrained(folder / "router"),
                "encoder": LocalFacialEncoder.from_pretrained(folder / "encoder"),
            }
        for adapter in adapters.values():
            adapter.to(device).train().requires_grad_(False)
        trained.requires_grad_(True)
        step = Step(pipe, adapters, None, config, null_prompt)
        step.features = features
        torch.manual_seed(1000 * variant.seed + 1)
        kept: dict[str, list[Tensor]] = {}

        def loss_of(number: int, step=step, kept=kept) -> Tensor:
            index = torch.randint(len(samples), (args.batch,), device=device)
            draws = torch.rand(args.batch, 2, device=device)
            with torch.no_grad():
                text = pipe.text_encoder(
                    torch.where(draws[:, 1:] < TrainingConfig.null_prompt, null, samples.prompts[index])
                )[0]
            clean = samples.latents[index].float()
            batch = Batch(
                clean, torch.randn_like(clean), draws[:, 0], text, samples.labels[index], index, samples.mask[index],
                samples.id_embedding[index],
            )  # fmt: skip
            with step.attention:
                losses = step(batch)
            for part in ("diffusion", "route", "tam"):
                if part in losses:
                    kept.setdefault(part, []).append(losses[part].detach())
            if "correct" in losses:
                kept.setdefault("accuracy", []).append(losses["correct"] / losses["labelled"].clamp(min=1))
            return losses["loss"]

        rate = variant.rate * args.learning_rate
        count = variant.length * (args.tam_steps if config.stage == "tam" else args.steps)
        _, seconds = train(name, trained.parameters(), loss_of, None, rate, steps=count)
        report = {
            "steps": count,
            "batch": args.batch,
            "samples": args.samples,
            "learning_rate": rate,
            "seconds_per_step": seconds,
            "seconds": time.perf_counter() - begin,
            "parameters": sum(p.numel() for p in trained.parameters()),
            "first": {part: torch.stack(values[:50]).mean().item() for part, values in kept.items()},
            "last": {part: torch.stack(values[-200:]).mean().item() for part, values in kept.items()},
        }
        if "encoder" in own:
            report["spread"] = spread(step, samples)
        folder = args.out / "adapters" / name
        for part, adapter in own.items():
            adapter.half().eval().save_pretrained(folder / part)  # as they are shipped
        (folder / "report.json").write_text(json.dumps(report, indent=1))
        print(name, json.dumps(report), flush=True)
        if step.handle is not None:
            step.handle.detach()


if __name__ == "__main__":
    main()

"""Time and memory of a training step at CogVideoX-5B's size, random weights, 49 frames of 720×480, batch 1, one GPU.

    python benchmarks/training_step.py            # times, about three minutes
    python benchmarks/training_step.py --memory   # the smallest card for each setting

A step is a batch on the GPU through the ViT, the encoder, the host and the router, backwards, and AdamW. For memory the
allocator is limited to what cards have, less what CUDA and a desktop take, and each setting is tried from the smallest.
"""

import argparse
import contextlib
import gc
import time
from collections.abc import Iterator
from statistics import median

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from timing import machine
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from lavieid_adapters import TAM, LocalFacialEncoder, LocalRouter
from lavieid_adapters.data.dataset import Batch
from lavieid_adapters.training.config import TrainingConfig
from lavieid_adapters.training.optimizer import step_if_finite
from lavieid_adapters.training.step import TrainingStep

CARDS = {16: 15.0, 24: 22.5, 32: 30.5, 40: 38.5, 48: 46.0, 80: 78.0, 141: 138.0}  # GiB left to PyTorch

CLIP_L = CLIPVisionConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
    patch_size=14, projection_dim=768,
)  # fmt: skip


class RandomClip:
    """CLIP-L/14-336 of random weights in bf16: what the components' images go through."""

    image_size = 336

    def __init__(self):
        with torch.device("cuda"):
            self.model = CLIPVisionModelWithProjection(CLIP_L).to(torch.bfloat16).eval()

    @torch.no_grad()
    def encode(self, images):
        """(m, s, s, 3), uint8 → (m, 768) and five of (m, 577, 1024)."""
        pixels = torch.from_numpy(images).cuda().permute(0, 3, 1, 2).to(torch.bfloat16) / 255
        out = self.model(pixels, output_hidden_states=True)
        return out.image_embeds.float(), [out.hidden_states[i].float() for i in (4, 8, 12, 16, 20)]


def make_host() -> CogVideoXPipeline:
    """CogVideoX-5B's transformer of random weights, frozen, and its scheduler."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True
        )
    torch.set_default_dtype(torch.float32)
    transformer.requires_grad_(False).eval()
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return CogVideoXPipeline(None, None, None, transformer, scheduler)


def make_batch() -> Batch:
    """A sample as the shards of 49 frames of 720×480 give it, on the GPU."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 13, 16, 60, 90)
    return Batch(
        latents=torch.randn(shape, generator=generator).bfloat16(),
        noise=torch.randn(shape, generator=generator),
        draws=torch.tensor([0.4]),
        prompt_embeds=torch.randn(1, 226, 4096, generator=generator).bfloat16(),
        labels=torch.randint(0, 7, (1, 13 * 30 * 45), generator=generator),
        images=torch.randint(0, 256, (1, 6, 336, 336, 3), dtype=torch.uint8, generator=generator),
        mask=torch.ones(1, 6, dtype=torch.bool),
        id_embedding=torch.randn(1, 512, generator=generator),
    ).to(torch.device("cuda"))


class Run:
    """A training step of some setting, and its optimizer."""

    def __init__(self, pipe, vision, config: TrainingConfig, tam: dict | None = None):
        self.config = config
        with torch.device("cuda"):
            adapters = {} if config.stage == "tam" else {"router": LocalRouter(), "encoder": LocalFacialEncoder()}
            if tam is not None:
                adapters["tam"] = TAM(**tam)
        self.step = TrainingStep(pipe, adapters, vision, config)
        self.parameters = [p for a in adapters.values() for p in a.parameters()]
        self.parameters += [p for p in pipe.transformer.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, config.learning_rate, fused=True)
        self.batch, self.limit = make_batch(), config.memory_gib and config.memory_gib * 2**30

    def __call__(self, route_only: bool = False, attention: contextlib.AbstractContextManager | None = None) -> None:
        """One step, the optimizer's included."""
        device = self.batch.latents.device
        with attention or self.step.attention:
            self.step.checkpointing.begin(device, self.batch.latents.numel())
            self.step(self.batch, route_only)["loss"].backward()
        step_if_finite(self.optimizer, self.parameters, 1.0)
        self.step.checkpointing.settle(device, self.limit)

    def close(self) -> None:
        """Leave the host as it was."""
        if self.step.handle is not None:
            self.step.handle.detach()
        self.step.transformer.disable_gradient_checkpointing()
        for block in self.step.transformer.transformer_blocks:
            block._compiled_call_impl = None


@contextlib.contextmanager
def run(pipe, vision, tam: dict | None = None, **settings) -> Iterator[Run]:
    """A `Run` that leaves nothing behind."""
    made = Run(pipe, vision, TrainingConfig("-", "-", "-", **settings), tam)
    try:
        yield made
    finally:
        made.close()
        del made
        gc.collect()
        torch.cuda.empty_cache()


def seconds(function, repeats: int, warmup: int = 3) -> tuple[float, float, float, float]:
    """Median, least and most seconds of a call, and the GiB at its peak."""
    for _ in range(warmup):  # the first measures the memory, the second has the optimizer's state, and may compile
        function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return median(times), min(times), max(times), torch.cuda.max_memory_allocated() / 2**30


def show(name: str, measured: tuple, kept: int | None = None) -> float:
    """A row of the table."""
    mid, least, most, gib = measured
    blocks = "" if kept is None else str(kept)
    print(f"| {name} | {mid:.3f} | {least:.3f} to {most:.3f} | {gib:.1f} | {blocks} |", flush=True)
    return mid


def times(pipe, vision) -> None:
    """The table of times."""
    print("| | s | least to most | peak GiB | blocks that keep their activations |\n| --- | --- | --- | --- | --- |")
    plain = {"compile": False, "checkpointing": "all"}
    with run(pipe, vision, **plain) as eager:
        own = seconds(lambda: eager(attention=contextlib.nullcontext()), 3)
        show("router step, eager, all blocks computed again, PyTorch's choice of attention", own)
        show("the same with cuDNN's attention", seconds(eager, 3))
        show("route warm-up step, eager", seconds(lambda: eager(route_only=True), 30))
    with run(pipe, vision, **{**plain, "checkpointing": "auto"}) as auto:
        show("router step, eager, checkpointing auto", seconds(auto, 3), auto.step.checkpointing.kept)
    with run(pipe, vision) as full:
        step = show("**router step (compiled, checkpointing auto)**", seconds(full, 7), full.step.checkpointing.kept)
        warm = show("**route warm-up step**", seconds(lambda: full(route_only=True), 50))
        print(f"\nA warm-up step is 1/{step / warm:.0f} of a router step.\n")
    with run(pipe, vision, checkpointing="all") as full:
        show("router step, compiled, all blocks computed again", seconds(full, 3), full.step.checkpointing.kept)
    for name, sizes in (("718 M (dim 3072)", {}), ("80 M (dim 1024)", {"dim": 1024, "num_heads": 8})):
        with run(pipe, None, sizes, stage="tam") as tam:
            batch = tam.batch

            def host(step=tam.step, batch=batch):
                with torch.no_grad(), step.attention:
                    step.predict(batch.latents, batch.prompt_embeds, torch.tensor([400], device="cuda"))

            alone = show("the host's forward alone", seconds(host, 5))
            both = show(f"TAM step, {name}", seconds(tam, 5))
            print(f"\nBeyond the host's forward: {both - alone:.3f} s.\n")
    with run(pipe, vision, {}, stage="both") as both:
        show("router and TAM of 718 M in one step", seconds(both, 5), both.step.checkpointing.kept)


def memory(pipe, vision) -> None:
    """The table of the smallest card for each setting."""
    print("| setting | smallest card, GB | s a step | peak GiB | blocks that keep their activations |")
    print("| --- | --- | --- | --- | --- |")
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    small = {"dim": 1024, "num_heads": 8}
    for name, tam, settings in (
        ("route warm-up", None, {"route_warmup_steps": 1, "compile": False}),
        ("router, checkpointing all", None, {"checkpointing": "all", "compile": False}),
        ("router, checkpointing auto", None, {"compile": False}),
        ("router, checkpointing auto, compiled", None, {}),
        ("TAM of 80 M", small, {"stage": "tam", "compile": False}),
        ("TAM of 718 M", {}, {"stage": "tam", "compile": False}),
        ("router and TAM of 80 M", small, {"stage": "both", "compile": False}),
        ("router, host stored in fp8", None, {"checkpointing": "all", "compile": False, "host_storage": "fp8"}),
    ):
        if settings.get("host_storage"):  # last, since it stays
            pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
            torch.cuda.empty_cache()
        for card, gib in CARDS.items():
            if gib > total:
                continue
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(gib / total)
            try:
                with run(pipe, vision, tam, memory_gib=gib, **settings) as made:
                    warm = bool(settings.get("route_warmup_steps"))
                    mid, _, _, peak = seconds(lambda made=made, warm=warm: made(warm), 2, 3)
                    print(f"| {name} | {card} | {mid:.2f} | {peak:.1f} | {made.step.checkpointing.kept} |", flush=True)
                    break
            except torch.OutOfMemoryError:
                continue
    torch.cuda.set_per_process_memory_fraction(1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    print(machine())
    pipe, vision = make_host(), RandomClip()
    (memory if args.memory else times)(pipe, vision)


if __name__ == "__main__":
    main()

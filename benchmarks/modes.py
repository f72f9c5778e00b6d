"""What the router costs in each way of running: milliseconds a denoising step, peak memory, waits of the host.

    python benchmarks/modes.py          # one GPU of 80 GB or more, 64 GB of host memory
    torchrun --nproc-per-node 2 benchmarks/modes.py --parallel ulysses    # or ring: two GPUs

CogVideoX-5B (49 frames of 720×480, guidance in one batch of 2) and Wan 2.1 14B (81 frames of 832×480, one pass a step)
with random weights in bf16, run by their own pipelines up to the latents; nothing is downloaded. A step is timed from
the end of the step before. Two steps of 1,800 ms differ by more than what the router takes, so that is measured on the
same host with 2 layers, in the same way of running; the host's waits (`torch.cuda.set_sync_debug_mode`) too, once more
with a window (start 0.25, end 0.75), for which each step's progress is needed.
"""

import argparse
import gc
import itertools
import os
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import torch
from diffusers import ContextParallelConfig, DiffusionPipeline, FirstBlockCacheConfig
from timing import machine
from torch import Tensor, nn

from lavieid_adapters import LocalRouter, attach_lavieid

ALWAYS, NEVER = 1e9, 0.0  # thresholds of the first-block cache at which all steps but the first, or none, are skipped
GIB = 2**30


def cogvideox(layers: int = 42) -> DiffusionPipeline:
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=48, num_layers=layers, use_rotary_positional_embeddings=True
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    return diffusers.CogVideoXPipeline(None, None, diffusers.AutoencoderKLCogVideoX(), transformer, scheduler)


def wan(layers: int = 40) -> DiffusionPipeline:
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    transformer = diffusers.WanTransformer3DModel(num_layers=layers)
    return diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=diffusers.AutoencoderKLWan(),
        scheduler=scheduler,
        transformer=transformer,
    )


@dataclass(frozen=True)
class FullSize:
    """A pipeline of full size, or of few layers, and how it is called."""

    make: Callable[..., DiffusionPipeline]
    width: int
    text: int
    call: dict

    def build(self, **layers: int) -> DiffusionPipeline:
        """The pipeline on the GPU, always with the same weights."""
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            pipe = self.make(**layers)
        torch.set_default_dtype(torch.float32)
        pipe.transformer.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def router(self) -> LocalRouter:
        """A router that has an effect, as a trained one has."""
        torch.manual_seed(1)
        router = LocalRouter(dim=self.width).to("cuda", torch.bfloat16).eval().requires_grad_(False)
        nn.init.normal_(router.cross_attention.to_out.weight, std=0.02)
        return router

    def run(self, pipe: DiffusionPipeline, steps: int) -> tuple[list[float], Tensor]:
        """Milliseconds of each step but the first, and the latents."""
        ends: list[torch.cuda.Event] = []

        def note(pipe, index, timestep, tensors):
            ends.append(torch.cuda.Event(enable_timing=True))
            ends[-1].record()
            return {}

        text = torch.randn(2, 1, self.text, 4096, generator=torch.Generator().manual_seed(2)).bfloat16().cuda()
        latents = pipe(
            prompt_embeds=text[0], negative_prompt_embeds=text[1], num_inference_steps=steps, output_type="latent",
            generator=torch.Generator().manual_seed(3), callback_on_step_end=note, **self.call,
        ).frames  # fmt: skip
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in itertools.pairwise(ends)], latents


SIZES = {
    "CogVideoX-5B": FullSize(
        cogvideox, 3072, 226, {"height": 480, "width": 720, "num_frames": 49, "guidance_scale": 6.0}
    ),
    "Wan 2.1 14B": FullSize(wan, 5120, 512, {"height": 480, "width": 832, "num_frames": 81, "guidance_scale": 1.0}),
}


def compiled(pipe: DiffusionPipeline) -> None:
    for block in getattr(pipe.transformer, "transformer_blocks", None) or pipe.transformer.blocks:
        block.compile(fullgraph=True)  # as `compile_repeated_blocks`, which not every transformer has


def group_offload(pipe: DiffusionPipeline) -> None:
    pipe.transformer.to("cpu")
    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cuda"), offload_device=torch.device("cpu"), offload_type="block_level",
        num_blocks_per_group=1, use_stream=True,
    )  # fmt: skip


def fp8(pipe: DiffusionPipeline) -> None:
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)


def first_block_cache(threshold: float) -> Callable[[DiffusionPipeline], None]:
    return lambda pipe: pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))


MODES = {
    "eager": lambda pipe: None,
    "compiled blocks": compiled,
    "layerwise casting to fp8": fp8,
    "first-block cache, computed steps": first_block_cache(NEVER),
    "first-block cache, skipped steps": first_block_cache(ALWAYS),
    "model offload": lambda pipe: pipe.enable_model_cpu_offload(),
    "group offload": group_offload,
}


def put_on(size: FullSize, pipe: DiffusionPipeline):
    """A router with an identity on a pipeline."""
    lavieid = attach_lavieid(pipe, {"router": size.router()})
    lavieid.handle.set_tokens(torch.randn(6, 32, 2048, generator=torch.Generator().manual_seed(4)))
    return lavieid


@dataclass
class Measured:
    """Steps' milliseconds, and the peak of allocated memory in a run."""

    times: list[float]
    peak: float
    latents: Tensor

    @classmethod
    def of(cls, size: FullSize, pipe: DiffusionPipeline, steps: int) -> "Measured":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        times, latents = size.run(pipe, steps)
        return cls(times, torch.cuda.max_memory_allocated() / GIB, latents)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def __str__(self) -> str:
        return f"{self.median:.1f} ({min(self.times):.1f} to {max(self.times):.1f})"


def waits(size: FullSize, pipe: DiffusionPipeline) -> int:
    """How often the host waits for the card in a run of 4 steps."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        size.run(pipe, 4)
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def measure_mode(size: FullSize, mode: str, steps: int) -> str:
    """A row of the table."""
    pipe = size.build(layers=2)
    MODES[mode](pipe)
    size.run(pipe, 3)
    waits_off, off = waits(size, pipe), Measured.of(size, pipe, 20).times
    lavieid = put_on(size, pipe)
    size.run(pipe, 3)
    waits_on, on = waits(size, pipe), Measured.of(size, pipe, 20).times
    lavieid.start, lavieid.end = 0.25, 0.75
    size.run(pipe, 3)  # compiled, a window is another graph
    waits_window = waits(size, pipe)
    lavieid.detach()
    size.run(pipe, 3)
    off += Measured.of(size, pipe, 20).times
    added = statistics.median(on) - statistics.median(off)
    deviation = (statistics.variance(on) / len(on) + statistics.variance(off) / len(off)) ** 0.5
    del pipe, lavieid
    pipe = size.build()
    MODES[mode](pipe)
    base = Measured.of(size, pipe, steps)
    put_on(size, pipe)
    full = Measured.of(size, pipe, steps)
    return (
        f"| {mode} | {base} | {full} | {added:.2f} ± {2 * deviation:.2f} | {added / base.median:.2%} "
        f"| {base.peak:.1f} | {full.peak:.1f} | {waits_off}, {waits_on}, {waits_window} |"
    )


def apart(a: Tensor, b: Tensor) -> float:
    """Relative distance of two runs' latents."""
    return ((a - b).float().norm() / b.float().norm()).item()


def measure_parallel(name: str, size: FullSize, way: str, steps: int) -> None:
    """Two GPUs beside one, off and on, and how far their latents are apart."""
    rank = int(os.environ["RANK"])
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", device_id=torch.device("cuda", rank))
    pipe = size.build()
    pipe.transformer.set_attention_backend("_native_cudnn")  # the one of PyTorch's own that ring attention can take
    rows = {}
    rows["one GPU, off"] = Measured.of(size, pipe, steps)
    lavieid = put_on(size, pipe)
    rows["one GPU, on"] = Measured.of(size, pipe, steps)
    lavieid.detach()
    pipe.transformer.enable_parallelism(config=ContextParallelConfig(**{f"{way}_degree": 2}))
    rows["two GPUs, off"] = Measured.of(size, pipe, steps)
    put_on(size, pipe)
    rows["two GPUs, on"] = Measured.of(size, pipe, steps)
    if rank == 0:
        print(f"{machine()}\n\n| {name}, {way} | ms a step | peak GiB |\n| --- | --- | --- |")
        for row, measured in rows.items():
            print(f"| {row} | {measured} | {measured.peak:.1f} |")
        pairs = ("two GPUs, off", "one GPU, off"), ("two GPUs, on", "one GPU, on"), ("one GPU, on", "one GPU, off")
        for a, b in pairs:
            print(f"latents, {a} beside {b}: {apart(rows[a].latents, rows[b].latents):.2e} apart", flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--parallel", choices=["ulysses", "ring"], help="two GPUs, under torchrun; Wan alone")
    parser.add_argument("--steps", type=int, default=5, help="steps of a full-size run; the first is not timed")
    args = parser.parse_args()
    if args.parallel:
        measure_parallel("Wan 2.1 14B", SIZES["Wan 2.1 14B"], args.parallel, args.steps)
        return
    print(machine())
    for name in args.hosts:
        columns = "ms a step, off | on | router, ms | of a step | peak GiB, off | on | waits, off, on, with a window"
        print(f"\n| {name} | {columns} |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for mode in args.modes:
            print(measure_mode(SIZES[name], mode, args.steps), flush=True)


if __name__ == "__main__":
    main()

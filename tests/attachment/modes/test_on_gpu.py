"""Ways of running that only a GPU has: offloading with streams and of whole pipelines, bitsandbytes, Inductor, two
GPUs."""

import diffusers
import pytest
import torch
import torch.multiprocessing
from support import tiny
from support.modes.rig import RIGS, differ, free_port, no_group_offload
from support.modes.videos import PIPELINES, embeddings, generate

from lavieid_adapters import attach, attach_lavieid
from lavieid_adapters.hosts.pipeline_table import find_pipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CLOSE = {"rtol": 1e-3, "atol": 1e-3}
BF16 = {"device": "cuda", "dtype": torch.bfloat16}  # of a forward


def group_offload(**options):
    def on(pipe):
        pipe.vae.to("cuda")
        pipe.transformer.enable_group_offload(
            onload_device=torch.device("cuda"), offload_device=torch.device("cpu"), use_stream=True, **options
        )

    return on, lambda pipe: no_group_offload(None, pipe.transformer)


def by_accelerate(name: str):
    return lambda pipe: getattr(pipe, name)(), lambda pipe: pipe.remove_all_hooks()


BLOCKS = {"offload_type": "block_level", "num_blocks_per_group": 1}
OFFLOADS = [  # how it is switched on and off
    pytest.param(*by_accelerate("enable_model_cpu_offload"), marks=pytest.mark.mode("model offload")),
    pytest.param(*by_accelerate("enable_sequential_cpu_offload"), marks=pytest.mark.mode("sequential offload")),
    pytest.param(*group_offload(**BLOCKS), marks=pytest.mark.mode("group offload by blocks, with streams")),
    pytest.param(
        *group_offload(**BLOCKS, record_stream=True, non_blocking=True),
        marks=pytest.mark.mode("group offload by blocks, with streams"),
    ),
    pytest.param(
        *group_offload(offload_type="leaf_level"), marks=pytest.mark.mode("group offload by leaves, with streams")
    ),
]


def embedded(rig, pipe):
    """A run by prompt embeddings, whose text encoder stays where it is."""
    pipe.text_encoder = None
    texts = {name: tensor.to("cuda") for name, tensor in embeddings(pipe).items()}
    return generate(pipe, **texts).float().cpu()


def video(pipe, device: str = "cpu"):
    """A run to the pixels, which TAM refines before."""
    texts = {name: tensor.to(device) for name, tensor in embeddings(pipe).items()}
    return generate(pipe, **texts, output_type="pt").float().cpu()


def fitting(pipe) -> dict:
    return {"router": tiny.router(), "tam": tiny.tam(layout=find_pipeline(pipe).layout)}


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("on", "off"), OFFLOADS)
def test_an_offloaded_pipeline_gives_what_one_on_the_gpu_gives(rig, on, off, first):
    make = PIPELINES[rig.name]
    base, other = embedded(rig, make().to("cuda")), make().to("cuda")
    with rig.attach(other.transformer):
        steered = embedded(rig, other)
    assert differ(steered, base)
    pipe = make()
    if first:
        on(pipe)
    handle = rig.attach(pipe.transformer)
    if not first:
        on(pipe)
    torch.testing.assert_close(embedded(rig, pipe), steered, **CLOSE)
    with handle.disabled():
        torch.testing.assert_close(embedded(rig, pipe), base, **CLOSE)
    off(pipe)
    pipe.to("cuda")
    torch.testing.assert_close(embedded(rig, pipe), steered, **CLOSE)
    pipe.to("cpu")
    on(pipe)
    torch.testing.assert_close(embedded(rig, pipe), steered, **CLOSE)
    handle.detach()
    torch.testing.assert_close(embedded(rig, pipe), base, **CLOSE)
    off(pipe)
    torch.testing.assert_close(embedded(rig, pipe.to("cuda")), base, **CLOSE)


@pytest.mark.mode('`.to("cuda")` after attaching')
def test_a_pipeline_that_is_moved_after_all_was_set(rig):
    """The identity, the strengths and the window are set on the CPU, and changed again where the pipeline is then."""
    make = PIPELINES[rig.name]

    def attached(pipe):
        lavieid = attach_lavieid(pipe, fitting(pipe))
        lavieid.set_identity(tiny.tokens())
        lavieid.component_scales, lavieid.end = {"hair": 0.5}, 0.4
        return lavieid

    pipe, twin = make(), make().to("cuda")
    base = video(pipe)
    lavieid = attached(pipe)
    steered = video(pipe)
    assert differ(steered, base)
    wanted, there = video(twin, "cuda"), attached(twin)
    moved = video(pipe.to("cuda"), "cuda")
    assert differ(moved, wanted)
    torch.testing.assert_close(moved, video(twin, "cuda"), **CLOSE)
    for each in (lavieid, there):
        each.scale, each.end = 0.5, 1.0
    changed = video(pipe, "cuda")
    assert differ(changed, moved, 1e-3)
    torch.testing.assert_close(changed, video(twin, "cuda"), **CLOSE)
    with lavieid.disabled():
        torch.testing.assert_close(video(pipe, "cuda"), wanted, **CLOSE)
    lavieid.scale, lavieid.end = 1.0, 0.4
    torch.testing.assert_close(video(pipe.to("cpu")), steered)
    lavieid.detach()
    torch.testing.assert_close(video(pipe), base)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"load_in_8bit": True}, marks=pytest.mark.mode("bitsandbytes, int8")),
        pytest.param(
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16},
            marks=pytest.mark.mode("bitsandbytes, nf4"),
        ),
    ],
)
def test_a_host_loaded_by_bitsandbytes(rig, tmp_path, config):
    pytest.importorskip("bitsandbytes")
    rig.make().save_pretrained(tmp_path)
    quantisation = diffusers.BitsAndBytesConfig(**config)
    model = type(rig.make()).from_pretrained(tmp_path, quantization_config=quantisation, torch_dtype=torch.bfloat16)
    model.eval().to("cuda")
    base, streams = rig.forward(model, **BF16), []
    hook = rig.blocks(model)[0].register_forward_hook(
        lambda module, args, out: streams.append(out[0] if rig.text else out)
    )
    rig.forward(model, **BF16)
    with rig.attach(model) as handle:
        assert differ(rig.forward(model, **BF16), base)
    hook.remove()
    wanted = handle.router(streams[0], tiny.tokens(1).to("cuda"))
    torch.testing.assert_close(streams[1], wanted, rtol=0.05, atol=0.05)
    assert torch.equal(rig.forward(model, **BF16), base)


# Of identity, scale, hair's scale and whether it is enabled, one changes at a time.
SETTINGS = (
    (0, 1.0, 1.0, True),
    (1, 1.0, 1.0, True),
    (1, 0.5, 1.0, True),
    (1, 0.5, 0.0, True),
    (1, 0.5, 0.0, False),
    (1, 0.5, 0.0, True),
)


@pytest.mark.mode("`torch.compile`, by Inductor")
@pytest.mark.parametrize("by_block", [False, True])
def test_compiled_by_inductor(rig, by_block):
    torch._dynamo.reset()
    model, twin = (rig.make().to("cuda", torch.bfloat16) for _ in range(2))
    base, compiled = rig.forward(twin, **BF16), model
    if by_block:
        for block in rig.blocks(model):
            block.compile(fullgraph=True)
    else:
        compiled = torch.compile(model, fullgraph=True)
    router = tiny.router(tokens_per_component=16).to("cuda", torch.bfloat16)  # which Triton's kernels can tile
    strict = torch._dynamo.config.patch(error_on_recompile=True)
    with strict, attach(router, compiled) as handle, attach(router, twin) as eager:
        for seed, scale, hair, enabled in SETTINGS:
            tokens = torch.randn(6, 16, tiny.TOKEN_DIM, generator=torch.Generator().manual_seed(seed)).to("cuda")
            for h in (handle, eager):
                h.set_tokens(tokens)
                h.scale, h.component_scales, h.enabled = scale, {"hair": hair}, enabled
            out = rig.forward(compiled, **BF16)
            assert not differ(out, rig.forward(twin, **BF16))
            assert differ(out, base, 0.1) == enabled


def two_gpus(rank: int, port: int, name: str, way: str, folder) -> None:
    """One of two processes: what the host gives alone and with the other, each without and with a router."""
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, device_id=device)
    rig = next(rig for rig in RIGS if rig.name == name)
    model = rig.make().to(device, torch.bfloat16)
    model.set_attention_backend("_native_cudnn")  # ring attention needs its log-sum-exp
    outputs = {}

    def forward(key):
        outputs[key] = rig.forward(model, device=device, dtype=torch.bfloat16).float().cpu()

    for gpus in ("one", "two"):
        if gpus == "two":
            model.enable_parallelism(config=diffusers.ContextParallelConfig(**{f"{way}_degree": 2}))
        forward(f"{gpus}, base")
        with rig.attach(model):
            forward(f"{gpus}, steered")
    torch.save(outputs, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(
    "way",
    [
        pytest.param("ulysses", marks=pytest.mark.mode("context parallelism (Ulysses), two GPUs")),
        pytest.param("ring", marks=pytest.mark.mode("context parallelism (ring), two GPUs")),
    ],
)
def test_two_gpus_give_what_one_gives(rig, tmp_path, way):
    if rig.make()._cp_plan is None:
        pytest.skip("diffusers has no context parallelism for it")
    torch.multiprocessing.spawn(two_gpus, (free_port(), rig.name, way, tmp_path), nprocs=2)
    for rank in range(2):
        outputs = torch.load(tmp_path / f"{rank}.pt")
        assert differ(outputs["one, steered"], outputs["one, base"], 0.1)
        for kind in ("base", "steered"):
            assert not differ(outputs[f"two, {kind}"], outputs[f"one, {kind}"], 0.02)

"""Where a host's weights lie and of which dtype they are, its caches and its fused projections: with a router attached
before or after, each gives what it gives with the router built into the block, and without it what it gave."""

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from support.modes.rig import CLOCK, TIMES, differ, no_group_offload

CPU = torch.device("cpu")
SPATIAL = {"spatial_attention_block_skip_range": 2, "spatial_attention_timestep_skip_range": (100, 800)}


def to(dtype):
    return lambda rig, model: model.to(dtype)


def layerwise(rig, model):
    model.to(torch.bfloat16).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)


def group_offload(**options):
    return lambda rig, model: model.enable_group_offload(onload_device=CPU, **options)


def sequential_offload(rig, model):
    cpu_offload(model, CPU, offload_buffers=True)


def cache(make):
    return lambda rig, model: model.enable_cache(make(rig))


def no_cache(rig, model):
    model.disable_cache()


def faster_cache(rig):
    return diffusers.FasterCacheConfig(
        **SPATIAL, current_timestep_callback=lambda: CLOCK[0], tensor_format=rig.layout,
        unconditional_batch_skip_range=2, unconditional_batch_timestep_skip_range=(0, 1000),
        attention_weight_callback=lambda _: 0.3,
    )  # fmt: skip


def pyramid(rig):
    return diffusers.PyramidAttentionBroadcastConfig(**SPATIAL, current_timestep_callback=lambda: CLOCK[0])


def mag_cache(rig):
    count = len(TIMES)
    return diffusers.MagCacheConfig(1e9, retention_ratio=0.2, num_inference_steps=count, mag_ratios=[1.0] * count)


def taylor(**options):
    return lambda rig: diffusers.TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, **options)


def sea_cache(rig):
    def seen(module, args, kwargs):
        return list(kwargs["hidden_states"])

    return diffusers.SeaCacheConfig(1e9, cache_end_steps=0, raw_vision_callback=seen)


def fused(rig, model):
    model.fuse_qkv_projections()


def unfused(rig, model):
    model.unfuse_qkv_projections()


ATTENTION = [r"(transformer_)?blocks\.\d+\.attn1"]
PLACES = [  # what it is called, how it is switched on and off, and the dtype of what is computed
    pytest.param(to(torch.bfloat16), None, torch.bfloat16, marks=pytest.mark.mode("`.to(torch.bfloat16)`")),
    pytest.param(to(torch.float16), None, torch.float16, marks=pytest.mark.mode("`.to(torch.float16)`")),
    pytest.param(layerwise, None, torch.bfloat16, marks=pytest.mark.mode("layerwise casting to fp8")),
    pytest.param(
        group_offload(offload_type="block_level", num_blocks_per_group=1), no_group_offload, torch.float32,
        marks=pytest.mark.mode("group offload by blocks, its hooks on the CPU"),
    ),
    pytest.param(
        group_offload(offload_type="leaf_level"), no_group_offload, torch.float32,
        marks=pytest.mark.mode("group offload by leaves, its hooks on the CPU"),
    ),
    pytest.param(
        sequential_offload, lambda rig, model: remove_hook_from_submodules(model), torch.float32,
        marks=pytest.mark.mode("sequential offload by accelerate"),
    ),
    pytest.param(
        cache(lambda rig: diffusers.FirstBlockCacheConfig(1e9)), no_cache, torch.float32,
        marks=pytest.mark.mode("first-block cache"),
    ),
    pytest.param(cache(faster_cache), no_cache, torch.float32, marks=pytest.mark.mode("FasterCache")),
    pytest.param(cache(pyramid), no_cache, torch.float32, marks=pytest.mark.mode("pyramid attention broadcast")),
    pytest.param(cache(mag_cache), no_cache, torch.float32, marks=pytest.mark.mode("MagCache")),
    pytest.param(
        cache(taylor(cache_identifiers=ATTENTION)), no_cache, torch.float32, marks=pytest.mark.mode("TaylorSeer")
    ),
    pytest.param(cache(taylor(use_lite_mode=True)), no_cache, torch.float32, marks=pytest.mark.mode("TaylorSeer lite")),
    pytest.param(cache(sea_cache), no_cache, torch.float32, marks=pytest.mark.mode("SeaCache")),
    pytest.param(fused, unfused, torch.float32, marks=pytest.mark.mode("fused QKV projections")),
]  # fmt: skip


@pytest.mark.parametrize(("first", "block_idx"), [(True, 1), (False, 0)])
@pytest.mark.parametrize(("on", "off", "dtype"), PLACES)
def test_gives_what_a_router_built_into_the_block_gives(rig, on, off, dtype, first, block_idx):
    base, built, model = rig.make(), rig.built(block_idx), rig.make()
    plain, steered = rig.run(base), rig.run(built)
    for reference in (base, built):
        on(rig, reference)
    without, wanted = rig.run(base, dtype), rig.run(built, dtype)
    assert differ(wanted, without)
    if base.is_cache_enabled:
        assert differ(wanted, steered, 1e-3)  # the cache was hit

    if first:
        on(rig, model)
    handle = rig.attach(model, block_idx=block_idx)
    if not first:
        on(rig, model)
    torch.testing.assert_close(rig.run(model, dtype), wanted)
    with handle.disabled():
        assert torch.equal(rig.run(model, dtype), without)
    if off is not None:
        off(rig, model)
        torch.testing.assert_close(rig.run(model), steered)
        on(rig, model)
        torch.testing.assert_close(rig.run(model, dtype), wanted)
    handle.detach()
    assert torch.equal(rig.run(model, dtype), without)
    if off is not None:
        off(rig, model)
        torch.testing.assert_close(rig.run(model), plain)

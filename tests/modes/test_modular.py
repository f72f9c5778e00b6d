"""A modular pipeline, whose transformer gets a router like any other."""

import pytest
import tiny
import torch
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from rig import differ
from tiny import noise
from videos import embeddings, wan_pipeline

from lavieid_adapters import attach


@pytest.mark.mode("modular pipeline", host="Wan")
def test_a_modular_pipeline_with_a_router():
    parts = wan_pipeline()
    pipe = WanCoreDenoiseStep().init_pipeline()
    pipe.update_components(transformer=parts.transformer, scheduler=parts.scheduler)

    def generate():
        return pipe(
            **embeddings(parts), latents=noise(1, 4, 3, 8, 12), num_inference_steps=2, output="latents",
            height=64, width=96, num_frames=9, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    base = generate()
    with attach(tiny.router(), pipe.transformer) as handle:
        handle.set_tokens(tiny.tokens())
        full = generate()
        assert differ(full, base)
        handle.set_tokens(tiny.tokens(seed=3))
        assert differ(generate(), full)
        with handle.disabled():
            assert torch.equal(generate(), base)
        handle.set_tokens(tiny.tokens())
        with handle.record_routes((3, 4, 6)) as routes:
            assert torch.equal(generate(), full)
        assert len(routes) == 4  # two steps, each with and without the prompt
        handle.end = 0.1
        windowed = generate()
        assert differ(windowed, full, 1e-3)
        assert differ(windowed, base, 1e-3)
    assert torch.equal(generate(), base)

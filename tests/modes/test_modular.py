"""A modular pipeline, whose transformer gets a router like any other, and which gets adapters like any other."""

import diffusers
import pytest
import tiny
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from rig import differ
from tiny import noise
from torch import nn
from videos import embeddings, wan_pipeline

from lavieid_adapters import attach, attach_lavieid

CALL = {"num_inference_steps": 2, "height": 64, "width": 96, "num_frames": 9, "output_type": "pt"}


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


def modular(parts):
    """A pipeline's models in the blocks of Wan, which begin with embeddings of prompts."""
    blocks = diffusers.WanBlocks()
    blocks.sub_blocks.pop("text_encoder")
    pipe = blocks.init_pipeline()
    models = {name: getattr(parts, name) for name in ("transformer", "scheduler", "vae")}
    pipe.update_components(**models, guider=ClassifierFreeGuidance(5.0))
    return pipe


def adapters() -> dict:
    return {"router": tiny.router(), "tam": tiny.tam(layout="bcfhw")}


@pytest.mark.mode("modular pipeline", host="Wan")
def test_a_modular_pipeline_with_adapters_gives_the_videos_of_the_other():
    parts = wan_pipeline()
    pipe, call = modular(parts), {**CALL, **embeddings(parts), "latents": noise(1, 4, 3, 8, 12)}
    calls = {
        pipe: lambda: pipe(**call, output="videos"),
        parts: lambda: parts(**call, guidance_scale=5.0).frames,
    }
    base, videos = pipe(**call, output="videos"), []
    for each, generate in calls.items():
        with attach_lavieid(each, adapters()) as lavieid:
            lavieid.set_identity(tiny.tokens())
            whole = generate()
            lavieid.end = 0.4  # the first step alone
            window = generate()
            lavieid.beta = 0.0
            router = generate()
            with lavieid.disabled():
                assert torch.equal(generate(), base)
        videos.append((whole, window, router))
        assert torch.equal(generate(), base)
        assert "decode" not in vars(each.vae)
    for modular_video, video in zip(*videos, strict=True):
        torch.testing.assert_close(modular_video, video, rtol=0, atol=0)
    states = (base, *videos[0])
    assert not any(torch.equal(a, b) for i, a in enumerate(states) for b in states[:i])


@pytest.mark.mode("modular pipeline", host="Wan")
def test_a_modular_pipeline_shows_one_identity_a_prompt_and_refines_latents_by_hand():
    parts = wan_pipeline()
    pipe, people = modular(parts), tiny.tokens(2)
    call = {**CALL, **embeddings(parts, 2), "latents": noise(2, 4, 3, 8, 12)}
    with attach_lavieid(pipe, adapters()) as lavieid:
        alone = []
        for i, person in enumerate(people):
            lavieid.set_identity(person)
            alone.append(pipe(**call, output="latents")[i])
        lavieid.set_identity(people)
        both = pipe(**call, output=["latents", "videos"])
        torch.testing.assert_close(both["latents"], torch.stack(alone), rtol=1e-3, atol=1e-4)
        refined = lavieid.refine(both["latents"])
        with lavieid.disabled():
            decode = diffusers.WanBlocks().sub_blocks["decode"].init_pipeline()
            decode.update_components(vae=pipe.vae)
            video = decode(latents=refined, output_type="pt", output="videos")
        torch.testing.assert_close(video, both["videos"], rtol=0, atol=1e-4)


@pytest.mark.mode("modular pipeline", host="Wan")
def test_a_modular_pipeline_with_untrained_adapters_gives_its_own_videos():
    parts = wan_pipeline()
    pipe, call = modular(parts), {**CALL, **embeddings(parts), "latents": noise(1, 4, 3, 8, 12), "output": "videos"}
    base, fresh = pipe(**call), adapters()
    for weight in (fresh["router"].cross_attention.to_out.weight, *fresh["tam"].to_latents.parameters()):
        nn.init.zeros_(weight)
    with attach_lavieid(pipe, fresh) as lavieid:
        lavieid.set_identity(tiny.tokens())
        assert torch.equal(pipe(**call), base)


def test_a_modular_pipeline_knows_where_it_was_loaded_from(tmp_path):
    parts = wan_pipeline()
    modular(parts).save_pretrained(str(tmp_path), overwrite_modular_index=True)
    pipe = diffusers.ModularPipeline.from_pretrained(tmp_path)
    pipe.load_components()
    with attach_lavieid(pipe, adapters()) as lavieid:
        assert lavieid.metadata.base_model == str(tmp_path)
        lavieid.save_pretrained(tmp_path / "lavieid")
    with attach_lavieid(pipe) as lavieid:  # those that the base brings
        assert torch.equal(lavieid.router.aggregate, adapters()["router"].aggregate)

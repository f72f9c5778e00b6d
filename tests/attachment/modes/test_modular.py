"""A modular pipeline, whose transformer gets a router like any other, and which gets adapters like any other."""

import diffusers
import pytest
import torch
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from support import tiny
from support.hosts import wan_family
from support.hosts.modular_family import wan_modular_pipeline
from support.modes.rig import differ
from support.modes.videos import embeddings, wan_pipeline
from support.tiny import noise

from lavieid_adapters import attach, attach_lavieid


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


def adapters() -> dict:
    return {"router": tiny.router(), "tam": tiny.tam(layout="bcfhw")}


@pytest.mark.mode("modular pipeline", host="Wan")
def test_a_modular_pipeline_shows_one_identity_a_prompt_and_refines_latents_by_hand():
    pipe, call = wan_modular_pipeline()
    people, frames, height, width = tiny.tokens(2), *wan_family.GRID
    call |= {**embeddings(pipe, 2), "latents": noise(2, 4, frames, height, width), "output_type": "pt"}
    del call["output"]
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
            assert differ(pipe(**call, output="videos"), both["videos"])
        torch.testing.assert_close(video, both["videos"], rtol=0, atol=1e-4)


def test_a_modular_pipeline_knows_where_it_was_loaded_from(tmp_path):
    wan_modular_pipeline()[0].save_pretrained(str(tmp_path), overwrite_modular_index=True)
    pipe = diffusers.ModularPipeline.from_pretrained(tmp_path)
    pipe.load_components()
    with attach_lavieid(pipe, adapters()) as lavieid:
        assert lavieid.metadata.base_model == str(tmp_path)
        lavieid.save_pretrained(tmp_path / "lavieid")
    with attach_lavieid(pipe) as lavieid:  # those that the base brings
        assert torch.equal(lavieid.router.aggregate, adapters()["router"].aggregate)

"""Whole pipelines whose models are offloaded, and TAM before a VAE that works in tiles and slices."""

import accelerate
import pytest
import torch
from support import tiny
from support.modes.rig import differ
from support.modes.videos import PIPELINES, generate, put_on
from support.pipelines import build

from lavieid_adapters import Identity, attach_lavieid

CPU = torch.device("cpu")


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "offload",
    [
        pytest.param(
            lambda pipe: pipe.enable_model_cpu_offload(device=CPU),
            marks=pytest.mark.mode("model offload, its hooks on the CPU"),
        ),
    ],
)
def test_an_offloaded_pipeline_with_a_router(rig, offload, first):
    pipe, twin = PIPELINES[rig.name](), PIPELINES[rig.name]()
    base, steered = generate(pipe), None
    with put_on(twin) as handle:
        handle.set_tokens(tiny.tokens())
        steered = generate(twin)
    assert differ(steered, base)
    if first:
        offload(pipe)
    handle = put_on(pipe)
    handle.set_tokens(tiny.tokens())
    if not first:
        offload(pipe)
    torch.testing.assert_close(generate(pipe), steered)
    pipe.remove_all_hooks()
    torch.testing.assert_close(generate(pipe), steered)
    offload(pipe)
    torch.testing.assert_close(generate(pipe), steered)
    handle.detach()
    torch.testing.assert_close(generate(pipe), base)
    pipe.remove_all_hooks()
    torch.testing.assert_close(generate(pipe), base)
    assert not any(hasattr(module, "_hf_hook") for module in pipe.transformer.modules())


@pytest.mark.mode("VAE tiling and slicing, with TAM", host="CogVideoX")
@pytest.mark.parametrize("way", ["tiling", "slicing"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_tam_before_a_vae_in_parts(way, first):
    pipe, prompts = build()[0], 2 if way == "slicing" else 1
    if way == "tiling":
        pipe.vae.tile_latent_min_height = pipe.vae.tile_latent_min_width = 4
        pipe.vae.tile_sample_min_height = pipe.vae.tile_sample_min_width = 32
        pipe.vae.tile_overlap_factor_height = pipe.vae.tile_overlap_factor_width = 0.25
    switch = getattr(pipe.vae, f"enable_{way}")
    if first:
        switch()
    with attach_lavieid(pipe, tiny.tam()) as lavieid:
        latents = tiny.latents(prompts, 3, 4, 8, 12)
        refined = tiny.tam().refine(latents, chunks=3)
        assert differ(refined, latents)
        switch()
        frames = pipe.decode_latents(latents)
        assert lavieid.chunks == 4
        wanted = type(pipe).decode_latents(pipe, refined)
        torch.testing.assert_close(frames, wanted)
        getattr(pipe.vae, f"disable_{way}")()
        whole = type(pipe).decode_latents(pipe, refined)
        assert torch.allclose(whole, wanted, atol=1e-5) == (way == "slicing")


@pytest.mark.mode("VAE tiling and slicing, with TAM", host="Wan")
def test_tam_before_the_vae_of_a_pipeline_that_decodes_by_it_alone():
    pipe = PIPELINES["Wan"]()
    base = generate(pipe, 2, output_type="pt")
    with attach_lavieid(pipe, tiny.tam()) as lavieid:
        refined = generate(pipe, 2, output_type="pt")
        assert differ(refined, base)
        pipe.vae.enable_slicing()
        torch.testing.assert_close(generate(pipe, 2, output_type="pt"), refined)
        pipe.vae.disable_slicing()
        pipe.vae.enable_tiling(32, 32, 16, 16)
        tiled = generate(pipe, 2, output_type="pt")
        latents = lavieid.refine(generate(pipe, 2))
        with lavieid.disabled():
            assert differ(generate(pipe, 2, output_type="pt"), tiled)
            config = pipe.vae.config
            std, mean = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_std, config.latents_mean))
            video = pipe.vae.decode(latents * std + mean).sample
        torch.testing.assert_close(pipe.video_processor.postprocess_video(video, "pt"), tiled, rtol=1e-3, atol=1e-4)


def test_the_vae_takes_its_latents_by_name_as_well():
    pipe, latents = PIPELINES["Wan"](), tiny.latents(1, 4, 3, 8, 12)
    base = pipe.vae.decode(z=latents).sample
    with attach_lavieid(pipe, tiny.tam()):
        refined = pipe.vae.decode(z=latents, return_dict=True).sample
        assert differ(refined, base)
        assert torch.equal(pipe.vae.decode(latents).sample, refined)


def offload_adapter(way, adapter, folder):
    if way == "cpu_offload":
        return accelerate.cpu_offload(adapter, CPU)
    if way == "disk_offload":
        return accelerate.disk_offload(adapter, folder, CPU)
    first, *rest = [name for name, _ in adapter.named_children()]
    own = dict.fromkeys(adapter._parameters, "cpu")
    device_map = {**own, first: "cpu", **dict.fromkeys(rest, "disk")}
    return accelerate.dispatch_model(adapter, device_map, main_device=CPU, offload_dir=folder, force_hooks=True)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("way", ["cpu_offload", "disk_offload", "dispatch_model"])
def test_adapters_that_accelerate_offloads_give_what_they_give_without(way, first, tmp_path):
    pipe = PIPELINES["CogVideoX"]()
    base = generate(pipe, output_type="pt")
    with attach_lavieid(pipe, [tiny.router(), tiny.tam()]) as lavieid:
        lavieid.set_identity(tiny.tokens())
        wanted = generate(pipe, output_type="pt")
        lavieid.scale = 0.0
        assert differ(wanted, base, 1e-3) and differ(wanted, generate(pipe, output_type="pt"), 1e-3)
    adapters = router, tam = tiny.router(), tiny.tam()
    if first:
        for adapter in adapters:
            offload_adapter(way, adapter, tmp_path / type(adapter).__name__)
    with attach_lavieid(pipe, adapters) as lavieid:
        if not first:
            for adapter in adapters:
                offload_adapter(way, adapter, tmp_path / type(adapter).__name__)
        lavieid.set_identity(Identity(tiny.tokens()))
        assert router.to_video.weight.is_meta and tam.phi.to_out.weight.is_meta
        torch.testing.assert_close(generate(pipe, output_type="pt"), wanted, rtol=1e-4, atol=1e-4)
        assert router.to_video.weight.is_meta and tam.phi.to_out.weight.is_meta
        pipe.vae.to("meta")  # where offloading leaves a model between uses, and after which TAM goes to rest
        latents = tiny.latents(1, 3, 4, 8, 12)
        assert differ(lavieid.refine(latents), latents, 1e-3)
    torch.testing.assert_close(tam.refine(latents, 3), tiny.tam().refine(latents, 3), rtol=1e-4, atol=1e-4)

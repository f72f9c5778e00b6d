"""What is special about modular pipelines: guiders, components that come late, and what they have in common with the
pipelines that are not modular."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance, PerturbedAttentionGuidance, SkipLayerGuidance
from support import tiny
from support.hosts import hunyuan_family as hunyuan
from support.hosts import ltx_family as ltx
from support.hosts import modular_family as modular
from support.hosts import wan_family as wan
from support.hosts.runs import fitting, generate, same

from lavieid_adapters import attach_lavieid

# Guidance in one batch (LTX) is rounded otherwise than that of a call each.
TWINS = {
    modular.hunyuan_video15_modular_pipeline: (hunyuan.hunyuan_video15_pipeline, 0),
    modular.ltx_modular_pipeline: (ltx.ltx_pipeline, 1e-4),
    modular.ltx_image_to_video_modular_pipeline: (ltx.ltx_image_to_video_pipeline, 1e-4),
    modular.ltx2_modular_pipeline: (ltx.ltx2_pipeline, 1e-3),
    modular.wan_modular_pipeline: (wan.wan_pipeline, 0),
    modular.wan_i2v_modular_pipeline: (wan.wan_i2v_pipeline, 0),
    modular.wan22_modular_pipeline: (wan.wan22_pipeline, 0),
    modular.wan22_i2v_modular_pipeline: (wan.wan22_i2v_pipeline, 0),
}


def with_adapters(pipe, call: dict):
    """The videos of a pipeline with adapters that act, the router in the first of two steps."""
    with attach_lavieid(pipe, fitting(pipe)) as lavieid:
        lavieid.set_identity(tiny.tokens())
        lavieid.end = 0.4
        return np.asarray(generate(pipe, call))


@pytest.mark.parametrize("build", TWINS, ids=lambda build: build.__name__)
def test_the_videos_are_those_of_the_pipeline_that_is_not_modular(build):
    other, tolerance = TWINS[build]
    pipe, call = build()
    adapted = with_adapters(pipe, call)
    np.testing.assert_allclose(adapted, with_adapters(*other()), rtol=0, atol=tolerance)
    assert abs(adapted - np.asarray(generate(pipe, call))).max() > 0.01


GUIDERS = {
    "none": ClassifierFreeGuidance(1.0),
    "original": ClassifierFreeGuidance(3.0, use_original_formulation=True),
    "skipping the router's block": SkipLayerGuidance(3.0, skip_layer_guidance_layers=[0], skip_layer_guidance_stop=0.9),
    "perturbing the router's block": PerturbedAttentionGuidance(
        3.0, perturbed_guidance_layers=[0], perturbed_guidance_stop=0.9
    ),
}


@pytest.mark.parametrize("name", GUIDERS)
def test_each_prompt_has_its_identity_with_any_guider(name):
    pipe, call = modular.ltx_modular_pipeline()
    pipe.update_components(guider=GUIDERS[name])
    call = {k: torch.cat([v, v]) if "prompt" in k else v for k, v in call.items()}
    base, people = generate(pipe, call), tiny.tokens(2)
    with attach_lavieid(pipe, fitting(pipe)) as lavieid:

        def videos(identity):
            lavieid.set_identity(identity)
            return np.asarray(generate(pipe, call))

        first, second, both = videos(people[0]), videos(people[1]), videos(people)
        np.testing.assert_allclose(both[0], first[0], rtol=0, atol=1e-4)
        np.testing.assert_allclose(both[1], second[1], rtol=0, atol=1e-4)
        assert abs(first[1] - second[1]).max() > 1e-3
        with pytest.raises(ValueError, match=r"4 identities .* do not fit a batch|4 identities .* need a batch"):
            videos(tiny.tokens(4))
        call["num_videos_per_prompt"] = 2  # a batch of 4, which is not two passes
        with pytest.raises(ValueError, match="2 identities with 1 videos a prompt need a batch of 2"):
            videos(people)
        lavieid.set_identity(people, videos_per_prompt=2)
        assert len(generate(pipe, call)) == 4
    del call["num_videos_per_prompt"]
    assert same(generate(pipe, call), base)


@pytest.mark.parametrize(("name", "missing"), [("transformer", "transformer"), ("vae", "VAE")])
def test_models_must_be_loaded_before_adapters_are_attached(name, missing):
    pipe, _ = modular.wan_modular_pipeline()
    adapters = fitting(pipe)
    setattr(pipe, name, None)
    for given in (None, adapters):
        with pytest.raises(ValueError, match=f"This WanModularPipeline has no {missing}.*Load one"):
            attach_lavieid(pipe, given)
    with pytest.raises(ValueError, match="has no transformer"):
        attach_lavieid(diffusers.WanModularPipeline())


def test_blocks_without_a_decoder_say_so():
    denoising = diffusers.WanBlocks().sub_blocks["denoise"].init_pipeline()
    denoising.update_components(transformer=wan.wan()[0])
    with pytest.raises(ValueError, match="This WanModularPipeline has no VAE"):
        attach_lavieid(denoising)


def test_a_transformer_that_comes_after_the_adapters_is_told():
    pipe, call = modular.wan22_modular_pipeline()
    second = pipe.transformer_2
    pipe.update_components(transformer_2=None)
    with attach_lavieid(pipe, fitting(pipe)) as lavieid:
        lavieid.set_identity(tiny.tokens())
        pipe.update_components(transformer_2=second)
        with pytest.raises(ValueError, match="got a WanTransformer3DModel after adapters were attached"):
            lavieid.set_identity(tiny.tokens())
    base = generate(pipe, call)
    with attach_lavieid(pipe, fitting(pipe)) as lavieid:
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")  # the same in a wrapper
        lavieid.set_identity(tiny.tokens())
        assert not same(generate(pipe, call), base)


def test_a_vae_that_comes_after_tam_is_told():
    pipe, call = wan.wan_pipeline()
    pipe.set_progress_bar_config(disable=True)
    vae, tam = pipe.vae, tiny.tam(layout="bcfhw")
    with attach_lavieid(pipe, {"router": tiny.router(), "tam": tam}) as lavieid:
        lavieid.set_identity(tiny.tokens())
        pipe.vae = wan.wan_pipeline()[0].vae
        for use in (
            lambda: lavieid.set_identity(tiny.tokens()),
            lambda: lavieid.refine(torch.zeros(1, 4, 3, 4, 6)),
            lambda: pipe(**call),
        ):
            with pytest.raises(ValueError, match="got another AutoencoderKLWan after adapters were attached"):
                use()
        pipe.vae = None  # to spare memory
        pipe(**{**call, "output_type": "latent"})
        pipe.vae = vae
        pipe(**call)


def test_both_decoders_of_a_pipeline_are_refined():
    pipe, call = modular.ltx25_modular_pipeline()
    pipe.update_components(vae=ltx.ltx2_vae())  # whose factors are 4 and 8
    call = {**call, "height": 32, "width": 32, "num_frames": 9}
    latents = tiny.noise(1, 4, 3, 4, 4)

    def decoded():
        return generate(pipe, call), pipe.vae.decode(latents, return_dict=False)[0].detach()

    base = decoded()
    with attach_lavieid(pipe, {"tam": fitting(pipe)["tam"]}):
        assert not any(same(one, other) for one, other in zip(decoded(), base, strict=True))
    assert all(same(one, other) for one, other in zip(decoded(), base, strict=True))

"""What hosts differ in, in runs of their pipelines: prompts under guidance, windows, where the clip is, two
transformers."""

import math

import pytest
import torch
from support import tiny
from support.hosts import cosmos_family as cosmos
from support.hosts import hunyuan_family as hunyuan
from support.hosts import ltx_family as ltx
from support.hosts import modular_family as family
from support.hosts import wan_family as wan
from support.hosts.runs import fitting, generate, hosted
from torch import Tensor

from lavieid_adapters import attach, attach_lavieid
from lavieid_adapters.attachment.forward_context import ForwardContext

TWO = {  # guidance apart, and in one batch, and both (LTX-2)
    "apart": (wan.wan_pipeline, hunyuan.hunyuan_video_pipeline, cosmos.cosmos_text_to_world_pipeline),
    "doubled": (ltx.ltx_pipeline, ltx.mochi_pipeline, ltx.latte_pipeline, hunyuan.easyanimate_pipeline),
    "both": (ltx.ltx2_pipeline,),
}


def two_prompts(call: dict) -> dict:
    """The call with each embedding twice: two prompts that say the same."""
    return {k: torch.cat([v, v]) if isinstance(v, Tensor) and "prompt" in k else v for k, v in call.items()}


@pytest.mark.parametrize("build", [build for builds in TWO.values() for build in builds], ids=lambda b: b.__name__)
def test_each_prompt_has_its_identity(build):
    pipe, call = build()
    pipe.set_progress_bar_config(disable=True)
    call, people = {**two_prompts(call), "output_type": "latent"}, tiny.tokens(2)
    if build is ltx.latte_pipeline:
        call["output_type"] = "np"
    with attach_lavieid(pipe, {"router": fitting(pipe)["router"]}) as lavieid:

        def latents(identity) -> Tensor:
            lavieid.set_identity(identity)
            return torch.as_tensor(generate(pipe, call))

        first, second, both = latents(people[0]), latents(people[1]), latents(people)
        torch.testing.assert_close(both[0], first[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(both[1], second[1], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(first[1], second[1], rtol=1e-3, atol=1e-4)
        lavieid.set_identity(tiny.tokens(4))
        with pytest.raises(ValueError, match=r"4 identities .* need a batch of|4 identities .* do not fit a batch"):
            generate(pipe, call)


@pytest.mark.parametrize("build", [wan.wan_pipeline, ltx.ltx_pipeline, ltx.ltx2_pipeline], ids=lambda b: b.__name__)
def test_two_identities_for_one_prompt_are_refused(build):
    pipe, call = build()
    pipe.set_progress_bar_config(disable=True)
    with attach_lavieid(pipe, {"router": fitting(pipe)["router"]}) as lavieid:
        lavieid.set_identity(tiny.tokens(2))
        with pytest.raises(ValueError, match="2 identities with 1 videos a prompt need a batch of"):
            generate(pipe, call)


@pytest.mark.parametrize("build", [*TWO["doubled"], *TWO["both"]], ids=lambda b: b.__name__)
def test_without_guidance_a_batch_twice_as_long_is_not_two_passes(build):
    """Two videos of each of two prompts, 0, 0, 1, 1, would show a, b, a, b."""
    pipe, call = build()
    pipe.set_progress_bar_config(disable=True)
    call = {**two_prompts(two_prompts(call)), "guidance_scale": 1.0}
    with attach_lavieid(pipe, {"router": fitting(pipe)["router"]}) as lavieid:
        lavieid.set_identity(tiny.tokens(2))
        with pytest.raises(ValueError, match="2 identities with 1 videos a prompt need a batch of"):
            generate(pipe, call)
        lavieid.set_identity(tiny.tokens(2), videos_per_prompt=2)
        generate(pipe, {**call, "output_type": "np" if build is ltx.latte_pipeline else "latent"})


def steps_in_window(handle, run) -> list[bool]:
    """In which forwards of a run a router with a window acts."""
    acted, now = [], handle.strength.now
    handle.strength.now = lambda *args: acted.append(now(*args).bool().any().item()) or now(*args)
    handle.start, handle.end = 0.25, 0.75
    run()
    del handle.strength.now
    return acted


def test_a_run_that_is_over_does_not_tell_the_progress_of_another():
    (modular, its_call), (pipe, call) = family.wan_modular_pipeline(), wan.wan_pipeline()
    pipe.transformer = modular.transformer
    call = {**call, "num_inference_steps": 8, "output_type": "latent"}
    for each in (modular, pipe):
        each.set_progress_bar_config(disable=True)
    with attach(fitting(pipe)["router"], pipe.transformer) as handle:
        handle.set_tokens(tiny.tokens())
        alone = steps_in_window(handle, lambda: generate(pipe, call))
    with attach_lavieid(modular, {"router": fitting(modular)["router"]}) as lavieid:
        lavieid.set_identity(tiny.tokens())
        generate(modular, its_call)
        assert steps_in_window(lavieid.handle, lambda: generate(pipe, call)) == alone


@pytest.mark.parametrize(
    "build",
    [ltx.mochi_pipeline, wan.wan_pipeline, wan.wan22_pipeline, hunyuan.hunyuan_video_pipeline,
     hunyuan.kandinsky5_pipeline, cosmos.cosmos2_video_to_world_pipeline, cosmos.cosmos2_5_predict_pipeline],
    ids=lambda b: b.__name__,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_window_takes_its_steps_of_the_run(build, dtype):
    pipe, call = build()
    pipe.set_progress_bar_config(disable=True)
    for transformer in hosted(pipe).transformers:
        transformer.to(dtype)
        for name, module in transformer.named_modules():
            if name.rsplit(".", 1)[-1] in (transformer._keep_in_fp32_modules or ()):
                module.float()  # as in a checkpoint that is loaded
    call = {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in call.items()}
    with attach_lavieid(pipe, {"router": fitting(pipe)["router"]}) as lavieid:
        lavieid.set_identity(tiny.tokens())
        run = {**call, "num_inference_steps": 8, "output_type": "latent"}
        acted = steps_in_window(lavieid.handle, lambda: generate(pipe, run))
    forwards = 1 if hosted(pipe).description.passes == 2 else 2
    assert acted == [False] * 2 * forwards + [True] * 4 * forwards + [False] * 2 * forwards


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (cosmos.helios_pipeline, {((3, 4, 6), 56, 128)}),
        (cosmos.helios_pyramid_pipeline, {((3, 2, 3), 56, 74), ((3, 4, 6), 56, 128)}),
        (hunyuan.framepack_pipeline, {((3, 2, 3), None, None)}),
        (hunyuan.kandinsky6_pipeline, {((3, 2, 3), 0, 18)}),
        (hunyuan.kandinsky6_image_pipeline, {((3, 2, 3), 0, 24)}),
        (ltx.ltx_pipeline, {((3, 8, 16), 0, 384)}),
        (ltx.ltx_condition_pipeline, {((3, 8, 16), 128, 512)}),
        (ltx.ltx_long_pipeline, {((3, 8, 16), 0, 512), ((3, 8, 16), 0, 640)}),
        (ltx.ltx2_pipeline, {((3, 8, 12), 0, 288)}),
        (ltx.ltx2_condition_pipeline, {((3, 8, 12), 0, 384)}),
        (ltx.ltx2_in_context_pipeline, {((3, 8, 12), 0, 456)}),
        (wan.wan_animate_pipeline, {((2, 2, 3), 6, 18)}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_clip_is_found_among_other_tokens(build, expected, monkeypatch):
    pipe, call = build()
    pipe.set_progress_bar_config(disable=True)
    found, take = set(), ForwardContext.take

    def note(context, stream):
        start = context.start % stream.shape[1] if context.start is not None else 0
        start = 0 if context.start is not None and stream.shape[1] == math.prod(context.grid) else start
        found.add((context.grid, start, stream.shape[1]))
        return take(context, stream)

    monkeypatch.setattr(ForwardContext, "take", note)
    with attach_lavieid(pipe, {"router": fitting(pipe)["router"]}) as lavieid:
        lavieid.set_identity(tiny.tokens())
        with lavieid.record_routes() as routes:
            generate(pipe, call)
    assert {tuple(route.shape[2:]) for route in routes} == {grid for grid, *_ in found}
    if build is hunyuan.framepack_pipeline:  # its history grows with the video
        assert all(start == total - math.prod(grid) > 0 for grid, start, total in found)
        expected = {((3, 2, 3), start, total) for _, start, total in found}
    assert found == expected


def test_both_transformers_of_wan_are_steered_alike():
    pipe, call = wan.wan22_pipeline()
    pipe.set_progress_bar_config(disable=True)
    call["output_type"] = "latent"
    base = generate(pipe, call)
    with attach_lavieid(pipe, {"router": fitting(pipe)["router"]}) as lavieid:
        assert len(lavieid.handles) == 2
        assert repr(lavieid).count("router: RouterHandle") == 2
        lavieid.set_identity(tiny.tokens())
        with lavieid.record_routes() as routes:
            both = generate(pipe, call)
        assert len(routes) == 4  # two steps, of two calls each
        for handle in lavieid.handles:
            with handle.disabled():
                one = generate(pipe, call)
            assert not torch.equal(one, both)
            assert not torch.equal(one, base)
        lavieid.handles[0].enabled = False
        with lavieid.disabled():
            assert not lavieid.handles[1].enabled
        assert [handle.enabled for handle in lavieid.handles] == [False, True]
        lavieid.enabled = True
        lavieid.scale = 0.5
        lavieid.component_scales = {"hair": 0.0}
        assert [handle.scale for handle in lavieid.handles] == [0.5, 0.5]
        assert lavieid.handles[1].component_scales["hair"] == 0
        with lavieid.disabled():
            assert torch.equal(generate(pipe, call), base)
        lavieid.clear()
        assert torch.equal(generate(pipe, call), base)
    assert torch.equal(generate(pipe, call), base)


def test_a_pipeline_with_the_second_transformer_alone():
    pipe, call = wan.wan22_pipeline()
    alone = type(pipe)(**{**pipe.components, "transformer": None, "boundary_ratio": 1.0, "expand_timesteps": False})
    alone.set_progress_bar_config(disable=True)
    base = generate(alone, call)
    with attach_lavieid(alone, fitting(alone)) as lavieid:
        lavieid.set_identity(tiny.tokens())
        assert lavieid.handle.transformer is pipe.transformer_2
        assert not (generate(alone, call) == base).all()
    empty = type(pipe)(**{**pipe.components, "transformer": None, "transformer_2": None})
    with pytest.raises(ValueError, match="has no transformer"):
        attach_lavieid(empty, tiny.router())


def test_what_the_second_transformer_refuses_leaves_the_first_as_it_was():
    pipe, call = wan.wan22_pipeline()
    pipe.set_progress_bar_config(disable=True)
    base = generate(pipe, call)
    with pytest.raises(ValueError, match="block_idx is 2"):  # the first has 2 blocks, the second 3
        attach_lavieid(pipe, {"router": fitting(pipe)["router"]}, block_idx=2)
    pipe.transformer, pipe.transformer_2 = pipe.transformer_2, pipe.transformer
    with pytest.raises(ValueError, match="block_idx is 2"):
        attach_lavieid(pipe, {"router": fitting(pipe)["router"]}, block_idx=2)
    assert not hasattr(pipe.transformer.blocks[2], "_diffusers_hook")
    pipe.transformer, pipe.transformer_2 = pipe.transformer_2, pipe.transformer
    assert (generate(pipe, call) == base).all()


def test_of_two_transformers_none_takes_an_identity_that_the_other_refuses():
    pipe, _ = wan.wan22_pipeline()
    with attach_lavieid(pipe, {"router": fitting(pipe)["router"]}) as lavieid:
        lavieid.set_identity(tiny.tokens())
        first, second = lavieid.handles
        before = first._conditioning
        second.detach()
        for change in (lambda: lavieid.set_identity(tiny.tokens(seed=1)), lavieid.clear):
            with pytest.raises(ValueError, match="has been detached"):
                change()
            assert first._conditioning is before is not None

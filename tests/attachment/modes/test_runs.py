"""Runs of a pipeline with a router: batches, callbacks, interrupts, errors, and pipelines that share a transformer."""

import diffusers
import pytest
import torch
from PIL import Image
from support import tiny
from support.hosts import cogvideox_family, wan_family
from support.modes.rig import differ
from support.modes.videos import PIPELINES, embeddings, generate, put_on
from support.small_cogvideox import word_tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from lavieid_adapters import attach


@pytest.fixture
def pipe(rig):
    return PIPELINES[rig.name]()


@pytest.mark.mode("prompt batches, one identity for all or one each")
@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_a_batch_of_prompts_is_each_prompt_alone(pipe, guidance_scale):
    two, call = tiny.tokens(2), {"guidance_scale": guidance_scale}
    base, handle, alone = generate(pipe, 2, **call), put_on(pipe), []
    for tokens in two:
        handle.set_tokens(tokens)
        alone.append(generate(pipe, 2, **call))
        assert differ(alone[-1], base)
    assert differ(alone[0], alone[1])
    handle.set_tokens(two)
    each = generate(pipe, 2, **call)
    torch.testing.assert_close(each, torch.stack([alone[0][0], alone[1][1]]), rtol=1e-3, atol=1e-4)
    handle.set_tokens(tiny.tokens(3))
    with pytest.raises(ValueError, match="3 identities"):
        generate(pipe, 2, **call)
    with handle.disabled():  # as if nothing were attached
        assert torch.equal(generate(pipe, 2, **call), base)


def repeated_embeddings(rig, pipe):
    return {name: value.repeat_interleave(2, 0) for name, value in embeddings(pipe, 2).items()}, embeddings(pipe, 2)


def videos_per_prompt(rig, pipe):
    if rig.name == "CogVideoX":
        pytest.skip("its pipelines set num_videos_per_prompt to 1")
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    pipe.register_modules(text_encoder=UMT5EncoderModel(config).eval(), tokenizer=word_tokenizer())
    texts = {"prompt": ["She walks", "a park"], "prompt_embeds": None, "negative_prompt": "autumn"}
    return {**texts, "num_videos_per_prompt": 2}, texts


@pytest.mark.parametrize(
    "repeat",
    [
        pytest.param(repeated_embeddings, marks=pytest.mark.mode("prompt embeddings, several of a prompt")),
        pytest.param(videos_per_prompt, marks=pytest.mark.mode("`num_videos_per_prompt`")),
    ],
)
def test_several_videos_of_each_prompt(rig, pipe, repeat):
    two, handle = tiny.tokens(2), put_on(pipe)
    call, once = repeat(rig, pipe)
    call["generator"] = [torch.Generator().manual_seed(0) for _ in range(4)]
    alone = []
    for tokens in two:
        handle.set_tokens(tokens)
        alone.append(generate(pipe, 2, **once))
    handle.set_tokens(two, videos_per_prompt=2)
    videos = generate(pipe, 2, **call)
    wanted = torch.stack([alone[0][0], alone[0][0], alone[1][1], alone[1][1]])
    assert differ(wanted[0], wanted[2])
    torch.testing.assert_close(videos, wanted, rtol=1e-3, atol=1e-4)


CONTROLLED = {
    "CogVideoX": (cogvideox_family.cogvideox_control_pipeline, "control_video", (96, 64)),
    "Wan": (wan_family.wan_vace_pipeline, "video", (wan_family.WIDTH, wan_family.HEIGHT)),
}


@pytest.mark.mode("control videos (CogVideoX Fun Control, Wan VACE)")
def test_a_control_video_and_a_router_act_together(rig):
    build, name, size = CONTROLLED[rig.name]
    pipe, call = build()
    pipe.set_progress_bar_config(disable=True)

    def controlled(grey: int):
        torch.manual_seed(0)
        control = [Image.new("RGB", size, (grey, 255 - grey, 90))] * 9
        call.update({name: control, "generator": torch.Generator().manual_seed(0), "output_type": "latent"})
        return pipe(**call).frames

    dark, light = controlled(20), controlled(230)
    assert differ(dark, light, 1e-5)  # random weights make little of a control video
    with put_on(pipe) as handle:
        handle.set_tokens(tiny.tokens())
        steered = [controlled(20), controlled(230)]
        assert differ(*steered, 1e-5)
        for one, base in zip(steered, (dark, light), strict=True):
            assert differ(one, base)
        with handle.disabled():
            assert torch.equal(controlled(20), dark)
    assert torch.equal(controlled(230), light)


@pytest.mark.mode("`callback_on_step_end`")
def test_a_callback_may_set_what_is_on_the_handle(pipe):
    base, handle = generate(pipe, num_inference_steps=4), put_on(pipe)
    handle.set_tokens(tiny.tokens())

    def late(pipe, step, timestep, values):
        handle.enabled = step >= 1
        return values

    handle.enabled = False
    by_callback = generate(pipe, num_inference_steps=4, callback_on_step_end=late)
    handle.enabled = True
    assert differ(by_callback, base)
    assert differ(by_callback, generate(pipe, num_inference_steps=4))
    assert torch.equal(generate(pipe, num_inference_steps=4, callback_on_step_end=lambda *args: args[-1]),
                       generate(pipe, num_inference_steps=4))  # fmt: skip


@pytest.mark.mode("interrupt")
def test_an_interrupted_run_ends_and_the_next_is_whole(pipe):
    handle = put_on(pipe)
    handle.set_tokens(tiny.tokens())
    full, forwards = generate(pipe), []

    def stop(pipe, step, timestep, values):
        pipe._interrupt = True
        return values

    counting = pipe.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    generate(pipe, num_inference_steps=4, guidance_scale=1.0, callback_on_step_end=stop)
    counting.remove()
    assert len(forwards) == 1
    assert torch.equal(generate(pipe), full)


@pytest.mark.mode("an error in the middle of a run")
@pytest.mark.parametrize(("block", "cache"), [(0, False), (1, True)])
def test_a_run_that_failed_leaves_nothing_behind(rig, pipe, block, cache):
    base = generate(pipe)
    if cache:
        pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(1e9))
        cached = generate(pipe)
    handle = put_on(pipe)
    handle.set_tokens(tiny.tokens())
    handle.end = 0.5
    full, calls = generate(pipe), []
    assert differ(full, base)

    def fail(*_):
        calls.append(1)
        if len(calls) == 2 or cache:
            raise KeyboardInterrupt

    hook = rig.blocks(pipe.transformer)[block].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        generate(pipe)
    hook.remove()
    if cache:  # diffusers leaves half a step in it, with or without a router
        pipe.transformer._reset_stateful_cache()
    assert torch.equal(generate(pipe), full)
    handle.detach()
    if cache:
        assert torch.equal(generate(pipe), cached)
        pipe.transformer.disable_cache()
    assert torch.equal(generate(pipe), base)


@pytest.mark.mode("`from_pipe`, two pipelines sharing a transformer")
def test_pipelines_that_share_a_transformer_share_its_router(pipe):
    other = type(pipe).from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    base, handle = generate(other), put_on(pipe)
    handle.set_tokens(tiny.tokens())
    full = generate(pipe)
    assert differ(full, base)
    assert torch.equal(generate(other), full)
    second = put_on(other, seed=5)  # two routers act both, whichever pipeline they were put on
    second.set_tokens(tiny.tokens(seed=5))
    assert differ(generate(pipe), full)
    assert torch.equal(generate(pipe), generate(other))
    handle.detach()
    second.detach()
    assert torch.equal(generate(pipe), base)


@pytest.mark.mode("`from_pipe`, two pipelines sharing a transformer")
def test_another_pipelines_run_is_measured_by_its_own_steps_and_batch(pipe):
    other = type(pipe).from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    with attach(tiny.router(), other.transformer) as handle:  # which knows the timestep alone
        handle.set_tokens(tiny.tokens())
        handle.end = 0.45
        wanted = generate(other, num_inference_steps=8)
        handle.end = 1.0
        assert differ(generate(other, num_inference_steps=8), wanted, 1e-3)
    with put_on(pipe) as handle:
        handle.set_tokens(tiny.tokens())
        generate(pipe, num_inference_steps=2)  # what it was told last is not the other's
        handle.end = 0.45
        torch.testing.assert_close(generate(other, num_inference_steps=8), wanted)
        handle.end = 1.0
        handle.set_tokens(tiny.tokens(2))
        assert len(generate(other, 2, guidance_scale=1.0)) == 2


@pytest.mark.mode("`pipe.save_pretrained` while attached")
def test_a_pipeline_is_saved_without_the_router(pipe, tmp_path):
    base, handle = generate(pipe), put_on(pipe)
    handle.set_tokens(tiny.tokens())
    assert differ(generate(pipe), base)
    pipe.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if "lavieid" in path.name.lower() or "router" in path.name]
    parts = {} if pipe.text_encoder is not None else {"text_encoder": None, "tokenizer": None}
    loaded = type(pipe).from_pretrained(tmp_path, **parts)
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(generate(loaded), base)

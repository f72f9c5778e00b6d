import gc
import inspect
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from support import tiny
from support.tiny import NO_GRID, run, wan
from torch import nn
from torch._dynamo.testing import CompileCounter

from lavieid_adapters import FACIAL_COMPONENTS, Host, RouterHandle, attach
from lavieid_adapters.attachment.router_handle import StreamHook
from lavieid_adapters.hosts.host_table import find_host


@pytest.fixture
def model():
    return tiny.transformer(**NO_GRID)


def trace(model):
    """All that an attached router could leave behind on a transformer."""
    return [
        (name, set(module.__dict__), inspect.signature(module.forward), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def test_steers_the_video_stream_after_its_block(model):
    router, captured = tiny.router(), []
    model.transformer_blocks[2].register_forward_pre_hook(
        lambda module, args, kwargs: captured.append(kwargs), with_kwargs=True
    )
    base = run(model, batch=2)
    handle = attach(router, model, block_idx=1)
    handle.set_tokens(tiny.tokens())
    assert not torch.allclose(run(model, batch=2), base)
    before, after = captured
    wanted = router(before["hidden_states"], tiny.tokens(1))
    torch.testing.assert_close(after["hidden_states"], wanted)
    assert torch.equal(after["encoder_hidden_states"], before["encoder_hidden_states"])


def test_detach_leaves_no_trace(model):
    base, keys, before = run(model), list(model.state_dict()), trace(model)
    handle = attach(tiny.router(), model)
    handle.set_tokens(tiny.tokens())
    handle.start = 0.1
    assert not torch.equal(run(model), base)
    assert list(model.state_dict()) == keys
    assert trace(model) != before
    handle.detach()
    handle.detach()
    assert torch.equal(run(model), base)
    assert list(model.state_dict()) == keys
    assert trace(model) == before


def test_detaches_from_its_block_though_the_list_has_changed(model):
    handle = attach(tiny.router(), model, block_idx=-1)
    block = model.transformer_blocks[2]
    model.transformer_blocks.append(model.transformer_blocks[0])
    assert hasattr(block, "_diffusers_hook")
    handle.detach()
    assert not hasattr(block, "_diffusers_hook")


def test_fresh_router_changes_nothing_bit_for_bit(model):
    base, router = run(model), tiny.router()
    nn.init.zeros_(router.cross_attention.to_out.weight)
    with attach(router, model) as handle:
        handle.set_tokens(tiny.tokens())
        assert torch.equal(run(model), base)
        nn.init.normal_(router.cross_attention.to_out.weight)
        assert not torch.equal(run(model), base)


def test_forward_without_an_identity_is_unchanged_and_warns_once(model):
    base = run(model)
    with attach(tiny.router(), model) as handle:
        with pytest.warns(UserWarning, match="no identity is set"):
            assert torch.equal(run(model), base)
        assert torch.equal(run(model), base)  # a second warning would be an error
        handle.set_tokens(tiny.tokens())
        assert not torch.equal(run(model), base)
        handle.clear()
        with pytest.warns(UserWarning, match="no identity is set"):
            assert torch.equal(run(model), base)


def test_scale_and_component_scales(model):
    base = run(model)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        full = run(model)
        handle.scale = 0.5
        half = run(model)
        assert 0.2 < ((half - base).norm() / (full - base).norm()).item() < 0.8
        handle.scale = 1
        assert torch.equal(run(model), full)

        handle.component_scales = {"hair": 0.0}
        bald = run(model)
        assert not torch.equal(bald, full)
        assert handle.component_scales == {**dict.fromkeys(FACIAL_COMPONENTS, 1.0), "hair": 0.0}
        handle.component_scales = dict.fromkeys(FACIAL_COMPONENTS, 0.0)
        assert torch.equal(run(model), base)
        handle.component_scales = {}
        assert torch.equal(run(model), full)

        with pytest.raises(ValueError, match=r"beard.*eyebrows, eyes, mouth"):
            handle.component_scales = {"beard": 1.0}
        with pytest.raises(ValueError, match="scale is nan"):
            handle.scale = float("nan")


def test_enabled_and_disabled(model):
    base = run(model)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        full = run(model)
        with pytest.raises(KeyError), handle.disabled():
            assert torch.equal(run(model), base)
            raise KeyError
        assert torch.equal(run(model), full)
        handle.enabled = False
        with handle.disabled():
            pass
        assert torch.equal(run(model), base)


def test_window_of_the_run_by_timestep(model):
    base = run(model)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        full = run(model)
        for start, end, inside in [(0, 0.5, False), (0.5, 1, True), (0.2, 0.6, True), (0, 0.2, False)]:
            handle.start, handle.end = start, end
            assert torch.equal(run(model), full if inside else base), (start, end)
        handle.start, handle.end = 0, 0.5
        later = torch.tensor([501])
        assert torch.equal(run(model, timestep=later), run_with(model, timestep=later))
        handle.start, handle.end = 0.6, 1  # the ends may be set in either order
        assert handle.start == 0.6
        handle.start = 1.0
        with pytest.raises(ValueError, match=r"start 1\.0, but ends at end 1\.0"):
            run(model)
        handle.start = 0
        assert torch.equal(run(model), full)
        for name, value in (("start", -0.1), ("end", 1.1)):
            with pytest.raises(ValueError, match=f"{name} is {value}"):
                setattr(handle, name, value)


def run_with(model, **changes):
    """The forward with another handle that has no window."""
    with attach(tiny.router(), tiny.transformer(**NO_GRID)) as handle:
        handle.set_tokens(tiny.tokens())
        handle.transformer.load_state_dict(model.state_dict())
        return run(handle.transformer, **changes)


def test_window_at_the_ends_of_the_run(model):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        first, last = torch.tensor([1000]), torch.tensor([0])
        inside = [run(model, timestep=t) for t in (first, last)]
        handle.start = 0.5
        assert not torch.equal(run(model, timestep=first), inside[0])
        assert torch.equal(run(model, timestep=last), inside[1])


def test_records_route_maps(model):
    router, streams = tiny.router(), []
    with attach(router, model) as handle:
        handle.set_tokens(tiny.tokens())
        with handle.disabled():
            model.transformer_blocks[0].register_forward_hook(lambda module, args, out: streams.append(out[0]))
            run(model, batch=2)
        with handle.record_routes() as routes:
            run(model, batch=2)
            run(model, batch=2)
            with pytest.raises(ValueError, match="being recorded already"), handle.record_routes():
                pass
        run(model, batch=2)
    assert [tuple(r.shape) for r in routes] == [(2, 6, 3, 4, 6)] * 2
    wanted = router.route_weights(streams[0], tiny.tokens(1)).unflatten(-1, (3, 4, 6))
    assert wanted.std() > 0.01
    torch.testing.assert_close(routes[0], wanted)


def test_identities_of_a_batch(model):
    two = tiny.tokens(2)
    with attach(tiny.router(), model) as handle:

        def alone(i, batch):
            handle.set_tokens(two[i])
            return run(model, batch=batch)

        first, second = alone(0, 4), alone(1, 4)
        assert not torch.allclose(first, second)
        # guidance: [negative 0, negative 1, positive 0, positive 1]
        handle.set_tokens(two)
        torch.testing.assert_close(run(model, 4), torch.stack([first[0], second[1], first[2], second[3]]))
        # no guidance, two videos a prompt: [prompt 0, prompt 0, prompt 1, prompt 1]
        handle.set_tokens(two, videos_per_prompt=2)
        torch.testing.assert_close(run(model, 4), torch.stack([first[0], first[1], second[2], second[3]]))
        # the two passes of guidance run apart
        handle.set_tokens(two)
        torch.testing.assert_close(run(model, 2), torch.stack([alone(0, 2)[0], alone(1, 2)[1]]))
        # one identity fits any batch
        handle.set_tokens(two[:1])
        torch.testing.assert_close(run(model, 3), alone(0, 3))


@pytest.mark.parametrize(("identities", "videos", "batch"), [(2, 1, 3), (3, 1, 2), (2, 2, 2), (2, 1, 8)])
def test_batch_that_no_rule_expands_is_refused(model, identities, videos, batch):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens(identities), videos_per_prompt=videos)
        fits = identities * videos
        with pytest.raises(
            ValueError, match=f"{identities} identities.*batch of {batch}.*{fits} samples, or {2 * fits}"
        ):
            run(model, batch)
        run(model, fits)


def test_masked_component_is_hidden(model):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        full, mask = run(model), torch.tensor([True] * 5 + [False])
        handle.set_tokens(tiny.tokens(), mask)
        masked = run(model)
        assert not torch.equal(masked, full)
        other = tiny.tokens()
        other[5] = 7
        handle.set_tokens(other, mask)
        torch.testing.assert_close(run(model), masked)


def test_two_routers_act_in_the_order_of_attaching_and_leave_in_any(model):
    base, (first, second) = run(model), (tiny.router(1), tiny.router(2))
    streams = []
    model.transformer_blocks[0].register_forward_hook(lambda module, args, out: streams.append(out[0]))
    run(model)
    handles = [attach(first, model), attach(second, model, adapter_name="second")]
    for handle, seed in zip(handles, (1, 2), strict=True):
        handle.set_tokens(tiny.tokens(seed=seed))
    both = run(model)
    wanted = second(first(streams[0], tiny.tokens(1, seed=1)), tiny.tokens(1, seed=2))
    torch.testing.assert_close(streams[1], wanted)
    handles[0].detach()
    only_second = run(model)
    assert not torch.equal(only_second, both)
    torch.testing.assert_close(streams[2], second(streams[0], tiny.tokens(1, seed=2)))
    handles[1].detach()
    assert torch.equal(run(model), base)


def test_one_router_on_two_blocks_with_two_identities(model):
    router, base = tiny.router(), run(model)
    with attach(router, model, 0) as first, attach(router, model, 2) as second:
        first.set_tokens(tiny.tokens(seed=1))
        second.set_tokens(tiny.tokens(seed=2))
        assert not torch.equal(run(model), base)
    assert torch.equal(run(model), base)


@pytest.mark.parametrize("cache_first", [True, False])
def test_first_block_cache_equals_a_router_built_into_the_block(model, cache_first):
    class Built(type(model.transformer_blocks[0])):
        """The block with the router inside."""

        def forward(self, *args, **kwargs):
            hidden_states, encoder_hidden_states = super().forward(*args, **kwargs)
            return router(hidden_states, tiny.tokens(1)), encoder_hidden_states

    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

    TransformerBlockRegistry.register(Built, TransformerBlockMetadata(0, 1))
    router, always_hit = tiny.router(), FirstBlockCacheConfig(threshold=1e9)
    inputs = tiny.transformer_inputs()
    later = {**inputs, "hidden_states": inputs["hidden_states"] + 0.5}

    @torch.no_grad()
    def two_steps(model):
        with model.cache_context("run"):
            return model(**inputs).sample, model(**later).sample

    reference = tiny.transformer(**NO_GRID)
    reference.transformer_blocks[0].__class__ = Built
    reference.enable_cache(always_hit)
    built, base = two_steps(reference), run(model)

    if cache_first:
        model.enable_cache(always_hit)
    with attach(router, model) as handle:
        handle.set_tokens(tiny.tokens())
        if not cache_first:
            model.enable_cache(always_hit)
        ours = two_steps(model)
    for got, wanted in zip(ours, built, strict=True):
        torch.testing.assert_close(got, wanted)
    model.disable_cache()
    assert not torch.allclose(built[1], run(reference_without_cache(reference), **later))  # the second step was a hit
    assert torch.equal(run(model), base)


def reference_without_cache(reference):
    reference.disable_cache()
    return reference


def test_gradient_checkpointing_gives_the_same_gradients(model):
    router, component_tokens = tiny.router(), tiny.tokens().requires_grad_()
    model.requires_grad_(False)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        with attach(router, model) as handle:
            handle.set_tokens(component_tokens)
            with handle.record_routes() as routes:
                loss = model(**tiny.transformer_inputs(2)).sample.square().mean()
                gradients.append(torch.autograd.grad(loss, [component_tokens, *router.parameters()]))
            assert len(routes) == 1  # the second call, in the backward pass, is not recorded
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.norm() > 0
        torch.testing.assert_close(plain, checkpointed)
    with attach(router, model) as handle:
        handle.set_tokens(component_tokens)
        handle.end = 0.5
        with pytest.raises(ValueError, match="for inference"):
            model(**tiny.transformer_inputs())


def test_records_the_video_stream_before_the_router_acts(model):
    leaving, router = [], tiny.router()
    model.transformer_blocks[1].register_forward_hook(lambda module, args, out: leaving.append(out[0]))
    run(model, batch=2)
    with attach(router, model, block_idx=1) as handle:
        handle.set_tokens(tiny.tokens())
        with handle.record_stream() as streams:
            run(model, batch=2)
            assert len(streams) == 1
            run(model)
        run(model)
    assert [tuple(z.shape) for z in streams] == [(2, 72, tiny.DIM), (1, 72, tiny.DIM)]
    assert torch.equal(streams[0], leaving[0])
    assert not torch.equal(streams[0], leaving[1])
    torch.testing.assert_close(leaving[1], router(streams[0], tiny.tokens(1)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the router writes over the stream on a GPU only")
def test_the_recorded_stream_is_not_written_over_on_a_gpu():
    model = tiny.transformer(**NO_GRID).to("cuda", torch.bfloat16)
    router = tiny.router(tokens_per_component=16).to("cuda", torch.bfloat16)
    tokens = torch.randn(6, 16, tiny.TOKEN_DIM, generator=torch.Generator().manual_seed(0)).to("cuda", torch.bfloat16)
    inputs = {k: v.to("cuda") for k, v in tiny.transformer_inputs().items()}
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    with attach(router, model) as handle, torch.no_grad():
        handle.set_tokens(tokens)
        with handle.record_stream() as streams:
            steered = model(**inputs).sample
            with handle.disabled():
                assert not torch.equal(model(**inputs).sample, steered)
    assert torch.equal(streams[0], streams[1])


@pytest.mark.parametrize("quiet", ["disabled", "scale 0", "no identity"])
def test_records_the_stream_of_a_router_that_does_not_act(model, quiet):
    base = run(model)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        with handle.record_stream() as streams:
            assert not torch.equal(run(model), base)
            if quiet == "disabled":
                with handle.disabled():
                    assert torch.equal(run(model), base)
            elif quiet == "scale 0":
                handle.scale = 0
                assert torch.equal(run(model), base)
            else:
                handle.clear()
                with pytest.warns(UserWarning, match="no identity is set"):
                    assert torch.equal(run(model), base)
    assert len(streams) == 2
    assert torch.equal(*streams)


def test_two_routers_record_what_each_of_them_meets(model):
    with attach(tiny.router(1), model) as first, attach(tiny.router(2), model, adapter_name="second") as second:
        first.set_tokens(tiny.tokens())
        second.set_tokens(tiny.tokens())
        with first.record_stream() as before, second.record_stream() as between:
            run(model)
    assert not torch.equal(before[0], between[0])
    torch.testing.assert_close(between[0], tiny.router(1)(before[0], tiny.tokens(1)))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("disabled", [False, True])
def test_the_recorded_stream_has_its_gradient_and_is_recorded_once(model, disabled, checkpointing):
    if checkpointing:
        model.enable_gradient_checkpointing()
    router, calls = tiny.router().requires_grad_(False), []
    model.transformer_blocks[1].register_forward_pre_hook(lambda *_: calls.append(len(calls)))
    first_block = model.transformer_blocks[0].ff.net[0].proj.weight
    with attach(router, model, block_idx=1) as handle:
        handle.set_tokens(tiny.tokens())
        handle.enabled = not disabled
        with handle.record_stream() as streams:
            output = model(**tiny.transformer_inputs()).sample
            logits = router.route_logits(streams[0], tiny.tokens(1))
            through_router, through_host = (
                torch.autograd.grad(v.square().mean(), first_block, retain_graph=True)[0] for v in (logits, output)
            )
            assert through_router.norm() > 0
            assert through_host.norm() > 0
            # A loss on both, as eq. 6 is.
            total = output.square().mean() + logits.square().mean()
            (gradient,) = torch.autograd.grad(total, first_block)
            torch.testing.assert_close(gradient, through_router + through_host)
            assert len(streams) == 1
    assert (len(calls) > 1) == checkpointing  # the block itself was computed again


def test_the_stream_is_recorded_no_longer_than_the_block_lasts(model):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        with pytest.raises(KeyError), handle.record_stream() as streams:
            run(model)
            raise KeyError
        run(model)
        assert len(streams) == 1
        with handle.record_stream() as streams:
            with pytest.raises(ValueError, match="being recorded already"), handle.record_stream():
                pass
            run(model)
            assert len(streams) == 1
    with pytest.raises(ValueError, match="has been detached"), handle.record_stream():
        pass


def test_changed_router_weights_act_at_once(model):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        before = run(model)
        with torch.no_grad():
            handle.router.to_component.weight.mul_(2)
        assert not torch.equal(run(model), before)


def test_follows_the_host_to_another_dtype(model):
    base = run(model)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        full = run(model)
        model.to(torch.bfloat16)
        inputs = {k: v.bfloat16() for k, v in tiny.transformer_inputs().items() if v.is_floating_point()}
        with torch.no_grad():
            out = model(**{**tiny.transformer_inputs(), **inputs}).sample
    assert out.dtype == torch.bfloat16
    assert (out - full).norm() < 0.3 * (full - base).norm()


def test_layerwise_casting_of_the_host(model):
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    streams, router = [], tiny.router()
    model.transformer_blocks[0].register_forward_hook(lambda module, args, out: streams.append(out[0]))
    base = run(model)
    with attach(router, model) as handle:
        handle.set_tokens(tiny.tokens())
        assert not torch.equal(run(model), base)
    assert streams[1].dtype == torch.float32
    torch.testing.assert_close(streams[1], router(streams[0], tiny.tokens(1)))
    assert torch.equal(run(model), base)


@pytest.mark.parametrize("offload_first", [True, False])
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offloading_of_the_host(model, kind, offload_first):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        full = run(model)
    options = {"onload_device": torch.device("cpu"), "offload_type": kind}
    if kind == "block_level":
        options["num_blocks_per_group"] = 1
    if offload_first:
        model.enable_group_offload(**options)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        if not offload_first:
            model.enable_group_offload(**options)
        torch.testing.assert_close(run(model), full)
    assert not torch.equal(run(model), full)


@pytest.mark.parametrize("lora_first", [True, False])
def test_lora_on_the_host(model, lora_first):
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["to_q", "to_out.0"], init_lora_weights=False)

    def load():
        torch.manual_seed(1)
        model.add_adapter(config)

    handle = None
    if not lora_first:
        handle = attach(tiny.router(), model)
        handle.set_tokens(tiny.tokens())
        without = run(model)
    load()
    if lora_first:
        without = run(model)
        handle = attach(tiny.router(), model)
        handle.set_tokens(tiny.tokens())
    both = run(model)
    assert not torch.equal(both, without)
    reference = tiny.transformer(**NO_GRID)
    torch.manual_seed(1)
    reference.add_adapter(config)
    with attach(tiny.router(), reference) as other:
        other.set_tokens(tiny.tokens())
        torch.testing.assert_close(both, run(reference))
    handle.detach()
    torch.testing.assert_close(run(model), run(reference))


def test_what_was_folded_is_made_again_when_what_it_came_from_changes(model):
    tokens = tiny.tokens().requires_grad_()
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tokens)
        before = run(model)
        model(**tiny.transformer_inputs()).sample.square().mean().backward()
        assert tokens.grad.norm() > 0
        with torch.no_grad():
            tokens.add_(1)
        after_tokens = run(model)
        assert not torch.equal(after_tokens, before)
        handle.router.load_state_dict(tiny.router(seed=9).state_dict(), assign=True)
        after_weights = run(model)
        assert not torch.equal(after_weights, after_tokens)
        handle.set_tokens(tokens)
        assert torch.equal(run(model), after_weights)


def test_a_run_in_inference_mode_leaves_training_possible(model):
    router = tiny.router().requires_grad_(False)
    with attach(router, model) as handle:
        with torch.inference_mode():
            handle.set_tokens(tiny.tokens())
            model(**tiny.transformer_inputs())
        latents = tiny.transformer_inputs()["hidden_states"].requires_grad_()
        model(**{**tiny.transformer_inputs(), "hidden_states": latents}).sample.mean().backward()
        assert latents.grad.norm() > 0


def test_component_scales_are_replaced_and_not_written_into(model):
    with attach(tiny.router(), model) as handle, pytest.raises(TypeError, match="item assignment"):
        handle.component_scales["hair"] = 0.0


def test_window_on_a_transformer_that_takes_no_timestep_is_refused():
    class Block(nn.Module):
        def forward(self, video):
            return video * 2

    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList([Block()])

        def forward(self, video):
            return self.stages[0](video)

    with attach(tiny.router(), Mine(), host=Host("stages", stream=0)) as handle:
        handle.set_tokens(tiny.tokens())
        handle.end = 0.5
        with pytest.raises(ValueError, match="takes `hidden_states` and `timestep`"), torch.no_grad():
            handle.transformer(torch.randn(1, 5, tiny.DIM))


def test_compiled_host_has_no_graph_break_and_does_not_recompile_when_identity_or_strength_change(model):
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        first = run(compiled)
        torch.testing.assert_close(first, run(model))
        assert counter.frame_count == 1
        changes = {
            "scale": lambda: setattr(handle, "scale", 0.5),
            "component_scales": lambda: setattr(handle, "component_scales", {"hair": 0.0}),
            "identity": lambda: handle.set_tokens(tiny.tokens(seed=3)),
        }
        for change in changes.values():
            change()
            out = run(compiled)
            assert not torch.allclose(out, first)
            torch.testing.assert_close(out, run(model))
        assert counter.frame_count == 1
        with handle.disabled():
            base = run(model)
        handle.end = 0.45  # that there is a window is compiled in, its ends are not
        run(compiled)
        windowed = counter.frame_count
        for end, acts in ((0.4, False), (0.6, True), (0.7, True), (0.3, False)):
            handle.end = end
            out = run(compiled)
            assert torch.allclose(out, base, atol=1e-5) != acts
        assert counter.frame_count == windowed
        handle.end = 1
        with handle.record_routes() as routes:
            run(compiled)
        assert routes[0].shape == (1, 6, 3, 4, 6)


def test_compiled_host_runs_without_an_identity(model):
    compiled, base = torch.compile(model, backend="eager", fullgraph=True), run(model)
    with attach(tiny.router(), model):
        assert torch.equal(run(compiled), base)


def test_described_host_whose_grid_is_not_known():
    model = wan()
    inputs = {
        "hidden_states": torch.randn(2, 4, 3, 8, 8),
        "encoder_hidden_states": torch.randn(2, 5, 32),
        "timestep": torch.tensor([500, 500]),
    }
    with torch.no_grad():
        base = model(**inputs).sample
        with attach(tiny.router(), model, block_idx=-1, host=Host("blocks")) as handle:
            handle.set_tokens(tiny.tokens())
            assert not torch.equal(model(**inputs).sample, base)
            with pytest.raises(ValueError, match="token grid of WanTransformer3DModel"), handle.record_routes():
                pass
            with handle.record_routes(grid=(3, 4, 4)) as routes:
                model(**inputs)
            assert routes[0].shape == (2, 6, 3, 4, 4)
        assert torch.equal(model(**inputs).sample, base)


def test_nothing_of_an_identity_or_a_forward_stays_reachable_after_detach(model):
    handle = attach(tiny.router(), model)
    component_tokens = tiny.tokens(1)
    handle.set_tokens(component_tokens)
    handle.end = 0.9
    references = [weakref.ref(component_tokens)]
    model.transformer_blocks[1].register_forward_pre_hook(
        lambda module, args, kwargs: references.append(weakref.ref(kwargs["hidden_states"])), with_kwargs=True
    )
    run(model)
    references += [weakref.ref(handle._conditioning._kept.key), weakref.ref(handle.context.progress)]
    del component_tokens
    assert references[0]() is not None
    handle.detach()
    gc.collect()
    assert [r() for r in references] == [None] * 4


def test_works_again_after_an_exception_in_a_forward(model):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        full = run(model)

        def fail(*_):
            raise KeyboardInterrupt

        for block in (0, 2):
            hook = model.transformer_blocks[block].register_forward_pre_hook(fail)
            with pytest.raises(KeyboardInterrupt):
                run(model)
            hook.remove()
            assert torch.equal(run(model), full)


def test_bad_tokens_are_refused_and_the_identity_before_stays(model):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        full = run(model)
        with pytest.raises(ValueError, match=r"\(1, 6, 8, 16\)"):
            handle.set_tokens(torch.randn(6, 8, 16))
        with pytest.raises(ValueError, match="NaN"):
            handle.set_tokens(tiny.tokens() * torch.nan)
        with pytest.raises(ValueError, match="videos_per_prompt is 0"):
            handle.set_tokens(tiny.tokens(), videos_per_prompt=0)
        assert torch.equal(run(model), full)


def test_detached_handle_refuses_to_be_used(model):
    handle = attach(tiny.router(), model)
    assert "no identity" in repr(handle)
    assert "block 0 of CogVideoXTransformer3DModel" in repr(handle)
    handle.detach()
    assert repr(handle) == "RouterHandle(detached)"
    with pytest.raises(ValueError, match="has been detached"):
        handle.set_tokens(tiny.tokens())


def overwriting(router, may: list[bool]):
    """Let a router overwrite the stream wherever it may, as its kernels do on a GPU, and note whether it may."""
    apply_folded = router.apply_folded

    def apply(hidden_states, folded, strength=None, in_place=False, region=None, onto=None):
        may.append(in_place)
        steered = apply_folded(hidden_states, folded, strength, False, region, onto)
        return hidden_states.copy_(steered) if in_place else steered

    router.apply_folded = apply
    return router


@pytest.mark.parametrize("first_acts", [True, False])
@pytest.mark.parametrize("recording", ["first", "second"])
def test_what_one_handle_records_is_not_overwritten_by_another(model, recording, first_acts):
    may, leaving = [], []
    routers = [overwriting(tiny.router(seed), may) for seed in (1, 2)]
    own = type(model.transformer_blocks[0]).forward
    model.transformer_blocks[0].forward = lambda *args, **kwargs: (
        leaving.append((output := own(model.transformer_blocks[0], *args, **kwargs))[0].clone()) or output
    )
    with torch.no_grad(), attach(routers[0], model) as first, attach(routers[1], model, adapter_name="b") as second:
        first.set_tokens(tiny.tokens(seed=1))
        second.set_tokens(tiny.tokens(seed=2))
        first.enabled = first_acts
        plain = run(model)
        assert may == [True] * (1 + first_acts)  # where nothing is recorded, all do
        may.clear()
        with (first if recording == "first" else second).record_stream() as streams:
            torch.testing.assert_close(run(model), plain)
        assert may == [False] * (1 + first_acts)
        assert len(streams) == 1
        before_second = tiny.router(1)(leaving[1], tiny.tokens(1, seed=1)) if first_acts else leaving[1]
        torch.testing.assert_close(streams[0], leaving[1] if recording == "first" else before_second)
        assert not torch.allclose(tiny.router(2)(before_second, tiny.tokens(1, seed=2)), streams[0])
        run(model)
        assert may[-1]


def test_all_methods_of_a_detached_handle_say_so_at_once(model):
    handle = attach(tiny.router(), model)
    handle.set_tokens(tiny.tokens())
    handle.detach()
    uses = [
        lambda: handle.set_tokens(tiny.tokens()),
        handle.clear,
        lambda: handle.record_routes().__enter__(),
        lambda: handle.record_stream().__enter__(),
        lambda: handle.disabled().__enter__(),
        *(lambda name=name: setattr(handle, name, 1) for name in ("enabled", "scale", "start", "end")),
        lambda: setattr(handle, "component_scales", {}),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"This RouterHandle has been detached\. Attach"):
            use()


class Output(NamedTuple):
    video: torch.Tensor
    text: torch.Tensor


def test_a_block_that_gives_a_named_tuple_goes_on_giving_it():
    hook = StreamHook()
    hook.handles.append(SimpleNamespace(stream=0, records_stream=False, steer=lambda stream, overwrite: 2 * stream))
    output = hook.post_forward(torch.nn.Identity(), Output(torch.ones(1), torch.zeros(1)))
    assert isinstance(output, Output) and output.video == 2 and output.text == 0


@pytest.mark.parametrize("name", ["insert_innermost", "register_forward_pre_hook"])
def test_an_attach_that_fails_leaves_nothing_on_the_host(monkeypatch, name):
    def fail(*_, **__):
        raise KeyboardInterrupt

    model = tiny.transformer()
    block, before = model.transformer_blocks[0], {**vars(model.transformer_blocks[0])}
    target = model if name == "register_forward_pre_hook" else sys.modules[RouterHandle.__module__]
    monkeypatch.setattr(target, name, fail)
    with pytest.raises(KeyboardInterrupt):
        attach(tiny.router(), model)
    assert vars(block) == before and not model._forward_pre_hooks
    monkeypatch.undo()
    attach(tiny.router(), model).detach()


def test_routes_of_a_forward_whose_grid_is_not_known_are_refused_in_words(model):
    host = replace(find_host(model), grid=lambda *_: None, video_tokens="whole", order=None)
    with torch.no_grad(), attach(tiny.router(), model, host=host) as handle:
        handle.set_tokens(tiny.tokens())
        with handle.record_routes() as routes, pytest.raises(ValueError, match=r"not known. Pass grid=\(frames"):
            run(model)
        assert not routes
        with handle.record_routes((3, 4, 6)) as routes:
            run(model)
        assert [tuple(r.shape) for r in routes] == [(1, 6, 3, 4, 6)]
        with handle.record_routes((3, 4, 5)), pytest.raises(ValueError, match=r"has 60 places, but .* 72 video"):
            run(model)


@pytest.mark.parametrize("grid", [(3, 4), "346", 72, (3, 4, 6.0), (3, 4, True), torch.tensor([3, 4, 6])], ids=str)
def test_a_grid_that_is_not_three_whole_numbers_is_refused(model, grid):
    with attach(tiny.router(), model) as handle:
        with pytest.raises(TypeError, match=r"grid is .*, but must be"), handle.record_routes(grid):
            pass
        with handle.record_routes([3, 4, 6]):  # the refused recording does not run on
            pass

"""A compiled host: no graph break, and no other graph when what is set on a handle changes."""

import pytest
import torch
from support import tiny
from torch._dynamo.testing import CompileCounter

from lavieid_adapters import attach

WHOLE = pytest.param("whole", marks=pytest.mark.mode("`torch.compile`"))
BLOCKS = [
    pytest.param("each block", marks=pytest.mark.mode("`block.compile` of each block")),
    pytest.param("repeated blocks", marks=pytest.mark.mode("`compile_repeated_blocks`")),
]


@pytest.fixture(autouse=True)
def fresh_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(rig, model, what, counter):
    """The model with all of it compiled to one graph, or each of its blocks."""
    if what == "whole":
        return torch.compile(model, backend=counter, fullgraph=True)
    if what == "each block":
        for block in rig.blocks(model):
            block.compile(backend=counter, fullgraph=True)
    elif model._repeated_blocks:
        model.compile_repeated_blocks(backend=counter, fullgraph=True)
    else:
        pytest.skip("diffusers has none for it")
    return model


@pytest.mark.parametrize("what", [WHOLE, *BLOCKS])
def test_one_graph_for_whatever_is_set_on_the_handle(rig, what):
    counter, eager = CompileCounter(), rig.make()
    model = compiled(rig, rig.make(), what, counter)
    base = rig.forward(eager)
    with rig.attach(model) as handle, rig.attach(eager) as twin:
        changes = {
            "nothing": lambda h: None,
            "scale": lambda h: setattr(h, "scale", 0.5),
            "component_scales": lambda h: setattr(h, "component_scales", {"hair": 0.0}),
            "identity": lambda h: h.set_tokens(tiny.tokens(seed=3)),
            "mask": lambda h: h.set_tokens(tiny.tokens(seed=3), torch.tensor([True] * 5 + [False])),
            "enabled": lambda h: setattr(h, "enabled", False),
            "enabled again": lambda h: setattr(h, "enabled", True),
        }
        seen = base
        for name, change in changes.items():
            change(handle), change(twin)
            out = rig.forward(model)
            torch.testing.assert_close(out, rig.forward(eager), msg=lambda m, name=name: f"{name}: {m}")
            assert not torch.allclose(out, seen), name
            assert torch.allclose(out, base, atol=1e-5) == (name == "enabled")
            seen = out
            if name == "nothing":
                graphs = counter.frame_count
        assert counter.frame_count == graphs
        assert graphs == (1 if what == "whole" else 2)  # blocks with and without a router


@pytest.mark.parametrize("what", BLOCKS)
def test_a_window_of_a_compiled_host_that_is_disabled(rig, what):
    model = compiled(rig, rig.make(), what, counter := CompileCounter())
    base = rig.forward(model)
    with rig.attach(model) as handle:
        handle.start = 0.4
        full = rig.forward(model)
        graphs = counter.frame_count
        assert not torch.allclose(full, base)
        with handle.disabled():
            torch.testing.assert_close(rig.forward(model), base)
        assert torch.equal(rig.forward(model), full)
        assert counter.frame_count == graphs


@pytest.mark.parametrize("what", [WHOLE, *BLOCKS])
def test_one_graph_for_several_identities(rig, what):
    counter, eager = CompileCounter(), rig.make()
    model = compiled(rig, rig.make(), what, counter)
    with attach(tiny.router(), model) as handle, attach(tiny.router(), eager) as twin:
        graphs, seen = [], []
        for seed in (1, 1, 2, 2):
            for h in (handle, twin):
                h.set_tokens(tiny.tokens(2, seed=seed))
            seen.append(rig.forward(model))
            torch.testing.assert_close(seen[-1], rig.forward(eager))
            graphs.append(counter.frame_count)
        assert not torch.allclose(seen[1], seen[2])
        assert len(set(graphs)) == 1


@pytest.mark.parametrize("what", [WHOLE, *BLOCKS])
def test_an_identity_that_is_set_again_brings_changed_weights_without_another_graph(rig, what):
    counter, eager, router = CompileCounter(), rig.make(), tiny.router()
    model = compiled(rig, rig.make(), what, counter)
    with rig.attach(model, router) as handle, rig.attach(eager, router):
        before, graphs = rig.forward(model), counter.frame_count
        with torch.no_grad():
            for parameter in router.parameters():
                parameter.mul_(1.5)
        handle.set_tokens(tiny.tokens())
        after = rig.forward(model)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, rig.forward(eager))
        assert counter.frame_count == graphs


@pytest.mark.parametrize("what", [WHOLE, *BLOCKS])
def test_a_host_that_has_been_compiled_is_attached_to_and_detached_from(rig, what):
    counter = CompileCounter()
    model = compiled(rig, rig.make(), what, counter)
    base = rig.forward(model)
    graphs = counter.frame_count
    for _ in range(2):
        handle = rig.attach(model)
        assert not torch.allclose(rig.forward(model), base)
        handle.detach()
        assert torch.equal(rig.forward(model), base)
    assert graphs < counter.frame_count <= 2 * graphs + 1

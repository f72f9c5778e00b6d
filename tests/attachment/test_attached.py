import copy
import gc
import weakref

import pytest
import torch
from diffusers import CogVideoXPipeline
from support import tiny
from support.pipelines import build, generate

from lavieid_adapters import attach, attach_lavieid, detach_lavieid, get_lavieid


@pytest.fixture
def pipe():
    pipe = build()[0]
    generate(pipe)  # a first run notes things on the pipeline, which are none of ours
    return pipe


def adapters(seed=0):
    return {"router": tiny.router(seed), "tam": tiny.tam(seed)}


def cell(pipe, seed, person):
    """A cell of a notebook: attach, and set a person."""
    lavieid = attach_lavieid(pipe, adapters(seed))
    lavieid.set_identity(tiny.tokens(seed=person))
    return lavieid


def state(pipe):
    """All that an attached LaVieID could leave behind."""
    parts = {"pipe": pipe, "vae": pipe.vae, **dict(pipe.transformer.named_modules())}
    hooks = {name: len(getattr(part, "_forward_pre_hooks", ())) for name, part in parts.items()}
    return {name: set(vars(part)) for name, part in parts.items()}, hooks


def test_a_cell_that_runs_twice_gives_one_person(pipe):
    base, before = generate(pipe), state(pipe)
    first = cell(pipe, seed=1, person=1)
    alone = generate(pipe)
    cell(pipe, seed=2, person=2)
    assert not torch.equal(generate(pipe), alone)
    again = cell(pipe, seed=1, person=1)
    assert torch.equal(generate(pipe), alone)
    assert not torch.equal(alone, base)
    assert get_lavieid(pipe) is again
    with pytest.raises(ValueError, match="This LaVieID has been replaced by a later attach"):
        first.set_identity(tiny.tokens())
    with pytest.raises(ValueError, match="This RouterHandle has been replaced by a later attach"):
        first.handle.set_tokens(tiny.tokens())
    assert repr(first) == "LaVieID(replaced by a later attach)"
    first.detach()  # of what is off already
    assert torch.equal(generate(pipe), alone)
    again.detach()
    assert torch.equal(generate(pipe), base) and state(pipe) == before
    assert get_lavieid(pipe) is None


def test_the_same_adapters_may_be_attached_again_and_at_another_block(pipe):
    given, before = adapters(), state(pipe)
    for block in (0, 0, 1):
        lavieid = attach_lavieid(pipe, given, block_idx=block)
    lavieid.set_identity(tiny.tokens())
    video = generate(pipe)
    lavieid.detach()
    assert state(pipe) == before
    with attach_lavieid(pipe, given, block_idx=1) as once:
        once.set_identity(tiny.tokens())
        assert torch.equal(generate(pipe), video)


def test_what_is_lost_can_be_had_and_taken_off(pipe):
    base, before = generate(pipe), state(pipe)
    cell(pipe, 1, 1)
    get_lavieid(pipe).scale = 0.5
    assert get_lavieid(pipe).scale == 0.5
    attach_lavieid(pipe, adapters(2), adapter_name="other").set_identity(tiny.tokens(seed=2))
    both = generate(pipe)
    detach_lavieid(pipe, "other")
    assert get_lavieid(pipe, "other") is None and get_lavieid(pipe) is not None
    assert not torch.equal(generate(pipe), both)
    attach_lavieid(pipe, adapters(2), adapter_name="other")
    detach_lavieid(pipe)
    detach_lavieid(pipe)
    assert torch.equal(generate(pipe), base) and state(pipe) == before
    assert not torch.equal(both, base)


def test_adapters_that_do_not_fit_leave_those_before_in_place(pipe):
    lavieid = cell(pipe, 1, 1)
    video, before = generate(pipe), state(pipe)
    for wrong in ({"router": tiny.router(dim=32)}, {**adapters(), "tam": tiny.tam(latent_channels=8)}):
        with pytest.raises(ValueError, match=r"32 wide|built for 8 latent channels"):
            attach_lavieid(pipe, wrong)
    assert get_lavieid(pipe) is lavieid and state(pipe) == before
    assert torch.equal(generate(pipe), video)


def test_tam_alone_is_replaced_too(pipe):
    with attach_lavieid(pipe, tiny.tam(1)):
        alone = generate(pipe)
    attach_lavieid(pipe, tiny.tam(2))
    with attach_lavieid(pipe, tiny.tam(1)):
        assert torch.equal(generate(pipe), alone)


def test_another_pipeline_and_a_copy_have_their_own(pipe):
    lavieid = cell(pipe, 1, 1)
    others = copy.copy(pipe), CogVideoXPipeline(**pipe.components)
    assert [get_lavieid(other) for other in others] == [None, None]
    for other in others:
        detach_lavieid(other)
    assert get_lavieid(pipe) is lavieid


def test_a_pipeline_is_not_kept_alive_by_what_is_attached():
    pipe = build()[0]
    cell(pipe, 1, 1)
    reference = weakref.ref(pipe)
    del pipe
    gc.collect()
    assert reference() is None


def test_a_router_at_a_block_is_replaced_by_another_of_its_name(pipe):
    model, inputs = pipe.transformer, tiny.transformer_inputs()

    def run():
        with torch.no_grad():
            return model(**inputs).sample

    base, before = run(), state(pipe)
    first = attach(tiny.router(1), model)
    first.set_tokens(tiny.tokens(seed=1))
    alone = run()
    attach(tiny.router(2), model).set_tokens(tiny.tokens(seed=2))
    assert not torch.equal(run(), alone)
    again = attach(first.router, model, -len(model.transformer_blocks))  # the same block by another number
    again.set_tokens(tiny.tokens(seed=1))
    assert torch.equal(run(), alone)
    assert not torch.equal(alone, base)
    with pytest.raises(ValueError, match=r"This RouterHandle has been replaced by a later attach\. Use what"):
        first.set_tokens(tiny.tokens())
    with pytest.raises(ValueError, match="32 wide"):
        attach(tiny.router(dim=32), model)
    assert torch.equal(run(), alone)
    again.detach()
    assert torch.equal(run(), base) and state(pipe) == before


def test_a_router_at_a_block_leaves_a_pipelines_in_place(pipe):
    lavieid = cell(pipe, 1, 1)
    attach(tiny.router(2), pipe.transformer).detach()
    lavieid.set_identity(tiny.tokens())
    assert lavieid.handle._attached

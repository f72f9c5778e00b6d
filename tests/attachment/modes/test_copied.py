"""Copies and files of a host with a router attached, and what else shares its transformer."""

import copy
import pickle

import pytest
import torch
from support import tiny
from support.modes.rig import differ
from support.modes.videos import PIPELINES

from lavieid_adapters import attach_lavieid


def everything(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(copy.deepcopy, marks=pytest.mark.mode("`copy.deepcopy` while attached", refused=True)),
        pytest.param(pickle.dumps, marks=pytest.mark.mode("`pickle`, `torch.save` while attached", refused=True)),
    ],
)
def test_a_copy_that_would_run_the_originals_blocks_is_refused(rig, make):
    model = rig.make()
    base, before = rig.forward(model), everything(model)
    handle = rig.attach(model)
    full = rig.forward(model)
    assert differ(full, base)
    for whole in (model, rig.blocks(model)[0], handle, {"a": model}):
        with pytest.raises(TypeError, match=r"neither copied nor pickled\. Detach it"):
            make(whole)
    assert torch.equal(rig.forward(model), full)
    assert all(torch.equal(value, before[name]) for name, value in everything(model).items())
    handle.detach()
    made = make(model)
    if make is pickle.dumps:
        made = pickle.loads(made)
    assert torch.equal(rig.forward(made), base)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(0.5)
    assert differ(rig.forward(made), base)
    assert torch.equal(rig.forward(model), base)


@pytest.mark.mode("`save_pretrained` while attached")
def test_what_is_saved_is_the_host_alone(rig, tmp_path):
    model = rig.make()
    base, keys = rig.forward(model), list(model.state_dict())
    with rig.attach(model):
        assert differ(rig.forward(model), base)
        assert list(model.state_dict()) == keys
        model.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(rig.forward(loaded.eval()), base)
    assert list(torch.load(tmp_path / "weights.pt")) == keys


@pytest.mark.mode("`from_pretrained(torch_dtype=)`")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_host_loaded_in_16_bits(rig, dtype, tmp_path):
    from lavieid_adapters.hosts.host import activation_dtype

    rig.make().save_pretrained(tmp_path)
    model, built = (type(rig.make()).from_pretrained(tmp_path, torch_dtype=dtype).eval() for _ in range(2))
    base = rig.run(model, dtype)
    built.load_state_dict(model.state_dict())
    rig.blocks(built)[0].__class__ = type(rig.blocks(rig.built())[0])
    wanted = rig.run(built, dtype)
    assert differ(wanted, base)
    assert activation_dtype(model) == dtype  # Wan keeps some weights in float32
    with rig.attach(model) as handle:
        folded = handle._conditioning._kept
        torch.testing.assert_close(rig.run(model, dtype), wanted)
        assert handle._conditioning._kept is folded  # what was folded ahead was of the right dtype
    assert torch.equal(rig.run(model, dtype), base)


@pytest.mark.mode("shallow copy of the transformer")
def test_a_shallow_copy_shares_the_blocks_and_so_the_router(rig):
    model = rig.make()
    base = rig.forward(model)
    with rig.attach(model) as handle:
        full, shallow = rig.forward(model), copy.copy(model)
        assert differ(full, base)
        assert torch.equal(rig.forward(shallow), full)
        handle.set_tokens(tiny.tokens(seed=3))
        assert torch.equal(rig.forward(shallow), rig.forward(model))
    assert torch.equal(rig.forward(shallow), base)


@pytest.mark.parametrize("make", [copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_copy_that_would_go_on_refining_is_refused(name, make):
    pipe = PIPELINES[name]()
    with attach_lavieid(pipe, tiny.tam()):
        for whole in (pipe, pipe.vae) if name == "Wan" else (pipe,):
            with pytest.raises(
                TypeError, match=r"attached TAM(Handle)? can be neither copied nor pickled\. Detach it before"
            ):
                make(whole)
    make(pipe.vae)

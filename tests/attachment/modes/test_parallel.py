"""Context parallelism: each process has a share of the video tokens, of which the router treats each by itself."""

import pytest
import torch
import torch.multiprocessing
from support import tiny
from support.hosts import cosmos_family, ltx_family
from support.modes.rig import RIGS, differ, free_port
from torch import Tensor, nn

from lavieid_adapters import attach


def parallel(rank: int, port: int, name: str, first: bool, folder) -> None:
    """One of two processes: the host with a router, and the refusals."""
    from diffusers import ContextParallelConfig

    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and finds none here
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rig = next(rig for rig in RIGS if rig.name == name)
    model = rig.make()
    if first:
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    handle = rig.attach(model, block_idx=1)
    if not first:
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    shares = []
    rig.blocks(model)[1].register_forward_hook(lambda module, args, out: shares.append(out.shape[1]))
    outputs = {"full": rig.forward(model)}
    with handle.disabled():
        outputs["base"] = rig.forward(model)
    for way in (handle.record_routes, handle.record_stream):
        with pytest.raises(ValueError, match="context parallel"), way():
            pass
    outputs["share"] = shares[0]
    torch.save(outputs, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.mode("context parallelism (Ulysses), two processes")
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_two_processes_give_what_one_gives(rig, tmp_path, first):
    if rig.make()._cp_plan is None:
        pytest.skip("diffusers has no context parallelism for it")
    model = rig.make()
    base, handle = rig.forward(model), rig.attach(model, block_idx=1)
    full = rig.forward(model)
    handle.detach()
    assert differ(full, base)
    torch.multiprocessing.spawn(parallel, (free_port(), rig.name, first, tmp_path), nprocs=2)
    for rank in range(2):
        outputs = torch.load(tmp_path / f"{rank}.pt")
        assert outputs["share"] == 36  # of 72
        torch.testing.assert_close(outputs["full"], full)
        torch.testing.assert_close(outputs["base"], base)


class Config:
    """What `enable_parallelism` records on a model."""

    context_parallel_config = object()


@pytest.mark.mode("context parallelism with route maps, regions or `record_stream`", refused=True)
def test_what_needs_all_tokens_is_refused_at_the_door(rig):
    model = rig.make()
    halves = [torch.zeros(8, 12), torch.zeros(8, 12)]
    halves[0][:, :6], halves[1][:, 6:] = 1, 1
    with rig.attach(model) as handle:
        full = rig.forward(model)
        model._parallel_config = Config()
        with pytest.raises(ValueError, match="regions need all video tokens on one device"):
            handle.set_tokens(tiny.tokens(2), regions=halves)
        for way in (handle.record_routes, handle.record_stream):
            with pytest.raises(ValueError, match="need all video tokens on one device"), way():
                pass
        assert torch.equal(rig.forward(model), full)  # what was set before stays
        del model._parallel_config
        handle.set_tokens(tiny.tokens(2), regions=halves)
        model._parallel_config = Config()
        with pytest.raises(ValueError, match="regions need all video tokens"):
            rig.forward(model)


def ltx() -> tuple[nn.Module, dict]:
    """LTX-Video from text alone. The text is split as well; a mask is made for all heads, though a process has half."""
    model, inputs = ltx_family.ltx()
    text = inputs["encoder_hidden_states"][:, :4]
    return model, {**inputs, "encoder_hidden_states": text, "encoder_attention_mask": None}


def ltx_with_given_frames() -> tuple[nn.Module, dict]:
    """The same behind one given frame, whose tokens are at a later second."""
    model, inputs = ltx()
    hidden_states = torch.cat([inputs["hidden_states"][:, :24] + 1, inputs["hidden_states"]], 1)
    t, y, x = torch.meshgrid(*(torch.arange(size) for size in ltx_family.GRID), indexing="ij")
    clip = torch.stack([t, y, x]).flatten(1)
    coordinates = torch.cat([clip[:, :24] + torch.tensor([[2], [0], [0]]), clip], 1)
    inputs = {name: value for name, value in inputs.items() if name not in ("num_frames", "height", "width")}
    inputs |= {"hidden_states": hidden_states, "video_coords": coordinates.float().expand(2, -1, -1)}
    return model, inputs


def ltx2() -> tuple[nn.Module, dict]:
    return ltx_family.ltx2()


def ltx2_with_given_frames() -> tuple[nn.Module, dict]:
    """Behind the clip, as the pipelines that take them have it."""
    model, inputs = ltx2()
    hidden_states = torch.cat([inputs["hidden_states"], inputs["hidden_states"][:, :24] + 1], 1)
    coordinates = model.rope.prepare_video_coords(2, *ltx_family.GRID, hidden_states.device)
    coordinates = torch.cat([coordinates, coordinates[:, :, :24]], 2)
    return model, {**inputs, "hidden_states": hidden_states, "video_coords": coordinates}


def helios_alone() -> tuple[nn.Module, dict]:
    """Its plan names 40 blocks, of which a tiny one has fewer."""
    model, inputs = cosmos_family.helios_alone()
    known = {f"blocks.{i}." for i in ("*", *range(len(model.blocks)))}
    model._cp_plan = {key: value for key, value in model._cp_plan.items() if key.startswith(tuple(known))}
    return model, inputs


HOSTS = {"LTX-Video": ltx, "Helios": helios_alone}


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: dict) -> tuple[Tensor, Tensor]:
    """What the host gives with a router and without."""
    with attach(tiny.router(dim=32), model, block_idx=1) as handle:
        handle.set_tokens(tiny.tokens())
        full = model(**inputs)[0]
        with handle.disabled():
            return full, model(**inputs)[0]


def parallel_host(rank: int, port: int, name: str, folder) -> None:
    """One of two processes, of a host whose stream may hold more than the clip and does not."""
    from diffusers import ContextParallelConfig

    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model, inputs = HOSTS[name]()
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    torch.save(outputs_of(model, inputs), folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTS)
def test_a_stream_that_is_the_clip_alone_runs_on_two_processes(name, tmp_path):
    full, base = outputs_of(*HOSTS[name]())
    assert differ(full, base)
    torch.multiprocessing.spawn(parallel_host, (free_port(), name, tmp_path), nprocs=2)
    for rank in range(2):
        for got, wanted in zip(torch.load(tmp_path / f"{rank}.pt"), (full, base), strict=True):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("build", "held"),
    [
        (ltx, False), (ltx_with_given_frames, True), (ltx2, False), (ltx2_with_given_frames, True),
        (helios_alone, False), (cosmos_family.helios, True),
    ],
)  # fmt: skip
def test_only_streams_that_hold_more_than_the_clip_are_refused(build, held):
    model, inputs = build()
    full, base = outputs_of(model, inputs)
    assert differ(full, base)
    model._parallel_config = Config()
    if held:
        message = r"more than the video .* one device.*Run \w+ without enable_parallelism"
        with pytest.raises(ValueError, match=message):
            outputs_of(model, inputs)
        with attach(tiny.router(dim=32), model, block_idx=1) as handle, torch.no_grad():
            with pytest.warns(UserWarning, match="no identity is set"):
                assert torch.equal(model(**inputs)[0], base)
            handle.set_tokens(tiny.tokens())
            with handle.disabled():
                assert torch.equal(model(**inputs)[0], base)
    else:
        for got, wanted in zip(outputs_of(model, inputs), (full, base), strict=True):
            assert torch.equal(got, wanted)

"""Context parallelism: each process has a share of the video tokens, of which the router treats each by itself."""

import contextlib
import socket

import pytest
import tiny
import torch
import torch.multiprocessing
from rig import RIGS, differ


def free_port() -> int:
    with contextlib.closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


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

"""From gradients to new weights."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from lavieid_adapters.training.gradients import update

TARGETS = [torch.arange(6.0).view(2, 3), torch.tensor([10.0, -4.0])]


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(target.shape)) for target in TARGETS]


def backward(trained) -> None:
    sum((p - t).square().sum() for p, t in zip(trained, TARGETS, strict=True)).backward()


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_gradients_are_scaled_down_to_the_norm_of_all_together(max_norm):
    mine, theirs = parameters(), parameters()
    before = [p.detach().clone() for p in mine]
    for trained in (mine, theirs):
        backward(trained)
    nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.optim.SGD(theirs, 1.0).step()
    assert update(torch.optim.SGD(mine, 1.0), mine, max_norm)
    for now, was, expected in zip(mine, before, theirs, strict=True):
        assert not torch.equal(now, was)
        torch.testing.assert_close(now, expected)
        assert now.grad is None


@pytest.mark.parametrize(("value", "finite"), [(float("nan"), True), (float("inf"), True), (1.0, False)])
def test_what_is_not_finite_changes_nothing(value, finite):
    trained = parameters()
    before = [p.detach().clone() for p in trained]
    backward(trained)
    trained[1].grad[0] = value
    assert not update(torch.optim.AdamW(trained, 1.0), trained, 1.0, finite)
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(trained, before, strict=True))


def test_a_parameter_without_a_gradient_stays():
    trained = parameters()
    (trained[0] - TARGETS[0]).square().sum().backward()
    before = trained[1].detach().clone()
    assert update(torch.optim.AdamW(trained, 1.0), trained, 1.0)
    assert torch.equal(trained[1], before)


def test_sharded_and_whole_parameters_go_together(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        whole, mixed = parameters(), parameters()
        mixed[0] = nn.Parameter(distribute_tensor(mixed[0].detach(), mesh, [Shard(0)]))
        for trained in (whole, mixed):
            for parameter, target in zip(trained, TARGETS, strict=True):
                sharded = hasattr(parameter, "device_mesh")
                target = distribute_tensor(target, mesh, [Shard(0)]) if sharded else target
                (parameter - target).square().sum().backward()
            assert update(torch.optim.SGD(trained, 1.0), trained, 1e-3)
        torch.testing.assert_close(mixed[0].full_tensor(), whole[0])
        torch.testing.assert_close(mixed[1], whole[1])
    finally:
        torch.distributed.destroy_process_group()

"""From gradients to new weights; and the state through a file and back: training goes on as if it had never stopped."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from lavieid_adapters.training.optimizer import collect_state, gathered, restore_state, step_if_finite

SHAPES = {"router.to_video.weight": (6, 4), "router.bias": (6,), "router.background_logit": (1,), "tam.late": (3,)}


def fresh(seed: int = 0) -> dict[str, nn.Parameter]:
    """Parameters by name."""
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def adamw(parameters: dict[str, nn.Parameter], **options) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters.values(), 1e-2, (0.9, 0.95), weight_decay=0.1, **options)


def train(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """Steps of a loss that draws from the global RNG, and reaches the last parameter from the fourth on only."""
    for number in range(first, last):
        y = torch.randn(5, 4) @ parameters["router.to_video.weight"].T + parameters["router.bias"]
        loss = (y * parameters["router.background_logit"]).square().mean()
        if number >= 4:
            loss = loss + parameters["tam.late"].square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def with_values(values: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    """Other parameters of the same values, as another process has them."""
    return {name: nn.Parameter(value.clone()) for name, value in values.items()}


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_training_goes_on_bit_for_bit(tmp_path, stop, options):
    torch.manual_seed(0)
    parameters = fresh()
    optimizer = adamw(parameters, **options)
    train(parameters, optimizer, 0, stop)
    save_file(collect_state(optimizer, parameters), tmp_path / "state.safetensors")
    values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    train(parameters, optimizer, stop, 9)
    next_numbers = torch.rand(3)

    torch.manual_seed(1)
    again = with_values(values)
    optimizer = adamw(again, **options)
    restore_state(optimizer, again, load_file(tmp_path / "state.safetensors"))
    train(again, optimizer, stop, 9)
    assert torch.equal(torch.rand(3), next_numbers)
    for name, parameter in parameters.items():
        assert not torch.equal(parameter, values[name])
        assert torch.equal(parameter, again[name]), name


@pytest.mark.parametrize("left_out", ["rng/", "optimizer/"])
def test_without_either_part_it_would_go_on_otherwise(left_out):
    torch.manual_seed(0)
    parameters = fresh()
    optimizer = adamw(parameters)
    train(parameters, optimizer, 0, 3)
    state = {name: value.clone() for name, value in collect_state(optimizer, parameters).items()}
    again = with_values(parameters)
    train(parameters, optimizer, 3, 5)
    other = torch.get_rng_state()
    torch.manual_seed(1)
    kept = {name: value for name, value in state.items() if not name.startswith(left_out)}
    optimizer = adamw(again)
    restore_state(optimizer, again, {"rng/cpu": other, **kept})
    train(again, optimizer, 3, 5)
    assert not torch.equal(parameters["router.bias"], again["router.bias"])


def test_collects_what_each_parameter_that_had_a_gradient_has():
    parameters = fresh()
    optimizer = adamw(parameters)
    assert collect_state(optimizer, parameters).keys() - {"rng/cuda"} == {"rng/cpu"}
    train(parameters, optimizer, 0, 2)
    tensors = collect_state(optimizer, parameters)
    for name in SHAPES:
        keys = {key.rpartition("/")[2] for key in tensors if key.startswith(f"optimizer/{name}/")}
        assert keys == (set() if name == "tam.late" else {"exp_avg", "exp_avg_sq", "step"})
    for name, shape in list(SHAPES.items())[:3]:
        assert tensors[f"optimizer/{name}/exp_avg"].shape == shape
        assert tensors[f"optimizer/{name}/exp_avg"].norm() > 0
        assert tensors[f"optimizer/{name}/step"] == 2
    assert all(value.device.type == "cpu" and not value.requires_grad for value in tensors.values())


def test_names_decide_and_not_the_order():
    torch.manual_seed(0)
    parameters = fresh()
    optimizer = adamw(parameters)
    train(parameters, optimizer, 0, 5)
    state = {name: value.clone() for name, value in collect_state(optimizer, parameters).items()}
    turned = dict(reversed(with_values(parameters).items()))
    other = adamw(turned)
    restore_state(other, turned, state)
    for run in ((parameters, optimizer), (turned, other)):
        torch.manual_seed(2)
        train(*run, 5, 8)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, turned[name]), name


def test_the_learning_rate_of_now_stays():
    parameters = fresh()
    optimizer = adamw(parameters)
    train(parameters, optimizer, 0, 2)
    state = collect_state(optimizer, parameters)
    again = with_values(parameters)
    optimizer = torch.optim.AdamW(again.values(), 0.5)
    restore_state(optimizer, again, state)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert len(optimizer.param_groups[0]["params"]) == len(SHAPES)


def test_a_parameter_that_is_new_starts_without_a_state():
    parameters = fresh()
    optimizer = adamw(parameters)
    train(parameters, optimizer, 0, 6)
    state = collect_state(optimizer, parameters)
    more = {**with_values(parameters), "router.new": nn.Parameter(torch.ones(2))}
    optimizer = adamw(more)
    restore_state(optimizer, more, state)
    assert set(map(id, optimizer.state)) == {id(more[name]) for name in SHAPES}


def test_a_state_of_other_parameters_is_refused_and_changes_nothing():
    parameters = fresh()
    optimizer = adamw(parameters)
    train(parameters, optimizer, 0, 6)
    state = collect_state(optimizer, parameters)
    fewer = {name: p for name, p in with_values(parameters).items() if name.startswith("router")}
    optimizer = adamw(fewer)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"The checkpoint's optimizer has tam\.late, which are not trained here"):
        restore_state(optimizer, fewer, state)
    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tensor_that_is_not_sharded_is_whole():
    tensor = torch.randn(3)
    assert gathered(tensor) is tensor


# gradients

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
    assert step_if_finite(torch.optim.SGD(mine, 1.0), mine, max_norm)
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
    assert not step_if_finite(torch.optim.AdamW(trained, 1.0), trained, 1.0, finite)
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(trained, before, strict=True))


def test_a_parameter_without_a_gradient_stays():
    trained = parameters()
    (trained[0] - TARGETS[0]).square().sum().backward()
    before = trained[1].detach().clone()
    assert step_if_finite(torch.optim.AdamW(trained, 1.0), trained, 1.0)
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
            assert step_if_finite(torch.optim.SGD(trained, 1.0), trained, 1e-3)
        torch.testing.assert_close(mixed[0].full_tensor(), whole[0])
        torch.testing.assert_close(mixed[1], whole[1])
    finally:
        torch.distributed.destroy_process_group()

"""From gradients to new weights, and what a run stores to go on as if it had never stopped."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def average_gradients(parameters: Iterable[nn.Parameter], accelerator) -> None:
    """Average the gradients over all processes; FSDP has averaged those of what it shards.

    A process without a gradient, where another has one, counts as 0.

    Args:
        parameters: The trained ones, in the same order in every process.
        accelerator: The `accelerate.Accelerator` of the processes.
    """
    if accelerator.num_processes == 1:
        return
    replicated = [p for p in parameters if not hasattr(p, "device_mesh")]
    present = torch.tensor([p.grad is not None for p in replicated], device=accelerator.device).float()
    present = accelerator.reduce(present, "sum").tolist()
    for parameter, count in zip(replicated, present, strict=True):
        if count:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= accelerator.num_processes


def step_if_finite(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor], max_norm: float, finite: bool = True
) -> bool:
    """Clip the gradients to a norm, step and clear them. If anything is not finite, only clear them.

    Args:
        optimizer: The optimizer of `parameters`.
        parameters: Those that may have a gradient.
        max_norm: The largest norm of all gradients together.
        finite: Whether the loss was finite.

    Returns:
        Whether the optimizer has stepped.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    # Each norm is gathered before they are stacked, since FSDP shards some of the gradients.
    norms = [gathered(torch.linalg.vector_norm(gradient)) for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms)).item() if norms else 0.0
    finite = finite and math.isfinite(norm)
    if finite:
        if norm > max_norm:
            for gradient in gradients:  # FSDP shards some, so no foreach call takes all of them
                gradient.mul_(max_norm / norm)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return finite


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that FSDP has sharded; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def collect_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the state of the optimizer and of the random number generators, as CPU tensors by name.

    Args:
        optimizer: The optimizer of `parameters`.
        parameters: The trained parameters by name.
    """
    tensors = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = gathered(value).detach().cpu()
    return tensors


def restore_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Load what `collect_state` returned.

    Raises:
        ValueError: If the state is of other parameters.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for place, value in tensors.items():
        kind, _, rest = place.partition("/")
        if kind == "optimizer":
            name, _, key = rest.rpartition("/")
            states.setdefault(name, {})[key] = value
    unknown = sorted(set(states) - set(parameters))
    if unknown:
        raise ValueError(
            f"The checkpoint's optimizer has {', '.join(unknown[:4])}, which are not trained here. Continue with the "
            "settings that the run began with."
        )
    numbers = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    saved = optimizer.state_dict()
    saved["state"] = {
        numbers[id(parameters[name])]: {key: _sharded_as(parameters[name], value) for key, value in state.items()}
        for name, state in states.items()
    }
    optimizer.load_state_dict(saved)
    torch.set_rng_state(tensors["rng/cpu"])
    if torch.cuda.is_available() and "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"])


def _sharded_as(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Return a tensor laid out over the GPUs as its parameter is."""
    if value.ndim == 0 or not hasattr(parameter, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

"""What a run needs besides its weights to go on as if it had never stopped: the optimizer's state and the RNG's."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP has sharded, gathered; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def collect(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The state as tensors by name.

    Args:
        optimizer: Of these parameters.
        parameters: By name.
    """
    tensors = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = whole(value).detach().cpu()
    return tensors


def restore(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Undo `collect`.

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
        raise ValueError(f"The checkpoint's optimizer has {', '.join(unknown[:4])}, which are not trained here.")
    numbers = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    saved = optimizer.state_dict()
    saved["state"] = {
        numbers[id(parameters[name])]: {key: _as_sharded(value, parameters[name]) for key, value in state.items()}
        for name, state in states.items()
    }
    optimizer.load_state_dict(saved)
    torch.set_rng_state(tensors["rng/cpu"])
    if torch.cuda.is_available() and "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"])


def _as_sharded(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A tensor laid out over the GPUs as its parameter is."""
    if value.ndim == 0 or not hasattr(parameter, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

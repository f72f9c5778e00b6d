"""From gradients to new weights: averaged over processes, scaled down to a norm, refused if they are not finite."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .optimizer import whole


def average(parameters: Iterable[nn.Parameter], accelerator) -> None:
    """The mean of the gradients over all processes; FSDP has averaged those of what it shards.

    A process without a gradient, where another has one, counts as 0.

    Args:
        parameters: Those that are trained, in the same order everywhere.
        accelerator: Whose processes they are on.
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


def update(optimizer: torch.optim.Optimizer, parameters: list[Tensor], max_norm: float, finite: bool = True) -> bool:
    """Scale the gradients down to a norm, step, and forget them; leave the weights alone if one is not finite.

    Args:
        optimizer: Of the parameters.
        parameters: Those that may have a gradient.
        max_norm: Of all gradients together.
        finite: Whether the loss was.

    Returns:
        Whether it has stepped.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    # Each is whole before they are put together, since FSDP shards some of them.
    norms = [whole(torch.linalg.vector_norm(gradient)) for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms)).item() if norms else 0.0
    finite = finite and math.isfinite(norm)
    if finite:
        if norm > max_norm:
            for gradient in gradients:  # of which FSDP shards some, so no one call takes all
                gradient.mul_(max_norm / norm)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return finite

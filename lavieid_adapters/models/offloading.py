"""Weights that accelerate's hooks place: `device_map`, `cpu_offload`, `disk_offload`.

A hook fetches the weights of a module ahead of its forward; `fetched` has them there where other methods are called.
Hooks are told by their attributes, since accelerate need not be installed.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def _hooks(module: nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def _aligns(hook: Any) -> bool:
    """Return whether a hook is an `AlignDevicesHook`, which moves inputs and weights, and changes nothing else."""
    return hasattr(hook, "offload") and hasattr(hook, "io_same_device")


def execution_device(model: nn.Module) -> torch.device | None:
    """Return the device to which hooks put the first of the weights that they hold; None if they hold none."""
    for module in model.modules():
        for hook in _hooks(module):
            if _aligns(hook) and hook.execution_device is not None:
                return torch.device(hook.execution_device)
    return None


def only_placed(module: nn.Module) -> bool:
    """Return whether a module's forward is its class's, with nothing around it but hooks that place weights."""
    replaced, own = (vars(module).get(name) for name in ("forward", "_old_forward"))
    if replaced is None:
        return True
    by_accelerate = getattr(getattr(replaced, "func", None), "__module__", None) == "accelerate.hooks"
    return (
        by_accelerate and getattr(own, "__func__", None) is type(module).forward and all(map(_aligns, _hooks(module)))
    )


def _awaits(module: nn.Module) -> bool:
    """Return whether weights within a module are away that no hook of a module within it fetches."""
    return any(
        weight is not None and weight.is_meta
        for part in module.modules()
        if part is module or not _hooks(part)
        for weight in part._parameters.values()
    )


@contextlib.contextmanager
def fetched(*modules: nn.Module) -> Iterator[None]:
    """Hold the weights that hooks on some modules fetch for a forward, where that forward is not called.

    Raises:
        ValueError: If weights are on the meta device and nothing fetches them.
    """
    with contextlib.ExitStack() as held:
        for module in modules:
            if _hooks(module) and _awaits(module):
                module._hf_hook.pre_forward(module)
                held.callback(module._hf_hook.post_forward, module, None)
        for module in modules:
            if _awaits(module):
                raise ValueError(
                    f"{type(module).__name__} has weights on the meta device, and no hook of accelerate fetches them. "
                    "Load the weights, or offload it by accelerate.cpu_offload."
                )
        yield

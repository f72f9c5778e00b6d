"""Putting a hook under all others of a block, and taking it out again without a trace.

diffusers' registry wraps a new hook around those that are there. A cache that replaces a block's forward (first-block
caching, say) stores the block's output; a router around it would be added again to a stored output that holds it
already. So the router's hook must be next to the block's own forward, whether the cache came before or after it.
accelerate's offloading wraps a forward as well, and stores what it wrapped as `_old_forward`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from torch import nn


def insert_innermost(block: nn.Module, hook: ModelHook, name: str) -> None:
    """Register `hook` in the block's registry as the first, next to the block's own forward."""
    registry = HookRegistry.check_if_exists_or_initialize(block)
    slot = next((s for s in _slots(block) if _is_own_forward(block, getattr(*s))), None)
    outermost = block.__dict__.get("forward")
    if slot is None or slot == (block, "forward"):
        registry.register_hook(hook, name)
        hook.wrapper = block.forward
        return
    # Register on the bare block, then put the wrapper where the bare forward was called.
    del block.forward
    registry.register_hook(hook, name)
    hook.wrapper = block.forward
    setattr(*slot, hook.wrapper)
    block.forward = outermost
    for order in (registry._hook_order, registry._fn_refs):
        order.insert(0, order.pop())


def remove_innermost(block: nn.Module, name: str) -> None:
    """Undo `insert_innermost`, whatever has been wrapped around since. A block left without hooks is as it was.

    The registry's own `remove_hook` would put the block's forward in place of the next hook's, and so switch off a
    cache that came after.
    """
    registry = block._diffusers_hook
    hook = registry.hooks.pop(name)
    registry._hook_order.remove(name)
    registry._fn_refs.remove(hook.fn_ref)
    for holder, attribute in _slots(block):
        if getattr(holder, attribute) is hook.wrapper:
            setattr(holder, attribute, hook.fn_ref.forward)
    if _is_own_forward(block, block.__dict__.get("forward")):
        del block.forward
    if not registry.hooks:
        del block._diffusers_hook


def _slots(block: nn.Module) -> Iterator[tuple[Any, str]]:
    """Yield the places that may hold a wrapped forward of this block, as (holder, attribute), outermost last."""
    for fn_ref in getattr(block, "_diffusers_hook", HookRegistry(block))._fn_refs:
        yield fn_ref, "forward" if fn_ref.original_forward is None else "original_forward"
    if "_old_forward" in block.__dict__:
        yield block, "_old_forward"
    yield block, "forward"


def _is_own_forward(block: nn.Module, forward: Callable | None) -> bool:
    return getattr(forward, "__func__", None) is type(block).forward and forward.__self__ is block

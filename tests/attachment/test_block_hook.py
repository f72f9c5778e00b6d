import pytest
import torch
from accelerate.hooks import ModelHook as AccelerateHook
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from lavieid_adapters.attachment.block_hook import insert_innermost, remove_innermost

CALLS: list[str] = []


class Block(nn.Module):
    def forward(self, x, scale=1):
        CALLS.append("block")
        return x * scale


class Around(ModelHook):
    """Says when it is left."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def post_forward(self, module, output):
        CALLS.append(self.name)
        return output


class Replacing(Around):
    """Puts itself in the place of what it wraps, as the caches do."""

    def new_forward(self, module, *args, **kwargs):
        return self.fn_ref.original_forward(*args, **kwargs)


class Offload(AccelerateHook):
    def post_forward(self, module, output):
        CALLS.append("accelerate")
        return output


def others(block, kind):
    """Put a hook of some kind around a block; gives its name, and the function that takes it off."""
    if kind == "accelerate":
        add_hook_to_module(block, Offload())
        return kind, lambda: remove_hook_from_module(block)
    hook = (Replacing if kind == "replacing" else Around)(kind)
    HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, kind)
    return kind, lambda: block._diffusers_hook.remove_hook(kind)


def order(block):
    CALLS.clear()
    assert block(torch.ones(1), scale=3) == 3
    return list(CALLS)


@pytest.mark.parametrize("kind", ["around", "replacing", "accelerate"])
@pytest.mark.parametrize("other_first", [True, False])
@pytest.mark.parametrize("ours_leaves_first", [True, False])
def test_is_next_to_the_forward_and_leaves_no_trace(kind, other_first, ours_leaves_first):
    block, pristine = Block(), set(Block().__dict__)
    if other_first:
        name, leave = others(block, kind)
    insert_innermost(block, Around("ours"), "ours")
    if not other_first:
        name, leave = others(block, kind)
    assert order(block) == ["block", "ours", name]

    if ours_leaves_first:
        remove_innermost(block, "ours")
        assert order(block) == ["block", name]
        leave()
    else:
        leave()
        assert order(block) == ["block", "ours"]
        remove_innermost(block, "ours")
    assert order(block) == ["block"]
    if ours_leaves_first and kind != "accelerate":  # what the registry leaves behind by itself
        pristine |= {"forward", "_diffusers_hook"}
    # accelerate leaves the class's forward bound to the instance
    assert set(block.__dict__) - {"forward"} <= pristine
    assert block.forward.__func__ is Block.forward


def test_block_with_no_other_hook_is_as_before():
    block, pristine = Block(), set(Block().__dict__)
    insert_innermost(block, Around("ours"), "ours")
    assert order(block) == ["block", "ours"]
    remove_innermost(block, "ours")
    assert set(block.__dict__) == pristine


def test_forward_that_was_replaced_on_the_instance_is_kept():
    block = Block()
    block.forward = lambda x, scale=1: Block.forward(block, x, scale)
    replaced = block.forward
    insert_innermost(block, Around("ours"), "ours")
    assert order(block) == ["block", "ours"]
    remove_innermost(block, "ours")
    assert block.forward is replaced


def test_several_hooks_stay_in_order():
    block = Block()
    others(block, "around")
    others(block, "replacing")
    insert_innermost(block, Around("ours"), "ours")
    assert order(block) == ["block", "ours", "around", "replacing"]
    remove_innermost(block, "ours")
    assert order(block) == ["block", "around", "replacing"]

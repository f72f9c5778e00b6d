"""Gradient checkpointing by blocks: which of them are computed again, and that nothing else changes."""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from support import tiny
from torch import Tensor

from lavieid_adapters import attach
from lavieid_adapters.training.block_checkpointing import BlockCheckpointing

LAYERS = 5
NO_GRID = {"use_rotary_positional_embeddings": False, "sample_height": 8, "sample_width": 12, "sample_frames": 9}
CPU = torch.device("cpu")


class Step(NamedTuple):
    """A training step: its loss, its gradients, how often each block was computed in the forward and in the backward
    pass, the bytes that were kept in between, and what decided on them."""

    loss: Tensor
    gradients: tuple[Tensor, ...]
    forward: list[int]
    backward: list[int]
    kept: int
    checkpointing: BlockCheckpointing | None


@cache
def step(block_idx: int = 0, recomputed: int | str | None = None, host_trains: bool = False) -> Step:
    """A step of a router behind a block, and of the whole host if that trains; without checkpointing if None."""
    model, checkpointing = tiny.transformer(num_layers=LAYERS, **NO_GRID).requires_grad_(host_trains), None
    if recomputed is not None:
        first = 0 if host_trains else block_idx + 1
        checkpointing = BlockCheckpointing(model.transformer_blocks, first, recomputed)
        model.enable_gradient_checkpointing(checkpointing)
        checkpointing.begin(CPU, 100)
    counts = [0] * LAYERS
    for place, block in enumerate(model.transformer_blocks):

        def count(*_, place=place):
            counts[place] += 1

        block.register_forward_pre_hook(count)
    sizes = {}

    def keep(tensor):
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    router, component_tokens = tiny.router(), tiny.tokens().requires_grad_()
    trained = [component_tokens, *router.parameters(), *(model.parameters() if host_trains else ())]
    with attach(router, model, block_idx) as handle:
        handle.set_tokens(component_tokens)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(**tiny.transformer_inputs(2)).sample.square().mean()
        forward = list(counts)
        gradients = torch.autograd.grad(loss, trained)
    if checkpointing is not None:
        checkpointing.settle(CPU)
    backward = [count - before for count, before in zip(counts, forward, strict=True)]
    return Step(loss.detach(), gradients, forward, backward, sum(sizes.values()), checkpointing)


@pytest.mark.parametrize("host_trains", [False, True])
@pytest.mark.parametrize("recomputed", [0, 2, LAYERS, "all", "auto"])
def test_the_gradients_are_the_same_bit_for_bit(recomputed, host_trains):
    plain, checkpointed = step(), step(recomputed=recomputed)
    if host_trains:
        plain, checkpointed = step(host_trains=True), step(recomputed=recomputed, host_trains=True)
    assert sum(plain.backward) == 0
    assert (sum(checkpointed.backward) > 0) == (recomputed != 0)
    assert torch.equal(plain.loss, checkpointed.loss)
    for wanted, got in zip(plain.gradients, checkpointed.gradients, strict=True):
        assert wanted.norm() > 0
        assert torch.equal(wanted, got)


@pytest.mark.parametrize("block_idx", [0, 2, LAYERS - 1])
@pytest.mark.parametrize("recomputed", [0, 1, 3, 99, "all"])
def test_as_many_blocks_are_computed_again_as_asked_for_and_the_last_are_not(block_idx, recomputed):
    behind = LAYERS - block_idx - 1
    again = behind if recomputed == "all" else min(recomputed, behind)
    done = step(block_idx, recomputed)
    assert done.forward == [1] * LAYERS
    assert done.backward == [0] * (block_idx + 1) + [1] * again + [0] * (behind - again)
    assert done.checkpointing.kept == (0 if recomputed == "all" else behind - again)


def test_blocks_of_a_host_that_trains_are_computed_again_from_the_first_on():
    assert step(recomputed=2, host_trains=True).backward == [1, 1, 0, 0, 0]
    assert step(recomputed="all", host_trains=True).backward == [1] * LAYERS
    # That of another place, which gradients reach as well, is left alone where it is said that they do not.
    assert step(block_idx=1, recomputed="all").backward == [0, 0, 1, 1, 1]


def test_auto_on_the_cpu_computes_all_again_and_measures_nothing():
    done = step(recomputed="auto")
    assert done.backward == [0] + [1] * (LAYERS - 1)
    assert done.checkpointing.kept is None


def test_each_block_that_is_computed_again_keeps_less():
    kept = [step(recomputed=count).kept for count in range(LAYERS)]
    assert kept == sorted(kept, reverse=True)
    saved = [a - b for a, b in pairwise(kept)]
    assert min(saved) > 0.5 * max(saved)  # one block is as large as another
    assert kept[0] == step().kept
    assert kept[-1] == step(recomputed="all").kept < 0.4 * kept[0]


def test_without_gradients_nothing_is_kept_nor_computed_again():
    model = tiny.transformer(num_layers=LAYERS, **NO_GRID)
    with torch.no_grad():
        plain = model(**tiny.transformer_inputs()).sample
        model.enable_gradient_checkpointing(BlockCheckpointing(model.transformer_blocks, 1, "all"))
        assert torch.equal(model(**tiny.transformer_inputs()).sample, plain)

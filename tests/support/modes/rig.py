"""Two hosts with a router attached to a block, and the same hosts with the same router built into that block."""

import contextlib
import functools
import socket
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.group_offloading import (
    _GROUP_OFFLOADING,
    _LAYER_EXECUTION_TRACKER,
    _LAZY_PREFETCH_GROUP_OFFLOADING,
    _is_group_offload_enabled,
)
from support import tiny
from support.hosts import wan_family
from torch import Tensor, nn

from lavieid_adapters import LocalRouter, RouterHandle, attach

NO_ROPE = {"use_rotary_positional_embeddings": False, "sample_height": 8, "sample_width": 12, "sample_frames": 9}
TIMES = (900, 700, 500, 300)


def cogvideox() -> nn.Module:
    return tiny.transformer(num_layers=2, **NO_ROPE)


def wan() -> nn.Module:
    return wan_family.wan()[0]


def wan_inputs(batch: int) -> dict[str, Tensor]:
    inputs = {**wan_family.wan_inputs(batch=batch), "timestep": torch.full((batch,), 500)}
    return {name: value for name, value in inputs.items() if name != "return_dict"}


def cast(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Floating-point inputs in this dtype; numbers of steps and the like stay."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


@dataclass
class Rig:
    """A host in a test.

    Attributes:
        name: What it is called in the table of ways of running.
        make: Builds its transformer, always with the same weights.
        inputs: From the batch size to a forward's keywords, of 3 × 4 × 6 video tokens.
        text: Whether a block returns the text's stream as well.
        layout: Order of the latents' axes, in the spelling of diffusers' FasterCache.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Tensor]]
    text: bool
    layout: str

    @staticmethod
    def blocks(model: nn.Module) -> nn.ModuleList:
        return model.transformer_blocks if hasattr(model, "transformer_blocks") else model.blocks

    def attach(self, model: nn.Module, router: LocalRouter | None = None, block_idx: int = 0) -> RouterHandle:
        """A router with an identity."""
        handle = attach(router or tiny.router(), model, block_idx)
        handle.set_tokens(tiny.tokens())
        return handle

    def built(self, block_idx: int = 0) -> nn.Module:
        """The transformer with the router of `attach` within the forward of its block, and no hook."""
        model, router, text = self.make(), tiny.router(), self.text
        block = self.blocks(model)[block_idx]

        class Built(type(block)):
            @functools.wraps(type(block).forward)  # the caches read its signature
            def forward(self, *args, **kwargs):
                output = super().forward(*args, **kwargs)
                hidden_states = output[0] if text else output
                folded = router.fold(tiny.tokens(1), dtype=hidden_states.dtype)
                hidden_states = router.apply_folded(hidden_states, folded)
                return (hidden_states, *output[1:]) if text else hidden_states

        TransformerBlockRegistry.register(Built, TransformerBlockMetadata(0, 1 if text else None))
        block.__class__ = Built
        return model

    @torch.no_grad()
    def forward(
        self, model: nn.Module, batch: int = 2, device: str = "cpu", dtype: torch.dtype = torch.float32, **changes
    ) -> Tensor:
        inputs = cast({**self.inputs(batch), **changes}, dtype)
        return model(**{name: value.to(device) for name, value in inputs.items()}, return_dict=False)[0]

    @torch.no_grad()
    def run(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
        """The outputs of four denoising steps, each of which sees other latents and is another context of a cache."""
        outputs = []
        if model.is_cache_enabled:
            model._reset_stateful_cache()
        for i, time in enumerate(TIMES):
            inputs = self.inputs(2)
            CLOCK[0], inputs["timestep"] = time, torch.full((2,), time)
            inputs["hidden_states"] = inputs["hidden_states"] + 0.2 * i
            inputs = cast(inputs, dtype)
            with model.cache_context("run", step_index=i, num_inference_steps=len(TIMES), sigma=time / 1000):
                outputs.append(model(**inputs, return_dict=False)[0].float())
        return torch.stack(outputs)


CLOCK = [0]  # the timestep of `Rig.run`, for caches that ask a pipeline for it

RIGS = (
    Rig("CogVideoX", cogvideox, tiny.transformer_inputs, True, "BFCHW"),
    Rig("Wan", wan, wan_inputs, False, "BCFHW"),
)


def differ(a: Tensor, b: Tensor, share: float = 0.02) -> bool:
    """Whether two outputs differ by more than rounding."""
    return ((a - b).float().norm() > share * b.float().norm()).item()


def free_port() -> int:
    with contextlib.closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def no_group_offload(rig, model):
    """diffusers has no public method that ends it, but removes it by these names when weights of a LoRA come."""
    registry = HookRegistry.check_if_exists_or_initialize(model)
    for name in (_GROUP_OFFLOADING, _LAYER_EXECUTION_TRACKER, _LAZY_PREFETCH_GROUP_OFFLOADING):
        registry.remove_hook(name, recurse=True)
    assert not _is_group_offload_enabled(model)

"""What is known of each host: where its blocks are, which of their outputs is the video stream, its token grid, its
latents."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.utils.torch_utils import unwrap_module
from torch import nn


@dataclass(frozen=True)
class Host:
    """Description of a video transformer.

    Attributes:
        blocks: Name of the attribute that holds the block list.
        stream: Index of the video stream in a block's output tuple; ignored if a block gives one tensor.
        grid: From the transformer and the shape of its input latents to the token grid (frames, height, width).
        layout: Order of the latents' axes, "bfchw" or "bcfhw".
        fresh_output: Whether the video stream that leaves a block is a tensor of its own, so that the router may write
            over it; False if it may be the block's input or a view.
    """

    blocks: str
    stream: int = 0
    grid: Callable[[nn.Module, tuple[int, ...]], tuple[int, int, int]] | None = None
    layout: str = "bcfhw"
    fresh_output: bool = False


def _cogvideox_grid(transformer: nn.Module, shape: tuple[int, ...]) -> tuple[int, int, int]:
    size, size_t = transformer.config.patch_size, getattr(transformer.config, "patch_size_t", None) or 1
    return -(-shape[1] // size_t), shape[3] // size, shape[4] // size


_COGVIDEOX = Host("transformer_blocks", 0, _cogvideox_grid, "bfchw", fresh_output=True)

HOSTS = {
    "CogVideoXTransformer3DModel": _COGVIDEOX,
    "ConsisIDTransformer3DModel": _COGVIDEOX,  # its block is in no registry of diffusers
}


def find_host(transformer: nn.Module) -> Host:
    """The description of a transformer: ours, or what diffusers' block registry says of its block class.

    Raises:
        ValueError: If neither knows it; shows how to describe it.
    """
    transformer = unwrap_module(transformer)
    for cls in type(transformer).__mro__:
        if cls.__name__ in HOSTS:
            return HOSTS[cls.__name__]
    for name, child in transformer.named_children():
        if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS and isinstance(child, nn.ModuleList) and len(child):
            try:
                metadata = TransformerBlockRegistry.get(type(child[0]))
            except ValueError:
                continue
            return Host(name, metadata.return_hidden_states_index)
    lists = [name for name, child in transformer.named_children() if isinstance(child, nn.ModuleList)]
    raise ValueError(
        f"The blocks of {type(transformer).__name__} are not known. Describe it: attach(router, transformer, host=Host("
        f"blocks='{lists[0] if lists else 'name of its ModuleList'}', stream=0)), where stream is the index of the "
        "video tokens in a block's output. If it wraps a transformer (DDP, PeftModel), attach to the wrapped one."
    )


def find_block(transformer: nn.Module, host: Host, block_idx: int) -> nn.Module:
    """Block `block_idx` of a transformer; a negative index counts from the last.

    Raises:
        ValueError: If the transformer has no such list or no such block.
    """
    blocks = getattr(unwrap_module(transformer), host.blocks, None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(
            f"{type(transformer).__name__} has no block list '{host.blocks}': correct the Host's `blocks`."
        )
    if not -len(blocks) <= block_idx < len(blocks):
        raise ValueError(
            f"block_idx is {block_idx}, but {type(transformer).__name__} has {len(blocks)} blocks: choose 0 to "
            f"{len(blocks) - 1}, or a negative index from the end."
        )
    return unwrap_module(blocks[block_idx])


def token_width(transformer: nn.Module) -> int | None:
    """Width of the video tokens by the transformer's config; None if the config does not say."""
    config = getattr(transformer, "config", {})
    heads, head_dim = config.get("num_attention_heads"), config.get("attention_head_dim")
    return heads * head_dim if isinstance(heads, int) and isinstance(head_dim, int) else None


def activation_dtype(transformer: nn.Module) -> torch.dtype:
    """The dtype in which a transformer computes, as far as its weights tell: those of a quantised one mostly do not,
    nor those that diffusers keeps in float32."""
    computing = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    kept = set(getattr(unwrap_module(transformer), "_keep_in_fp32_modules", None) or ())
    dtypes = (p.dtype for name, p in transformer.named_parameters() if kept.isdisjoint(name.split(".")))
    return next((dtype for dtype in dtypes if dtype in computing), torch.float32)


def weights_device(block: nn.Module) -> torch.device | None:
    """The device of a block's weights; None if it has none, or if offloading keeps them elsewhere for now."""
    return next((p.device for p in block.parameters() if p.device.type != "meta"), None)

"""The description of a video transformer: its blocks, their video stream, and the video tokens in that stream.

`host_table.py` holds the descriptions of the transformers of diffusers. `pipeline.py` describes pipelines, such as
their guidance and how they normalise latents.
"""

# b batch · f frames · c channels · h w height and width · n video tokens · d width of a token

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

Arguments = Mapping[str, Any]
Grid = tuple[int, int, int]


def highest(timesteps: Tensor) -> Tensor:
    """Return the noisiest of a sample's timesteps (b, k): given frames or tokens have lower ones."""
    return timesteps.amax(1)


def falling(timestep: Tensor) -> Tensor:
    """Return the fraction of the run that is behind a timestep (b,) that falls from 1000 to 0."""
    return 1 - timestep / 1000


def whole_number(name: str, value: int) -> int:
    """Return the setting of a description as an int; numpy's integers are whole numbers, 1.0 and True are none.

    Raises:
        TypeError: If it is no whole number.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is {value!r}, but must be a whole number. Give an int.")
    return int(value)


@dataclass(frozen=True)
class Host:
    """Description of a video transformer.

    Functions get the transformer and the arguments of one of its forwards by name.

    Attributes:
        blocks: Name of the attribute that holds the block list, or several names in running order. `block_idx` counts
            over all of them.
        stream: Index of the video stream in a block's output tuple; ignored for a block that returns one tensor. If
            None, diffusers' registry of blocks must have the class of each block.
        grid: Function to the video's token grid (frames, height, width), or to None where the arguments do not tell it.
        video_tokens: Place of the video tokens in a stream that may hold others too: "first", "last", or a function to
            the index of the first one, or to None if this forward has no others; "whole" if there never are others.
            The others are left alone.
        order: Function of a forward and its grid to the row-major number of each video token, (n,), or to None where
            the tokens are row-major.
        frames_in_batch: Whether the stream is (b · f, h · w, d) instead of (b, f · h · w, d).
        latents, timestep: Names of these arguments of the forward.
        level: Function from timesteps (b, k), one for a sample or one for each of its frames or tokens, to the timestep
            of the noise, (b,).
        progress: Function from that timestep to the fraction of the run that is behind, for a transformer without a
            pipeline; None if the timestep alone does not say.
        width: Key of the width of the tokens in the config; None if it is the number of heads times their width.
        fresh_output: Whether the video stream that leaves a block is a tensor of its own, which the router may
            overwrite. False if it may be the block's input or a view.

    Raises:
        TypeError: If an attribute is of another type.
        ValueError: If the attributes contradict each other.
    """

    blocks: str | tuple[str, ...]
    stream: int | None = None
    grid: Callable[[nn.Module, Arguments], Grid | None] | None = None
    video_tokens: str | Callable[[nn.Module, Arguments], int | None] = "whole"
    order: Callable[[nn.Module, Arguments, Grid], Tensor | None] | None = None
    frames_in_batch: bool = False
    latents: str = "hidden_states"
    timestep: str = "timestep"
    level: Callable[[Tensor], Tensor] = highest
    progress: Callable[[Tensor], Tensor] | None = falling
    width: str | None = None
    fresh_output: bool = False

    def __post_init__(self):
        for name in ("frames_in_batch", "fresh_output"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {getattr(self, name)!r}, but must be a truth value. Give True or False.")
        names = self.blocks if isinstance(self.blocks, tuple) else (self.blocks,)
        if not names or not all(isinstance(name, str) for name in (*names, self.latents, self.timestep)):
            raise TypeError(
                f"blocks is {self.blocks!r}, latents {self.latents!r} and timestep {self.timestep!r}, but they must be "
                "names. Give texts; for blocks one, or a tuple of them."
            )
        for name in ("grid", "order", "level", "progress"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "level"):
                raise TypeError(f"{name} is {value!r}, but must be a function. Give one, or leave it out.")
        if self.width is not None and not isinstance(self.width, str):
            raise TypeError(f"width is {self.width!r}, but must be a key of the config. Give its name, or None.")
        if self.stream is not None and whole_number("stream", self.stream) < 0:
            raise ValueError(f"stream is {self.stream}, but counts from the first output. Give 0 or more.")
        if not callable(self.video_tokens) and self.video_tokens not in ("whole", "first", "last"):
            raise ValueError(
                f"video_tokens is {self.video_tokens!r}, but must be 'whole', 'first', 'last' or a function."
            )
        if self.grid is None and (self.video_tokens != "whole" or self.order is not None or self.frames_in_batch):
            raise ValueError(
                "video_tokens, order and frames_in_batch need a grid, which says how many video tokens there are. Give "
                "`grid` as well."
            )


def patches(layout: str, latents: str = "hidden_states") -> Callable[[nn.Module, Arguments], Grid]:
    """Return a `Host.grid`: the size of the latents over the config's `patch_size` (and `patch_size_t`).

    Args:
        layout: Axes of the latents, such as "bcfhw".
        latents: Name of this argument of the forward.
    """
    return functools.partial(_patches, tuple(map(layout.index, "fhw")), latents)


def _patches(axes: tuple[int, int, int], latents: str, transformer: nn.Module, arguments: Arguments) -> Grid:
    size, (frames, height, width) = transformer.config.patch_size, (arguments[latents].shape[axis] for axis in axes)
    if isinstance(size, int):
        size = (transformer.config.get("patch_size_t") or 1, size, size)
    return -(-frames // size[0]), height // size[1], width // size[2]


def registered_stream(block: nn.Module) -> int | None:
    """Return the index of the video stream in a block's output by diffusers' registry of blocks, None if not there.

    The registry is asked for the block's class and for its bases (FSDP makes a subclass), then for the one module
    inside a wrapper (torch.compile, checkpointing).
    """
    for cls in type(block).__mro__:
        try:
            return TransformerBlockRegistry.get(cls).return_hidden_states_index
        except ValueError:
            continue
    inner = list(block.children())
    return registered_stream(inner[0]) if len(inner) == 1 else None


def find_stream(block: nn.Module, host: Host) -> int:
    """Return the index of the video stream in a block's output, if that is a tuple.

    Raises:
        ValueError: If neither the host nor diffusers says. What a block returns shows itself only in a forward.
    """
    stream = registered_stream(block) if host.stream is None else host.stream
    if stream is None:
        raise ValueError(
            f"Which output of {type(block).__name__} is the video stream is not known, since diffusers has no such "
            "block. Say it by Host(..., stream=): its index, or 0 if a block returns one tensor."
        )
    return stream


def find_blocks(transformer: nn.Module, host: Host) -> list[nn.Module]:
    """Return all blocks of a transformer in running order.

    Raises:
        ValueError: If the transformer has no such lists.
    """
    found = []
    for name in (host.blocks,) if isinstance(host.blocks, str) else host.blocks:
        blocks = getattr(unwrap_module(transformer), name, None)
        if not isinstance(blocks, nn.ModuleList):
            raise ValueError(f"{type(transformer).__name__} has no block list '{name}'. Correct the Host's `blocks`.")
        found += blocks
    return found


def find_block(transformer: nn.Module, host: Host, block_idx: int) -> nn.Module:
    """Return block `block_idx` of a transformer; a negative index counts from the last.

    Raises:
        TypeError: If the index is not a whole number.
        ValueError: If the transformer has no such list or no such block.
    """
    blocks = find_blocks(transformer, host)
    block_idx = whole_number("block_idx", block_idx)
    if not -len(blocks) <= block_idx < len(blocks):
        raise ValueError(
            f"block_idx is {block_idx}, but {type(transformer).__name__} has {len(blocks)} blocks. Choose 0 to "
            f"{len(blocks) - 1}, or a negative index from the end."
        )
    return unwrap_module(blocks[block_idx])


def token_width(transformer: nn.Module, host: Host) -> int | None:
    """Return the width of the video tokens by the transformer's config, None if the config does not say."""
    config = getattr(transformer, "config", {})
    if host.width is not None:
        return config.get(host.width)
    heads, head_dim = config.get("num_attention_heads"), config.get("attention_head_dim")
    return heads * head_dim if isinstance(heads, int) and isinstance(head_dim, int) else None


def activation_dtype(transformer: nn.Module) -> torch.dtype:
    """Return the dtype in which a transformer computes, as far as its weights tell.

    It is the dtype of most of the weights that are not quantised, since a few are often kept in float32.
    """
    weights = dict.fromkeys((torch.bfloat16, torch.float16, torch.float32, torch.float64), 0)
    for parameter in transformer.parameters():
        if parameter.dtype in weights:
            weights[parameter.dtype] += parameter.numel()
    return max(weights, key=weights.get) if any(weights.values()) else torch.float32


def weights_device(block: nn.Module) -> torch.device | None:
    """Return the device of a block's weights, None if it has none or if offloading keeps them elsewhere for now."""
    return next((p.device for p in block.parameters() if p.device.type != "meta"), None)

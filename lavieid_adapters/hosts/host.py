"""What is known of each host: where its blocks are, which of their outputs is the video stream, and where in it are the
tokens of the clip.

A pipeline's side of the same knowledge, such as how latents are normalised, is in `host_pipelines.py`.
"""

# b batch · f frames · c channels · h w height and width · n tokens

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

Arguments = Mapping[str, Any]
Grid = tuple[int, int, int]


def highest(timesteps: Tensor) -> Tensor:
    """The noisiest of a sample's timesteps (b, k), where those of given frames or tokens are lower."""
    return timesteps.amax(1)


def _of_last_frame(timesteps: Tensor) -> Tensor:
    return timesteps[:, -1]


def descending(timestep: Tensor) -> Tensor:
    """Fraction of the run behind a timestep (b,) that falls from 1000 to 0."""
    return 1 - timestep / 1000


def _rising(timestep: Tensor) -> Tensor:
    return timestep / 1000


@dataclass(frozen=True)
class Host:
    """Description of a video transformer. A function of a forward gets the transformer and the arguments by name.

    Attributes:
        blocks: Name of the attribute that holds the block list, or names in running order; blocks count over all.
        stream: Index of the video stream in a block's output tuple, ignored if a block gives one tensor; None for what
            diffusers' registry of blocks says, each block by its class, which must be there.
        grid: From a forward to the clip's token grid (frames, height, width), None where the arguments do not tell it.
        clip: Where the clip's tokens are in a stream that may hold others as well: "first", "last", or a function
            from a forward to the index of the first, None if there are no others; "whole" if there never are. Others
            are left alone.
        order: From a forward and its grid to the row-major number of each token, (n,); None where tokens are row-major.
        folded: Whether the stream is (b · f, h · w, d) instead of (b, f · h · w, d).
        latents, timestep: What the forward calls them.
        level: From timesteps (b, k), one for a sample or for each of its frames or tokens, to those of the noise, (b,).
        progress: From the latter to the fraction of the run that is behind, where no pipeline tells the run's
            timesteps; None if the timestep alone does not say.
        width: Key of the config that says the width of the tokens; None if it is heads times their width.
        fresh_output: Whether the video stream that leaves a block is a tensor of its own, so that the router may write
            over it; False if it may be the block's input or a view.
    """

    blocks: str | tuple[str, ...]
    stream: int | None = None
    grid: Callable[[nn.Module, Arguments], Grid | None] | None = None
    clip: str | Callable[[nn.Module, Arguments], int | None] = "whole"
    order: Callable[[nn.Module, Arguments, Grid], Tensor | None] | None = None
    folded: bool = False
    latents: str = "hidden_states"
    timestep: str = "timestep"
    level: Callable[[Tensor], Tensor] = highest
    progress: Callable[[Tensor], Tensor] | None = descending
    width: str | None = None
    fresh_output: bool = False

    def __post_init__(self):
        if self.stream is not None and self.stream < 0:
            raise ValueError(f"stream is {self.stream}, but counts from the first output: must be 0 or more.")
        if not callable(self.clip) and self.clip not in ("whole", "first", "last"):
            raise ValueError(f"clip is {self.clip!r}, but must be 'whole', 'first', 'last' or a function.")
        if self.grid is None and (self.clip != "whole" or self.order is not None or self.folded):
            raise ValueError("clip, order and folded need a grid, which says how many tokens the clip has.")


def patches(layout: str, latents: str = "hidden_states") -> Callable[[nn.Module, Arguments], Grid]:
    """A `Host.grid`: latents, with axes as `layout` says, over the config's `patch_size` (and `patch_size_t`)."""
    return functools.partial(_patches, tuple(map(layout.index, "fhw")), latents)


def _patches(axes: tuple[int, int, int], latents: str, transformer: nn.Module, arguments: Arguments) -> Grid:
    size, (frames, height, width) = transformer.config.patch_size, (arguments[latents].shape[axis] for axis in axes)
    if isinstance(size, int):
        size = (transformer.config.get("patch_size_t") or 1, size, size)
    return -(-frames // size[0]), height // size[1], width // size[2]


def _without_reference(transformer: nn.Module, arguments: Arguments) -> Grid:
    """Wan Animate: the first frame is the reference picture's place, which is cut off before decoding."""
    frames, height, width = patches("bcfhw")(transformer, arguments)
    return frames - 1, height, width


def _kandinsky6(transformer: nn.Module, arguments: Arguments) -> Grid:
    """Kandinsky 6: where tokens have types, the last frame is the reference picture."""
    frames, height, width = patches("bfhwc")(transformer, arguments)
    return frames - (arguments.get("visual_token_type_ids") is not None), height, width


def _squares_of_8(transformer: nn.Module, arguments: Arguments, grid: Grid) -> Tensor | None:
    """Kandinsky 5 under sparse attention: tokens of a frame go by squares of 8 × 8."""
    if not (arguments.get("sparse_params") or {}).get("to_fractal"):
        return None
    f, h, w = grid
    return torch.arange(f * h * w).view(f, h // 8, 8, w // 8, 8).transpose(2, 3).flatten()


def _sizes(transformer: nn.Module, arguments: Arguments) -> Grid | None:
    """LTX: latents are packed (b, n, c), and other arguments say the grid; a pipeline that says 1 × 1 × 1 does not."""
    grid = tuple(arguments.get(name) for name in ("num_frames", "height", "width"))
    return None if None in grid or math.prod(grid) == 1 != arguments["hidden_states"].shape[1] else grid


# Read off the device once a tensor: once a run, but once a step in LTX's long pipeline, which makes them anew.
_COORDINATES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _by_coordinates(coordinates: Tensor) -> tuple[int, Grid]:
    """The first token and the grid of LTX's clip by its tokens' (b, 3, n) seconds, y and x: seconds begin at 0, and
    fall behind the clip; given frames are put ahead of it at later seconds, or behind."""
    if coordinates not in _COORDINATES:
        t, y, x = coordinates[0].tolist()
        start = t.index(0)
        end = next((i for i in range(start + 1, len(t)) if t[i] < t[i - 1]), len(t))
        height, width = len(set(y[start:end])), len(set(x[start:end]))
        _COORDINATES[coordinates] = start, ((end - start) // (height * width), height, width)
    return _COORDINATES[coordinates]


def _ltx_grid(transformer: nn.Module, arguments: Arguments) -> Grid | None:
    grid, coordinates = _sizes(transformer, arguments), arguments.get("video_coords")
    return grid or (None if coordinates is None else _by_coordinates(coordinates)[1])


def _ltx_start(transformer: nn.Module, arguments: Arguments) -> int | None:
    if math.prod(_ltx_grid(transformer, arguments)) == arguments["hidden_states"].shape[1]:
        return None
    return 0 if _sizes(transformer, arguments) else _by_coordinates(arguments["video_coords"])[0]


def _behind_memory(transformer: nn.Module, arguments: Arguments) -> int | None:
    """Helios: past frames, where there are any, are ahead of the clip at three sizes."""
    if all(arguments.get(f"latents_history_{span}") is None for span in ("short", "mid", "long")):
        return None
    return -math.prod(patches("bcfhw")(transformer, arguments))


# Streams that leave the blocks of diffusers are tensors of their own, or slices whose rest is the text stream's.
# `stream` is said where diffusers' registry does not have the blocks.
_COGVIDEOX = Host("transformer_blocks", grid=patches("bfchw"), fresh_output=True)
_DUAL = Host("transformer_blocks", 0, grid=patches("bcfhw"), fresh_output=True)
_DUAL_AND_SINGLE = Host(("transformer_blocks", "single_transformer_blocks"), grid=patches("bcfhw"), fresh_output=True)
_WAN = Host("blocks", grid=patches("bcfhw"), fresh_output=True)
_LIKE_WAN = replace(_WAN, stream=0)

HOSTS = {
    "AllegroTransformer3DModel": _DUAL,
    "AnyFlowTransformer3DModel": Host("blocks", 0, grid=patches("bfchw"), fresh_output=True),
    "ChronoEditTransformer3DModel": _LIKE_WAN,
    "CogVideoXTransformer3DModel": _COGVIDEOX,
    "ConsisIDTransformer3DModel": replace(_COGVIDEOX, stream=0),
    # Timesteps are 0.25 ln σ in Cosmos 1 and 0 to 1 later; given frames have a fixed one, lower or higher.
    "CosmosTransformer3DModel": Host(
        "transformer_blocks", 0, grid=patches("bcfhw"), level=_of_last_frame, progress=None, fresh_output=True
    ),
    "EasyAnimateTransformer3DModel": _DUAL,
    "HeliosTransformer3DModel": Host("blocks", 0, grid=patches("bcfhw"), clip=_behind_memory, fresh_output=True),
    "HunyuanVideoTransformer3DModel": _DUAL_AND_SINGLE,
    "HunyuanVideo15Transformer3DModel": _DUAL,
    "HunyuanVideoFramepackTransformer3DModel": Host(
        ("transformer_blocks", "single_transformer_blocks"), grid=patches("bcfhw"), clip="last", fresh_output=True
    ),
    "Kandinsky5Transformer3DModel": Host(
        "visual_transformer_blocks", grid=patches("bfhwc"), order=_squares_of_8, width="model_dim", fresh_output=True
    ),
    "Kandinsky6Transformer3DModel": Host(
        "visual_transformer_blocks", 0, grid=_kandinsky6, clip="first", width="model_dim", fresh_output=True
    ),
    # Its temporal blocks, which alternate with these, have streams (b · h · w, f, d) and are not offered.
    "LatteTransformer3DModel": Host("transformer_blocks", grid=patches("bcfhw"), folded=True, fresh_output=True),
    "LTXVideoTransformer3DModel": Host("transformer_blocks", grid=_ltx_grid, clip=_ltx_start, fresh_output=True),
    "LTX2VideoTransformer3DModel": Host("transformer_blocks", 0, grid=_sizes, clip=_ltx_start, fresh_output=True),
    "MochiTransformer3DModel": Host("transformer_blocks", grid=patches("bcfhw"), progress=_rising, fresh_output=True),
    "MotifVideoTransformer3DModel": _DUAL_AND_SINGLE,
    "SanaVideoTransformer3DModel": _DUAL,
    "SanaWMTransformer3DModel": Host("blocks", 0, grid=patches("bcfhw"), width="hidden_size", fresh_output=True),
    "SkyReelsV2Transformer3DModel": _LIKE_WAN,
    "WanTransformer3DModel": _WAN,
    "WanAnimateTransformer3DModel": Host("blocks", 0, grid=_without_reference, clip="last", fresh_output=True),
    "WanVACETransformer3DModel": _WAN,  # of reference pictures, each is one more frame ahead, which a forward hides
}

NOT_HOSTS = {
    "AnyFlowFARTransformer3DModel": "its stream mixes tokens of frames at two sizes, past ones being compressed",
    "Cosmos3OmniTransformer": "its stream is one packed sequence of video, control clips and sound, without a batch",
    "JoyImageEditTransformer3DModel": "it edits images",
    "JoyImageEditPlusTransformer3DModel": "it edits images",
    "Kandinsky6SRTransformer3DModel": "it enlarges tiles of a finished video, of which none shows the whole picture",
    "MiniMaxH3Transformer3DModel": "its stream is one packed sequence of text, keyframes, audio and video",
    "SanaWMLTX2RefinerTransformer3DModel": "it refines a finished video, and runs again to fill a cache",
    "WanAnimate2Transformer3DModel": "it takes lists of latents, and runs over the driving video as well",
}


def find_host(transformer: nn.Module) -> Host:
    """The description of a transformer.

    Raises:
        ValueError: If it has none; says why, or shows how to describe it.
    """
    transformer = unwrap_module(transformer)
    for cls in type(transformer).__mro__:
        if cls.__name__ in HOSTS:
            return HOSTS[cls.__name__]
        if cls.__name__ in NOT_HOSTS:
            raise ValueError(f"{cls.__name__} is not supported: {NOT_HOSTS[cls.__name__]}.")
    lists = [(name, child) for name, child in transformer.named_children() if isinstance(child, nn.ModuleList)]
    name, blocks = lists[0] if lists else ("name of its ModuleList", ())
    stream = (registered_stream(blocks[0]) if len(blocks) else None) or 0
    raise ValueError(
        f"The blocks of {type(transformer).__name__} are not known. Describe it: attach(router, transformer, host=Host("
        f"blocks='{name}', stream={stream})), where stream is the index of the video tokens in a block's output; if "
        "these hold more than the clip, grid and clip say where it is. If it wraps a transformer (DDP, PeftModel), "
        "attach to the wrapped one."
    )


def registered_stream(block: nn.Module) -> int | None:
    """Index of the video stream in a block's output, by diffusers' registry of blocks; None if it has neither the
    block's class, nor one that it is made from, as a class of FSDP is, nor that of the one module in a wrapper, as of
    torch.compile or of checkpointing."""
    for cls in type(block).__mro__:
        try:
            return TransformerBlockRegistry.get(cls).return_hidden_states_index
        except ValueError:
            continue
    inner = list(block.children())
    return registered_stream(inner[0]) if len(inner) == 1 else None


def find_stream(block: nn.Module, host: Host) -> int:
    """Index of the video stream in a block's output, if that is a tuple.

    Raises:
        ValueError: If neither the host nor diffusers says. What a block gives shows itself only in a forward.
    """
    stream = registered_stream(block) if host.stream is None else host.stream
    if stream is None:
        raise ValueError(
            f"Which output of {type(block).__name__} is the video stream is not known, since diffusers has no such "
            "block: say it by Host(..., stream=), its index, or 0 if a block gives one tensor."
        )
    return stream


def find_blocks(transformer: nn.Module, host: Host) -> list[nn.Module]:
    """All blocks of a transformer in running order.

    Raises:
        ValueError: If the transformer has no such lists.
    """
    found = []
    for name in (host.blocks,) if isinstance(host.blocks, str) else host.blocks:
        blocks = getattr(unwrap_module(transformer), name, None)
        if not isinstance(blocks, nn.ModuleList):
            raise ValueError(f"{type(transformer).__name__} has no block list '{name}': correct the Host's `blocks`.")
        found += blocks
    return found


def find_block(transformer: nn.Module, host: Host, block_idx: int) -> nn.Module:
    """Block `block_idx` of a transformer; a negative index counts from the last.

    Raises:
        ValueError: If the transformer has no such list or no such block.
    """
    blocks = find_blocks(transformer, host)
    if not -len(blocks) <= block_idx < len(blocks):
        raise ValueError(
            f"block_idx is {block_idx}, but {type(transformer).__name__} has {len(blocks)} blocks: choose 0 to "
            f"{len(blocks) - 1}, or a negative index from the end."
        )
    return unwrap_module(blocks[block_idx])


def token_width(transformer: nn.Module, host: Host) -> int | None:
    """Width of the video tokens by the transformer's config; None if the config does not say."""
    config = getattr(transformer, "config", {})
    if host.width is not None:
        return config.get(host.width)
    heads, head_dim = config.get("num_attention_heads"), config.get("attention_head_dim")
    return heads * head_dim if isinstance(heads, int) and isinstance(head_dim, int) else None


def activation_dtype(transformer: nn.Module) -> torch.dtype:
    """The dtype in which a transformer computes, as far as its weights tell: that of most that are not quantised, since
    a few are often kept in float32."""
    weights = dict.fromkeys((torch.bfloat16, torch.float16, torch.float32, torch.float64), 0)
    for parameter in transformer.parameters():
        if parameter.dtype in weights:
            weights[parameter.dtype] += parameter.numel()
    return max(weights, key=weights.get) if any(weights.values()) else torch.float32


def weights_device(block: nn.Module) -> torch.device | None:
    """The device of a block's weights; None if it has none, or if offloading keeps them elsewhere for now."""
    return next((p.device for p in block.parameters() if p.device.type != "meta"), None)

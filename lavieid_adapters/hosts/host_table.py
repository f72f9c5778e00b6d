"""The transformers of diffusers that are hosts, and those that cannot be, each with its description or the reason."""

# b batch · f frames · c channels · h w height and width · n tokens

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .host import Arguments, Grid, Host, patches, registered_stream


def last_frame(timesteps: Tensor) -> Tensor:
    """Return the timestep of a sample's last frame, of (b, f)."""
    return timesteps[:, -1]


def rising(timestep: Tensor) -> Tensor:
    """Return the fraction of the run that is behind a timestep (b,) that rises from 0 to 1000."""
    return timestep / 1000


def without_reference(transformer: nn.Module, arguments: Arguments) -> Grid:
    """Return the grid of Wan Animate, whose first frame, a reference picture, is cut off before decoding."""
    frames, height, width = patches("bcfhw")(transformer, arguments)
    return frames - 1, height, width


def kandinsky6_grid(transformer: nn.Module, arguments: Arguments) -> Grid:
    """Return the grid of Kandinsky 6, whose last frame is a reference picture where tokens have types."""
    frames, height, width = patches("bfhwc")(transformer, arguments)
    return frames - (arguments.get("visual_token_type_ids") is not None), height, width


def squares_of_8(transformer: nn.Module, arguments: Arguments, grid: Grid) -> Tensor | None:
    """Return the order of Kandinsky 5 under sparse attention: the tokens of a frame go by squares of 8 × 8."""
    if not (arguments.get("sparse_params") or {}).get("to_fractal"):
        return None
    f, h, w = grid
    return torch.arange(f * h * w).view(f, h // 8, 8, w // 8, 8).transpose(2, 3).flatten()


def said_grid(transformer: nn.Module, arguments: Arguments) -> Grid | None:
    """Return the grid of LTX by the arguments that say it, since its latents are packed (b, n, c).

    A pipeline that says 1 × 1 × 1 does not say it.
    """
    grid = tuple(arguments.get(name) for name in ("num_frames", "height", "width"))
    return None if None in grid or math.prod(grid) == 1 != arguments["hidden_states"].shape[1] else grid


# Each tensor is read off the device once: that is once per run, or once per step in LTX's long pipeline, which makes
# new ones.
_COORDINATES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _found_by_coordinates(coordinates: Tensor) -> tuple[int, Grid]:
    """Return the first video token and the grid of LTX by the seconds, y and x (b, 3, n) of the stream's tokens.

    The video's seconds begin at 0, and fall where the video ends. Given frames are ahead of it, at later seconds, or
    after it.
    """
    if coordinates not in _COORDINATES:
        t, y, x = coordinates[0].tolist()
        start = t.index(0)
        end = next((i for i in range(start + 1, len(t)) if t[i] < t[i - 1]), len(t))
        height, width = len(set(y[start:end])), len(set(x[start:end]))
        _COORDINATES[coordinates] = start, ((end - start) // (height * width), height, width)
    return _COORDINATES[coordinates]


def ltx_grid(transformer: nn.Module, arguments: Arguments) -> Grid | None:
    """Return the grid of LTX: as arguments say it, or else by the tokens' coordinates."""
    grid, coordinates = said_grid(transformer, arguments), arguments.get("video_coords")
    return grid or (None if coordinates is None else _found_by_coordinates(coordinates)[1])


def ltx_start(transformer: nn.Module, arguments: Arguments) -> int | None:
    """Return the index of the first video token of LTX and LTX-2."""
    if math.prod(ltx_grid(transformer, arguments)) == arguments["hidden_states"].shape[1]:
        return None
    return 0 if said_grid(transformer, arguments) else _found_by_coordinates(arguments["video_coords"])[0]


def behind_memory(transformer: nn.Module, arguments: Arguments) -> int | None:
    """Return the index of the first video token of Helios: past frames, if there are any, are ahead at three sizes."""
    if all(arguments.get(f"latents_history_{span}") is None for span in ("short", "mid", "long")):
        return None
    return -math.prod(patches("bcfhw")(transformer, arguments))


# The streams that leave the blocks of diffusers are tensors of their own, or slices whose rest is the text stream's.
# `stream` is given where diffusers' registry does not have the blocks.
_COGVIDEOX = Host("transformer_blocks", grid=patches("bfchw"), fresh_output=True)
_DUAL = Host("transformer_blocks", 0, grid=patches("bcfhw"), fresh_output=True)
_DUAL_AND_SINGLE = Host(("transformer_blocks", "single_transformer_blocks"), grid=patches("bcfhw"), fresh_output=True)
_WAN = Host("blocks", grid=patches("bcfhw"), fresh_output=True)
_LIKE_WAN = replace(_WAN, stream=0)

HOSTS: Mapping[str, Host] = {
    "AllegroTransformer3DModel": _DUAL,
    "AnyFlowTransformer3DModel": Host("blocks", 0, grid=patches("bfchw"), fresh_output=True),
    "ChronoEditTransformer3DModel": _LIKE_WAN,
    "CogVideoXTransformer3DModel": _COGVIDEOX,
    "ConsisIDTransformer3DModel": replace(_COGVIDEOX, stream=0),
    # Timesteps are 0.25 ln σ in Cosmos 1 and 0 to 1 later; given frames have a fixed one, lower or higher.
    "CosmosTransformer3DModel": Host(
        "transformer_blocks", 0, grid=patches("bcfhw"), level=last_frame, progress=None, fresh_output=True
    ),
    "EasyAnimateTransformer3DModel": _DUAL,
    "HeliosTransformer3DModel": Host("blocks", 0, grid=patches("bcfhw"), video_tokens=behind_memory, fresh_output=True),
    "HunyuanVideoTransformer3DModel": _DUAL_AND_SINGLE,
    "HunyuanVideo15Transformer3DModel": _DUAL,
    "HunyuanVideoFramepackTransformer3DModel": Host(
        ("transformer_blocks", "single_transformer_blocks"),
        grid=patches("bcfhw"),
        video_tokens="last",
        fresh_output=True,
    ),
    "Kandinsky5Transformer3DModel": Host(
        "visual_transformer_blocks", grid=patches("bfhwc"), order=squares_of_8, width="model_dim", fresh_output=True
    ),
    "Kandinsky6Transformer3DModel": Host(
        "visual_transformer_blocks", 0, grid=kandinsky6_grid, video_tokens="first", width="model_dim", fresh_output=True
    ),
    # Its temporal blocks, which alternate with these, have streams (b · h · w, f, d) and are not offered.
    "LatteTransformer3DModel": Host(
        "transformer_blocks", grid=patches("bcfhw"), frames_in_batch=True, fresh_output=True
    ),
    "LTXVideoTransformer3DModel": Host("transformer_blocks", grid=ltx_grid, video_tokens=ltx_start, fresh_output=True),
    "LTX2VideoTransformer3DModel": Host(
        "transformer_blocks", 0, grid=said_grid, video_tokens=ltx_start, fresh_output=True
    ),
    "MochiTransformer3DModel": Host("transformer_blocks", grid=patches("bcfhw"), progress=rising, fresh_output=True),
    "MotifVideoTransformer3DModel": _DUAL_AND_SINGLE,
    "SanaVideoTransformer3DModel": _DUAL,
    "SanaWMTransformer3DModel": Host("blocks", 0, grid=patches("bcfhw"), width="hidden_size", fresh_output=True),
    "SkyReelsV2Transformer3DModel": _LIKE_WAN,
    "WanTransformer3DModel": _WAN,
    "WanAnimateTransformer3DModel": Host("blocks", 0, grid=without_reference, video_tokens="last", fresh_output=True),
    "WanVACETransformer3DModel": _WAN,  # each reference picture is one more frame ahead, which a forward does not tell
}

NOT_HOSTS: Mapping[str, str] = {
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
    """Return the description of a transformer.

    Raises:
        ValueError: If it has none. The message gives the reason, or shows how to describe it.
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
        "these hold more than the video, grid and video_tokens say where it is. If it wraps a transformer (DDP, "
        "PeftModel), attach to the wrapped one."
    )

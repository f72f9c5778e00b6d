"""Starting from a ConsisID checkpoint: the names of its weights and ours, and reading of those weights alone.

`LocalRouter.from_consisid` and `LocalFacialEncoder.from_consisid` call this file and hand in their class, so that it
imports neither.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..files.hub import fetch_file
from .checks import whole

# Our name → ConsisID's name in its transformer. A name that ends in "." is a prefix and stands for all below it.
ENCODER_KEYS = {"extractor.": "local_facial_extractor."}
ROUTER_KEYS = {
    "cross_attention.norm_context.": "perceiver_cross_attention.{layer}.norm1.",
    "cross_attention.norm_query.": "perceiver_cross_attention.{layer}.norm2.",
    "cross_attention.to_query.": "perceiver_cross_attention.{layer}.to_q.",
    "cross_attention.to_key_value.": "perceiver_cross_attention.{layer}.to_kv.",
    "cross_attention.to_out.": "perceiver_cross_attention.{layer}.to_out.",
}
ENCODER_CONFIG = {
    "id_dim": "LFE_id_dim",
    "vit_dim": "LFE_vit_dim",
    "depth": "LFE_depth",
    "head_dim": "LFE_dim_head",
    "num_heads": "LFE_num_heads",
    "num_id_tokens": "LFE_num_id_token",
    "tokens_per_component": "LFE_num_querie",
    "token_dim": "LFE_output_dim",
    "ff_mult": "LFE_ff_mult",
    "num_scales": "LFE_num_scale",
}

EVA02_CLIP = "timm/eva02_large_patch14_clip_336.merged2b"  # the ViT of which ConsisID takes features, in grey

_WEIGHTS = "diffusion_pytorch_model.safetensors"

Started = TypeVar("Started", bound=nn.Module)


def start_encoder(
    encoder_class: type[Started], repo_or_folder: str | os.PathLike, subfolder: str | None, **kwargs
) -> Started:
    """Build a local encoder from a ConsisID checkpoint; see `LocalFacialEncoder.from_consisid`."""
    config, weights = read(repo_or_folder, ENCODER_KEYS, subfolder, **kwargs)
    sizes = {ours: config[theirs] for ours, theirs in ENCODER_CONFIG.items()}
    encoder = encoder_class(**sizes, vision_model=EVA02_CLIP, grayscale=True)
    load(encoder, weights, ENCODER_KEYS)
    return encoder.eval()


def start_router(
    router_class: type[Started], repo_or_folder: str | os.PathLike, layer: int, subfolder: str | None, **kwargs
) -> Started:
    """Build a router whose phi is one of a ConsisID checkpoint's; see `LocalRouter.from_consisid`."""
    keys = {ours: theirs.format(layer=layer) for ours, theirs in ROUTER_KEYS.items()}
    config, weights = read(repo_or_folder, keys, subfolder, **kwargs)
    layer = whole("layer", layer)
    layers = config["num_layers"] // config["cross_attn_interval"]
    if not 0 <= layer < layers:
        raise ValueError(
            f"layer is {layer}, but '{repo_or_folder}' has {layers} cross-attentions: choose 0 to {layers - 1}."
        )
    router = router_class(
        dim=config["num_attention_heads"] * config["attention_head_dim"],
        token_dim=config["LFE_output_dim"],
        inner_dim=config["cross_attn_num_heads"] * config["cross_attn_dim_head"],
        num_heads=config["cross_attn_num_heads"],
        tokens_per_component=config["LFE_num_querie"],
    )
    load(router, weights, keys)
    return router.eval()


def read(
    repo_or_folder: str | os.PathLike, keys: Mapping[str, str], subfolder: str | None = "transformer", **kwargs
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a ConsisID transformer's config, and under our names the weights that `keys` (ours → theirs) names.

    Files that hold none of them are not fetched. Keywords are `fetch_file`'s.

    Raises:
        ValueError: If the checkpoint was made without face modules, or is not ConsisID's.
        OSError: If a file is not there.
    """
    config = json.loads(fetch_file(repo_or_folder, "config.json", subfolder, **kwargs).read_text())
    if config.get("_class_name") != "ConsisIDTransformer3DModel" or not config.get("is_train_face"):
        raise ValueError(
            f"'{repo_or_folder}' holds a {config.get('_class_name')} with is_train_face={config.get('is_train_face')}: "
            "give a ConsisID checkpoint that has its face modules, and the subfolder of its transformer."
        )

    def ours(name: str) -> str | None:
        for mine, theirs in keys.items():
            if name.startswith(theirs):
                return mine + name.removeprefix(theirs)
        return None

    try:
        index = json.loads(fetch_file(repo_or_folder, f"{_WEIGHTS}.index.json", subfolder, **kwargs).read_text())
        shards = sorted({shard for name, shard in index["weight_map"].items() if ours(name)})
    except (FileNotFoundError, EntryNotFoundError):
        shards = [_WEIGHTS]
    weights = {}
    for shard in shards:
        path = fetch_file(repo_or_folder, shard, subfolder, **kwargs)
        try:
            with safe_open(path, framework="pt") as file:
                weights.update({ours(name): file.get_tensor(name) for name in file.keys() if ours(name)})  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"'{path}' is damaged ({error}): fetch it again.") from error
    return config, weights


def load(module: nn.Module, weights: Mapping[str, Tensor], keys: Mapping[str, str]) -> None:
    """Copy weights into a module. Parameters that lie below none of our names in `keys` keep their values.

    Raises:
        ValueError: Lists missing and unexpected keys.
    """
    missing, unexpected = module.load_state_dict(weights, strict=False)
    missing = [name for name in missing if name.startswith(tuple(keys))]
    if missing or unexpected:
        raise ValueError(
            f"The ConsisID checkpoint does not fit {type(module).__name__}.\n"
            f"  missing keys: {', '.join(missing) or 'none'}\n"
            f"  unexpected keys: {', '.join(unexpected) or 'none'}"
        )

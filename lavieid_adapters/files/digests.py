"""What tells one base model's parts from another's, without loading them."""

import hashlib
import json
import math
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..models.adapter import fetch

_VALUES = 4096  # of each tensor
_SAVED_WITH = ("dtype", "torch_dtype", "transformers_version")  # tell how a config was saved, not of what


def files_digest(base: str | os.PathLike, subfolder: str, **hub) -> str:
    """16 hexadecimal digits of the config and the weights of one part of a pipeline, whatever dtype they are saved in.

    Of each tensor the name, the shape and the signs of its first values count: reading all would take minutes.

    Args:
        base: Hub repo or folder of the pipeline.
        subfolder: The part, such as "vae"; no other is fetched.
        hub: For a Hub repo: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: If there is no such part, or no safetensors file in it, or a damaged one.
        OSError: If it cannot be had.
    """
    folder = fetch(base, [f"{subfolder}/config.json", f"{subfolder}/*.safetensors"], **hub) / subfolder
    config, weights = folder / "config.json", sorted(folder.glob("*.safetensors"))
    if not config.is_file() or not weights:
        raise ValueError(f"'{base}' has no config.json and safetensors files in '{subfolder}': is it a video pipeline?")
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings = {k: v for k, v in settings.items() if k[0] != "_" and k not in _SAVED_WITH}
        tensors = {}
        for path in weights:
            tensors.update(_signs(path))
    except (SafetensorError, AttributeError, ValueError) as error:
        raise ValueError(f"'{folder}' is damaged ({error}): fetch it again.") from error
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
    for name, (shape, signs) in sorted(tensors.items()):
        digest.update(f"{name} {shape} ".encode() + signs.numpy().tobytes())
    return digest.hexdigest()


def _signs(path: Path) -> dict[str, tuple[list[int], Tensor]]:
    """Of each tensor of a file the shape, and which of its first values are negative."""
    signs = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            shape = part.get_shape()
            rows = math.ceil(_VALUES / max(1, math.prod(shape[1:])))
            values = part[:rows] if shape else file.get_tensor(name)
            # A value too small for a narrow dtype becomes a zero, which keeps the sign.
            signs[name] = shape, torch.signbit(values.float().flatten()[:_VALUES])
    return signs

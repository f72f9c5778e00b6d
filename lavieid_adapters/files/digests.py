"""Digests: hexadecimal digits that tell contents apart, of values, of files, of a base model's part and of weights.

Whole weights would take seconds to minutes to read, so a digest of weights samples them. It tells models apart; it is
no protection against somebody who wants two models to look the same.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .hub import fetch

_VALUES = 4096  # of each tensor
_SAVED_WITH = ("dtype", "torch_dtype", "transformers_version")  # tell how a config was saved, not of what


def content_digest(*parts) -> str:
    """Return 32 hexadecimal digits of bytes, and of the `repr` of every other part, such as a shape or a dtype."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes | memoryview) else repr(part).encode())
    return digest.hexdigest()


def sampled_digest(*paths: Path) -> str:
    """Return 16 hexadecimal digits of the files' names, sizes and 16 samples of each file."""
    return _sampled(*((path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths))


@lru_cache
def _sampled(*stamps: tuple[Path, int, int]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path, size, _ in stamps:
        digest.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            for i in range(16):
                file.seek(i * max(0, size - 4096) // 15)
                digest.update(file.read(4096))
    return digest.hexdigest()


def part_digest(base: str | os.PathLike, subfolder: str, **hub) -> str:
    """Return 16 hexadecimal digits of the config and the weights of one part of a pipeline, in whatever dtype it is
    saved.

    Of each tensor the name, the shape and the signs of its first 4096 values count.

    Args:
        base: Hub repo or folder of the pipeline.
        subfolder: The part, such as "vae"; no other is fetched.
        hub: For a Hub repo: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: If there is no such part, or no safetensors file in it, or a damaged one.
        OSError: If it cannot be fetched.
    """
    folder = fetch(base, [f"{subfolder}/config.json", f"{subfolder}/*.safetensors"], **hub) / subfolder
    config, weights = folder / "config.json", sorted(folder.glob("*.safetensors"))
    if not config.is_file() or not weights:
        raise ValueError(f"'{base}' has no config.json and safetensors files in '{subfolder}'. Is it a video pipeline?")
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings = {k: v for k, v in settings.items() if k[0] != "_" and k not in _SAVED_WITH}
        tensors = {}
        for path in weights:
            tensors.update(_first_signs(path))
    except (SafetensorError, AttributeError, ValueError) as error:
        raise ValueError(f"'{folder}' is damaged ({error}). Remove it and fetch it again.") from error
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
    for name, (shape, signs) in sorted(tensors.items()):
        digest.update(f"{name} {shape} ".encode() + signs.numpy().tobytes())
    return digest.hexdigest()


def _first_signs(path: Path) -> dict[str, tuple[list[int], Tensor]]:
    """Shape of each tensor of a file, and which of its first values are negative."""
    signs = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            shape = part.get_shape()
            rows = math.ceil(_VALUES / max(1, math.prod(shape[1:])))
            values = part[:rows] if shape else file.get_tensor(name)
            signs[name] = shape, _negative(values.flatten()[:_VALUES])
    return signs


def weights_digests(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return two digests of 16 hexadecimal digits each, from up to 4096 values of each tensor, spread over it.

    Args:
        tensors: A state dict; its order does not count.

    Returns:
        SHA-256 of names, shapes and signs, which are the same in every dtype that the weights may be loaded in; and
        SHA-256 of the values' bytes and the dtypes.
    """
    tensors = sorted(tensors.items())
    signs = hashlib.sha256("".join(f"{name}{tuple(t.shape)}" for name, t in tensors).encode())
    values = hashlib.sha256()
    for _, tensor in tensors:
        flat = tensor.flatten()
        sample = flat[:: max(1, len(flat) // _VALUES)][:_VALUES].cpu().contiguous()
        signs.update(_negative(sample).numpy().tobytes())
        values.update(str(sample.dtype).encode())
        values.update(sample.view(torch.uint8).numpy().tobytes())
    return signs.hexdigest()[:16], values.hexdigest()[:16]


def _negative(values: Tensor) -> Tensor:
    """Return which values are negative, bool.

    PyTorch tells the sign of no 8-bit float, so all are read as float32. A value too small for a narrow dtype becomes a
    zero, which keeps its sign.
    """
    return torch.signbit(values.float())

"""Small shards of drawn people, without a video, a VAE or a face model."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save, save_file

from lavieid_adapters.data.shard_writer import ShardWriter, write_index
from lavieid_adapters.data.shards import FORMAT, HEADER, NULL_PROMPT, PARTS, VERSION
from lavieid_adapters.faces.components import PALETTE
from lavieid_adapters.files.digests import part_digest
from lavieid_adapters.models.identity import FACIAL_COMPONENTS

# What `tiny.transformer()`, and `tiny.encoder()` with the CLIP of `tiny_face.write_clip`, take.
CHANNELS, PROMPT, ID_DIM = 4, (16, 32), 12
SPATIAL, TEMPORAL, PATCH = 8, 4, 2
SIDE = 128  # of an aligned face; real ones have 512
SIZE = (5, 32, 48)  # frames, height and width


def component_grid(i: int, size: tuple[int, int, int] = SIZE) -> np.ndarray:
    """Which component each token of sample `i` shows, (f', h / 16, w / 16), 0 to 6."""
    frames, height, width = size
    shape = (frames - 1) // TEMPORAL + 1, height // (SPATIAL * PATCH), width // (SPATIAL * PATCH)
    return np.random.default_rng([i, *size]).integers(0, 1 + len(FACIAL_COMPONENTS), shape, dtype=np.uint8)


def sample_members(
    i: int,
    size: tuple[int, int, int] = SIZE,
    hidden: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, bytes]:
    """The files of sample `i`: its latents tell, but for some noise, which component is where."""
    grid, generator = component_grid(i, size), torch.Generator().manual_seed(i)
    frames, height, width = size
    spread = torch.from_numpy(grid).long().repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    colours = torch.randn(1 + len(FACIAL_COMPONENTS), CHANNELS, generator=torch.Generator().manual_seed(0))
    latents = colours[spread].permute(0, 3, 1, 2)
    latents = latents + 0.2 * torch.randn(latents.shape, generator=generator)
    tensors = {
        "latents": latents.to(dtype).contiguous(),
        "prompt_embeds": torch.randn(PROMPT, generator=generator).to(dtype),
        "id_embedding": torch.randn(ID_DIM, generator=generator),
    }
    maps = np.concatenate([grid[:1], grid[1:].repeat(TEMPORAL, 0)])
    maps = maps.repeat(SPATIAL * PATCH, 1).repeat(SPATIAL * PATCH, 2)
    # Each component is a row of the face, in the person's own colours.
    rows = np.linspace(1, len(FACIAL_COMPONENTS), SIDE).round().astype(np.uint8)
    aligned_map = np.tile(rows[:, None], (1, SIDE))
    for name in hidden or {}:
        aligned_map[aligned_map == 1 + FACIAL_COMPONENTS.index(name)] = 0
    person = np.random.default_rng(i).integers(0, 256, (len(PALETTE), 3), dtype=np.uint8)
    strip = Image.new("RGB", (6 * 240, 160))
    for column, number in enumerate(np.linspace(0, frames - 1, 6).round().astype(int)):
        preview = Image.fromarray(np.array(PALETTE, np.uint8)[maps[number]])
        strip.paste(preview.resize((240, 160)), (240 * column, 0))
    about = {
        "video": f"{i}.mp4",
        "person": None,
        "frames": frames,
        "height": height,
        "width": width,
        "caption": f"Person {i} walks.",
        "reference": f"{i}.jpg",
        "fps": 8.0,
        "start": 0.0,
        "hidden": dict(hidden or {}),
        "matrix": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    }
    return {
        "json": json.dumps(about).encode(),
        "safetensors": save(tensors),
        "maps.png": _encoded(_palette(maps.reshape(-1, width)), "PNG"),
        "aligned.png": _encoded(Image.fromarray(person[aligned_map]), "PNG"),
        "aligned_map.png": _encoded(_palette(aligned_map), "PNG"),
        "preview.jpg": _encoded(strip, "JPEG"),
    }


def write_shards(
    folder: Path,
    sizes: Sequence[tuple[int, int, int]] = (SIZE,) * 4,
    hidden: Mapping[int, Mapping[str, str]] | None = None,
    base: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float32,
    samples_per_shard: int = 3,
) -> Path:
    """A folder of shards, one sample a size; sample i of the index is `sample_members(i)`.

    Args:
        folder: Where to; made if it is not there.
        sizes: Frames, height and width of each sample: 4k + 1, and multiples of 16.
        hidden: Of some samples the components that the reference does not show, with the reason.
        base: Folder of the pipeline that they are to be for, such as `tiny_clips.save_base` writes; the shards are
            nobody's if None.
        dtype: Of latents and prompts.
        samples_per_shard: After which a new tar begins.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "base": os.fspath(base or "nobody"),
        **{part: part_digest(base, part) if base else "0" * 16 for part in PARTS},
        "face": "drawn",
        "buckets": sorted({f"{f}x{h}x{w}" for f, h, w in sizes}),
        "fps": 8.0,
        "dtype": str(dtype).removeprefix("torch."),
        "max_sequence_length": PROMPT[0],
        "min_face_share": 0.5,
        "seed": 0,
        "tiling": False,
    }
    (folder / HEADER).write_text(json.dumps(header))
    save_file({"prompt_embeds": null_prompt().to(dtype)}, folder / NULL_PROMPT)
    with ShardWriter(folder, samples_per_shard=samples_per_shard) as writer:
        for i, size in enumerate(sizes):
            members = sample_members(i, size, (hidden or {}).get(i), dtype)
            line = {"video": f"{i}.mp4", "person": None, **dict(zip(("frames", "height", "width"), size, strict=True))}
            writer.write(f"{i:016x}", members, line)
    write_index(folder)
    return folder


def null_prompt() -> torch.Tensor:
    """The embedding of the empty prompt."""
    return torch.randn(PROMPT, generator=torch.Generator().manual_seed(2**32))


def _palette(component_map: np.ndarray) -> Image.Image:
    image = Image.fromarray(component_map).convert("P")
    image.putpalette([*sum(PALETTE, ()), *(128,) * 3 * (256 - len(PALETTE))])
    return image


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()

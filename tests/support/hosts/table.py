"""The tables of hosts, in Markdown: `PYTHONPATH=tests python -m support.hosts.table` prints them."""

import inspect
from collections.abc import Callable, Iterable

import diffusers

from lavieid_adapters.hosts import host_table as hosts
from lavieid_adapters.hosts.host import Host, falling
from lavieid_adapters.hosts.host_table import HOSTS, NOT_HOSTS
from lavieid_adapters.hosts.pipeline import VideoPipeline
from lavieid_adapters.hosts.pipeline_table import NOT_PIPELINES, PIPELINES, sigma_data

# What a block gives, where that is a tuple.
OUTPUTS = {
    "CogVideoXTransformer3DModel": ("video", "text"),
    "ConsisIDTransformer3DModel": ("video", "text"),
    "EasyAnimateTransformer3DModel": ("video", "text"),
    "HunyuanVideoTransformer3DModel": ("video", "text"),
    "HunyuanVideo15Transformer3DModel": ("video", "text"),
    "HunyuanVideoFramepackTransformer3DModel": ("video", "text"),
    "Kandinsky6Transformer3DModel": ("video", "audio"),
    "LTX2VideoTransformer3DModel": ("video", "audio"),
    "MochiTransformer3DModel": ("video", "text"),
    "MotifVideoTransformer3DModel": ("video", "text"),
}
# How the functions of the two tables are said in a cell.
VIDEO_TOKENS = {
    "whole": "all of it",
    "first": "first tokens",
    "last": "last tokens",
    hosts.ltx_start: "first tokens",
    (hosts.ltx_start, hosts.ltx_grid): "as `video_coords` say",
    hosts.behind_memory: "last tokens",
}
GRIDS = {
    hosts.without_reference: "bcfhw",
    hosts.kandinsky6_grid: "bfhwc",
    hosts.ltx_grid: "packed",
    hosts.said_grid: "packed",
}
TIMESTEPS = {falling: "falls", hosts.rising: "rises", None: "by the pipeline"}


def _stream(name: str) -> str:
    if name not in OUTPUTS:
        return "the only one"
    return f"{('first', 'second')[OUTPUTS[name].index('video')]} of ({', '.join(OUTPUTS[name])})"


def _latents(host: Host) -> str:
    """Order of the axes of the latents that a transformer is given."""
    if host.grid in GRIDS:
        return GRIDS[host.grid]
    frames, height, width = host.grid.args[0]
    axes = {0: "b", frames: "f", height: "h", width: "w"}
    return "".join(axes.get(axis, "c") for axis in range(5))


def _patch(name: str) -> str:
    """The patch of a class's default config, frames × height × width, which a checkpoint may change."""
    defaults = {key: value.default for key, value in inspect.signature(getattr(diffusers, name)).parameters.items()}
    size = defaults["patch_size"]
    if size is None:
        return "by the config"
    size = (defaults.get("patch_size_t") or 1, size, size) if isinstance(size, int) else size
    return " × ".join(map(str, size))


def _guidance(passes: int | Callable) -> str:
    return {1: "a call each", 2: "one batch"}.get(passes, "up to three calls")


def _factor(kinds: Iterable[VideoPipeline]) -> str:
    """What normalised latents are multiplied by, besides what is done by the VAE's mean and deviation."""
    names = {None: "`scaling_factor`", sigma_data: "`sigma_data`"}
    return " or ".join(dict.fromkeys(names.get(kind.divisor, "none") for kind in kinds))


def rows() -> list[dict[str, str]]:
    """What is supported, one row a transformer: "transformer", "pipelines", "blocks", "guidance", "TAM" and so on."""
    made = []
    for name, host in HOSTS.items():
        found = {key: value for key, value in PIPELINES.items() if value.host == name}
        kind = next(iter(found.values()))
        blocks = (host.blocks,) if isinstance(host.blocks, str) else host.blocks
        place = VIDEO_TOKENS.get((host.video_tokens, host.grid), VIDEO_TOKENS[host.video_tokens])
        made.append(
            {
                "transformer": name,
                "blocks": ", ".join(blocks),
                "stream": _stream(name),
                "video tokens": place + (", a frame a sample" if host.frames_in_batch else ""),
                "latents": _latents(host),
                "patch": _patch(name),
                "timestep": TIMESTEPS[host.progress],
                "pipelines": ", ".join(found),
                "guidance": _guidance(kind.passes),
                "TAM": kind.seam,
                "layout": kind.layout,
                "factor": _factor(found.values()),
            }
        )
    return made


def _table(head: dict[str, str]) -> str:
    """A table of the columns of `rows` that are the keys, under the values."""
    lines = [list(head.values()), ["---"] * len(head)]
    for row in rows():
        cells = dict(row, transformer=row["transformer"].removesuffix("Transformer3DModel"))
        cells["pipelines"] = row["pipelines"].replace("Pipeline,", ",").removesuffix("Pipeline")
        for key in ("blocks", "TAM"):
            cells[key] = ", ".join(f"`{name}`" for name in row[key].split(", "))
        lines.append([cells[key] for key in head])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def markdown() -> str:
    """What the router needs to know of a transformer, and what TAM and guidance need to know of its pipelines."""
    router = {
        "transformer": "transformer", "blocks": "block lists", "stream": "video stream of a block's outputs",
        "video tokens": "video tokens in it", "latents": "latents", "patch": "patch", "timestep": "timestep",
    }  # fmt: skip
    pipelines = {
        "transformer": "transformer", "pipelines": "pipelines", "guidance": "guidance", "TAM": "TAM acts in",
        "layout": "latents there", "factor": "factor",
    }  # fmt: skip
    return "\n\n".join(map(_table, (router, pipelines)))


def left_out() -> str:
    """The transformers that are refused, and the pipelines that are although their transformers are hosts."""
    pipelines = {name: reason for name, reason in NOT_PIPELINES.items() if "not supported" not in reason}
    return "\n".join(f"- `{name}`: {reason}." for name, reason in {**NOT_HOSTS, **pipelines}.items())


if __name__ == "__main__":
    print(markdown(), left_out(), sep="\n\n")

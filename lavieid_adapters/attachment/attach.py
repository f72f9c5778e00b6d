"""Attaching adapters: a router to a transformer, or a router and TAM to a pipeline."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from ..hosts.host import Host, activation_dtype, find_block, find_blocks, token_width
from ..hosts.host_table import find_host
from ..hosts.pipeline import HostPipeline, VideoPipeline
from ..hosts.pipeline_table import find_pipeline
from ..models.adapter import Adapter
from ..models.checkpoint import ADAPTERS, Metadata, by_name, load_folder
from ..models.checks import whole
from ..models.facial_encoder import LocalFacialEncoder
from ..models.local_router import LocalRouter
from ..models.tam import TAM
from .attached import DEFAULT, noted
from .lavieid import LaVieID
from .router_handle import RouterHandle, attached_handles

_OWN = "lavieid"  # folder of the adapters that a base brings with it

_UNTRAINED = (
    "These LaVieID adapters are fresh and untrained, so they change nothing: give attach_lavieid a trained checkpoint, "
    "or train them."
)


def attach(
    router: LocalRouter,
    transformer: nn.Module,
    block_idx: int = 0,
    *,
    host: Host | None = None,
    names: Sequence[str] | None = None,
    adapter_name: str = DEFAULT,
) -> RouterHandle:
    """Let a local router steer the video tokens that leave one block of a transformer (eq. 3).

    Attaching again to the same block replaces the router there, so that a notebook's cell may run twice. Routers by
    several names act one after another.

    Args:
        router: The router; moved to the transformer's device. Its dtype may be any: results have that of the
            activations.
        transformer: A video transformer of diffusers, or any other that `host` describes.
        block_idx: The block; negative from the last.
        host: Description of the transformer, if this library and diffusers do not know it.
        names: Names of the components for `component_scales`; `FACIAL_COMPONENTS` for six if None.
        adapter_name: Name among the routers of the block. A router there by this name is detached.

    Returns:
        The handle, which has the identity, the strength and `detach`.

    Raises:
        ValueError: If the blocks or their video stream are not known, the block is not there, the widths differ, or
            the router is on it already by another name. The router before stays then.
    """
    host = host or find_host(transformer)
    on_block = attached_handles(find_block(transformer, host, block_idx))
    before = [handle for handle in on_block if handle.adapter_name == adapter_name]
    handle = RouterHandle(router, transformer, block_idx, host, names, adapter_name=adapter_name, replaces=before)
    for other in before:
        other.give_way()
    return handle


def attach_lavieid(
    pipe,
    adapters: str | os.PathLike | Mapping[str, Adapter] | Iterable[Adapter] | Adapter | None = None,
    *,
    block_idx: int | None = None,
    names: Sequence[str] | None = None,
    host: Host | None = None,
    pipeline: VideoPipeline | None = None,
    adapter_name: str = DEFAULT,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool | None = None,
    force_download: bool | None = None,
) -> LaVieID:
    """Attach a local router and TAM to a pipeline: two lines in a script that generates video already.

    Where TAM refines what `pipe.vae` decodes, it does so for all that this VAE decodes, for other pipelines too, until
    it is detached.

    Attaching again to the same pipeline replaces what is attached, so that a notebook's cell may run twice; the new one
    has no identity yet. `get_lavieid(pipe)` returns what is attached, and `detach_lavieid(pipe)` detaches it.

    Args:
        pipe: A video pipeline of diffusers, whose models are loaded, or any other that `pipeline` describes.
        adapters: A Hub repo, a folder, or built adapters (one, several, or by the names "router", "encoder", "tam").
            None takes those that a local base brings in the folder `lavieid/` beside its models, or else gives fresh
            ones of the pipe's dimensions, which change nothing until they are trained.
        block_idx: The block that the router follows; that of the checkpoint, or 0, if None.
        names: Names of the components, if they are not the `FACIAL_COMPONENTS`.
        host: Description of the pipe's transformers, if this library and diffusers do not know them.
        pipeline: Description of the pipe, if this library does not know it.
        adapter_name: Name on the pipe. Adapters by several names act together, each with an identity of its own.
        revision, token, cache_dir, local_files_only, force_download: For a Hub repo. The models that read photos take
            `token`, `cache_dir` and `local_files_only` as well.

    Returns:
        The object that has `set_identity`, the strengths, `refine`, `save_pretrained` and `detach`.

    Raises:
        ValueError, TypeError: If the pipeline is not supported, or the adapters do not fit it; the pipeline is
            as it was then.
        OSError: If the adapters cannot be downloaded.
    """
    described = HostPipeline(pipe, pipeline or find_pipeline(pipe))
    hub = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    hub = {name: value for name, value in hub.items() if value is not None}
    if hub and not isinstance(adapters, str | os.PathLike):
        raise TypeError(f"{', '.join(hub)} only go with a Hub repo or a folder of adapters. Leave them out.")
    block_idx = None if block_idx is None else whole("block_idx", block_idx)
    metadata = Metadata(base_model=described.base_model, block_idx=block_idx or 0)
    base = metadata.base_model  # with which a folder's card is compared
    if adapters is None and (adapters := _own_adapters(described)) is not None:
        base = None  # a base's own adapters know it by the name that it had in their training
    dtype, fresh = activation_dtype(described.transformers[0]), adapters is None
    if fresh:
        with torch.device(described.device):
            adapters = {name: fresh_adapter(name, pipe, host=host, pipeline=pipeline) for name in ADAPTERS}
        adapters = {name: adapter.to(dtype).eval() for name, adapter in adapters.items()}
    elif isinstance(adapters, str | os.PathLike):
        adapters, saved = load_folder(adapters, torch_dtype=dtype, **hub)
        first, asked = described.transformers[0], block_idx if "router" in adapters else None
        blocks = 0 if asked is None else len(find_blocks(first, host or find_host(first)))
        metadata = saved.checked_against(base, asked, blocks)
    photo_models = {name: hub[name] for name in ("token", "cache_dir", "local_files_only") if name in hub}
    notices = [_UNTRAINED] if fresh else []
    return LaVieID(
        described, by_name(adapters), metadata, host=host, names=names, hub=photo_models, notices=notices,
        adapter_name=adapter_name,
    )  # fmt: skip


def get_lavieid(pipe, adapter_name: str = DEFAULT) -> LaVieID | None:
    """Return the `LaVieID` that `attach_lavieid` made of this pipeline; None if there is none.

    Args:
        pipe: The pipeline.
        adapter_name: The name under which it was attached.
    """
    return noted(pipe).get(adapter_name)


def detach_lavieid(pipe, adapter_name: str | None = None) -> None:
    """Detach what `attach_lavieid` attached to a pipeline, though its `LaVieID` is lost; nothing happens without one.

    Args:
        pipe: The pipeline.
        adapter_name: The name under which it was attached; all of them if None.
    """
    for name, lavieid in noted(pipe).items():
        if adapter_name in (None, name):
            lavieid.detach()


def fresh_adapter(
    name: str, pipe, *, host: Host | None = None, pipeline: VideoPipeline | None = None, **sizes
) -> Adapter:
    """Return an untrained adapter of a pipeline's dimensions, on the CPU.

    Args:
        name: "router", "encoder" or "tam".
        pipe: The pipeline; its transformer and its VAE tell the dimensions.
        host, pipeline: Descriptions of the transformer and the pipeline, if this library does not know them.
        sizes: Constructor arguments that take the place of these dimensions.

    Raises:
        ValueError: If the pipeline is not known, or if it does not tell the width of the video tokens.
    """
    if name == "encoder":
        return LocalFacialEncoder(**sizes)
    described = HostPipeline(pipe, pipeline or find_pipeline(pipe))
    transformer = described.transformers[0]
    dim = sizes.pop("dim", None) or token_width(transformer, host or find_host(transformer))
    if dim is None:
        raise ValueError(
            f"The config of {type(transformer).__name__} does not say how wide its video tokens are. Give built "
            "adapters, or a Host with `width`."
        )
    if name == "router":
        return LocalRouter(dim=dim, **sizes)
    heads = next(h for h in range(max(1, dim // 128), 0, -1) if dim % (2 * h) == 0)
    layout = described.description.layout
    defaults = {"latent_channels": described.latent_channels, "num_heads": heads, "layout": layout}
    return TAM(dim=dim, **{**defaults, **sizes})


def _own_adapters(pipeline: HostPipeline) -> Path | None:
    """Return the adapters in the local folder that the pipeline was loaded from, if it brings some."""
    folder = pipeline.source
    return Path(folder, _OWN) if folder and Path(folder, _OWN).is_dir() else None

"""LaVieID on a pipeline: the router after a block of its transformer, TAM before its VAE decodes."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from ..hosts.host import Arguments, activation_dtype, token_width
from ..hosts.host_table import find_host
from ..hosts.pipeline import HostPipeline
from ..hosts.pipeline_table import find_pipeline
from ..models.adapter import Adapter
from ..models.checkpoint import ADAPTERS, Metadata, by_name, load_folder
from ..models.facial_encoder import LocalFacialEncoder
from ..models.local_router import LocalRouter
from ..models.tam import TAM
from .attach import attach
from .lavieid import LaVieID
from .tam_handle import Refiner

_OWN = "lavieid"  # folder of the adapters that a base brings with it

_UNTRAINED = (
    "These LaVieID adapters are fresh and untrained, so they change nothing: give attach_lavieid a trained checkpoint, "
    "or train them."
)


def attach_lavieid(
    pipe,
    adapters: str | os.PathLike | Mapping[str, Adapter] | Iterable[Adapter] | Adapter | None = None,
    *,
    block_idx: int | None = None,
    names: Sequence[str] | None = None,
    **kwargs,
) -> LaVieID:
    """Attach a local router and TAM to a pipeline: two lines in a script that generates video already.

    Args:
        pipe: A video pipeline of diffusers, whose models are loaded; `host_pipelines.PIPELINES` has all that are known.
            Where TAM refines what `pipe.vae` decodes, it does so for all that this VAE decodes, for other pipelines
            too, until it is detached.
        adapters: A Hub repo, a folder, or built adapters (one, several, or by the names "router", "encoder", "tam");
            None takes those that a local base brings in the folder `lavieid/` beside its models, or else gives
            fresh ones of the pipe's dimensions, which change nothing until they are trained.
        block_idx: The block that the router follows; that of the checkpoint, or 0, if None.
        names: Names of the components, if they are not the `FACIAL_COMPONENTS`.
        kwargs: For a Hub repo: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`. The models that
            read photos take `token`, `cache_dir` and `local_files_only` as well.

    Returns:
        The object that has `set_identity`, the strengths, `refine`, `save_pretrained` and `detach`.

    Raises:
        ValueError, TypeError: If the pipeline is not supported, or the adapters do not fit it; the pipeline is
            untouched then.
    """
    pipeline = HostPipeline(pipe, find_pipeline(pipe))
    if kwargs and not isinstance(adapters, str | os.PathLike):
        raise TypeError(f"{', '.join(kwargs)} only go with a Hub repo or a folder of adapters.")
    transformers = pipeline.transformers
    dtype = activation_dtype(transformers[0])
    metadata = Metadata(base_model=pipeline.base_model, block_idx=block_idx or 0)
    base = metadata.base_model  # with which a folder's card is compared
    if adapters is None and (adapters := _own_adapters(pipeline)) is not None:
        base = None  # a base's own adapters know it by the name that it had in their training
    fresh = adapters is None
    if fresh:
        with torch.device(pipeline.device):
            adapters = {name: fresh_adapter(name, pipe) for name in ADAPTERS}
        adapters = {name: adapter.to(dtype).eval() for name, adapter in adapters.items()}
    elif isinstance(adapters, str | os.PathLike):
        adapters, saved = load_folder(adapters, torch_dtype=dtype, **kwargs)
        metadata = saved.checked_against(base, block_idx)
    adapters = by_name(adapters)

    tam = adapters.get("tam")
    if tam is not None and tam.config.latent_channels != (channels := pipeline.latent_channels):
        raise ValueError(
            f"TAM was built for {tam.config.latent_channels} latent channels, but the VAE of {pipeline.name} has "
            f"{channels}: use the adapters of this base model."
        )
    lavieid = LaVieID(pipeline, adapters, metadata)
    lavieid._hub = {key: kwargs[key] for key in ("cache_dir", "token", "local_files_only") if key in kwargs}
    if fresh:
        lavieid._notices.append(_UNTRAINED)
    try:
        for transformer in transformers if lavieid.router is not None else ():
            handle = attach(lavieid.router, transformer, metadata.block_idx, names=names)
            handle.notices = lavieid._notices
            handle.observer.clock = pipeline.progress
            handle.passes = functools.partial(_passes_of, lavieid._refiner)
            lavieid._add(handle)
        lavieid._refiner.put_on()
    except BaseException:
        lavieid.detach()
        raise
    return lavieid


def _passes_of(refiner: Refiner, arguments: Arguments) -> int | None:
    """Guidance passes in the batch of a forward; refuses a run of which TAM would not refine what is decoded."""
    if not torch.compiler.is_compiling() and refiner.pipeline.running:
        refiner.check()
    return refiner.pipeline.passes(arguments)


def fresh_adapter(name: str, pipe, **sizes) -> Adapter:
    """An untrained adapter of a pipeline's dimensions, on the CPU.

    Args:
        name: "router", "encoder" or "tam".
        pipe: The pipeline; its transformer tells the dimensions.
        sizes: Constructor arguments that take the place of them.
    """
    if name == "encoder":
        return LocalFacialEncoder(**sizes)
    pipeline = HostPipeline(pipe, find_pipeline(pipe))
    transformer = pipeline.transformers[0]
    dim = sizes.pop("dim", None) or token_width(transformer, find_host(transformer))
    if name == "router":
        return LocalRouter(dim=dim, **sizes)
    heads = next(h for h in range(max(1, dim // 128), 0, -1) if dim % (2 * h) == 0)
    defaults = {"latent_channels": pipeline.latent_channels, "num_heads": heads, "layout": pipeline.description.layout}
    return TAM(dim=dim, **{**defaults, **sizes})


def _own_adapters(pipeline: HostPipeline) -> Path | None:
    """The adapters in the local folder that the pipeline was loaded from, if it brings some."""
    folder = pipeline.source
    return Path(folder, _OWN) if folder and Path(folder, _OWN).is_dir() else None

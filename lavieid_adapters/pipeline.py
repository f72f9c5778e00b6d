"""LaVieID on a pipeline: the router after a block of its transformer, TAM before its VAE decodes."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import Adapter
from .decoder import RefiningDecoder
from .encoder import LocalFacialEncoder
from .folder import ADAPTERS, Metadata, by_name, load_folder
from .handle import attach
from .hosts import activation_dtype, find_host, token_width
from .lavieid import LaVieID
from .router import LocalRouter
from .tam import TAM

_PIPELINES = (
    "CogVideoXPipeline",
    "CogVideoXImageToVideoPipeline",
    "CogVideoXVideoToVideoPipeline",
    "CogVideoXFunControlPipeline",
    "ConsisIDPipeline",
)

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
        pipe: A CogVideoX pipeline (text, image or video to video, Fun control) or a ConsisID pipeline.
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
    if not any(cls.__name__ in _PIPELINES for cls in type(pipe).__mro__):
        raise ValueError(
            f"{type(pipe).__name__} is not supported: use one of {', '.join(_PIPELINES)}, or attach() a router."
        )
    if kwargs and not isinstance(adapters, str | os.PathLike):
        raise TypeError(f"{', '.join(kwargs)} only go with a Hub repo or a folder of adapters.")
    host = find_host(pipe.transformer)
    dtype = activation_dtype(pipe.transformer)
    metadata = Metadata(base_model=_name(pipe), block_idx=block_idx or 0)
    base = metadata.base_model  # with which a folder's card is compared
    if adapters is None and (adapters := _own_adapters(pipe)) is not None:
        base = None  # a base's own adapters know it by the name that it had in their training
    fresh = adapters is None
    if fresh:
        with torch.device(pipe._execution_device):
            channels = {"latent_channels": pipe.vae.config.latent_channels}
            adapters = {name: fresh_adapter(name, pipe, **(channels if name == "tam" else {})) for name in ADAPTERS}
        adapters = {name: adapter.to(dtype).eval() for name, adapter in adapters.items()}
    elif isinstance(adapters, str | os.PathLike):
        adapters, saved = load_folder(adapters, torch_dtype=dtype, **kwargs)
        metadata = saved.checked_against(base, block_idx)
    adapters = by_name(adapters)

    tam = adapters.get("tam")
    channels = pipe.vae.config.latent_channels
    if tam is not None and tam.config.latent_channels != channels:
        raise ValueError(
            f"TAM was built for {tam.config.latent_channels} latent channels, but the VAE of {type(pipe).__name__} has "
            f"{channels}: use the adapters of this base model."
        )
    lavieid = LaVieID(pipe, adapters, metadata, host)
    lavieid._hub = {key: kwargs[key] for key in ("cache_dir", "token", "local_files_only") if key in kwargs}
    if fresh:
        lavieid._notices.append(_UNTRAINED)
    if lavieid.router is not None:
        lavieid.handle = attach(lavieid.router, pipe.transformer, metadata.block_idx, names=names)
        lavieid.handle.notices = lavieid._notices
        lavieid.handle.observer.timesteps = functools.partial(_timesteps, pipe)
        lavieid.handle.passes = functools.partial(_passes, pipe)
    if tam is not None:
        lavieid._decoder = RefiningDecoder.put_on(pipe, lavieid._refine_once)
    return lavieid


def _timesteps(pipe) -> Tensor | None:
    """The timesteps of the pipeline's run: a video-to-video run is the last `num_timesteps` of the scheduler's."""
    count = getattr(pipe, "_num_timesteps", None) if _runs(pipe) else None  # there is none before the first run
    return None if count is None else pipe.scheduler.timesteps[-count:]


def _passes(pipe) -> int | None:
    """Guidance passes in a batch of the pipeline's run. Dynamic guidance begins at 1, which says nothing."""
    return 2 if _runs(pipe) and getattr(pipe, "_guidance_scale", 1) > 1 else None


def _runs(pipe) -> bool:
    """Whether the forward is of a run of this pipeline, as far as it notes that: others may share its transformer."""
    return getattr(pipe, "_current_timestep", True) is not None


def fresh_adapter(name: str, pipe, **sizes) -> Adapter:
    """An untrained adapter of a pipeline's dimensions, on the CPU.

    Args:
        name: "router", "encoder" or "tam".
        pipe: The pipeline; its transformer tells the dimensions.
        sizes: Constructor arguments that take the place of them.
    """
    if name == "encoder":
        return LocalFacialEncoder(**sizes)
    dim = sizes.pop("dim", None) or token_width(pipe.transformer)
    if name == "router":
        return LocalRouter(dim=dim, **sizes)
    heads = next(h for h in range(max(1, dim // 128), 0, -1) if dim % (2 * h) == 0)
    host = find_host(pipe.transformer)
    defaults = {"latent_channels": pipe.transformer.config.out_channels, "num_heads": heads, "layout": host.layout}
    return TAM(dim=dim, **{**defaults, **sizes})


def _own_adapters(pipe) -> Path | None:
    """The adapters in the local folder that the pipeline was loaded from, if it brings some."""
    folder = pipe.config.get("_name_or_path")
    return Path(folder, _OWN) if folder and Path(folder, _OWN).is_dir() else None


def _name(pipe) -> str | None:
    return pipe.config.get("_name_or_path") or getattr(pipe.transformer.config, "_name_or_path", None) or None

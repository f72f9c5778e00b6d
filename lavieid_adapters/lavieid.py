"""LaVieID on a pipeline: the router after a block of its transformer, TAM before its VAE decodes."""

import contextlib
import os
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import Adapter, upload
from .decoder import RefiningDecoder
from .encoder import LocalFacialEncoder
from .folder import ADAPTERS, Metadata, by_name, load_folder, save_folder
from .handle import RouterHandle, attach
from .hosts import Host, activation_dtype, find_host, token_width
from .identity import Identity
from .router import LocalRouter
from .tam import TAM

_PIPELINES = (
    "CogVideoXPipeline",
    "CogVideoXImageToVideoPipeline",
    "CogVideoXVideoToVideoPipeline",
    "CogVideoXFunControlPipeline",
    "ConsisIDPipeline",
)

_UNTRAINED = (
    "These LaVieID adapters are fresh and untrained, so they change nothing: give attach_lavieid a trained checkpoint, "
    "or train them."
)


def _of_handle(name: str) -> property:
    """A property of the router's handle, on the LaVieID object."""

    def get(self: "LaVieID"):
        return getattr(self._need_handle(), name)

    def put(self: "LaVieID", value) -> None:
        setattr(self._need_handle(), name, value)

    return property(get, put, doc=getattr(RouterHandle, name).__doc__)


class LaVieID:
    """Adapters attached to a pipeline. Made by `attach_lavieid`; also a context manager, which detaches at its end.

    Attributes:
        pipe: The pipeline.
        router, encoder, tam: The adapters; None for one that is not there.
        handle: The router's `RouterHandle`, None without a router.
        chunks, beta: TAM's number of chunks (at most one a latent frame) and strength.
        enabled: Whether TAM acts, and with it the router.
    """

    scale = _of_handle("scale")
    component_scales = _of_handle("component_scales")
    start = _of_handle("start")
    end = _of_handle("end")

    def __init__(self, pipe, adapters: Mapping[str, Adapter], metadata: Metadata, host: Host, block_idx: int):
        self.pipe, self.metadata = pipe, metadata
        self.router: LocalRouter | None = adapters.get("router")
        self.encoder: LocalFacialEncoder | None = adapters.get("encoder")
        self.tam: TAM | None = adapters.get("tam")
        self.block_idx, self._host = block_idx, host
        self.handle: RouterHandle | None = None
        self._decoder: RefiningDecoder | None = None
        self._enabled, self._attached = True, True
        self._notices: list[str] = []
        if self.tam is not None:
            self.chunks, self.beta = self.tam.config.chunks, self.tam.config.beta

    def set_identity(self, identity, mask: Tensor | None = None, videos_per_prompt: int = 1) -> None:
        """Set whose identity is generated from now on.

        Args:
            identity: Component tokens (M, L, D) or (identities, M, L, D), an `Identity`, the path of its file, or a
                list of these, one a prompt.
            mask: For tokens: (M,) or (identities, M), bool; False where a photo does not show the component.
            videos_per_prompt: The pipeline's `num_videos_per_prompt`, where several identities are given.

        Raises:
            ValueError, TypeError: If the identity is not one that this router can use: another encoder's, other sizes,
                or a photo. What was set before stays.
            FileNotFoundError: If the file is not there.
        """
        handle = self._need_handle()
        if isinstance(identity, Tensor):
            handle.set_tokens(identity, mask, videos_per_prompt)
            return
        if mask is not None:
            raise ValueError("mask goes with component tokens; an Identity carries its own.")
        identities = [self._read(i) for i in (identity if isinstance(identity, list | tuple) else [identity])]
        if not identities:
            raise ValueError("No identity was given; to forget the one that is set, call clear().")
        shapes = {tuple(i.tokens.shape) for i in identities}
        if len(shapes) > 1:
            raise ValueError(
                f"The identities have tokens of different shapes, {sorted(shapes)}: encode all with one encoder."
            )
        handle.set_tokens(
            torch.stack([i.tokens for i in identities]), torch.stack([i.mask for i in identities]), videos_per_prompt
        )

    def _read(self, identity) -> Identity:
        if isinstance(identity, str | os.PathLike):
            if Path(identity).suffix != ".safetensors":
                raise ValueError(
                    f"'{identity}' is no identity file (.safetensors). This version does not read photographs: give an "
                    "Identity (LocalFacialEncoder.encode makes one), its file, or component tokens."
                )
            identity = Identity.load(identity)
        elif isinstance(identity, Tensor):
            identity = Identity(identity, names=self.handle.component_scales)
        elif not isinstance(identity, Identity):
            raise TypeError(
                f"An identity is component tokens, an Identity or the path of its file, not {type(identity)}."
            )
        ours = self.encoder.fingerprint() if self.encoder is not None else self.metadata.encoder
        if identity.fingerprint and ours and identity.fingerprint != ours:
            raise ValueError(
                f"This identity was made by encoder {identity.fingerprint}, but these adapters belong to encoder "
                f"{ours}: encode the photo again with theirs."
            )
        return identity

    def clear(self) -> None:
        """Forget the identity: the router changes nothing until one is set."""
        self._need_handle().clear()

    @property
    def enabled(self) -> bool:
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = value
        if self.handle is not None:
            self.handle.enabled = value

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the pipeline runs as if the adapters were not there."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def record_routes(self) -> contextlib.AbstractContextManager[list[Tensor]]:
        """Collect route maps (batch, M, frames, height, width), one a forward; see `RouterHandle.record_routes`."""
        return self._need_handle().record_routes()

    def refine(self, latents: Tensor) -> Tensor:
        """TAM on latents that the pipeline gave for `output_type="latent"`; without TAM, the latents themselves.

        `pipe.decode_latents` refines by itself what has not been through here. CogVideoX 1.5 pads the front of such
        latents with frames that it cuts before decoding; cut them first, as it does.

        Args:
            latents: In the pipeline's layout and the VAE's normalised space.

        Raises:
            ValueError, TypeError: If the latents are not those of the pipeline.
        """
        if self.tam is None or not self._enabled:
            return latents
        while self._notices:
            warnings.warn(self._notices.pop(), stacklevel=2)
        rest = self.pipe.vae.device  # an offloaded pipeline keeps its models elsewhere between uses; so must TAM
        self.tam.to(latents.device)
        try:
            chunks = min(self.chunks, latents.shape[self._host.layout.index("f")])
            refined = self.tam.refine(latents, chunks, self.beta, self._host.layout)
        finally:
            if rest != latents.device:
                self.tam.to("cpu")
        refined = refined.clone() if refined is latents else refined
        refined.refined_by_lavieid = weakref.ref(self.tam)  # on the tensor, so that it is not refined a second time
        return refined

    def _refine_once(self, latents: Tensor) -> Tensor:
        refined_by = getattr(latents, "refined_by_lavieid", None)
        return latents if refined_by is not None and refined_by() is self.tam else self.refine(latents)

    def save_pretrained(self, save_directory: str | os.PathLike, license: str = "apache-2.0") -> None:
        """Write a folder of `router/`, `encoder/` and `tam/` with a model card, aside first and then renamed."""
        adapters = {name: getattr(self, name) for name in ADAPTERS if getattr(self, name) is not None}
        save_folder(adapters, save_directory, self.metadata, license)

    def push_to_hub(self, repo_id: str, license: str = "apache-2.0", **kwargs):
        """Upload what `save_pretrained` writes, as one commit; `token`, `private`, `create_pr`, `commit_message`."""
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(Path(scratch, "lavieid"), license)
            return upload(Path(scratch, "lavieid"), repo_id, **kwargs)

    def detach(self) -> None:
        """Take the adapters off and forget the identity; the pipeline is then what it was. A second call does
        nothing."""
        if not self._attached:
            return
        if self.handle is not None:
            self.handle.detach()
        if self._decoder is not None:
            self._decoder.take_off(self.pipe, self._refine_once)
        self._attached, self._decoder = False, None

    def __enter__(self) -> "LaVieID":
        return self

    def __exit__(self, *_) -> None:
        self.detach()

    def __repr__(self) -> str:
        if not self._attached:
            return "LaVieID(detached)"
        lines = [f"LaVieID on {type(self.pipe).__name__}"]
        if self.handle is not None:
            lines.append(f"  router: {self.handle!r}")
        if self.encoder is not None:
            lines.append(
                f"  encoder: {self.encoder.num_parameters() / 1e6:.1f} M parameters, {self.encoder.fingerprint()}"
            )
        if self.tam is not None:
            lines.append(
                f"  tam: {self.tam.num_parameters() / 1e6:.1f} M parameters before the VAE decodes, {self.chunks} "
                f"chunks, beta {self.beta:g}"
            )
        return "\n".join(lines)

    def _need_handle(self) -> RouterHandle:
        if self.handle is None:
            raise ValueError("No router is attached: these adapters have no 'router'.")
        return self.handle


def attach_lavieid(
    pipe,
    adapters: str | os.PathLike | Mapping[str, Adapter] | Iterable[Adapter] | Adapter | None = None,
    *,
    block_idx: int | None = None,
    **kwargs,
) -> LaVieID:
    """Attach a local router and TAM to a pipeline: two lines in a script that generates video already.

    Args:
        pipe: A CogVideoX pipeline (text, image or video to video, Fun control) or a ConsisID pipeline.
        adapters: A Hub repo, a folder, or built adapters (one, several, or by the names "router", "encoder", "tam");
            None gives fresh ones of the pipe's dimensions, which change nothing until they are trained.
        block_idx: The block that the router follows; that of the checkpoint, or 0, if None.
        kwargs: For a Hub repo: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

    Returns:
        The object that has `set_identity`, the strengths, `refine`, `save_pretrained` and `detach`.

    Raises:
        ValueError: If the pipeline is not supported, or the adapters do not fit it; the pipeline is untouched then.
    """
    if not any(cls.__name__ in _PIPELINES for cls in type(pipe).__mro__):
        raise ValueError(
            f"{type(pipe).__name__} is not supported: use one of {', '.join(_PIPELINES)}, or attach() a router."
        )
    host = find_host(pipe.transformer)
    dtype = activation_dtype(pipe.transformer)
    metadata = Metadata(base_model=_name(pipe), block_idx=block_idx or 0)
    fresh = adapters is None
    if fresh:
        adapters = _fresh(pipe, host, dtype)
    elif isinstance(adapters, str | os.PathLike):
        adapters, saved = load_folder(adapters, torch_dtype=dtype, **kwargs)
        metadata = saved.checked_against(metadata.base_model, block_idx)
    adapters = by_name(adapters)

    tam = adapters.get("tam")
    channels = pipe.vae.config.latent_channels
    if tam is not None and tam.config.latent_channels != channels:
        raise ValueError(
            f"TAM was built for {tam.config.latent_channels} latent channels, but the VAE of {type(pipe).__name__} has "
            f"{channels}: use the adapters of this base model."
        )
    lavieid = LaVieID(pipe, adapters, metadata, host, metadata.block_idx)
    if fresh:
        lavieid._notices.append(_UNTRAINED)
    if lavieid.router is not None:
        lavieid.handle = attach(lavieid.router, pipe.transformer, metadata.block_idx)
        lavieid.handle.notices = lavieid._notices
        # A video-to-video run is the last `num_timesteps` of the scheduler's.
        lavieid.handle.observer.timesteps = lambda: pipe.scheduler.timesteps[-pipe.num_timesteps :]
    if tam is not None:
        lavieid._decoder = RefiningDecoder.put_on(pipe, lavieid._refine_once)
    return lavieid


def _fresh(pipe, host: Host, dtype: torch.dtype) -> dict[str, Adapter]:
    dim = token_width(pipe.transformer)
    heads = next(h for h in range(max(1, dim // 128), 0, -1) if dim % (2 * h) == 0)
    with torch.device(pipe._execution_device):
        return {
            "router": LocalRouter(dim=dim).to(dtype),
            "encoder": LocalFacialEncoder().to(dtype),
            "tam": TAM(pipe.vae.config.latent_channels, dim=dim, num_heads=heads, layout=host.layout).to(dtype).eval(),
        }


def _name(pipe) -> str | None:
    return pipe.config.get("_name_or_path") or getattr(pipe.transformer.config, "_name_or_path", None) or None

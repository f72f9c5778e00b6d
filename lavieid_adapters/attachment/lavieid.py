"""Adapters that are attached to a pipeline: its identity, its strengths, its files."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..faces.processor import FaceProcessor
from ..faces.reader import IdentityReader, with_settings
from ..files.hub import upload
from ..hosts.pipeline import HostPipeline
from ..models.adapter import Adapter
from ..models.checkpoint import ADAPTERS, Metadata, save_folder
from ..models.facial_encoder import LocalFacialEncoder
from ..models.identity import Identity
from ..models.local_router import LocalRouter
from ..models.tam import TAM
from .attachment import Attachment
from .router_handle import RouterHandle
from .strength import delegated
from .tam_handle import Refiner


class LaVieID(Attachment):
    """Adapters attached to a pipeline. Made by `attach_lavieid`; also a context manager, which detaches at its end.

    Attributes:
        pipe: The pipeline.
        router, encoder, tam: The adapters; None for one that is not there.
        handles: The router's `RouterHandle` on each of the pipeline's transformers, of which Wan 2.2 has two; empty
            without a router. They share strength and window.
    """

    scale = delegated(lambda self: self._need_handle(), RouterHandle, "scale")
    component_scales = delegated(lambda self: self._need_handle(), RouterHandle, "component_scales")
    start = delegated(lambda self: self._need_handle(), RouterHandle, "start")
    end = delegated(lambda self: self._need_handle(), RouterHandle, "end")
    chunks = delegated(lambda self: self._refiner, Refiner, "chunks")
    beta = delegated(lambda self: self._refiner, Refiner, "beta")
    mirror_first = delegated(lambda self: self._refiner, Refiner, "mirror_first")

    def __init__(self, pipeline: HostPipeline, adapters: Mapping[str, Adapter], metadata: Metadata):
        self.pipe, self.metadata, self._pipeline = pipeline.pipe, metadata, pipeline
        self.router: LocalRouter | None = adapters.get("router")
        self.encoder: LocalFacialEncoder | None = adapters.get("encoder")
        self.tam: TAM | None = adapters.get("tam")
        self.handles: list[RouterHandle] = []
        self._enabled, self._attached = True, True
        self._notices: list[str] = []
        self._reader: IdentityReader | None = None
        self._hub: dict[str, Any] = {}
        self._refiner = Refiner(pipeline, self.tam, self._notices)

    @property
    def handle(self) -> RouterHandle | None:
        """The router's handle on the first transformer, None without a router."""
        return self.handles[0] if self.handles else None

    @property
    def reader(self) -> IdentityReader:
        """What makes identities of photos, with the encoder of these adapters; made when it is first wanted.

        Assign another `IdentityReader` for other models or to keep identities on disk, or None to free the models.
        """
        if self._reader is None:
            if self.encoder is None:
                raise ValueError("These adapters have no encoder, which photos need: give an Identity or its file.")
            face = FaceProcessor.for_encoder(self.encoder, **self._hub)
            self._reader = IdentityReader(self.encoder, face)
        return self._reader

    @reader.setter
    def reader(self, reader: IdentityReader | None) -> None:
        self._reader = reader

    def encode(self, photos, *, face_index=None, on_no_face: str = "raise", component_map=None) -> Identity:
        """Make an identity of a photo, or of several photos of one person, on the pipeline's device.

        Of an offloaded pipeline, the face models rest on the CPU between photos.

        Args:
            photos: A photo (path, http(s) URL, PIL image, array, open file), or a list of photos of the same person.
            face_index: Of several faces the one that is meant, counted from left to right, or "largest".
            on_no_face: "raise", or "whole_image" to take the picture as the face: for drawings.
            component_map: A segmentation of the whole photo instead of the parser's: an image, or an array of class
                ids, 0 for nothing and 1 to 6 for `FACIAL_COMPONENTS`.

        The last three may be lists for a list of photos, one a photo.

        Returns:
            The identity; it says which components are hidden, and why.

        Raises:
            ValueError, TypeError: If a photo cannot be read, or shows no face, or several; see `FaceProcessor`.
            OSError: If a photo or a model is not there and cannot be had.
        """
        device = self._pipeline.device
        self.reader.to(device, offload=any(d.device.type != device.type for d in self._pipeline.decoders))
        return self.reader(photos, face_index=face_index, on_no_face=on_no_face, component_map=component_map)

    def set_identity(
        self,
        identity,
        mask: Tensor | None = None,
        videos_per_prompt: int = 1,
        *,
        regions: Sequence | None = None,
        face_index=None,
        on_no_face: str = "raise",
        component_map=None,
    ) -> None:
        """Set whose identity is generated from now on.

        Args:
            identity: A photo (path, http(s) URL, PIL image, array, open file), an `Identity`, the path of its file,
                component tokens (M, L, D) or (identities, M, L, D), or a list of these, one a prompt. A list within
                the list is several photos of one person.
            mask: For tokens: (M,) or (identities, M), bool; False where a photo does not show the component.
            videos_per_prompt: The pipeline's `num_videos_per_prompt`, where several identities are given.
            regions: Put the identities of the list into each video, by a mask for each; see `RouterHandle.set_tokens`.
            face_index, on_no_face, component_map: For photos, as in `encode`; also lists, one an entry of the list.

        Raises:
            ValueError, TypeError: If the identity is not one that this router can use (another encoder's, other sizes),
                or if a photo cannot be read. What was set before stays.
            OSError: If a file, or a model that reads photos, is not there and cannot be had.
        """
        settings = {"face_index": face_index, "on_no_face": on_no_face, "component_map": component_map}
        given = [name for name, value in settings.items() if value is not None and name != "on_no_face"]
        if given and not any(map(_is_photo, _entries(identity))):
            raise TypeError(f"{', '.join(given)} only go with photos, of which there is none.")
        handle = self._need_handle()
        if isinstance(identity, Tensor):
            self._set_tokens(identity, mask, videos_per_prompt, regions)
            return
        if mask is not None:
            raise ValueError("mask goes with component tokens; an Identity carries its own.")
        if isinstance(identity, list | tuple):
            identities = [self._read(*entry) for entry in with_settings(identity, *settings.values())]
        else:
            identities = [self._read(identity, *settings.values())]
        if not identities:
            raise ValueError("No identity was given; to forget the one that is set, call clear().")
        shapes = {tuple(i.tokens.shape) for i in identities}
        if len(shapes) > 1:
            raise ValueError(
                f"The identities have tokens of different shapes, {sorted(shapes)}: encode all with one encoder."
            )
        device = handle.router.device
        tokens, masks = zip(*((i.tokens.to(device), i.mask.to(device)) for i in identities), strict=True)
        self._set_tokens(torch.stack(tokens), torch.stack(masks), videos_per_prompt, regions)

    def _set_tokens(self, *conditioning) -> None:
        self._pipeline.need_attached([handle.block for handle in self.handles])
        self._refiner.check()
        for handle in self.handles:
            handle.set_tokens(*conditioning)

    def _read(self, identity, face_index, on_no_face, component_map) -> Identity:
        if isinstance(identity, list | tuple):
            entries = with_settings(identity, face_index, on_no_face, component_map)
            identity = Identity.fuse([self._read(*entry) for entry in entries])
        elif isinstance(identity, Tensor):
            identity = Identity(identity, names=self.handle.strength.names)
        elif _is_photo(identity):
            identity = self.encode(identity, face_index=face_index, on_no_face=on_no_face, component_map=component_map)
        elif not isinstance(identity, Identity):
            identity = Identity.load(identity)
        if identity.names != self.handle.strength.names:
            raise ValueError(
                f"This identity has the components {', '.join(identity.names)}, but the router's are "
                f"{', '.join(self.handle.strength.names)}, in this order: encode the photo for this router."
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
        self._need_handle()
        for handle in self.handles:
            handle.clear()

    @property
    def enabled(self) -> bool:
        """Whether the adapters act; setting it sets the router's handle as well."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = self._refiner.enabled = value
        for handle in self.handles:
            handle.enabled = value

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the pipeline runs as if nothing were attached."""
        before = [(part, part.enabled) for part in (self, *self.handles)]
        self.enabled = False
        try:
            yield
        finally:
            for part, enabled in before:  # the first sets the handles', which may have been others
                part.enabled = enabled

    @contextlib.contextmanager
    def record_routes(self) -> Iterator[list[Tensor]]:
        """Collect route maps (batch, M, frames, height, width), one a forward; see `RouterHandle.record_routes`."""
        with self._need_handle().record_routes() as routes, contextlib.ExitStack() as others:
            for handle in self.handles[1:]:
                others.enter_context(handle.record_routes(onto=routes))
            yield routes

    def refine(self, latents: Tensor) -> Tensor:
        """TAM on latents that the pipeline gave for `output_type="latent"`; without TAM, the latents themselves.

        The pipeline refines by itself what it decodes. `pipe.decode_latents`, if it has that, leaves alone what has
        been through here; copies and slices do not tell, nor does `pipe.vae.decode`, so decode those in `with
        lavieid.disabled():`. CogVideoX 1.5 pads the front of such latents with frames that it cuts before decoding;
        cut them first, as it does. Packed latents (LTX) must be unpacked first.

        Args:
            latents: As the pipeline gives them: in its layout, and normalised (those of LTX-2 denormalised).

        Raises:
            ValueError, TypeError: If the latents are not those of the pipeline, or are of more than the clip.
        """
        return self._refiner.refine(latents)

    def _add(self, handle: RouterHandle) -> None:
        """Take on the router's handle on one more transformer."""
        if self.handles:
            handle.strength = self.handles[0].strength
        self.handles.append(handle)

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
        self._attached, self._reader = False, None
        try:
            for handle in self.handles:
                handle.detach()
        finally:
            self._refiner.take_off()

    def __repr__(self) -> str:
        if not self._attached:
            return "LaVieID(detached)"
        lines = [f"LaVieID on {self._pipeline.name}"]
        lines += [f"  router: {handle!r}" for handle in self.handles]
        if self.encoder is not None:
            lines.append(
                f"  encoder: {self.encoder.num_parameters() / 1e6:.1f} M parameters, {self.encoder.fingerprint()}"
            )
        if self.tam is not None:
            lines.append(
                f"  tam: {self.tam.num_parameters() / 1e6:.1f} M parameters before the VAE decodes, {self.chunks} "
                f"chunks, beta {self.beta:g}{', first chunk mirrored' * self.mirror_first}"
            )
        return "\n".join(lines)

    def _need_handle(self) -> RouterHandle:
        if self.handle is None:
            raise ValueError("No router is attached: these adapters have no 'router'.")
        return self.handle


def _entries(identity) -> list:
    """What a list of identities holds, lists within it too."""
    if not isinstance(identity, list | tuple):
        return [identity]
    return [entry for part in identity for entry in _entries(part)]


def _is_photo(identity) -> bool:
    if isinstance(identity, str | os.PathLike):
        return Path(identity).suffix != ".safetensors"
    return not isinstance(identity, Tensor | Identity)

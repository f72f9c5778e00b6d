"""Adapters that are attached to a pipeline: its identity, its strengths, its files."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..files.hub import upload
from ..hosts.host import Host
from ..hosts.host_table import find_host
from ..hosts.pipeline import HostPipeline
from ..models.adapter import Adapter
from ..models.checkpoint import ADAPTERS, Metadata, save_folder
from ..models.facial_encoder import LocalFacialEncoder
from ..models.identity import Identity
from ..models.local_router import LocalRouter
from ..models.tam import TAM
from .attached import DEFAULT, forget, note, noted
from .handle import Handle
from .identities import check_settings, read_identities
from .router_handle import RouterHandle
from .strength import Strength, StrengthSettings
from .tam_handle import TAMHandle

if TYPE_CHECKING:
    from ..faces.reader import IdentityReader


class LaVieID(StrengthSettings):
    """Adapters that are attached to a pipeline; made by `attach_lavieid`.

    As a context manager, it detaches at its end.

    Args:
        pipeline: The pipeline.
        adapters: Adapters by the names "router", "encoder" and "tam".
        metadata: Their metadata, with the block that the router follows.
        host: Description of the pipeline's transformers; looked up if None.
        names: Names of the components; `FACIAL_COMPONENTS` for six if None.
        hub: `token`, `cache_dir` and `local_files_only` for the models that read photos.
        notices: Warnings that are given when an adapter first acts.
        adapter_name: Name on the pipeline. What is attached to it by this name is detached, unless this one fails.

    Attributes:
        pipe: The pipeline of diffusers.
        router, encoder, tam: The adapters; None for one that is not there.
        handles: The router's `RouterHandle` on each of the pipeline's transformers, of which Wan 2.2 has two; empty
            without a router. They share strength and window.
        tam_handle: TAM's `TAMHandle`; None without TAM.

    Raises:
        ValueError: If the adapters do not fit the pipeline, which is untouched then.
    """

    def __init__(
        self,
        pipeline: HostPipeline,
        adapters: Mapping[str, Adapter],
        metadata: Metadata,
        *,
        host: Host | None = None,
        names: Sequence[str] | None = None,
        hub: Mapping[str, Any] | None = None,
        notices: Sequence[str] = (),
        adapter_name: str = DEFAULT,
    ):
        super().__init__()
        self.pipe, self.metadata, self._pipeline = pipeline.pipe, metadata, pipeline
        self.router: LocalRouter | None = adapters.get("router")
        self.encoder: LocalFacialEncoder | None = adapters.get("encoder")
        self.tam: TAM | None = adapters.get("tam")
        self.handles: list[RouterHandle] = []
        self.tam_handle: TAMHandle | None = None
        self._hub = dict(hub or {})
        self._reader: IdentityReader | None = None
        self.adapter_name, before = adapter_name, noted(pipeline.pipe).get(adapter_name)
        replaces = () if before is None else before.handles
        notices, strength = list(notices), None
        try:
            for transformer in pipeline.transformers if self.router is not None else ():
                place = transformer, metadata.block_idx, host or find_host(transformer), names
                handle = RouterHandle(
                    self.router, *place, pipeline=pipeline, strength=strength, notices=notices, replaces=replaces
                )
                self.handles.append(handle)
                strength = handle.strength
            if self.tam is not None:
                self.tam_handle = TAMHandle(self.tam, pipeline, notices)
            if before is not None:
                before.give_way()
            note(self)
        except BaseException:
            self.detach()
            raise

    @property
    def handle(self) -> RouterHandle | None:
        """The router's handle on the first transformer, None without a router."""
        return self.handles[0] if self.handles else None

    @property
    def strength(self) -> Strength:
        """Holds `scale`, `component_scales`, `start` and `end` for all handles of the router."""
        return self._need_router().strength

    @property
    def chunks(self) -> int:
        """TAM's number K of chunks; a video of fewer latent frames gets one per frame."""
        return self._need_tam().chunks

    @chunks.setter
    def chunks(self, value: int) -> None:
        self._need_tam().chunks = value

    @property
    def beta(self) -> float:
        """TAM's strength beta of eq. 4; 0 leaves the latents as they are."""
        return self._need_tam().beta

    @beta.setter
    def beta(self, value: float) -> None:
        self._need_tam().beta = value

    @property
    def mirror_first(self) -> bool:
        """Whether TAM refines the first chunk as well, after its mirror image."""
        return self._need_tam().mirror_first

    @mirror_first.setter
    def mirror_first(self, value: bool) -> None:
        self._need_tam().mirror_first = value

    @property
    def reader(self) -> "IdentityReader":
        """The reader of photos, with the encoder of these adapters; made when it is first used.

        Assign another `IdentityReader` for other models or to store identities on disk, or None to free the models.
        """
        self._need_attached()
        if self._reader is None:
            from ..faces.processor import FaceProcessor  # identities and their files need no models for faces
            from ..faces.reader import IdentityReader

            if self.encoder is None:
                raise ValueError("These adapters have no encoder, which photos need. Give an Identity or its file.")
            face = FaceProcessor.for_encoder(self.encoder, **self._hub)
            self._reader = IdentityReader(self.encoder, face)
        return self._reader

    @reader.setter
    def reader(self, reader: "IdentityReader | None") -> None:
        self._need_attached()
        self._reader = reader

    def encode(self, photos, *, face_index=None, on_no_face: str = "raise", component_map=None) -> Identity:
        """Make an identity of a photo, or of several photos of one person, on the pipeline's device.

        If the pipeline is offloaded, the face models rest on the CPU between photos.

        Args:
            photos: A photo (path, http(s) URL, PIL image, array, open file), or a list of photos of the same person.
            face_index: The face among several, counted from left to right, or "largest".
            on_no_face: "raise", or "whole_image" to take the picture as the face: for drawings.
            component_map: A segmentation of the whole photo instead of the parser's: an image, or an array of class
                ids, 0 for nothing and 1 to 6 for `FACIAL_COMPONENTS`.

        The last three may be lists for a list of photos, one for each photo.

        Returns:
            The identity; it says which components are hidden, and why.

        Raises:
            ValueError, TypeError: If a photo cannot be read, or shows no face, or several; see `FaceProcessor`.
            OSError: If a photo or a model is not there and cannot be downloaded.
        """
        reader, device = self.reader, self._pipeline.device
        resting = (getattr(decoder, "device", device) for decoder in self._pipeline.decoders)
        reader.to(device, offload=any(rest.type != device.type for rest in resting))
        return reader(photos, face_index=face_index, on_no_face=on_no_face, component_map=component_map)

    def set_identity(
        self,
        identity,
        mask: Tensor | None = None,
        videos_per_prompt: int = 1,
        *,
        regions: Sequence | None = None,
        face_index=None,
        on_no_face=None,
        component_map=None,
    ) -> None:
        """Set the identity that is generated from now on.

        Args:
            identity: A photo (path, http(s) URL, PIL image, array, open file), an `Identity`, the path of its file,
                component tokens (M, L, D) or (identities, M, L, D), or a list of these, one per prompt. A list within
                the list is several photos of one person.
            mask: For tokens: (M,) or (identities, M), bool; False where a photo does not show the component.
            videos_per_prompt: The pipeline's `num_videos_per_prompt`, where several identities are given.
            regions: Put the identities of the list into each video, by a mask for each; see `RouterHandle.set_tokens`.
            face_index, on_no_face, component_map: For photos, as in `encode`; also lists, one for each entry.
                `on_no_face` is "raise" if None.

        Raises:
            ValueError, TypeError: If the identity is not one that this router can use (another encoder's, other sizes),
                or if a photo cannot be read. What was set before stays.
            OSError: If a file, or a model that reads photos, is not there and cannot be downloaded.
        """
        handle = self._need_ready_router()
        settings = {"face_index": face_index, "on_no_face": on_no_face, "component_map": component_map}
        check_settings(identity, settings)
        if isinstance(identity, Tensor):
            conditioning = identity, mask
        elif mask is not None:
            raise ValueError("mask goes with component tokens, but an Identity carries its own. Leave it out.")
        else:
            settings["on_no_face"] = "raise" if on_no_face is None else on_no_face
            ours = self.encoder.fingerprint() if self.encoder is not None else self.metadata.encoder
            read = read_identities(identity, settings, self.encode, handle.strength.names, ours)
            conditioning = (part.to(handle.router.execution_device) for part in read)
        conditioning = *conditioning, videos_per_prompt, regions
        # Of two transformers none may show the new identity if the other refuses it.
        made = [handle._conditioning_of(*conditioning) for handle in self.handles]
        for handle, conditioning in zip(self.handles, made, strict=True):
            handle._conditioning = conditioning

    def clear(self) -> None:
        """Forget the identity: the router changes nothing until one is set."""
        self._need_router()
        for handle in self.handles:
            handle._need_attached()  # all or none
        for handle in self.handles:
            handle.clear()

    @contextlib.contextmanager
    def record_routes(self) -> Iterator[list[Tensor]]:
        """Collect route maps (batch, M, frames, height, width), one per forward; see `RouterHandle.record_routes`."""
        with self._need_router().record_routes() as routes, contextlib.ExitStack() as others:
            for handle in self.handles[1:]:
                others.enter_context(handle.record_routes(onto=routes))
            yield routes

    def refine(self, latents: Tensor) -> Tensor:
        """Apply TAM to latents that the pipeline gave for `output_type="latent"`; without TAM, return them.

        The pipeline refines by itself what it decodes. `pipe.decode_latents`, if it has that, leaves alone what has
        been through here; copies and slices do not tell, nor does `pipe.vae.decode`, so decode those in `with
        lavieid.disabled():`. CogVideoX 1.5 pads the front of such latents with frames that it cuts before decoding;
        cut them first, as it does. Packed latents (LTX) must be unpacked first.

        Args:
            latents: As the pipeline gives them: in its layout, and normalised (those of LTX-2 denormalised).

        Raises:
            ValueError, TypeError: If the latents are not those of the pipeline, or are of more than the video.
        """
        self._need_attached()
        return latents if self.tam_handle is None else self.tam_handle.refine(latents)

    def save_pretrained(self, save_directory: str | os.PathLike, license: str = "apache-2.0") -> None:
        """Write a folder of `router/`, `encoder/` and `tam/` with a model card, aside first and then renamed."""
        adapters = {name: getattr(self, name) for name in ADAPTERS if getattr(self, name) is not None}
        save_folder(adapters, save_directory, self.metadata, license)

    def push_to_hub(self, repo_id: str, license: str = "apache-2.0", **kwargs):
        """Upload what `save_pretrained` writes, as one commit; `token`, `private`, `create_pr`, `commit_message`."""
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(Path(scratch, "lavieid"), license)
            return upload(Path(scratch, "lavieid"), repo_id, **kwargs)

    def _parts(self) -> list[Handle]:
        return [self, *self._handles()]

    def _handles(self) -> list[Handle]:
        return [*self.handles, *([] if self.tam_handle is None else [self.tam_handle])]

    def _switch(self, value: bool) -> None:
        super()._switch(value)
        for handle in self._handles():
            if handle._attached:
                handle._switch(value)

    def _take_off(self) -> None:
        self._reader = None
        with contextlib.ExitStack() as stack:
            stack.callback(forget, self)
            for handle in self._handles():
                stack.callback(handle.give_way if self._end != "detached" else handle.detach)

    def _describe(self) -> str:
        lines = [f"LaVieID on {self._pipeline.name}"]
        lines += [f"  router: {handle!r}" for handle in self.handles]
        if self.encoder is not None:
            lines.append(
                f"  encoder: {self.encoder.num_parameters() / 1e6:.1f} M parameters, {self.encoder.fingerprint()}"
            )
        if self.tam_handle is not None:
            lines.append(f"  tam: {self.tam_handle!r}")
        return "\n".join(lines)

    def _need_router(self) -> RouterHandle:
        self._need_attached()
        if self.handle is None:
            raise ValueError("No router is attached, because these adapters have no 'router'. Attach one that has.")
        return self.handle

    def _need_ready_router(self) -> RouterHandle:
        """Check, ahead of reading photos, that what is set now would act on what the pipeline runs and decodes."""
        handle = self._need_router()
        self._pipeline.need_attached([handle.block for handle in self.handles])
        if self.tam_handle is not None:
            self.tam_handle.need_decoders()
        return handle

    def _need_tam(self) -> TAMHandle:
        self._need_attached()
        if self.tam_handle is None:
            raise ValueError("No TAM is attached, because these adapters have no 'tam'. Attach one that has.")
        return self.tam_handle

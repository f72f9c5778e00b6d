"""Photographs of a person → `Identity`; each photo is read once and cached in memory and, on request, on disk."""

import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..files.digests import content_digest
from ..files.images import check_image, decoding, read_file
from ..models.consisid import EVA02_CLIP
from ..models.facial_encoder import CLIP, LocalFacialEncoder
from ..models.identity import FACIAL_COMPONENTS, Identity, with_settings
from .face_choice import check_choice
from .parts import FaceFeatures
from .photo import Photo
from .processor import FaceProcessor

_KEPT = 64  # identities in memory, of 0.8 MB each
_FORMAT = 1  # to be raised when the same photo and models are to give another identity


class IdentityReader:
    """Photos → facial components → component tokens (sections 3.1 and 3.2), by a face processor and a local encoder.

    Args:
        encoder: The encoder that the router was trained with.
        face: The processor that reads faces; `FaceProcessor.for_encoder(encoder)` if None.
        cache_dir: A folder in which identities are cached as `Identity` files; None caches them in memory alone.

    Raises:
        ValueError: If the processor does not give what the encoder was trained with, or if identities are to be cached
            on disk though a part of the processor has no `fingerprint`.
        NotADirectoryError: If `cache_dir` is a file.
    """

    def __init__(
        self,
        encoder: LocalFacialEncoder,
        face: FaceProcessor | None = None,
        cache_dir: str | os.PathLike | None = None,
    ):
        self.encoder, self.cache_dir = encoder, cache_dir
        self.face = FaceProcessor.for_encoder(encoder) if face is None else face
        _check_fit(self.face, encoder)
        if cache_dir is not None and os.path.isfile(Path(cache_dir).expanduser()):
            raise NotADirectoryError(f"cache_dir is '{cache_dir}', which is a file. Give a folder, or None.")
        if cache_dir is not None and self.face.fingerprint is None:
            nameless = [type(part).__name__ for part in self.face.parts if getattr(part, "fingerprint", None) is None]
            raise ValueError(
                f"Identities cannot be cached in '{cache_dir}': give {', '.join(nameless)} an attribute `fingerprint`, "
                "a str that changes with its results."
            )
        self._device, self._offload = encoder.device, False
        self._kept: OrderedDict[tuple, Identity] = OrderedDict()
        self._lock = threading.RLock()

    def to(self, device: str | torch.device, offload: bool = False) -> "IdentityReader":
        """Work on `device`; with `offload`, all models rest on the CPU between photos."""
        with self._lock:
            self._device, self._offload = torch.device(device), offload
            self.face.to(device, offload)
        return self

    def __call__(self, photos, *, face_index=None, on_no_face: str = "raise", component_map=None) -> Identity:
        """Read one person. A photo that was read before is not read again, though a URL is fetched to be compared.

        Args:
            photos: A photo (path, http(s) URL, PIL image, array, open file), or a list of photos of the same person,
                which are fused.
            face_index: The face, counted from left to right, or "largest"; needed where there are several.
            on_no_face: "raise", or "whole_image" to take the picture as the face: for drawings.
            component_map: A segmentation of the whole photo instead of the parser's: an image, or an array of class
                ids, 0 for nothing and 1 to 6 for `FACIAL_COMPONENTS`.

        The last three may be lists for a list of photos, one a photo.

        Returns:
            The identity, on the CPU; it says which components are hidden, and why.

        Raises:
            ValueError, TypeError, OSError: As `FaceProcessor`, for the first photo that cannot be read.
        """
        with self._lock:
            if not isinstance(photos, list | tuple):
                return self._read(photos, face_index, on_no_face, component_map)
            entries = list(with_settings(photos, face_index, on_no_face, component_map))
            for _, index, choice, _ in entries:
                check_choice(index, choice)  # before the first photo is read
            return Identity.fuse([self._read(*entry) for entry in entries])

    def _read(self, photo, face_index, on_no_face: str, component_map) -> Identity:
        for value in (face_index, on_no_face, component_map):
            if isinstance(value, list | tuple):
                raise TypeError(f"{value} is a list for a single photo: give the photos as a list, too.")
        check_choice(face_index, on_no_face)  # True and 1.0 would find what 1 has put into the cache
        photo = Photo(photo)
        request = photo.digest, face_index, on_no_face, _content(component_map)
        key, file = self._cache_key(request)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        identity = _load(file)
        if identity is None:
            features = self.face(photo, face_index=face_index, on_no_face=on_no_face, component_map=component_map)
            identity = self._encode(features)
            key, file = self._cache_key(request)  # the encoder may have moved, and models been downloaded
            if file is not None:
                identity.save(file)
        self._kept[key] = identity
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return identity

    def _cache_key(self, request: tuple) -> tuple[tuple, Path | None]:
        """Return the key and the file under which the identity of a request is cached."""
        fingerprint = self.face.fingerprint
        key = (*request, self.encoder.weights_digest(), fingerprint or self.face)
        if self.cache_dir is None:
            return key, None
        return key, Path(self.cache_dir).expanduser() / f"{content_digest(*key, _FORMAT)}.safetensors"

    @torch.no_grad()
    def _encode(self, features: FaceFeatures) -> Identity:
        shown, encoder = features.mask, self.encoder
        encoder.to(self._device)
        try:
            # Those that are hidden need no tokens.
            index = shown.nonzero()[:, 0].to(self._device)
            every = (features.id_embeds, *(h[None] for h in features.vit_hidden_states))
            id_embeds, *maps = (v.to(self._device)[:, index] for v in every)
            part = encoder(id_embeds, maps)[0]
        finally:
            if self._offload:
                encoder.to("cpu")
        tokens = part.new_zeros(len(shown), *part.shape[1:])
        tokens[shown] = part
        return Identity(tokens.cpu(), shown, FACIAL_COMPONENTS, encoder.fingerprint(), features.hidden)


def _load(file: Path | None) -> Identity | None:
    """Return the identity in a file; None if there is none, or if it is damaged."""
    try:
        return None if file is None else Identity.load(file)
    except (FileNotFoundError, ValueError):
        return None


def _check_fit(face: FaceProcessor, encoder: LocalFacialEncoder) -> None:
    for part in ("recognizer", "vision"):
        if getattr(face, part) is None:
            raise ValueError(f"The face processor has no {part}, whose features an identity needs: give it one.")
    c, remedy = encoder.config, "use FaceProcessor.for_encoder(encoder)."
    if face.grayscale != c.grayscale:
        raise ValueError(f"The processor has grayscale={face.grayscale}, but the encoder {c.grayscale}: {remedy}")
    scales = getattr(face.vision, "num_scales", c.num_scales)
    if scales != c.num_scales:
        raise ValueError(f"The processor gives {scales} feature maps, but the encoder takes {c.num_scales}: {remedy}")
    models = {getattr(face.vision, "name", c.vision_model), c.vision_model}
    if models == {CLIP, EVA02_CLIP}:  # which are of one size
        raise ValueError(f"The processor has '{face.vision.name}', but the encoder takes '{c.vision_model}': {remedy}")


def _content(component_map) -> str | None:
    if component_map is None:
        return None
    if isinstance(component_map, str | os.PathLike):
        return content_digest(read_file(component_map, "component_map"))
    if isinstance(component_map, Image.Image):
        check_image(component_map, "component_map")
        with decoding("component_map", "cannot be decoded", "save it again"):
            return content_digest(component_map.mode, component_map.size, component_map.tobytes())
    array = np.ascontiguousarray(component_map)
    return content_digest(array.dtype, array.shape, array.tobytes())

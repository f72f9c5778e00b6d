"""From photographs to an identity, each photo once: what was read is kept in memory and, if wanted, on disk."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .encoder import LocalFacialEncoder
from .face import FaceProcessor
from .features import FaceFeatures
from .identity import FACIAL_COMPONENTS, Identity
from .photo import Photo

_KEPT = 64  # identities in memory, of 0.8 MB each


class IdentityReader:
    """Photos → facial components → component tokens (sections 3.1 and 3.2), by a face processor and a local encoder.

    Args:
        encoder: The encoder that the router was trained with.
        face: What reads faces; that of the encoder's vision model if None.
        cache_dir: A folder of `Identity` files, for what has been read before; None keeps it in memory alone.
    """

    def __init__(
        self,
        encoder: LocalFacialEncoder,
        face: FaceProcessor | None = None,
        cache_dir: str | os.PathLike | None = None,
    ):
        c = encoder.config
        self.encoder, self.cache_dir = encoder, cache_dir
        self.face = face or FaceProcessor.from_pretrained(
            vision_model=c.vision_model, num_scales=c.num_scales, grayscale=c.grayscale
        )
        for part in ("recogniser", "vision"):
            if getattr(self.face, part) is None:
                raise ValueError(f"The face processor has no {part}, whose features an identity needs: give it one.")
        self._device, self._offload = encoder.device, False
        self._kept: OrderedDict[tuple, Identity] = OrderedDict()

    def to(self, device: str | torch.device, offload: bool = False) -> "IdentityReader":
        """Work on `device`; with `offload`, all models rest on the CPU between photos."""
        self._device, self._offload = torch.device(device), offload
        self.face.to(device, offload)
        return self

    def __call__(self, photos, *, face_index=None, on_no_face: str = "raise", component_map=None) -> Identity:
        """Read one person.

        Args:
            photos: A photo, as `Photo` takes it, or a list of photos of the same person, which are fused.
            face_index, on_no_face, component_map: As in `FaceProcessor`; for a list of photos also lists, one a photo.

        Raises:
            ValueError, TypeError, OSError: As `FaceProcessor`, for the first photo that cannot be read.
        """
        if not isinstance(photos, list | tuple):
            return self._read(photos, face_index, on_no_face, component_map)
        settings = [_each(value, len(photos)) for value in (face_index, on_no_face, component_map)]
        return Identity.fuse([self._read(photo, *args) for photo, *args in zip(photos, *settings, strict=True)])

    def _read(self, photo, face_index, on_no_face: str, component_map) -> Identity:
        photo = Photo(photo)
        question = photo.digest, face_index, on_no_face, _content(component_map)
        key, file = self._place(question)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        identity = _load(file)
        if identity is None:
            features = self.face(photo, face_index=face_index, on_no_face=on_no_face, component_map=component_map)
            identity = self._encode(features)
            key, file = self._place(question)  # models that have been downloaded only now can tell themselves apart
            if file is not None:
                identity.save(file)
        self._kept[key] = identity
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return identity

    def _place(self, question: tuple) -> tuple[tuple, Path | None]:
        """Under which key, and in which file, the answer to a question is kept."""
        known = self.face.fingerprint
        key = (*question, self.encoder.fingerprint(), known or self.face)
        if self.cache_dir is None or known is None:
            return key, None
        name = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
        return key, Path(self.cache_dir).expanduser() / f"{name}.safetensors"

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
    """What was kept in a file, if it is there and whole."""
    try:
        return None if file is None else Identity.load(file)
    except (FileNotFoundError, ValueError):
        return None


def _each(value, count: int) -> Sequence:
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{len(value)} settings for {count} photos: give one for all, or one each.")
    return value


def _content(component_map) -> str | None:
    if component_map is None:
        return None
    if isinstance(component_map, str | os.PathLike):
        data = Path(component_map).read_bytes()
    elif isinstance(component_map, Image.Image):
        data = repr((component_map.mode, component_map.size)).encode() + component_map.tobytes()
    else:
        array = np.ascontiguousarray(component_map)
        data = repr((array.dtype, array.shape)).encode() + array.tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()

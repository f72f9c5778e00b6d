"""Whatever `LaVieID.set_identity` takes, brought to component tokens: photos, identities, files, tensors, lists."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.identity import Identity, with_settings


def check_settings(given, settings: Mapping[str, Any]) -> None:
    """Check that settings for photos go with a photo.

    Args:
        given: The identity, or a list.
        settings: Settings by name; None for one that is not set.

    Raises:
        TypeError: If one is set, but there is no photo.
    """
    names = [name for name, value in settings.items() if value is not None]
    if names and not any(map(_is_photo, _entries(given))):
        raise TypeError(f"{', '.join(names)} only go with photos, but none is given. Leave them out.")


def read_identities(
    given, settings: Mapping[str, Any], encode: Callable[..., Identity], names: Sequence[str], fingerprint: str
) -> tuple[Tensor, Tensor]:
    """Return the component tokens (k, M, L, D) and masks (k, M) of one identity or of a list, one per prompt.

    Args:
        given: A photo, an `Identity`, the path of its file, component tokens (M, L, D), or a list of these; a list
            within the list is several photos of one person.
        settings: Settings for photos by name; lists of one for each entry, or one for all.
        encode: Function from a photo and the settings to its identity.
        names: Names of the router's components.
        fingerprint: Fingerprint of the encoder that the router was trained with, "" if unknown.

    Raises:
        ValueError: If an identity is of other components or of another encoder, or if their shapes differ.
        TypeError: If an entry is none of these.
    """

    def read(entry, *values) -> Identity:
        if isinstance(entry, list | tuple):
            return checked(Identity.fuse([read(*each) for each in with_settings(entry, *values)]))
        if isinstance(entry, Tensor):
            return checked(Identity(entry, names=names))
        if _is_photo(entry):
            return checked(encode(entry, **dict(zip(settings, values, strict=True))))
        return checked(entry if isinstance(entry, Identity) else Identity.load(entry))

    def checked(identity: Identity) -> Identity:
        if identity.names != tuple(names):
            raise ValueError(
                f"This identity has the components {', '.join(identity.names)}, but the router's are "
                f"{', '.join(names)}, in this order. Encode the photo for this router."
            )
        if identity.fingerprint and fingerprint and identity.fingerprint != fingerprint:
            raise ValueError(
                f"This identity was made by encoder {identity.fingerprint}, but these adapters belong to encoder "
                f"{fingerprint}. Encode the photo again with theirs."
            )
        return identity

    if isinstance(given, list | tuple):
        identities = [read(*entry) for entry in with_settings(given, *settings.values())]
    else:
        identities = [read(given, *settings.values())]
    if not identities:
        raise ValueError("No identity was given. To forget the one that is set, call clear().")
    shapes = {tuple(i.tokens.shape) for i in identities}
    if len(shapes) > 1:
        raise ValueError(
            f"The identities have tokens of different shapes, {sorted(shapes)}. Encode all with one encoder."
        )
    device = identities[0].tokens.device
    tokens, masks = zip(*((i.tokens.to(device), i.mask.to(device)) for i in identities), strict=True)
    return torch.stack(tokens), torch.stack(masks)


def _entries(given) -> list:
    """Return the entries of a list of identities, those of lists within it too."""
    if not isinstance(given, list | tuple):
        return [given]
    return [entry for part in given for entry in _entries(part)]


def _is_photo(entry) -> bool:
    if isinstance(entry, str | os.PathLike):
        return Path(entry).suffix != ".safetensors"
    return not isinstance(entry, Tensor | Identity)

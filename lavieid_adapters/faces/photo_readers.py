"""Photo readers that installed packages bring, by the name that an encoder's config gives.

An encoder takes the features of certain models. Where those are not a ViT of the Hub beside insightface and facexlib, a
package brings all of them and registers, in its own metadata, a function that returns the arguments of `FaceProcessor`:

    [options.entry_points]                      # setup.cfg of the package
    lavieid_adapters.photo_readers =
        cartoons = my_package.reading:processor_arguments

An encoder that is built with `vision_model="cartoons"` then finds it wherever the package is installed. The config,
which may come from the Hub, holds the name alone: code comes from installed packages and never from a download.
"""

import os
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import torch

GROUP = "lavieid_adapters.photo_readers"


class PhotoReader(Protocol):
    """A function that returns the models by which an encoder's photos are read."""

    def __call__(self, *, num_scales: int, dtype: torch.dtype | None) -> Mapping[str, Any]:
        """Return arguments of `FaceProcessor`; nothing needs to be loaded before it is used.

        Args:
            num_scales: Number of feature maps that the encoder takes.
            dtype: Precision of the vision model; None is bfloat16 on a GPU and float32 elsewhere.
        """


def registered(name: str | os.PathLike) -> EntryPoint | None:
    """Return the entry point of a photo reader; None if the name is that of a Hub repo or a folder.

    Args:
        name: The `vision_model` of an encoder's config. The names of photo readers hold no slash, so that none hides a
            repo or a path.

    Raises:
        TypeError: If the name is no text and no path.
        ValueError: If the name is none of the three, or if several packages register it.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"The vision model is {name!r}, but must be a name or a path. Give a Hub repo or a folder.")
    name = os.fspath(name)
    if "/" in name or os.sep in name:
        return None
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        packages = " and ".join(sorted(entry.dist.name if entry.dist else value for value, entry in found.items()))
        raise ValueError(f"The photo reader '{name}' is registered by {packages}. Uninstall all of them but one.")
    if not found and not os.path.isdir(name):
        names = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise ValueError(
            f"The vision model '{name}' is neither a Hub repo (owner/name), nor a folder, nor a photo reader of an "
            f"installed package (registered: {names}). Name one of these, or install the package that brings it."
        )
    return next(iter(found.values()), None)


def read_with(entry: EntryPoint, num_scales: int, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return the arguments of `FaceProcessor` that a registered photo reader gives.

    Raises:
        ImportError: If the package that registers it is damaged.
        TypeError: If it gives no arguments.
    """
    try:
        reader: PhotoReader = entry.load()
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"The photo reader '{entry.name}' cannot be imported from '{entry.value}' ({error}). Install its package "
            "again."
        ) from error
    arguments = reader(num_scales=num_scales, dtype=dtype)
    if not isinstance(arguments, Mapping):
        raise TypeError(
            f"The photo reader '{entry.name}' gives {type(arguments).__name__}, but must give the arguments of "
            f"FaceProcessor as a dict. Change '{entry.value}'."
        )
    return dict(arguments)

"""The checkpoint of all adapters: a folder, or a Hub repo, of `router/`, `encoder/` and `tam/` with one model card."""

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from diffusers.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from huggingface_hub import ModelCard

from ..files.atomic import written_aside
from ..files.hub import fetch
from ..files.model_card import model_card
from .adapter import Adapter
from .facial_encoder import LocalFacialEncoder
from .local_router import LocalRouter
from .tam import TAM

ADAPTERS: dict[str, type[Adapter]] = {"router": LocalRouter, "encoder": LocalFacialEncoder, "tam": TAM}

_FILES = (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)
_WANTED = ("README.md", *_FILES, *(f"{name}/{file}" for name in ADAPTERS for file in _FILES))  # of a Hub repo


@dataclass(frozen=True)
class Metadata:
    """The record in a checkpoint's card: what belongs to the adapters besides their own configs.

    Attributes:
        base_model: Hub id, or path, of the model that the adapters were trained on.
        block_idx: The block that the router follows.
        encoder: Fingerprint of the encoder that the router was trained with; "" if unknown.
    """

    base_model: str | None = None
    block_idx: int = 0
    encoder: str = ""

    def checked_against(self, base_model: str | None, block_idx: int | None, blocks: int) -> "Metadata":
        """Warn where adapters meet another base model or block than theirs; a block that is asked for is taken.

        Args:
            base_model: Name of the model that they meet; None if it is not known.
            block_idx: The block that is asked for, None for theirs; negative from the last, as theirs may be.
            blocks: Number of the transformer's blocks.
        """
        # A local copy has the name of the model, not of its owner.
        if self.base_model and base_model and Path(self.base_model).name.lower() != Path(base_model).name.lower():
            warnings.warn(
                f"These adapters were trained on '{self.base_model}', but the pipeline is '{base_model}': expect a "
                "worse likeness, or use the adapters of that model.",
                stacklevel=3,
            )
        if block_idx is None or _from_first(block_idx, blocks) == _from_first(self.block_idx, blocks):
            return self
        warnings.warn(
            f"The router was trained for block {self.block_idx}, but is attached to block {block_idx}.", stacklevel=3
        )
        return replace(self, block_idx=block_idx)


def _from_first(block_idx: int, blocks: int) -> int:
    return block_idx + blocks if block_idx < 0 else block_idx


def by_name(adapters: Adapter | Iterable[Adapter] | Mapping[str, Adapter]) -> dict[str, Adapter]:
    """Return one adapter, several, or a mapping, as a mapping by the names of `ADAPTERS`.

    Raises:
        TypeError: If something else is among them.
        ValueError: If there is none, or several of one kind.
    """
    if not isinstance(adapters, Mapping):
        given = list(adapters) if isinstance(adapters, Iterable) else [adapters]
        adapters = {}
        for adapter in given:
            name = next((n for n, cls in ADAPTERS.items() if isinstance(adapter, cls)), type(adapter).__name__)
            if name in ADAPTERS and name in adapters:
                raise ValueError(
                    f"Several adapters are a {name} ({ADAPTERS[name].__name__}), but a pipeline takes one of each "
                    "kind. Leave the others out."
                )
            adapters[name] = adapter
    for name, adapter in adapters.items():
        if name not in ADAPTERS or not isinstance(adapter, ADAPTERS[name]):
            expected = ", ".join(f"{n}: {cls.__name__}" for n, cls in ADAPTERS.items())
            raise TypeError(f"'{name}' is a {type(adapter).__name__}, but adapters are {expected}.")
    if not adapters:
        raise ValueError("No adapter was given: pass a router, TAM or both.")
    return dict(adapters)


def load_folder(repo_or_folder: str | os.PathLike, torch_dtype=None, **kwargs) -> tuple[dict[str, Adapter], Metadata]:
    """Load the adapters that there are, and the card's record; of a Hub repo only their own files are fetched.

    Args:
        repo_or_folder: A Hub repo or a folder; of all adapters, or of one.
        torch_dtype: Dtype of the weights.
        kwargs: For a Hub repo: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

    Raises:
        ValueError: If there is no adapter in it, if one of them does not load, or if the card's record is damaged.
        OSError: If it cannot be fetched.
    """
    folder = fetch(repo_or_folder, _WANTED, **kwargs)
    places = _places(folder, str(repo_or_folder))
    adapters = {name: ADAPTERS[name].from_pretrained(place, torch_dtype=torch_dtype) for name, place in places.items()}
    return adapters, _read_card(folder)


def inspect_folder(repo_or_folder: str | os.PathLike) -> tuple[dict[str, Adapter], Metadata]:
    """Load as `load_folder` does, but without reading weights: the adapters are on the meta device."""
    folder = fetch(repo_or_folder, _WANTED)
    places = _places(folder, str(repo_or_folder))
    return {name: ADAPTERS[name].inspect(place) for name, place in places.items()}, _read_card(folder)


def save_folder(
    adapters: Mapping[str, Adapter],
    folder: str | os.PathLike,
    metadata: Metadata,
    license: str = "apache-2.0",
    training: Mapping | None = None,
) -> None:
    """Write each adapter to the subfolder of its name, and a card; aside first and then renamed.

    Args:
        adapters: By the names of `ADAPTERS`.
        folder: Where to.
        metadata: For the card.
        license: An identifier of the Hub's licence list.
        training: How they were trained, for the card: plain types by name.

    Raises:
        ValueError: If the folder holds an adapter that is not among these: it would be loaded with them.
    """
    others = [name for name in ADAPTERS if name not in adapters and Path(folder, name, CONFIG_NAME).is_file()]
    if others:
        raise ValueError(
            f"'{folder}' holds {', '.join(others)} of another save, which would be loaded together with "
            f"{', '.join(adapters)}: delete it, or save to another folder."
        )
    encoder = adapters["encoder"].fingerprint() if "encoder" in adapters else metadata.encoder
    with written_aside(folder) as aside:
        for name, adapter in adapters.items():
            adapter.save_files(aside / name)
        record = {"block_idx": metadata.block_idx, "encoder": encoder, "base_model": metadata.base_model}
        contents = {name: (adapter.num_parameters(), adapter.config) for name, adapter in adapters.items()}
        card = model_card(contents, license, metadata.base_model, record, training)
        (aside / "README.md").write_text(card, encoding="utf-8")


def _places(folder: Path, called: str) -> dict[str, Path]:
    """Return the folder of each adapter, by name: the folder itself, or subfolders of it."""
    if not (folder / CONFIG_NAME).is_file():
        places = {name: folder / name for name in ADAPTERS if (folder / name).is_dir()}
        if not places:
            present = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
            raise ValueError(f"'{called}' has none of {', '.join(ADAPTERS)}, but {present}: is it an adapter folder?")
        return places
    class_name = Adapter.load_config(folder).get("_class_name")
    places = {name: folder for name, cls in ADAPTERS.items() if cls.__name__ == class_name}
    if not places:
        raise ValueError(f"'{called}' holds a {class_name}, which is no adapter of this library.")
    return places


def _read_card(folder: Path) -> Metadata:
    """Return the record in a folder's card; what is missing there or null is unknown.

    Raises:
        ValueError: If a value is of another type, which only an edit by hand can have given it.
    """
    path = folder / "README.md"
    if not path.is_file():
        return Metadata()
    record = ModelCard.load(path, ignore_metadata_errors=True).data.get("lavieid")
    if not isinstance(record, dict):  # a card that somebody rewrote
        return Metadata()
    known = {}
    for field in fields(Metadata):
        value, kind = record.get(field.name), int if field.name == "block_idx" else str
        if value is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(
                f"'{path}' records {value!r} as the {field.name} of its adapters, but it must be "
                f"{'a whole number' if kind is int else 'text in quotes'}. Correct the line, or delete it."
            )
        known[field.name] = value
    return Metadata(**known)

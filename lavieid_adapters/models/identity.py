"""One person's identity: the tokens of the facial components, a mask of those that the photo shows, and their encoder's
fingerprint."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files.atomic import written_aside
from .checks import floating

FACIAL_COMPONENTS = ("eyebrows", "eyes", "mouth", "nose", "skin", "hair")

_FORMAT = "lavieid-identity"


@dataclass(frozen=True, eq=False)
class Identity:
    """Component tokens l (eq. 2) with their mask.

    Attributes:
        tokens: (num_components, tokens_per_component, token_dim), floating point.
        mask: (num_components,), bool; False where the photo does not show the component. All True if None is given.
        names: One name a component.
        fingerprint: The `fingerprint()` of the encoder that made the tokens; "" if unknown.
        hidden: Why the photo does not show a component, by its name, where that is known.

    Raises:
        ValueError, TypeError: If the fields do not fit each other, or if no component is visible.
    """

    tokens: Tensor
    mask: Tensor | None = None
    names: tuple[str, ...] = FACIAL_COMPONENTS
    fingerprint: str = ""
    hidden: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        tokens = self.tokens
        for name, value in (("tokens", tokens), ("mask", self.mask)):
            if not isinstance(value, Tensor) and (name, value) != ("mask", None):
                raise TypeError(f"Identity {name} is a {type(value).__name__}, but must be a torch.Tensor.")
        if not isinstance(self.fingerprint, str):
            raise TypeError(
                f"Identity fingerprint is {self.fingerprint!r}, but must be a str. Give '' if it is unknown."
            )
        if tokens.ndim != 3 or not tokens.is_floating_point():
            raise ValueError(
                f"Identity tokens are {tokens.dtype} of shape {tuple(tokens.shape)}, but must be floating point of "
                "(num_components, tokens_per_component, token_dim)."
            )
        if 0 in tokens.shape:
            raise ValueError(
                f"Identity tokens have shape {tuple(tokens.shape)}: there is nothing in them. Encode a photo."
            )
        floating("Identity tokens", tokens)
        mask = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device) if self.mask is None else self.mask
        if mask.dtype != torch.bool or mask.shape != tokens.shape[:1] or len(self.names) != len(tokens):
            raise ValueError(
                f"Identity has {len(tokens)} components, but a {mask.dtype} mask of shape {tuple(mask.shape)} and "
                f"{len(self.names)} names: give a bool and a name for each component."
            )
        if (
            isinstance(self.names, str)
            or len(set(self.names)) < len(tokens)
            or not all(isinstance(name, str) for name in self.names)
        ):
            raise ValueError(f"Identity names are {self.names!r}, but must be {len(tokens)} different names.")
        if not tokens.isfinite().all():
            raise ValueError("Identity tokens hold NaN or infinite values: encode the photo again.")
        if not mask.any():
            raise ValueError("No component of this identity is visible: use a photo that shows the face.")
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "hidden", dict(self.hidden))

    @classmethod
    def fuse(cls, identities: Sequence["Identity"]) -> "Identity":
        """Return one identity from several photos of one person: each component's mean over the photos that show it.

        Raises:
            ValueError: If there is none, or if they are not of one encoder and one set of components.
        """
        first = _alike(identities)
        if len(identities) == 1:
            return first
        mask = torch.stack([i.mask for i in identities])
        weights = mask.to(torch.float32)[:, :, None, None]
        tokens = sum(w * i.tokens for w, i in zip(weights, identities, strict=True)) / weights.sum(0).clamp(min=1)
        hidden = {name: reason for name, reason in first.hidden.items() if not mask.any(0)[first.names.index(name)]}
        return cls(tokens.to(first.tokens.dtype), mask.any(0), first.names, first.fingerprint, hidden)

    @classmethod
    def mix(cls, *people: "Identity", **components: "Identity") -> "Identity":
        """Return the components of several people: `Identity.mix(a, b, eyes=b, hair=b)` is a with b's eyes and hair.

        Args:
            people: A component that is not named comes from the first of them that shows it.
            components: A person for a component, by its name.

        Raises:
            ValueError: If a name is not one of the components, if a person does not show what it is to give, or if
                the identities are not of one encoder.
        """
        first = _alike([*people, *components.values()])
        unknown = sorted(set(components) - set(first.names))
        if unknown or not people:
            wrong = f"No component is called {', '.join(unknown)}" if unknown else "mix needs a person"
            raise ValueError(f"{wrong}: give identities, and more by the names of {', '.join(first.names)}.")
        chosen = []
        for i, name in enumerate(first.names):
            chosen.append(components.get(name) or next((p for p in people if p.mask[i]), people[0]))
            if name in components and not chosen[-1].mask[i]:
                reason = chosen[-1].hidden.get(name, "hidden")
                raise ValueError(f"The person who is to give the {name} does not show it ({reason}): take another.")
        hidden = {n: p.hidden[n] for n, p in zip(first.names, chosen, strict=True) if n in p.hidden}
        return cls(
            torch.stack([p.tokens[i] for i, p in enumerate(chosen)]),
            torch.stack([p.mask[i] for i, p in enumerate(chosen)]),
            first.names,
            first.fingerprint,
            hidden,
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write one safetensors file, aside first and then renamed."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"'{path}' must end in .safetensors.")
        metadata = {"format": _FORMAT, "names": json.dumps(self.names), "fingerprint": self.fingerprint}
        metadata["hidden"] = json.dumps(self.hidden)
        tensors = {"tokens": self.tokens.detach().contiguous(), "mask": self.mask.contiguous()}
        with written_aside(path.parent) as folder:
            save_file(tensors, folder / path.name, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Identity":
        """Read a file that `save` wrote, to the CPU.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or is not an identity.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no identity file '{path}'.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"it holds {', '.join(sorted(tensors)[:4]) or 'nothing'}; save one with Identity.save")
            names, hidden = (json.loads(text) for text in (metadata["names"], metadata.get("hidden", "{}")))
            return cls(tensors["tokens"], tensors["mask"], tuple(names), metadata["fingerprint"], hidden)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"'{path}' is no identity file, or a damaged one: {error}") from error

    def __repr__(self) -> str:
        hidden = [
            f"{name} ({self.hidden[name]})" if name in self.hidden else name
            for name, visible in zip(self.names, self.mask.tolist(), strict=True)
            if not visible
        ]
        return (
            f"Identity({' × '.join(map(str, self.tokens.shape))} tokens, {self.tokens.dtype}, hidden: "
            f"{', '.join(hidden) or 'none'}, encoder: {self.fingerprint or 'unknown'})"
        )


def _alike(identities: Sequence[Identity]) -> Identity:
    """Return the first of several identities, which must be of one encoder and one set of components."""
    if not isinstance(identities, list | tuple):
        raise TypeError(f"Give a list of identities, not {type(identities)}.")
    if not identities:
        raise ValueError("No identity was given: give at least one.")
    first = identities[0]
    for other in identities:
        if not isinstance(other, Identity):
            raise TypeError(f"An Identity is needed here, not {type(other)}: Identity.load reads its file.")
        if (other.names, other.fingerprint, other.tokens.shape) != (first.names, first.fingerprint, first.tokens.shape):
            raise ValueError(
                f"{first} and {other} are not of one encoder and one set of components: encode all with the same one."
            )
    return first


def with_settings(entries: Sequence, *settings) -> Iterator[tuple]:
    """Yield each of several photos or identities with its settings.

    Args:
        entries: The photos or identities.
        settings: Each is the same for all entries, or a list of one for each.

    Raises:
        ValueError: If a list is not as long as the entries.
    """
    each = []
    for value in settings:
        if isinstance(value, list | tuple) and len(value) != len(entries):
            raise ValueError(f"{len(value)} settings for {len(entries)} photos. Give one for all, or one for each.")
        each.append(value if isinstance(value, list | tuple) else [value] * len(entries))
    return zip(entries, *each, strict=True)

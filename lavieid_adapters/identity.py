"""One person's identity: the tokens of the facial components, which of them the photo shows, and what made them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .aside import written_aside

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

    Raises:
        ValueError, TypeError: If the fields do not fit each other, or if no component is visible.
    """

    tokens: Tensor
    mask: Tensor | None = None
    names: tuple[str, ...] = FACIAL_COMPONENTS
    fingerprint: str = ""

    def __post_init__(self):
        tokens = self.tokens
        for name, value in (("tokens", tokens), ("mask", self.mask)):
            if not isinstance(value, Tensor) and (name, value) != ("mask", None):
                raise TypeError(f"Identity {name} is a {type(value).__name__}, but must be a torch.Tensor.")
        if tokens.ndim != 3 or not tokens.is_floating_point():
            raise ValueError(
                f"Identity tokens are {tokens.dtype} of shape {tuple(tokens.shape)}, but must be floating point of "
                "(num_components, tokens_per_component, token_dim)."
            )
        mask = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device) if self.mask is None else self.mask
        if mask.dtype != torch.bool or mask.shape != tokens.shape[:1] or len(self.names) != len(tokens):
            raise ValueError(
                f"Identity has {len(tokens)} components, but a {mask.dtype} mask of shape {tuple(mask.shape)} and "
                f"{len(self.names)} names: give a bool and a name for each component."
            )
        if not tokens.isfinite().all():
            raise ValueError("Identity tokens hold NaN or infinite values: encode the photo again.")
        if not mask.any():
            raise ValueError("No component of this identity is visible: use a photo that shows the face.")
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "names", tuple(self.names))

    def save(self, path: str | os.PathLike) -> None:
        """Write one safetensors file, aside first and then renamed."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"'{path}' must end in .safetensors.")
        metadata = {"format": _FORMAT, "names": json.dumps(self.names), "fingerprint": self.fingerprint}
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
            return cls(
                tensors["tokens"], tensors["mask"], tuple(json.loads(metadata["names"])), metadata["fingerprint"]
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"'{path}' is no identity file, or a damaged one: {error}") from error

    def __repr__(self) -> str:
        hidden = [name for name, visible in zip(self.names, self.mask.tolist(), strict=True) if not visible]
        return (
            f"Identity({' × '.join(map(str, self.tokens.shape))} tokens, {self.tokens.dtype}, hidden: "
            f"{', '.join(hidden) or 'none'}, encoder: {self.fingerprint or 'unknown'})"
        )

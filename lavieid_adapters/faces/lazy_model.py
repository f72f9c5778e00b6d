"""Models that are loaded on first use, rest where the caller wants them, and have fingerprints.

A face model of one's own becomes one by subclassing `LazyModel`: `load` returns the torch module, `find_fingerprint` a
text that changes with its weights, and the part's method works `with self.in_use() as module`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import torch
from huggingface_hub import is_offline_mode
from torch import nn


class Lazy:
    """Base of what is loaded on first use, by one caller at a time, and works on one device.

    Attributes:
        device: The device that it works on.
    """

    def __init__(self):
        self.device = torch.device("cpu")
        self._fingerprint: str | None = None
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Text that differs from another model's if its results may; once loaded, it no longer follows the files."""
        return self._fingerprint or self.find_fingerprint()

    def __repr__(self) -> str:
        state = "not loaded yet" if self._fingerprint is None else "loaded"
        return f"{type(self).__name__}({self.device}, {state})"

    def find_fingerprint(self) -> str:
        """Return the fingerprint of the files that would be loaded now."""
        raise NotImplementedError


class LazyModel(Lazy):
    """Base of torch models that are loaded on first use and work on one device.

    Attributes:
        device: The device that it works on.
        offload: Whether it goes back to the CPU after each use.
    """

    def __init__(self):
        super().__init__()
        self.offload = False
        self._module: nn.Module | None = None
        self._at: tuple[torch.device, torch.dtype | None] | None = None

    def load(self) -> nn.Module:
        """Return the model with its weights, on the CPU."""
        raise NotImplementedError

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """Precision on `device`; that of the weights if None."""
        return None

    def place(self, device: torch.device, offload: bool = False) -> None:
        """Work on `device` from now on, and rest on the CPU between uses if `offload`."""
        self.device, self.offload = device, offload

    @contextmanager
    def in_use(self) -> Iterator[nn.Module]:
        """Give the model, on its device for the length of the block; one caller at a time."""
        with self._lock:
            if self._at is not None and self._at[1] not in (torch.float32, self.compute_dtype):
                self._module = self._at = None  # a cast has rounded its weights
            if self._module is None:
                self._module = self.load().eval().requires_grad_(False)
                self._fingerprint = self.find_fingerprint()
            if self._at != (self.device, self.compute_dtype):  # asking each weight would take milliseconds
                self._at = None  # until all of it has moved
                self._module.to(self.device, self.compute_dtype)
                self._at = self.device, self.compute_dtype
            try:
                yield self._module
            finally:
                if self.offload:
                    self._module.to("cpu")
                    self._at = torch.device("cpu"), self.compute_dtype


def check_download(url: str, target: Path) -> None:
    """Fail within seconds where a download would fail or hang, and say which file belongs where.

    Raises:
        OSError: If the Hub's offline mode is on, or the address does not answer.
    """
    reason = "HF_HUB_OFFLINE is set"
    if not is_offline_mode():
        try:
            requests.head(url, timeout=5, allow_redirects=True).raise_for_status()
            return
        except requests.RequestException as error:
            reason = str(error)
    unpacked = " unpacked" if url.endswith(".zip") else ""
    raise OSError(f"'{target}' is not there and could not be downloaded ({reason}). Put {url}{unpacked} there.")

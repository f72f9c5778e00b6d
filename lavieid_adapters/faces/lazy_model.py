"""Models that are loaded when they are first used, rest where the caller wants them, and can be told apart."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Lazy:
    """Something that is loaded on first use, by one user at a time, and works on one device.

    Attributes:
        device: Where it works.
    """

    def __init__(self):
        self.device = torch.device("cpu")
        self._fingerprint: str | None = None
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """What tells its results from another model's; once it is loaded, whatever becomes of its files."""
        return self._fingerprint or self.find_fingerprint()

    def find_fingerprint(self) -> str:
        """The fingerprint of what would be loaded now."""
        raise NotImplementedError


class LazyModel(Lazy):
    """A torch model that is loaded on first use and works on one device.

    Attributes:
        device: Where it works.
        offload: Whether it goes back to the CPU after each use.
    """

    def __init__(self):
        super().__init__()
        self.offload = False
        self._module: nn.Module | None = None
        self._at: tuple[torch.device, torch.dtype | None] | None = None

    def load(self) -> nn.Module:
        """Build the model with its weights, on the CPU."""
        raise NotImplementedError

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """In which it works on `device`; that of its weights if None."""
        return None

    def place(self, device: torch.device, offload: bool = False) -> None:
        """Work on `device` from now on, and rest on the CPU between uses if `offload`."""
        self.device, self.offload = device, offload

    @contextmanager
    def in_use(self) -> Iterator[nn.Module]:
        """The model, on its device for the length of the block; one user at a time."""
        with self._lock:
            if self._at is not None and self._at[1] not in (torch.float32, self.compute_dtype):
                self._module = self._at = None  # a cast has rounded its weights
            if self._module is None:
                self._module = self.load().eval().requires_grad_(False)
                self._fingerprint = self.find_fingerprint()
            if self._at != (self.device, self.compute_dtype):  # asking each weight would take milliseconds
                self._at = None  # until it is there as a whole
                self._module.to(self.device, self.compute_dtype)
                self._at = self.device, self.compute_dtype
            try:
                yield self._module
            finally:
                if self.offload:
                    self._module.to("cpu")
                    self._at = torch.device("cpu"), self.compute_dtype

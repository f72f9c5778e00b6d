"""What all phases of training share: sizes, the device, and how a network is trained and kept."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Sizes:
    """How much is drawn and learnt at once.

    Attributes:
        people: Training identities.
        clips, frames: Clips a chunk, and frames kept of each.
        chunks: Chunks of clips in memory.
        photos: Photos a chunk, twice as many of them as people are in memory.
        batch: Pictures a step.
        sequences: Whole clips for the reader of motions.
        test: Unseen people.
        refresh: Steps between two chunks that are drawn anew.
    """

    people: int = 12_000
    clips: int = 64
    frames: int = 8
    chunks: int = 480
    photos: int = 256
    batch: int = 512
    sequences: int = 4096
    test: int = 512
    refresh: int = 12


TINY = Sizes(people=24, clips=4, frames=4, chunks=6, photos=24, batch=16, sequences=8, test=8, refresh=100)


@dataclass(frozen=True)
class Setting:
    """Where and how everything runs."""

    out: Path
    device: torch.device
    sizes: Sizes
    vae: nn.Module | None = None
    compiled: bool = False

    @property
    def tested(self) -> dict[str, nn.Module | None]:
        """Ways in which the test clips are shown: as they are drawn and, if there is a VAE, as it gives them back."""
        return {"drawn": None} if self.vae is None else {"drawn": None, "through_vae": self.vae}

    def autocast(self) -> AbstractContextManager:
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def ready(self, model: nn.Module) -> nn.Module:
        """The model on its device, in the layout that convolutions like."""
        return model.to(self.device, memory_format=torch.channels_last).train()

    def fast(self, model: nn.Module):
        """What to call in training."""
        return torch.compile(model, dynamic=False) if self.compiled else model

    def keep(self, model: nn.Module, name: str) -> nn.Module:
        """Save in half precision, and go on with the numbers that were saved."""
        model.half().save_pretrained(self.out / name)
        return model.float().eval()


def until(share: float, deadline: float) -> float:
    """The moment when a share of the time to a deadline is over."""
    now = time.perf_counter()
    return now + share * (deadline - now)

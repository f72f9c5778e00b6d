"""Adapters of each kind and their files, for tests of saving and loading."""

from pathlib import Path

import torch
from support import tiny

from lavieid_adapters import TAM, LocalFacialEncoder, LocalRouter

WEIGHTS = "diffusion_pytorch_model.safetensors"


BUILDERS = {LocalRouter: tiny.router, LocalFacialEncoder: tiny.encoder, TAM: tiny.tam}


class Planted:
    """Unpickling one makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

"""Adapters that several files of training's tests begin with."""

from pathlib import Path

import pytest
from support.tiny_training import World

from lavieid_adapters import Trainer


@pytest.fixture(scope="module")
def trained(here: World, tmp_path_factory) -> Path:
    """Adapters of a short run on both stages."""
    out = tmp_path_factory.mktemp("trained") / "out"
    return Trainer(here.config(out, "both", tam_max_noise=1.0)).run()

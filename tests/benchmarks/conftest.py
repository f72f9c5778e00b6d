import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "puppets"


@pytest.fixture
def scripts(monkeypatch):
    """The scripts that train the drawn world's models can be imported, and leave no names behind."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield SCRIPTS
    for name in {path.stem for path in SCRIPTS.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]

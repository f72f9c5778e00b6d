"""Settings that must stand before the libraries are imported, and what several files of tests share."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow tiny operations on a busy machine
if not os.path.exists("/dev/nvidia0"):
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels then run on the CPU, one program at a time


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on the loopback that this process's clients talk to."""
    from hub_server import HubServer, point_client_at

    with HubServer() as server:
        point_client_at(server.url, monkeypatch, tmp_path / "cache")
        yield server

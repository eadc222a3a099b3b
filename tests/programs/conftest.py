"""Stores of several nodes, and what a run may not leave behind."""

import sys
import threading
import time

import pytest

import eau2
from eau2.ingest.writer import FrameWriter


@pytest.fixture
def opened(tmp_path):
    """Open a store of so many nodes; all are closed in the end."""
    stores = []

    def open_(nodes: int) -> eau2.Store:
        stores.append(eau2.open(tmp_path / f"of-{nodes}-{len(stores)}", nodes=nodes))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def small_chunks(monkeypatch):
    """Frames are cut after 4 kB, so that small ones have many chunks."""
    monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", 4096)


@pytest.fixture
def nothing_left():
    """A run leaves no thread, and standard output as it was."""
    out = sys.stdout
    yield
    assert sys.stdout is out
    deadline = time.monotonic() + 5  # for those that were left because native code held them
    while left := [thread for thread in threading.enumerate() if thread.name.startswith("eau2-program")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)

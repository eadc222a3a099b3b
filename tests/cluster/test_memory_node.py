"""The node of the simulations ends as a process does, and its disk can be full."""

from __future__ import annotations

import inspect

import numpy as np
import pyarrow as pa
import pytest
from tests.cluster.memory_node import MemoryNode

from eau2.errors import DiskFull, StoreClosed
from eau2.store.nodes import Kind, Record, Replica, Write
from eau2.values.chunk import encode
from eau2.values.manifest import Manifest

CHUNK = encode(pa.table({"a": np.arange(10)}))


def test_it_can_be_called_in_every_way_that_a_node_of_a_cluster_can():
    for name, function in inspect.getmembers(Replica, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(MemoryNode, name)) == inspect.signature(function), name


def hold(rank, *staged):
    return Record("hold", rank, Kind.HOLD, CHUNK.id.encode(), staged)


def test_what_was_committed_survives_a_crash_and_what_was_staged_does_not():
    node = MemoryNode()
    node.store([Record("a", 1, Kind.BYTES, b"a"), hold(1, node.stage(CHUNK))])
    lost = node.stage(CHUNK)
    node.close()
    with pytest.raises(StoreClosed):
        node.get("a")
    node.crash()
    assert node.get("a").payload == b"a"
    assert node.has_chunks([CHUNK.id]) == [True]
    node.erase(["hold"])
    with pytest.raises(FileNotFoundError):
        node.store([hold(2, lost)])


def test_a_full_disk_refuses_whatever_would_write_and_changes_nothing():
    node = MemoryNode()
    node.store([Record("a", 1, Kind.BYTES, b"a")])
    node.store([Record("frame", 1, Kind.FRAME, Manifest.of(pa.schema([]), []).encode())])
    staged = node.stage(CHUNK)
    node.disk_full = True
    node.store([Record("a", 1, Kind.BYTES, b"a")])  # which it has
    since = node.generation()
    for change in (
        lambda: node.store([Record("a", 2, Kind.DELETED), hold(1, staged)]),
        lambda: node.write([Write("a", Kind.BYTES, b"b")]),
        lambda: node.erase(["a"]),
        lambda: node.stage(CHUNK),
        node.adopt,
    ):
        with pytest.raises(DiskFull):
            change()
    assert node.staged == {}
    assert (node.get("a").payload, node.generation()) == (b"a", since)
    node.disk_full = False
    node.store([Record("a", 2, Kind.DELETED)])
    assert node.get("a") is None

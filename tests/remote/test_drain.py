"""A node leaves for good: the others have all that it had, and it does not come back. One that joins gets a share."""

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.remote.clusters import Cluster, is_settled, unavailable
from tests.remote.sockets import SocketTransport
from tests.until import SECONDS_MAX, until

from eau2.cluster.member import Member
from eau2.cluster.view import State
from eau2.errors import InvalidOption, KeyMissing, NodeUnavailable
from eau2.ingest.writer import FrameWriter
from eau2.remote.asking import drain_node
from eau2.remote.driver import RemoteNodes
from eau2.remote.transport import COORDINATOR

NAMES = ["node-0", "node-1", "node-2", "node-3"]
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path, replicas):
    with Cluster(tmp_path, NAMES, replicas, grace_seconds=0.2) as cluster:
        yield cluster


@pytest.fixture
def transport(cluster):
    transport = SocketTransport(cluster.sockets)
    yield transport
    transport.close()


def filled(store, monkeypatch):
    """Put keys and a frame of many chunks; return what must be there."""
    some = {f"k/{number}": b"%d" % number for number in range(100)}
    store.put_many(some)
    monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", 8000)
    store.put("frame", {"n": np.arange(20_000)})
    return some


def has_all(store, some):
    return store.get_many(some) == some and store.frame("frame").to_arrow().column("n").to_numpy().sum() == 199_990_000


@pytest.mark.parametrize("replicas", [1, 2])
def test_what_a_node_had_is_on_the_others_before_it_has_left(cluster, transport, monkeypatch, replicas):
    with cluster.opener()() as store:
        some = filled(store, monkeypatch)
        view = drain_node(transport, "node-1", seconds=SECONDS_MAX)
        assert view.live == ("node-0", "node-2", "node-3")
        cluster.stop("node-1")
        assert has_all(store, some)
        assert "node-1" not in store.nodes
        store.put("k/0", b"newer")
        until(lambda: store.check().faults == ())
    with cluster.opener()() as store:
        assert has_all(store, some | {"k/0": b"newer"})


@pytest.mark.parametrize("replicas", [2])
def test_a_node_that_has_left_does_not_come_back(cluster, transport):
    drain_node(transport, "node-1", seconds=SECONDS_MAX)
    cluster.stop("node-1")
    cluster.start("node-1")
    server = cluster.running["node-1"].server
    until(lambda: server._membership.status().refused)
    assert "has left this store for good" in server._membership.status().refused


@pytest.mark.parametrize("replicas", [2])
def test_the_name_of_a_node_that_has_left_may_be_that_of_a_new_one(cluster, transport, monkeypatch, tmp_path):
    with cluster.opener()() as store:
        some = filled(store, monkeypatch)
        drain_node(transport, "node-1", seconds=SECONDS_MAX)
        cluster.stop("node-1")
        shutil.rmtree(tmp_path / "node-1")
        cluster.start("node-1")
        until(lambda: store.node.view.state("node-1") == State.LIVE)
        drain_node(transport, "node-2", seconds=SECONDS_MAX)
        assert has_all(store, some)
        until(lambda: store.check().faults == ())


@pytest.mark.parametrize("replicas", [2])
def test_the_name_of_a_node_that_was_given_up_may_be_that_of_a_new_one(cluster, transport, monkeypatch, tmp_path):
    with cluster.opener()() as store:
        some = filled(store, monkeypatch)
        cluster.stop("node-1")
        until(lambda: store.node.view.state("node-1") == State.DEAD or store.get("k/0") is None)
        drain_node(transport, "node-1", seconds=SECONDS_MAX)
        shutil.rmtree(tmp_path / "node-1")
        cluster.start("node-1")
        until(lambda: store.node.view.state("node-1") == State.LIVE)
        assert has_all(store, some)
        until(lambda: store.check().faults == ())


@pytest.mark.parametrize("replicas", [3])
def test_no_more_leave_than_the_copies_need(cluster, transport):
    drain_node(transport, "node-1", seconds=SECONDS_MAX)
    with pytest.raises(InvalidOption, match="2 nodes would be left, for 3 copies"):
        drain_node(transport, "node-2", seconds=SECONDS_MAX)
    with pytest.raises(InvalidOption, match="no node 'node-9'"):
        drain_node(transport, "node-9", seconds=SECONDS_MAX)


@pytest.mark.parametrize("replicas", [2])
def test_a_node_that_is_lost_together_with_the_coordinator_can_be_given_up(cluster, transport, monkeypatch):
    with cluster.opener()() as store:
        some = filled(store, monkeypatch)
    cluster.stop("node-1")
    cluster.stop(COORDINATOR)
    cluster.start(COORDINATOR)
    until(lambda: "waits for node-1" in unavailable(lambda: RemoteNodes(transport, answer_seconds=1.0)))
    assert drain_node(transport, "node-1", seconds=SECONDS_MAX).state("node-1") == State.LEFT
    with cluster.opener(answer_seconds=SECONDS_MAX)() as store:
        assert has_all(store, some)
        until(lambda: store.check().faults == ())


@pytest.mark.parametrize("replicas", [1])
@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_frame_that_is_deleted_or_replaced_while_it_is_moved_is_left_alone(cluster, monkeypatch, change):
    copy, changed = Member.copy, []

    async def copy_after_a_change(member, *arguments):
        if not changed:
            changed.append(change)
            if change == "deleted":
                await asyncio.to_thread(store.delete, "frame")
            else:
                await asyncio.to_thread(store.put, "frame", {"n": np.arange(1, 20_001)})
        return await copy(member, *arguments)

    with cluster.opener()() as store:
        filled(store, monkeypatch)
        cluster.start("node-4")
        until(lambda: is_settled(store, 5))
        monkeypatch.setattr(Member, "copy", copy_after_a_change)
        store.rebalance()
        assert changed == [change]
        if change == "deleted":
            with pytest.raises(KeyMissing):
                store.frame("frame")
        else:
            assert store.frame("frame").to_arrow().column("n").to_numpy().sum() == 200_010_000
        until(lambda: store.check().faults == ())


@pytest.mark.parametrize("replicas", [1])
def test_a_frame_that_has_lost_a_chunk_is_not_moved_and_the_error_names_both(cluster, monkeypatch):
    with cluster.opener()() as store:
        filled(store, monkeypatch)
        cluster.start("node-4")
        until(lambda: is_settled(store, 5))
        manifest = store.frame("frame").source.manifest
        homes = [store.node.view.assigned("frame", chunk) for chunk in range(len(manifest.chunk_ids))]
        lost = next(chunk for chunk, names in enumerate(homes) if tuple(names) != tuple(manifest.chunk_homes[chunk]))
        (home,) = manifest.chunk_homes[lost]
        path = Path(cluster.running[home].server._node._files.path(manifest.chunk_ids[lost]))
        path.unlink()
        with pytest.raises(
            NodeUnavailable, match=f"'frame' was not moved: cannot find chunk {manifest.chunk_ids[lost]}"
        ):
            store.rebalance()

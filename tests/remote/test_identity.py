"""A data directory says whose it is, and one process owns it at a time."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.remote.clusters import Cluster, Served, unavailable
from tests.remote.sockets import SocketTransport
from tests.until import until

from eau2.errors import (
    Corrupt,
    DiskFull,
    FormatTooNew,
    InvalidOption,
    NodeUnavailable,
    NotAStore,
    StoreBusy,
    StoreUnusable,
)
from eau2.remote.asking import found_store
from eau2.remote.driver import RemoteNodes
from eau2.remote.identity import Identity, OwnedDirectory, read_identity
from eau2.remote.transport import COORDINATOR

pytestmark = pytest.mark.slow  # each starts nodes


def test_a_directory_keeps_the_name_of_its_node_and_its_store(tmp_path):
    assert read_identity(tmp_path / "a") is None
    owned = OwnedDirectory(tmp_path / "a", "node-7")
    assert read_identity(tmp_path / "a") == Identity("node-7")
    owned.belong_to("store")
    owned.close()
    assert read_identity(tmp_path / "a") == Identity("node-7", "store")
    with pytest.raises(StoreUnusable, match="'node-7', not of 'node-8'"):
        OwnedDirectory(tmp_path / "a", "node-8")
    OwnedDirectory(tmp_path / "a", "node-7").close()  # the refusal has left no lock


def test_a_second_owner_is_refused_until_the_first_ends(tmp_path):
    first = OwnedDirectory(tmp_path, "node-0")
    with pytest.raises(StoreBusy, match="in use by another process"):
        OwnedDirectory(tmp_path, "node-0", patience_seconds=0.1)
    first.close()
    OwnedDirectory(tmp_path, "node-0", patience_seconds=0.1).close()


def test_what_a_killed_owner_left_in_shared_memory_goes_with_the_next(tmp_path):
    code = """if True:
        import os, pathlib, signal, sys
        from eau2.remote.identity import OwnedDirectory
        owned = OwnedDirectory(sys.argv[1], "node-0")
        pathlib.Path(f"/dev/shm/sem.loky-{os.getpid()}-left").touch()
        print(os.getpid(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)"""
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, check=False)
    left = Path(f"/dev/shm/sem.loky-{int(killed.stdout)}-left")
    own = Path(f"/dev/shm/sem.loky-{os.getpid()}-left")
    own.touch()
    try:
        assert left.exists()
        OwnedDirectory(tmp_path, "node-0").close()
        OwnedDirectory(tmp_path, "node-0").close()  # whoever had it last lives
        assert (left.exists(), own.exists()) == (False, True)
    finally:
        own.unlink()


def test_a_directory_of_something_else_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(NotAStore, match=r"thesis\.tex"):
        OwnedDirectory(tmp_path, "node-0")
    with pytest.raises(NotAStore):
        OwnedDirectory(tmp_path / "thesis.tex", "node-0")
    assert (tmp_path / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", Corrupt),
        ('{"format": 1}', Corrupt),
        ('{"format": "1", "name": "a", "store": ""}', Corrupt),
        (json.dumps({"format": 99, "name": "a", "store": ""}), FormatTooNew),
    ],
)
def test_an_identity_that_cannot_be_read_is_no_new_one(tmp_path, text, error):
    (tmp_path / "eau2-node.json").write_text(text)
    with pytest.raises(error):
        OwnedDirectory(tmp_path, "a")
    assert (tmp_path / "eau2-node.json").read_text() == text


# -- in a cluster -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path / "one", ["node-0", "node-1"]) as cluster:
        yield cluster


def refused(cluster, name):
    return cluster.running[name].server._membership.status().refused


def test_a_directory_of_another_cluster_is_refused_with_the_names_of_both_stores(cluster, tmp_path):
    with cluster.opener()() as store:
        here = store._nodes.store
    with Cluster(tmp_path / "two", ["node-a", "node-b", "node-c"]) as other:
        with other.opener()() as store:
            theirs = store._nodes.store
        other.stop("node-c")
    cluster.running["node-c"] = Served(cluster.sockets, "node-c", str(tmp_path / "two" / "node-c"), lease_seconds=1.0)
    until(lambda: refused(cluster, "node-c"))
    assert here in refused(cluster, "node-c")
    assert theirs in refused(cluster, "node-c")
    with cluster.opener()() as store:
        assert store.nodes == ("node-0", "node-1")


def test_a_node_that_had_copies_does_not_come_back_with_an_empty_directory(cluster, tmp_path):
    with cluster.opener()() as store:
        store.put("k", b"v")
        cluster.stop("node-1")
        (tmp_path / "one" / "node-1").rename(tmp_path / "lost")
        cluster.start("node-1")
        until(lambda: refused(cluster, "node-1"))
        assert "is empty" in refused(cluster, "node-1")
        cluster.stop("node-1")
        (tmp_path / "one" / "node-1").rename(tmp_path / "empty")
        (tmp_path / "lost").rename(tmp_path / "one" / "node-1")
        cluster.start("node-1")
        until(lambda: store.nodes == ("node-0", "node-1"))
        assert store.get("k") == b"v"


def test_a_store_is_founded_once(cluster):
    transport = SocketTransport(cluster.sockets)
    try:
        view = found_store(transport, ["node-5", "node-6", "node-7"], 3)
    finally:
        transport.close()
    assert view.live == ("node-0", "node-1")
    assert view.replicas == 2


@pytest.mark.slow
def test_founding_refuses_more_copies_than_nodes_and_says_which_nodes_it_waits_for(tmp_path):
    with Cluster(tmp_path, []) as cluster:
        transport = SocketTransport(cluster.sockets)
        try:
            with pytest.raises(InvalidOption, match="replicas is 1 to 1"):
                found_store(transport, ["node-0"], 2)
            cluster.start("node-0")
            names = ["node-0", "node-1"]
            until(lambda: "waits for node-1" in unavailable(lambda: found_store(transport, names, 2, seconds=1.0)))
            cluster.start("node-1")
            assert found_store(transport, names, 2).live == ("node-0", "node-1")
        finally:
            transport.close()


@pytest.mark.slow
def test_a_driver_is_told_what_a_cluster_that_is_not_ready_waits_for(cluster):
    transport = SocketTransport(cluster.sockets)
    try:
        cluster.stop("node-1")
        cluster.stop(COORDINATOR)
        with pytest.raises(NodeUnavailable, match="coordinator does not answer"):
            RemoteNodes(transport, answer_seconds=0.5)
        cluster.start(COORDINATOR)
        said = r"waits for node-1 .*`eau2 drain NODE` gives up what only it has"
        until(lambda: re.search(said, unavailable(lambda: RemoteNodes(transport, answer_seconds=2.0))))
        cluster.start("node-1")
        RemoteNodes(transport, answer_seconds=60.0).close()
    finally:
        transport.close()


def test_a_node_that_could_not_begin_lets_go_of_its_directory(tmp_path, monkeypatch):
    def failing(*_, **__):
        raise StoreUnusable("not yet")

    with Cluster(tmp_path, []) as cluster:
        with monkeypatch.context() as patch:
            patch.setattr("eau2.remote.server.Membership", failing)
            with pytest.raises(StoreUnusable):
                cluster.start("node-0")
        cluster.start("node-0")


def test_a_node_begins_also_where_there_is_no_room_for_what_queries_spill(tmp_path, monkeypatch):
    def full(*_):
        raise DiskFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("eau2.query.spill.SpillFolder.path", full)
        with Cluster(tmp_path, ["node-0"]) as cluster, cluster.opener()() as store:
            store.put("a", b"1")
            assert store.get("a") == b"1"

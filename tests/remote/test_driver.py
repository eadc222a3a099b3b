"""What a driver maps, brings, caches, waits for and lets go."""

import os
import threading
import time

import numpy as np
import pytest
from tests.remote.clusters import Cluster
from tests.until import SECONDS_MAX, until

import eau2.remote.server
from eau2.cluster.peer import Unreachable
from eau2.errors import KeyMissing, NodeUnavailable, StoreClosed
from eau2.ingest.writer import FrameWriter
from eau2.remote.place import RemotePlace

pytestmark = pytest.mark.slow  # each starts nodes

NAMES = ["node-0", "node-1", "node-2"]
ROWS = 20_000


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path, NAMES) as cluster:
        yield cluster


@pytest.fixture
def store(cluster):
    with cluster.opener()() as store:
        yield store


@pytest.fixture
def elsewhere(monkeypatch, cluster):
    """A store all of whose nodes are on other machines, as far as it can tell."""
    monkeypatch.setattr(eau2.remote.server, "boot_id", lambda: "another machine")
    with cluster.opener(cache_bytes=250_000)() as store:
        yield store


def put_chunks(store, key, chunks, monkeypatch):
    """Put a frame of so many chunks of 160 kB, of numbers from 0."""
    monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", ROWS * 8)
    store.put(key, {"n": np.arange(ROWS * chunks)})


def mapped_files(folder):
    with open("/proc/self/maps") as maps:
        return {line.split()[-1] for line in maps if str(folder) in line and line.rstrip().endswith(".arrow")}


def kept(cluster):
    """What nodes keep for drivers: leases, and staged chunks."""
    servers = [cluster.running[name].server for name in NAMES]
    drivers = [driver for server in servers for driver in server._lending._drivers.values()]
    return sum(len(driver.lent) for driver in drivers), sum(len(driver.staged) for driver in drivers)


def test_chunks_on_this_machine_are_mapped_from_the_files_of_the_nodes(cluster, store, tmp_path, monkeypatch):
    put_chunks(store, "f", 6, monkeypatch)
    frame = store.frame("f")
    assert set(frame.source.places) == set(NAMES)
    assert len(mapped_files(tmp_path)) == 6
    assert frame.to_arrow().column("n").to_numpy().sum() == sum(range(ROWS * 6))
    assert store.node._cache.brought_bytes == 0
    until(lambda: kept(cluster) == (0, 0))


def test_chunks_of_other_machines_are_brought_when_they_are_touched_and_once(elsewhere, monkeypatch):
    put_chunks(elsewhere, "f", 6, monkeypatch)
    frame = elsewhere.frame("f")
    assert elsewhere.node._cache.brought_bytes == 0
    assert frame.rows == ROWS * 6
    assert elsewhere.node._cache.brought_bytes == 0
    assert frame.source.chunk(2).column("n")[0].as_py() == 2 * ROWS
    one = elsewhere.node._cache.brought_bytes
    assert one == frame.source.manifest.chunk_sizes[2]
    assert frame.source.chunk(2).column("n")[1].as_py() == 2 * ROWS + 1
    assert elsewhere.frame("f").source.chunk(2).num_rows == ROWS
    assert elsewhere.node._cache.brought_bytes == one


def test_the_cache_has_a_bound_and_what_is_held_stays_readable(elsewhere, monkeypatch):
    put_chunks(elsewhere, "f", 6, monkeypatch)
    table = elsewhere.frame("f").to_arrow()
    assert elsewhere.node._cache.brought_bytes > 6 * ROWS * 8
    assert 0 < elsewhere.node._cache.bytes <= 250_000
    assert table.column("n").to_numpy().sum() == sum(range(ROWS * 6))


def test_a_frame_of_other_machines_that_is_held_outlives_its_key(cluster, elsewhere, monkeypatch):
    put_chunks(elsewhere, "f", 3, monkeypatch)
    frame = elsewhere.frame("f")
    assert kept(cluster)[0] == 3
    elsewhere.delete("f")
    with pytest.raises(KeyMissing):
        elsewhere.frame("f")
    assert frame.to_arrow().column("n").to_numpy().sum() == sum(range(ROWS * 3))
    del frame
    until(lambda: kept(cluster) == (0, 0))


def test_what_nodes_keep_for_a_driver_goes_with_it(cluster, monkeypatch):
    monkeypatch.setattr(eau2.remote.server, "boot_id", lambda: "another machine")
    with cluster.opener()() as store:
        put_chunks(store, "f", 3, monkeypatch)
        frame = store.frame("f")
        assert kept(cluster)[0] == 3
    until(lambda: kept(cluster) == (0, 0))
    with pytest.raises(StoreClosed):
        frame.to_arrow()


def test_what_a_driver_staged_that_is_not_heard_of_any_more_is_removed(cluster, monkeypatch, tmp_path):
    monkeypatch.setattr("eau2.remote.lending.SILENT_SECONDS", 0.2)
    with cluster.opener()() as store, cluster.opener()() as other:
        monkeypatch.setattr(other.node._watch, "_want", lambda: None)  # it gives no sign of life
        put_chunks(store, "f", 1, monkeypatch)
        chunk = eau2.values.chunk.encode(store.frame("f").to_arrow())
        staged = other.node.stage(chunk, NAMES)
        assert all(os.path.exists(copy.path) for copy in staged.copies)
        time.sleep(0.3)
        for name in NAMES:
            store.node.discard([store.node.stage(chunk, [name])])
        until(lambda: not any(os.path.exists(copy.path) for copy in staged.copies))


def test_a_damaged_copy_is_replaced_by_that_of_another_node(cluster, store, monkeypatch, tmp_path):
    put_chunks(store, "f", 1, monkeypatch)
    with cluster.opener()() as other:
        frame = store.frame("f")
        (place,), (chunk_id,) = frame.source.places, frame.source.manifest.chunk_ids
        path = tmp_path / place / "chunks" / chunk_id[:2] / f"{chunk_id}.arrow"
        whole = path.read_bytes()
        path.write_bytes(whole[:1000] + b"damage" + whole[1006:])
        assert other.frame("f").to_arrow().column("n").to_numpy().sum() == sum(range(ROWS))
        assert path.read_bytes() == whole
        assert sum(each.chunks_mended for each in other.statistics().nodes) == 1
    assert store.check().faults == ()


def test_a_home_that_ends_just_when_its_copy_was_mended_is_one_that_does_not_answer(cluster, store, monkeypatch):
    put_chunks(store, "f", 1, monkeypatch)
    (place,) = store.frame("f").source.places
    real, lost, ended = RemotePlace.map, [], [place]

    def ending(self, chunk_ids, *, key=""):
        if self.name not in ended:
            return real(self, chunk_ids, key=key)
        lost.append(self.name)
        raise FileNotFoundError if len(lost) < 3 else Unreachable(self.name)

    monkeypatch.setattr(RemotePlace, "map", ending)
    with cluster.opener()() as other:
        assert other.frame("f").to_arrow().column("n").to_numpy().sum() == sum(range(ROWS))
        assert len(lost) == 3
    ended[:], lost[:] = NAMES, []
    with cluster.opener()() as other, pytest.raises(NodeUnavailable, match="does not answer"):
        other.sql("select * from f")


def test_a_put_of_one_driver_wakes_those_who_wait_in_another(cluster, store, record_property):
    with cluster.opener()() as other:
        waits = []

        def wait(number):
            sent = float(other.wait(f"go/{number}", timeout_seconds=SECONDS_MAX))
            waits.append(time.time() - sent)

        for number in range(10):
            waiting = threading.Thread(target=wait, args=[number])
            waiting.start()
            time.sleep(0.05)
            store.put(f"go/{number}", str(time.time()).encode())
            waiting.join(SECONDS_MAX)
        record_property("wake_ms", [round(each * 1e3, 1) for each in waits])
        print(f"woke after {sorted(waits)[5] * 1e3:.1f} ms (median of 10)")
        assert len(waits) == 10


def test_opening_a_frame_again_asks_nobody_for_its_chunks(cluster, store, monkeypatch):
    put_chunks(store, "f", 3, monkeypatch)
    asked = []
    call = store.transport.call

    def noted(name, method, *rest):
        asked.append(method)
        return call(name, method, *rest)

    def open_again():
        asked.clear()
        store.frame("f")
        return [method for method in asked if method not in ("changed", "hear")]

    monkeypatch.setattr(store.transport, "call", noted)
    until(lambda: open_again() == ["get"])  # as soon as it has heard of the put


def test_a_wait_without_a_put_ends_when_its_time_is_over(store):
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        store.wait("never", timeout_seconds=0.3)
    assert time.monotonic() - began < SECONDS_MAX


def test_closing_a_driver_ends_its_threads_while_nodes_stand_still(cluster, monkeypatch):
    store = cluster.opener()()
    store.put("k", b"v")
    store.node.generation()
    for name in NAMES:
        cluster.running[name].door.close()
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < SECONDS_MAX
    with pytest.raises(StoreClosed):
        store.get("k")


@pytest.mark.slow
def test_when_no_node_answers_a_read_and_a_put_of_a_frame_say_so(cluster):
    with cluster.opener(answer_seconds=1.0)() as store:
        store.put("k", b"v")
        for name in NAMES:
            cluster.running[name].door.close()
        with pytest.raises(NodeUnavailable, match=r"'k'.*node-"):
            store.get("k")
        with pytest.raises(NodeUnavailable, match="none answers"):
            store.put("f", {"n": [1]})


def test_closing_ends_calls_that_have_not_begun(cluster):
    store, go_on, ended = cluster.opener()(), threading.Event(), []

    def call_many():
        with pytest.raises(StoreClosed):
            store.node.each([lambda: go_on.wait(SECONDS_MAX)] * 20)
        ended.append(True)

    thread = threading.Thread(target=call_many, daemon=True)
    thread.start()
    until(lambda: store.node._pool is not None and store.node._pool._work_queue.qsize())
    store.close()
    go_on.set()
    thread.join(SECONDS_MAX)
    assert ended

"""Queries on a real Ray cluster of three machines: their answers, what moves, actors and callers that are killed."""

import contextlib
import os
import signal
import threading
import time

import duckdb
import pytest
from tests.distributed.comparing import difference
from tests.distributed.conftest import tpch  # noqa: F401  # fixture
from tests.distributed.tpch import QUERIES
from tests.remote.clusters import is_settled
from tests.remote.kept import kept_in, nothing_is_kept, rows_per_chunk
from tests.remote.test_queries import ENDLESS, GROUPS, JOIN, ROWS, expected, frame_of
from tests.until import SECONDS_MAX, until

from eau2.distributed.engine import DistributedEngine

pytestmark = pytest.mark.slow


@pytest.fixture
def all_sent(monkeypatch):
    """Queries are sent however little they read."""
    monkeypatch.setitem(DistributedEngine.__init__.__kwdefaults__, "here_bytes_max", 0)


@pytest.fixture
def opener(ray_cluster):
    return ray_cluster.opener("first")


@pytest.fixture
def deployed(ray_cluster):
    """What opens a cluster whose actors are those that users have: they begin again where they were."""
    return ray_cluster.deployed("lasting")


@contextlib.contextmanager
def filled(opener, monkeypatch):
    with opener() as store:
        rows_per_chunk(monkeypatch, -(-ROWS // 9))
        store.put("t", frame_of(ROWS))
        yield store


@pytest.fixture
def lasting(deployed, all_sent, monkeypatch):
    with filled(deployed, monkeypatch) as store:
        yield store


@pytest.fixture
def store(opener, all_sent, monkeypatch):
    with filled(opener, monkeypatch) as store:
        yield store


def test_queries_run_on_the_nodes_and_what_moves_is_counted(ray_cluster, store):
    frame = store.sql(GROUPS)
    assert difference(frame.to_arrow(), expected(GROUPS, t=frame_of(ROWS)), in_order=True) == ""
    counts = store.statistics()
    assert {node.chunks_read for node in counts.nodes} == {3}
    assert (counts.rows_moved, counts.bytes_moved) == (300, 300 * 24)
    (listed,) = store.tables.queries.recent()
    size = store.frame("t").source.manifest.size
    assert (listed.read_bytes, listed.local_bytes, listed.moved_bytes) == (size, size, 300 * 24)
    assert counts.bytes_read == size
    assert "of which moved 300 rows, 7,200 bytes" in str(frame.explain())
    assert difference(store.sql(JOIN).to_arrow(), expected(JOIN, t=frame_of(ROWS))) == ""
    nothing_is_kept(ray_cluster.home)


def test_what_reads_little_takes_little(opener, monkeypatch):
    with opener() as store:
        store.put("t", frame_of(2000))
        times = []
        for _ in range(20):
            began = time.perf_counter()
            assert store.sql("select count(*) as n from t where k = 7").to_arrow()["n"].to_pylist() == [20]
            times.append(time.perf_counter() - began)
        print(f"a query of 2,000 rows: {sorted(times)[10] * 1e3:.1f} ms (median of 20)")
        assert "at the caller: the query, whole" in str(store.sql("select count(*) as n from t").explain())


@pytest.mark.long
def test_tpch_has_the_answers_of_duckdb(store, tpch, monkeypatch):  # noqa: F811
    with duckdb.connect() as duck:
        for name, table in tpch.items():
            rows_per_chunk(monkeypatch, -(-table.num_rows // 10))
            store.put(name, table)
            duck.register(name, table)
        for number, query in QUERIES.items():
            frame = store.sql(query)
            assert difference(frame.to_arrow(), duck.sql(query).to_arrow_table(), in_order=True) == "", number
            assert "not cut" not in str(frame.explain()), number


def test_the_answer_is_the_same_when_an_actor_is_killed_meanwhile(ray_cluster, lasting):
    actors = sorted(_actors(lasting))
    assert len(actors) == 3
    wanted = expected(JOIN, t=frame_of(ROWS))
    for actor in actors[:2]:
        killed = threading.Timer(0.2, os.kill, [actor, signal.SIGKILL])
        killed.start()
        until(lambda: _right(lasting, wanted) and killed.finished.is_set())  # noqa: B023
        killed.join()
        for _ in range(10):
            assert _right(lasting, wanted)
        # With two of three gone there are chunks of which no copy is left.
        until(lambda: len(_actors(lasting) - {actor}) == 3 and is_settled(lasting, 3))  # noqa: B023
    nothing_is_kept(ray_cluster.home)


def _actors(store):
    return set(store.frame("t").map_chunks(lambda table: os.getppid()))


def _right(store, wanted):
    assert difference(store.sql(JOIN).to_arrow(), wanted) == ""
    return True


def ask_for_ever(opener):
    DistributedEngine.__init__.__kwdefaults__["here_bytes_max"] = 0
    with opener() as store:
        store.sql(ENDLESS).to_arrow()


@pytest.mark.long
def test_a_query_ends_with_its_caller(ray_cluster, lasting, deployed, processes):
    caller = processes.Process(target=ask_for_ever, args=(deployed,))
    caller.start()
    until(lambda: kept_in(ray_cluster.home) != [])
    caller.kill()
    caller.join(SECONDS_MAX)
    nothing_is_kept(ray_cluster.home)
    assert difference(lasting.sql(JOIN).to_arrow(), expected(JOIN, t=frame_of(ROWS))) == ""

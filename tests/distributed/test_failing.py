"""Nodes that fail, are interrupted, or have little memory: no wrong answer, no rows left, no work that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from tests.distributed.comparing import difference
from tests.until import SECONDS_MAX, rests, until

from eau2.distributed.fragment import Fragment, PiecesRead
from eau2.distributed.hashing import Splitter
from eau2.distributed.substrait import Dialect, numbered
from eau2.errors import QueryError
from eau2.store.nodes import MappedFrame

ENDLESS = "select count(*) as n from t a, t b, t c, t d where a.x + b.x + c.x + d.x = -1"


@pytest.fixture
def cluster(make_cluster):
    made = make_cluster(3)
    made.hold("t", pa.table({"x": np.arange(30_000), "y": [1, 0, 2] * 10_000}), rows_per_chunk=3000)
    return made


def test_an_error_of_one_node_is_the_error_of_the_query(cluster):
    with pytest.raises(QueryError, match="Divide by zero"):
        cluster.sql("select x / y from t")
    with pytest.raises(QueryError, match="Divide by zero"):
        cluster.sql("select y, sum(x / y) from t group by y")
    assert cluster.sql("select count(*) as n from t")["n"].to_pylist() == [30_000]


def test_without_a_node_that_is_gone_the_answer_is_the_same(cluster):
    del cluster.nodes.places["node-1"]
    query = "select sum(x) as s from t"
    assert cluster.sql(query)["s"].to_pylist() == [sum(range(30_000))]
    assert cluster.explain(query).nodes == ()  # it has run here: no other node has those chunks
    cluster.sources["t"].mapped = MappedFrame(cluster.whole["t"].buffers, ("node-0", "node-2") * 5)
    for name, place in cluster.nodes.places.items():
        for index, chunk_id in enumerate(cluster.whole["t"].manifest.chunk_ids):
            if cluster.sources["t"].places[index] == name:
                place.chunks["t", chunk_id] = cluster.whole["t"].chunk(index)
    assert cluster.sql(query)["s"].to_pylist() == [sum(range(30_000))]
    assert cluster.explain(query).nodes == ("node-0", "node-1", "node-2")  # the fragments of others were enough


@pytest.mark.slow
def test_when_one_node_fails_the_others_end(cluster):
    def lost(key, chunk_id):
        raise QueryError(f"node-2 has lost {chunk_id} of {key!r}")

    cluster.nodes.places["node-2"].chunk = lost
    began = time.monotonic()
    with pytest.raises(QueryError, match="node-2 has lost"):
        cluster.sql("select count(*) as n from t a, (values (1), (2)) b where a.x < 0 or " + "random() < 2")
    with pytest.raises(QueryError, match="node-2 has lost"):
        cluster.sql(ENDLESS)
    assert time.monotonic() - began < SECONDS_MAX


@pytest.mark.slow
def test_ctrl_c_ends_the_work_of_the_nodes(cluster):
    cluster.nodes.begun.clear()

    def interrupt():
        cluster.nodes.begun.wait(SECONDS_MAX)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        cluster.sql(ENDLESS)
    thread.join()
    assert time.monotonic() - began < SECONDS_MAX
    assert cluster.nodes.kept == 0
    until(rests)


def test_once_an_answer_comes_nodes_keep_nothing_of_it(cluster):
    batches = cluster.distributed.stream(cluster.recipe("select x from t"))
    assert next(batches)["x"].to_pylist() == [*range(3000)]
    assert cluster.nodes.kept == 0
    cluster.nodes.places.clear()
    assert sum(batch.num_rows for batch in batches) == 27_000


@pytest.mark.slow
def test_queries_at_the_same_time_do_not_mix(cluster):
    queries = [f"select y, count(*) as n, sum(x) as s from t where x % {each} = 0 group by y" for each in range(2, 10)]
    queries += [f"select a.x from t a join t b on a.x = b.x + {each} where a.y = 1" for each in range(4)]
    with ThreadPoolExecutor(len(queries)) as pool:
        found = list(pool.map(lambda query: cluster.distributed.collect(cluster.recipe(query)), queries))
    for query, answer in zip(queries, found, strict=True):
        assert difference(answer, cluster.alone(query)) == "", query
    assert cluster.nodes.kept == 0


# -- memory ------------------------------------------------------------------------------------------------------------

MEMORY = 16 << 20


@pytest.fixture
def tight(make_cluster):
    """Three nodes of 16 MB each, and two frames of 32 MB."""
    made = make_cluster(3, MEMORY)
    numbers = np.random.default_rng(5).permutation(1 << 21)
    made.hold("a", pa.table({"k": numbers, "v": numbers % 97}), rows_per_chunk=1 << 18)
    made.hold("b", pa.table({"k": numbers[::-1], "w": numbers % 89}), rows_per_chunk=1 << 18)
    return made


@pytest.mark.slow
def test_a_join_four_times_the_memory_of_a_node_finishes(tight):
    query = "select count(*) as n, sum(v * w) as s from a join b on a.k = b.k"
    assert difference(tight.sql(query), tight.alone(query)) == ""
    explanation = tight.explain(query)
    assert [step.move for step in explanation.steps] == ["exchange", "exchange", "gather"]
    assert explanation.partitions > 12


@pytest.mark.slow
def test_groups_of_twice_the_memory_of_a_node_finish(tight):
    query = "select count(*) as n, sum(s) as s from (select k, sum(v) as s, count(*) as c from a group by k) g"
    assert difference(tight.sql(query), tight.alone(query)) == ""
    assert "exchange" in [step.move for step in tight.explain(query).steps]


@pytest.mark.slow
def test_a_partition_that_is_larger_than_was_foreseen_is_split_again(make_cluster):
    """The columns that are computed make it several times as large."""
    cluster = make_cluster(2, MEMORY)
    numbers = np.random.default_rng(6).permutation(1 << 20).astype(np.int32)
    for name in ("a", "b"):
        cluster.hold(name, pa.table({"k": numbers}), rows_per_chunk=1 << 18)
    wide = "select k, k * 2 as c, k * 3 as d, k * 5 as e, k * 7 as f from"
    query = f"select count(*) as n, sum(x.c + y.d + x.e - y.f + x.d * y.c + x.f - y.e) as s from ({wide} a) x "
    query += f"join ({wide} b) y on x.k = y.k"
    assert difference(cluster.sql(query), cluster.alone(query)) == ""
    assert cluster.explain(query).partitions == 4
    assert sum(place.runner.retries for place in cluster.nodes.places.values()) > 0


@pytest.mark.slow
def test_what_a_hash_join_cannot_hold_and_is_no_partition_is_joined_by_sorting(make_cluster):
    cluster = make_cluster(1, 64 << 20)
    place = cluster.nodes.places["node-0"]
    numbers = np.random.default_rng(6).permutation(1 << 21)
    schema = numbered([pa.int64()] * 4)
    piece = place.keep(pa.table([numbers.copy() for _ in range(4)], schema=schema), 0, 0)
    dialect = Dialect()
    for name in ("a", "b"):
        dialect.table(name, schema)
    wide = "select c0, c1 * 2 as d, c1 * 3 as e, c1 * 5 as f, c1 * 7 as g from"
    query = f"select count(*) as n, sum(x.d + y.e + x.f - y.g + x.e * y.d + x.g - y.f) as s from ({wide} a) x "
    query += f"join ({wide} b) y on x.c0 = y.c0"
    plan = dialect.encode(dialect.relation(dialect.session.sql(query)))
    both = tuple(PiecesRead(name, (piece,), schema.serialize().to_pybytes()) for name in ("a", "b"))
    (made,) = cluster.nodes.run([Fragment("node-0", plan, (), both)])
    (answer,) = cluster.nodes.read([made])
    assert answer["c0"].to_pylist() == [len(numbers)]
    assert answer["c1"].to_pylist() == [int((numbers * 5 + 6 * numbers * numbers).sum())]
    assert place.runner.retries == 1


# -- hashing -----------------------------------------------------------------------------------------------------------

HASHED = """if True:
    import pyarrow as pa
    from eau2.distributed.hashing import Splitter
    table = pa.table({"c0": [1, 2, None, 4, 5], "c1": ["a", "b", "c", None, "e"]})
    for partition, rows in Splitter((0, 1), 7).split(table):
        print(partition, rows["c0"].to_pylist(), rows["c1"].to_pylist())
"""


@pytest.mark.slow
def test_every_process_hashes_alike(capsys):
    command = [sys.executable, "-c", HASHED]
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS_MAX).stdout
    exec(HASHED)
    assert capsys.readouterr().out == there
    assert len(there.splitlines()) > 1


def test_a_row_is_split_off_once_with_those_that_have_its_key():
    table = pa.table({"c0": np.arange(1000) % 50, "c1": np.arange(1000)})
    parts = list(Splitter((0,), 8).split(table))
    keys = [set(part["c0"].to_pylist()) for _, part in parts]
    assert sum(part.num_rows for _, part in parts) == 1000
    assert sum(map(len, keys)) == 50
    assert len({partition for partition, _ in parts}) == len(parts)
    assert sorted(number for _, part in parts for number in part["c1"].to_pylist()) == [*range(1000)]

"""Queries run on the nodes that have the chunks, and what they leave there: nothing."""

import errno
import gc
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from tests.distributed.comparing import difference
from tests.distributed.conftest import tpch  # noqa: F401  # fixture
from tests.distributed.random_queries import SIZES, RandomQuery, rows
from tests.distributed.tpch import QUERIES
from tests.remote.clusters import Cluster
from tests.remote.kept import nothing_is_kept, rows_per_chunk
from tests.until import SECONDS_MAX, rests, until

import eau2
import eau2.remote.pieces
from eau2.distributed.engine import DistributedEngine
from eau2.distributed.fragment import CannotCut
from eau2.distributed.runner import Runner
from eau2.errors import (
    Corrupt,
    DiskFull,
    NodeUnavailable,
    QueryError,
    StoreClosed,
    UnknownColumn,
    UnknownTable,
    failed_call,
)
from eau2.remote.shelf import Shelf

pytestmark = pytest.mark.slow  # each starts nodes

NAMES = ["node-0", "node-1", "node-2", "node-3"]
ROWS, CHUNKS = 20_000, 8
ENDLESS = "select count(*) as n from t a, t b, t c, t d where a.id + b.id + c.id + d.id = -1"
GROUPS = "select k, count(*) as n, sum(v) as s from t group by k order by k"
JOIN = "select count(*) as n, sum(a.v * b.v) as s from t a join t b on a.id = b.id + 1"


@pytest.fixture(autouse=True)
def all_sent(monkeypatch):
    """Queries are sent however little they read."""
    monkeypatch.setitem(DistributedEngine.__init__.__kwdefaults__, "here_bytes_max", 0)


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path, NAMES) as cluster:
        yield cluster


@pytest.fixture
def ended_queries():
    """The test ends when the engine has ended its queries: it looks once a second whether anybody still waits."""
    yield
    until(rests)


@pytest.fixture
def store(cluster, monkeypatch):
    """Four nodes, each with two chunks of a frame."""
    with cluster.opener()() as store:
        rows_per_chunk(monkeypatch, ROWS // CHUNKS)
        store.put("t", frame_of(ROWS))
        store.put("u", {"k": np.arange(100), "name": [f"n{number}" for number in range(100)]})
        yield store


def frame_of(count):
    numbers = np.arange(count)
    return pa.table({"id": numbers, "k": numbers % 100, "v": numbers / 4})


def expected(query, **tables):
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(query).to_arrow_table()


def asked(store, monkeypatch):
    """The methods that this driver asks of nodes from now on."""
    methods = []
    call = store.transport.call

    def noted(name, method, *rest):
        methods.append(method)
        return call(name, method, *rest)

    monkeypatch.setattr(store.transport, "call", noted)
    return methods


# -- where it runs, and what moves -------------------------------------------------------------------------------------


def test_chunks_are_read_where_they_are_and_groups_move(cluster, store):
    assert len(set(store.frame("t").source.places)) == len(NAMES)
    frame = store.sql(GROUPS)
    assert "about" in str(frame.explain())
    assert difference(frame.to_arrow(), expected(GROUPS, t=frame_of(ROWS)), in_order=True) == ""
    counts = store.statistics()
    assert [node.chunks_read for node in counts.nodes] == [CHUNKS // len(NAMES)] * len(NAMES)
    assert counts.rows_read == ROWS
    assert (counts.rows_moved, counts.bytes_moved) == (len(NAMES) * 100, len(NAMES) * 100 * 24)
    explained = str(frame.explain())
    assert "on the nodes that have the chunks: aggregate(t); gather 400 rows, 9,600 bytes" in explained
    assert "of which moved 400 rows, 9,600 bytes" in explained
    assert "at the caller: " in explained
    assert f"t v1: reads {CHUNKS} of {CHUNKS} chunks" in explained
    nothing_is_kept(cluster.folder)


def test_what_explain_says_has_moved_is_what_the_nodes_count(store):
    frame = store.sql("select a.id, b.v from t a join t b on a.id = b.id where a.v > b.v - 1")
    assert frame.to_arrow().num_rows == ROWS
    engine, recipe = frame._engine, frame._recipe()
    explained = engine.explain(recipe)
    assert [step.move for step in explained.steps] == ["exchange", "exchange", "gather"]
    counts = store.statistics()
    assert (counts.rows_moved, counts.bytes_moved) == (explained.moved_rows, explained.moved_bytes)


def test_chunks_that_can_hold_no_answer_are_not_read_anywhere(store):
    frame = store.sql("select v from t where id = 4711")
    assert frame.to_arrow()["v"].to_pylist() == [4711 / 4]
    assert store.statistics().chunks_read == 1
    assert frame.explain().chunks_read == 1


def test_what_reads_little_runs_at_the_driver(cluster, store, monkeypatch):
    monkeypatch.setitem(DistributedEngine.__init__.__kwdefaults__, "here_bytes_max", 32 << 20)
    with cluster.opener()() as other:
        other.frame("t")
        methods = asked(other, monkeypatch)
        frame = other.sql(GROUPS)
        assert difference(frame.to_arrow(), expected(GROUPS, t=frame_of(ROWS))) == ""
        assert not {"begin_job", "read"} & set(methods)
        assert "at the caller: the query, whole" in str(frame.explain())


def test_what_reads_little_of_other_machines_runs_there_unless_it_has_been_brought(cluster, store, monkeypatch):
    monkeypatch.setitem(DistributedEngine.__init__.__kwdefaults__, "here_bytes_max", 1 << 20)
    monkeypatch.setattr(eau2.remote.server, "boot_id", lambda: "another machine")
    with cluster.opener()() as other:
        methods = asked(other, monkeypatch)
        assert other.sql(GROUPS).to_arrow().num_rows == 100  # 480 kB, which count eight times
        assert "begin_job" in methods
        assert other.frame("t").to_arrow().num_rows == ROWS
        methods.clear()
        assert other.sql(GROUPS).to_arrow().num_rows == 100
        assert "begin_job" not in methods


# -- answers -----------------------------------------------------------------------------------------------------------


def test_every_verb_of_a_lazy_frame_answers_as_ever(store):
    frame = store.frame("t")
    filtered = frame.filter(eau2.col("id") % 2 == 0)
    assert filtered.to_arrow()["id"].to_pylist() == [*range(0, ROWS, 2)]
    assert filtered.rows == ROWS // 2
    assert filtered.head(3).to_arrow()["id"].to_pylist() == [0, 2, 4]
    assert filtered.tail(2).to_arrow()["id"].to_pylist() == [ROWS - 4, ROWS - 2]
    assert filtered.value("v", row=2) == 1.0
    assert sum(batch.num_rows for batch in filtered.batches()) == ROWS // 2
    assert frame.limit(5, offset=2).rows == 5
    assert frame.select("k").distinct().rows == 100
    assert frame.describe().num_rows == 3
    assert frame.join(store.frame("u"), on="k").filter(eau2.col("name") == "n7").rows == ROWS // 100
    assert filtered.map_chunks(len, sum) == ROWS // 2
    assert "10,000 rows" in repr(filtered)
    store.put("answer", store.sql("select k, sum(v) as s from t group by k"))
    assert store.sql("select count(*) as n, sum(s) as s from answer").to_arrow().to_pylist() == [
        {"n": 100, "s": sum(range(ROWS)) / 4}
    ]
    with pytest.raises(UnknownColumn):
        store.sql("select nothing from t")
    with pytest.raises(UnknownTable, match="nowhere"):
        store.sql("select 1 from nowhere")
    with pytest.raises(QueryError, match="Divide by zero"):
        store.sql("select id / (k - 5) from t").to_arrow()


@pytest.mark.slow
def test_frames_without_a_key_are_sent_where_they_are_needed(store):
    frame = store.frame("t")
    few = frame.head(3)
    kept = frame.filter_rows(lambda row: row["id"] % 1000 == 1)
    assert frame.join(few.select("id"), on="id").rows == 3
    joined = frame.join(kept.select("id"), on="id")
    assert joined.aggregate([], [eau2.functions.sum(eau2.col("id"))]).to_arrow().column(0).to_pylist() == [
        sum(range(1, ROWS, 1000))
    ]
    assert few.union(few).rows == 6


def test_what_cannot_be_cut_is_gathered_and_says_so(store):
    frame = store.sql("select name from u where name similar to '^n[1-3]$'")
    assert sorted(frame.to_arrow()["name"].to_pylist()) == ["n1", "n2", "n3"]
    assert "not cut: " in str(frame.explain())


def test_what_turns_out_on_a_node_not_to_be_cut_is_gathered(cluster, store, monkeypatch):
    run = Runner.run

    def refusing(runner, fragment, calls):
        if fragment.plan:
            raise CannotCut("not on this node")
        return run(runner, fragment, calls)

    monkeypatch.setattr(Runner, "run", refusing)
    frame = store.sql(GROUPS)
    assert difference(frame.to_arrow(), expected(GROUPS, t=frame_of(ROWS)), in_order=True) == ""
    assert "not cut: not on this node" in str(frame.explain())
    nothing_is_kept(cluster.folder)


@pytest.mark.long
def test_tpch_has_the_answers_of_one_node_and_of_duckdb(store, tmp_path, tpch, monkeypatch):  # noqa: F811
    with eau2.open(tmp_path / "one") as one, duckdb.connect() as duck:
        for name, table in tpch.items():
            rows_per_chunk(monkeypatch, -(-table.num_rows // 10))
            store.put(name, table)
            one.put(name, table)
            duck.register(name, table)
        for number, query in QUERIES.items():
            frame = store.sql(query)
            found = frame.to_arrow()
            alone = one.sql(query).to_arrow()
            assert found.schema.equals(alone.schema), number
            assert difference(found, alone, in_order=True) == "", number
            assert difference(found, duck.sql(query).to_arrow_table(), in_order=True) == "", number
            assert "not cut" not in str(frame.explain()), number
            assert "about" not in str(frame.explain()), "it has run on the nodes"


@pytest.mark.slow
@pytest.mark.parametrize("first", [1000, pytest.param(1025, marks=pytest.mark.long)])
def test_random_queries_have_the_answers_of_one_node(store, tmp_path, monkeypatch, first):
    rows_per_chunk(monkeypatch, 7)
    with eau2.open(tmp_path / "one") as one:
        for name in SIZES:
            store.put(name, rows(name))
            one.put(name, rows(name))
        for seed in range(first, first + 25):
            query = RandomQuery(seed)
            found, alone = store.sql(query.text).to_arrow(), one.sql(query.text).to_arrow()
            assert difference(found, alone, in_order=query.in_order) == "", (seed, query.text)


@pytest.mark.slow
def test_pieces_of_other_machines_are_brought_in_parts(cluster, store, monkeypatch):
    monkeypatch.setattr(eau2.remote.pieces, "_opened", lambda path: None)
    monkeypatch.setattr(eau2.remote.pieces, "PART_BYTES", 10_000)
    methods = asked(store, monkeypatch)
    assert difference(store.sql(JOIN).to_arrow(), expected(JOIN, t=frame_of(ROWS))) == ""
    assert store.sql("select * from t where k < 90").rows == ROWS * 9 // 10
    assert store.sql("select * from t where k < 90").to_arrow()["id"].to_pylist()[:3] == [0, 1, 2]
    assert methods.count("piece") > len(NAMES)
    nothing_is_kept(cluster.folder)


@pytest.mark.slow
def test_pieces_that_come_slowly_are_waited_for_while_their_node_lives(cluster, store, monkeypatch):
    """Also where a call for a part of one is lost."""
    monkeypatch.setattr(eau2.remote.pieces, "_opened", lambda path: None)
    monkeypatch.setattr(eau2.remote.pieces, "PART_BYTES", 100_000)
    monkeypatch.setattr(eau2.remote.pieces, "GONE_SECONDS", 0.3)
    for name in NAMES:
        monkeypatch.setattr(cluster.running[name].server._queries, "piece", slowly(cluster.running[name]))
    call, lost = store.transport.call, []

    def losing(name, method, arguments, seconds):
        if method == "piece" and not lost:
            lost.append(name)
            return call("nobody", method, arguments, seconds)
        return call(name, method, arguments, seconds)

    monkeypatch.setattr(store.transport, "call", losing)
    frame = store.sql("select * from t where k < 90")
    assert frame.to_arrow()["id"].to_pylist()[:3] == [0, 1, 2]
    assert lost
    assert "on the nodes that have the chunks" in str(frame.explain())


def slowly(node):
    piece = node.server._queries.piece

    def slow(*given):
        time.sleep(0.5)
        return piece(*given)

    return slow


def test_a_piece_that_is_damaged_on_its_way_is_not_an_answer(store, monkeypatch):
    monkeypatch.setattr(eau2.remote.pieces, "_opened", lambda path: None)
    monkeypatch.setattr(eau2.remote.pieces, "_part", lambda *asked: bytes(len(asked[-1].result())))
    frame = store.sql("select * from t where k < 90")
    assert frame.to_arrow()["id"].to_pylist()[:3] == [0, 1, 2]  # it ran here in the end
    assert "at the caller: the query, whole" in str(frame.explain())


# -- frames that change, chunks that are damaged -----------------------------------------------------------------------


def test_a_frame_that_is_held_is_queried_as_it_was(store):
    frame = store.frame("t")
    groups = frame.aggregate(["k"], [eau2.functions.count(eau2.col("id"))])
    store.put("t", {"id": [1]})
    assert groups.rows == 100
    store.delete("t")
    assert frame.filter(eau2.col("k") == 3).rows == ROWS // 100
    with pytest.raises(UnknownTable):
        store.sql(GROUPS)


def test_a_damaged_chunk_is_read_from_another_copy_and_mended(cluster, store):
    frame = store.frame("t")
    chunk_id, place = frame.source.manifest.chunk_ids[3], frame.source.places[3]
    path = next((cluster.folder / place / "chunks").glob(f"*/{chunk_id}.arrow"))
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    assert difference(store.sql(GROUPS).to_arrow(), expected(GROUPS, t=frame_of(ROWS))) == ""
    assert path.read_bytes() == whole
    assert store.check().faults == ()


def test_a_chunk_of_which_all_copies_are_damaged_is_an_error_that_names_it(cluster, store):
    chunk_id = store.frame("t").source.manifest.chunk_ids[3]
    for path in cluster.folder.glob(f"*/chunks/*/{chunk_id}.arrow"):
        with path.open("r+b") as file:
            file.seek(5000)
            file.write(b"damage")
    with pytest.raises(Corrupt, match=f"'t'.*{chunk_id}"):
        store.sql(GROUPS).to_arrow()
    nothing_is_kept(cluster.folder)


def test_a_node_that_has_no_room_for_its_part_is_named(cluster, store, monkeypatch):
    keep = Shelf.keep

    def full(shelf, *given):
        if shelf._node.name == "node-2":
            raise failed_call(OSError(errno.ENOSPC, "No space left on device"), "/spill")
        return keep(shelf, *given)

    monkeypatch.setattr(Shelf, "keep", full)
    with pytest.raises(DiskFull, match="node-2: /spill"):
        store.sql(GROUPS).to_arrow()
    nothing_is_kept(cluster.folder)


# -- the end of queries ------------------------------------------------------------------------------------------------


def running(cluster):
    """How many queries nodes work at."""
    return sum(len(cluster.running[name].server._queries._shelves) for name in NAMES)


@pytest.mark.usefixtures("ended_queries")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_ends_the_work_of_the_nodes(cluster, store):
    came = threading.Event()

    def interrupt():
        until(lambda: running(cluster) == len(NAMES))
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)
        while not came.wait(5):  # Python swallows one that comes amid a finalizer; people press again
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            store.sql(ENDLESS).to_arrow()
    finally:
        came.set()
        thread.join()
    gc.collect()
    until(lambda: running(cluster) == 0)
    nothing_is_kept(cluster.folder)
    assert store.sql(GROUPS).rows == 100


@pytest.mark.usefixtures("ended_queries")
@pytest.mark.slow
def test_a_query_that_is_cancelled_ends_on_the_nodes_and_for_who_reads_it(cluster, store):
    failures = []

    def ask():
        try:
            store.sql(ENDLESS).to_arrow()
        except QueryError as error:
            failures.append(error.message)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: running(cluster) == len(NAMES))
    queries = store.tables.queries
    (query,) = queries.running()
    assert queries.cancel(query.number)
    thread.join(SECONDS_MAX)
    assert failures == ["the query was ended: nobody waits for its answer"]
    until(lambda: running(cluster) == 0)
    assert [each.state for each in queries.recent()] == ["cancelled"]
    nothing_is_kept(cluster.folder)


def test_what_a_query_moved_is_in_the_list_of_queries(store, monkeypatch):
    monkeypatch.setattr("eau2.query.queries.PLAN_SECONDS", 0.0)
    frame = store.sql(GROUPS)
    frame.to_arrow()
    done, *_ = store.tables.queries.recent()
    assert (done.state, done.rows, done.text) == ("done", 100, GROUPS)
    assert done.moves == str(frame.explain().moves)
    assert done.moved_bytes > 0
    assert store.sql(GROUPS).rows == 100
    counted, *_ = store.tables.queries.recent()
    assert counted.moved_bytes > 0


def test_what_part_was_read_where_it_is_is_known_also_of_short_queries(store):
    size = store.frame("t").source.manifest.size
    frame = store.sql(GROUPS)
    frame.to_arrow()
    done, *_ = store.tables.queries.recent()
    assert (done.read_bytes, done.local_bytes) == (size, size)
    assert done.moved_bytes == store.statistics().bytes_moved
    assert f"{size:,} bytes of chunks read, 100 % where they are\n" in str(frame.explain())
    one = store.frame("t").source.manifest.chunk_sizes[0]
    store.sql("select v from t where id = 4711").to_arrow()
    done, *_ = store.tables.queries.recent()
    assert (done.read_bytes, done.local_bytes) == (one, one)
    few = store.frame("t").head(3)
    before = store.statistics().bytes_moved
    joined = store.frame("t").join(few.select("id"), on="id")
    assert joined.rows == 3
    done, *_ = store.tables.queries.recent()
    (given,) = (table.bytes for table in done.tables if table.title == "rows without a key")
    assert (done.read_bytes, done.local_bytes) == (size + given, size)
    assert done.moved_bytes == store.statistics().bytes_moved - before + given


def test_what_runs_at_the_driver_says_what_was_brought_there(cluster, store, monkeypatch):
    monkeypatch.setitem(DistributedEngine.__init__.__kwdefaults__, "here_bytes_max", 1 << 40)
    size = store.frame("t").source.manifest.size
    with cluster.opener()() as near:
        near.sql(GROUPS).to_arrow()
        (done,) = near.tables.queries.recent()
        assert (done.read_bytes, done.local_bytes, done.moved_bytes) == (size, size, 0)
    monkeypatch.setattr(eau2.remote.server, "boot_id", lambda: "another machine")
    with cluster.opener()() as far:
        frame = far.sql(GROUPS)
        frame.to_arrow()
        (done,) = far.tables.queries.recent()
        assert (done.read_bytes, done.local_bytes, done.moved_bytes) == (size, 0, size)
        assert f"{size:,} bytes of chunks read, 0 % where they are, {size:,} bytes brought" in str(frame.explain())
        far.sql(GROUPS).to_arrow()
        again, _ = far.tables.queries.recent()
        assert (again.read_bytes, again.local_bytes, again.moved_bytes) == (size, size, 0)


@pytest.mark.usefixtures("ended_queries")
@pytest.mark.slow
def test_closing_the_store_ends_its_queries(cluster, store):
    failures = []

    def ask():
        try:
            store.sql(ENDLESS).to_arrow()
        except StoreClosed as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: running(cluster) == len(NAMES))
    store.close()
    thread.join(SECONDS_MAX)
    assert len(failures) == 1
    until(lambda: running(cluster) == 0)
    nothing_is_kept(cluster.folder)


@pytest.mark.usefixtures("ended_queries")
@pytest.mark.slow
def test_queries_that_never_end_keep_no_other_from_its_answer(cluster, store):
    def ask(other):
        with pytest.raises(StoreClosed):
            other.sql(ENDLESS).to_arrow()
        ended.append(other)

    ended = []
    others = [cluster.opener()() for _ in range(2)]
    threads = [threading.Thread(target=ask, args=[other]) for other in others]
    for thread in threads:
        thread.start()
    until(lambda: running(cluster) == len(others) * len(NAMES))
    assert difference(store.sql(JOIN).to_arrow(), expected(JOIN, t=frame_of(ROWS))) == ""
    for other, thread in zip(others, threads, strict=True):
        other.close()
        thread.join(SECONDS_MAX)
    assert len(ended) == len(others)


@pytest.mark.slow
def test_drivers_and_threads_that_ask_at_the_same_time_have_their_own_answers(cluster, store):
    queries = [f"select k, count(*) as n, sum(id) as s from t where id % {each} = 0 group by k" for each in range(2, 8)]
    queries += [f"select a.id from t a join t b on a.id = b.id + {each} where b.k = 1" for each in range(4)]
    with cluster.opener()() as other, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: (store, other)[at % 2].sql(queries[at]).to_arrow(), range(len(queries))))
    for query, answer in zip(queries, found, strict=True):
        assert difference(answer, expected(query, t=frame_of(ROWS))) == "", query
    nothing_is_kept(cluster.folder)


@pytest.mark.slow
def test_without_any_node_a_frame_that_is_mapped_is_queried_here(cluster, store):
    frame = store.frame("t").filter(eau2.col("k") == 3)
    for name in NAMES:
        cluster.running[name].door.close()
    assert frame.rows == ROWS // 100
    with pytest.raises(NodeUnavailable):
        store.sql(GROUPS).to_arrow()

"""The list of queries: what runs, what has run, and that each can be ended."""

import gc
import threading
import weakref

import pyarrow as pa
import pytest
from tests.until import SECONDS_MAX, until

import eau2
from eau2.errors import QueryError
from eau2.ingest.writer import FrameWriter
from eau2.query import queries as module

# Its steps are small, after each of which the engine can look whether anybody waits.
LONG = "with recursive r as (select 1 as n union all select n + 1 from r where n < 300000) select count(*) as n from r"


WAYS = {
    "to_arrow": lambda frame: frame.to_arrow(),
    "batches": lambda frame: list(frame.batches()),
    "rows": lambda frame: frame.rows,
    "head": lambda frame: frame.head(2),
}


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "store") as opened:
        opened.put("trips", pa.table({"id": range(20_000), "fare": [float(each % 7) for each in range(20_000)]}))
        yield opened


def test_a_query_is_listed_with_its_text_and_rows_and_nothing_of_its_values(store):
    queries = store.tables.queries
    assert queries.recent() == []
    store.sql("select * from trips where id < $1", parameters=[5]).to_arrow()
    (done,) = queries.recent()
    assert (done.number, done.state, done.rows, done.steps) == (1, "done", 5, 0)
    assert done.text == "select * from trips where id < $1"
    frame = store.frame("trips")
    frame.filter(frame["id"] < 3).select("fare").to_arrow()
    assert (queries.recent()[0].text, queries.recent()[0].steps) == ('select * from "trips"', 2)
    assert queries.totals()[:2] == (2, 0)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_reading_an_answer_is_one_query(store, way):
    WAYS[way](store.sql("select fare, count(*) as n from trips group by fare"))
    assert [query.state for query in store.tables.queries.recent()] == ["done"]
    assert store.tables.queries.running() == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nodes", [1, 3])
def test_in_a_directory_all_is_read_where_it_is(tmp_path, monkeypatch, way, nodes):
    monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", 50_000)
    with eau2.open(tmp_path / "many", nodes=nodes) as store:
        store.put("trips", pa.table({"id": range(20_000), "fare": [float(each % 7) for each in range(20_000)]}))
        manifest = store.frame("trips").source.manifest
        WAYS[way](store.sql("select id, fare from trips where id >= 0"))
        WAYS[way](store.sql("select id, fare from trips where id >= 19999"))
        last, first = store.tables.queries.recent()
        assert (first.read_bytes, first.local_bytes, first.moved_bytes) == (manifest.size, manifest.size, 0)
        assert (last.read_bytes, last.local_bytes, last.moved_bytes) == (*[manifest.chunk_sizes[-1]] * 2, 0)
        assert [(table.title, table.chunks, table.chunks_read) for table in last.tables] == [
            ("trips v1", len(manifest.chunk_sizes), 1)
        ]


def test_of_one_that_runs_or_came_to_no_end_nothing_is_said_to_be_read(store):
    batches = store.sql("select * from trips").batches()
    next(batches)
    (running,) = store.tables.queries.running()
    assert (running.read_bytes, running.local_bytes, running.moved_bytes, running.tables) == (None, None, None, ())
    with pytest.raises(QueryError):
        store.sql("select id / (id - 5) from trips").to_arrow()
    failed, *_ = store.tables.queries.recent()
    assert (failed.read_bytes, failed.local_bytes, failed.moved_bytes, failed.tables) == (None, None, None, ())
    batches.close()


def test_a_query_that_took_long_keeps_its_plan_and_what_it_read(store, monkeypatch):
    monkeypatch.setattr(module, "PLAN_SECONDS", 0.0)
    store.sql("select sum(fare) from trips where id < 10").to_arrow()
    (done,) = store.tables.queries.recent()
    assert "Aggregate" in done.plan
    assert [(table.title, table.chunks, table.chunks_read) for table in done.tables] == [("trips v1", 1, 1)]
    assert store.tables.queries.one(1) == done
    assert store.tables.queries.one(2) is None


def test_a_query_that_fails_says_why(store):
    with pytest.raises(QueryError):
        store.sql("select cast('x' || cast(id as varchar) as int) from trips").to_arrow()
    (failed,) = store.tables.queries.recent()
    assert failed.state == "failed"
    assert "x0" in failed.error


def test_who_reads_no_further_has_ended_the_query(store):
    batches = store.sql("select * from trips").batches()
    next(batches)
    assert [query.state for query in store.tables.queries.running()] == ["running"]
    del batches
    gc.collect()
    assert [query.state for query in store.tables.queries.recent()] == ["done"]


@pytest.mark.parametrize("way", ["to_arrow", "batches", "rows"])
def test_a_query_is_cancelled_and_who_reads_it_is_told(store, way):
    queries, raised = store.tables.queries, []
    query = LONG.replace("count(*) as n", "n") if way == "rows" else LONG  # how many rows a count has is known at once

    def ask():
        try:
            WAYS[way](store.sql(query))
        except QueryError as error:
            raised.append(error.message)

    thread = threading.Thread(target=ask)
    thread.start()
    (running,) = until(queries.running)
    assert "Recursive" in queries.one(running.number).plan
    assert queries.cancel(running.number)
    thread.join(SECONDS_MAX)
    assert raised == ["the query was ended: nobody waits for its answer"]
    assert [query.state for query in queries.recent()] == ["cancelled"]
    assert not queries.cancel(running.number)
    assert store.sql("select count(*) as n from trips").to_arrow().to_pydict() == {"n": [20_000]}


def test_a_stream_is_cancelled_between_two_batches(store):
    batches = store.sql("select * from trips").batches()
    next(batches)
    assert store.tables.queries.cancel(1)
    with pytest.raises(QueryError, match="was ended"):
        next(batches)
    assert [query.state for query in store.tables.queries.recent()] == ["cancelled"]


def test_the_list_is_bounded_holds_no_frame_and_short_ones_push_out_no_long_one(store, monkeypatch):
    queries, asked = store.tables.queries, store.sql("select now() as long")  # a query of which no plan is kept
    monkeypatch.setattr(module, "PLAN_SECONDS", 0.0)
    asked.to_arrow()
    monkeypatch.setattr(module, "PLAN_SECONDS", 1000.0)
    recipe = weakref.ref(asked._recipe())
    del asked
    gc.collect()
    assert recipe() is None
    for _ in range(module.RECENT_MAX + 5):
        store.sql("select 2 as short").to_arrow()
    texts = [query.text for query in queries.recent()]
    assert texts == ["select 2 as short"] * module.RECENT_MAX + ["select now() as long"]

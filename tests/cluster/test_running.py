"""Functions and queries over frames of several nodes run where the chunks are, and what moved is counted."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.crash.damage import flip
from tests.folders import fast_folder
from tests.until import until

import eau2
from eau2.errors import Corrupt, DiskFull, FunctionFailed, NodeUnavailable
from eau2.ingest.writer import FrameWriter
from eau2.store.nodes import Kind, Write

CHUNKS, ROWS = 10, 500  # of a frame, and of each of its chunks
MOVED = ("rows_moved", "bytes_moved", "chunks_mended")


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="eau2-running-", dir=fast_folder()) as folder:
        yield folder


@pytest.fixture
def store(folder):
    with eau2.open(folder, nodes=4) as store:
        yield store


def put(store, table=None, *, key="t", chunk_bytes=8 * ROWS):
    """Put `table` in chunks of `chunk_bytes`; return the frame."""
    table = table if table is not None else pa.table({"id": np.arange(CHUNKS * ROWS)})
    with FrameWriter(store.node, table.schema, key=key, chunk_bytes=chunk_bytes) as writer:
        for batch in table.to_batches():
            writer.write(batch)
        payload, staged = writer.finish()
    (version,) = store.node.write([Write(key, Kind.FRAME, payload, staged)])
    assert isinstance(version, int)
    return store.frame(key)


def total(table):
    return pc.sum(table["id"]).as_py()


TOTALS = [sum(range(chunk * ROWS, (chunk + 1) * ROWS)) for chunk in range(CHUNKS)]


def counted(store, *names):
    found = store.statistics()
    return {name: getattr(found, name) for name in names}


def chunks_read(store):
    return {node.name: node.chunks_read for node in store.statistics().nodes}


def file_of(store, frame, chunk, node):
    chunk_id = frame.source.manifest.chunk_ids[chunk]
    return store.node.at(node).directory / "chunks" / chunk_id[:2] / f"{chunk_id}.arrow"


def members(store):
    return store._nodes.local


# -- the same answers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stores():
    """Stores of one node and of several."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="eau2-running-", dir=fast_folder()))
        yield [stack.enter_context(eau2.open(f"{folder}/{nodes}", nodes=nodes)) for nodes in (1, 2, 3, 5)]


rows = st.tuples(st.integers(-5, 5), st.none() | st.integers(-(10**6), 10**6), st.text("ab'\x00ü", max_size=3))


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(rows, max_size=40), st.integers(40, 400))
def test_answers_do_not_depend_on_the_number_of_nodes(stores, values, chunk_bytes):
    schema = pa.schema({"g": pa.int64(), "x": pa.int64(), "s": pa.string()})
    table = pa.Table.from_pylist([dict(zip("gxs", row, strict=True)) for row in values], schema)
    answers = []
    for store in stores:
        frame = put(store, table, chunk_bytes=chunk_bytes)
        assert set(frame.source.places) <= set(store.nodes)
        answers.append(
            [
                frame.chunks,
                frame.to_arrow().to_pylist(),
                frame.map_chunks(pa.Table.to_pylist),
                frame.map_chunks(lambda table: table.num_rows, sum),
                frame.map_rows(lambda row: (row["g"], row["s"])),
                frame.filter_rows(lambda row: row["g"] > 0).to_arrow().to_pylist(),
                frame.filter("x > 10").to_arrow().to_pylist(),
                store.sql("select g, sum(x) x, count(*) n, max(s) s from t group by g order by g")
                .to_arrow()
                .to_pylist(),
                store.sql("select a.g, count(*) n from t a join t b on a.g = b.x group by a.g order by a.g")
                .to_arrow()
                .to_pylist(),
            ]
        )
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][1] == table.to_pylist()


# -- where it runs ----------------------------------------------------------------------------------------------------


def test_a_map_moves_no_chunk_and_is_spread_evenly(store):
    frame = put(store)
    assert frame.map_chunks(total) == TOTALS
    assert sorted(chunks_read(store).values()) == [2, 2, 3, 3]
    size = frame.source.manifest.size
    expected = {"tasks": CHUNKS, "chunks_read": CHUNKS, "rows_read": CHUNKS * ROWS, "bytes_read": size}
    assert counted(store, *expected) == expected
    assert counted(store, *MOVED) == dict.fromkeys(MOVED, 0)


def test_functions_over_rows_move_no_chunk(store):
    frame = put(store)
    assert frame.map_rows(lambda row: row["id"]) == list(range(CHUNKS * ROWS))
    assert frame.filter_rows(lambda row: row["id"] % 1000 == 7).to_arrow()["id"].to_pylist() == [
        7,
        1007,
        2007,
        3007,
        4007,
    ]
    expected = {"tasks": 2 * CHUNKS, "chunks_read": 2 * CHUNKS, "bytes_read": 2 * frame.source.manifest.size}
    assert counted(store, *expected) == expected
    assert counted(store, *MOVED) == dict.fromkeys(MOVED, 0)


@pytest.mark.slow
def test_worker_processes_read_the_files_of_the_nodes_that_have_them(store):
    frame = put(store)
    before = counted(store, "chunks_written")
    assert frame.map_chunks(lambda table: sum(table["id"].to_pylist()), workers="processes") == TOTALS
    assert counted(store, "chunks_written", *MOVED) == before | dict.fromkeys(MOVED, 0)
    assert sorted(chunks_read(store).values()) == [2, 2, 3, 3]
    assert store.check().faults == ()


def test_many_parts_of_a_chunk_add_up_to_it(store, monkeypatch):
    monkeypatch.setattr("eau2.query.mapping.ROWS_PER_TASK", 7)
    frame = put(store)
    frame.map_rows(lambda row: None)
    expected = {"tasks": CHUNKS * -(-ROWS // 7), "chunks_read": CHUNKS, "bytes_read": frame.source.manifest.size}
    assert counted(store, *expected) == expected


def test_a_query_reads_evenly_from_all_nodes_and_skips_on_each(store):
    frame = put(store)
    assert store.sql("select sum(id) from t").to_arrow().column(0).to_pylist() == [sum(TOTALS)]
    assert sorted(chunks_read(store).values()) == [2, 2, 3, 3]
    assert counted(store, "tasks", "bytes_read") == {"tasks": 0, "bytes_read": frame.source.manifest.size}
    before = chunks_read(store)
    assert store.sql(f"select id from t where id = {ROWS}").rows == 1
    place = frame.source.places[1]
    assert chunks_read(store) == before | {place: before[place] + 1}
    assert counted(store, *MOVED) == dict.fromkeys(MOVED, 0)


def test_one_node_counts_too(folder):
    with eau2.open(folder) as store:
        frame = put(store)
        assert frame.map_chunks(total) == TOTALS
        assert frame.filter("id = 3").rows == 1
        (node,) = store.statistics().nodes
        assert (node.name, node.tasks, node.chunks_read, node.rows_read) == ("node-0", 10, 11, 11 * ROWS)
        assert counted(store, *MOVED) == dict.fromkeys(MOVED, 0)
        assert "node-0" not in str(frame.explain())


def test_statistics_are_the_sums_of_the_nodes(store):
    put(store).map_chunks(total)
    whole = store.statistics()
    assert [node.name for node in whole.nodes] == ["node-0", "node-1", "node-2", "node-3"]
    for name in ("tasks", "chunks_read", "rows_read", "bytes_read", "chunks_written", "copied"):
        assert getattr(whole, name) == sum(getattr(node, name) for node in whole.nodes)
    assert whole.name == ""


def test_explain_says_what_each_node_reads(store):
    frame = put(store)
    text = str(frame.filter(f"id < {3 * ROWS}").explain()).splitlines()
    assert text[0].startswith("t v1: reads 3 of 10 chunks, 1,500 rows, ")
    size = frame.source.manifest.chunk_sizes[0]
    assert text[1:4] == [f"  {place}: 1 chunk, 500 rows, {size / 1000:.1f} kB" for place in frame.source.places[:3]]
    (reading,) = frame.explain().readings
    assert Counter({share.node: share.chunks for share in reading.nodes}) == Counter(frame.source.places)
    assert chunks_read(store) == dict.fromkeys(store.nodes, 0)  # nothing ran


@pytest.mark.parametrize("workers", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_failure_names_the_chunk_and_its_node(store, workers):
    frame = put(store)

    def fails(table):
        if table["id"][0].as_py() == 4 * ROWS:
            raise ValueError("no")

    with pytest.raises(FunctionFailed, match=f"chunk 4 of t v1 on {frame.source.places[4]}: ValueError: no") as caught:
        frame.map_chunks(fails, workers=workers)
    assert caught.value.chunk == 4
    for verb in (frame.map_rows, frame.filter_rows):
        with pytest.raises(FunctionFailed, match=f"chunk 6 of t v1 on {frame.source.places[6]}: KeyError"):
            verb(
                lambda row: row["nope" if row["id"] == 6 * ROWS else "id"], workers=workers
            )  # of several, any is named


def test_a_program_reads_on_each_node_what_is_there(store):
    frame = put(store)

    class Sum(eau2.Application):
        def run(self):
            return sum(pc.sum(batch["id"]).as_py() for batch in self.local(self.store.frame("t")))

    assert sum(eau2.run(Sum, on=store)) == sum(TOTALS)
    assert chunks_read(store) == Counter(frame.source.places)
    assert counted(store, "tasks", *MOVED) == dict.fromkeys(("tasks", *MOVED), 0)


# -- when nodes die ---------------------------------------------------------------------------------------------------


def test_the_chunks_of_a_dead_node_are_read_by_others(store):
    held = put(store)
    plan = held.filter("id >= 0")
    members(store).fail("node-2")
    for frame in (held, store.frame("t")):
        assert frame.map_chunks(total) == TOTALS
        assert set(frame.source.places) == set(store.nodes) == {"node-0", "node-1", "node-3"}
    assert plan.rows == CHUNKS * ROWS
    read = chunks_read(store)
    assert read["node-2"] == 0
    assert sum(read.values()) == 3 * CHUNKS
    assert counted(store, *MOVED) == dict.fromkeys(MOVED, 0)  # they have copies of their own


def test_a_node_that_returns_reads_its_share_again(store):
    frame = put(store)
    members(store).fail("node-2")
    frame.map_chunks(total)
    members(store).restore("node-2")
    until(lambda: "node-2" in store.nodes)
    before = chunks_read(store)
    assert frame.map_chunks(total) == TOTALS
    more = {name: count - before[name] for name, count in chunks_read(store).items()}
    assert sorted(more.values()) == [2, 2, 3, 3]


def test_what_only_a_dead_node_had_is_read_by_others_while_it_is_held_and_has_moved(folder):
    with eau2.open(folder, nodes=3, replicas=1) as store:
        frame = put(store)
        lost = [chunk for chunk, place in enumerate(frame.source.places) if place == "node-1"]
        assert len(lost) in (3, 4)
        members(store).fail("node-1")
        assert frame.map_chunks(total) == TOTALS
        size = sum(frame.source.manifest.chunk_sizes[chunk] for chunk in lost)
        assert counted(store, *MOVED) == {"rows_moved": len(lost) * ROWS, "bytes_moved": size, "chunks_mended": 0}
        assert max(chunks_read(store).values()) - min(chunks_read(store)[name] for name in store.nodes) <= CHUNKS
        assert chunks_read(store)["node-1"] == 0


def test_what_only_dead_nodes_have_is_unavailable_when_it_is_not_held(folder):
    with eau2.open(folder, nodes=3, replicas=1) as store:
        put(store)
    with eau2.open(folder) as store:
        home = store.node._members.view.homes("t")[0]
        members(store).fail(next(name for name in store.nodes if name != home))
        with pytest.raises(NodeUnavailable, match="down: node-"):
            store.frame("t")


# -- when copies are damaged ------------------------------------------------------------------------------------------


def damaged(path):
    flip(path, os.path.getsize(path) // 2)


def cut_off(path):
    os.truncate(path, 100)


def mended(store, node, size):
    """Whether one chunk of that node, and nothing else, was replaced by a copy, which is as it should be."""
    assert counted(store, *MOVED) == {"rows_moved": ROWS, "bytes_moved": size, "chunks_mended": 1}
    assert {each.name: each.chunks_mended for each in store.statistics().nodes if each.chunks_mended} == {node: 1}
    return store.check().faults == ()


@pytest.mark.parametrize("damage", [damaged, cut_off, os.unlink])
def test_a_damaged_copy_is_replaced_by_a_good_one_and_that_has_moved(folder, damage):
    with eau2.open(folder, nodes=4) as store:
        frame = put(store)
        place, path = frame.source.places[3], file_of(store, frame, 3, frame.source.places[3])
    damage(path)
    with eau2.open(folder) as store:
        frame = store.frame("t")
        assert frame.source.places[3] == place  # where it is read again, and where its task runs
        assert frame.map_chunks(total) == TOTALS
        assert store.sql("select sum(id) from t").to_arrow().column(0).to_pylist() == [sum(TOTALS)]
        assert mended(store, place, frame.source.manifest.chunk_sizes[3])
    with eau2.open(folder) as store:
        assert store.frame("t").map_chunks(total) == TOTALS
        assert counted(store, *MOVED) == dict.fromkeys(MOVED, 0)


@pytest.mark.parametrize("damage", [damaged, cut_off])
def test_a_copy_that_is_damaged_while_a_frame_is_held_is_replaced_too(store, damage):
    frame = put(store)
    query = store.sql("select sum(id) from t")
    assert query.rows == 1
    place = frame.source.places[3]
    damage(file_of(store, frame, 3, place))
    assert query.to_arrow().column(0).to_pylist() == [sum(TOTALS)]
    for held in (frame, store.frame("t")):
        assert held.map_chunks(total) == TOTALS
        assert held.to_arrow()["id"].to_pylist() == list(range(CHUNKS * ROWS))
        assert held.filter(f"id = {3 * ROWS + ROWS // 2}").rows == 1
    assert mended(store, place, frame.source.manifest.chunk_sizes[3])


def test_a_copy_that_cannot_be_replaced_is_read_from_another_node_and_nothing_has_moved(folder, monkeypatch):
    with eau2.open(folder, nodes=4) as store:
        frame = put(store)
        place, path = frame.source.places[3], file_of(store, frame, 3, frame.source.places[3])
    damaged(path)
    with eau2.open(folder) as store:

        def full(staged):
            raise DiskFull("the disk is full")

        monkeypatch.setattr(store.node.at(place), "mend", full)
        frame = store.frame("t")
        assert frame.source.places[3] != place
        assert frame.map_chunks(total) == TOTALS
        assert counted(store, *MOVED) == dict.fromkeys(MOVED, 0)
        assert chunks_read(store)[place] == Counter(frame.source.places)[place]
        assert [fault.chunk for fault in store.check().faults] == [frame.source.manifest.chunk_ids[3]]
        staging = store.node.at(place).directory / "staging"
        assert not [path for path in staging.rglob("*") if path.suffix not in ("", ".lock") and path.name != "lock"]


def test_a_chunk_whose_copies_are_all_damaged_is_an_error_that_names_it(folder):
    with eau2.open(folder, nodes=4) as store:
        frame = put(store)
        chunk_id = frame.source.manifest.chunk_ids[3]
        paths = [file_of(store, frame, 3, name) for name in frame.source.manifest.chunk_homes[3]]
    assert len(paths) == 2
    for path in paths:
        damaged(path)
    with eau2.open(folder) as store:
        with pytest.raises(Corrupt, match=f"'t': chunk .*{chunk_id}.* is damaged"):
            store.frame("t")
        assert counted(store, *MOVED) == dict.fromkeys(MOVED, 0)

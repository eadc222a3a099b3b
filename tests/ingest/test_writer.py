from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from eau2.cluster.directory import ClusterNodes
from eau2.errors import DiskFull
from eau2.ingest.writer import FrameWriter
from eau2.store.local import LocalNodes
from eau2.store.nodes import Kind, Write
from eau2.values.chunk import decode
from eau2.values.manifest import Manifest


@pytest.fixture
def node(tmp_path):
    nodes = LocalNodes(str(tmp_path / "store"), flush="process")
    yield nodes.at(nodes.members()[0])
    nodes.close()


def written(node, table, *, chunk_bytes, batch_rows=None):
    with FrameWriter(node, table.schema, chunk_bytes=chunk_bytes) as writer:
        for batch in table.to_batches(max_chunksize=batch_rows):
            writer.write(batch)
        payload, staged = writer.finish()
    parts = {chunk.id: decode(pa.py_buffer(Path(chunk.path).read_bytes())) for chunk in staged}
    manifest = Manifest.decode(payload)
    return manifest, [parts[chunk_id] for chunk_id in manifest.chunk_ids], staged


def staging_files(tmp_path):
    return [path for path in tmp_path.rglob("staging/*/*") if path.name != "lock"]


@pytest.mark.parametrize("batch_rows", [1, 7, 1000, None])
def test_rows_are_cut_into_chunks_in_order_whatever_the_batches(node, batch_rows):
    table = pa.table({"n": range(1000), "s": [f"row {i}" * (i % 5) for i in range(1000)]})
    manifest, parts, _ = written(node, table, chunk_bytes=4096, batch_rows=batch_rows)
    assert pa.concat_tables(parts).equals(table)
    assert len(parts) > 5
    assert all(part.nbytes <= 4096 * 1.3 for part in parts)
    assert all(part.column("n").num_chunks == 1 for part in parts)
    assert manifest.chunk_rows == tuple(part.num_rows for part in parts)


def test_a_column_that_is_one_array_is_written_without_being_joined(node):
    table = pa.table({"x": np.arange(100_000)})
    manifest, _, _ = written(node, table, chunk_bytes=100_000)
    assert manifest.rows == 100_000
    assert manifest.table.column("min:0").to_pylist()[1] == manifest.table.column("max:0").to_pylist()[0] + 1


def test_rows_of_very_different_size_stay_near_the_limit(node):
    table = pa.table({"s": ["x" * (3000 if i > 900 else 1) for i in range(1000)]})
    _, parts, _ = written(node, table, chunk_bytes=10_000)
    assert max(part.nbytes for part in parts) < 14_000


def test_a_row_larger_than_a_chunk_is_a_chunk(node):
    _, parts, _ = written(node, pa.table({"s": ["x" * 50_000, "y" * 50_000]}), chunk_bytes=1000)
    assert [part.num_rows for part in parts] == [1, 1]


def test_equal_chunks_are_staged_once(node, tmp_path):
    table = pa.table({"n": [1] * 1000})
    manifest, _, staged = written(node, table, chunk_bytes=800)
    assert len(manifest.chunk_ids) == 10
    assert len(staged) == 1
    assert len(staging_files(tmp_path)) == 1
    node.discard(staged)


def test_equal_chunks_are_assigned_to_the_nodes_that_have_them(tmp_path):
    nodes = ClusterNodes(tmp_path / "store", nodes=4, replicas=2)
    node = nodes.whole()
    manifest, _, staged = written(node, pa.table({"n": [1] * 300 + [2] * 300}), chunk_bytes=800)
    node.write([Write("frame", Kind.FRAME, manifest.encode(), staged)])
    assert len(manifest.chunk_ids) > len(set(manifest.chunk_ids)) > 1
    assert node.check().faults == ()
    nodes.close()


def test_slices_of_text_views_do_not_carry_the_text_of_the_whole(node):
    values = pa.array([f"a text of some length {i}" for i in range(10_000)], pa.string_view())
    manifest, parts, _ = written(node, pa.table({"s": values}), chunk_bytes=20_000)
    assert pa.concat_tables(parts).column("s").to_pylist() == values.to_pylist()
    assert manifest.size < 4 * values.nbytes


def test_dictionaries_that_differ_between_batches_become_one(node):
    batches = [
        pa.record_batch({"d": pa.array(words).dictionary_encode()}) for words in (["a", "b"], ["c", "a"], [None, "b"])
    ]
    with FrameWriter(node, batches[0].schema) as writer:
        for batch in batches:
            writer.write(batch)
        _, staged = writer.finish()
    table = decode(pa.py_buffer(Path(staged[0].path).read_bytes()))
    assert table.column("d").to_pylist() == ["a", "b", "c", "a", None, "b"]
    assert table.schema.equals(batches[0].schema)


def test_a_frame_without_rows_has_no_chunk(node):
    manifest, parts, staged = written(node, pa.table({"n": pa.array([], pa.int64())}), chunk_bytes=1000)
    assert (manifest.rows, parts, staged) == (0, [], ())


def test_leaving_without_finish_removes_what_was_staged(node, tmp_path):
    with (
        pytest.raises(RuntimeError, match="mine"),
        FrameWriter(node, pa.schema({"n": pa.int64()}), chunk_bytes=80) as writer,
    ):
        for start in range(0, 1000, 100):
            writer.write(pa.record_batch({"n": range(start, start + 100)}))
        raise RuntimeError("mine")
    assert staging_files(tmp_path) == []


class FailingNode:
    """Stages a few chunks on a real node, then has no space."""

    def __init__(self, node, good):
        self.node, self.left, self.discarded = node, good, []

    def assigned(self, key, index, first=""):
        return self.node.assigned(key, index, first)

    def stage(self, chunk, homes=()):
        self.left -= 1
        if self.left < 0:
            raise DiskFull("no space")
        return self.node.stage(chunk, homes)

    def discard(self, staged):
        self.discarded.extend(staged)
        self.node.discard(staged)


@pytest.mark.parametrize("good", [0, 1, 5])
def test_a_failure_of_one_chunk_is_raised_and_removes_the_others(node, tmp_path, good):
    failing = FailingNode(node, good)
    with pytest.raises(DiskFull), FrameWriter(failing, pa.schema({"n": pa.int64()}), chunk_bytes=800) as writer:
        writer.write(pa.record_batch({"n": range(10_000)}))
        writer.finish()
    assert staging_files(tmp_path) == []
    assert len(failing.discarded) == good


def test_batches_of_a_row_take_no_more_memory_than_their_rows(node):
    batch = pa.record_batch({"n": np.arange(60_000)})
    with FrameWriter(node, batch.schema) as writer:
        before = psutil.Process().memory_info().rss
        for row in range(batch.num_rows):
            writer.write(batch.slice(row, 1))
        assert psutil.Process().memory_info().rss - before < 30 << 20
        payload, staged = writer.finish()
    assert decode(pa.py_buffer(Path(staged[0].path).read_bytes()))["n"].to_pylist() == list(range(60_000))
    assert Manifest.decode(payload).rows == 60_000

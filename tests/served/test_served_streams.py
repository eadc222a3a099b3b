"""Frames on their way to a served store and from it: in small messages, checked, and each chunk once."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import pyarrow as pa
import pytest
from tests.served.serving import serving

import eau2
from eau2.doors.flight_received import Received
from eau2.errors import Corrupt, InvalidValue
from eau2.ingest.writer import SMALL_BATCHES_MAX, FrameWriter
from eau2.served import uploads, wire
from eau2.values.chunk import identify

ROWS = 80_000


def cut_at(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", chunk_bytes)
    monkeypatch.setattr("eau2.served.uploads.CHUNK_BYTES_MAX", chunk_bytes)


@pytest.fixture
def small_chunks(monkeypatch):
    cut_at(monkeypatch, 1 << 19)


def table() -> pa.Table:
    return pa.table(
        {
            "number": pa.array(range(ROWS), pa.int64()),
            "share": pa.array([row / 3 for row in range(ROWS)]),
            "text": pa.array(["x" * (row % 90) for row in range(ROWS)]),
            "bytes": pa.array([b"y" * (row % 40) for row in range(ROWS)], pa.large_binary()),
        }
    )


def ids_of(store: eau2.Store, key: str) -> list[str]:
    return list(store.frame(key).source.manifest.chunk_ids)


def rows_of(store: eau2.Store, key: str) -> list[int]:
    return list(store.frame(key).source.manifest.chunk_rows)


class TestSending:
    def test_rows_in_small_messages_are_cut_into_the_chunks_of_a_local_put(self, tmp_path, monkeypatch):
        cut_at(monkeypatch, 5 << 19)
        monkeypatch.setattr(uploads, "ROW_MESSAGE_BYTES", 1 << 20)
        whole = table()
        assert whole.nbytes > 4 * uploads.ROW_MESSAGE_BYTES
        odd = pa.concat_tables([whole.slice(0, 5), whole.slice(3, 60_000), whole.slice(60_003)])
        with serving(tmp_path / "served") as address, eau2.open(address) as served:
            with eau2.open(tmp_path / "local") as local:
                for key, value in (("whole", whole), ("odd", odd), ("none", whole.slice(0, 0))):
                    served.put(key, value)
                    local.put(key, value)
                    assert rows_of(served, key) == rows_of(local, key)
                assert len(rows_of(local, "odd")) > 2
            assert served.frame("odd").to_arrow().equals(odd)

    def test_what_is_not_easily_joined_is_sent_whole(self, monkeypatch):
        monkeypatch.setattr(uploads, "ROW_MESSAGE_BYTES", 1 << 20)
        plain = pa.record_batch({"a": pa.array(range(1 << 18), pa.duration("s"))})
        nulls = pa.record_batch({"a": pa.array([None, *range(1 << 18)])})
        lists = pa.record_batch({"a": pa.array([[row] for row in range(1 << 18)])})
        assert [mark for _, mark in uploads.upload(plain.schema, [plain]).messages] == [uploads.MORE, b""]
        assert [mark for _, mark in uploads.upload(nulls.schema, [nulls]).messages] == [b""]
        assert [mark for _, mark in uploads.upload(lists.schema, [lists]).messages] == [b""]

    def test_a_batch_of_which_a_part_is_missing_is_refused(self):
        batch = pa.record_batch({"a": [1]})
        marks = iter([(batch, uploads.MORE), (None, uploads.WHOLE)])

        def read_chunk() -> SimpleNamespace:
            data, mark = next(marks)
            return SimpleNamespace(data=data, app_metadata=pa.py_buffer(mark))

        reader = SimpleNamespace(schema=batch.schema, read_chunk=read_chunk)
        with pytest.raises(InvalidValue, match="gave up halfway"):
            list(Received(reader, None, mark=uploads.WHOLE))

    def test_parts_without_rows_are_not_kept_for_ever(self):
        empty, read = pa.record_batch({"a": pa.array([], pa.int64())}), []

        def read_chunk() -> SimpleNamespace:
            read.append(empty)
            return SimpleNamespace(data=empty, app_metadata=pa.py_buffer(uploads.MORE))

        coming = iter(Received(SimpleNamespace(schema=empty.schema, read_chunk=read_chunk), None, mark=uploads.WHOLE))
        for number in range(1, 4):
            assert next(coming).num_rows == 0
            assert len(read) == number * SMALL_BATCHES_MAX


@pytest.mark.usefixtures("small_chunks")
class TestBringing:
    def test_all_comes_in_order_and_once(self, tmp_path):
        whole = table()
        with serving(tmp_path) as address, eau2.open(address) as store:
            store.put("t", whole)
            frame = store.frame("t")
            assert frame.chunks > 4
            assert frame.to_arrow().equals(whole)
            assert store.node.cache.brought_bytes == sum(frame.source.manifest.chunk_sizes)

    def test_what_was_brought_stays_as_it_is_while_more_comes(self, tmp_path):
        """Its memory is used again only when nobody holds it: also not what was taken of it by others."""
        whole, other = table(), table().slice(7)
        with serving(tmp_path) as address, eau2.open(address) as store:
            store.put_many({"t": whole, "other": other})
            for _ in range(3):
                kept = store.frame("t").to_arrow()["text"].slice(10, 30_000)
                store.node.cache.clear()
                again = store.frame("other").to_arrow()
                store.node.cache.clear()
                assert kept.equals(whole["text"].slice(10, 30_000))
                assert again.equals(other)

    def test_a_chunk_that_is_damaged_on_its_way_is_never_taken(self, tmp_path, monkeypatch):
        with serving(tmp_path) as address, eau2.open(address) as store:
            store.put("t", table())
            damaged, cut = ids_of(store, "t")[3], wire.cut

            def cut_damaged(data: pa.Buffer):
                bad = identify(data) == damaged
                return cut(pa.py_buffer(b"\0" + data.to_pybytes()[1:]) if bad else data)

            with monkeypatch.context() as patched:
                patched.setattr(wire, "cut", cut_damaged)
                for _ in range(2):
                    with pytest.raises(Corrupt):
                        store.frame("t").to_arrow()
            assert store.frame("t").to_arrow().equals(table())

    def test_who_looks_at_the_first_rows_has_no_more_brought(self, tmp_path):
        with serving(tmp_path) as address, eau2.open(address) as store:
            store.put("t", table())
            frame = store.frame("t")
            next(iter(frame.batches()))
            assert store.node.cache.brought_bytes == frame.source.manifest.chunk_sizes[0]


class TestPieces:
    @pytest.mark.parametrize("size", [0, 1, 5000])
    def test_the_bytes_of_a_piece_are_not_copied(self, size):
        data = pa.py_buffer(bytes(range(256)) * 20).slice(3, size)
        found = wire.content(wire.piece(data))
        assert (found.to_pybytes(), found.size) == (data.to_pybytes(), size)
        assert not size or found.address == data.address

    @pytest.mark.parametrize("value", [[], [b"a", b"b"], [None]])
    def test_what_is_no_piece_is_refused(self, value):
        batch = pa.record_batch([pa.array(value, pa.binary())], schema=wire.PIECES)
        with pytest.raises(InvalidValue):
            wire.content(batch)
        with pytest.raises(InvalidValue):
            wire.content(pa.record_batch({"piece": pa.array(["text"])}))

    @pytest.mark.parametrize("ends", [(-1, 2), (2, 1), (0, 6), (7, 8)])
    def test_a_piece_never_reaches_beyond_what_came(self, ends):
        told = array("i", (0, 5))
        buffers = [None, pa.py_buffer(told), pa.py_buffer(b"hello")]
        batch = pa.RecordBatch.from_arrays([pa.Array.from_buffers(pa.binary(), 1, buffers)], schema=wire.PIECES)
        assert wire.content(batch).to_pybytes() == b"hello"
        told[:] = array("i", ends)  # pyarrow itself would not make one that is wrong
        with pytest.raises(InvalidValue):
            wire.content(batch)

    def test_a_slice_is_the_piece_it_shows(self):
        two = pa.record_batch([pa.array([b"one", b"three"], pa.binary())], schema=wire.PIECES)
        assert wire.content(two.slice(1)).to_pybytes() == b"three"


def test_to_list_a_query_brings_no_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("eau2.query.queries.PLAN_SECONDS", 0.0)
    with serving(tmp_path / "served") as address, eau2.open(address) as served:
        served.put("t", table())
        brought = []
        monkeypatch.setattr("eau2.served.held.HeldBuffers.__getitem__", lambda self, index: brought.append(index))
        assert sum(batch.num_rows for batch in served.sql("select number from t where number > 5").batches()) > 5
        (listed, *_) = served.tables.queries.recent()
        assert (listed.state, listed.tables, brought) == ("done", (), [])

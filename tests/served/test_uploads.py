"""Rows that are sent by columns are the chunks that a local put makes of them; whatever else comes is refused whole."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as some
from tests.served.serving import serving

import eau2
from eau2.doors import flight_uploads
from eau2.doors.flight_received import Received
from eau2.errors import DiskFull, InvalidValue
from eau2.ingest.writer import FrameWriter, tolerated
from eau2.served import uploads, wire
from eau2.store.node import DirectoryNode
from eau2.values import arriving
from eau2.values.chunk import CHUNK_BYTES_MAX, decode
from eau2.values.manifest import Manifest

NUMBERS = [
    *(getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)),
    pa.float32(),
    pa.float64(),
    pa.timestamp("us", "UTC"),
    pa.date32(),
]


@pytest.fixture(scope="module", autouse=True)
def _small():
    """So that a few rows are many chunks, pieces and parts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uploads, "CHUNK_BYTES_MAX", 4000)
        patched.setattr(uploads, "COLUMN_BYTES_MIN", 64)
        patched.setattr(wire, "PIECE_BYTES", 128)
        patched.setattr(wire, "ROWS_BYTES", 512)
        patched.setattr(arriving, "SEEN_BYTES", 64)
        yield


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    made = DirectoryNode(tmp_path_factory.mktemp("node") / "node-0")
    yield made
    made.close()


def staging(node):
    return [path for path in (node.directory / "staging").rglob("*") if path.is_file() and path.name != "lock"]


def written(node, schema, batches):
    """What a writer makes of `batches`: the manifest, and the files."""
    with FrameWriter(node, schema, chunk_bytes=4000) as writer:
        for batch in batches:
            writer.write(batch)
        payload, staged = writer.finish()
    files = {chunk.id: Path(chunk.path).read_bytes() for chunk in staged}
    node.discard(staged)
    return str(Manifest.decode(payload).table.to_pydict()), files  # as text, NaNs are equal


def rows_of(found):
    """All rows, as text."""
    return str(pa.concat_tables([decode(pa.py_buffer(file)) for file in found[1].values()]).to_pydict())


def reading(messages):
    """A reader of Flight to which `messages` come, pairs of a batch and its metadata."""
    coming = iter(messages)

    def read_chunk():
        data, mark = next(coming)
        return SimpleNamespace(data=data, app_metadata=pa.py_buffer(mark) if mark else None)

    return SimpleNamespace(schema=wire.PIECES, read_chunk=read_chunk)


def uploaded(messages, schema, *, gave_up=False):
    asked = {"schema": b64encode(schema.serialize()).decode()}
    return flight_uploads.upload(reading(messages), lambda: gave_up, asked)


def sent(schema, batches):
    found = uploads.upload(schema, batches)
    assert found.announced is wire.PIECES
    assert found.header == {"schema": b64encode(schema.serialize()).decode()}
    return [*found.messages, (None, uploads.WHOLE)]


def batch_of(types, rows, seed, *, nulls=False):
    random = np.random.default_rng(seed)
    columns = []
    for type_ in types:
        values = random.integers(0, 256, rows * type_.bit_width // 8, np.uint8)
        if pa.types.is_temporal(type_):
            values = values.view(f"i{type_.bit_width // 8}") & 0xFFFF  # of years that Python has
        array = pa.Array.from_buffers(type_, rows, [None, pa.py_buffer(values.tobytes())])
        if nulls and rows > 2:
            array = pa.concat_arrays([array[:1], pa.nulls(1, type_), array[2:]])
        columns.append(array)
    return pa.RecordBatch.from_arrays(columns, names=[f"c{index}" for index in range(len(types))])


@some.composite
def tables(draw):
    """Types, and batches of these: of bytes at random, so NaNs of all kinds too."""
    types = draw(some.lists(some.sampled_from(NUMBERS), min_size=1, max_size=4))
    batches = [batch_of(types, 1000, 7)]  # large enough to go by columns
    for seed in range(draw(some.integers(0, 4))):
        rows = draw(some.sampled_from([0, 1, 3, 50, 500, 1500]))
        batch = batch_of(types, rows, seed, nulls=draw(some.booleans()))
        batches.append(batch.slice(draw(some.integers(0, 5))))
    return batches[0].schema, batches


@given(tables())
def test_by_columns_the_same_rows_are_the_same_chunks(node, table):
    schema, batches = table
    local = written(node, schema, batches)
    served = written(node, schema, uploaded(sent(schema, batches), schema))
    if any(column.null_count for batch in batches for column in batch.columns):  # those may be cut, and end, otherwise
        assert rows_of(served) == rows_of(local)
    else:
        assert served == local
    if not any(column.buffers()[0] for batch in batches for column in batch.columns):  # counted before they are sent
        assert written(node, schema, uploaded(sent(schema, batches), schema).tables()) == local
    assert staging(node) == []


def test_should_arrow_not_tell_where_columns_are_they_are_gathered(node, monkeypatch):
    batches = [batch_of(NUMBERS, 3000, 1)]
    schema = batches[0].schema
    monkeypatch.setattr(arriving, "layout", lambda *_: None)
    assert written(node, schema, uploaded(sent(schema, batches), schema)) == written(node, schema, batches)


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([], id="none"),
        pytest.param([batch_of([pa.int64()], 5, 0)], id="small"),
        pytest.param([batch_of([pa.int64()], 500, 0, nulls=True)], id="nulls"),
        pytest.param([pa.record_batch({"a": range(500), "b": ["x"] * 500})], id="text"),
        pytest.param([pa.record_batch({"a": pa.array(range(500), pa.duration("s"))})], id="durations"),
    ],
)
def test_other_rows_are_sent_as_rows(batches):
    schema = batches[0].schema if batches else pa.schema({"a": pa.int64()})
    found = uploads.upload(schema, batches)
    assert found.announced is schema
    assert found.header == {}
    assert pa.Table.from_batches([batch for batch, _ in found.messages], schema).equals(
        pa.Table.from_batches(batches, schema)
    )
    assert isinstance(flight_uploads.upload(reading([]), lambda: False, {}), Received)


def test_a_schema_that_is_too_long_for_a_command_is_sent_before_the_rows(monkeypatch):
    batch = batch_of([pa.int64()], 500, 0)
    monkeypatch.setattr(uploads, "SCHEMA_BYTES_MAX", 10)
    assert uploads.upload(batch.schema, [batch]).announced is batch.schema


ONE = batch_of([pa.int32(), pa.float64()], 1500, 3)  # several chunks


@pytest.fixture(scope="module")
def messages(_small):
    return sent(ONE.schema, [ONE])


@given(data=some.data())
def test_nothing_but_an_upload_is_taken(node, messages, data):
    """Messages left out, twice, in another order, with another mark, or other bytes."""
    broken = list(messages)
    for _ in range(data.draw(some.integers(1, 3))):
        at = data.draw(some.integers(0, len(broken) - 1))
        batch, mark = broken[at]
        what = data.draw(some.sampled_from(["out", "twice", "swap", "mark", "bytes", "end"]))
        if what == "out" and len(broken) > 1:
            del broken[at]
        elif what == "twice":
            broken.insert(at, broken[at])
        elif what == "swap":
            other = data.draw(some.integers(0, len(broken) - 1))
            broken[at], broken[other] = broken[other], broken[at]
        elif what == "mark":
            marks = [b"", uploads.MORE, uploads.ROWS, uploads.WHOLE, b"{}", b"[", b'{"rows": 3}', b'{"rows": 0}']
            broken[at] = batch, data.draw(some.sampled_from(marks))
        elif what == "bytes":
            broken[at] = wire.piece(pa.py_buffer(data.draw(some.binary(max_size=300)))), mark
        else:
            del broken[at + 1 :]
    try:
        _, files = written(node, ONE.schema, uploaded(broken, ONE.schema))
    except (InvalidValue, pa.ArrowInvalid):
        pass
    else:  # some other rows, of the very types
        for file in files.values():
            found = decode(pa.py_buffer(file))
            found.validate(full=True)
            assert found.schema.equals(ONE.schema)
    assert staging(node) == []


def said(rows):
    return json.dumps({"rows": rows}).encode()


def piece(size):
    return wire.piece(pa.py_buffer(bytes(size)))


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ([(piece(8), b"")], "does not begin with its rows"),
        ([(piece(8), b'{"rows": "1"}')], "a chunk of '1' rows"),
        ([(piece(8), b'{"rows": true}')], "a chunk of True rows"),
        ([(piece(8), said(0))], "a chunk of 0 rows"),
        ([(piece(8), said(-1))], "a chunk of -1 rows"),
        ([(piece(8), said(1 << 60))], "a chunk of 1152921504606846976 rows"),
        ([(piece(8), said(tolerated(CHUNK_BYTES_MAX) // 12 + 1))], "rows of 12 bytes each"),
        ([(piece(5), said(2))], "5 bytes of a column that has 8 left, of 4 each"),
        ([(piece(12), said(2))], "12 bytes of a column that has 8 left"),
        ([(piece(0), said(2))], "0 bytes of a column"),
        ([(piece(8), said(2)), (piece(8), said(2))], "begins amid another"),
        ([(piece(8), said(2)), (piece(8), uploads.ROWS)], "begins amid another"),
        ([(piece(8), said(2))], "gave up halfway"),
        ([(piece(8), said(2)), (piece(16), b"")], "gave up halfway"),
        ([(wire.piece(pa.py_buffer(b"nothing")), uploads.MORE)], "no rows"),
        ([(ONE, said(2))], "no piece"),
    ],
)
def test_what_is_wrong_is_told(node, broken, why):
    with pytest.raises(InvalidValue, match=why):
        written(node, ONE.schema, uploaded(broken, ONE.schema))
    assert staging(node) == []


def test_a_client_that_has_gone_sends_nothing(node, messages):
    with pytest.raises(InvalidValue, match="gave up halfway"):
        written(node, ONE.schema, uploaded(messages, ONE.schema, gave_up=True))
    assert staging(node) == []


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"schema": 5}, "whose schema is none"),
        ({"schema": "%%%"}, "whose schema is none"),
        ({"schema": b64encode(b"nothing").decode()}, "whose schema is none"),
        ({"schema": b64encode(pa.schema({"a": pa.string()}).serialize()).decode()}, "only numbers"),
        ({"schema": b64encode(pa.schema([]).serialize()).decode()}, "only numbers"),
    ],
)
def test_a_schema_is_asked_for(asked, why):
    with pytest.raises(InvalidValue, match=why):
        flight_uploads.upload(reading([]), lambda: False, asked)


def test_rows_of_other_columns_are_refused(node):
    other = pa.record_batch({"x": [1, 2]})
    (piece_,) = wire.rows([other])
    with pytest.raises(InvalidValue, match="other columns than were announced"):
        written(node, ONE.schema, uploaded([(piece_, uploads.ROWS), (None, uploads.WHOLE)], ONE.schema))


def test_a_full_disk_amid_a_chunk_leaves_nothing(node, messages, monkeypatch):
    def full(file, pieces, size, *, step):
        next(iter(pieces))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eau2.store.chunks.write_all", full)
    with pytest.raises(DiskFull):
        written(node, ONE.schema, uploaded(messages, ONE.schema))
    assert staging(node) == []


def test_errors_of_the_connection_are_not_of_the_disk(node):
    def broken():
        yield piece(8), said(2)
        raise OSError(28, "No space left on device")

    with pytest.raises(InvalidValue, match="cannot be read"):
        written(node, ONE.schema, uploaded(broken(), ONE.schema))
    assert staging(node) == []


def test_small_batches_go_by_columns_too():
    batches = [batch_of([pa.int64()], 3, seed) for seed in range(40)]
    found = uploads.upload(batches[0].schema, iter(batches))
    assert found.announced is wire.PIECES
    few = uploads.upload(batches[0].schema, iter(batches[:2]))
    assert [batch for batch, _ in few.messages] == batches[:2]
    nulls = [batch_of([pa.int64()], 3, 1), batch_of([pa.int64()], 900, 2, nulls=True), batch_of([pa.int64()], 9, 3)]
    rest = uploads.upload(nulls[0].schema, iter(nulls))
    assert rest.announced is nulls[0].schema
    assert pa.Table.from_batches([batch for batch, _ in rest.messages]).equals(pa.Table.from_batches(nulls))
    assert uploads.upload(batches[0].schema, iter([])).announced is batches[0].schema


def test_small_parts_are_put_together(node):
    """Each by itself takes a kilobyte."""
    schema = pa.schema({"a": pa.int8(), "b": pa.int16()})
    rows = 3 * flight_uploads.SMALL_BYTES // 2
    values = bytes(rows)
    a = [(wire.piece(pa.py_buffer(values[at : at + 7])), b"") for at in range(0, rows, 7)]
    messages = [(a[0][0], said(rows)), *a[1:], (piece(rows), b""), (piece(2), b""), (piece(rows - 2), b"")]
    (parts,) = [list(columns.parts) for columns in uploaded([*messages, (None, uploads.WHOLE)], schema)]
    assert [part.size for part in parts[:2]] == [65541, rows - 65541]
    assert [part.size for part in parts[2:]] == [rows, rows]


def test_a_piece_has_nothing_besides(node):
    ends = pa.py_buffer(np.array([0, 8], "i4"))
    batch = pa.RecordBatch.from_arrays(
        [pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(bytes(1 << 20))])], schema=wire.PIECES
    )
    with pytest.raises(InvalidValue, match="shorter than what came"):
        written(node, ONE.schema, uploaded([(batch, said(2))], ONE.schema))
    short = SimpleNamespace(
        num_rows=1,
        schema=wire.PIECES,
        column=lambda _: SimpleNamespace(buffers=lambda: (None, pa.py_buffer(bytes(4)), None), null_count=0, offset=0),
    )
    with pytest.raises(InvalidValue, match="without its ends"):
        wire.content(short)


def test_rows_that_grow_when_they_are_read_are_refused(node):
    zeros = pa.record_batch({"a": np.zeros(1 << 20, "i8")})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, zeros.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        for _ in range(100):
            stream.write_batch(zeros)
    bomb = wire.piece(sink.getvalue())
    assert bomb.nbytes < 1 << 20
    before = pa.total_allocated_bytes()
    with pytest.raises(InvalidValue, match="bytes of rows"):
        written(node, zeros.schema, uploaded([(bomb, uploads.ROWS), (None, uploads.WHOLE)], zeros.schema))
    assert pa.default_memory_pool().max_memory() - before < 400 << 20


def test_what_fails_after_a_chunk_was_written_removes_it(node, messages, monkeypatch):
    def fails(self):
        raise MemoryError

    monkeypatch.setattr(arriving.ArrivingChunk, "ranges", property(fails))
    with pytest.raises(MemoryError):
        written(node, ONE.schema, uploaded(messages, ONE.schema))
    assert staging(node) == []


def test_room_is_taken_as_rows_come(node, monkeypatch):
    """Whoever announces more than they send takes no disk from others."""
    monkeypatch.setattr("eau2.store.chunks._ROOM_BYTES_MIN", 1)
    monkeypatch.setattr("eau2.store.chunks._ROOM_BYTES_STEP", 1 << 20)
    rows = 5 << 20
    taken = []

    def coming():
        yield wire.piece(pa.py_buffer(bytes(1 << 20))), said(rows)
        for _ in range(4):
            (path,) = staging(node)
            taken.append(path.stat().st_blocks * 512)
            yield wire.piece(pa.py_buffer(bytes(1 << 20))), b""
        yield None, uploads.WHOLE

    schema = pa.schema({"a": pa.int8()})
    _, files = written(node, schema, uploaded(coming(), schema))
    assert [len(file) > rows for file in files.values()] == [True]
    assert taken == sorted(taken)
    assert taken[0] < 3 << 20


class TestServed:
    def test_numbers_are_put_and_read(self, tmp_path):
        table = pa.Table.from_batches([batch_of(NUMBERS, 5000, 1), batch_of(NUMBERS, 777, 2, nulls=True)])
        with (
            serving(tmp_path / "served") as address,
            eau2.open(address) as served,
            eau2.open(tmp_path / "local") as local,
        ):
            for store in served, local:
                store.put("t", table)
                store.put("rows", iter(table.to_batches()), schema=table.schema)
            for key in ("t", "rows"):
                assert served.frame(key).to_arrow().cast(table.schema).num_rows == 5777
                for one, other in zip(served.frame(key).to_arrow().columns, table.columns, strict=True):
                    assert [str(value) for value in one] == [str(value) for value in other]  # NaN is NaN
            assert not list((tmp_path / "served").rglob("arriving*"))

    def test_what_the_rows_raise_is_raised_and_leaves_nothing(self, tmp_path):
        def rows():
            yield ONE
            yield ONE
            raise LookupError("mine")

        with serving(tmp_path) as address, eau2.open(address) as served:
            with pytest.raises(LookupError, match="mine"):
                served.put("t", rows(), schema=ONE.schema)
            assert served.keys() == []
            served.put("t", pa.table(ONE))
            assert served.frame("t").rows == 1500
            assert served.check().faults == ()
        assert not list(tmp_path.rglob("arriving*"))

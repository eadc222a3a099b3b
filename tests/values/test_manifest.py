import datetime
import decimal

import pyarrow as pa

from eau2.values.chunk import decode, encode, identify
from eau2.values.manifest import ChunkEntry, Manifest
from eau2.values.ranges import column_range

TABLE = pa.table(
    {
        "n": pa.array([1, None, 3]),
        "t": pa.array([1, 2, 1234567890123456789], pa.timestamp("ns", "Europe/Prague")),
        "d": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-2.25")], pa.decimal128(20, 2)),
        "nested": pa.array([[{"a": 1}], None, []], pa.list_(pa.struct({"a": pa.int8()}))),
        "day": pa.array([datetime.date(2026, 11, 21)] * 3),
    }
).replace_schema_metadata({"who": "me"})


def entry(table, homes=("node-0",)):
    chunk = encode(table)
    return ChunkEntry(chunk.id, chunk.rows, chunk.size, homes, tuple(column_range(column) for column in table.columns))


def test_a_manifest_comes_back_with_schema_chunks_and_typed_bounds():
    first, second = entry(TABLE), entry(TABLE.slice(1))
    manifest = Manifest.decode(Manifest.of(TABLE.schema, [first, second]).encode())
    assert manifest.schema.equals(TABLE.schema, check_metadata=True)
    assert manifest.chunk_ids == (first.id, second.id)
    assert manifest.chunk_rows == (3, 2)
    assert manifest.rows == 5
    assert manifest.size == first.size + second.size
    assert manifest.table.column("homes").to_pylist() == [["node-0"], ["node-0"]]
    assert manifest.table.column("nulls:2").to_pylist() == [1, 1]
    assert manifest.table.column("max:1").type == pa.timestamp("ns", "Europe/Prague")
    assert manifest.table.column("max:1").cast(pa.int64()).to_pylist() == [1234567890123456789] * 2
    assert manifest.table.column("min:2").to_pylist() == [decimal.Decimal("-2.25")] * 2
    assert "min:3" not in manifest.table.column_names


def test_a_frame_without_chunks_has_a_manifest():
    manifest = Manifest.decode(Manifest.of(TABLE.schema, []).encode())
    assert (manifest.rows, manifest.size, manifest.chunk_ids) == (0, 0, ())
    assert manifest.schema.equals(TABLE.schema)


def test_names_that_repeat_keep_their_own_bounds():
    table = pa.Table.from_arrays([pa.array([1]), pa.array(["x"])], names=["a", "a"])
    manifest = Manifest.decode(Manifest.of(table.schema, [entry(table)]).encode())
    assert manifest.table.column("min:0").to_pylist() == [1]
    assert manifest.table.column("min:1").to_pylist() == ["x"]


def test_a_chunk_is_named_by_its_bytes_and_decodes_without_a_copy():
    chunk = encode(TABLE)
    data = pa.py_buffer(b"".join(chunk.pieces))
    assert (data.size, identify(data)) == (chunk.size, chunk.id)
    table = decode(data)
    assert table.equals(TABLE, check_metadata=True)
    values = table.column("n").chunk(0).buffers()[1]
    assert data.address <= values.address < data.address + data.size


def test_the_name_of_a_chunk_is_the_same_on_every_machine():
    assert encode(pa.table({"n": pa.array([1, 2, 3])})).id == GOLDEN
    damaged = bytearray(b"".join(encode(TABLE).pieces))
    damaged[len(damaged) // 2] ^= 1
    assert identify(pa.py_buffer(bytes(damaged))) != encode(TABLE).id


# Changes when the Arrow IPC writer does, which costs no more than sharing chunks with frames of before.
GOLDEN = "8d7087971a23848186c9a2742c2f5f06"

"""Chunks of batches that are joined as they are written: the bytes that a copy would have."""

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as some

from eau2.values import chunk
from eau2.values.chunk import decode, encode, encode_as_one, one_batch

VALUES = {
    pa.int64(): some.integers(-(2**63), 2**63 - 1),
    pa.uint8(): some.integers(0, 255),
    pa.float32(): some.floats(width=32),
    pa.timestamp("us", "UTC"): some.datetimes(dt.datetime(1970, 1, 1), timezones=some.just(dt.UTC)),
    pa.date32(): some.dates(),
    pa.decimal128(20, 2): some.decimals(-1000, 1000, places=2),
    pa.bool_(): some.booleans(),
    pa.string(): some.text(max_size=5),
    pa.binary(3): some.binary(min_size=3, max_size=3),
    pa.list_(pa.int8()): some.lists(some.integers(-128, 127), max_size=3),
    pa.null(): some.none(),
}


@some.composite
def of_batches(draw):
    """A table of several batches, of which some are slices of larger ones."""
    types = draw(some.lists(some.sampled_from([*VALUES]), max_size=5))
    nullable = [draw(some.booleans()) for _ in types]
    schema = pa.schema([pa.field(f"c{index}", type_) for index, type_ in enumerate(types)])
    batches = []
    for _ in range(draw(some.integers(0, 4))):
        rows, skipped = draw(some.integers(0, 9)), draw(some.integers(0, 3))
        columns = [
            pa.array(
                [draw(VALUES[type_] | some.none() if nulls else VALUES[type_]) for _ in range(rows + skipped)], type_
            )
            for type_, nulls in zip(types, nullable, strict=True)
        ]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema).slice(skipped))
    return pa.Table.from_batches(batches, schema)


def bytes_of(written):
    return b"".join(piece.to_pybytes() for piece in written.pieces)


@given(of_batches())
def test_what_is_joined_as_it_is_written_is_what_a_copy_would_be(table):
    found, expected = encode_as_one(table), encode(one_batch(table))
    assert (found.id, found.rows, found.size) == (expected.id, expected.rows, expected.size)
    assert bytes_of(found) == bytes_of(expected)


def test_columns_of_numbers_are_not_copied():
    parts = [pa.table({"a": pa.array(range(start, start + 1000)), "t": ["x"] * 1000}) for start in (0, 1000)]
    written = encode_as_one(pa.concat_tables(parts))
    addresses = {piece.address for piece in written.pieces}
    assert addresses >= {part["a"].chunk(0).buffers()[1].address for part in parts}
    assert not addresses & {part["t"].chunk(0).buffers()[2].address for part in parts}
    assert decode(pa.py_buffer(bytes_of(written)))["a"].to_pylist() == [*range(2000)]


@pytest.mark.parametrize("type_", [pa.int32(), pa.decimal128(9, 1)])
def test_where_arrow_hands_on_a_copy_the_rows_are_copied_too(monkeypatch, type_):
    """Were a buffer without memory written as it is, the chunk would hold zeros under a name that is right for them."""

    class Copying(chunk._Pieces):
        def write(self, data):
            return super().write(pa.py_buffer(bytes(pa.py_buffer(data))))

    table = pa.concat_tables([pa.table({"a": pa.array([Decimal(1), Decimal(2)]).cast(type_)})] * 2)
    expected = encode(one_batch(table))
    monkeypatch.setattr(chunk, "_Pieces", Copying)
    assert encode_as_one(table).id == expected.id

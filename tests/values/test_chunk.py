"""Chunks of batches that are joined as they are written: the bytes that a copy would have."""

import datetime as dt
import itertools
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as some

import eau2
from eau2.values import chunk
from eau2.values.chunk import decode, encode, encode_as_one, one_batch
from eau2.values.manifest import Manifest
from eau2.values.ranges import Span, column_range

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


def spans_of(table):
    found = {index: Span.of(column.type) for index, column in enumerate(table.columns)}
    return {index: span for index, span in found.items() if span is not None}


def bounds(known):
    return [None if each is None else repr(each.as_py()) for each in (known.least, known.most)]  # NaN is NaN, 0 not -0


def assert_seen(table):
    """Columns of numbers without nulls are shown as a whole, the others not at all."""
    spans = spans_of(table)
    assert encode_as_one(table, spans).id == encode_as_one(table).id
    for index, span in spans.items():
        column = table.column(index)
        assert span.rows == (0 if column.null_count else table.num_rows)
        if span.rows:
            assert span.range().nulls == 0
            assert bounds(span.range()) == bounds(column_range(column))


@given(of_batches())
def test_numbers_are_shown_as_they_are_hashed(table):
    assert_seen(table)


@pytest.mark.parametrize("cuts", [(0, 300_000), (0, 7, 65_536, 200_001, 300_000), (3, 299_999)])
def test_large_columns_are_shown_block_by_block(cuts):
    rng = np.random.default_rng(7)
    floats = rng.standard_normal(300_000)
    floats[250_000] = np.nan
    numbers = rng.integers(0, 2**64, 300_000, np.uint64)
    whole = pa.table({"a": floats, "b": numbers, "c": numbers.astype(np.int8)})
    parts = [whole.slice(start, end - start) for start, end in itertools.pairwise(cuts)]
    assert_seen(pa.concat_tables(parts))


def test_columns_that_share_their_memory_are_each_shown_once():
    shared = pa.array(range(1000, 3000))
    assert_seen(pa.table({"a": shared, "b": shared, "c": shared.view(pa.uint64()), "d": shared}))
    spans = {0: Span.of(shared.type), 1: Span.of(pa.int32())}  # that begins there too, and is shorter
    half = pa.Array.from_buffers(pa.int32(), 2000, [None, shared.buffers()[1].slice(0, 8000)])
    encode_as_one(pa.table({"a": shared, "b": half}), spans)
    assert [spans[0].rows, spans[1].rows] == [2000, 0]


@pytest.mark.parametrize("rows", [0, 7])
def test_a_table_that_cannot_be_joined_spans_what_it_has(tmp_path, rows):
    words = [pa.array(["a", "b"][:count]).dictionary_encode() for count in (2, 1)]
    runs = [pc.run_end_encode(each.cast(pa.string())) for each in words]
    parts = [
        pa.record_batch({"n": pa.array(range(start, start + len(run))), "x": [math.inf] * len(run), "r": run})
        for start, run in zip((rows, rows + 2), runs, strict=True)
    ]
    with eau2.open(tmp_path / "store") as store:
        store.put("f", pa.Table.from_batches(parts))
        manifest = Manifest.decode(store.node.get("f").payload).table
        assert store.frame("f").to_arrow()["n"].to_pylist() == [rows, rows + 1, rows + 2]
    assert (manifest["min:0"].to_pylist(), manifest["max:0"].to_pylist()) == ([rows], [rows + 2])
    assert (manifest["min:1"].to_pylist(), manifest["max:1"].to_pylist()) == ([math.inf], [math.inf])


def test_nothing_is_shown_of_no_rows():
    empty = pa.Array.from_buffers(pa.int64(), 0, [None, None])
    span = Span.of(pa.int64())
    assert encode_as_one(pa.table({"a": empty}), {0: span}).rows == span.rows == 0


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


@pytest.mark.parametrize("type_", [pa.int8(), pa.int32(), pa.float64(), pa.timestamp("s"), pa.decimal128(38)])
def test_the_same_numbers_are_the_same_chunk_whatever_follows_them_in_memory(type_):
    values = pa.Array.from_buffers(type_, 1000, [None, pa.py_buffer(bytes(range(125)) * type_.bit_width)])
    whole = pa.table({"a": values, "b": range(1000)})
    for start, rows in ((0, 13), (1, 13), (5, 95), (0, 1000), (993, 7)):
        part = whole.slice(start, rows)
        alone = pa.concat_tables([part.slice(0, 1), part.slice(1)]).combine_chunks()  # a copy
        assert encode_as_one(part).id == encode_as_one(alone).id
        assert decode(pa.py_buffer(b"".join(encode_as_one(part).pieces))) == part

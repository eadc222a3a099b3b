import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from eau2.errors import InvalidValue
from eau2.ingest.intake import batches_of

TABLE = pa.table({"n": [1, 2, None], "s": ["a", None, "c"]})


def taken(value, schema=None):
    found, batches = batches_of(value, schema)
    return pa.Table.from_batches(batches, found)


class OnlyStream:
    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(TABLE, id="table"),
        pytest.param(TABLE.to_batches()[0], id="batch"),
        pytest.param(TABLE.to_reader(), id="reader"),
        pytest.param(OnlyStream(TABLE), id="stream"),
        pytest.param({"n": [1, 2, None], "s": ["a", None, "c"]}, id="dict of lists"),
        pytest.param({"n": pa.array([1, 2, None]), "s": (text for text in ["a", None, "c"])}, id="dict of columns"),
        pytest.param(iter(TABLE.to_batches(max_chunksize=1)), id="batches"),
        pytest.param([TABLE.slice(0, 1), TABLE.slice(1)], id="list of tables"),
    ],
)
def test_every_kind_of_table_gives_its_rows(value):
    assert taken(value).equals(TABLE)


def test_a_pandas_frame_keeps_its_index():
    frame = pd.DataFrame({"n": [1.5, 2.5]}, index=pd.Index(["x", "y"], name="who"))
    pd.testing.assert_frame_equal(taken(frame).to_pandas(), frame)


def test_a_polars_frame_gives_plain_strings():
    table = taken(pl.DataFrame({"n": [1, None], "s": ["a", "b"]}))
    assert table.schema.types == [pa.int64(), pa.large_string()]
    assert table.to_pydict() == {"n": [1, None], "s": ["a", "b"]}


@pytest.mark.parametrize("kind", [dict, tuple, list])
def test_rows_become_columns_by_schema(kind):
    schema = pa.schema({"n": pa.int32(), "when": pa.date32()})
    day = datetime.date(2026, 11, 21)
    cells = [(number, day) for number in range(100_000)]
    rows = [dict(zip(schema.names, row, strict=True)) for row in cells] if kind is dict else map(kind, cells)
    table = taken(iter(rows), schema)
    assert table.schema.equals(schema)
    assert table.column("n").to_pylist() == list(range(100_000))


def test_large_rows_are_gathered_few_at_a_time():
    rows = ({"b": bytes(1 << 20)} for _ in range(200))
    _, batches = batches_of(rows, pa.schema({"b": pa.binary()}))
    sizes = [batch.num_rows for batch in batches]
    assert sum(sizes) == 200
    assert max(sizes) == 64


def test_rows_without_a_value_have_it_missing():
    assert taken([{"n": 1}, {}], pa.schema({"n": pa.int64()})).to_pydict() == {"n": [1, None]}


def test_a_table_is_cast_to_the_schema_asked_for():
    assert taken({"n": [1, 2]}, pa.schema({"n": pa.float32()})).schema.field("n").type == pa.float32()


def test_an_empty_iterator_with_a_schema_is_an_empty_frame():
    schema = pa.schema({"n": pa.int64()})
    assert taken(iter([]), schema).schema.equals(schema)


@pytest.mark.parametrize(
    ("value", "schema", "words"),
    [
        pytest.param({"a": [1, 2], "b": [1]}, None, ["'a' has 2", "'b' 1"], id="ragged dict"),
        pytest.param({"a": [1, "x"]}, None, ["'a'"], id="mixed column"),
        pytest.param({"a": 5}, None, ["'a'", "int"], id="scalar column"),
        pytest.param({"a": "text"}, None, ["'a'", "str"], id="text as a column"),
        pytest.param({1: [1]}, None, ["column names are text"], id="number as a name"),
        pytest.param("text", None, ["encode"], id="text"),
        pytest.param(7, None, ["int"], id="number"),
        pytest.param(None, None, ["NoneType"], id="None"),
        pytest.param(object(), None, ["object"], id="object"),
        pytest.param(np.arange(3), None, ["rows"], id="numpy array"),
        pytest.param(pl.LazyFrame({"a": [1]}), None, ["collect"], id="lazy frame"),
        pytest.param(pl.Series([1]), None, ["to_frame"], id="polars series"),
        pytest.param(pd.Series([1]), None, ["to_frame"], id="pandas series"),
        pytest.param(iter([]), None, ["schema="], id="empty iterator"),
        pytest.param([{"a": 1}], None, ["schema="], id="rows without schema"),
        pytest.param(
            [(1, 2), (3,)], pa.schema({"a": pa.int64(), "b": pa.int64()}), ["row 1", "1 values for 2"], id="short row"
        ),
        pytest.param([{"a": 1}, {"z": 1}], pa.schema({"a": pa.int64()}), ["row 1", "'z'"], id="unknown name"),
        pytest.param([{"a": 1}, {"a": "x"}], pa.schema({"a": pa.int64()}), ["row 1", "'a'", "'x'"], id="wrong type"),
        pytest.param([{"a": 1}, 5], pa.schema({"a": pa.int64()}), ["row 1", "int"], id="row that is no row"),
        pytest.param([{"a": 2**70}], pa.schema({"a": pa.int64()}), ["row 0"], id="number too large"),
        pytest.param([TABLE.to_batches()[0], pa.record_batch({"x": [1]})], None, ["batch 1"], id="other columns"),
        pytest.param([TABLE, 5], None, ["item 1"], id="other item"),
        pytest.param({"s": ["x"]}, pa.schema({"s": pa.int64()}), ["'s'"], id="impossible cast of a dict"),
        pytest.param(TABLE, pa.schema({"q": pa.int64()}), ["'q'"], id="cast to other columns"),
        pytest.param(pa.table({"s": ["x"]}), pa.schema({"s": pa.int64()}), ["cast"], id="impossible cast"),
    ],
)
def test_what_is_no_table_is_refused_with_the_place_and_a_hint(value, schema, words):
    with pytest.raises(InvalidValue) as caught:
        taken(value, schema)
    for word in words:
        assert word in str(caught.value)


def test_the_error_of_the_callers_own_iterator_comes_through():
    def rows():
        yield {"a": 1}
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        taken(rows(), pa.schema({"a": pa.int64()}))


def test_the_error_of_a_foreign_stream_is_said_to_be_of_the_value():
    def batches():
        yield TABLE.to_batches()[0]
        raise ValueError("mine")

    stream = OnlyStream(pa.RecordBatchReader.from_batches(TABLE.schema, batches()))
    with pytest.raises(InvalidValue, match=r"OnlyStream gives no more rows: .*mine"):
        taken(stream)

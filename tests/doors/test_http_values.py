"""Frames as bodies: every type of Arrow, by every format, in pieces."""

import io
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2.doors import http_values
from eau2.doors.http_values import Format, NotAcceptable, encoded, format_asked, json_cells

SECONDS = pa.array([1_700_000_000, None, -1])
NAN, INFINITE = float("nan"), float("inf")
CELLS = [
    (pa.array([2**63, None], pa.uint64()), [2**63, None]),
    (pa.array([-(2**63), 2**53 + 1]), [-(2**63), 2**53 + 1]),
    (pa.array([1.5, NAN, INFINITE, -INFINITE, None]), [1.5, None, None, None, None]),
    (pa.array([1.5, NAN], pa.float16()), [1.5, None]),
    (pa.array([0.5, NAN], pa.float32()), [0.5, None]),
    (pa.array([True, None]), [True, None]),
    (pa.nulls(2), [None, None]),
    (pa.array(['é\n"\u2028', None], pa.large_string()), ['é\n"\u2028', None]),
    (pa.array(["a"], pa.string_view()), ["a"]),
    (pa.array([b"\xff", None]), ["/w==", None]),
    (pa.array([b"ab"], pa.binary(2)), ["YWI="]),
    (pa.array([b"ab"], pa.binary_view()), ["YWI="]),
    (pa.array([Decimal("1.50"), None]), ["1.50", None]),
    (pa.array([Decimal("1e30")], pa.decimal256(60, 2)), ["1000000000000000000000000000000.00"]),
    (SECONDS.cast(pa.timestamp("s")), ["2023-11-14T22:13:20", None, "1969-12-31T23:59:59"]),
    (SECONDS.cast(pa.timestamp("s", "UTC")), ["2023-11-14T22:13:20Z", None, "1969-12-31T23:59:59Z"]),
    (
        SECONDS.cast(pa.timestamp("s", "America/New_York")),
        ["2023-11-14T17:13:20-05:00", None, "1969-12-31T18:59:59-05:00"],
    ),
    (pa.array([1], pa.timestamp("ns")), ["1970-01-01T00:00:00.000000001"]),
    (pa.array([1, None], pa.date32()), ["1970-01-02", None]),
    (pa.array([86_400_000], pa.date64()), ["1970-01-02"]),
    (pa.array([1], pa.time64("ns")), ["00:00:00.000000001"]),
    (pa.array([1500, None], pa.duration("ms")), [1.5, None]),
    (pa.array([pa.MonthDayNano([1, 2, 3]), None]), [[1, 2, 3], None]),
    (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    (pc.run_end_encode(pa.array([1.5, 1.5, NAN])), [1.5, 1.5, None]),
    (pa.array([[1], None, [], [2, None]]), [[1], None, [], [2, None]]),
    (pa.array([[1], None, [], [2, None]], pa.large_list(pa.int8())), [[1], None, [], [2, None]]),
    (pa.array([[1], None, [], [2, None]], pa.list_view(pa.int8())), [[1], None, [], [2, None]]),
    (pa.array([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2)), [[1, 2], None, [3, None]]),
    (pa.array([[b"a"]], pa.list_(pa.dictionary(pa.int8(), pa.binary()))), [["YQ=="]]),
    (
        pa.array([{"a": b"x", "b": [None, {"c": NAN}]}, None]),
        [{"a": "eA==", "b": [None, {"c": None}]}, None],
    ),
    (pa.array([{}], pa.struct([])), [{}]),
    (
        pa.array([[("a", 1.5)], None, [("b", NAN), ("c", None)]], pa.map_(pa.string(), pa.float64())),
        [[["a", 1.5]], None, [["b", None], ["c", None]]],
    ),
    (
        pa.UnionArray.from_dense(
            pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1, 2]), pa.array([b"x"])]
        ),
        [1, "eA==", 2],
    ),
]


@pytest.mark.parametrize(("column", "cells"), CELLS, ids=lambda each: str(each.type) if hasattr(each, "type") else "")
def test_json_has_every_type(column, cells):
    assert json_cells(column) == cells
    assert json_cells(column[1:]) == cells[1:]
    schema = pa.schema([("x", column.type)])
    batch = pa.RecordBatch.from_arrays([column], schema=schema)
    array = json.loads(b"".join(encoded(schema, [batch, batch], Format.JSON)))
    assert array == [{"x": cell} for cell in cells] * 2
    lines = b"".join(encoded(schema, [batch], Format.NDJSON)).removesuffix(b"\n").split(b"\n")
    assert [json.loads(line) for line in lines] == array[: len(cells)]
    stream = pa.ipc.open_stream(b"".join(encoded(schema, [batch], Format.ARROW))).read_all()
    assert stream.schema.equals(schema)
    assert json_cells(stream.column(0).chunk(0)) == cells


@pytest.mark.parametrize("format_", [Format.JSON, Format.NDJSON, Format.CSV, Format.ARROW])
def test_an_answer_without_rows_is_whole_too(format_):
    schema = pa.schema([("a", pa.int64())])
    body = b"".join(encoded(schema, [], format_))
    expected = {Format.JSON: b"[]\n", Format.NDJSON: b"", Format.CSV: b'"a"\n'}
    assert body == expected.get(format_, body)
    if format_ is Format.ARROW:
        assert pa.ipc.open_stream(body).read_all().num_rows == 0
    assert json.loads(b"".join(encoded(pa.schema([]), [], Format.JSON))) == []


def test_csv_has_what_is_flat_and_refuses_what_is_nested():
    columns = {
        "d": pa.array(["a", None]).dictionary_encode(),
        "b": pa.array([b"\xff", None]),
        "v": pa.array(['a"b\n', ""], pa.string_view()),
        "t": pa.array([1500, None], pa.duration("ms")),
        "m": pa.array([Decimal("1.50"), None]),
    }
    batch = pa.record_batch(columns)
    assert b"".join(encoded(batch.schema, [batch], Format.CSV)) == (
        b'"d","b","v","t","m"\n"a","/w==","a""b\n",1.5,1.50\n,,"",,\n'
    )
    nested = pa.record_batch({"a": [1], "n": [[1]]})
    with pytest.raises(NotAcceptable, match="no way to tell column 'n', list"):
        encoded(nested.schema, [nested], Format.CSV)


def test_two_columns_of_one_name_are_an_arrow_stream_only():
    batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    for format_ in (Format.JSON, Format.NDJSON, Format.CSV):
        with pytest.raises(NotAcceptable, match="one name"):
            encoded(batch.schema, [batch], format_)
    assert pa.ipc.open_stream(b"".join(encoded(batch.schema, [batch], Format.ARROW))).read_all().num_columns == 2


@given(st.lists(st.integers(0, 30), max_size=6), st.sampled_from(Format))
def test_however_rows_are_cut_they_are_the_same(sizes, format_):
    table = pa.table({"n": pa.array(range(sum(sizes)), pa.int64()), "s": [f"é{n}" for n in range(sum(sizes))]})
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    batches = [
        table.slice(start, size).combine_chunks().to_batches() for start, size in zip(starts, sizes, strict=True)
    ]
    kept = http_values.PIECE_ROWS
    http_values.PIECE_ROWS = 7
    try:
        body = b"".join(encoded(table.schema, [batch for some in batches for batch in some], format_))
    finally:
        http_values.PIECE_ROWS = kept
    if format_ is Format.ARROW:
        assert pa.ipc.open_stream(body).read_all().to_pylist() == table.to_pylist()
    elif format_ is Format.CSV:
        assert body.decode().splitlines() == ['"n","s"', *(f'{n},"é{n}"' for n in range(table.num_rows))]
    else:
        rows = json.loads(body) if format_ is Format.JSON else [json.loads(line) for line in io.BytesIO(body)]
        assert rows == table.to_pylist()


def test_pieces_are_bounded_however_large_a_batch_is():
    batch = pa.record_batch({"n": pa.array(range(1_000_000))})
    pieces = [len(piece) for piece in encoded(batch.schema, [batch], Format.ARROW)]
    assert max(pieces) < 2 * http_values.PIECE_BYTES


def test_what_fails_amid_the_rows_is_raised_amid_the_body():
    def batches():
        yield pa.record_batch({"n": [1]})
        yield pa.record_batch({"n": ["x"]})

    body = encoded(pa.schema([("n", pa.int64())]), batches(), Format.JSON)
    assert next(body) == b'[{"n":1}'
    with pytest.raises((pa.ArrowException, TypeError)):
        next(body)


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        ("", Format.JSON),
        ("*/*", Format.JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format.JSON),
        ("text/csv", Format.CSV),
        ("TEXT/CSV; header=present", Format.CSV),
        ("text/*", Format.CSV),
        ("application/json;q=0.5, text/csv", Format.CSV),
        ("application/json, text/csv;q=0.5", Format.JSON),
        ("application/json;q=0, */*", Format.NDJSON),
        ("application/x-ndjson", Format.NDJSON),
        ("application/jsonl", Format.NDJSON),
        ("application/vnd.apache.arrow.stream", Format.ARROW),
        ("*/*;q=0.1, application/vnd.apache.arrow.stream", Format.ARROW),
    ],
)
def test_accept_says_the_format(accept, format_):
    assert format_asked(accept) is format_


@pytest.mark.parametrize("accept", ["text/html", "image/*, text/html;q=0.9", "text/csv;q=0", "text/csv;q=much", ";;"])
def test_what_is_not_there_is_not_acceptable(accept):
    with pytest.raises(NotAcceptable):
        format_asked(accept)
    assert format_asked(accept, "csv") is Format.CSV
    with pytest.raises(NotAcceptable, match="no format 'xml'"):
        format_asked("*/*", "xml")

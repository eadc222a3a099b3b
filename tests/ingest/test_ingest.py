"""Files to tables, with the account of every line, in every format."""

import base64
import gzip
import json
import os

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2.errors import InvalidOption, LoadError
from eau2.ingest import reading as reading_module
from eau2.ingest.reading import read


def whole(schema, batches):
    return pa.Table.from_batches(batches, schema)


def load(path, *, block_bytes=None, **options):
    reading = read(path, **options)
    if block_bytes:
        reading.block_bytes = block_bytes
    table, report = reading.run(whole, "k")
    assert report.lines == report.rows + report.blank + report.bad
    assert report.rows == table.num_rows
    assert [name for name, _ in report.columns] == table.schema.names
    return table, report


@pytest.fixture
def write(tmp_path):
    def put(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put


# -- SoR --------------------------------------------------------------------------------------------------------------


def test_the_report_is_what_the_command_line_prints(write):
    path = write("a.sor", b"<0><a>\n\n" + b"<1><b>\n" * 600 + b"<7><c>\n<x <y>\n<2><d><3>\n")
    table, report = load(path)
    assert report.to_dict() == {
        "key": "k",
        "lines": 605,
        "rows": 603,
        "blank": 1,
        "bad": 1,
        "columns": [{"name": "c0", "type": "INT"}, {"name": "c1", "type": "STRING"}, {"name": "c2", "type": "INT"}],
        "widened": [
            {"column": "c0", "from": "BOOL", "to": "INT", "line": 603},
            {"column": "c2", "from": "", "to": "INT", "line": 605},
        ],
        "rejects": [{"line": 604, "column": 1, "reason": "< inside a value without quotes"}],
    }
    assert table.slice(600).to_pylist() == [
        {"c0": 1, "c1": "b", "c2": None},
        {"c0": 7, "c1": "c", "c2": None},
        {"c0": 2, "c1": "d", "c2": 3},
    ]
    assert "603 rows of 605 lines" in str(report)
    assert "column c0: from BOOL to INT at line 603" in str(report)


@pytest.mark.parametrize("data", [b"", b"\n", b" \t \r\n\n", b"x\n"])
def test_a_file_without_rows_is_a_frame_without_columns(write, data):
    table, report = load(write("a.sor", data))
    assert (table.num_rows, table.num_columns) == (0, 0)
    assert report.lines == data.count(b"\n")


def test_a_late_widening_loses_no_text_and_reads_less_than_three_times(write, monkeypatch):
    monkeypatch.setattr(reading_module, "REREAD_BYTES", 0)
    lines = [b"<007><1>"] * 3000
    lines[1000], lines[2000], lines[2500], lines[2900] = b"<1.50><1>", b"<2><2>", b"<x><1>", b"<1><1.5>"
    path = write("a.sor", b"\n".join(lines))
    reading = read(path)
    reading.block_bytes = 256
    table, report = reading.run(whole)
    assert table["c0"].to_pylist()[0] == "007"
    assert table["c0"].to_pylist()[999:1002] == ["007", "1.50", "007"]
    assert [(w.column, w.old, w.new, w.line) for w in report.widened] == [
        ("c0", "INT", "FLOAT", 1001),
        ("c1", "BOOL", "INT", 2001),
        ("c0", "FLOAT", "STRING", 2501),
        ("c1", "INT", "FLOAT", 2901),
    ]
    assert reading.passes == 3  # at once for line 1,001, in the first half; the others together


def test_the_writer_is_called_again_with_the_wider_schema_and_may_clean_up(write):
    path = write("a.sor", b"<0>\n" * 600 + b"<x>\n")
    seen = []

    def writer(schema, batches):
        rows = 0
        try:
            for batch in batches:
                rows += batch.num_rows
        except BaseException:
            seen.append(("left", schema.types))
            raise
        seen.append((rows, schema.types))
        return rows

    result, _ = read(path).run(writer)
    assert result == 601
    assert seen == [("left", [pa.bool_()]), (601, [pa.string()])]


def test_a_failure_of_the_writer_comes_through_and_leaves_no_rejects(write, tmp_path):
    def writer(schema, batches):
        next(batches)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        read(write("a.sor", b"<1>\nx\n"), rejects=tmp_path / "bad").run(writer)
    assert not [path for path in tmp_path.iterdir() if "bad" in path.name]


def test_without_widening_later_values_are_bad(write):
    table, report = load(write("a.sor", b"<0>\n" * 500 + b"<7>\n<1><2>\n"), widen=False)
    assert table.schema.types == [pa.bool_()]
    assert [(r.line, r.column, r.reason) for r in report.rejects] == [
        (501, 1, "'7' is not a BOOL"),
        (502, 2, "2 fields, but 1 columns"),
    ]


@pytest.mark.parametrize(
    ("schema", "names", "types"),
    [
        ({"a": "INT", "b": str}, ["a", "b"], [pa.int64(), pa.string()]),
        (pa.schema([("a", pa.float64()), ("b", pa.string())]), ["a", "b"], [pa.float64(), pa.string()]),
        (["a", "b"], ["a", "b"], [pa.bool_(), pa.string()]),
        (["INT", "STRING"], ["c0", "c1"], [pa.int64(), pa.string()]),
        ([("a", "INT"), ("b", "STRING")], ["a", "b"], [pa.int64(), pa.string()]),
    ],
)
def test_names_and_types_can_be_given(write, schema, names, types):
    table, report = load(write("a.sor", b"<0><x>\n<1>\n<1><2><3>\n"), schema=schema)
    assert (table.schema.names, table.schema.types) == (names, types)
    assert (report.rows, report.bad) == (2, 1)


def test_on_error_null_keeps_the_row_and_reports_the_cell(write, tmp_path):
    rejects = tmp_path / "rejects.ndjson"
    path = write("a.sor", b"<1><a>\n<x><\xff>\n<2 <b>\n")
    table, report = load(path, schema=["INT", "STRING"], on_error="null", rejects=rejects)
    assert table.to_pylist() == [{"c0": 1, "c1": "a"}, {"c0": None, "c1": None}]
    assert (report.rows, report.bad, report.nulled) == (2, 1, 2)
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(f["line"], f["column"], f["reason"]) for f in found] == [
        (2, 1, "'x' is not an INT"),
        (2, 2, "not valid UTF-8"),
        (3, 1, "< inside a value without quotes"),
    ]
    assert base64.b64decode(found[0]["raw_base64"]) == b"<x><\xff>"
    assert found[2]["raw"] == "<2 <b>"


def test_on_error_fail_names_file_line_column_and_text(write, tmp_path):
    path = write("a.sor", b"<1>\n" * 3000 + b"<1><two words>\n")
    with pytest.raises(LoadError, match=r"line 3,001 column 2 of .*a.sor: several words.*two words") as caught:
        load(path, on_error="fail", rejects=tmp_path / "r", block_bytes=500)
    assert (caught.value.line, caught.value.column, caught.value.file) == (3001, 2, str(path))
    assert not (tmp_path / "r").exists()


def test_all_bad_lines_are_in_the_rejects_file_and_a_hundred_in_the_report(write, tmp_path):
    path = write("a.sor", b"".join(b"<%d\n" % number for number in range(250)) + b"<1>\n")
    _, report = load(path, rejects=tmp_path / "r", block_bytes=64)
    assert (report.bad, len(report.rejects), report.rows) == (250, 100, 1)
    lines = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert [(line["line"], line["raw"]) for line in lines] == [(number + 1, f"<{number}") for number in range(250)]


def test_rejects_that_cannot_be_written_are_an_error(write, tmp_path):
    with pytest.raises(LoadError, match="cannot write the bad lines"):
        load(write("a.sor", b"<1>\n"), rejects=tmp_path / "no" / "r")


sor_lines = st.sampled_from([b"<1><a>", b"<0><bb>", b"", b"<1", b'<1> <"x y">', b"<1>\r", b"<1><" + b"z" * 50 + b">"])


@given(st.lists(sor_lines, max_size=12), st.booleans(), st.lists(st.integers(0, 300), max_size=4), st.integers(1, 80))
def test_ranges_that_tile_a_file_give_exactly_its_rows(tmp_path_factory, lines, ended, cuts, block_bytes):
    data = b"\n".join(lines) + b"\n" * ended
    path = tmp_path_factory.mktemp("tiles") / "a.sor"
    path.write_bytes(data)
    table, report = load(path, block_bytes=block_bytes)
    rows, total = [], [0, 0, 0]
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), max([len(data), *cuts]) + 5], strict=True):
        part, counted = load(path, byte_range=(start, end), block_bytes=block_bytes)
        assert part.schema == table.schema
        rows += part.to_pylist()
        total = [a + b for a, b in zip(total, (counted.lines, counted.blank, counted.bad), strict=True)]
    assert rows == table.to_pylist()
    assert total == [report.lines, report.blank, report.bad]


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_come_in_the_order_of_the_file(write, threads):
    path = write("a.sor", b"".join(b"<%d>\n" % number for number in range(5000)))
    table, _ = load(path, block_bytes=300, threads=threads)
    assert table["c0"].to_pylist() == list(range(5000))


def test_batches_come_while_the_file_is_read(write):
    path = write("a.sor", b"".join(b"<%d>\n" % number for number in range(50_000)))
    reading = read(path, threads=1)
    reading.block_bytes = 1000

    def writer(schema, batches):
        return next(batches).num_rows, sum(batch.num_rows for batch in batches)

    (first, rest), report = reading.run(writer)
    assert first < 500
    assert first + rest == report.rows == 50_000


def test_compressed_text_is_read(write):
    table, report = load(write("a.sor.gz", gzip.compress(b"<1><a>\n<0><b>\n")))
    assert table["c1"].to_pylist() == ["a", "b"]
    assert report.format == "sor"


# -- CSV --------------------------------------------------------------------------------------------------------------


def test_csv_is_read_as_arrow_reads_it(write):
    data = b'id,name,when,x\n1,"a, b",2026-01-02,1.5\n2,"say ""hi""",,NA\n3,"two\nlines",2026-01-03,\n4,NA,,7\n'
    path = write("a.csv", data)
    table, report = load(path)
    assert table.schema.types == [pa.int64(), pa.string(), pa.date32(), pa.float64()]
    assert table["name"].to_pylist() == ["a, b", 'say "hi"', "two\nlines", "NA"]
    assert table["x"].to_pylist() == [1.5, None, None, 7.0]
    assert (report.lines, report.rows) == (4, 4)
    assert table.drop(["name"]).equals(pa_csv.read_csv(path).drop(["name"]))


def test_ragged_csv_lines_are_reported_with_their_line_and_text(write, tmp_path):
    path = write("a.csv", b"a,b\r\n1,2\r\n\r\n3\r\n4,5,6\r\n7,8\r\n")
    table, report = load(path, rejects=tmp_path / "r")
    assert table.to_pylist() == [{"a": 1, "b": 2}, {"a": 7, "b": 8}]
    assert (report.lines, report.rows, report.blank, report.bad) == (5, 2, 1, 2)
    assert [(r.line, r.column, r.reason) for r in report.rejects] == [
        (4, 2, "1 values, but 2 columns"),
        (5, 3, "3 values, but 2 columns"),
    ]


def test_a_csv_column_is_widened_when_a_late_value_needs_it(write, monkeypatch):
    rows = [b"%d,x,%d" % (number, number) for number in range(4000)]
    rows[2000] = b"1.5,x,"
    rows[3000] = b"ABC,x,7"
    path = write("a.csv", b"id,t,n\n" + b"\n".join(rows) + b"\n")
    reading = read(path)
    reading.block_bytes = 4096
    monkeypatch.setattr("eau2.ingest.formats.HEAD_BYTES", 4096)
    table, report = reading.run(whole)
    assert table.schema.types == [pa.string(), pa.string(), pa.int64()]
    assert table["id"].to_pylist()[1999:2002] == ["1999", "1.5", "2001"]
    assert [(w.column, w.old, w.new, w.line) for w in report.widened] == [
        ("id", "INT", "FLOAT", 2002),
        ("id", "FLOAT", "STRING", 3002),
    ]
    assert table["n"].null_count == 1


def test_a_csv_value_that_is_not_of_the_given_type_is_bad_or_missing(write):
    path = write("a.csv", b"id,t\n1,a\nx,b\n3,\xff\n,d\n")
    table, report = load(path, schema={"id": "INT"})
    assert table.to_pylist() == [{"id": 1, "t": "a"}, {"id": None, "t": "d"}]
    assert [(r.line, r.column, r.reason) for r in report.rejects] == [
        (3, 1, "'x' is no INT"),
        (4, 2, "not valid UTF-8"),
    ]
    table, report = load(path, schema={"id": "INT"}, on_error="null")
    assert table.to_pylist()[1:3] == [{"id": None, "t": "b"}, {"id": 3, "t": None}]
    assert (report.rows, report.nulled) == (4, 2)


def test_a_csv_without_names_takes_them_from_the_caller(write):
    path = write("a.tsv", b"1\tx\n2\ty\n")
    assert load(path, schema=["n", "t"])[0].to_pylist() == [{"n": 1, "t": "x"}, {"n": 2, "t": "y"}]
    assert load(path, schema=[("n", "FLOAT"), ("t", "STRING")])[0]["n"].to_pylist() == [1.0, 2.0]


def test_a_csv_column_that_is_not_there_is_named(write):
    with pytest.raises(LoadError, match="has no column 'z': line 1 names a, b"):
        load(write("a.csv", b"a,b\n1,2\n"), schema={"z": "INT"})


@pytest.mark.parametrize("header", [b'"', b"a,caf\xe9"])
def test_a_csv_line_of_names_that_cannot_be_read_is_said_to_be(write, header):
    path = write("a.csv", header + b"\n1,2\n")
    with pytest.raises(LoadError, match=r"line 1 of .*a.csv names no columns: "):
        load(path)
    assert load(path, schema=["a", "b"])[1].lines == (1 if header == b'"' else 2)


def test_the_mark_of_utf_8_is_no_part_of_a_csv_file(write):
    data = b'\xef\xbb\xbf"a\nb",c\n1,2\n'
    assert load(write("a.csv", data))[0].to_pylist() == [{"a\nb": 1, "c": 2}]
    assert load(write("a.csv", data), schema=["x", "y"])[0].to_pylist() == [
        {"x": "a\nb", "y": "c"},
        {"x": "1", "y": "2"},
    ]


csv_values = st.sampled_from([b"1", b"2.5", b"", b'"q"', b'"a,b"', b'"l1\nl2"', b'""', b"x y", b"-3"])


@given(st.lists(st.tuples(csv_values, csv_values), min_size=1, max_size=30), st.integers(8, 60))
def test_csv_in_blocks_gives_the_rows_of_the_whole(tmp_path_factory, rows, block_bytes):
    data = b"a,b\n" + b"".join(left + b"," + right + b"\n" for left, right in rows)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(data)
    table, report = load(path, block_bytes=block_bytes)
    options = pa_csv.ConvertOptions(null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False)
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    expected = pa_csv.read_csv(path, convert_options=options, parse_options=parse)
    assert table.equals(expected)
    assert report.lines == len(rows)


def test_a_stray_quote_costs_no_more_than_its_line(write):
    data = b"a,b\n" + b'1,5" pipe\n' + b"2,x\n" * 2000
    table, report = load(write("a.csv", data), block_bytes=1000)
    assert report.rows == table.num_rows == 2001
    assert table["b"][0].as_py() == '5" pipe'


@pytest.mark.parametrize("block_bytes", [*range(1, 20), 1 << 20])
def test_a_stray_quote_opens_nothing_whatever_comes_later(write, block_bytes):
    data = b'id,t\n1,5" pipe\n2,"first\nsecond"\n3,"a\nb,""c"\n4,6"\n"5","x"\n'
    table, report = load(write("a.csv", data), block_bytes=block_bytes)
    assert table["t"].to_pylist() == ['5" pipe', "first\nsecond", 'a\nb,"c', '6"', "x"]
    assert table["id"].to_pylist() == [1, 2, 3, 4, 5]
    assert (report.lines, report.blank, report.bad) == (5, 0, 0)


def test_a_stray_quote_does_not_hide_that_a_record_is_cut(write):
    table, report = load(write("a.csv", b'a,b\n1,5" pipe\n2,"cut\nhere\n'))
    assert table.to_pylist() == [{"a": 1, "b": '5" pipe'}]
    assert [(r.line, r.reason) for r in report.rejects] == [(3, "unclosed quote")]


csv_records = st.sampled_from(
    [b"1,x", b'2,"a\nb"', b'3,5" pipe', b'4,"say ""hi"",\n"', b"", b'5,"a"b"c', b'6,""', b'"7",', b"8", b'9,"\r\n"']
)


@given(
    st.lists(csv_records, max_size=12),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=4),
    st.integers(1, 80),
)
def test_ranges_that_tile_a_csv_file_give_exactly_its_rows(
    tmp_path_factory, records, line_end, ended, cuts, block_bytes
):
    data = line_end.join([b"a,b", *records]) + line_end * ended
    path = tmp_path_factory.mktemp("tiles") / "a.csv"
    path.write_bytes(data)
    schema = {"a": "STRING", "b": "STRING"}
    table, report = load(path, schema=schema)
    rows, total = [], [0, 0, 0]
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), max([len(data), *cuts]) + 5], strict=True):
        part, counted = load(path, schema=schema, byte_range=(start, end), block_bytes=block_bytes)
        rows += part.to_pylist()
        total = [a + b for a, b in zip(total, (counted.lines, counted.blank, counted.bad), strict=True)]
    assert rows == table.to_pylist()
    assert total == [report.lines, report.blank, report.bad]


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_a_csv_record_that_is_cut_between_quotes_is_bad(write, block_bytes):
    path = write("a.csv", b'a,b\n1,"x\ny"\n\n2,"cut\nhere\n')
    table, report = load(path, block_bytes=block_bytes)
    assert table.to_pylist() == [{"a": 1, "b": "x\ny"}]
    assert (report.lines, report.rows, report.blank, report.bad) == (3, 1, 1, 1)
    assert [(r.line, r.reason, r.text) for r in report.rejects] == [(5, "unclosed quote", '2,"cut\nhere')]


@pytest.mark.parametrize("line", [b'5" pipe', b'"a"b"c', b'a"b', b'"a""b"'])
def test_a_csv_quote_that_opens_nothing_leaves_its_record_good(write, line):
    table, report = load(write("a.csv", b"a,b\n1," + line + b"\n2," + line))
    assert (table.num_rows, report.bad) == (2, 0)


@pytest.mark.parametrize("block_bytes", [1, 4, 7, 1 << 20])
@pytest.mark.parametrize(
    "data", [b"a,b\r1,2\r3,4\r\r5,6", b"a,b\n1,2\r3,4\r\n\r\n5,6\n", b"\r\na,b\r\n1,2\r3,4\n\n5,6\r\n"]
)
def test_a_csv_line_may_end_in_cr(write, data, block_bytes):
    table, report = load(write("a.csv", data), block_bytes=block_bytes)
    assert table.to_pylist() == [{"a": 1, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "b": 6}]
    assert (report.lines, report.blank, report.bad) == (4, 1, 0)


def test_the_rejects_are_the_bad_lines_whatever_quotes_and_line_ends_are_near_them(write, tmp_path):
    data = b'a,b\n1,5" pipe\n2,3,4\r2,6" pipe\r\n"x\ry",7\r\n\r\n8\n5,ok'
    table, report = load(write("a.csv", data), rejects=tmp_path / "r", schema={"a": "STRING"})
    assert table["a"].to_pylist() == ["1", "2", "x\ry", "5"]
    found = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert [(line["line"], line["raw"]) for line in found] == [(3, "2,3,4"), (8, "8")]
    assert (report.lines, report.blank, report.bad) == (7, 1, 2)


@given(st.text('a1,"\r\n', max_size=40), st.integers(1, 20))
def test_any_csv_text_is_accounted_for_and_may_be_cut_anywhere(tmp_path_factory, text, block_bytes):
    path = tmp_path_factory.mktemp("any") / "a.csv"
    path.write_bytes(text.encode())
    table, report = load(path, schema=[("a", "STRING"), ("b", "STRING")])
    again, counted = load(path, schema=[("a", "STRING"), ("b", "STRING")], block_bytes=block_bytes)
    assert again.to_pylist() == table.to_pylist()
    assert counted.rejects == report.rejects
    assert (counted.lines, counted.blank) == (report.lines, report.blank)
    assert min(report.rows, report.blank, report.bad) >= 0


def test_a_decimal_that_does_not_convert_is_one_bad_cell(write):
    path = write("a.csv", b"d,t\n1.25,a\nx,b\n2.50,c\n")
    table, report = load(path, schema={"d": pa.decimal128(9, 2)})
    assert table["t"].to_pylist() == ["a", "c"]
    assert [(r.line, r.column) for r in report.rejects] == [(3, 1)]


def test_csv_integers_beyond_64_bits_keep_all_digits(write, monkeypatch):
    table, report = load(write("a.csv", b"a,b\n1,9223372036854775807\n18446744073709551615,-1\n"))
    assert table.to_pylist() == [{"a": "1", "b": 2**63 - 1}, {"a": "18446744073709551615", "b": -1}]
    assert report.widened == ()
    monkeypatch.setattr("eau2.ingest.formats.HEAD_BYTES", 64)
    lines = [b"%d,%d.5" % (number, number) for number in range(2000)]
    lines[1030] = b"-9223372036854775809,2"
    lines[1040] = b"7,99999999999999999999"
    table, report = load(write("b.csv", b"a,b\n" + b"\n".join(lines)))
    assert [table[name][row].as_py() for name, row in (("a", 1030), ("b", 1040), ("b", 3))] == [
        "-9223372036854775809",
        "99999999999999999999",
        "3.5",
    ]
    assert [(w.column, w.old, w.new, w.line) for w in report.widened] == [
        ("a", "INT", "STRING", 1032),
        ("b", "FLOAT", "STRING", 1042),
    ]


def test_csv_floats_may_be_large(write):
    data = b"a,b\n1e300,1\ninf,2\n9300000000000000000.5,3\n99999999999999999999,4\n"
    assert load(write("a.csv", data), schema={"a": "FLOAT"})[0]["a"][3].as_py() == 1e20
    table, _ = load(write("b.csv", data[: data.index(b"99999")]))
    assert table.schema.types == [pa.float64(), pa.int64()]


# -- NDJSON -----------------------------------------------------------------------------------------------------------


def test_ndjson_with_bad_lines(write):
    path = write("a.ndjson", b'{"a":1,"b":"x"}\n\n{"a":2}\nnot json\n[1]\n{"a":3,"b":"\xff"}\n{"b":"y","a":4}\n')
    table, report = load(path)
    assert table.to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": None}, {"a": 4, "b": "y"}]
    assert (report.lines, report.rows, report.blank, report.bad) == (7, 3, 1, 3)
    assert [(r.line, r.reason.split(":")[0]) for r in report.rejects] == [
        (4, "not JSON"),
        (5, "not a JSON object"),
        (6, "not valid UTF-8"),
    ]


def test_ndjson_widens_and_grows(write, monkeypatch):
    monkeypatch.setattr("eau2.ingest.formats.HEAD_BYTES", 512)
    rows = [{"a": n} for n in range(1000)]
    rows[700] = {"a": 1.5, "z": [1]}
    rows[900] = {"a": "t"}
    table, report = load(write("a.jsonl", b"\n".join(json.dumps(row).encode() for row in rows)), block_bytes=600)
    assert table.schema.types == [pa.string(), pa.list_(pa.int64())]
    assert table["a"].to_pylist()[699:702] == ["699", "1.5", "701"]
    assert table["a"].to_pylist()[900] == "t"
    assert [(w.column, w.new, w.line) for w in report.widened] == [
        ("a", "FLOAT", 701),
        ("z", "list<item: int64>", 701),
        ("a", "STRING", 901),
    ]


def test_ndjson_integers_beyond_64_bits_keep_all_digits(write, monkeypatch):
    table, report = load(write("a.ndjson", b'{"a":1,"b":1.5}\n{"a":12345678901234567891,"b":1e300}\n'))
    assert table.to_pylist() == [{"a": "1", "b": 1.5}, {"a": "12345678901234567891", "b": 1e300}]
    assert report.widened == ()
    monkeypatch.setattr("eau2.ingest.formats.HEAD_BYTES", 64)
    rows = [b'{"a":%d,"b":%d.5}' % (number, number) for number in range(2000)]
    rows[1030] = b'{"a":-9223372036854775809,"b":2}'
    rows[1040] = b'{"b":99999999999999999999,"a":7}'
    table, report = load(write("b.ndjson", b"\n".join(rows)))
    assert [table[name][row].as_py() for name, row in (("a", 1030), ("b", 1040), ("b", 3))] == [
        "-9223372036854775809",
        "99999999999999999999",
        "3.5",
    ]
    assert [(w.column, w.old, w.new, w.line) for w in report.widened] == [
        ("a", "INT", "STRING", 1031),
        ("b", "FLOAT", "STRING", 1041),
    ]


def test_ndjson_floats_may_be_large(write):
    path = write("a.ndjson", b'{"a":1e300,"t":"99999999999999999999"}\n{"a":9300000000000000000.5}\n{"a":[2e19]}\n')
    assert load(path)[0].num_rows == 3
    path = write("a.ndjson", b'{"a":1.5}\n{"a":99999999999999999999}\n')
    assert load(path, schema={"a": "FLOAT"})[0]["a"].to_pylist() == [1.5, 1e20]


def test_ndjson_that_does_not_fit_the_given_schema_is_bad(write):
    path = write("a.ndjson", b'{"a":1}\n{"a":"x"}\n{"a":2,"c":3}\n')
    table, report = load(path, schema={"a": "INT"})
    assert table.to_pylist() == [{"a": 1}]
    assert [(r.line, r.column) for r in report.rejects] == [(2, 1), (3, 0)]


def test_a_json_array_is_read_as_lines(write):
    assert load(write("a.json", b' [{"a": 1},\n {"a": 2}]'))[0].to_pylist() == [{"a": 1}, {"a": 2}]
    with pytest.raises(LoadError, match="is no JSON"):
        load(write("b.json", b"[{"))


# -- Parquet and Arrow ------------------------------------------------------------------------------------------------


TABLE = pa.table({"a": list(range(5000)), "b": [f"t{n}" for n in range(5000)]})


def arrow_file(path, opened):
    with opened(path, TABLE.schema) as writer:
        writer.write_table(TABLE, 1000)
    return path


@pytest.mark.parametrize(
    ("name", "put"),
    [
        ("a.parquet", lambda path: pq.write_table(TABLE, path)),
        ("a.arrow", lambda path: arrow_file(path, pa.ipc.new_file)),
        ("a.ipc", lambda path: arrow_file(path, pa.ipc.new_stream)),
    ],
)
def test_columnar_files_come_as_they_are_and_damage_is_named(tmp_path, name, put):
    path = tmp_path / name
    put(path)
    table, report = load(path)
    assert table.equals(TABLE)
    assert (report.lines, report.rows, report.bad) == (5000, 5000, 0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 5000])
    with pytest.raises(LoadError, match=f"{name} is no .* file, or is damaged"):
        load(path)


def test_a_large_row_group_comes_in_batches_of_some_megabytes(tmp_path):
    table = pa.table({"t": [f"{n:08}" * 1024 for n in range(3000)]})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    found, _ = load(tmp_path / "a.parquet")
    assert found.equals(table)
    assert max(batch.nbytes for batch in found.to_batches()) < 10 << 20


# -- what cannot be read ----------------------------------------------------------------------------------------------


def test_absent_files_directories_and_odd_names_are_clear_errors(tmp_path, write):
    with pytest.raises(LoadError, match=r"cannot read .*no.sor: No such file"):
        load(tmp_path / "no.sor")
    with pytest.raises(LoadError, match="No such file"):
        load(tmp_path / "no.parquet")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(LoadError, match="Is a directory"):
        load(tmp_path / "d.csv")
    with pytest.raises(LoadError, match="does not tell its format"):
        load(write("a.data", b"<1>\n"))
    assert load(write("a.data", b"<1>\n"), format="sor")[1].rows == 1


def test_json_that_is_no_text_or_nested_too_deeply_is_named(write):
    table, report = load(write("a.json", b'[{"a":"\\ud800"},{"a":"b"}]'))
    assert table.to_pylist() == [{"a": "b"}]
    assert [(r.line, r.reason) for r in report.rejects] == [(1, "not valid UTF-8")]
    with pytest.raises(LoadError, match="nested too deeply"):
        load(write("b.json", b"[" * 100_000))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.sor.gz", "a.ndjson.gz"])
@pytest.mark.parametrize("place", [0, 2, 40, -4])
def test_damaged_compressed_text_is_named(write, name, place):
    text = {"c": b"a,b\n1,2\n", "s": b"<1><2>\n", "n": b'{"a":1}\n'}[name[2]]
    data = bytearray(gzip.compress(b"".join(text for _ in range(50_000))))
    data[place] ^= 0xFF
    with pytest.raises(LoadError, match="cannot read"):
        load(write(name, bytes(data)))


@pytest.mark.parametrize("type_", [pa.list_(pa.int64()), pa.struct({"x": pa.int64()}), pa.float16(), pa.string_view()])
def test_a_csv_column_cannot_be_given_a_type_that_text_cannot_be_read_as(write, type_):
    with pytest.raises(InvalidOption, match="a csv column cannot be "):
        load(write("a.csv", b"a\n1\n"), schema={"a": type_})


@pytest.mark.parametrize("name", ["a.csv", "a.sor", "a.ndjson", "a.parquet"])
def test_a_pipe_is_refused_since_a_file_is_read_more_than_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(LoadError, match="is a pipe or a device") as caught:
        load(tmp_path / name)
    assert "store it in a file first" in str(caught.value)


def test_files_of_another_format_are_named(write):
    pq_bytes = b"PAR1" + bytes(100)
    with pytest.raises(LoadError, match="is a parquet file, not sor"):
        load(write("a.sor", pq_bytes))
    with pytest.raises(LoadError, match="NUL byte in line 2"):
        load(write("a.csv", b"a,b\n1,\x00\n"))
    with pytest.raises(LoadError, match="cannot read"):
        load(write("a.csv.gz", gzip.compress(b"a,b\n1,2\n" * 1000)[:-20]))


@pytest.mark.parametrize(
    "options",
    [
        {"format": "xls"},
        {"on_error": "ignore"},
        {"byte_range": (5, 1)},
        {"byte_range": (0, 5), "format": "parquet"},
        {"threads": 0},
        {"schema": 7},
        {"schema": {"a": "DECIMALS"}},
        {"schema": ["a", "a"]},
        {"schema": {"a": pa.date32()}},
        {"schema": {"a": "INT"}, "format": "arrow"},
    ],
)
def test_options_that_make_no_sense_are_refused(write, options):
    with pytest.raises(InvalidOption):
        load(write("a.sor", b"<1>\n"), **options)


def test_the_bar_is_shown_only_when_asked_or_on_a_terminal(write, capsys):
    path = write("a.sor", b"<1>\n" * 1000)
    load(path)
    load(path, progress=False)
    assert capsys.readouterr().err == ""
    load(path, progress=True)
    assert "a.sor" in capsys.readouterr().err

"""load, show and sql."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import eau2 as library

SOR = "<0><a><1.5>\n<1><b c>\n<2><'x'><2>\n\n<7\n"


def test_a_load_accounts_for_every_line(eau2, tmp_path):
    (tmp_path / "a.sor").write_text(SOR)
    assert eau2("load", "a", "a.sor", "--json").json == {
        "key": "a",
        "lines": 5,
        "rows": 2,
        "blank": 1,
        "bad": 2,
        "columns": [{"name": "c0", "type": "INT"}, {"name": "c1", "type": "STRING"}, {"name": "c2", "type": "FLOAT"}],
        "widened": [],
        "rejects": [
            {"line": 2, "column": 2, "reason": "several words without quotes"},
            {"line": 5, "column": 1, "reason": "unclosed <"},
        ],
    }
    text = eau2("load", "a", "a.sor").text
    assert "5 lines = 2 rows + 1 blank + 2 bad" in text
    assert "several words without quotes" in text
    assert eau2("show", "a", "--json").json["rows"] == 2


def test_a_load_says_what_it_widened(eau2, tmp_path):
    (tmp_path / "ids.sor").write_text("<0>\n<1>\n" * 300 + "<4967>\n")
    assert eau2("load", "ids", "ids.sor", "--json").json["widened"] == [
        {"column": "c0", "from": "BOOL", "to": "INT", "line": 601}
    ]
    assert "BOOL" in eau2("load", "ids", "ids.sor").text
    refused = eau2("load", "ids", "ids.sor", "--no-widen", "--json").json
    assert (refused["rows"], refused["bad"]) == (600, 1)


def test_the_ways_with_bad_lines(eau2, tmp_path):
    (tmp_path / "a.sor").write_text("<1><2>\n<x><4>\n")
    schema = ["--schema", "id:INT,n:INT"]
    assert eau2("load", "a", "a.sor", *schema, "--rejects", "bad.ndjson", "--json").json["bad"] == 1
    assert json.loads((tmp_path / "bad.ndjson").read_text())["line"] == 2
    assert eau2("load", "a", "a.sor", *schema, "--on-error", "null", "--json").json["rows"] == 2
    assert eau2("sql", "select * from a", "--json").json == [{"id": 1, "n": 2}, {"id": None, "n": 4}]
    assert "1 cell made missing" in eau2("load", "a", "a.sor", *schema, "--on-error", "null").text
    failed = eau2("load", "a", "a.sor", *schema, "--on-error", "fail")
    assert failed.code == 3
    assert "line 2" in failed.error


@pytest.mark.parametrize("cut", [0, 1, 5, 6, 7, 30, 59])
def test_two_byte_ranges_that_tile_a_file_have_its_rows(eau2, tmp_path, cut):
    (tmp_path / "a.sor").write_text("".join(f"<{i}>\n" for i in range(15)))
    first = eau2("load", "a", "a.sor", "--to", cut, "--json").json["rows"]
    assert first + eau2("load", "b", "a.sor", "--from", cut, "--json").json["rows"] == 15


def test_a_schema_gives_names_types_or_both(eau2, tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")

    def columns(*options):
        return [tuple(column.values()) for column in eau2("load", "a", "a.csv", *options, "--json").json["columns"]]

    assert columns("--schema", "x,y") == [("x", "INT"), ("y", "INT")]
    assert columns("--schema", "x:FLOAT, y:STRING", "--no-header") == [("x", "FLOAT"), ("y", "STRING")]
    assert columns("--format", "csv", "--schema", "1:FLOAT,2:INT") == [("1", "FLOAT"), ("2", "INT")]


def test_show_describes_a_frame_without_reading_its_rows(eau2, trips):
    document = eau2("show", "trips", "--rows", "2", "--json").json
    assert document.pop("bytes") > 100
    assert document == {
        "key": "trips",
        "kind": "frame",
        "version": 1,
        "rows": 100,
        "chunks": 1,
        "columns": [
            {"name": "id", "type": "INT", "nulls": 0, "min": 0, "max": 99},
            {"name": "fare", "type": "FLOAT", "nulls": 0, "min": 0.0, "max": 24.75},
            {"name": "vendor", "type": "STRING", "nulls": 34, "min": "b", "max": "c"},
        ],
        "preview": [{"id": 0, "fare": 0.0, "vendor": None}, {"id": 1, "fare": 0.25, "vendor": "b"}],
    }
    text = eau2("show", "trips", "--rows", "3").text
    assert text.startswith("trips: 100 rows, 3 columns, 1 chunk, ")
    assert "the first 3 of 100 rows" in text
    assert eau2("get", "trips").text == eau2("show", "trips").text


def test_show_describes_bytes_and_files(eau2, tmp_path):
    eau2("put", "a", "hello")
    (tmp_path / "f").write_bytes(b"\xff" * 300)
    eau2("put", "f", "--file", "f")
    common = {"version": 1}
    begin = {"text": "hello", "base64": None}
    assert eau2("show", "a", "--json").json == {"key": "a", "kind": "bytes", **common, "bytes": 5, "begin": begin}
    document = eau2("show", "f", "--json").json
    assert (document["kind"], document["bytes"], document["begin"]["text"]) == ("file", 300, None)
    assert "hello" in eau2("show", "a").text


def test_an_answer_is_a_bounded_table_that_says_how_many_rows_there_are(eau2, trips):
    ran = eau2("sql", "select id, vendor from trips order by id", "--rows", "2")
    lines = ran.text.splitlines()
    assert [line.split() for line in lines[:4]] == [["id", "vendor"], ["INT", "STRING"], ["0", "null"], ["1", "b"]]
    assert lines[4].startswith("the first 2 of 100 rows; ")
    assert len(lines) == 5


def test_the_query_may_come_from_standard_input(eau2, trips):
    assert eau2("sql", "-", "--json", stdin=b"select count(*) as n\nfrom trips").json == [{"n": 100}]


QUERY = "select id, vendor from trips where id < 3 order by id"
ROWS = [{"id": 0, "vendor": None}, {"id": 1, "vendor": "b"}, {"id": 2, "vendor": "c"}]


def read_csv(data: bytes):
    return [
        {"id": int(row["id"]), "vendor": row["vendor"] or None} for row in csv.DictReader(io.StringIO(data.decode()))
    ]


READERS = {
    "csv": read_csv,
    "json": json.loads,
    "ndjson": lambda data: [json.loads(line) for line in data.splitlines()],
    "parquet": lambda data: pq.read_table(io.BytesIO(data)).to_pylist(),
    "arrow": lambda data: pa.ipc.open_file(data).read_all().to_pylist(),
}


@pytest.mark.parametrize("format_", READERS)
def test_an_answer_is_written_in_every_format_to_a_file_and_to_a_pipe(eau2, trips, tmp_path, format_):
    document = eau2("sql", QUERY, "-o", f"out.{format_}", "--json").json
    data = (tmp_path / f"out.{format_}").read_bytes()
    assert document.pop("seconds") >= 0
    assert document == {"path": f"out.{format_}", "format": format_, "rows": 3, "bytes": len(data)}
    assert READERS[format_](data) == ROWS
    assert READERS[format_](eau2("sql", QUERY, "--format", format_, "-o", "-").out) == ROWS
    assert f"out.{format_}: 3 rows" in eau2("sql", QUERY, "-o", f"out.{format_}").text
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("format_", READERS)
def test_an_empty_answer_is_written_too(eau2, trips, format_):
    data = eau2("sql", "select id, vendor from trips where id < 0", "--format", format_).out
    assert READERS[format_](data) == []


def test_types_that_json_and_csv_lack_become_text(eau2, tmp_path):
    table = pa.table(
        {
            "list": pa.array([[1, None], None]),
            "at": pa.array([1_700_000_000_000_000_001, None], pa.timestamp("ns", "UTC")),
            "for": pa.array([1500, None], pa.duration("ms")),
            "price": pa.array(["1.50", None]).cast(pa.decimal128(5, 2)),
            "raw": pa.array([b"\xff", None]),
            "real": pa.array([float("nan"), 0.5]),
            "word": pa.array(["a", "é"]).dictionary_encode(),
        }
    )
    with library.open(tmp_path / "eau2-data") as store:
        store.put("odd", table)
    first, second = eau2("sql", "select * from odd", "--json").json
    assert first == {
        "list": [1, None],
        "at": "2023-11-14 22:13:20.000000001Z",
        "for": 1.5,
        "price": "1.50",
        "raw": "/w==",
        "real": None,
        "word": "a",
    }
    assert second == dict.fromkeys(first) | {"real": 0.5, "word": "é"}
    rows = list(csv.reader(io.StringIO(eau2("sql", "select * from odd", "--format", "csv").text)))
    assert rows[1] == ["[1, null]", first["at"], "1.5", "1.50", "/w==", "nan", "a"]


def test_text_that_would_steer_a_terminal_is_shown_as_text(eau2, tmp_path):
    with library.open(tmp_path / "eau2-data") as store:
        store.put("evil", {"\x1b[31mname": ["\x1b[2J\nboo"]})
    for command in (["show", "evil"], ["sql", "select * from evil"]):
        out = eau2(*command).out
        assert b"\x1b" not in out
        assert b"\\x1b[2J\\nboo" in out


def test_a_wide_frame_says_what_does_not_fit(eau2, tmp_path):
    with library.open(tmp_path / "eau2-data") as store:
        store.put("wide", {f"a_rather_long_name_{i}": ["x" * 50] for i in range(200)})
    for command in (["show", "wide"], ["sql", "select * from wide"]):
        text = eau2(*command).text
        assert max(map(len, text.splitlines())) <= 80
        assert "more columns" in text


def test_explain_shows_the_plan(eau2, trips):
    assert "trips" in eau2("sql", "select count(*) from trips where id > 5", "--explain").text
    assert list(eau2("sql", "select 1", "--explain", "--json").json) == ["plan"]


def test_a_failed_query_leaves_an_older_file_as_it_was(eau2, trips, tmp_path):
    (tmp_path / "out.csv").write_text("older")
    ran = eau2("sql", "select cast(vendor as int) as n from trips", "-o", "out.csv")
    assert ran.code in (2, 3)
    assert (tmp_path / "out.csv").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eau2-data", "out.csv", "trips.csv"]


def test_a_device_is_written_to_and_not_replaced(eau2, trips):
    assert eau2("sql", "select * from trips", "-o", "/dev/null", "--format", "csv").code == 0


@pytest.mark.parametrize("query", ["select current_date d", "select pi() d", "select upper('a') d", "select [1] d"])
def test_an_answer_that_has_no_nulls_where_it_might_is_shown_and_written(eau2, tmp_path, query):
    eau2("put", "k", "v")
    assert "1 row" in eau2("sql", query).text
    eau2("sql", query, "-o", "a.parquet")
    eau2("sql", query, "-o", "a.arrow")
    assert pq.read_table(tmp_path / "a.parquet").equals(pa.ipc.open_file(tmp_path / "a.arrow").read_all())


def test_csv_has_text_of_every_type_that_functions_give(eau2):
    eau2("put", "k", "v")
    assert eau2("sql", "select md5('a') t", "-f", "csv").text.split() == ['"t"', '"0cc175b9c0f1b6a831c399e269772661"']


@pytest.mark.parametrize("format_", ["json", "ndjson"])
def test_columns_of_one_name_are_not_made_one_in_silence(eau2, tmp_path, format_):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    eau2("load", "z", "a.csv")
    query = "select * from z x join z y on x.a = y.a"
    ran = eau2("sql", query, "-f", format_)
    assert (ran.code, ran.out) == (2, b"")
    assert "two columns are named 'a'" in ran.error
    assert eau2("sql", query, "-f", "csv").text.split() == ['"a","b","a","b"', "1,2,1,2"]


def test_what_is_loaded_is_not_replaced_by_its_rejects(eau2, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n")
    ran = eau2("load", "z", "a.csv", "--rejects", "a.csv")
    assert ran.code == 2
    assert "which is to be read" in ran.error
    ran = eau2("load", "z", "a.csv", "--rejects", "a.csv/bad")
    assert ran.code == 3
    assert "cannot write the bad lines to a.csv/bad: Not a directory" in ran.error
    assert (tmp_path / "a.csv").read_text() == "a,b\n1,2\n3\n"

"""The HTTP door over real sockets: keys, frames, conditions and queries."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from urllib.parse import quote

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.doors.conftest import Served
from tests.doors.test_http_requests import KEYS

import eau2
from eau2.doors import http_uploads
from eau2.doors.http_requests import path_of
from eau2.doors.http_routes import router
from eau2.doors.server import Doors, Server
from eau2.errors import PartMissing

pytestmark = pytest.mark.slow  # each starts a server

ARROW = "application/vnd.apache.arrow.stream"
HTTP = Doors(crud_port=None, redis_port=None, udp_port=None, http_port=0)
ODD_KEYS = [
    "?",
    "#",
    "%",
    "%2F",
    "/",
    "//",
    "/a//b/",
    ".",
    "..",
    "../a",
    "a b+c",
    "é/東京",
    "a&b=c;d",
    "\u2028",
    "keys",
]


def stream_of(table, rows=None):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def served(unserved):
    return unserved.open(HTTP)


@pytest.fixture(params=[1, 3])
def served_by(tmp_path, request):
    """A store of one node, and one of three."""
    with ExitStack() as stack:
        store = stack.enter_context(eau2.open(tmp_path / "store", nodes=request.param))
        yield Served(store, stack).open(HTTP)


# -- bytes ------------------------------------------------------------------------------------------------------------


def test_bytes_are_put_read_and_deleted(served_by):
    client = served_by.http()
    created = client.put("/keys/trips/1", b"hello")
    assert (created.status, created.tag, created.body) == (201, '"1"', b"")
    read = client.get("/keys/trips/1")
    assert (read.status, read.body, read.tag) == (200, b"hello", '"1"')
    assert (read.headers["Content-Type"], read.headers["Content-Length"]) == ("application/octet-stream", "5")
    assert served_by.store.get("trips/1") == b"hello"
    replaced = client.put("/keys/trips/1", b"")
    assert (replaced.status, replaced.tag) == (204, '"2"')
    head = client.ask("HEAD", "/keys/trips/1")
    assert (head.status, head.body, head.tag, head.headers["Content-Length"]) == (200, b"", '"2"', "0")
    assert client.ask("DELETE", "/keys/trips/1").status == 204
    assert [client.ask(method, "/keys/trips/1").status for method in ("GET", "HEAD", "DELETE")] == [404] * 3


def test_an_absent_key_is_said_with_those_near_it(served):
    served.store.put("trips", b"x")
    answer = served.http().get("/keys/tripz")
    assert answer.json == {
        "error": "KeyMissing",
        "message": "no value under 'tripz'",
        "hint": "did you mean 'trips'?",
    }


@pytest.mark.parametrize("key", ODD_KEYS)
def test_every_odd_key_is_reached(served, key):
    client = served.http()
    assert client.put(path_of(key), key.encode()).status == 201
    assert served.store.keys() == [key]
    assert client.get(path_of(key)).body == key.encode()
    assert client.get("/keys/" + quote(key, safe="")).body == key.encode()
    assert client.get("/keys/?key=" + quote(key, safe="")).body == key.encode()
    assert client.get("/keys").json == {"keys": [key], "next": None}
    assert client.ask("DELETE", path_of(key)).status == 204


def test_any_bytes_under_any_key_come_back(served):
    client = served.http()

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(KEYS, st.binary(max_size=2000))
    def come_back(key, value):
        assert client.put(path_of(key), value).status in (201, 204)
        assert client.get(path_of(key)).body == value
        assert served.store.get(key) == value

    come_back()


@pytest.mark.parametrize("path", ["/keys/", "/keys/%FF", "/keys/%00", "/keys/" + "a" * 513])
def test_what_is_no_key_is_refused(served, path):
    client = served.http()
    for answer in (client.get(path), client.put(path, b"x"), client.ask("DELETE", path)):
        assert (answer.status, answer.json["error"]) == (400, "InvalidKey")


def test_keys_are_listed_a_page_at_a_time(served_by):
    keys = sorted([f"a/{number:03d}" for number in range(25)] + ["b", "é"])
    served_by.store.put_many(dict.fromkeys(keys, b""))
    client, listed, after = served_by.http(), [], ""
    while after is not None:
        page = client.get(f"/keys?limit=7&after={quote(after)}").json
        assert len(page["keys"]) <= 7
        listed += page["keys"]
        after = page["next"]
    assert listed == keys
    assert client.get("/keys?prefix=a%2F&limit=25").json == {"keys": keys[:25], "next": None}
    assert client.get("/keys?prefix=a/&limit=2&after=a/003").json["keys"] == ["a/004", "a/005"]
    assert client.get("/keys?prefix=none").json == {"keys": [], "next": None}
    for wrong in ("0", "-1", "10001", "x", "", "٣"):
        assert client.get("/keys?limit=" + quote(wrong)).json["error"] == "InvalidOption"


def test_conditions_are_those_of_the_store(served):
    client = served.http()
    assert client.put("/keys/a", b"1", if_match="*").status == 412
    assert client.put("/keys/a", b"1", if_none_match="*").status == 201
    assert client.put("/keys/a", b"2", if_none_match="*").json["error"] == "KeyExists"
    assert client.put("/keys/a", b"2", if_match='"7"').json["error"] == "VersionConflict"
    assert client.put("/keys/a", b"2", if_match='"1"').tag == '"2"'
    assert client.put("/keys/a", b"3", if_match="*").tag == '"3"'
    assert client.put("/keys/a", b"4", if_match="3").status == 400
    assert client.get("/keys/a", if_none_match='"3"').status == 304
    assert client.get("/keys/a", if_none_match='"2", "1"').body == b"3"
    assert client.ask("DELETE", "/keys/a", if_match='"2"').status == 412
    assert client.ask("DELETE", "/keys/none", if_match='"2"').status == 412
    assert client.ask("DELETE", "/keys/a", if_none_match="*").status == 400
    assert served.store.get("a") == b"3"
    assert client.ask("DELETE", "/keys/a", if_match='"3"').status == 204
    assert client.put("/keys/a", b"5").tag == '"5"'


@pytest.mark.slow
def test_bytes_have_at_most_64_mib_and_what_is_longer_is_passed_over(served):
    client = served.http()
    whole = bytes(64 << 20)
    assert client.put("/keys/a", whole).status == 201
    assert client.get("/keys/a").body == whole
    assert client.put("/keys/a", whole + b"x").json["error"] == "ValueTooLarge"
    cut = client.ask("PUT", "/keys/a", (bytes(1 << 20) for _ in range(65)))  # chunked: its length is not announced
    assert cut.status == 413
    assert client.get("/keys/a", if_none_match='"1"').status == 304


# -- frames -----------------------------------------------------------------------------------------------------------

TABLE = pa.table({"id": [1, 2, None], "name": ["a", "é\n", ""]})


def test_a_frame_is_read_in_the_format_that_is_asked_for(served_by):
    served_by.store.put("t", TABLE)
    client = served_by.http()
    rows = TABLE.to_pylist()
    by_json = client.get("/keys/t")
    assert (by_json.headers["Content-Type"], by_json.json, by_json.tag) == ("application/json", rows, '"1"')
    assert by_json.headers["Vary"] == "Accept"
    lines = client.get("/keys/t", accept="application/x-ndjson").body.splitlines()
    assert [json.loads(line) for line in lines] == rows
    csv = client.get("/keys/t", accept="text/csv")
    assert csv.body.decode() == '"id","name"\n1,"a"\n2,"é\n"\n,""\n'
    arrow = client.get("/keys/t", accept=ARROW)
    assert pa.ipc.open_stream(arrow.body).read_all().equals(TABLE)
    for name, answer in (("csv", csv), ("arrow", arrow), ("json", by_json)):
        assert client.get(f"/keys/t?format={name}", accept="text/html").body == answer.body
    assert client.get("/keys/t", accept="image/png").status == 406
    assert client.get("/keys/t?format=xml").status == 406
    head = client.ask("HEAD", "/keys/t", accept="text/csv")
    assert (head.status, head.tag, head.body) == (200, '"1"', b"")
    assert client.get("/keys/t", if_none_match='"1"').status == 304


def test_bytes_have_no_format_and_nested_columns_no_csv(served):
    served.store.put("b", b"x")
    served.store.put("n", {"n": [[1], None]})
    client = served.http()
    assert client.get("/keys/b", accept="text/csv").body == b"x"
    assert client.get("/keys/b?format=csv").json["error"] == "NotAcceptable"
    refused = client.get("/keys/n?format=csv")
    assert (refused.status, "'n'" in refused.json["message"]) == (406, True)
    assert client.get("/keys/n").json == [{"n": [1]}, {"n": None}]


def test_a_file_of_any_size_is_bytes(served, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    served.store.put_file("file", path)
    client = served.http()
    answer = client.get("/keys/file")
    assert (answer.headers["Content-Type"], answer.body) == ("application/octet-stream", path.read_bytes())


def test_an_arrow_stream_is_put_as_a_frame(served_by):
    client = served_by.http(content_type=ARROW)
    assert client.put("/keys/t", stream_of(TABLE, rows=1), if_none_match="*").status == 201
    assert served_by.store.frame("t").to_arrow().equals(TABLE)
    assert client.put("/keys/t", stream_of(TABLE), if_none_match="*").status == 412
    assert client.put("/keys/t", stream_of(TABLE.slice(1)), if_match='"1"').tag == '"2"'
    assert client.put("/keys/empty", stream_of(TABLE.slice(3))).status == 201
    assert served_by.store.frame("empty").schema.equals(TABLE.schema)
    parts = iter([stream_of(TABLE)[start : start + 7] for start in range(0, len(stream_of(TABLE)), 7)])
    assert client.ask("PUT", "/keys/chunked", parts).status == 201
    assert served_by.store.frame("chunked").to_arrow().equals(TABLE)


def test_files_are_loaded_with_their_account(served_by):
    client = served_by.http()
    loaded = client.put("/keys/t", b"a,b\n1,x\n2,y\n", content_type="text/csv; charset=utf-8")
    assert loaded.status == 200
    assert (loaded.json["rows"], loaded.json["version"], loaded.tag) == (2, 1, '"1"')
    assert served_by.store.frame("t").to_arrow().to_pydict() == {"a": [1, 2], "b": ["x", "y"]}
    bad = client.put("/keys/n", b'{"a": 1}\nno\n{"a": 2.5}\n', content_type="application/x-ndjson").json
    assert (bad["lines"], bad["rows"], bad["bad"]) == (3, 2, 1)
    assert served_by.store.frame("n").to_arrow().to_pydict() == {"a": [1.0, 2.5]}
    refused = client.put("/keys/n?on_error=fail", b'{"a": 1}\nno\n', content_type="application/x-ndjson")
    assert (refused.status, refused.json["error"]) == (400, "LoadError")
    assert "/proc/" not in refused.body.decode()
    assert client.put("/keys/n?on_error=x", b"", content_type="text/csv").json["error"] == "InvalidOption"
    sink = io.BytesIO()
    pl.DataFrame({"x": [1, 2]}).write_parquet(sink)
    parquet = {"content_type": "application/vnd.apache.parquet"}
    assert client.put("/keys/p", sink.getvalue(), if_none_match="*", **parquet).json["rows"] == 2
    assert client.put("/keys/p", sink.getvalue(), if_none_match="*", **parquet).status == 412
    assert client.put("/keys/p", b"a,b\n3,4\n", if_match='"1"', content_type="text/csv").tag == '"2"'
    assert client.put("/keys/p", sink.getvalue()[:-9], **parquet).json["error"] == "LoadError"
    assert served_by.store.frame("p").columns == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"garbage, and more of it", {"content_type": ARROW}, 413),  # read as a length
        (b"", {"content_type": ARROW}, 400),
        (stream_of(TABLE)[:-60], {"content_type": ARROW}, 400),
        (b"\xff\xff\xff\xff\x08\0\0\0" + bytes(8), {"content_type": ARROW}, 400),
        (b"a,b\n\0", {"content_type": "text/csv"}, 400),
        (b"PAR1", {"content_type": "application/vnd.apache.parquet"}, 400),
        (b"x", {"content_encoding": "gzip"}, 415),
    ],
)
def test_bodies_that_are_not_what_they_say_change_nothing(served, body, headers, status):
    served.store.put("t", b"before")
    client = served.http()
    answer = client.put("/keys/t", body, **headers)
    assert answer.status == status, answer.body
    assert set(answer.json) == {"error", "message", "hint"}
    assert client.get("/keys/t").body == b"before"


def test_an_arrow_stream_that_lies_is_refused(served):
    table = pa.table({"s": ["one", "two"] * 50})
    body = bytearray(stream_of(table))
    at = body.index(b"onetwoone")
    body[at : at + 3] = b"\xff\xfe\xfd"  # no UTF-8
    answer = served.http().put("/keys/t", bytes(body), content_type=ARROW)
    assert (answer.status, answer.json["error"]) == (400, "InvalidValue")
    assert served.store.keys() == []


def test_a_full_disk_behind_the_door_is_507(served, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full(io.BytesIO):
        write = full

    real = tempfile.TemporaryFile
    monkeypatch.setattr(http_uploads.tempfile, "TemporaryFile", lambda **_: Full())
    client = served.http()
    answer = client.put("/keys/t", b"a\n1\n", content_type="text/csv")
    assert (answer.status, answer.json["error"]) == (507, "DiskFull")
    monkeypatch.setattr(http_uploads.tempfile, "TemporaryFile", real)
    assert client.put("/keys/t", b"a\n1\n", content_type="text/csv").status == 200


def test_polars_reads_a_frame(served):
    served.store.put("t", TABLE)
    host, port = served.server.addresses["http"]
    with urllib.request.urlopen(f"http://{host}:{port}/keys/t?format=arrow") as answer:
        assert pl.read_ipc_stream(answer.read()).equals(pl.from_arrow(TABLE))
    with urllib.request.urlopen(f"http://{host}:{port}/keys/t?format=csv") as answer:
        assert pl.read_csv(answer).equals(pl.from_arrow(TABLE))


@pytest.mark.slow
def test_a_frame_larger_than_what_is_sent_at_once_comes_whole(served):
    table = pa.table({"n": range(2_000_000), "s": [f"row {number}" for number in range(2_000_000)]})
    client = served.http()
    assert client.put("/keys/t", stream_of(table, rows=50_000), content_type=ARROW).status == 201
    assert pa.ipc.open_stream(client.get("/keys/t?format=arrow").body).read_all().equals(table)
    assert len(client.get("/keys/t").json) == 2_000_000


# -- queries ----------------------------------------------------------------------------------------------------------


def test_a_query_is_answered_in_the_format_that_is_asked_for(served_by):
    served_by.store.put("trips/1", {"vendor": ["a", "b", "a"], "fare": [1.5, 2.0, 3.0]})
    client = served_by.http()
    text = 'select vendor, sum(fare) as s from "trips/1" group by vendor order by vendor'
    rows = [{"vendor": "a", "s": 4.5}, {"vendor": "b", "s": 2.0}]
    assert client.sql(text).json == rows
    body = json.dumps({"query": text}).encode()
    assert client.ask("POST", "/sql", body, content_type="application/json").json == rows
    assert client.ask("POST", "/sql", text.encode()).json == rows
    assert client.sql(text, accept="text/csv").body == b'"vendor","s"\n"a",4.5\n"b",2\n'
    assert pa.ipc.open_stream(client.sql(text, accept=ARROW).body).read_all().to_pylist() == rows
    assert pa.ipc.open_stream(client.sql(text, path="/sql?format=arrow").body).read_all().to_pylist() == rows
    assert client.sql('select * from "trips/1" where fare < 0').json == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("select * from none", "UnknownTable"),
        ("select none from t", "UnknownColumn"),
        ("selec", "QueryError"),
        ("select a / 0 from t", "QueryError"),  # found when it runs
        ("drop table t", "QueryError"),
        ("copy t to '/tmp/x.csv'", "QueryError"),
        ("select * from '/etc/passwd'", "UnknownTable"),
        (" ", "InvalidValue"),
    ],
)
def test_what_is_wrong_with_a_query_is_said(served, text, kind):
    served.store.put("t", {"a": [1, 2]})
    answer = served.http().sql(text)
    assert (answer.status, answer.json["error"]) == (400, kind)
    assert set(answer.json) == {"error", "message", "hint"}


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"select 1", "application/x-www-form-urlencoded", 415),
        (b"select 1", "multipart/form-data", 415),
        (b"\xff", "text/plain", 400),
        (b"select 1", "application/json", 400),
        (b'{"query": 1}', "application/json", 400),
        (b'{"query": "select 1", "more": 1}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b" " * ((1 << 20) + 1), "text/plain", 413),
    ],
)
def test_a_body_that_is_no_query_is_refused(served, body, media_type, status):
    client = served.http()
    assert client.ask("POST", "/sql", body, content_type=media_type).status == status
    assert client.sql("select 1 as one").json == [{"one": 1}]


# -- the door ---------------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_said_as_everything_is(served):
    client = served.http()
    none, wrong = client.get("/none"), client.ask("PATCH", "/keys/a", b"x")
    assert (none.status, none.json["error"]) == (404, "NotFound")
    assert (wrong.status, wrong.json["error"]) == (405, "MethodNotAllowed")
    assert set(wrong.headers["Allow"].split(", ")) == {"GET", "HEAD", "PUT", "DELETE"}
    assert client.get("/sql").status == 405
    assert client.get("/keys/").status == 400
    assert "/openapi.json" in client.get("/").body.decode()
    assert client.get("/", accept="text/html").headers["Content-Type"].startswith("text/html")
    assert client.get("/health").json == {"status": "ok"}


def test_a_store_that_is_closed_beneath_is_said(served):
    client = served.http()
    served.store.close()
    for answer in (client.get("/health"), client.get("/keys/a"), client.put("/keys/a", b""), client.sql("select 1")):
        assert (answer.status, answer.json["error"]) == (503, "StoreClosed")


def test_the_description_is_true(served):
    document = served.http().get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    described = {
        (path, method.upper())
        for path, verbs in document["paths"].items()
        for method in verbs
        if method in ("get", "put", "post", "delete", "head")
    }
    routed = {
        (route.path.replace(":path", ""), method)
        for route in router().routes
        for method in route.methods
        if method != "HEAD" or "{" in route.path
    }
    assert described == routed
    served.store.put("a", b"x")
    client = served.http()
    for path, method in described - {("/keys/{key}", "DELETE")}:
        body = b"select 1" if path == "/sql" else b"x"
        answer = client.ask(method, path.replace("{key}", "a"), body if method in ("PUT", "POST") else None)
        operation = document["paths"][path][method.lower()]
        assert str(answer.status) in operation["responses"], (path, method)
        media_type = answer.headers.get_content_type()
        if answer.body:
            assert media_type in operation["responses"][str(answer.status)]["content"]


def test_the_description_has_the_structure_of_openapi(served):
    document = served.http().get("/openapi.json").json
    names = [name for path in document["paths"].values() for name in operations(path, "operationId")]
    assert len(names) == len(set(names)) == 10
    for path, item in document["paths"].items():
        given = [parameter for parameter in item.get("parameters", []) if parameter["in"] == "path"]
        assert [parameter["name"] for parameter in given] == re.findall(r"{(\w+)}", path)
        assert all(parameter["required"] is True for parameter in given)
        for operation in (each for method, each in item.items() if method != "parameters"):
            assert set(operation) <= {
                *("operationId", "summary", "responses", "parameters", "requestBody", "security"),
            }
            for parameter in operation.get("parameters", []):
                assert {"name", "in", "schema"} <= set(parameter)
                assert parameter["in"] in ("query", "header")
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d|default", status)
                assert response["description"]
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        found = document
        for part in reference.split("/"):
            found = found[part]
        assert found["type"] == "object"


def operations(item, field):
    return [operation[field] for method, operation in item.items() if method != "parameters"]


def test_without_its_parts_the_door_says_how_to_get_them(unserved, monkeypatch):
    from eau2.doors import server

    monkeypatch.setattr(server, "_HTTP_PARTS", ("starlette", "no_such_part"))
    assert not server.has_http()
    with pytest.raises(PartMissing, match=r"pip install \"eau2\[serve\]\""):
        Server(unserved.store, HTTP)
    assert "http" not in unserved.open(Doors()).server.addresses


def test_a_server_without_the_door_imports_none_of_its_parts(tmp_path):
    code = """if True:
        import sys, eau2
        from eau2.doors.server import Doors, Server
        with eau2.open(sys.argv[1]) as store, Server(store, Doors()):
            print([name for name in ("starlette", "uvicorn", "h11", "anyio") if name in sys.modules])"""
    import subprocess

    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr

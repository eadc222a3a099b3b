"""The HTTP door against who is slow, strange or hostile, who goes away, and at its end."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from tests.doors.certified import tls_context
from tests.doors.test_http import ARROW, HTTP, TABLE, stream_of
from tests.until import SECONDS_MAX, rests, until

from eau2.doors import http as door
from eau2.doors import http_values, server
from eau2.doors.server import Doors, Server
from eau2.doors.tokens import Role, Tokens
from eau2.errors import InvalidOption, StoreUnusable
from eau2.frame.frame import Frame

pytestmark = pytest.mark.slow  # they wait, or send much

READ, WRITE, ADMIN = "a token that reads", "a token that writes", "a token that may all"
TOKENS = Tokens([(READ, Role.READ), (WRITE, Role.WRITE), (ADMIN, Role.ADMIN)])
GET = b"GET /keys/%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Its steps are small, after each of which the engine can look whether anybody waits.
# 3 seconds here: the engine looks whether anybody waits between its steps, and on a quiet machine not even then.
LONG = "with recursive r as (select 1 as n union all select n + 1 from r where n < 100000) select count(*) as n from r"


@pytest.fixture
def noted(monkeypatch):
    """What the connections of each server share."""
    found = []

    class Noted(server.Shared):
        def __init__(self, *given):
            super().__init__(*given)
            found.append(self)

    monkeypatch.setattr(server, "Shared", Noted)
    return found


@pytest.fixture
def served(unserved, noted):
    unserved.noted = noted
    return unserved.open(HTTP)


@pytest.fixture
def hurried(unserved, noted, monkeypatch):
    """Who is slow is let go soon."""
    monkeypatch.setattr(door, "STALLED_SECONDS", 0.3)
    monkeypatch.setattr(server, "_LOOK_SECONDS", 0.05)
    unserved.noted = noted
    return unserved.open(HTTP)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "eau2.doors")
    return lambda: [json.loads(record.message) for record in caplog.records if record.name == "eau2.doors"]


def rest_of(asked):
    """What comes until the connection ends; None where it breaks off."""
    received = b""
    try:
        while data := asked.recv(1 << 16):
            received += data
    except ConnectionError:
        return None
    return received


def connections(served):
    return served.noted[-1].connections


# -- who may ----------------------------------------------------------------------------------------------------------


def test_a_token_says_what_its_client_may_do(unserved, said):
    client = unserved.open(HTTP, tokens=TOKENS).http()
    assert [client.get(path).status for path in ("/", "/health")] == [200, 200]
    for answer in (client.get("/keys"), client.get("/openapi.json"), client.put("/keys/a", b"x"), client.get("/none")):
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="eau2"')
    wrong = client.get("/keys", authorization="Bearer somebody else's")
    assert (wrong.status, "invalid_token" in wrong.headers["WWW-Authenticate"]) == (401, True)
    assert client.get("/keys", authorization=f"Basic {READ}").status == 401
    refused = [each for each in said() if each["event"] == "token refused"]
    host, port = client.connection.sock.getsockname()
    assert [(each["audit"], each["client"]) for each in refused] == [(True, f"{host}:{port}")]
    assert READ not in json.dumps(said())
    reading, writing = {"authorization": f"Bearer {READ}"}, {"authorization": f"bearer {WRITE}"}
    assert client.get("/keys", **reading).json == {"keys": [], "next": None}
    assert client.sql("select 1 as one", **reading).json == [{"one": 1}]
    assert client.put("/keys/a", b"x", **reading).json["message"] == "the token may only read"
    assert client.ask("DELETE", "/keys/a", **reading).status == 403
    assert client.put("/keys/a", b"x", **writing).status == 201
    assert client.ask("DELETE", "/keys/a", authorization=f"Bearer {ADMIN}").status == 204


def test_beyond_loopback_tokens_are_wanted(unserved):
    doors = Doors(host="0.0.0.0", crud_port=None, redis_port=None, udp_port=None, http_port=0)
    with pytest.raises(InvalidOption, match="could read and write everything"):
        Server(unserved.store, doors)
    client = unserved.open(doors, tokens=TOKENS).http(host="store.example:7480", authorization=f"Bearer {READ}")
    assert client.get("/keys").status == 200


def test_a_page_of_another_site_can_do_nothing(served):
    served.store.put("a", b"secret")
    client = served.http()
    host, port = served.server.addresses["http"]
    own = f"{host}:{port}"
    for headers, status in (
        ({"host": "evil.example"}, 421),
        ({"host": own, "origin": "http://evil.example"}, 403),
        ({"host": own, "origin": "null"}, 403),
        ({"host": own, "sec_fetch_site": "cross-site"}, 403),
        ({"host": own, "sec_fetch_site": "same-site"}, 403),
    ):
        for answer in (
            client.get("/keys/a", **headers),
            client.put("/keys/a", b"x", **headers),
            client.sql("select 1", **headers),
            client.ask("OPTIONS", "/keys/a", **headers),
        ):
            assert answer.status == status
            assert b"secret" not in answer.body
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert client.get("/keys/a", host=own, origin=f"http://{own}", sec_fetch_site="same-origin").body == b"secret"
    answer = client.get("/keys/a", host=own, sec_fetch_site="none")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00" * 10,
        b"R a\nC a 1\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /keys/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/keys HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"".join(b"X-%d: %b\r\n" % (number, b"x" * 900) for number in range(100)),
    ],
)
def test_what_is_no_request_is_refused_and_nobody_else_notices(served, said, sent):
    asked = served.raw(sent)
    asked.shutdown(socket.SHUT_WR)
    received = rest_of(asked)
    assert not received or received.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505")), received
    assert served.store.keys() == []
    assert served.http().get("/keys").status == 200
    assert [each for each in said() if each["event"] == "failed"] == []


def test_requests_come_byte_by_byte_and_several_at_once(served):
    served.store.put("a", b"hello")
    asked = served.raw(b"")
    for byte in GET % b"a":
        asked.sendall(bytes([byte]))
    asked.sendall((GET % b"a") * 20 + b"GET /keys/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert rest_of(asked).count(b"\r\n\r\nhello") == 22


@pytest.mark.parametrize(
    "sent",
    [
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc",
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 10\r\n\r\na\n1\n",
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: 9999\r\n\r\n%b"
        % (ARROW.encode(), stream_of(TABLE)),
    ],
)
def test_a_request_that_is_cut_off_is_not_done(served, said, sent):
    asked = served.raw(sent)
    until(lambda: any(each.cycle for each in connections(served)))
    asked.close()
    until(lambda: not connections(served))
    assert served.store.keys() == []
    assert [each for each in said() if each["event"] == "failed"] == []


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /keys/a HT",
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc",
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: 9999\r\n\r\n%b"
        % (ARROW.encode(), stream_of(TABLE)),
        b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc",  # it has been answered
    ],
)
def test_who_does_not_finish_a_request_is_let_go(hurried, sent):
    asked = hurried.raw(sent)
    received = rest_of(asked)
    assert received is None or received.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 404 ")), received
    assert hurried.store.keys() == []


@pytest.mark.slow
def test_who_dribbles_is_let_go(hurried):
    for head in (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n",
    ):
        asked = hurried.raw(head)
        gone = time.monotonic() + SECONDS_MAX
        with pytest.raises(ConnectionError):  # once it is let go
            while time.monotonic() < gone:
                asked.sendall(b"x")
                time.sleep(0.01)


def test_who_asks_nothing_is_let_go(unserved, monkeypatch):
    monkeypatch.setattr(door, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(server, "_LOOK_SECONDS", 0.05)
    unserved.open(HTTP)
    assert rest_of(unserved.raw(b"")) == b""
    answered = rest_of(unserved.raw(GET % b"none"))
    assert answered.startswith(b"HTTP/1.1 404 ")


@pytest.mark.slow
@pytest.mark.parametrize("path", [b"big", b"t"])
def test_who_does_not_take_an_answer_is_let_go(hurried, path):
    hurried.store.put("big", bytes(60 << 20))
    hurried.store.put("t", {"n": range(3_000_000)})
    asked = hurried.raw(GET % path)
    until(lambda: connections(hurried))
    until(lambda: not connections(hurried))
    assert rest_of(asked) is None
    assert hurried.http().get("/keys").status == 200


@pytest.mark.slow
def test_who_takes_an_answer_slowly_gets_all_of_it(unserved, monkeypatch):
    monkeypatch.setattr(door, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(server, "_LOOK_SECONDS", 0.05)
    served = unserved.open(HTTP)
    served.store.put("big", bytes(40 << 20))
    asked = served.raw(b"GET /keys/big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    received, begun = 0, time.monotonic()
    while data := asked.recv(1 << 20):
        received += len(data)
        time.sleep(0.05)
    assert time.monotonic() - begun > 1.5
    assert received > 40 << 20


def test_more_connections_than_the_limit_are_told_so(unserved):
    unserved.open(Doors(crud_port=None, redis_port=None, udp_port=None, http_port=0, connections_max=3))
    clients = [unserved.http() for _ in range(3)]
    assert [client.get("/health").status for client in clients] == [200] * 3
    refused = rest_of(unserved.raw(b""))
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert refused.endswith(b'"too many connections: try again later", "hint": ""}')
    clients[0].close()
    until(lambda: not (rest_of(unserved.raw(b"GET /health HTTP/1.0\r\n\r\n")) or b" 503 ").startswith(b"HTTP/1.1 503"))


def test_a_body_that_is_refused_is_not_read(unserved):
    unserved.open(HTTP, tokens=TOKENS)
    head = b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 60000000\r\n"
    asked = unserved.raw(head + b"\r\n")
    assert asked.recv(1000).startswith(b"HTTP/1.1 401 ")
    asked = unserved.raw(head + b"Authorization: Bearer %b\r\n\r\n" % WRITE.encode())
    assert asked.recv(1000).startswith(b"HTTP/1.1 100 ")


# -- answers that fail, and those who go away --------------------------------------------------------------------------


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("name", ["json", "csv", "arrow", "ndjson"])
def test_an_answer_that_fails_amid_its_rows_does_not_look_whole(served, monkeypatch, said, version, name):
    def batches(frame):
        yield pa.record_batch({"n": [1]})
        raise ValueError("a chunk is gone")

    served.store.put("t", {"n": [1, 2]})
    monkeypatch.setattr(Frame, "batches", batches)
    monkeypatch.setattr(http_values, "PIECE_ROWS", 1)
    received = rest_of(
        served.raw(b"GET /keys/t?format=%b HTTP/%b\r\nHost: localhost\r\n\r\n" % (name.encode(), version))
    )
    assert received is None
    until(lambda: [each for each in said() if each["event"] == "failed" and "a chunk is gone" in each["error"]])
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        served.http().get(f"/keys/t?format={name}")


def test_a_table_whose_type_changes_amid_its_rows_breaks_off(served, monkeypatch):
    def batches(frame):
        yield pa.record_batch({"n": [1]})
        yield pa.record_batch({"n": ["x"]})

    served.store.put("t", {"n": [1, 2]})
    monkeypatch.setattr(Frame, "batches", batches)
    for name in ("json", "csv", "arrow", "ndjson"):
        assert rest_of(served.raw(GET % f"t?format={name}".encode())) is None


def test_our_own_fault_is_500_and_is_logged(served, monkeypatch, said):
    def wrong(*_, **__):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(type(served.store), "exists", wrong)
    answer = served.http().get("/health")
    assert (answer.status, answer.json["error"], answer.json["message"]) == (
        500,
        "InternalFailure",
        "ZeroDivisionError",
    )
    assert [each["error"] for each in said() if each["event"] == "failed"] == ["ZeroDivisionError('ours')"]


@pytest.mark.slow
def test_a_query_whose_client_has_gone_holds_up_nobody(unserved):
    served = unserved.open(Doors(http_port=0, udp_port=None))
    served.store.put("t", {"id": range(100)})
    body = LONG.encode()
    head = b"POST /sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    asked = [served.raw(head + body) for _ in range(3)]
    until(lambda: [thread for thread in threading.enumerate() if thread.name == "eau2-query"])
    assert served.http().put("/keys/a", b"x").status == 201
    assert served.lines().ask(b"R a") == b"x"
    assert served.redis().ask("GET", "a") == b"x"
    for each in asked:
        each.close()
    until(rests)
    assert served.http().sql("select 1 as one").json == [{"one": 1}]


@pytest.mark.slow
def test_more_queries_than_run_at_a_time_hold_up_only_queries(unserved, noted, monkeypatch):
    monkeypatch.setattr(door, "QUERIES_MAX", 2)
    unserved.noted = noted
    served = unserved.open(HTTP)
    served.store.put("t", {"id": range(100)})
    body = LONG.encode()
    head = b"POST /sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    asked = [served.raw(head + body) for _ in range(5)]
    until(lambda: len(connections(served)) == 5)
    assert served.http().get("/keys").json["keys"] == ["t"]
    for each in asked:
        each.close()
    assert served.http().sql("select 1 as one").json == [{"one": 1}]
    until(rests)


# -- the end ----------------------------------------------------------------------------------------------------------


def test_what_was_accepted_is_answered_when_the_server_stops(served, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    put = type(served.store).put

    def slow(*given, **options):
        begun.set()
        go_on.wait(SECONDS_MAX)
        return put(*given, **options)

    monkeypatch.setattr(type(served.store), "put", slow)
    asked = served.raw(b"PUT /keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
    begun.wait(SECONDS_MAX)
    threading.Timer(0.05, go_on.set).start()
    served.server.close()
    assert rest_of(asked).startswith(b"HTTP/1.1 201 ")
    assert served.store.get("a") == b"x"


@pytest.mark.slow
def test_a_server_closes_whatever_its_clients_do_and_its_port_can_be_had_again(served):
    served.store.put("t", {"id": range(100)})
    served.store.put("big", bytes(60 << 20))
    body = LONG.encode()
    asking = served.raw(b"POST /sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    downloading, idle = served.raw(GET % b"big"), served.raw(b"")
    putting = served.raw(
        b"PUT /keys/f HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: 9999\r\n\r\n%b"
        % (ARROW.encode(), stream_of(TABLE))
    )
    assert downloading.recv(10)
    until(lambda: [thread for thread in threading.enumerate() if thread.name.startswith("eau2-http-put")])
    _, port = served.server.addresses["http"]
    with pytest.raises(StoreUnusable, match="the http door cannot listen"):
        Server(served.store, Doors(crud_port=None, redis_port=None, udp_port=None, http_port=port))
    begun = time.monotonic()
    served.server.close()
    print(f"closed in {time.monotonic() - begun:.2f} s")  # a timing is no test: END_SECONDS bounds it
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("eau2-http")]
    assert rest_of(idle) == b""
    assert [rest_of(each) for each in (downloading, asking, putting)] == [None] * 3
    assert served.store.keys() == ["big", "t"]
    served.open(Doors(crud_port=None, redis_port=None, udp_port=None, http_port=port))
    assert served.http().get("/keys").json["keys"] == ["big", "t"]
    until(rests)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_http_is_served_by_tls(unserved, tmp_path):
    context = tls_context(tmp_path)
    unserved.open(HTTP, tls=context)
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    client = http.client.HTTPSConnection(*unserved.server.addresses["http"], timeout=SECONDS_MAX, context=trusting)
    value = os.urandom(3 << 20)
    client.request("PUT", "/keys/a", value)
    assert client.getresponse().read() == b""
    client.request("GET", "/keys/a")
    assert client.getresponse().read() == value
    client.close()
    assert not (rest_of(unserved.raw(GET % b"a")) or b"").startswith(b"HTTP")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_is_a_client(served):
    host, port = served.server.addresses["http"]

    def curl(*arguments, given=b""):
        ran = subprocess.run(["curl", "-sS", *arguments], input=given, capture_output=True, timeout=SECONDS_MAX)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    url = f"http://{host}:{port}"
    curl("-T", "-", f"{url}/keys/a%2F..%2Fb", given=b"hello")
    assert served.store.get("a/../b") == b"hello"
    assert curl("--path-as-is", f"{url}/keys/a/../b") == b"hello"
    curl("-T", "-", "-H", "Content-Type: text/csv", f"{url}/keys/t", given=b"a,b\n1,x\n2,y\n")
    assert json.loads(curl("--json", '{"query": "select sum(a) as s from t"}', f"{url}/sql")) == [{"s": 3}]
    assert curl("-H", "Accept: text/csv", f"{url}/keys/t") == b'"a","b"\n1,"x"\n2,"y"\n'


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_examples_of_the_document_are_true(served, tmp_path):
    section = (Path(__file__).resolve().parents[2] / "docs" / "doors.md").read_text().partition("## HTTP")[2]
    (tmp_path / "photo.jpg").write_bytes(b"a photo")
    (tmp_path / "trips.csv").write_bytes(b"vendor,fare\na,1.5\n")
    host, port = served.server.addresses["http"]
    said = []
    for line in re.findall(r"^curl.*", section, re.MULTILINE):
        command = line.replace("localhost:7480", f"{host}:{port}")
        ran = subprocess.run(f"{command.partition('  #')[0]} -sSf", shell=True, cwd=tmp_path, capture_output=True)
        assert ran.returncode == 0, (line, ran.stderr)
        said.append(ran.stdout)
    row = {"vendor": "a", "fare": 1.5}
    assert (tmp_path / "photo.jpg").read_bytes() == served.store.get("photos/1") == b"a photo"
    assert json.loads(said[2])["rows"] == 1
    assert json.loads(said[3]) == [row]
    assert said[4] == b'"vendor","fare"\n"a",1.5\n'
    assert json.loads(said[5]) == [{"vendor": "a", "mean": 1.5}]

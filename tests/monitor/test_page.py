"""The page as its server gives it: files, documents, events, and who may have them."""

import json
import re
import threading
from urllib.parse import quote

import pytest
from tests.monitor.conftest import ADMIN, READ, WRITE
from tests.until import SECONDS_MAX, until

from eau2.doors.http_requests import role_wanted
from eau2.doors.server import Doors
from eau2.doors.tokens import Role
from eau2.errors import QueryError
from eau2.monitor import watch as watching
from eau2.monitor.routes import FILES, POLICY, routes
from eau2.monitor.watch import Watch

pytestmark = pytest.mark.slow  # each starts a server

# Its steps are small, after each of which the engine can look whether anybody waits.
LONG = "with recursive r as (select 1 as n union all select n + 1 from r where n < 300000) select count(*) as n from r"
SCHEME = re.compile(r"""(?:[a-z][a-z0-9+.-]*:)?//[^\s/"'`]""", re.IGNORECASE)
NAMESPACE = "http://www.w3.org/2000/svg"  # is compared, and never asked


class Events:
    """A stream of server-sent events."""

    def __init__(self, client, **headers):
        client.connection.request("GET", "/monitor/events", headers=headers)
        self.answer = client.connection.getresponse()

    def next(self, name):
        while True:
            said = self.answer.readline().decode()
            assert said, "the stream has ended"
            if said == f"event: {name}\n":
                return json.loads(self.answer.readline().decode().removeprefix("data: "))

    def rest(self):
        return self.answer.read()


@pytest.mark.parametrize("nodes", [1])
def test_the_page_and_its_files_ask_no_address_outside(watched):
    client = watched.http()
    for name, path in [("page.html", "/monitor/"), *((name, f"/monitor/static/{name}") for name in FILES)]:
        answer = client.get(path)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == FILES[name]
        assert answer.headers["Content-Security-Policy"] == POLICY
        text = answer.body.decode().replace(NAMESPACE, "")
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("//")]
        found = [line for line in lines if SCHEME.search(re.sub(r"(?<![:\"'`])// .*", "", line))]
        assert found == []
        assert "innerHTML" not in text
        assert "insertAdjacentHTML" not in text
        for target in re.findall(r"""(?:href|src|from|import|url)\s*[=(]?\s*["']([^"'#]+)["']""", text):
            if target.endswith((".js", ".css", ".svg", ".html")):
                assert target.removeprefix("./").removeprefix("static/") in FILES, target
    for directive in POLICY.split("; "):
        assert directive.split(" ", 1)[1] in ("'none'", "'self'")
    assert "default-src 'none'" in POLICY
    assert client.get("/monitor/static/routes.py").status == 404
    assert client.get("/monitor/static/..%2froutes.py").status == 404
    assert client.get("/monitor").headers["Location"] == "monitor/"


def test_an_overview_has_every_node_with_its_figures(watched, nodes):
    client = watched.http()
    client.get("/keys/trips")
    said = client.get("/monitor/overview").json
    found = [(node["name"], node["state"]) for node in said["nodes"]]
    assert found == [(name, "live") for name in watched.store.nodes]
    assert len(found) == nodes
    keys = said["figures"].index("keys")
    assert sum(node["values"][keys] for node in said["nodes"]) == (1 if nodes == 1 else 2)
    assert (said["totals"]["keys"], said["totals"]["frames"], said["totals"]["chunks"]) == (1, 1, 1)
    assert said["repair"]["missing"] == 0
    assert said["server"]["load"] >= 0
    assert said["server"]["answer"] > 0
    assert said["server"]["disk_free"] > 0
    one = client.get(f"/monitor/node?name={said['nodes'][0]['name']}").json
    metrics = {metric["name"]: metric for metric in one["metrics"]}
    assert metrics["gets"]["kind"] == "counter"
    assert metrics["chunk_bytes"]["unit"] == "bytes"
    assert len(metrics["gets"]["history"]) == 360
    assert client.get("/monitor/node?name=node-99").status == 404
    server = client.get("/monitor/node?name=").json
    assert "load" in {metric["name"] for metric in server["metrics"]}
    assert len(client.get("/monitor/sparks").json["total"]["operations"]) == 360


def test_what_changes_comes_by_itself(watched, monkeypatch):
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watching, "SHARE", 1.0)
    events = Events(watched.http())
    assert events.next("overview")["totals"]["keys"] == 1
    assert events.next("queries")["recent"] == []
    watched.store.put("more", b"x")
    until(lambda: events.next("overview")["totals"]["keys"] == 2)
    watched.store.sql("select count(*) from trips").to_arrow()
    recent = until(lambda: events.next("queries")["recent"])
    assert [query["text"] for query in recent] == ["select count(*) from trips"]
    watched.server.close()  # which ends the stream as it should be, and not by breaking off
    assert events.rest().endswith(b"\n")
    assert events.answer.isclosed()


@pytest.mark.parametrize("nodes", [1])
def test_a_store_that_cannot_be_read_is_said_and_looked_at_again(watched, monkeypatch):
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watching, "SHARE", 1.0)
    events = Events(watched.http())
    events.next("overview")
    watched.store.close()
    until(lambda: "the store is closed" in events.next("overview").get("error", ""))
    assert watched.http().get("/monitor/overview").json["error"] == "StoreClosed"
    assert watched.http().get("/monitor/keys").status == 503


def test_keys_are_a_tree_a_page_at_a_time(watched):
    store, client = watched.store, watched.http()
    store.put_many({f"logs/{day}/{hour}": b"x" * 10 for day in ("mon", "tue") for hour in range(30)})
    store.put_many({f"flat{number:05}": b"" for number in range(300)})
    store.put("<script>alert(1)</script>", b"1")

    def page(**asked):
        query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in asked.items())
        return client.get(f"/monitor/keys?{query}").json

    top = page(limit=3)
    assert (top["keys"], top["left"], top["next"]) == (362, 300, "flat00001")
    group, *_ = (row for row in page(prefix="logs", limit=5)["rows"])
    assert group == {"prefix": "logs/", "keys": 60, "bytes": 600, "is_whole": True}
    days = page(prefix="logs/")["rows"]
    assert [(row["prefix"], row["keys"], row["bytes"]) for row in days] == [
        ("logs/mon/", 30, 300),
        ("logs/tue/", 30, 300),
    ]
    seen, after = [], ""
    while after is not None:
        found = page(limit=200, after=after)
        seen += [row.get("key") or row["prefix"] for row in found["rows"]]
        after = found["next"]
    assert len(seen) == len(set(seen)) == 303
    assert seen == sorted(seen)
    (trips,) = page(prefix="trips")["rows"]
    assert (trips["kind"], trips["rows"], trips["chunks"]) == ("frame", 3000, 1)
    assert client.get("/monitor/keys?limit=0").status == client.get("/monitor/keys?limit=201").status == 400


def test_the_tree_of_ten_thousand_keys_is_soon_there(watched):
    watched.store.put_many({f"k/{number % 100:02}/{number:05}": b"x" for number in range(10_000)})
    client = watched.http()
    rows = client.get("/monitor/keys?prefix=k/").json["rows"]
    assert [row["keys"] for row in rows] == [100] * 100
    assert len(client.get("/monitor/keys?prefix=k/07/").body) < 20_000


def test_a_frame_has_its_columns_first_rows_and_chunks(watched, nodes):
    client = watched.http()
    said = client.get("/monitor/frame?key=trips").json
    assert [(column["name"], column["type"]) for column in said["columns"]] == [("id", "int64"), ("vendor", "string")]
    assert (said["rows"], said["chunks"], said["version"]) == (3000, 1, 1)
    assert said["copies"] == min(2, nodes)
    assert said["preview"][0][:3] == ["0", "1", "2"]
    assert len(said["preview"][1]) == 20
    assert sum(node["read"] for node in said["nodes"]) == 1
    chunks = client.get("/monitor/chunks?key=trips").json
    (chunk,) = chunks["chunks"]
    assert (chunk["rows"], chunk["columns"]) == (3000, [[0, "0", "2999"], [0, "v0", "v2"]])
    assert len(chunk["homes"]) == min(2, nodes)
    if nodes > 1:
        watched.store.node._members.fail(lost := chunk["homes"][0])
        (chunk,) = client.get("/monitor/chunks?key=trips").json["chunks"]
        assert len(chunk["homes"]) == 2
        assert {chunk["place"], *chunk["homes"]} <= set(watched.store.nodes) - {lost}
        assert {node["name"] for node in client.get("/monitor/frame?key=trips").json["nodes"]} == set(chunk["homes"])
    watched.store.put("bytes", b"x")
    assert client.get("/monitor/frame?key=bytes").status == 409
    assert client.get("/monitor/frame?key=none").status == 404
    assert client.get("/monitor/frame?key=").status == 400
    assert client.get("/monitor/chunks?key=trips&first=1").json["chunks"] == []


def test_a_query_is_watched_and_cancelled(watched):
    client, raised = watched.http(), []

    def ask():
        try:
            watched.store.sql(LONG).to_arrow()
        except QueryError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    (query,) = until(lambda: client.get("/monitor/queries").json["running"])
    assert query["text"] == LONG
    number = query["number"]
    assert "Recursive" in client.get(f"/monitor/queries/{number}").json["plan"]
    assert client.get(f"/monitor/queries/{number}/cancel").status == 405
    assert client.ask("POST", f"/monitor/queries/{number}/cancel").json == {"cancelled": number}
    thread.join(SECONDS_MAX)
    assert len(raised) == 1
    assert client.get("/monitor/queries").json["recent"][0]["state"] == "cancelled"
    assert client.ask("POST", f"/monitor/queries/{number}/cancel").status == 404
    assert client.get("/monitor/queries/999").status == 404


def test_a_client_of_http_is_told_that_its_query_was_cancelled(watched):
    told = []
    thread = threading.Thread(target=lambda: told.append(watched.http().sql(LONG)))
    thread.start()
    client = watched.http()
    (query,) = until(lambda: client.get("/monitor/queries").json["running"])
    client.ask("POST", f"/monitor/queries/{query['number']}/cancel")
    thread.join(SECONDS_MAX)
    assert (told[0].status, told[0].json["error"]) == (400, "QueryError")


def test_tokens_hold_for_the_page_too(guarded):
    client = guarded.http()
    assert client.get("/monitor/").status == client.get("/monitor/static/page.js").status == 200
    documents = [
        "overview",
        "sparks",
        "node",
        "keys",
        "frame?key=trips",
        "chunks?key=trips",
        "queries",
        "runs",
        "events",
        "who",
    ]
    for path in documents:
        assert client.get(f"/monitor/{path}").status == 401, path
    for token, role in ((READ, "read"), (WRITE, "write"), (ADMIN, "admin")):
        may = {"authorization": f"Bearer {token}"}
        assert client.get("/monitor/who", **may).json["role"] == role
        assert client.get("/monitor/overview", **may).status == 200
        cancelled = client.ask("POST", "/monitor/queries/1/cancel", **may)
        assert cancelled.status == (404 if role == "admin" else 403)


def test_every_document_wants_a_role_and_whatever_changes_something_an_admin(unwatched):
    for route in routes(unwatched):
        for method in route.methods:
            path = route.path.replace("{number:int}", "7").replace("{name}", "page.js").replace("{run}", "1-a")
            wanted = role_wanted(method, path)
            is_file = route.path in ("/monitor", "/monitor/") or "/static/" in route.path
            is_secret = method == "POST" or path.endswith("/output")
            assert wanted == (Role.ADMIN if is_secret else Role.NOTHING if is_file else Role.READ)


@pytest.fixture
def unwatched(watched):
    watch = Watch(watched.store)
    yield watch
    watch.close()


@pytest.mark.parametrize("nodes", [1])
def test_without_the_option_there_is_no_page(watched):
    watched.server.close()
    client = watched.open(Doors(crud_port=None, redis_port=None, udp_port=None, http_port=0)).http()
    assert client.get("/monitor/").status == client.get("/monitor/overview").status == 404


@pytest.mark.parametrize("nodes", [1])
def test_a_page_of_another_site_cancels_nothing(watched):
    host, port = watched.server.addresses["http"]
    answer = watched.http(host=f"{host}:{port}", origin="http://evil.example").ask("POST", "/monitor/queries/1/cancel")
    assert answer.status == 403


def test_the_watch_begins_when_somebody_asks_and_ends_when_nobody_has_for_long(watched, monkeypatch):
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watching, "SHARE", 1.0)
    monkeypatch.setattr(watching, "IDLE_SECONDS", 1.0)

    def watchers():
        return [thread for thread in threading.enumerate() if thread.name == "eau2-monitor"]

    assert watchers() == []
    client = watched.http()
    client.get("/monitor/overview")
    assert len(watchers()) == 1
    until(lambda: not watchers())
    assert client.get("/monitor/overview").status == 200  # and it begins again
    events = Events(watched.http())
    seen = {events.next("overview")["time"] for _ in range(30)}
    assert len(seen) > 20  # it goes on as long as somebody listens
    assert len(watchers()) == 1


def test_only_so_many_pages_are_followed_at_once(watched, monkeypatch):
    monkeypatch.setattr(watching, "LISTENERS_MAX", 1)
    events = Events(watched.http())
    events.next("overview")
    assert watched.http().get("/monitor/events").status == 503

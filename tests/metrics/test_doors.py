"""What the doors of a server count, and GET /metrics."""

import pytest
from tests.doors.conftest import HttpClient, RedisClient
from tests.metrics.test_prometheus import read
from tests.served.serving import serving
from tests.until import until

import eau2
from eau2.datagram import Client as DatagramClient
from eau2.doors import counts
from eau2.doors.counts import TIMED_ONE_IN, DoorCounts
from eau2.doors.server import Doors, Server
from eau2.doors.tokens import Role, Tokens
from eau2.metrics.prometheus import CONTENT_TYPE


def of_door(store, door):
    begin = f"door_{door}_"
    metrics = store.reports()[0].metrics
    return {metric.name.removeprefix(begin): metric.value for metric in metrics if metric.name.startswith(begin)}


def test_one_request_in_several_is_timed_and_percentiles_are_of_the_latest(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("eau2.doors.counts.time.perf_counter", lambda: clock[0])
    door = DoorCounts()
    assert door.statistics().latency_p50_seconds is None
    for number in range(1, 1001):
        began = door.begin()
        assert door.time_at == door.requests + TIMED_ONE_IN
        clock[0] += 1.0 if number <= 500 else 0.001 * number
        door.end(began)
    found = door.statistics()
    # Of the last 512: 501 to 1000 ms, and twelve times 1 s.
    assert found.latency_p50_seconds == pytest.approx(0.757)
    assert found.latency_p99_seconds == pytest.approx(1.0)


def test_what_has_not_changed_is_published_again_only_after_some_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "_PUBLISH_SECONDS", 1000.0)  # by the thread
    published = []
    with eau2.open(tmp_path / "data") as store:
        monkeypatch.setattr(store.node, "publish", lambda metrics, source: published.append(metrics))
        publishing = counts.Publishing(store)
        door = publishing.door("redis")
        publishing.publish()
        publishing.publish()
        assert len(published) == 1
        door.requests += 1
        publishing.publish()
        assert [[one.value for one in each if one.name == "door_redis_requests"] for each in published] == [[0], [1]]
        monkeypatch.setattr(counts, "_SAME_SECONDS", 0.0)
        publishing.publish()  # a node that was started anew meanwhile has lost it
        assert published[2] == published[1]
        publishing.close()


@pytest.mark.slow
def test_each_door_counts_its_requests_errors_and_clients(tmp_path):
    doors = Doors(crud_port=0, redis_port=0, udp_port=0, http_port=0)
    with eau2.open(tmp_path / "data") as store, Server(store, doors) as server:
        client, other = RedisClient(server.addresses["redis"]), RedisClient(server.addresses["redis"])
        for number in range(200):
            client.ask("SET", f"key-{number}", "x")
            client.ask("GET", f"key-{number}")
        client.ask("GET", "key-0")  # it is kept by now
        client.ask("NONE")
        store.put("f", {"x": [1]})
        client.ask("GET", "f")
        expected = {"requests": 403.0, "errors": 2.0, "connections": 2.0}
        until(lambda: expected.items() <= of_door(store, "redis").items())
        found = of_door(store, "redis")
        assert found["received_bytes"] > 403 * 20
        assert 0 < found["latency_p50_seconds"] <= found["latency_p99_seconds"] < 60
        other.close()
        client.close()
        http = HttpClient(server.addresses["http"])
        assert [http.get(path).status for path in ("/keys", "/none", "/keys/key-1")] == [200, 404, 200]
        with DatagramClient(*server.addresses["udp"]) as datagrams:
            datagrams.put("a", b"1")
        until(lambda: of_door(store, "redis")["connections"] == 0)
        until(lambda: {"requests": 3.0, "errors": 1.0, "connections": 1.0}.items() <= of_door(store, "http").items())
        until(lambda: of_door(store, "udp") == {"requests": 1.0, "errors": 0.0})
        http.connection.close()


@pytest.mark.slow
def test_who_watches_is_not_among_those_whose_requests_are_timed(tmp_path):
    doors = Doors(crud_port=None, redis_port=None, udp_port=None, http_port=0, page=True)
    with eau2.open(tmp_path / "data") as store, Server(store, doors) as server:
        http = HttpClient(server.addresses["http"])
        assert http.get("/monitor/who").status == 200
        until(lambda: of_door(store, "http").get("requests") == 1)
        assert "latency_p99_seconds" not in of_door(store, "http")
        assert http.get("/keys").status == 200
        until(lambda: of_door(store, "http")["requests"] == 2)
        assert 0 < of_door(store, "http")["latency_p99_seconds"] < 60
        http.connection.close()


@pytest.mark.slow
def test_what_is_asked_at_the_end_is_counted_too(tmp_path):
    with eau2.open(tmp_path / "data") as store:
        with Server(store, Doors(crud_port=None, udp_port=None)) as server:
            client = RedisClient(server.addresses["redis"])
            client.ask("SET", "a", "1")
            client.close()
        assert of_door(store, "redis")["requests"] == 1
        assert of_door(store, "redis")["connections"] == 0


@pytest.mark.slow
def test_two_servers_of_one_store_are_counted_together(tmp_path):
    doors = Doors(crud_port=None, udp_port=None)
    with eau2.open(tmp_path / "data") as store, Server(store, doors) as one:
        client = RedisClient(one.addresses["redis"])
        for _ in range(3):
            client.ask("PING")
        with Server(store, Doors(crud_port=None, redis_port=0, udp_port=None)) as other:
            second = RedisClient(other.addresses["redis"])
            for _ in range(4):
                second.ask("PING")
            expected = {"requests": 7.0, "connections": 2.0}
            until(lambda: expected.items() <= of_door(store, "redis").items())
            second.close()
        until(lambda: of_door(store, "redis")["connections"] == 1)
        client.ask("PING")
        until(lambda: of_door(store, "redis")["requests"] == 8)
        client.close()


@pytest.mark.slow
def test_a_store_elsewhere_that_may_only_be_read_is_asked_once_to_take_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "_PUBLISH_SECONDS", 0.02)
    tokens = Tokens([("secret-of-a-reader", Role.READ)])
    with (
        serving(tmp_path / "data", tokens=tokens) as address,
        eau2.open(address, token="secret-of-a-reader") as store,
        Server(store, Doors(crud_port=None, udp_port=None)) as server,
    ):
        client = RedisClient(server.addresses["redis"])
        until(lambda: not server._publishing._thread.is_alive())
        assert client.ask("GET", "a") is None
        client.close()
        until(lambda: of_door(store, "flight").get("errors"))
        server.close()  # nor at the end
        requests = of_door(store, "flight")["requests"]
        until(lambda: of_door(store, "flight")["requests"] > requests + 5)
        assert of_door(store, "flight")["errors"] == 1


@pytest.mark.slow
def test_prometheus_gets_the_figures_of_all_nodes_and_only_with_a_token(tmp_path):
    tokens = Tokens([("secret-of-a-reader", Role.READ)])
    doors = Doors(crud_port=None, redis_port=None, udp_port=None, http_port=0)
    with eau2.open(tmp_path / "data", nodes=2) as store, Server(store, doors, tokens=tokens) as server:
        store.put("a", b"1")
        store.publish_metric("rows_loaded", 5, unit="rows", help="Rows that were loaded.", kind="counter")
        without, reader = HttpClient(server.addresses["http"]), HttpClient(server.addresses["http"])
        assert without.get("/metrics").status == 401
        answer = reader.get("/metrics", authorization="Bearer secret-of-a-reader")
        assert (answer.status, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
        families = read(answer.body.decode())
        assert families["eau2_keys"] == {
            "type": "gauge",
            "help": "Keys with a value now.",
            "values": {"node-0": 1.0, "node-1": 1.0},
        }
        assert families["eau2_rows_loaded_total"]["values"] == {"node-0": 5.0}
        assert reader.ask("POST", "/metrics", b"x", authorization="Bearer secret-of-a-reader").status == 405
        for client in (without, reader):
            client.connection.close()

"""Operations: what was asked of a store, counted once, whoever answered it and from where."""

import pytest
from tests.doors.conftest import RedisClient

import eau2
from eau2.doors.server import Doors, Server

pytestmark = pytest.mark.slow  # each opens stores, and some start servers

REDIS_ONLY = Doors(crud_port=None, udp_port=None, redis_port=0)


def operations(store):
    return sum(metric.value for report in store.reports() for metric in report.metrics if metric.name == "operations")


@pytest.fixture(params=[1, 3])
def store(tmp_path, request):
    with eau2.open(tmp_path / "data", nodes=request.param) as store:
        yield store


@pytest.fixture
def client(store):
    with Server(store, REDIS_ONLY) as server:
        client = RedisClient(server.addresses["redis"])
        yield client
        client.close()


def test_what_this_process_does_counts_by_keys_however_many_copies_they_have(store):
    before = operations(store)
    store.put_many({"a": b"1", "b": b"2", "c": b"3"})
    store.put("a", b"4")
    store.delete("b")
    assert operations(store) == before + 5
    store.get("a")
    store.get_many(["a", "b", "c", "none"], default=None)
    assert operations(store) == before + 10
    assert store.statistics().operations == before + 10


def test_tasks_count(store):
    store.put("f", {"x": list(range(10))})
    before = operations(store)
    assert store.frame("f").map_chunks(len) == [10]
    assert operations(store) - before == 2  # the look-up, and the task


def test_each_get_of_a_client_counts_once_also_where_its_reply_is_kept(store, client):
    client.ask("SET", "a", "1")
    before = operations(store)
    for _ in range(50):
        assert client.ask("GET", "a") == b"1"
    assert operations(store) == before + 50
    assert client.ask("GET", "none") is None
    assert client.ask("GET", "none") is None
    assert operations(store) == before + 52


def test_each_put_of_a_client_counts_once_with_those_of_the_process_besides(store, client):
    before = operations(store)
    for number in range(20):
        client.ask("SET", "a", str(number))
        store.put("b", b"x")
        client.ask("GET", "b")
    assert operations(store) == before + 60


@pytest.mark.parametrize("store", [1], indirect=True)
def test_requests_that_come_together_count_each_though_a_key_is_looked_up_or_written_once(store, client):
    before = operations(store)
    for _ in range(30):
        client.send("SET", "a", "1")
    for _ in range(30):
        client.send("GET", "a")
    client.send("MGET", "a", "b", "c")
    client.send("INCR", "n")  # looks up, and writes
    assert [client.reply() for _ in range(62)] == ["OK"] * 30 + [b"1"] * 30 + [[b"1", None, None], 1]
    assert operations(store) == before + 65


def test_what_is_only_said_to_the_door_is_no_operation(store, client):
    before = operations(store)
    client.ask("PING")
    client.ask("GET", "")  # no key
    client.ask("NONE")
    assert operations(store) == before

"""Doors in front of a real Ray cluster: what clients write is on its nodes."""

from contextlib import ExitStack

import pytest
from tests.doors.conftest import Served

from eau2.datagram import Client

pytestmark = pytest.mark.slow


@pytest.fixture
def served(ray_cluster):
    with ExitStack() as stack:
        yield Served(stack.enter_context(ray_cluster.opener("first")()), stack).open()


def test_every_server_of_a_cluster_answers_for_all_keys(ray_cluster):
    opener = ray_cluster.opener("first")
    with ExitStack() as stack:
        served, other = (Served(stack.enter_context(opener()), stack).open() for _ in range(2))
        here, there = served.redis(), other.redis()
        for number in range(30):
            asking, answering = (here, there) if number % 2 else (there, here)
            assert asking.ask("SET", f"k{number}", number) == "OK"
            assert answering.ask("GET", f"k{number}") == b"%d" % number
            assert answering.ask("INCR", f"k{number}") == number + 1
            assert asking.ask("GET", f"k{number}") == b"%d" % (number + 1)
        assert other.lines().ask(b"R k7") == b"8"


def test_what_clients_write_is_on_the_cluster(served):
    lines, redis = served.lines(), served.redis()
    assert lines.ask(b"C trips/1 hello") == b"OK\n"
    assert lines.ask(b"C trips/1 again") == b"EXISTS\n"
    assert redis.ask("GET", "trips/1") == b"hello"
    for _ in range(20):
        redis.send("INCR", "n")
    assert [redis.reply() for _ in range(20)] == list(range(1, 21))
    assert redis.ask("MSET", *(word for number in range(30) for word in (f"k{number}", number))) == "OK"
    assert redis.ask("MGET", *(f"k{number}" for number in range(30))) == [b"%d" % number for number in range(30)]
    assert [redis.ask("DEL", "k0", "k1", "none"), redis.ask("DBSIZE")] == [2, 30]
    with Client(*served.server.addresses["udp"], retry_seconds=(2.0,) * 5) as client:
        client.put("by udp", b"x")
        assert client.get("n") == b"20"
        assert client.member_count() == 3
    assert served.store.get("by udp") == b"x"
    served.store.put("frame", {"a": [1, 2]})
    assert redis.ask("TYPE", "frame") == "frame"

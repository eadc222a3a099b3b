"""On many nodes every server answers for every key, and asks the key's home and nobody else."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from tests.doors.conftest import Served

import eau2
from eau2.datagram import Client

KEYS = [f"k{number}" for number in range(40)]


@pytest.fixture
def two(tmp_path):
    """Two servers of the same nodes, each with a store and so a client of its own; and whom these asked what."""
    with ExitStack() as stack:
        servers, asked = [], []
        for _ in range(2):
            store = stack.enter_context(eau2.open(tmp_path / "store", nodes=4, replicas=2))
            _note(store.node._client._runtime, asked)
            servers.append(Served(store, stack).open())
        yield servers, asked


def _note(runtime, asked):
    """Have `runtime` note in `asked` whom it asks what."""
    real = runtime.peer

    class Noted:
        def __init__(self, name):
            self._name, self._peer = name, real(name)

        def __getattr__(self, verb):
            asked.append((self._name, verb))
            return getattr(self._peer, verb)

    runtime.peer = Noted


def test_a_request_goes_one_step_to_the_home_of_its_key(two):
    servers, asked = two
    lines, redis = [served.lines() for served in servers], [served.redis() for served in servers]
    view = servers[0].store.node.view
    homes = [view.homes(key)[0] for key in KEYS]
    assert set(homes) == set(view.live)
    with Client(*servers[0].server.addresses["udp"]) as first, Client(*servers[1].server.addresses["udp"]) as second:
        ways = [
            ("write", lambda at, key: redis[at].ask("SET", key, "0") == "OK"),
            ("get", lambda at, key: redis[1 - at].ask("GET", key) == b"0"),
            ("get", lambda at, key: lines[at].ask(b"R " + key.encode()) == b"0"),
            ("get", lambda at, key: (first, second)[at].get(key) == b"0"),
            ("write", lambda at, key: (first, second)[1 - at].put(key, b"1") is None),
            ("get", lambda at, key: redis[at].ask("GET", key) == b"1"),
        ]
        for verb, ask in ways:
            for number, (key, home) in enumerate(zip(KEYS, homes, strict=True)):
                asked.clear()
                assert ask(number % 2, key)
                assert asked == [(home, verb)]

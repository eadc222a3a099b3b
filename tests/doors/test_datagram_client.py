"""The UDP door, and our client of it, over a network that loses and repeats."""

from __future__ import annotations

import os
import random
import socket
import threading

import pytest
from tests.until import SECONDS_MAX

from eau2.datagram import Client
from eau2.doors import datagram_door, datagrams
from eau2.doors.datagrams import Replies
from eau2.doors.server import Doors
from eau2.errors import (
    Eau2Error,
    InvalidKey,
    KeyMissing,
    NodeUnavailable,
    OutcomeUnknown,
    StoreBusy,
    ValueTooLarge,
)

ID = b"0123456789abcdef"


def key(name):
    return name.encode().ljust(32, b"\0")


def put(identity, name, value):
    return identity + b"\x01" + key(name) + len(value).to_bytes(2, "little") + value


def asked(udp, request):
    udp.send(request)
    return udp.recv(65_535)


@pytest.fixture
def client(served):
    with Client(*served.server.addresses["udp"]) as client:
        yield client


class Network:
    """A way to the server at `address` on which `lost(request_or_reply)` is asked whether a datagram goes missing."""

    def __init__(self, address, lost):
        self._far, self._near = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "fn")
        self._near.bind(("127.0.0.1", 0))
        self._far.connect(address)
        self.address = self._near.getsockname()
        self._lost, self._asker, self.requests = lost, None, 0
        self._threads = [threading.Thread(target=each) for each in (self._there, self._back)]
        for thread in self._threads:
            thread.start()

    def _there(self):
        while True:
            data, self._asker = self._near.recvfrom(65_535)
            if data == b"end":
                self._far.send(b"end")
                return
            self.requests += 1
            if not self._lost("request"):
                self._far.send(data)

    def _back(self):
        while (data := self._far.recv(65_535))[16:] != b"\x09":
            if not self._lost("reply"):
                self._near.sendto(data, self._asker)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", self.address)
        for thread in self._threads:
            thread.join(SECONDS_MAX)
        self._near.close()
        self._far.close()


def test_the_acceptance_sequence(served_by):
    with Client(*served_by.server.addresses["udp"]) as client:
        udp = served_by.datagrams()
        codes = []
        for number, request in enumerate(
            [
                b"\x02" + key("k"),
                b"\x01" + key("k") + b"\x05\x00hello",
                b"\x02" + key("k"),
                b"\x02" + key("other"),
                b"\x01" + key("k") + b"\x05\x00world",
                b"\x02" + key("k"),
                b"\x03" + key("other"),
                b"\x03" + key("k"),
                b"\x03" + key("k"),
            ]
        ):
            identity = number.to_bytes(16, "big")
            reply = asked(udp, identity + request)
            assert reply[:16] == identity
            codes.append(reply[16:])
        hello, world = b"\x00\x05\x00hello", b"\x00\x05\x00world"
        assert codes == [b"\x01", b"\x00", hello, b"\x01", b"\x00", world, b"\x01", b"\x00", b"\x01"]
        assert client.process_id() == os.getpid()
        assert client.member_count() == len(served_by.store.nodes)
        assert client.is_alive()


def test_a_repeat_is_answered_the_same_and_not_done_again(served):
    udp = served.datagrams()
    assert asked(udp, put(ID, "k", b"1"))[16:] == b"\x00"
    removed = b"another id......" + b"\x03" + key("k")
    assert asked(udp, removed)[16:] == b"\x00"
    assert asked(udp, removed)[16:] == b"\x00"
    assert asked(udp, put(ID, "k", b"1"))[16:] == b"\x00"
    assert served.store.keys() == []
    with served_elsewhere(served) as other:  # another address: another request
        assert asked(other, put(ID, "k", b"1"))[16:] == b"\x00"
    assert served.store.keys() == ["k"]


def served_elsewhere(served):
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.settimeout(SECONDS_MAX)
    other.connect(served.server.addresses["udp"])
    return other


def test_garbage_is_answered_by_its_code_and_harms_nobody(served):
    udp = served.datagrams()
    for size in (0, 1, 16, 17, 48, 50, 51, 500):
        data = b"\xee" * size
        reply = asked(udp, data)
        assert reply == data[:16].ljust(16, b"\0") + (b"\x05" if size > 16 else b"\x09")
    source = random.Random(7)
    for _ in range(300):
        reply = asked(udp, source.randbytes(source.randrange(17, 200)))
        assert reply[16] in (0, 1, 5, 7, 9)
    assert asked(udp, ID + b"\x06")[16:] == b"\x00"


def test_a_client_puts_gets_and_removes(client, served):
    client.put("k", b"v")
    assert client.get("k") == served.store.get("k") == b"v"
    served.store.put("k", b"new")
    assert client.get(b"k") == b"new"
    assert [client.remove("k"), client.remove("k")] == [True, False]
    with pytest.raises(KeyMissing):
        client.get("k")
    client.put("k" * 32, b"")
    assert client.get("k" * 32) == b""


def test_keys_that_are_no_text_have_names_of_their_own(client, served):
    names = [bytes(range(32)), b"\xff" * 3, b"\x00", b"", b"\xff" * 4]
    for number, name in enumerate(names[:3]):
        client.put(name, b"%d" % number)
    assert client.get(b"") == b"2"  # padded with zeros
    assert client.get(names[0]) == b"0"
    assert sorted(served.store.keys()) == sorted(f"hex:{name.ljust(32, bytes(1)).hex()}" for name in names[:3])
    with pytest.raises(KeyMissing):
        client.get(names[4])


def test_what_does_not_fit_a_datagram_is_said(client, served):
    client.put("k", bytes(10_000))
    assert client.get("k") == bytes(10_000)
    for call in (lambda: client.put("k", bytes(10_001)), lambda: client.get("large"), lambda: client.get("frame")):
        served.store.put("large", bytes(10_001))
        served.store.put("frame", {"a": [1]})
        with pytest.raises(ValueTooLarge):
            call()
    with pytest.raises(InvalidKey):
        client.get("k" * 33)


@pytest.mark.slow
def test_each_request_is_done_once_however_often_it_is_sent(served):
    source = random.Random(11)
    lost = lambda what: source.random() < 0.3  # noqa: E731
    with (
        Network(served.server.addresses["udp"], lost) as network,
        Client(*network.address, retry_seconds=(0.05,) * 100) as client,
    ):
        for number in range(20):
            client.put(f"k{number}", b"%d" % number)
            assert client.get(f"k{number}") == b"%d" % number
            assert client.remove(f"k{number}") is True  # also where the first reply was lost
            assert client.remove(f"k{number}") is False
        assert network.requests > 4 * 20
    assert served.store.keys() == []


@pytest.mark.slow
def test_who_gets_no_answer_is_told_what_that_means(served):
    with Network(served.server.addresses["udp"], lambda what: what == "reply") as network:
        with Client(*network.address, retry_seconds=(0.05, 0.05)) as client:
            with pytest.raises(NodeUnavailable, match=r"did not answer GET within 0\.1 seconds"):
                client.get("k")
            with pytest.raises(OutcomeUnknown):
                client.put("k", b"v")
            assert not client.is_alive()
        assert network.requests == 6
    assert served.store.get("k") == b"v"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    with Client("127.0.0.1", port, retry_seconds=(0.01,)) as client, pytest.raises(NodeUnavailable):
        client.process_id()


def test_a_server_ends_or_forgets_all_only_where_that_is_allowed(unserved):
    unserved.open()
    with Client(*unserved.server.addresses["udp"]) as client:
        for call in (client.shut_down, client.wipe_out):
            with pytest.raises(Eau2Error, match="unknown command"):
                call()
    unserved.open(Doors(allow_shutdown=True, allow_wipe=True))
    unserved.store.put_many({f"k{number}": b"v" for number in range(100)})
    unserved.store.put("frame", {"a": [1]})
    with Client(*unserved.server.addresses["udp"]) as client:
        client.wipe_out()
        assert unserved.store.keys() == []
        client.shut_down()
        assert unserved.server.stopped.wait(SECONDS_MAX)


def test_more_than_the_server_can_remember_is_refused(unserved, monkeypatch):
    monkeypatch.setattr(datagram_door, "Replies", lambda: Replies(bytes_max=50_000))
    monkeypatch.setattr(datagrams, "KEPT_SECONDS", SECONDS_MAX)
    unserved.open().store.put("k", bytes(10_000))
    with Client(*unserved.server.addresses["udp"], retry_seconds=(5.0,)) as client:
        for _ in range(4):
            assert client.get("k") == bytes(10_000)
        with pytest.raises(StoreBusy):
            client.get("k")
        assert unserved.lines().ask(b"R none") == b"MISSING\n"


def test_what_was_refused_as_too_much_is_done_when_it_is_asked_again(served, monkeypatch):
    busy = iter([StoreBusy("a"), StoreBusy("b")])
    node, write = served.store.node, served.store.node.write

    def refuse(writes):
        for error in busy:
            raise error
        return write(writes)

    monkeypatch.setattr(node, "write", refuse)
    with Client(*served.server.addresses["udp"], retry_seconds=(0.1, 0.1, 5.0)) as client:
        client.put("k", b"v")
        assert client.get("k") == b"v"


@pytest.mark.slow
def test_many_clients_at_once_get_each_their_own(served_by):
    wrong = []

    def work(name):
        with Client(*served_by.server.addresses["udp"], retry_seconds=(5.0,) * 4) as client:
            for number in range(50):
                client.put(f"{name}/{number}", f"{name} {number}".encode())
                if client.get(f"{name}/{number}") != f"{name} {number}".encode():
                    wrong.append((name, number))

    threads = [threading.Thread(target=work, args=(f"c{index}",)) for index in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
    assert wrong == []
    assert len(served_by.store.keys()) == 500

"""Doors over real sockets: what one client writes all read, whatever the others do."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from tests.doors.certified import tls_context
from tests.doors.conftest import RedisError
from tests.until import SECONDS_MAX, until

import eau2
from eau2.datagram import Client as DatagramClient
from eau2.doors import connection, server
from eau2.doors.addresses import Networks, is_loopback
from eau2.doors.server import Doors, Server
from eau2.doors.tokens import Role, Tokens
from eau2.errors import InvalidOption, StoreUnusable

ID = b"0123456789abcdef"
READ, WRITE = "a token that reads", "a token that writes"


def key(name):
    return name.encode().ljust(32, b"\0")


def test_what_one_writes_all_read(served_by):
    client, other, udp = served_by.lines(), served_by.lines(), served_by.datagrams()
    assert client.ask(b"C trips/1 hello") == b"OK\n"
    assert other.ask(b"R trips/1") == b"hello"
    assert served_by.store.get("trips/1") == b"hello"
    udp.send(ID + b"\x02" + key("trips/1"))
    assert udp.recv(100) == ID + b"\x00\x05\x00hello"
    served_by.store.put("trips/1", b"new")
    assert client.ask(b"R trips/1") == b"new"
    assert other.ask(b"D trips/1") == b"OK\n"
    assert client.ask(b"U trips/1 x") == b"MISSING\n"
    assert served_by.store.keys() == []


def test_a_conversation_has_the_replies_of_the_document(served):
    client = served.lines()
    client.send(b"R a\nC a 1\nC a 2\nR a \nU a #4\r\n2\n\n2\r\nR a\r\nD a\nD a\nhow?\nU b #9999999999\n")
    assert [client.reply() for _ in range(9)] == [
        *(b"MISSING\n", b"OK\n", b"EXISTS\n", b"1", b"OK\n", b"2\n\n2", b"OK\n", b"MISSING\n"),
        b"ERROR a request begins with C, R, U, D or DONE\n",
    ]


def test_done_ends_a_conversation_and_what_follows_it_is_not_done(served):
    client = served.lines()
    client.send(b"C a 1\nDONE\nC b 2\n")
    assert client.rest() == b"OK\nBYE\n"
    assert served.store.keys() == ["a"]


def test_a_client_that_sends_no_more_gets_all_its_replies(served):
    client = served.lines()
    client.send(b"".join(b"C %d x\n" % number for number in range(3000)) + b"C cut")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.rest() == b"OK\n" * 3000 + b"ERROR the connection ended within a request, which was not done\n"
    assert len(served.store.keys()) == 3000


def test_replies_come_in_the_order_of_the_requests_and_are_of_the_latest(served_by):
    client = served_by.lines()
    asked, expected, value = [], [], None
    for number in range(400):
        if number % 3 == 2:
            asked.append(b"R k")
            expected.append(value)
        elif number % 50 == 0:
            asked.append(b"D k")
            expected.append(b"MISSING\n" if value is None else b"OK\n")
            value = None
        else:
            expected.append(b"OK\n")
            asked.append(b"%b k %d" % (b"C" if value is None else b"U", number))
            value = b"%d" % number
    client.send(b"\n".join(asked) + b"\n")
    assert [client.reply() for _ in asked] == [b"MISSING\n" if each is None else each for each in expected]


def test_of_many_who_create_a_key_one_succeeds(served_by):
    clients = [served_by.lines() for _ in range(20)]
    for number in range(20):
        for client in clients:
            client.send(b"C k%d x\n" % number)
        assert sorted(client.reply() for client in clients) == [b"EXISTS\n"] * 19 + [b"OK\n"]


def test_requests_come_byte_by_byte(served):
    client = served.lines()
    for byte in b"C a #3\nx\ny\nR a\n":
        client.send(bytes([byte]))
    assert [client.reply(), client.reply()] == [b"OK\n", b"x\ny"]


@pytest.mark.slow
def test_large_values_go_both_ways_and_a_slow_reader_gets_them_all(served):
    value = os.urandom(4 << 20)
    client = served.lines()
    assert client.ask(b"C big #%d\n%b" % (len(value), value)) == b"OK\n"
    client.send(b"R big\n" * 40 + b"R none\n")  # 160 MB of replies, for which nobody waits
    other = served.lines()
    assert other.ask(b"C small x") == b"OK\n"
    assert other.ask(b"R small") == b"x"
    assert [client.reply() for _ in range(41)] == [value] * 40 + [b"MISSING\n"]


def test_a_frame_is_no_value_of_these_protocols(served):
    served.store.put("frame", {"a": [1, 2]})
    client, udp = served.lines(), served.datagrams()
    client.send(b"R frame\nR none\n")
    assert client.reply().startswith(b"ERROR 'frame' holds a frame")
    assert client.reply() == b"MISSING\n"
    udp.send(ID + b"\x02" + key("frame"))
    assert udp.recv(100) == ID + b"\x07"


def test_a_store_that_is_closed_beneath_is_said(served):
    client = served.lines()
    served.store.close()
    assert client.ask(b"R a").startswith(b"ERROR the store is closed")
    assert client.ask(b"C a b").startswith(b"ERROR the store is closed")
    assert client.ask(b"DONE") == b"BYE\n"


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_client_that_never_reads_is_let_go_and_nobody_else_notices(unserved, monkeypatch):
    monkeypatch.setattr(connection, "STALLED_SECONDS", 0.5)
    monkeypatch.setattr(server, "_LOOK_SECONDS", 0.1)
    served = unserved.open()
    served.store.put("big", bytes(1 << 20))
    silent, other = served.lines(), served.lines()
    silent.send(b"R big\n" * 100)
    gone = time.monotonic() + SECONDS_MAX
    with pytest.raises(ConnectionError):  # once it is let go
        while time.monotonic() < gone:
            silent.send(b"R big\n")
            assert other.ask(b"R none") == b"MISSING\n"
            time.sleep(0.05)


@pytest.mark.parametrize(("limit", "sent"), [("STALLED_SECONDS", b"C k #100\nabc"), ("IDLE_SECONDS", b"")])
def test_who_does_not_finish_a_request_or_asks_nothing_is_let_go(unserved, monkeypatch, limit, sent):
    monkeypatch.setattr(connection, limit, 0.3)
    monkeypatch.setattr(server, "_LOOK_SECONDS", 0.05)
    served = unserved.open()
    client = served.lines()
    client.send(sent)
    assert client.rest().startswith(b"ERROR ")
    assert served.lines().ask(b"R k") == b"MISSING\n"


def test_more_connections_than_the_limit_are_told_so(unserved):
    unserved.open(Doors(connections_max=3))
    clients = [unserved.lines() for _ in range(3)]
    assert [client.ask(b"R a") for client in clients] == [b"MISSING\n"] * 3
    assert unserved.lines().rest() == b"ERROR too many connections: try again later\n"
    clients[0].close()
    until(lambda: unserved.lines().ask(b"R a") == b"MISSING\n")


# -- who may ----------------------------------------------------------------------------------------------------------


def test_an_audit_line_says_host_and_port_of_who_asked(unserved, caplog):
    caplog.set_level(logging.INFO, "eau2.doors")
    unserved.open(Doors(allow_shutdown=True), tokens=Tokens([(READ, Role.READ)]))
    lines, redis = unserved.lines(), unserved.redis()
    assert b"not known" in lines.ask(b"AUTH somebody else")
    assert isinstance(redis.ask("AUTH", "somebody else"), RedisError)
    with DatagramClient(*unserved.server.addresses["udp"]) as datagrams:
        datagrams.shut_down()
        found = [json.loads(record.message) for record in caplog.records]
        clients = [each["client"] for each in found if each.get("audit")]
        own = [lines.socket, redis.socket, datagrams._socket]
        assert clients == [":".join(map(str, each.getsockname())) for each in own]


def test_a_token_says_what_its_client_may_do(unserved):
    unserved.open(tokens=Tokens([(READ, Role.READ), (WRITE, Role.WRITE)]))
    client = unserved.lines()
    assert client.ask(b"R a") == b"ERROR say AUTH and a token first\n"
    assert client.ask(b"AUTH of somebody else") == b"ERROR the token is not known here\n"
    assert client.ask(b"R a") == b"ERROR say AUTH and a token first\n"
    assert client.ask(b"AUTH " + READ.encode()) == b"OK\n"
    client.send(b"R a\nC a 1\nR a\n")
    assert [client.reply() for _ in range(3)] == [b"MISSING\n", b"ERROR the token may only read\n", b"MISSING\n"]
    assert client.ask(b"AUTH " + WRITE.encode()) == b"OK\n"
    assert client.ask(b"C a 1") == b"OK\n"


def test_a_stranger_may_not_make_us_remember_much(unserved):
    unserved.open(tokens=Tokens([(WRITE, Role.WRITE)]))
    client = unserved.lines()
    client.send(b"C a #5000000\n" + bytes(5_000_000) + b"\nR a\n")
    assert [client.reply(), client.reply()] == [b"ERROR say AUTH and a token first\n"] * 2
    client.send(b"AUTH " + WRITE.encode() + b"\nC a #5\nhello\nR a\n")
    assert [client.reply() for _ in range(3)] == [b"OK\n", b"OK\n", b"hello"]


@pytest.mark.slow
def test_a_slow_reader_that_goes_on_reading_is_not_let_go(unserved, monkeypatch):
    monkeypatch.setattr(connection, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(server, "_LOOK_SECONDS", 0.05)
    served = unserved.open()
    served.store.put("big", bytes(40 << 20))
    client = served.lines()
    client.send(b"R big\n")
    left = len(b"VALUE %d\n" % (40 << 20)) + (40 << 20) + 1
    begun = time.monotonic()
    while left:
        left -= len(client.socket.recv(min(left, 1 << 20)))
        time.sleep(0.05)
    assert time.monotonic() - begun > 1.5
    assert client.ask(b"R none") == b"MISSING\n"


def test_beyond_loopback_nothing_is_open_to_everybody(unserved):
    for doors in (
        Doors(host="0.0.0.0", udp_port=None),
        Doors(host="::", crud_port=None, redis_port=None),
        Doors(host=""),
    ):
        with pytest.raises(InvalidOption):
            Server(unserved.store, doors)
    with pytest.raises(InvalidOption, match="datagrams have no token"):
        Server(unserved.store, Doors(host="0.0.0.0"), tokens=Tokens([(READ, Role.READ)]))
    tokens = Tokens([(READ, Role.READ)])
    with Server(unserved.store, Doors(host="0.0.0.0", udp_trust=("10.0.0.0/8",)), tokens=tokens) as opened:
        assert set(opened.addresses) == {"crud", "redis", "udp"}


def test_datagrams_of_strangers_are_dropped():
    trusted = Networks(("127.0.0.0/8", "10.0.0.0/8", "fd00::/8"))
    assert [address in trusted for address in ("127.0.0.5", "10.1.2.3", "::ffff:10.1.2.3", "fd00::1%eth0")] == [
        True
    ] * 4
    assert [address in trusted for address in ("11.0.0.1", "::1", "fe80::1%eth0")] == [False] * 3
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    with pytest.raises(InvalidOption, match="not a network"):
        Networks(("10.0.0.1/8",))


def test_tokens_are_read_from_a_file_for_its_owner_only(tmp_path, monkeypatch):
    path = tmp_path / "tokens"
    path.write_text(f"# who\nread {READ}\n\nwrite {WRITE}\n")
    path.chmod(0o600)
    monkeypatch.setenv("EAU2_TOKEN", "a token for everything")
    tokens = Tokens.read(path)
    roles = [tokens.role(each) for each in (READ, WRITE, "a token for everything", "another", "")]
    assert roles == [Role.READ, Role.WRITE, Role.ADMIN, Role.NOTHING, Role.NOTHING]
    assert READ not in repr(tokens)
    path.chmod(0o644)
    with pytest.raises(InvalidOption, match="read by others"):
        Tokens.read(path)
    path.chmod(0o600)
    for wrong in ("owner abcdefghijklmnopqrst", "read", "read short"):
        path.write_text(wrong)
        with pytest.raises(InvalidOption):
            Tokens.read(path)
    with pytest.raises(InvalidOption, match="cannot be read"):
        Tokens.read(tmp_path / "none")


def test_a_token_need_not_be_text(unserved, monkeypatch):
    token = b"\xff\xfe no text, but sixteen bytes"
    monkeypatch.setenv("EAU2_TOKEN", os.fsdecode(token))
    unserved.open(tokens=Tokens.read(None))
    assert unserved.lines().ask(b"AUTH " + token) == b"OK\n"
    assert unserved.lines().ask(b"AUTH " + token.replace(b"\xff", b"\xfd")).startswith(b"ERROR")
    assert unserved.redis().ask("AUTH", token) == "OK"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_lines_are_served_by_tls(unserved, tmp_path):
    context = tls_context(tmp_path)
    unserved.open(tls=context)
    address = unserved.server.addresses["crud"]
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    with (
        socket.create_connection(address, timeout=SECONDS_MAX) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        client.sendall(b"C a 1\nR a\nDONE\n")
        received = b""
        while data := client.recv(100):
            received += data
        assert received == b"OK\nVALUE 1\n1\nBYE\n"
    with socket.create_connection(address, timeout=SECONDS_MAX) as stranger:
        stranger.sendall(b"C b 1\n")
        assert not stranger.recv(100).startswith(b"OK")
    assert unserved.store.keys() == ["a"]


# -- the end ----------------------------------------------------------------------------------------------------------


def test_what_was_accepted_is_answered_when_the_server_stops(served):
    clients = [served.lines() for _ in range(10)]
    for number, client in enumerate(clients):
        client.send(b"".join(b"C %d/%d x\n" % (number, each) for each in range(500)))
        assert client.reply() == b"OK\n"
    served.server.close()
    answered = sum(1 + client.rest().count(b"OK\n") for client in clients)
    assert answered == len(served.store.keys())


def test_the_ports_can_be_had_again_at_once(served):
    client = served.lines()
    assert client.ask(b"C a 1") == b"OK\n"
    ports = {f"{door}_port": port for door, (_, port) in served.server.addresses.items()}
    with pytest.raises(StoreUnusable, match="cannot listen at"):
        Server(served.store, Doors(**ports))
    served.server.close()
    served.open(Doors(**ports))
    assert served.lines().ask(b"R a") == b"1"


def test_a_door_that_fails_before_it_listens_is_named_also_where_it_is_the_first(tmp_path, monkeypatch):
    def out_of_files(*given, **named):
        raise OSError(errno.EMFILE, "none are left")

    monkeypatch.setattr("eau2.doors.http.HttpDoor", out_of_files)
    for crud_port in (None, 0):
        doors = Doors(crud_port=crud_port, redis_port=None, udp_port=None, http_port=0)
        with (
            eau2.open(tmp_path / "data") as store,
            pytest.raises(StoreUnusable, match=r"the http door cannot listen at .*Too many open files"),
        ):
            Server(store, doors)


@pytest.mark.slow
def test_a_server_closes_whatever_its_clients_do(served):
    served.store.put("big", bytes(1 << 20))
    silent, halfway, idle = served.lines(), served.lines(), served.lines()
    silent.send(b"R big\n" * 100)
    halfway.send(b"C k #1000\nabc")
    begun = time.monotonic()
    served.server.close()
    print(f"closed in {time.monotonic() - begun:.2f} s")  # a timing is no test: END_SECONDS bounds it
    assert idle.rest() == b""
    assert served.store.keys() == ["big"]


@pytest.mark.slow
def test_many_clients_come_and_go_and_none_is_mistaken_for_another(served_by):
    wrong = []

    def converse(name):
        for number in range(20):
            client = served_by.lines()
            try:
                client.send(b"C %b/%d %b\nR %b/%d\nD %b/%d\n" % (name, number, name, name, number, name, number))
                replies = [client.reply() for _ in range(3)]
                if replies != [b"OK\n", name, b"OK\n"]:
                    wrong.append((name, number, replies))
            finally:
                client.close()

    threads = [threading.Thread(target=converse, args=(b"client-%d" % number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
    assert wrong == []
    assert served_by.store.keys() == []


@pytest.mark.skipif(shutil.which("nc") is None, reason="needs nc")
def test_netcat_is_a_client(served):
    host, port = served.server.addresses["crud"]
    done = subprocess.run(["nc", "-N", host, str(port)], input=b"C a 1\nR a\nDONE\n", capture_output=True, timeout=60)
    assert done.stdout == b"OK\nVALUE 1\n1\nBYE\n"


def test_what_the_server_writes_survives_it(tmp_path):
    with eau2.open(tmp_path / "store") as store, Server(store, Doors(udp_port=None, redis_port=None)) as opened:
        with socket.create_connection(opened.addresses["crud"]) as client:
            client.sendall(b"C a 1\n")
            assert client.recv(10) == b"OK\n"
        assert set(opened.addresses) == {"crud"}
    with eau2.open(tmp_path / "store") as store:
        assert store.get("a") == b"1"

"""Redis's commands over real sockets, and against a model of them."""

from __future__ import annotations

import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from tests.doors.conftest import RedisError
from tests.until import SECONDS_MAX

from eau2.doors import redis
from eau2.doors.server import Doors
from eau2.doors.tokens import Role, Tokens

READ, WRITE = "a token that reads", "a token that writes"


def failed(reply, says):
    return isinstance(reply, RedisError) and says in str(reply)


def test_what_one_writes_all_read(served_by):
    client, lines = served_by.redis(), served_by.lines()
    assert client.ask("SET", "trips/1", "hello") == "OK"
    assert lines.ask(b"R trips/1") == b"hello"
    assert served_by.store.get("trips/1") == b"hello"
    served_by.store.put("trips/1", b"new")
    assert client.ask("GET", "trips/1") == b"new"
    assert client.ask("DEL", "trips/1", "none") == 1
    assert client.ask("GET", "trips/1") is None


def test_strings(served):
    ask = served.redis().ask
    assert [ask("SETNX", "k", "1"), ask("SETNX", "k", "2"), ask("GET", "k")] == [1, 0, b"1"]
    assert [ask("SET", "k", "x", "NX"), ask("SET", "none", "x", "XX"), ask("SET", "k", "x", "XX")] == [None, None, "OK"]
    assert [ask("SET", "k", "y", "GET"), ask("SET", "k", "z", "NX", "GET"), ask("GET", "k")] == [b"x", b"y", b"y"]
    assert [ask("SET", "new", "1", "nx", "get"), ask("GET", "new")] == [None, b"1"]
    assert [ask("GETSET", "k", "z"), ask("GETDEL", "k"), ask("GETDEL", "k")] == [b"y", b"z", None]
    assert [ask("APPEND", "k", "Hello "), ask("APPEND", "k", b"\x00World"), ask("STRLEN", "k")] == [6, 12, 12]
    assert [ask("GETRANGE", "k", *part) for part in ((0, 4), (-5, -1), (0, -1), (5, 3), (3, 100), (-100, 0))] == [
        *(b"Hello", b"World", b"Hello \x00World", b"", b"lo \x00World", b"H")
    ]
    assert [ask("MSET", "a", "1", "b", "2"), ask("MGET", "a", "none", "b", "a")] == ["OK", [b"1", None, b"2", b"1"]]
    assert [ask("EXISTS", "a", "a", "none"), ask("UNLINK", "a", "a"), ask("TYPE", "a"), ask("TYPE", "b")] == [
        *(2, 1, "none", "string")
    ]


def test_numbers(served):
    ask = served.redis().ask
    assert [ask("INCR", "n"), ask("INCRBY", "n", 41), ask("DECR", "n"), ask("DECRBY", "n", "-1")] == [1, 42, 41, 42]
    ask("SET", "n", (1 << 63) - 1)
    assert failed(ask("INCR", "n"), "ERR increment or decrement would overflow")
    for value in ("x", "", " 1", "1.0", "01", "+1", "9223372036854775808", "-0", "１"):
        ask("SET", "n", value)
        assert failed(ask("INCR", "n"), "ERR value is not an integer or out of range"), value
        assert ask("GET", "n") == value.encode()
    assert failed(ask("INCRBY", "m", "x"), "not an integer")


def test_a_frame_is_a_frame(served):
    served.store.put("frame", {"a": [1, 2]})
    ask = served.redis().ask
    assert ask("TYPE", "frame") == "frame"
    for command in (
        ["GET", "frame"],
        ["APPEND", "frame", "x"],
        ["INCR", "frame"],
        ["GETDEL", "frame"],
        ["STRLEN", "frame"],
    ):
        assert failed(ask(*command), "WRONGTYPE Operation against a key holding the wrong kind of value"), command
    assert ask("MGET", "frame", "none") == [None, None]
    assert [ask("EXISTS", "frame"), ask("SETNX", "frame", "x")] == [1, 0]
    ask("SET", "k", "v")
    assert ask("SCAN", 0, "TYPE", "frame") == [b"0", [b"frame"]]
    assert ask("SCAN", 0, "TYPE", "string") == [b"0", [b"k"]]
    assert served.store.frame("frame").rows == 2
    assert [ask("SET", "frame", "x"), ask("GET", "frame"), ask("DEL", "frame")] == ["OK", b"x", 1]


def test_all_keys(served):
    client = served.redis()
    served.store.put_many({f"user:{number:03}": b"x" for number in range(250)} | {"other": b"y"})
    assert client.ask("DBSIZE") == 251
    assert client.ask("KEYS", "user:00?") == [b"user:00%d" % number for number in range(10)]
    cursor, found = b"0", []
    while True:
        cursor, some_keys = client.ask("SCAN", cursor, "MATCH", "user:*", "COUNT", 30)
        found += some_keys
        if len(found) == 30:
            served.store.delete("user:000")  # what goes meanwhile harms nothing
        if cursor == b"0":
            break
    assert found == [b"user:%03d" % number for number in range(250)]
    assert failed(client.ask("SCAN", 12345), "the cursor is not known any more")
    assert failed(client.ask("SCAN", 0, "COUNT", 0), "syntax error")


def test_scans_are_bounded(served, monkeypatch):
    monkeypatch.setattr(redis, "LISTED_MAX", 100)
    served.store.put_many({f"{number:02}": b"x" for number in range(60)})
    ask = served.redis().ask
    first, second = ask("SCAN", 0)[0], ask("SCAN", 0)[0]
    assert failed(ask("SCAN", first), "begin again at 0")
    assert len(ask("SCAN", second, "COUNT", 100)[1]) == 50


def test_what_is_asked_wrongly_is_said_as_redis_does(served):
    client = served.redis()
    assert failed(client.ask("NOSUCH", "a"), "ERR unknown command 'NOSUCH', with args beginning with: 'a'")
    assert failed(client.ask("GET"), "ERR wrong number of arguments for 'get' command")
    assert failed(client.ask("MSET", "a", "1", "b"), "ERR wrong number of arguments")
    assert failed(client.ask("SET", "k", "v", "NX", "XX"), "ERR syntax error")
    for wrong in (["EX"], ["EX", "1", "PX", "1"], ["EX", "1", "KEEPTTL"], ["KEEPTTL", "PX", "1"], ["NX", "EX"]):
        assert failed(client.ask("SET", "k", "v", *wrong), "ERR syntax error"), wrong
    for wrong in ("0", "-1", str(1 << 62)):
        assert failed(client.ask("SET", "k", "v", "EX", wrong), "ERR invalid expire time in 'set' command"), wrong
    assert failed(client.ask("SET", "k", "v", "PX", "x"), "ERR value is not an integer")
    assert failed(client.ask("EXPIRE", "k", "1", "NX", "GT"), "ERR NX and XX, GT or LT options at the same time")
    assert failed(client.ask("EXPIRE", "k", "1", "ever"), "ERR Unsupported option ever")
    assert failed(client.ask("RENAME", "none", "k"), "ERR no such key")
    assert failed(client.ask("GET", b"\xff"), "ERR a key is text in UTF-8")
    assert failed(client.ask("GET", ""), "ERR a key has at least one character")
    assert failed(client.ask("SELECT", 1), "ERR DB index is out of range")
    assert failed(client.ask("FLUSHDB"), "ERR FLUSHDB is off")
    assert client.ask("PING") == "PONG"
    client.socket.sendall(b"*1\r\n:1\r\n")
    assert failed(client.reply(), "ERR Protocol error: expected '$', got ':'")
    assert client.replies.read() == b""


def test_a_connection_says_what_it_is(served):
    client = served.redis()
    assert client.ask("SELECT", 0) == "OK"
    assert client.ask("PING", "x") == client.ask("ECHO", "x") == b"x"
    assert client.ask("CLIENT", "GETNAME") is None
    assert [client.ask("CLIENT", "SETNAME", "me"), client.ask("CLIENT", "GETNAME")] == ["OK", b"me"]
    assert failed(client.ask("CLIENT", "SETNAME", "a b"), "cannot contain spaces")
    identity = client.ask("CLIENT", "ID")
    assert b"name=me" in client.ask("CLIENT", "INFO")
    other = served.redis()
    hello = other.ask("HELLO", 3, "SETNAME", "other")
    assert (hello[b"proto"], hello[b"server"]) == (3, b"eau2")
    assert other.ask("GET", "none") is None
    assert hello[b"id"] != identity
    assert client.ask("CLIENT", "LIST").count(b"\n") == 2
    assert failed(client.ask("HELLO", 4), "NOPROTO")
    assert client.ask("HELLO")[:2] == [b"server", b"eau2"]
    info = dict(line.split(b":", 1) for line in client.ask("INFO").splitlines()[1:])
    assert info[b"connected_clients"] == b"2"
    assert client.ask("COMMAND", "COUNT") == len(redis.TABLE) == len(client.ask("COMMAND"))
    assert client.ask("WAIT", 0, 100) == 0
    assert client.ask("QUIT") == "OK"
    assert client.replies.read() == b""


def test_a_web_page_gets_nothing_done(served):
    for client in (served.redis(), served.lines()):
        client.socket.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nSET a b\r\nC a b\r\n")
        assert b"this is no HTTP" in client.replies.read()
    assert served.store.keys() == []


def test_lines_may_be_typed(served):
    client = served.redis()
    client.socket.sendall(b"SET k 'two words'\r\nget k\nPING\r\n")
    assert [client.reply() for _ in range(3)] == ["OK", b"two words", "PONG"]


def test_a_token_says_what_its_client_may_do(unserved):
    unserved.open(tokens=Tokens([(READ, Role.READ), (WRITE, Role.WRITE)]))
    client = unserved.redis()
    assert failed(client.ask("GET", "a"), "NOAUTH Authentication required.")
    assert failed(client.ask("AUTH", "of somebody else"), "WRONGPASS")
    assert failed(client.ask("HELLO", 3), "NOAUTH")
    assert client.ask("AUTH", READ) == "OK"
    assert client.ask("GET", "a") is None
    assert failed(client.ask("SET", "a", "1"), "NOPERM the token may only read")
    assert client.ask("HELLO", 3, "AUTH", "default", WRITE)[b"proto"] == 3
    assert client.ask("SET", "a", "1") == "OK"
    pipelined = unserved.redis()
    pipelined.send("AUTH", WRITE)
    pipelined.send("MSET", *(word for number in range(50) for word in (number, "x" * 20_000)))
    assert [pipelined.reply(), pipelined.reply()] == ["OK", "OK"]
    assert failed(pipelined.ask("FLUSHDB"), "NOPERM")
    stranger = unserved.redis()
    stranger.socket.sendall(b"*1\r\n$1000000\r\n")
    assert failed(stranger.reply(), "unauthenticated bulk length")


def test_forgetting_all_must_be_allowed(unserved):
    unserved.open(Doors(allow_wipe=True))
    unserved.store.put_many({"a": b"1", "b": b"2"})
    unserved.store.put("frame", {"a": [1]})
    client = unserved.redis()
    assert [client.ask("FLUSHDB"), client.ask("DBSIZE")] == ["OK", 0]


def test_many_clients_count_together(served_by):
    """Each adds one, many at once, beside somebody who is no client of the server."""
    done = []

    def count():
        client = served_by.redis()
        for _ in range(5):
            for _ in range(20):
                client.send("INCR", "n")
            done.extend(client.reply() for _ in range(20))

    def beside():
        for _ in range(50):
            while True:
                version = served_by.store.version("n") if served_by.store.exists("n") else None
                if version is None:
                    continue
                value = int(served_by.store.get("n"))
                try:
                    served_by.store.update("n", b"%d" % (value + 1), if_version=version)
                except redis.Eau2Error:
                    continue
                break

    threads = [threading.Thread(target=count) for _ in range(8)] + [threading.Thread(target=beside)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
    assert served_by.store.get("n") == b"%d" % (8 * 100 + 50)
    assert len(set(done)) == 800


KEYS = some.sampled_from(["a", "b", "c"])
VALUES = some.sampled_from([b"", b"1", b"-5", b"text", b"99"])
COMMANDS = some.one_of(
    some.tuples(some.just("SET"), KEYS, VALUES),
    some.tuples(some.just("SET"), KEYS, VALUES, some.sampled_from(["NX", "XX"])),
    some.tuples(some.just("SET"), KEYS, VALUES, some.sampled_from(["NX", "XX"]), some.just("GET")),
    some.tuples(some.sampled_from(["GET", "GETDEL", "STRLEN", "INCR", "DECR", "TYPE"]), KEYS),
    some.tuples(some.sampled_from(["APPEND", "SETNX", "GETSET"]), KEYS, VALUES),
    some.tuples(some.just("INCRBY"), KEYS, some.sampled_from(["1", "-7", "x"])),
    some.tuples(some.sampled_from(["DEL", "EXISTS", "MGET"]), KEYS, KEYS),
    some.tuples(some.just("MSET"), KEYS, VALUES, KEYS, VALUES),
    some.tuples(some.sampled_from(["DBSIZE"])),
)


class Model:
    """What Redis does, over a dict."""

    def __init__(self):
        self.values = {}

    def run(self, name, *given):
        return getattr(self, name.lower())(*given)

    def set(self, key, value, *options):
        before = self.values.get(key)
        done = "NX" not in options if before is not None else "XX" not in options
        if done:
            self.values[key] = value
        return before if "GET" in options else "OK" if done else None

    def get(self, key):
        return self.values.get(key)

    def getdel(self, key):
        return self.values.pop(key, None)

    def strlen(self, key):
        return len(self.values.get(key, b""))

    def type(self, key):
        return "string" if key in self.values else "none"

    def append(self, key, value):
        self.values[key] = self.values.get(key, b"") + value
        return len(self.values[key])

    def setnx(self, key, value):
        return int(self.set(key, value, "NX") == "OK")

    def getset(self, key, value):
        return self.set(key, value, "GET")

    def incrby(self, key, amount):
        try:
            number = int(self.values.get(key, b"0")) + int(amount)
        except ValueError:
            return RedisError
        self.values[key] = b"%d" % number
        return number

    def incr(self, key):
        return self.incrby(key, 1)

    def decr(self, key):
        return self.incrby(key, -1)

    def delete(self, *keys):
        return sum(self.values.pop(key, None) is not None for key in keys)

    def exists(self, *keys):
        return sum(key in self.values for key in keys)

    def mget(self, *keys):
        return [self.values.get(key) for key in keys]

    def mset(self, *pairs):
        self.values.update(zip(pairs[::2], pairs[1::2], strict=True))
        return "OK"

    def dbsize(self):
        return len(self.values)


setattr(Model, "del", Model.delete)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(some.lists(COMMANDS, max_size=30), some.booleans())
def test_pipelines_are_answered_as_by_a_model(served, commands, together):
    served.store.delete_many(served.store.keys())
    client, model = served.redis(), Model()
    expected = [model.run(*command) for command in commands]
    found = []
    for command in commands:
        client.send(*command)
        if not together:
            found.append(client.reply())
    if together:
        found = [client.reply() for _ in commands]
    assert [type(each) if isinstance(each, RedisError) else each for each in found] == expected
    assert served.store.get_many(served.store.keys()) == model.values
    client.close()

"""Keys that end: by a clock that the test sets, over real sockets, against a model, on one node and on three."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from tests.doors.conftest import RedisError, Served
from tests.until import until

import eau2
from eau2.doors import deadlines, server
from eau2.doors.deadlines import Deadlines, Sweep, Sweeping
from eau2.doors.keyspace import Keyspace
from eau2.errors import StoreBusy, ValueTooLarge


class Clock:
    """Stands still until it is told."""

    def __init__(self):
        self.seconds = 1_790_000_000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=[1, 3])
def served(tmp_path, clock, request, monkeypatch):
    """A server that does not sweep: what has ended is still in its store."""
    monkeypatch.setattr(server, "_LOOK_SECONDS", 1000.0)
    with ExitStack() as stack:
        store = stack.enter_context(eau2.open(tmp_path / "store", nodes=request.param))
        yield Served(store, stack).open(clock=clock)


def test_a_key_is_there_until_its_end(served, clock):
    ask = served.redis().ask
    assert [ask("SET", "k", "v", "EX", 10), ask("TTL", "k"), ask("PTTL", "k")] == ["OK", 10, 10_000]
    clock.seconds += 9.999
    assert [ask("GET", "k"), ask("TTL", "k"), ask("PTTL", "k"), ask("EXISTS", "k")] == [b"v", 0, 1, 1]
    clock.seconds += 0.001
    assert [ask("GET", "k"), ask("TTL", "k"), ask("EXISTS", "k"), ask("TYPE", "k")] == [None, -2, 0, "none"]
    assert [ask("MGET", "k"), ask("STRLEN", "k"), ask("DBSIZE"), ask("KEYS", "*"), ask("DEL", "k")] == [
        *([None], 0, 0, [], 0)
    ]
    assert [ask("SET", "k", "w", "NX"), ask("TTL", "k"), ask("GET", "k")] == ["OK", -1, b"w"]


def test_all_that_sets_an_end(served, clock):
    ask = served.redis().ask
    moment = int(clock.seconds) + 100
    for command in (
        ["SET", "k", "v", "EX", 100],
        ["SET", "k", "v", "PX", 100_000],
        ["SET", "k", "v", "EXAT", moment],
        ["SET", "k", "v", "PXAT", moment * 1000],
        ["SETEX", "k", 100, "v"],
        ["PSETEX", "k", 100_000, "v"],
    ):
        ask("SET", "k", "before")
        assert [ask(*command), ask("TTL", "k"), ask("GET", "k")] == ["OK", 100, b"v"], command
        assert [ask("EXPIRETIME", "k"), ask("PEXPIRETIME", "k")] == [moment, moment * 1000]
    for command in (
        ["EXPIRE", "k", 50],
        ["PEXPIRE", "k", 50_000],
        ["EXPIREAT", "k", moment - 50],
        ["PEXPIREAT", "k", (moment - 50) * 1000],
    ):
        ask("SET", "k", "v")
        assert [ask(*command), ask("TTL", "k"), ask("GET", "k"), ask("EXPIRE", "none", 1)] == [1, 50, b"v", 0], command
    assert [ask("PERSIST", "k"), ask("PERSIST", "k"), ask("TTL", "k"), ask("PERSIST", "none")] == [1, 0, -1, 0]
    assert [ask("EXPIRE", "k", -1), ask("EXISTS", "k"), served.store.exists("k")] == [1, 0, False]


def test_an_end_is_set_where_it_is_wanted(served):
    ask = served.redis().ask
    ask("SET", "k", "v")
    asked = ["XX", "GT", "LT", "NX", "NX"]
    assert [ask("EXPIRE", "k", 100, each) for each in asked] == [0, 0, 1, 0, 0]
    assert [ask("EXPIRE", "k", *each) for each in ((50, "GT"), (200, "LT"), (200, "GT"), (100, "XX"))] == [0, 0, 1, 1]
    assert ask("TTL", "k") == 100


def test_what_changes_a_value_keeps_its_end_and_what_replaces_it_does_not(served):
    ask = served.redis().ask
    for command, left in (
        (["INCR", "k"], 100),
        (["APPEND", "k", "0"], 100),
        (["SET", "k", "1", "KEEPTTL"], 100),
        (["SET", "k", "1", "XX", "GET", "KEEPTTL"], 100),
        (["SET", "k", "1"], -1),
        (["SET", "k", "1", "XX"], -1),
        (["GETSET", "k", "1"], -1),
        (["MSET", "k", "1"], -1),
        (["SETNX", "k", "1"], 100),
    ):
        ask("SET", "k", "1", "EX", 100)
        ask(*command)
        assert ask("TTL", "k") == left, command
    assert [ask("SET", "new", "1", "KEEPTTL"), ask("TTL", "new")] == ["OK", -1]


def test_an_end_belongs_to_the_value_that_it_was_set_on(served, clock):
    """Whoever replaces the value, by whatever way, and though the bytes are the same."""
    ask, lines = served.redis().ask, served.lines()
    for replace in (
        lambda: served.store.put("k", b"v"),
        lambda: served.store.update("k", b"v", if_version=served.store.version("k")),
        lambda: lines.ask(b"U k v"),
        lambda: served.store.put_many({"k": b"v", "other": b"x"}),
    ):
        ask("SET", "k", "v", "EX", 10)
        replace()
        assert ask("TTL", "k") == -1
        clock.seconds += 11
        assert ask("GET", "k") == b"v"


def test_others_see_what_has_ended_until_it_is_swept(served, clock):
    ask, lines = served.redis().ask, served.lines()
    ask("SET", "k", "v", "EX", 10)
    assert [served.store.get("k"), served.store.get_many(["k"]), lines.ask(b"R k")] == [b"v", {"k": b"v"}, b"v"]
    clock.seconds += 10
    assert served.store.get("k") == b"v"
    assert lines.ask(b"R k") == b"MISSING\n"  # it goes by ends as well
    assert lines.ask(b"C k new") == b"OK\n"
    assert served.store.get("k") == b"new"


def test_a_value_that_has_ended_cannot_be_renamed_and_one_that_has_not_takes_its_end_along(served, clock):
    ask = served.redis().ask
    ask("SET", "a", "1", "EX", 10)
    assert [ask("RENAME", "a", "b"), ask("TTL", "b"), ask("EXISTS", "a")] == ["OK", 10, 0]
    ask("SET", "c", "2")
    assert [ask("RENAME", "c", "b"), ask("TTL", "b"), ask("GET", "b")] == ["OK", -1, b"2"]
    ask("EXPIRE", "b", 1)
    ask("SET", "c", "3")
    clock.seconds += 1
    assert [ask("RENAMENX", "c", "b"), ask("TTL", "b")] == [1, -1]
    assert isinstance(ask("RENAME", "c", "b"), RedisError)


def test_several_keys_are_set_or_none(served, clock):
    ask = served.redis().ask
    assert [ask("MSETNX", "a", "1", "b", "2"), ask("MSETNX", "c", "1", "b", "3"), ask("EXISTS", "c")] == [1, 0, 0]
    ask("EXPIRE", "b", 1)
    clock.seconds += 1
    assert [ask("MSETNX", "c", "1", "b", "3"), ask("MGET", "a", "b", "c")] == [1, [b"1", b"3", b"1"]]


def test_a_frame_has_no_end(served):
    served.store.put("frame", {"a": [1]})
    ask = served.redis().ask
    assert "WRONGTYPE" in str(ask("EXPIRE", "frame", 10))
    assert [ask("TTL", "frame"), ask("PERSIST", "frame")] == [-1, 0]
    assert [ask("SET", "frame", "v", "EX", 10), ask("TTL", "frame")] == ["OK", 10]


def test_large_values_end_too(served, clock):
    ask, value = served.redis().ask, bytes(100_000)
    assert [ask("SET", "k", value, "EX", 10), ask("GET", "k"), served.store.get("k")] == ["OK", value, value]
    assert served.store.check().faults == ()
    clock.seconds += 10
    assert ask("GET", "k") is None


def test_an_end_survives_the_server_and_all_servers_go_by_it(tmp_path, clock):
    with ExitStack() as stack:
        store = stack.enter_context(eau2.open(tmp_path / "store"))
        with ExitStack() as before:
            assert Served(store, before).open(clock=clock).redis().ask("SET", "k", "v", "EX", 10) == "OK"
        first, second = (Served(store, stack).open(clock=clock).redis() for _ in range(2))
        assert [first.ask("TTL", "k"), second.ask("TTL", "k")] == [10, 10]
        clock.seconds += 10
        assert [first.ask("GET", "k"), second.ask("GET", "k")] == [None, None]
        assert store.check().faults == ()


def test_what_has_ended_is_swept_for_all_also_what_others_had_put(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(server, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(deadlines, "SWEPT_MAX", 3)
    with eau2.open(tmp_path / "store") as store, ExitStack() as stack:
        with ExitStack() as before:
            ask = Served(store, before).open(clock=clock).redis().ask
            for number in range(10):
                ask("SET", f"k{number}", "v" * 1000 * (number % 2), "EX", 10)
            ask("SET", "other", "v", "EX", 11)
            ask("SET", "k0", "v")
        clock.seconds += 10
        client = Served(store, stack).open(clock=clock).redis()
        until(lambda: store.keys() == ["k0", "other"])
        assert client.ask("TTL", "other") == 1
        assert store.check().faults == ()


def test_a_sweep_deletes_nothing_that_has_been_put_since(served, clock):
    ask = served.redis().ask
    ask("SET", "k", "v", "EX", 1)
    ask("SET", "kept", "v", "EX", 1)
    clock.seconds += 1
    served.store.put("k", b"new")
    keyspace, swept = Keyspace(served.store, Deadlines(clock)), []
    for key in ("k", "kept", "none"):
        keyspace.submit([Sweep([key], looks=False)], swept.append)
    keyspace.close()
    assert len(swept) == 3
    assert served.store.keys() == ["k"]


def test_what_a_sweep_could_not_delete_is_taken_again(clock):
    noted, asked = Deadlines(clock), []
    sweeping = Sweeping(noted, lambda commands, done: asked.append((commands[0].reads, done)))
    for key, end in (("a", 1000), ("b", 2000), ("c", 10**14)):
        noted.note(key, end)
    sweeping.sweep()
    sweeping.sweep()  # one at a time
    ((keys, done),) = asked
    assert keys == ["a", "b"]
    assert noted.is_due("a")
    done([StoreBusy("busy")])
    sweeping.sweep()
    assert asked[1][0] == ["a", "b"]
    noted.note("b", 10**14)  # it has been put again
    asked[1][1]([True])
    assert [noted.is_due(key) for key in "abc"] == [False, False, False]
    assert not noted.any_due()


KEYS = some.sampled_from(["a", "b"])
SECONDS = some.integers(1, 5)
COMMANDS = some.one_of(
    some.tuples(some.just("SET"), KEYS, some.just(b"1")),
    some.tuples(some.just("SET"), KEYS, some.just(b"1"), some.just("EX"), SECONDS),
    some.tuples(some.just("SET"), KEYS, some.just(b"2"), some.sampled_from(["NX", "XX"]), some.just("EX"), SECONDS),
    some.tuples(some.just("SET"), KEYS, some.just(b"3"), some.just("KEEPTTL")),
    some.tuples(some.just("EXPIRE"), KEYS, some.integers(-1, 5)),
    some.tuples(some.just("RENAME"), KEYS, KEYS),
    some.tuples(some.sampled_from(["GET", "TTL", "INCR", "PERSIST", "DEL", "EXISTS", "GETDEL"]), KEYS),
    some.tuples(some.just("MSETNX"), some.just("a"), some.just(b"1"), some.just("b"), some.just(b"2")),
    some.tuples(some.just("DBSIZE")),
    some.tuples(some.just("wait"), SECONDS),
)


class Model:
    """What Redis does, over a dict of values and their ends."""

    def __init__(self):
        self.now, self.values = 0, {}

    def run(self, name, *given):
        self.values = {key: each for key, each in self.values.items() if each[1] > self.now}
        return getattr(self, name.lower())(*given)

    def wait(self, seconds):
        self.now += seconds

    def set(self, key, value, *options):
        if ("NX" in options and key in self.values) or ("XX" in options and key not in self.values):
            return None
        end = self.values[key][1] if "KEEPTTL" in options and key in self.values else float("inf")
        self.values[key] = value, self.now + options[-1] if "EX" in options else end
        return "OK"

    def expire(self, key, seconds):
        if key not in self.values:
            return 0
        self.values[key] = self.values[key][0], self.now + seconds
        return 1

    def rename(self, key, new):
        if key not in self.values:
            return RedisError
        self.values[new] = self.values.pop(key)
        return "OK"

    def get(self, key):
        return self.values.get(key, [None])[0]

    def getdel(self, key):
        return self.values.pop(key, [None])[0]

    def ttl(self, key):
        end = self.values.get(key, (b"", self.now - 2))[1]
        return -1 if end == float("inf") else end - self.now

    def incr(self, key):
        value, end = self.values.get(key, (b"0", float("inf")))
        self.values[key] = b"%d" % (int(value) + 1), end
        return int(value) + 1

    def persist(self, key):
        if self.ttl(key) < 0:
            return 0
        self.values[key] = self.values[key][0], float("inf")
        return 1

    def delete(self, key):
        return int(self.values.pop(key, None) is not None)

    def exists(self, key):
        return int(key in self.values)

    def msetnx(self, a, one, b, two):
        if self.values:
            return 0
        self.values = {a: (one, float("inf")), b: (two, float("inf"))}
        return 1

    def dbsize(self):
        return len(self.values)


setattr(Model, "del", Model.delete)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(some.lists(COMMANDS, max_size=25))
def test_commands_are_answered_as_by_a_model(served, clock, commands):
    served.store.delete_many(served.store.keys())
    client, model = served.redis(), Model()
    for command in commands:
        if command[0] == "wait":
            clock.seconds += command[1]
        found = None if command[0] == "wait" else client.ask(*command)
        assert (type(found) if isinstance(found, RedisError) else found) == model.run(*command), command
    client.close()


def test_values_too_large_to_be_read_together_are_swept_in_small_parts(clock):
    noted, asked = Deadlines(clock), []
    sweeping = Sweeping(noted, lambda commands, done: asked.append((commands[0].reads, done)))
    for number in range(20):
        noted.note(f"k{number:02}", 1000)
    sizes = []
    for outcome in (ValueTooLarge("too much"), ValueTooLarge("too much"), True):
        sweeping.sweep()
        keys, done = asked.pop()
        sizes.append(len(keys))
        done([outcome])
    while asked:  # after a success the next follows at once
        keys, done = asked.pop()
        sizes.append(len(keys))
        done([True])
    assert sizes == [20, 16, 1, 2, 4, 8, 5]
    assert not noted.any_due()

"""What is plain is answered in the event loop's thread: never old, never lost, and as if it were asked by itself."""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket
import struct
import threading
import time
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as some
from tests.until import SECONDS_MAX, until

import eau2
from eau2.doors import resp, server, turn
from eau2.doors.deadlines import Deadlines
from eau2.doors.keyspace import Keyspace
from eau2.doors.redis import Listings, RedisConversation
from eau2.doors.resp import Commands
from eau2.doors.tokens import Access, Role, Tokens
from eau2.doors.turn import TooMuch, Turn, Turns
from eau2.doors.work import Plain, Verb
from eau2.errors import InvalidKey, StoreBusy, StoreClosed
from eau2.store import reading


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def at_once(store, monkeypatch):
    monkeypatch.setattr(reading, "_MOMENT_SECONDS", SECONDS_MAX)  # the idle thread may be held up amid its look
    return Turn(store.node.here, Deadlines())


def reads(*keys):
    return Plain([*keys], None, resp.NULL, gets(*keys))


def gets(*keys):
    return resp.gets(b"".join(encoded(b"GET", key) for key in keys))


def put(at_once, **values):
    at_once.put({key.encode(): value for key, value in values.items()}, len(values))


def encoded(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def test_a_turn_is_one_look_up_and_one_transaction(store, at_once):
    before = store.statistics()
    at_once.put({b"a": b"3", b"b": b"2"}, 3)
    assert at_once.read([reads(b"a", b"none", b"b"), reads(b"b")]) == [b"$1\r\n3\r\n$-1\r\n$1\r\n2\r\n", b"$1\r\n2\r\n"]
    after = store.statistics()
    assert (after.commits - before.commits, after.writes - before.writes, after.gets - before.gets) == (1, 2, 1)
    assert at_once.read([reads(b"a", b"b")]) == [b"$1\r\n3\r\n$1\r\n2\r\n"]
    assert store.statistics().gets == after.gets  # they were kept


def test_what_is_kept_is_never_old(store, at_once, tmp_path):
    numbers = itertools.count()
    with eau2.open(tmp_path / "store") as other:
        for change in (
            lambda: other.put("a", b"new"),
            lambda: store.put("a", b"newer"),
            lambda: other.delete("a"),
            lambda: other.put("a", {"x": [1]}),
            lambda: put(at_once, a=b"last"),
        ):
            store.put("a", old := b"old%d" % next(numbers))
            for _ in range(3):
                assert at_once.read([reads(b"a")]) == [b"$4\r\n%b\r\n" % old]
                assert at_once.kept(encoded(b"GET", b"a"), resp.NULL) == (b"$4\r\n%b\r\n" % old, 1)
                for _ in range(2):
                    assert at_once.kept(encoded(b"GET", b"a") * 4, resp.NULL) == (b"$4\r\n%b\r\n" % old * 4, 4)
            change()
            for count in (1, 4):  # what we have put ourselves is kept
                kept = at_once.kept(encoded(b"GET", b"a") * count, resp.NULL)
                assert kept == ((b"$4\r\nlast\r\n" * count, count) if store.get("a", default=None) == b"last" else None)
            value = store.get("a", default=None)
            expected = resp.bulk(value, resp3=False) if value is None or isinstance(value, bytes) else turn._WRONG
            assert at_once.read([reads(b"a")]) == [expected]


def test_a_write_of_another_right_after_ours_is_not_taken_for_ours(store, tmp_path):
    class Raced:
        """The node, of which another process has the next write."""

        def __init__(self, here):
            self.generation, self.get_many, self.tally, self._here = here.generation, here.get_many, here.tally, here

        def put(self, values):
            alone = self._here.put(values)
            with eau2.open(tmp_path / "store") as other:
                other.put("a", b"new")
            return alone

    raced = Turn(Raced(store.node.here), Deadlines())
    store.put("a", b"old")
    assert raced.read([reads(b"a")]) == [b"$3\r\nold\r\n"]
    put(raced, b=b"1")
    assert raced.kept(encoded(b"GET", b"a"), resp.NULL) is None
    assert raced.read([reads(b"a")]) == [b"$3\r\nnew\r\n"]


def test_what_is_absent_is_kept_too(store, at_once, tmp_path):
    asked = Plain([b"a", b"b"], None, resp.NULL3, gets(b"a", b"b"))
    with eau2.open(tmp_path / "store") as other:
        for change, ours in (
            (lambda: other.put("a", b"1"), False),
            (lambda: store.put("a", b"1"), False),
            (lambda: put(at_once, a=b"1"), True),
        ):
            for _ in range(2):
                assert at_once.read([reads(b"a", b"b"), asked]) == [resp.NULL * 2, resp.NULL3 * 2]
            before = store.statistics().gets
            assert at_once.read([reads(b"a"), asked]) == [resp.NULL, resp.NULL3 * 2]
            assert at_once.kept(encoded(b"GET", b"a"), resp.NULL) == (resp.NULL, 1)
            assert at_once.kept(encoded(b"GET", b"a"), resp.NULL3) == (resp.NULL3, 1)
            for absent in (resp.NULL, resp.NULL3) * 2:
                assert at_once.kept(encoded(b"GET", b"a") * 4, absent) == (absent * 4, 4)
            assert store.statistics().gets == before
            change()
            for count in (1, 4):
                kept = at_once.kept(encoded(b"GET", b"a") * count, resp.NULL)
                assert kept == ((b"$1\r\n1\r\n" * count, count) if ours else None)
            assert at_once.read([reads(b"a"), asked]) == [b"$1\r\n1\r\n", b"$1\r\n1\r\n" + resp.NULL3]
            store.delete("a")


def test_a_frame_is_replaced_by_the_other_thread(store, at_once):
    store.put("f", {"x": [1]})
    with pytest.raises(StoreBusy):
        put(at_once, a=b"1", f=b"2")
    assert (store.exists("a"), store.frame("f").rows) == (False, 1)


def test_nobody_waits_in_the_loop_for_a_thread_that_reads(store, at_once, monkeypatch):
    monkeypatch.setattr(reading, "_MOMENT_SECONDS", 0.001)
    store.put("a", b"1")
    lock = store.node._reader._lock
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(SECONDS_MAX)

    holding = threading.Thread(target=hold)
    holding.start()
    held.wait(SECONDS_MAX)
    try:
        with pytest.raises(StoreBusy):
            at_once.read([reads(b"a")])
    finally:
        done.set()
        holding.join()


def test_a_thread_that_looks_for_a_moment_turns_nobody_away(store, at_once):
    store.put("a", b"1")
    held = threading.Event()

    def hold():
        with store.node._reader._lock:
            held.set()
            time.sleep(0.05)

    holding = threading.Thread(target=hold)
    holding.start()
    held.wait(SECONDS_MAX)
    assert at_once.read([reads(b"a")]) == [b"$1\r\n1\r\n"]
    holding.join()


def test_our_own_puts_leave_what_else_is_kept(store, at_once):
    store.put_many({"a": b"1", "b": b"2"})
    for _ in range(2):
        at_once.read([reads(b"a", b"b")])
    gets = store.statistics().gets
    put(at_once, a=b"3")
    assert at_once.read([reads(b"b")]) == [b"$1\r\n2\r\n"]
    assert store.statistics().gets == gets
    assert at_once.read([reads(b"a")]) == [b"$1\r\n3\r\n"]


def test_what_somebody_puts_at_the_same_time_is_not_taken_for_ours(store, at_once):
    store.put_many({"a": b"1", "b": b"2"})
    at_once.read([reads(b"a", b"b")])

    class Beside(type(store.node.here)):
        def put(self, values):
            store.put("b", b"of somebody else")
            return super().put(values)

    store.node.here.__class__ = Beside
    put(at_once, a=b"3")
    assert at_once.read([reads(b"b")]) == [b"$16\r\nof somebody else\r\n"]


def test_what_was_put_is_kept_until_somebody_else_writes(store, at_once):
    large = bytes(turn.CACHED_BYTES_MAX)
    put(at_once, a=b"1", b=b"2", large=large)
    gets = store.statistics().gets
    for number in range(5):
        assert at_once.kept(encoded(b"GET", b"a") + encoded(b"GET", b"b"), resp.NULL) == (
            b"$1\r\n%d\r\n$1\r\n2\r\n" % (number or 1),
            2,
        )
        put(at_once, a=b"%d" % (number + 1))
    assert store.statistics().gets == gets
    assert at_once.kept(encoded(b"GET", b"large"), resp.NULL) is None
    assert at_once.read([reads(b"large")]) == [resp.bulk(large, resp3=False)]
    for value in (large, b"small", large):  # nothing old is left of one that is not kept
        put(at_once, large=value)
        assert at_once.read([reads(b"large")]) == [resp.bulk(value, resp3=False)]
    store.put("c", b"3")
    assert at_once.kept(encoded(b"GET", b"a"), resp.NULL) is None
    put(at_once, a=b"new")
    assert at_once.kept(encoded(b"GET", b"a"), resp.NULL) == (b"$3\r\nnew\r\n", 1)
    assert at_once.kept(encoded(b"GET", b"b"), resp.NULL) is None


def test_of_many_puts_at_once_nothing_is_kept_and_nothing_old_left(store, at_once):
    many = {f"k{number}": b"1" for number in range(turn.KEPT_PUTS_MAX + 1)}
    put(at_once, **many)
    assert not at_once._replies
    for each in ({"k0": b"2"}, dict.fromkeys(many, b"3")):
        assert at_once.read([reads(b"k0", b"k1")])
        put(at_once, **each)
        assert at_once.read([reads(b"k0")]) == [resp.bulk(each["k0"], resp3=False)]
        assert at_once.kept(encoded(b"GET", b"k0"), resp.NULL) == (resp.bulk(each["k0"], resp3=False), 1)


def test_what_is_kept_of_puts_is_bounded_and_counted(store, at_once, monkeypatch):
    monkeypatch.setattr(turn, "CACHE_BYTES_MAX", 2000)
    for number in range(200):
        put(at_once, **{f"k{number % 50}": b"x" * (number % 7 * 30)})
        sizes = [len(get) + len(reply) + turn._ENTRY_BYTES for get, reply in at_once._replies.items()]
        assert at_once._bytes == sum(sizes) <= 2500


def test_what_is_kept_is_bounded(store, at_once, monkeypatch):
    monkeypatch.setattr(turn, "CACHE_BYTES_MAX", 2000)
    store.put_many({f"k{number}": b"x" * 100 for number in range(100)})
    for number in range(100):
        at_once.read([reads(b"k%d" % number)])
        assert len(at_once._replies) < 12
    monkeypatch.setattr(turn, "TOGETHER_MAX", 8)
    at_once.read([reads(b"k0"), reads(b"k1")])
    for number in range(4, 24):
        together = encoded(b"GET", b"k0") * number
        assert at_once.kept(together, resp.NULL) == (b"$100\r\n%b\r\n" % (b"x" * 100) * number, number)
        assert together in at_once._together
        assert len(at_once._together) <= 8
    assert at_once.kept(encoded(b"GET", b"k0") * 400, resp.NULL)[1] == 400
    assert len(at_once._together) <= 8
    store.put("large", bytes(turn.CACHED_BYTES_MAX + 1))
    at_once.read([reads(b"large")])
    assert gets(b"large")[0] not in at_once._replies


def test_what_is_long_is_done_elsewhere(store, at_once):
    store.put_many({f"k{number}": bytes(100_000) for number in range(40)})
    with pytest.raises(TooMuch):
        at_once.read([reads(*(b"k%d" % number for number in range(40)))])
    with pytest.raises(TooMuch):
        put(at_once, **{f"new{number}": bytes(100_000) for number in range(40)})
    store.put("large", bytes(turn.READ_BYTES_MAX))
    with pytest.raises(TooMuch):
        at_once.read([reads(b"large", b"large")])
    with pytest.raises(TooMuch):
        at_once.read([reads(*[b"k0"] * 11)])
    assert len(at_once.read([reads(b"large")])[0]) > turn.READ_BYTES_MAX
    with pytest.raises(InvalidKey):
        at_once.put({b"a": b"1", b"\xff": b"2"}, 2)
    assert not store.exists("a")
    assert not store.exists("new0")
    assert at_once.read([reads(b"\xff", b"a")])[0].startswith(b"-ERR a key is text")


def test_nobody_is_waited_for(store, at_once):
    """Another process has the write lock: the event loop does not stand still."""
    entered, leave = threading.Event(), threading.Event()

    def hold():
        entered.set()
        assert leave.wait(SECONDS_MAX)

    thread = threading.Thread(target=lambda: store.node._writer.transaction(hold))
    thread.start()
    try:
        assert entered.wait(SECONDS_MAX)
        with pytest.raises(StoreBusy):
            put(at_once, a=b"1")
    finally:
        leave.set()
        thread.join()
    assert not store.exists("a")
    put(at_once, a=b"1")
    assert store.get("a") == b"1"


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_doors_are_the_same_on_either_loop(unserved, monkeypatch, loop):
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="needs eau2[serve]")
    else:
        monkeypatch.setattr(server, "_loop_factory", lambda: None)
    unserved.open()
    client, lines = unserved.redis(), unserved.lines()
    for number in range(200):
        client.send("SET", "k", number)
        client.send("GET", "k")
    assert [client.reply() for _ in range(400)] == [each for n in range(200) for each in ("OK", b"%d" % n)]
    assert lines.ask(b"R k") == b"199"
    assert loop in type(unserved.server._loop).__module__


def test_nobody_is_told_of_a_put_before_it_is_on_the_medium(tmp_path, monkeypatch):
    real, may, flushes, failure = os.fdatasync, threading.Semaphore(0), [], []

    def fdatasync(file):
        assert may.acquire(timeout=SECONDS_MAX)
        if failure:
            raise failure[0]
        real(file)
        flushes.append(file)

    with (
        eau2.open(tmp_path / "store", flush="power") as store,
        server.Server(store, server.Doors(redis_port=0)) as opened,
        ExitStack() as stack,
    ):
        first, *others = [stack.enter_context(socket.create_connection(opened.addresses["redis"])) for _ in range(4)]
        for each in (first, *others):
            each.settimeout(SECONDS_MAX)
        monkeypatch.setattr(os, "fdatasync", fdatasync)
        first.sendall(encoded(b"SET", b"k", b"0"))
        until(lambda: store.get("k", default=None) == b"0")  # who reads may see it
        for number, other in enumerate(others):
            other.sendall(encoded(b"SET", b"k%d" % number, b"1") + encoded(b"SET", b"also", b"1"))
        first.settimeout(0.1)
        with pytest.raises(TimeoutError):
            first.recv(100)
        first.settimeout(SECONDS_MAX)
        may.release(10)
        assert first.recv(100) == resp.OK
        assert [other.recv(100) for other in others] == [resp.OK * 2] * 3
        assert 2 <= len(flushes) <= 4
        failure.append(OSError(errno.EIO, "Input/output error"))
        first.sendall(encoded(b"SET", b"k", b"2"))
        assert re.match(rb"-\w+ .*the disk did not say that it has it", first.recv(1000))
        failure.clear()
        first.sendall(encoded(b"SET", b"k", b"3"))
        assert first.recv(100) == resp.OK
        assert store.get("k") == b"3"


class Loop:
    """An event loop that does what it is to do when it is told to."""

    def __init__(self):
        self.calls = []

    def call_soon(self, call, *arguments):
        self.calls.append((call, arguments))

    def turn(self):
        calls, self.calls = self.calls, []
        for call, arguments in calls:
            call(*arguments)


class Client:
    """A `Connection` without one."""

    def __init__(self, turns):
        self.turns, self.said, self.replies, self.alone = turns, b"", [], []

    def says(self, *words):
        self.said = encoded(*words)
        return self.turns.gather(self, resp.begins(self.said), len(self.said))

    def take(self):
        said, self.said = self.said, b""
        return said

    def plain(self, data):
        found = resp.plain(data)
        return found and Plain(*found, resp.NULL, resp.gets(data) if found[1] is None else [])

    def told(self, reply, requests):
        self.replies.append((reply, requests))

    def turned_away(self, data):
        self.alone.append(data)


class Flushes:
    """A store that flushes, what gathers, its loop, clients, and a clock that stands still."""

    def __init__(self, store, keyspace):
        self.loop, self.now, self.count, self.error = Loop(), 0.0, 0, None
        self.turns = Turns(store.node.here, Deadlines(), keyspace, self.loop)
        self.clients = [Client(self.turns) for _ in range(6)]

    def perf_counter(self):
        return self.now

    def fdatasync(self, file):
        if self.error is not None:
            raise self.error
        self.count += 1

    def turn(self, seconds=0.0):
        self.now += seconds
        self.loop.turn()


@pytest.fixture
def flushes(tmp_path, monkeypatch):
    with eau2.open(tmp_path / "flushing", flush="power") as store:
        keyspace = Keyspace(store, Deadlines())
        made = Flushes(store, keyspace)
        monkeypatch.setattr(turn, "time", made)
        monkeypatch.setattr(os, "fdatasync", made.fdatasync)
        yield made
        keyspace.close()


def test_who_was_told_at_the_last_flush_is_waited_for_before_the_next(flushes):
    first, second, third, *_ = flushes.clients
    for who in (first, second):
        assert who.says(b"SET", b"a", b"1")
    flushes.turn()
    assert (flushes.count, first.replies, second.replies) == (1, [(resp.OK, 1)], [(resp.OK, 1)])
    third.says(b"SET", b"c", b"1")
    flushes.turn()
    first.says(b"SET", b"a", b"2")
    flushes.turn()
    assert (flushes.count, first.replies[1:], third.replies) == (1, [], [])
    second.says(b"GET", b"a")  # who reads waits for nobody
    flushes.turn()
    assert second.replies[1:] == [(b"$1\r\n1\r\n", 1)]
    second.says(b"SET", b"b", b"2")
    flushes.turn()
    assert (flushes.count, [who.replies[-1] for who in (first, second, third)]) == (2, [(resp.OK, 1)] * 3)
    assert not flushes.loop.calls


def test_who_does_not_come_is_waited_for_no_longer_than_a_moment(flushes):
    first, second, *others = flushes.clients
    for who in (first, second):
        who.says(b"SET", b"a", b"1")
    flushes.turn()
    for number in range(3):  # as long each time
        first.says(b"SET", b"a", b"2")
        flushes.turn()
        flushes.turn(turn.MORE_SECONDS / 2)
        others[0].says(b"SET", b"b", b"2")
        flushes.turn(turn.MORE_SECONDS / 4)
        flushes.turn(turn.MORE_SECONDS * 0.9)
        assert flushes.count == 1 + 2 * number
        flushes.turn(turn.MORE_SECONDS / 4)
        assert flushes.count == 2 + 2 * number
        for who in (first, second, others[0]):  # nobody else is expected
            who.says(b"SET", b"a", b"3")
        flushes.turn()
        assert flushes.count == 3 + 2 * number
        flushes.clients[2:] = others = [others[0], *others[1:]]


def test_the_first_is_done_after_a_millisecond_though_others_come_all_the_time(flushes):
    clients = [Client(flushes.turns) for _ in range(500)]
    absent, first, *others = clients
    for who in (absent, first):
        who.says(b"SET", b"a", b"1")
    flushes.turn()
    first.says(b"SET", b"a", b"2")
    for who in others:
        if len(first.replies) == 2:
            break
        flushes.turn(turn.MORE_SECONDS / 2)
        who.says(b"SET", b"b", b"2")
    assert turn.ALL_SECONDS <= flushes.now <= turn.ALL_SECONDS + turn.MORE_SECONDS


def test_who_has_put_much_waits_for_nobody(flushes, monkeypatch):
    first, second, *_ = flushes.clients
    monkeypatch.setattr(turn, "AWAITED_BYTES_MAX", 200)
    for number in range(3):
        for who in (first, second):
            who.says(b"SET", b"a", b"1")
        flushes.turn()
        assert flushes.count == 1 + 2 * number
        first.says(b"SET", b"a", bytes(200))
        flushes.turn()
        assert flushes.count == 2 + 2 * number
    first.says(b"SET", b"a", b"1")
    second.says(b"SET", b"a", b"1")
    flushes.turn()
    first.says(b"SET", b"a", b"1")
    flushes.turn()
    assert flushes.count == 7  # the second may come


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), StoreClosed("closed"), RuntimeError("no")])
def test_what_was_put_and_could_not_be_flushed_is_not_done_again(flushes, error):
    first, second, *_ = flushes.clients
    flushes.error = error
    first.says(b"SET", b"a", b"1")
    second.said = encoded(b"SET", b"b", b"1") * 3
    flushes.turns.gather(second, resp.begins(second.said), 1)
    flushes.turn()
    for who, count in ((first, 1), (second, 3)):
        [(reply, requests)] = who.replies
        assert [line[:1] for line in reply.splitlines()] == [b"-"] * count
        assert (requests, who.alone) == (count, [])


def test_what_is_not_plain_is_each_clients_own_matter(flushes):
    clients = flushes.clients
    said = [
        [b"SET", b"a", b"1"],
        [b"SET", b"b", b"1", b"NX"],
        [b"SET", b"c", b"1\r\n"],
        [b"SET", b"d", b"1", b"EX", b"x"],
        [b"SET", b"ee", b"22"],
    ]
    for who, words in zip(clients, said, strict=False):
        who.says(*words)
    clients[5].says(b"GET", b"a")
    clients[5].said = b""  # more has come, and all of it was done by itself
    flushes.turn()
    assert [who.alone for who in clients] == [[], [encoded(*said[1])], [encoded(*said[2])], [encoded(*said[3])], [], []]
    assert [len(who.replies) for who in clients] == [1, 0, 0, 0, 1, 0]
    assert flushes.count == 1
    for who in clients[:2]:
        who.says(b"SET", b"\xff", b"1")
    clients[4].says(b"SET", b"a", b"3")
    flushes.turn()
    assert [who.alone[-1:] for who in clients[:2]] == [[encoded(b"SET", b"\xff", b"1")]] * 2
    assert clients[4].alone == [encoded(b"SET", b"a", b"3")]
    clients[1].says(b"SET", b"b", b"1", b"NX")
    flushes.turn()
    assert flushes.count == 1  # nothing was put


def test_what_fails_with_one_client_is_not_the_others_matter(flushes):
    class Broken(Client):
        def told(self, reply, requests):
            raise RuntimeError("told")

        def turned_away(self, data):
            raise RuntimeError("turned away")

        def abort(self):
            self.replies.append("let go")

    first, second, third, *_ = flushes.clients
    broken = Broken(flushes.turns)
    for words in ([b"SET", b"a", b"1"], [b"SET", b"a", b"1", b"NX"], [b"SET", b"\xff", b"1"], [b"GET", b"a"]):
        for who in (broken, first):
            who.says(*words)
        second.says(b"SET", b"b", b"1")
        third.says(b"GET", b"b")
        flushes.turn()
        flushes.turn(1)
        assert broken.replies.pop() == "let go"
        assert len(first.replies + first.alone) == len(second.replies + second.alone) == len(third.replies) > 0
        for who in (first, second, third):
            who.replies.clear()
            who.alone.clear()


def test_what_was_gathered_as_the_one_and_is_the_other_by_then_is_done_by_itself(flushes):
    first, second, third, *_ = flushes.clients
    first.says(b"GET", b"a")
    first.says(b"SET", b"a", b"1")  # the GET was done by itself, as more came with it
    second.says(b"SET", b"a", b"2")
    second.says(b"GET", b"a")
    third.says(b"SET", b"a", b"3")
    flushes.turn()
    assert (first.alone, first.replies) == ([encoded(b"SET", b"a", b"1")], [])
    assert (second.alone, second.replies) == ([], [(resp.NULL, 1)])
    assert (third.alone, third.replies) == ([], [(resp.OK, 1)])


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """A server of a store that flushes, where who puts waits for a client that has put before and does so no more."""
    monkeypatch.setattr(turn, "MORE_SECONDS", 0.3)
    monkeypatch.setattr(turn, "ALL_SECONDS", SECONDS_MAX)
    with (
        eau2.open(tmp_path / "store", flush="power") as store,
        server.Server(store, server.Doors(redis_port=0)) as opened,
        ExitStack() as stack,
    ):

        def connect():
            client = stack.enter_context(socket.create_connection(opened.addresses["redis"]))
            client.settimeout(SECONDS_MAX)
            return client

        quiet = connect()
        quiet.sendall(encoded(b"SET", b"quiet", b"1"))
        assert quiet.recv(100) == resp.OK
        yield store, connect, quiet


def test_what_comes_after_what_waits_is_done_after_it(waiting):
    _, connect, _ = waiting
    client = connect()
    client.sendall(encoded(b"SET", b"a", b"1"))
    time.sleep(0.05)
    client.sendall(encoded(b"INCR", b"a") + encoded(b"SET", b"a", b"long" * 9)[:40])
    assert client.recv(100) in (resp.OK, resp.OK + b":2\r\n")
    time.sleep(0.05)
    client.sendall(encoded(b"SET", b"a", b"long" * 9)[40:] + encoded(b"GET", b"a"))
    received = b""
    while not received.endswith(b"longlong\r\n"):
        received += client.recv(100)
    assert received.count(resp.OK) == 1


def test_a_value_that_looks_like_a_put_is_none(waiting):
    store, connect, _ = waiting
    client, value = connect(), encoded(b"SET", b"b", b"1")
    whole = encoded(b"SET", b"a", value)
    at = whole.index(value)
    client.sendall(whole[:at])
    time.sleep(0.05)
    client.sendall(whole[at:])
    assert client.recv(100) == resp.OK
    assert (store.get("a"), store.exists("b")) == (value, False)


@pytest.mark.parametrize("said", [b"whole", b"with an end", b"cut", b"no key", b"get"])
def test_what_was_put_by_who_has_gone_is_done_and_nobody_else_is_harmed(waiting, said):
    store, connect, quiet = waiting
    data = {
        b"whole": encoded(b"SET", b"a", b"1") * 2,
        b"with an end": encoded(b"SET", b"a", b"1", b"EX", b"1000"),
        b"cut": encoded(b"SET", b"a", b"1")[:20],
        b"no key": encoded(b"SET", b"\xff", b"1"),
        b"get": encoded(b"GET", b"a"),
    }[said]
    gone = connect()
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.sendall(data)
    time.sleep(0.05)
    gone.close()
    if said in (b"whole", b"with an end"):
        until(lambda: store.exists("a"))
    time.sleep(0.05)
    for words in ([b"SET", b"quiet", b"2"], [b"INCR", b"quiet"]):
        quiet.sendall(encoded(*words))
        assert quiet.recv(100) in (resp.OK, b":3\r\n")
    requests = {b"whole": 2, b"with an end": 1, b"cut": 0, b"no key": 1, b"get": 1}[said] + 3
    until(lambda: counted(store) == [requests])


def counted(store):
    return [each.value for each in store.reports()[0].metrics if each.name == "door_redis_requests"]


def test_all_that_is_asked_is_counted(served):
    clients = [served.redis() for _ in range(3)]
    before = served.store.statistics().operations
    for number in range(4):
        for client in clients:
            client.send("SET", "k", number)
        assert [client.reply() for client in clients] == ["OK"] * 3
        for client in clients:
            client.socket.sendall(encoded(b"GET", b"k") * 5)
            assert [client.reply() for _ in range(5)] == [b"%d" % number] * 5
    until(lambda: counted(served.store) == [72])
    assert served.store.statistics().operations == before + 72


def test_only_what_is_plain_and_allowed_begins_so():
    access = Access(Tokens([("r" * 16, Role.READ), ("w" * 16, Role.WRITE)]), print)
    conversation = RedisConversation(access, Listings(), dict)
    get, put = encoded(b"GET", b"a"), encoded(b"SET", b"a", b"1")
    assert [conversation.begins(data) for data in (get, put)] == [None, None]
    access.identify("r" * 16)
    assert [conversation.begins(data) for data in (get, put)] == [Verb.GET, None]
    access.identify("w" * 16)
    assert [conversation.begins(data) for data in (get, put, put[:13])] == [Verb.GET, Verb.PUT, Verb.PUT]
    assert [conversation.begins(data) for data in (b"", put[:12], b"PING\r\n", encoded(b"DEL", b"a"))] == [None] * 4
    conversation.feed(put[:-1])
    assert [conversation.begins(data) for data in (get, put)] == [None, None]
    conversation.feed(put[-1:])
    assert conversation.begins(put) is Verb.PUT
    conversation.feed(encoded(b"QUIT"))
    assert [conversation.begins(data) for data in (get, put)] == [None, None]


@pytest.mark.parametrize("how", ["each by itself", "together", "cut"])
def test_requests_of_one_client_are_done_in_order(served_by, how):
    client, expected = served_by.redis(), []
    sent = []
    for number in range(120):
        key = b"k%d" % (number % 3)
        sent += [
            encoded(b"SET", key, b"%d" % number),
            encoded(b"GET", key),
            encoded(b"INCR", key),
            encoded(b"GET", key),
        ]
        expected += ["OK", b"%d" % number, number + 1, b"%d" % (number + 1)]
    if how == "together":
        sent = [b"".join(sent)]
    elif how == "cut":
        stream = b"".join(sent)
        sent = [stream[start : start + 37] for start in range(0, len(stream), 37)]
    found = []
    for data in sent:
        client.socket.sendall(data)
        if how == "each by itself":
            found.append(client.reply())
    found += [client.reply() for _ in range(len(expected) - len(found))]
    assert found == expected


def test_what_cannot_be_done_at_once_is_done_all_the_same(served):
    """A key that is none, a frame, a value that is too large for a turn, while others ask what is plain."""
    served.store.put("frame", {"a": [1]})
    client, value = served.redis(), bytes(turn.WRITE_BYTES_MAX + 1)
    for key, with_value in ((b"\xff", b"1"), (b"a", b"1"), (b"b", value)):
        client.send("SET", key, with_value)
    for key in (b"\xff", b"a", b"b", b"frame", b"none"):
        client.send("GET", key)
    found = [client.reply() for _ in range(8)]
    assert [found[1], found[2], found[4], found[5], found[7]] == ["OK", "OK", b"1", value, None]
    assert [str(found[each]).split()[0] for each in (0, 3, 6)] == ["ERR", "ERR", "WRONGTYPE"]


def test_clients_that_write_and_read_see_their_own_and_each_others_writes(served):
    """Counters that only grow: who has seen a number never sees a smaller one, by whatever way it was written."""
    wrong, ended = [], threading.Event()

    def write(name):
        client = served.redis()
        for number in range(300):
            client.ask("SET", name, number)
            if int(client.ask("GET", name)) != number:
                wrong.append((name, number))

    def write_beside():
        for number in range(300):
            served.store.put("beside", b"%d" % number)

    def read():
        client, seen = served.redis(), {}
        while not ended.is_set():
            for name in ("one", "two", "beside"):
                value = int(client.ask("GET", name) or 0)
                if value < seen.get(name, 0):
                    wrong.append((name, value, seen[name]))
                seen[name] = value

    writers = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    writers.append(threading.Thread(target=write_beside))
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join(SECONDS_MAX)
    ended.set()
    for thread in readers:
        thread.join(SECONDS_MAX)
    assert wrong == []


WORD = some.one_of(some.binary(max_size=20), some.sampled_from([b"", b"\r\n", b"$1", b"*2", b"$3\r\nGET"]))


@given(some.lists(some.tuples(some.sampled_from([b"GET", b"get", b"Get"]), WORD), max_size=8), some.binary(max_size=6))
def test_what_is_taken_for_plain_is_what_the_commands_say(requests, tail):
    data = b"".join(encoded(*words) for words in requests) + tail
    found = resp.plain(data)
    if found is not None:
        assert [[words[0].upper(), words[1]] for words in Commands().feed(data)] == [[b"GET", key] for key in found[0]]
        assert found[1] is None
    asked = resp.gets(data) if resp.begins(data) is Verb.GET else None
    bulks = {b"$%d\r\n%b\r\n" % (len(key), key) for _, key in requests if b"\r\n" not in key}
    if asked is not None and bulks.issuperset(asked):  # as where their replies are kept
        assert b"".join(b"$%d\r\n%b\r\n" % (len(words[1]), words[1]) for words in Commands().feed(data)) == b"".join(
            asked
        )
        assert found is not None


@given(some.lists(some.tuples(some.just(b"SET"), WORD, WORD), min_size=1, max_size=8))
def test_plain_puts_are_what_the_commands_say(requests):
    data = b"".join(encoded(*words) for words in requests)
    found = resp.plain(data)
    if found is None:
        assert b"\r\n" in b"".join(word for words in requests for word in words[1:]) or any(
            b"\r" in word or b"\n" in word for words in requests for word in words
        )
    else:
        assert [*zip(*found, strict=True)] == [words[1:] for words in requests]


def _same_length(size):
    return some.lists(some.binary(min_size=size, max_size=size), min_size=4, max_size=9)


@given(
    some.integers(0, 3).flatmap(_same_length),
    some.lists(some.tuples(some.integers(0, 400), some.integers(0, 255)), max_size=3),
    some.sampled_from([b"SET", b"set"]),
)
def test_puts_that_are_alike_are_what_the_commands_say_whatever_is_changed_in_them(words, changes, name):
    # Of one length each, any bytes, line ends and heads of others among them.
    pairs = [*zip(words[::2], words[1::2], strict=False)]
    data = bytearray(b"".join(encoded(name, *pair) for pair in pairs))
    for at, byte in changes:
        data[at % len(data)] = byte
    commands = Commands()
    meant = commands.feed(bytes(data))
    found = resp.plain(bytes(data))
    if found is not None:
        assert not commands.broken
        assert not commands.amid
        puts = [[b"SET", *pair] for pair in zip(*found, strict=True)]
        assert [[each[0].upper(), *each[1:]] for each in meant] == puts
    if not changes and len(pairs) > 1 and b"\n" not in words[0] + words[1]:
        assert found is not None


def test_many_puts_that_are_alike_are_plain():
    pairs = [(b"%08d" % number, b"%0100d" % -number) for number in range(resp.ALIKE_MAX + 1)]
    for count in (2, 16, resp.ALIKE_MAX, resp.ALIKE_MAX + 1):
        data = b"".join(encoded(b"SET", *pair) for pair in pairs[:count])
        assert [*zip(*resp.plain(data), strict=True)] == pairs[:count]
        assert resp.plain(data[:-1]) is None
        assert resp.plain(data + b"*3\r\n") is None


BEGINS = b"*3\r\n$3\r\nSET\r\n", b"*3\r\n$3\r\nset\r\n"
SAID = some.one_of(
    some.tuples(some.sampled_from([b"SET", b"set"]), WORD, WORD).map(lambda words: encoded(*words)),
    some.lists(
        some.sampled_from([*BEGINS, b"$2\r\n*3\r\n$3\r\nSET\r\n", b"$1\r\na\r\n", b"$2\r\n", b"*3\r\n", b"a"])
    ).map(lambda parts: BEGINS[0] + b"".join(parts)),
)


@given(some.lists(SAID, min_size=1, max_size=6), some.lists(some.integers(0, 60), max_size=3))
def test_puts_of_many_clients_are_what_each_of_them_says(said, cuts):
    for at, cut in enumerate(cuts):  # of two that follow one another the end of the first comes with the second
        if at + 1 < len(said):
            said[at : at + 2] = [said[at][: 13 + cut], said[at][13 + cut :] + said[at + 1]]
    found = resp.sets(said)
    if found is not None:
        for data, *pair in zip(said, *found, strict=True):
            commands = Commands()
            [[name, *words]] = commands.feed(data)
            assert (name.upper(), words, commands.amid, commands.broken) == (b"SET", pair, False, "")


@given(some.lists(some.tuples(some.binary(max_size=4), some.binary(max_size=4)), min_size=1, max_size=80))
def test_plain_puts_of_many_clients_are_found(pairs):
    found = resp.sets([encoded(b"SET", *pair) for pair in pairs])
    if found is None:
        assert any(b"\r\n" in word or b"*$" in word for pair in pairs for word in pair)
    else:
        assert [*zip(*found, strict=True)] == pairs


@pytest.mark.parametrize(
    "said",
    [
        [encoded(b"SET", b"a", b"1") + BEGINS[0] + b"$2\r\n", BEGINS[0]],  # two, but not one each
        [encoded(b"SET", b"a", b"1") + BEGINS[0] + b"$2\r\n", BEGINS[1]],
        [encoded(b"SET", b"a", b"1") * 2, b""],
        [encoded(b"SET", b"a", b"1") * 2, encoded(b"SET", b"a", b"1")],
        [encoded(b"SET", b"a", b"1"), encoded(b"GET", b"a")],
        [encoded(b"SET", b"a", b"1"), encoded(b"SET", b"a", b"1", b"NX")],
        [encoded(b"SET", b"a", b"1"), encoded(b"SET", b"a", b"1")[:-1]],
        [encoded(b"SET", b"a", b"1"), encoded(b"SET", b"b", b"1") + encoded(b"SET", b"c", b"1"), b""],
        [encoded(b"GET", b"a"), encoded(b"GET", b"a")],
        [b"", b""],
    ],
)
def test_what_is_not_one_put_each_is_looked_at_by_itself(said):
    assert resp.sets(said) is None


@pytest.mark.parametrize(
    "data",
    [
        b"*2\r\n$3\r\nGET\r\n$2\r\na\r\n",
        b"*3\r\n$3\r\nSET\r\n$01\r\na\r\n$1\r\nb\r\n" * 2,
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$01\r\nb\r\n" * 2,
        b"*3\r\n$3\r\nSET\r\n$3\r\n\r\na\r\n$1\r\nb\r\n" * 2,
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n*3\r\n$3\r\nSET\r\n$2\r\na\r\n$1\r\nb\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\nb\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb..",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n*4\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"*2\r\n$4\r\nGET\r\n$1\r\na\r\n",
        b"*3\r\n$3\r\nGET\r\n$1\r\na\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nDEL\r\n$1\r\na\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$3\r\nGET\r\n$1\r\na\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r",
        b"*2\r\n$3\r\nGET\r\n$01\r\na\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*$3\r\n*2\r\n$3\r\nGET\r\na\r\n",
        b"*2\r\n$3\r\nGET\r\n$3\r\nx*2\r\n$3\r\nGET\r\ny\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\nb\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n",
        b"",
        b"\r\n",
    ],
)
def test_what_is_not_plain_is_left_to_the_commands(data):
    assert resp.plain(data) is None

"""What many ask at once: done together, each with its own outcome, whatever becomes of the others."""

from __future__ import annotations

import gc
import threading

import pytest
from tests.until import SECONDS_MAX, until

import eau2
from eau2.doors import keyspace, view
from eau2.doors.keyspace import Keyspace
from eau2.doors.redis import Listings, RedisConversation
from eau2.doors.tokens import Access, Tokens
from eau2.doors.work import Operation, Verb
from eau2.errors import Eau2Error, StoreClosed, ValueTooLarge, WrongKind
from eau2.store.store import VALUE_BYTES_MAX


@pytest.fixture(params=[1, 3])
def store(tmp_path, request):
    with eau2.open(tmp_path / "store", nodes=request.param) as store:
        yield store


@pytest.fixture
def keys(store):
    opened = Keyspace(store)
    yield opened
    opened.close()


def ask(keys, *operations):
    """What comes of `operations`, asked at once."""
    found, told = [], threading.Event()

    def done(outcomes):
        found.extend(outcomes)
        told.set()

    keys.submit(operations, done)
    assert told.wait(SECONDS_MAX)
    return found


def put(key, value=b"v"):
    return Operation(Verb.PUT, key, value)


def test_what_one_asks_is_done_in_its_order(keys, store):
    get, delete = Operation(Verb.GET, "k"), Operation(Verb.DELETE, "k")
    create, update = Operation(Verb.CREATE, "k", b"1"), Operation(Verb.UPDATE, "k", b"2")
    asked = (get, update, create, create, get, update, get, delete, delete, get, create, delete, put("k", b"3"), get)
    assert ask(keys, *asked) == [None, False, True, False, b"1", True, b"2", True, False, None, True, True, True, b"3"]
    assert store.get("k") == b"3"


def test_one_transaction_does_for_many(keys, store):
    before = store.statistics().commits
    ask(keys, *(put(f"k{number}") for number in range(400)))
    assert len(store.keys()) == 400
    assert store.statistics().commits - before < 40


def test_what_one_value_does_wrong_is_no_matter_of_the_others(keys, store):
    store.put("frame", {"a": [1]})
    large = put("large", bytes(VALUE_BYTES_MAX + 1))
    found = ask(keys, put("a"), large, Operation(Verb.GET, "frame"), Operation(Verb.GET, "a"), put("b"))
    assert [found[0], found[3], found[4]] == [True, b"v", True]
    assert isinstance(found[1], ValueTooLarge)
    assert isinstance(found[2], WrongKind)
    assert store.keys() == ["a", "b", "frame"]


class Interrupted:
    """A command during which somebody else writes its key, `times` times."""

    alone = counts = False

    def __init__(self, store, times):
        self._store, self._times, self.runs = store, times, 0

    @property
    def reads(self):
        return ("k",)

    def run(self, view):
        before = int(view.get("k") or b"0")
        self.runs += 1
        if self.runs <= self._times:
            self._store.put("k", b"%d" % (before + 100))
        view.put("k", b"%d" % (before + 1))
        return before


def test_a_command_is_run_again_when_others_have_changed_what_it_read(keys, store):
    command = Interrupted(store, 3)
    assert ask(keys, put("other"), command, Operation(Verb.GET, "k")) == [True, 300, b"301"]
    assert command.runs == 4
    assert store.get("k") == b"301"


class Among:
    """A store, as if it had several nodes, among whose reads and writes somebody else has the time to put `value` under
    `key`, each time."""

    def __init__(self, store, key):
        self.node, self._store, self._key, self._node, self.times = self, store, key, store.node, 0
        self.here = None

    def get_many(self, keys):
        found = self._node.get_many(keys)
        if self.times < 3:
            self.times += 1
            self._store.put(self._key, b"%d" % (self.times * 100))
        return found

    def write(self, writes):
        return self._node.write(writes)


def redis(*words):
    """The command that a client of Redis means."""
    conversation = RedisConversation(Access(Tokens(), print), Listings(), dict)
    (asked,) = conversation.feed(
        b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each.encode()) for each in words)
    )
    return asked.command


@pytest.mark.parametrize("changed", ["a", "b"])
def test_who_asks_of_several_keys_undoes_nothing_of_what_others_ask(store, changed):
    keys = Keyspace(Among(store, changed))
    store.put_many({"a": b"1", "b": b"1"})
    try:
        asked = [redis("INCR", changed), redis("DEL", "a", "b"), redis("SET", "a", "5"), redis("GET", "b")]
        found = []
        while len(found) < len(asked):
            found += ask(keys, *asked[len(found) :])
        assert found == [301, 2, True, None]
        assert store.get("a") == b"5"
        found = []
        asked = [redis("GET", "b"), redis("MSET", "a", "1", "b", "1"), redis("INCR", "a"), redis("MGET", "a", "b")]
        while len(found) < len(asked):
            found += ask(keys, *asked[len(found) :])
        assert found == [None, True, 2, [b"2", b"1"]]
        assert store.get("a") == b"2"
    finally:
        keys.close()


def test_a_command_is_given_up_when_others_never_cease(keys, store, monkeypatch):
    monkeypatch.setattr(keyspace, "TRIES_MAX", 5)
    assert isinstance(ask(keys, Interrupted(store, 1000))[0], Eau2Error)
    assert ask(keys, Operation(Verb.GET, "k"))[0] == b"500"


def test_of_large_values_some_are_told_first(keys, store):
    store.put("big", bytes(4 << 20))
    store.put("small", b"x")
    assert len(ask(keys, *[Operation(Verb.GET, "big")] * 100)) == 1
    asked = [Operation(Verb.GET, "small"), Operation(Verb.GET, "big"), put("not", b"done")]
    assert len(ask(keys, *asked)) == 2
    assert ask(keys, Operation(Verb.GET, "not"), Operation(Verb.GET, "small")) == [None, b"x"]
    (refused,) = ask(keys, redis("MGET", *["big"] * 65))
    assert isinstance(refused, ValueTooLarge)
    assert ask(keys, redis("MGET", "small", "small")) == [[b"x", b"x"]]
    assert ask(keys, redis("DEL", "big", "none", "big")) == [1]


class Broken:
    """A command with a fault of ours."""

    alone, counts, reads = False, False, ()

    def run(self, view):
        raise ZeroDivisionError


def test_a_fault_of_ours_leaves_nobody_waiting(keys):
    (outcome,) = ask(keys, Broken())
    assert isinstance(outcome, Eau2Error)
    assert ask(keys, put("a"))[0] is True


def test_a_store_that_is_closed_is_said_to_all(keys, store):
    store.close()
    for outcome in ask(keys, put("a"), Operation(Verb.GET, "b"), Operation(Verb.CREATE, "c", b"x")):
        assert isinstance(outcome, StoreClosed)
    keys.close()
    with pytest.raises(StoreClosed):
        keys.submit([put("a")], print)


def test_what_was_submitted_is_done_before_the_end(store):
    opened, told = Keyspace(store), []
    for number in range(300):
        opened.submit([put(f"k{number}")], told.append)
    opened.close()
    assert len(told) == len(store.keys()) == 300


def test_nothing_is_kept_of_what_was_read_when_nobody_asks(served):
    def kept():
        gc.collect()
        return [each for each in gc.get_objects() if isinstance(each, view.Found | view.Job)]

    before = kept()  # of other tests
    served.store.put("big", bytes(1 << 20))
    client = served.lines()
    assert len(client.ask(b"R big")) == 1 << 20
    until(lambda: len(kept()) == len(before))

"""The checker of histories tells right from wrong."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.history import DONE, UNKNOWN, Conflict, Operation, Refused, Saw, Wrote, explain

from eau2.store.nodes import Expect


def put(start, end, value, version, key="x", expect=Expect.ANYTHING):
    return Operation("w", start, end, (Wrote(key, value, version, expect),))


def lost(start, value, key="x", expect=Expect.ANYTHING):
    """A write of which nobody said what became of it."""
    return put(start, math.inf, value, UNKNOWN, key, expect)


def create(start, end, value, outcome):
    return put(start, end, value, outcome, expect=Expect.ABSENT)


def delete(start, end, outcome, expect=Expect.ANYTHING):
    return put(start, end, None, outcome, expect=expect)


def get(start, end, value=None, version=0, key="x"):
    return Operation("r", start, end, (Saw(key, value, version),))


def both(start, end, *parts):
    return Operation("b", start, end, parts)


WRONG = {
    "a write is lost": [put(0, 1, "a", 1), get(2, 3)],
    "a write is lost to a later one that came before": [put(0, 1, "a", 1), put(2, 3, "b", 2), get(4, 5, "a", 1)],
    "a read is stale once another has seen the new value": [
        put(0, 1, "a", 1), put(2, 9, "b", 2), get(3, 4, "b", 2), get(5, 6, "a", 1),
    ],
    "a write takes effect twice": [
        put(0, 1, "a", 1), put(2, 3, "b", 2), get(4, 5, "b", 2), get(6, 7, "a", 3),
    ],
    "a write is told twice, with two versions": [put(0, 1, "a", 1), get(2, 3, "a", 1), get(4, 5, "a", 2)],
    "a write of unknown outcome takes effect twice": [
        put(0, 1, "a", 1), lost(2, "b"), get(3, 4, "b", 2), put(5, 6, "c", 3), get(7, 8, "b", 2),
    ],
    "a write is lost to a deletion that came before, of which no version is told": [
        put(0, 1, "a", 1), delete(2, 3, DONE), put(4, 5, "b", 3), get(6, 7),
    ],
    "a deletion of nothing says that it was of something": [delete(0, 1, DONE)],
    "a read that is told no version sees what was replaced": [
        put(0, 1, "a", 1), put(2, 3, "b", 2), get(4, 5, "a", UNKNOWN),
    ],
    "a version goes back": [put(0, 1, "a", 2), put(2, 3, "b", 1)],
    "a version goes back after a deletion": [put(0, 1, "a", 5), delete(2, 3, 6), put(4, 5, "b", 1)],
    "a version is given twice": [put(0, 9, "a", 1), put(0, 9, "b", 1)],
    "a read has another version than the write": [put(0, 1, "a", 1), get(2, 3, "a", 2)],
    "a read sees what was never written": [put(0, 1, "a", 1), get(2, 3, "z", 2)],
    "a read sees what is written later": [get(0, 1, "a", 1), put(2, 3, "a", 1)],
    "a write of unknown outcome is seen before it begins": [get(0, 1, "a", 1), lost(2, "a")],
    "half of a batch is seen": [
        both(0, 1, Wrote("x", "a", 1), Wrote("y", "a", 1)),
        both(2, 9, Wrote("x", "b", 2), Wrote("y", "b", 2)),
        both(3, 4, Saw("x", "b", 2), Saw("y", "a", 1)),
    ],
    "half of a batch of unknown outcome stays": [
        both(0, math.inf, Wrote("x", "b", UNKNOWN), Wrote("y", "b", UNKNOWN)),
        get(1, 2, "b", 1),
        get(3, 4, key="y"),
    ],
    "a snapshot is of two moments": [
        both(0, 1, Wrote("x", "a", 1), Wrote("y", "a", 1)),
        put(2, 3, "b", 2, "x"), put(4, 5, "b", 2, "y"),
        both(0, 9, Saw("x", "a", 1), Saw("y", "b", 2)),
    ],
    "two snapshots see two orders": [
        put(0, 9, "a", 1, "x"), put(0, 9, "a", 1, "y"),
        both(0, 9, Saw("x", "a", 1), Saw("y")), both(0, 9, Saw("x"), Saw("y", "a", 1)),
    ],
    "a refused write took effect": [
        put(0, 1, "a", 1), put(2, 3, "b", Conflict(1), expect=7), get(4, 5, "b", 2),
    ],
    "a failed write took effect": [put(0, 1, "a", 1), get(2, 3, "never acknowledged", 2)],
    "two creations won": [create(0, 9, "a", 1), create(0, 9, "b", 2)],
    "a creation is refused by nothing": [create(0, 1, "a", Refused.EXISTS)],
    "a creation is refused by what is deleted": [
        put(0, 1, "a", 1), delete(2, 3, 2), create(4, 5, "b", Refused.EXISTS),
    ],
    "two updates replaced the same version": [
        put(0, 1, "a", 1), put(2, 9, "b", 2, expect=1), put(2, 9, "c", 3, expect=1),
    ],
    "an update met nothing, and something was there": [
        put(0, 1, "a", 1), put(2, 3, "b", Refused.MISSING, expect=Expect.PRESENT),
    ],
    "an update is refused by a version that was not there": [
        put(0, 1, "a", 1), put(2, 3, "b", Conflict(3), expect=2),
    ],
    "an update is refused by the very version": [put(0, 1, "a", 1), put(2, 3, "b", Conflict(1), expect=1)],
    "a deletion met nothing, and something was there": [put(0, 1, "a", 1), delete(2, 3, 0)],
    "a deletion met something, and nothing was there": [put(0, 1, "a", 1), delete(2, 3, 2), delete(4, 5, 3)],
    "a deleted value comes back": [put(0, 1, "a", 1), delete(2, 3, 2), get(4, 5, "a", 1)],
    "two deletions met the same value": [put(0, 1, "a", 1), delete(2, 9, 2), delete(2, 9, 3)],
    "a write of unknown outcome went back below a version": [
        lost(0, "b"), put(1, 2, "a", 4), get(3, 4, "b", 3),
    ],
}  # fmt: skip

RIGHT = {
    "nothing happens": [],
    "nothing is there": [get(0, 1)],
    "one after the other": [put(0, 1, "a", 1), get(2, 3, "a", 1), put(4, 5, "b", 2), get(6, 7, "b", 2)],
    "a read overlaps a write and sees it": [put(0, 9, "a", 1), get(1, 2, "a", 1), get(3, 4, "a", 1)],
    "a read overlaps a write and does not see it": [put(0, 9, "a", 1), get(1, 2), get(3, 4, "a", 1)],
    "two writes overlap and the one begun last came first": [
        put(0, 9, "a", 2), put(1, 8, "b", 1), get(10, 11, "a", 2),
    ],
    "versions are left out": [put(0, 1, "a", 1), put(2, 3, "b", 17), get(4, 5, "b", 17)],
    "a write of unknown outcome is never seen": [put(0, 1, "a", 1), lost(2, "b"), get(3, 4, "a", 1)],
    "a write of unknown outcome is seen late": [
        put(0, 1, "a", 1), lost(2, "b"), get(3, 4, "a", 1), put(5, 6, "c", 2), get(7, 8, "b", 3), get(9, 10, "b", 3),
    ],
    "versions are not told": [
        put(0, 1, "a", DONE), get(2, 3, "a", UNKNOWN), lost(4, "b"), get(5, 6, "b", UNKNOWN), get(7, 8, "b", 3),
        delete(9, 10, DONE), get(11, 12), put(13, 14, "c", 5), get(15, 16, "c", UNKNOWN),
    ],
    "a creation is refused by a write of unknown outcome": [lost(0, "a"), create(1, 2, "b", Refused.EXISTS)],
    "an update says the version that a write of unknown outcome made": [
        put(0, 1, "a", 1), lost(2, "b"), put(3, 4, "c", Conflict(5), expect=1), put(5, 6, "d", 6, expect=5),
    ],
    "a conditional write of unknown outcome does not take effect": [
        put(0, 1, "a", 1), put(2, 3, "b", 2), lost(4, "c", expect=1), get(5, 6, "b", 2),
    ],
    "a conditional write of unknown outcome meets one of unknown version, or not": [
        lost(0, "a"), lost(1, "b", expect=3), put(2, 3, "c", Conflict(4), expect=9), get(5, 6, "b", 4),
    ],
    "a deletion of unknown outcome explains that nothing is there": [
        put(0, 1, "a", 1), delete(2, math.inf, UNKNOWN), get(3, 4, "a", 1), get(5, 6), create(7, 8, "b", 3),
    ],
    "a creation after a deletion": [put(0, 1, "a", 1), delete(2, 3, 2), create(4, 5, "b", 3), get(6, 7, "b", 3)],
    "one of two creations won": [create(0, 9, "a", 1), create(0, 9, "b", Refused.EXISTS)],
    "both of two creations won, with a deletion between": [
        create(0, 9, "a", 1), create(0, 9, "b", 3), delete(0, 9, 2),
    ],
    "a deletion meets nothing": [delete(0, 1, 0), put(2, 3, "a", 1)],
    "a batch is seen whole or not": [
        both(0, 1, Wrote("x", "a", 1), Wrote("y", "a", 1)),
        both(2, 9, Wrote("x", "b", 2), Wrote("y", "b", 2)),
        both(3, 4, Saw("x", "a", 1), Saw("y", "a", 1)),
        both(3, 5, Saw("x", "b", 2), Saw("y", "b", 2)),
    ],
    "a batch of unknown outcome is seen in one of its keys": [
        both(0, math.inf, Wrote("x", "b", UNKNOWN), Wrote("y", "b", UNKNOWN)),
        get(1, 2, "b", 1), put(3, 4, "c", 8, "y"), get(5, 6, "c", 8, "y"),
    ],
    "one part of a batch is refused, the other done": [
        put(0, 1, "a", 1),
        both(2, 3, Wrote("x", "b", Refused.EXISTS, Expect.ABSENT), Wrote("y", "b", 1)),
        both(4, 5, Saw("x", "a", 1), Saw("y", "b", 1)),
    ],
    "keys of two objects have two orders": [
        put(0, 9, "a", 1, "x"), put(0, 9, "a", 1, "y"), get(1, 2, "a", 1, "x"), get(3, 4, key="y"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("history", [pytest.param(history, id=name) for name, history in WRONG.items()])
def test_a_wrong_history_is_refused(history):
    wrong = explain(history)
    assert "no order explains" in wrong
    assert explain(list(reversed(history))).splitlines()[0] == wrong.splitlines()[0]


@pytest.mark.parametrize("history", [pytest.param(history, id=name) for name, history in RIGHT.items()])
def test_a_right_history_is_accepted(history):
    assert explain(history) == ""
    assert explain(list(reversed(history))) == ""


def test_a_search_that_gives_up_says_so(monkeypatch):
    monkeypatch.setattr("tests.cluster.history.STATES_MAX", 20)
    history = [put(0, 9, name, version) for version, name in enumerate("abcdef", 1)]
    history += [lost(0, name) for name in "ghijkl"]
    assert explain([*history, get(10, 11)]).startswith("gave up")


class Model:
    """What one key after the other does; the truth that a history is made from."""

    def __init__(self, chance: random.Random):
        self.chance, self.values, self.versions, self.written = chance, {}, {}, 0

    def part(self, key):
        chance, version, value = self.chance, self.versions.get(key, 0), self.values.get(key)
        if chance.random() < 0.4:
            return Saw(key, value, version if value is not None else 0)
        expect = chance.choice([Expect.ANYTHING, Expect.ANYTHING, Expect.ABSENT, Expect.PRESENT, version or 1, 99])
        self.written += 1
        new = None if chance.random() < 0.2 and expect != Expect.ABSENT else f"{key}{self.written}"
        outcome = self.outcome(expect, version, value, new)
        if type(outcome) is int and outcome:
            self.versions[key], self.values[key] = outcome, new
        return Wrote(key, new, outcome, expect)

    def outcome(self, expect, version, value, new):
        if value is None and (expect == Expect.PRESENT or expect > 0):
            return Refused.MISSING
        if value is not None and expect == Expect.ABSENT:
            return Refused.EXISTS
        if expect > 0 and expect != version:
            return Conflict(version)
        return 0 if new is None and value is None else version + self.chance.randint(1, 3)


def history_of(chance: random.Random, count: int) -> list[Operation]:
    """What a sequential model does, each operation at a moment somewhere between its start and end; writes among them
    whose outcome is not told."""
    model, found = Model(chance), []
    for moment in range(count):
        keys = chance.sample(["x", "y", "z"], 2 if chance.random() < 0.2 else 1)
        parts = tuple(model.part(key) for key in keys)
        start, end = moment - chance.expovariate(0.5), moment + chance.expovariate(0.5)
        if chance.random() < 0.15 and all(isinstance(part, Wrote) for part in parts):
            end, parts = math.inf, tuple(part._replace(outcome=UNKNOWN) for part in parts)
        found.append(Operation(f"client-{moment}", start, end, parts))
    chance.shuffle(found)
    return found


@given(st.integers(0, 2**32).map(random.Random), st.integers(0, 60))
def test_what_a_sequential_model_does_is_accepted_however_operations_overlap(chance, count):
    assert explain(history_of(chance, count)) == ""


@given(st.integers(0, 2**32).map(random.Random), st.integers(2, 40))
def test_a_read_that_saw_what_was_replaced_before_it_began_is_refused(chance, count):
    history = history_of(chance, count)
    last = max((one.end for one in history if one.end < math.inf), default=0.0) + 1
    key = chance.choice("xyz")
    history += [put(last, last + 1, "old", 1000, key), put(last + 2, last + 3, "new", 1001, key)]
    history += [get(last + 4, last + 5, "new", 1001, key), get(last + 6, last + 7, "old", 1000, key)]
    assert "no order explains" in explain(history)


@given(st.integers(0, 2**32).map(random.Random), st.integers(10, 40))
def test_two_reads_of_one_client_that_change_places_are_refused(chance, count):
    """Reads one after the other that saw two values, in a history without unknown outcomes: the other way round they
    cannot be, as no value is written twice."""
    values = [(f"value-{number}", number) for number in range(1, count)]
    history = [put(number, number + 0.9, value, number) for value, number in values]
    reads = [(number + 0.95, number + 0.99, value, number) for value, number in values]
    assert explain(history + [get(*read) for read in reads]) == ""
    first, second = sorted(chance.sample(range(len(reads)), 2))
    one, other = reads[first], reads[second]
    reads[first], reads[second] = (*one[:2], *other[2:]), (*other[:2], *one[2:])
    assert "no order explains" in explain(history + [get(*read) for read in reads])

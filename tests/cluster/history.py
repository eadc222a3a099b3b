"""What clients did, and whether one order of it explains all they saw: a checker of linearizability.

The search is that of Wing and Gong, with Lowe's memory of what was tried: choose, of the operations that may come next
in time, one that fits the state, and go on; back when none does. Keys that are ever written or read together are one
object, whose state is that of all of them; all others are checked alone, which is exact.

Each write writes a value of its own, so a read says which write it saw. A write whose outcome is not known may take
effect at any time after its beginning, or never; one whose value somebody saw did, before that read ended.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from eau2.store.nodes import Expect

STATES_MAX = 100_000  # that a search looks at before it gives up, which is a failure too
UNKNOWN = -1  # outcome of a write of which nobody said what became of it; a version that was not told
DONE = -2  # outcome of a write that was done, and of which no version was told


class Refused(Enum):
    EXISTS = "exists"  # something was there
    MISSING = "missing"  # nothing was there


class Conflict(NamedTuple):
    """Version `found` was there, and another was expected."""

    found: int


class Saw(NamedTuple):
    """A read of one key. `value` None: nothing was there. The version may be UNKNOWN."""

    key: str
    value: object = None
    version: int = 0


class Wrote(NamedTuple):
    """A write of one key. `value` None: a deletion. `outcome`: the version, 0 (deleted nothing), a refusal, DONE,
    UNKNOWN."""

    key: str
    value: object
    outcome: int | Refused | Conflict
    expect: int = Expect.ANYTHING


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a client, of one moment between `start` and `end`. What is known to have changed nothing, and read
    nothing, is no operation."""

    client: str
    start: float
    end: float  # infinite when its outcome is not known
    parts: tuple[Saw | Wrote, ...]  # of different keys

    def __str__(self):
        return f"{self.start:8.3f} to {self.end:8.3f} {self.client}: " + ", ".join(map(str, self.parts))


class State(NamedTuple):
    """What is under a key. The version is UNKNOWN after a write that did not tell it: then it is above `floor`."""

    value: object = None
    version: int = 0
    floor: int = 0

    def at(self, version: int) -> tuple[State, ...]:
        """Return what this is, knowing that there is a value of that version."""
        if self.value is None:
            return ()
        if self.version == UNKNOWN and version > self.floor:
            return (State(self.value, version, version),)
        return (self,) if self.version == version else ()

    def expected(self, expect: int) -> tuple[State, ...]:
        if expect == Expect.ANYTHING:
            return (self,)
        if expect == Expect.ABSENT:
            return (self,) if self.value is None else ()
        if expect == Expect.PRESENT:
            return (self,) if self.value is not None else ()
        return self.at(expect)


def after(state: State, part: Saw | Wrote) -> tuple[State, ...]:
    """Return the states that `part` may leave behind, none when it cannot have happened in `state`."""
    if isinstance(part, Saw):
        if part.value is None or state.value != part.value:
            return (state,) if part.value is None and state.value is None else ()
        return (state,) if part.version == UNKNOWN else state.at(part.version)
    outcome = part.outcome
    if outcome is Refused.EXISTS:
        return (state,) if state.value is not None else ()
    if outcome is Refused.MISSING or outcome == 0:
        return (state,) if state.value is None else ()
    if isinstance(outcome, Conflict):
        return () if outcome.found == part.expect else state.at(outcome.found)
    if outcome == UNKNOWN:
        return _after_unknown(state, part)
    met = state.expected(part.expect)
    if not met or (part.value is None and state.value is None):
        return ()
    if outcome == DONE:
        return (State(part.value, UNKNOWN, met[0].floor),)
    return (State(part.value, outcome, outcome),) if outcome > met[0].floor else ()


def _after_unknown(state: State, part: Wrote) -> tuple[State, ...]:
    met = state.expected(part.expect)
    if not met or (part.value is None and state.value is None):
        return (state,)
    written = State(part.value, UNKNOWN, met[0].floor)
    return (written,) if met == (state,) else (written, state)  # a version that is not known may be another


def explain(operations: list[Operation]) -> str:
    """Return "" when one order explains what every operation saw, else what is wrong, with the operations about it."""
    for group in _objects(operations):
        wrong = _Search(group).explain()
        if wrong:
            return wrong
    return ""


def _objects(operations: list[Operation]) -> list[list[Operation]]:
    """Return the operations by object: keys that occur together are one."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            key = parents[key]
        return key

    for operation in operations:
        for part in operation.parts:
            parents[root(part.key)] = root(operation.parts[0].key)
    groups: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.parts:
            groups[root(operation.parts[0].key)].append(operation)
    return list(groups.values())


def _with_what_was_seen(operations: list[Operation]) -> list[Operation]:
    """Give writes of unknown outcome whose value was seen their version, and the end before which they took effect."""
    seen: dict[tuple[str, object], tuple[float, int]] = {}
    for operation in operations:
        for part in operation.parts:
            if isinstance(part, Saw) and part.value is not None:
                about = part.key, part.value
                sight, version = seen.get(about, (math.inf, UNKNOWN))
                seen[about] = min(sight, operation.end), max(version, part.version)
    found = []
    for operation in operations:
        end, parts = operation.end, []
        for part in operation.parts:
            if isinstance(part, Wrote) and part.outcome == UNKNOWN and (part.key, part.value) in seen:
                sight, version = seen[part.key, part.value]
                end, part = min(end, sight), part._replace(outcome=DONE if version == UNKNOWN else version)
            parts.append(part)
        found.append(replace(operation, end=end, parts=tuple(parts)))
    return found


class _Search:
    """The search for an order of the operations on one object."""

    def __init__(self, operations: list[Operation]):
        known = sorted(_with_what_was_seen(operations), key=lambda operation: operation.start)
        self.keys = sorted({part.key for operation in known for part in operation.parts})
        places = {key: place for place, key in enumerate(self.keys)}
        self.must = [operation for operation in known if operation.end < math.inf]
        self.may = [operation for operation in known if operation.end == math.inf]
        self.parts = {id(one): [(places[part.key], part) for part in one.parts] for one in known}

    def explain(self) -> str:
        everything = (1 << len(self.must)) - 1
        beginning = 0, 0, tuple(State() for _ in self.keys)
        stack, tried = [beginning], {beginning}
        furthest = beginning
        while stack:
            must, may, state = stack.pop()
            must, waiting, horizon = self._read_on(must, state)
            if must == everything:
                return ""
            if must.bit_count() > furthest[0].bit_count():
                furthest = must, may, state
            nexts = [(must | bit, may, follower) for bit, one in waiting for follower in self._after(state, one)]
            nexts[:0] = [
                (must, may | 1 << place, follower)  # tried last
                for place, one in enumerate(self.may)
                if not may >> place & 1 and one.start <= horizon
                for follower in self._after(state, one)
                if follower != state
            ]
            for one in nexts:
                if one not in tried:
                    tried.add(one)
                    stack.append(one)
            if len(tried) > STATES_MAX:
                return f"gave up after {STATES_MAX} states\n{self._told(*furthest)}"
        return self._told(*furthest)

    def _read_on(self, must: int, state: tuple[State, ...]) -> tuple[int, list[tuple[int, Operation]], float]:
        """Take all that may come next and leaves the state as it is: it may as well come now. Return what remains to
        come next (the one that ends first last), and the time before which one of that must come."""
        while True:
            horizon, waiting, taken = math.inf, [], 0
            place = (~must & (must + 1)).bit_length() - 1  # the first that has not come
            while place < len(self.must) and self.must[place].start <= horizon:
                bit = 1 << place
                if not must & bit:
                    one = self.must[place]
                    if self._after(state, one) == [state]:
                        taken |= bit
                    else:
                        horizon = min(horizon, one.end)
                        waiting.append((bit, one))
                place += 1
            must |= taken
            if not taken:
                waiting.sort(key=lambda each: -each[1].end)
                return must, waiting, horizon

    def _after(self, state: tuple[State, ...], operation: Operation) -> list[tuple[State, ...]]:
        found = [state]
        for place, part in self.parts[id(operation)]:
            found = [
                (*one[:place], follower, *one[place + 1 :]) for one in found for follower in after(one[place], part)
            ]
            if not found:
                break
        return found

    def _told(self, must: int, may: int, state: tuple[State, ...]) -> str:
        _, waiting, horizon = self._read_on(must, state)
        lines = ["no order explains this; the longest that does ends with"]
        lines += [f"  {key}: {one.value!r}, version {one.version}" for key, one in zip(self.keys, state, strict=True)]
        lines += ["and then one of these should come:"]
        lines += [f"  {one}" for _, one in waiting]
        lines += [
            f"  {one} (or never)" for place, one in enumerate(self.may) if not may >> place & 1 and one.start <= horizon
        ]
        before = [one for place, one in enumerate(self.must) if must >> place & 1]
        lines += ["before it came, among others:", *(f"  {one}" for one in before[-8:])]
        return "\n".join(lines)

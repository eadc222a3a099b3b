"""What commands see of the keys: entries as they were read, and what has been changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eau2.errors import Eau2Error, ValueTooLarge, WrongKind
from eau2.store.expiry import bytes_of, expiring, until_of
from eau2.store.nodes import Expect, Kind, Write
from eau2.store.store import VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eau2.doors.deadlines import Deadlines
    from eau2.doors.work import Command, Outcome
    from eau2.store.nodes import Entry
    from eau2.store.store import Store

_TOGETHER = 16  # values that are looked at together
COMMAND_BYTES_MAX = 256 << 20  # of values that one command reads
_Value = tuple[bytes, int | None]  # bytes, and their end
_OF_BYTES = (Kind.BYTES, Kind.EXPIRING)


class _Nothing:
    """Not even None."""


_NOTHING = _Nothing()


class Job:
    """What one client asked at once."""

    __slots__ = ("bytes", "commands", "done", "full", "outcomes")

    def __init__(self, commands: Sequence[Command], done: Callable[[list[Outcome]], None]) -> None:
        self.commands = commands
        self.done = done
        self.bytes = 0  # of the values that its commands read, each for itself
        self.full = False  # the rest is not done now
        self.outcomes: list[Outcome] = []


class Task:
    """One command of a job, and what came of it."""

    __slots__ = ("bytes", "command", "job", "keys", "outcome")

    def __init__(self, job: Job, command: Command) -> None:
        self.job, self.command = job, command
        self.keys: set[str] = set()  # that it looked at or changed
        self.bytes = 0  # of the values that it reads
        self.outcome: Outcome = None


class Found:
    """What was read: entries, and of what could not be read, why."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.failures: dict[str, Eau2Error] = {}
        self.asked: set[str] = set()


class KeysSeen:
    """A `View`: entries as they were read, and what has been put and deleted since."""

    def __init__(self, found: Found, store: Store, deadlines: Deadlines) -> None:
        self._entries, self._failures = found.entries, found.failures
        self._store, self._deadlines = store, deadlines
        self.now = deadlines.now()
        self.changes = 0  # of keys, by all commands: of two of one key only the last is written
        self._read: set[str] = set()  # keys on whose entry some command has built
        self._new: dict[str, _Value | None] = {}  # None: deleted
        self._before: dict[str, _Value | _Nothing | None] = {}  # of _new, what the command that runs has changed
        self._keys: set[str] = set()  # that the command that runs has looked at or changed

    def run(self, task: Task) -> None:
        """Run the command of `task`. What it has changed is undone when it raises."""
        self._keys, self._before = task.keys, {}
        task.keys.clear()
        try:
            if task.bytes > COMMAND_BYTES_MAX:
                raise ValueTooLarge(f"more than {COMMAND_BYTES_MAX:,} bytes for one command", hint="ask for fewer")
            for key in task.command.reads if self._failures else ():
                if key in self._failures:
                    raise self._failures[key]
            task.outcome = task.command.run(self)
            self.changes += len(self._before)
        except Eau2Error as error:
            task.outcome = error
            for key, value in self._before.items():
                if isinstance(value, _Nothing):
                    del self._new[key]
                else:
                    self._new[key] = value

    def get(self, key: str) -> bytes | None:
        if self.is_frame(key):
            raise WrongKind(f"{key!r} holds a frame, not bytes")
        if key in self._new:
            new = self._new[key]
            return None if new is None else new[0]
        entry = self._live(key)
        return None if entry is None else bytes_of(entry)

    def has(self, key: str) -> bool:
        self._look(key)
        return self._new[key] is not None if key in self._new else self._live(key) is not None

    def is_frame(self, key: str) -> bool:
        self._look(key)
        return key not in self._new and key in self._entries and self._entries[key].kind not in _OF_BYTES

    def until(self, key: str) -> int | None:
        self._look(key)
        if key in self._new:
            new = self._new[key]
            return None if new is None else new[1]
        entry = self._live(key)
        return None if entry is None else until_of(entry)

    def put(self, key: str, value: bytes, *, until: int | None = None) -> None:
        if len(value) > VALUE_BYTES_MAX:
            raise ValueTooLarge(f"{key!r}: {len(value):,} bytes are over the limit of {VALUE_BYTES_MAX:,} for a value")
        self._keys.add(key)
        self._change(key, None if until is not None and until <= self.now else (value, until))

    def expire(self, key: str) -> None:
        self._look(key)
        if key not in self._new and key in self._entries and self._live(key) is None:
            self._change(key, None)

    def note_ends(self) -> None:
        here = self._store.node.here
        for key, until in () if here is None else here.expiring():
            self._deadlines.note(key, until)

    def delete(self, key: str) -> bool:
        had = self.has(key)
        if had:
            self._change(key, None)
        return had

    def discard(self, key: str) -> None:
        self._keys.add(key)
        self._change(key, None)

    def counts(self, key: str) -> bool:
        """Whether what a discard of `key` has met was there, as far as clients know."""
        return key not in self._entries or self._live(key) is not None

    def every_key(self) -> Sequence[str]:
        keys = self._store.keys()
        due = [key for key in keys if self._deadlines.is_due(key)] if self._deadlines.any_due() else []
        ended: set[str] = set()
        for start in range(0, len(due), _TOGETHER):  # it may have another end, or none, by now
            found = self._store.node.get_many(due[start : start + _TOGETHER])
            ended.update(key for key, entry in found.items() if (until_of(entry) or self.now + 1) <= self.now)
        return [key for key in keys if key not in ended] if ended else keys

    def frames(self) -> Sequence[str]:
        return self._store.node.frames()

    def writes(self) -> Iterator[Write]:
        """Yield what makes the store as it is here, where it still is as it was read."""
        for key, new in self._new.items():
            entry = self._entries.get(key)
            expect: int = Expect.ANYTHING
            if key in self._read:
                expect = Expect.ABSENT if entry is None else entry.version
            if new is not None:
                value, until = new
                if until is None:
                    yield Write(key, Kind.BYTES, value, (), expect)
                else:
                    self._deadlines.note(key, until)
                    yield Write(key, Kind.EXPIRING, expiring(value, until), (), expect)
            elif entry is not None or key not in self._read:  # else it came and went
                yield Write(key, Kind.DELETED, expect=expect)

    def _change(self, key: str, new: _Value | None) -> None:
        self._before.setdefault(key, self._new.get(key, _NOTHING))
        self._new[key] = new

    def _live(self, key: str) -> Entry | None:
        """Return what was read under `key`, unless its end has come."""
        entry = self._entries.get(key)
        until = None if entry is None else until_of(entry)
        if until is None:
            return entry
        self._deadlines.note(key, until)
        return entry if until > self.now else None

    def _look(self, key: str) -> None:
        self._keys.add(key)
        if key not in self._new:
            self._read.add(key)

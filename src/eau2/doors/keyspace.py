"""The store as doors see it: what many clients ask at once is read together and written together. Group commit."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from eau2.doors.log import log
from eau2.errors import (
    Eau2Error,
    KeyExists,
    KeyMissing,
    OutcomeUnknown,
    ReadOnly,
    StoreBusy,
    StoreClosed,
    ValueTooLarge,
    VersionConflict,
    WrongKind,
)
from eau2.store.nodes import Expect, Kind, Write
from eau2.store.store import VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from eau2.doors.work import Command, Outcome
    from eau2.store.nodes import Entry
    from eau2.store.store import Store

TOGETHER_MAX = 512  # commands that one transaction has: more are no faster
READ_TOGETHER_MAX = 16  # values of one look-up, each of which may be large
READ_BYTES_MAX = 64 << 20  # of values that are read before those who asked are told
JOB_BYTES_MAX = 1 << 20  # of values that one client is told at once; it asks for the rest when it has taken those
COMMAND_BYTES_MAX = 256 << 20  # of values that one command reads
TRIES_MAX = 100  # of a command, when others change what it read
ALONE_SECONDS = 2.0  # in which commands that failed together are tried each by itself; then all have failed
_END_SECONDS = 0.4
_CHANGED = (KeyExists, KeyMissing, VersionConflict)  # what a write is refused with that others came before
_OF_ALL = (OutcomeUnknown, StoreClosed, StoreBusy, ReadOnly)  # no write by itself would fare better, or may be tried


class _Nothing:
    """Not even None."""


_NOTHING = _Nothing()


class _Job:
    """What one client asked at once."""

    __slots__ = ("bytes", "commands", "done", "full", "outcomes")

    def __init__(self, commands: Sequence[Command], done: Callable[[list[Outcome]], None]) -> None:
        self.commands = commands
        self.done = done
        self.bytes = 0  # of the values that its commands read, each for itself
        self.full = False  # the rest is not done now
        self.outcomes: list[Outcome] = []


class _Task:
    """One command of a job, and what came of it."""

    __slots__ = ("bytes", "command", "job", "keys", "outcome")

    def __init__(self, job: _Job, command: Command) -> None:
        self.job, self.command = job, command
        self.keys: set[str] = set()  # that it looked at or changed
        self.bytes = 0  # of the values that it reads
        self.outcome: Outcome = None


class _Found:
    """What was read: entries, and of what could not be read, why."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.failures: dict[str, Eau2Error] = {}
        self.asked: set[str] = set()


class _View:
    """A `View`: entries as they were read, and what has been put and deleted since."""

    def __init__(self, found: _Found, store: Store) -> None:
        self._entries, self._failures = found.entries, found.failures
        self._store = store
        self._read: set[str] = set()  # keys on whose entry some command has built
        self._new: dict[str, bytes | None] = {}  # None: deleted
        self._before: dict[str, bytes | _Nothing | None] = {}  # of _new, what the command that runs has changed
        self._keys: set[str] = set()  # that the command that runs has looked at or changed

    def run(self, task: _Task) -> None:
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
            return self._new[key]
        entry = self._entries.get(key)
        return None if entry is None else entry.payload

    def has(self, key: str) -> bool:
        self._look(key)
        return self._new[key] is not None if key in self._new else key in self._entries

    def is_frame(self, key: str) -> bool:
        self._look(key)
        return key not in self._new and key in self._entries and self._entries[key].kind != Kind.BYTES

    def put(self, key: str, value: bytes) -> None:
        if len(value) > VALUE_BYTES_MAX:
            raise ValueTooLarge(f"{key!r}: {len(value):,} bytes are over the limit of {VALUE_BYTES_MAX:,} for a value")
        self._keys.add(key)
        self._change(key, value)

    def delete(self, key: str) -> bool:
        had = self.has(key)
        if had:
            self._change(key, None)
        return had

    def discard(self, key: str) -> None:
        self._keys.add(key)
        self._change(key, None)

    def every_key(self) -> Sequence[str]:
        return self._store.keys()

    def frames(self) -> Sequence[str]:
        return self._store.node.frames()

    def writes(self) -> Iterator[Write]:
        """Yield what makes the store as it is here, where it still is as it was read."""
        for key, value in self._new.items():
            entry = self._entries.get(key)
            expect: int = Expect.ANYTHING
            if key in self._read:
                expect = Expect.ABSENT if entry is None else entry.version
            if value is not None:
                yield Write(key, Kind.BYTES, value, (), expect)
            elif entry is not None or key not in self._read:  # else it came and went
                yield Write(key, Kind.DELETED, expect=expect)

    def _change(self, key: str, value: bytes | None) -> None:
        self._before.setdefault(key, self._new.get(key, _NOTHING))
        self._new[key] = value

    def _look(self, key: str) -> None:
        self._keys.add(key)
        if key not in self._new:
            self._read.add(key)


class Keyspace:
    """Does what clients ask in a thread: takes all that waits, reads its keys, runs the commands, writes once.

    What one job asks of a key is done in its order. A command that runs `alone` has a transaction of its own, so that
    what is done together is of one key each: when somebody else, who is no client of ours, has changed a key, what was
    asked of that key is run again, and nothing else was done of it. Thread-safe.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ready = threading.Condition()  # guards everything below
        self._jobs: deque[_Job] = deque()
        self._left = 0  # jobs that were submitted and not done
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="eau2-doors", daemon=True)
        self._thread.start()

    def submit(self, commands: Sequence[Command], done: Callable[[list[Outcome]], None]) -> None:
        """Have `commands` done, in order, and then `done` called in another thread with the outcomes.

        These may be those of the first commands only, where values are large: the others were not done. StoreClosed.
        """
        with self._ready:
            if self._closed:
                raise StoreClosed("the door is closed")
            self._jobs.append(_Job(commands, done))
            self._left += 1
            self._ready.notify()

    @property
    def idle(self) -> bool:
        """Whether nothing that was submitted is left to do. For who submits."""
        return not self._left

    def close(self) -> None:
        """Finish what was submitted, and end the thread; wait for it for a second. May be called again."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._thread.join(_END_SECONDS)

    # -- private ------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while jobs := self._take():
            while jobs:
                try:
                    tasks, found = self._select(jobs)
                    self._settle(tasks, found)
                except Exception as error:  # our own fault; whoever asked must not wait for ever
                    log("failed", error=repr(error))
                    tasks = [_Task(job, command) for job in jobs for command in job.commands]
                    for task in tasks:
                        task.outcome = Eau2Error(f"internal failure: {type(error).__name__}")
                for task in tasks:
                    task.job.outcomes.append(task.outcome)
                for job in jobs:
                    if job.outcomes:
                        with self._ready:
                            self._left -= 1
                        job.done(job.outcomes)
                jobs = [job for job in jobs if not job.outcomes]

    def _take(self) -> list[_Job]:
        """Return the jobs that wait, up to about TOGETHER_MAX commands; [] when there will be no more."""
        with self._ready:
            while not self._jobs and not self._closed:
                self._ready.wait()
            taken: list[_Job] = []
            count = 0
            while self._jobs and count < TOGETHER_MAX:
                taken.append(self._jobs.popleft())
                count += len(taken[-1].commands)
            return taken

    def _select(self, jobs: Sequence[_Job]) -> tuple[list[_Task], _Found]:
        """Return the commands that are done now, and what they read: as much as may be in memory."""
        found = _Found()
        if jobs[0].commands[0].alone:
            task = _Task(jobs[0], jobs[0].commands[0])
            self._fetch([task], found)
            return [task], found
        tasks: list[_Task] = []
        wave: list[_Task] = []
        size = 0
        for job in jobs:
            for command in job.commands:
                if command.alone or job.full or size > READ_BYTES_MAX:
                    break
                wave.append(_Task(job, command))
                if len(wave) >= READ_TOGETHER_MAX:
                    size += self._fetch(wave, found)
                    tasks += _fitting(wave)
                    wave = []
        self._fetch(wave, found)
        return tasks + _fitting(wave), found

    def _fetch(self, wave: Sequence[_Task], found: _Found) -> int:
        """Read what the commands of `wave` read; return its size."""
        keys = list(dict.fromkeys(key for task in wave for key in task.command.reads if key not in found.asked))
        found.asked.update(keys)
        total = 0
        for start in range(0, len(keys), READ_TOGETHER_MAX):
            some = keys[start : start + READ_TOGETHER_MAX]
            if total > COMMAND_BYTES_MAX and len(wave) == 1:
                break  # it is refused
            total += self._look_up(some, found, time.monotonic() + ALONE_SECONDS)
        for task in wave:
            entries = [found.entries.get(key) for key in task.command.reads]
            task.bytes = sum(len(entry.payload) for entry in entries if entry is not None)
        return total

    def _look_up(self, keys: list[str], found: _Found, deadline: float) -> int:
        try:
            entries = self._store.node.get_many(keys)
        except Eau2Error as error:
            if len(keys) == 1 or time.monotonic() > deadline:
                found.failures.update(dict.fromkeys(keys, error))
                return 0
            # What one key has is no matter of the others.
            return sum(self._look_up([key], found, deadline) for key in keys)
        found.entries.update(entries)
        return sum(len(entry.payload) for entry in entries.values())

    def _settle(self, tasks: list[_Task], found: _Found) -> None:
        for _ in range(TRIES_MAX):
            tasks = self._run(tasks, found)
            if not tasks:
                return
            found = _Found()
            self._fetch(tasks, found)
        for task in tasks:
            task.outcome = StoreBusy("others kept changing the key", hint="ask again later")

    def _run(self, tasks: list[_Task], found: _Found) -> list[_Task]:
        """Run `tasks`; return those that are to be run again, for somebody else has changed what they read."""
        view = _View(found, self._store)
        for task in tasks:
            view.run(task)
        writes = list(view.writes())
        if not writes:
            return []
        try:
            outcomes = self._store.node.write(writes)
        except Eau2Error as error:
            if len(tasks) > 1 and not isinstance(error, _OF_ALL):
                self._one_by_one(tasks, error)
            else:
                self._fail(tasks, {write.key for write in writes}, error)
            return []
        if tasks[0].command.counts:  # alone, and nothing that it writes can be refused
            tasks[0].outcome = sum(isinstance(outcome, int) and outcome > 0 for outcome in outcomes)
        changed: set[str] = set()
        for write, outcome in zip(writes, outcomes, strict=True):
            if isinstance(outcome, _CHANGED):
                changed.add(write.key)
            elif isinstance(outcome, Eau2Error):
                self._fail(tasks, {write.key}, outcome)
        return [task for task in tasks if not changed.isdisjoint(task.keys)]

    def _one_by_one(self, tasks: list[_Task], error: Eau2Error) -> None:
        """Run each of `tasks` by itself: one key may be on a node that is down, one value not fit the disk, and that
        is no matter of the others. Not for long: who asks meanwhile waits."""
        deadline = time.monotonic() + ALONE_SECONDS
        for task in tasks:
            if time.monotonic() > deadline:
                task.outcome = error
                continue
            found = _Found()
            self._fetch([task], found)
            self._settle([task], found)

    def _fail(self, tasks: Iterable[_Task], keys: set[str], error: Eau2Error) -> None:
        for task in tasks:
            if not keys.isdisjoint(task.keys):
                task.outcome = error


def _fitting(wave: Iterable[_Task]) -> list[_Task]:
    """Return those of `wave` whose jobs have not read too much before them."""
    fitting = []
    for task in wave:
        if not task.job.full:
            fitting.append(task)
            task.job.bytes += task.bytes
            task.job.full = task.job.bytes > JOB_BYTES_MAX
    return fitting

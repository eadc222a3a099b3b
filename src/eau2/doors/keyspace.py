"""The store as doors see it: what many clients ask at once is read together and written together. Group commit."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from eau2.doors.deadlines import Deadlines
from eau2.doors.log import log
from eau2.doors.view import COMMAND_BYTES_MAX, Found, Job, KeysSeen, Task
from eau2.errors import (
    Eau2Error,
    KeyExists,
    KeyMissing,
    OutcomeUnknown,
    ReadOnly,
    StoreBusy,
    StoreClosed,
    VersionConflict,
)
from eau2.store.statistics import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from eau2.doors.work import Command, Outcome
    from eau2.store.nodes import Write
    from eau2.store.store import Store

TOGETHER_MAX = 512  # commands that one transaction has: more are no faster
READ_TOGETHER_MAX = 16  # values of one look-up, each of which may be large
READ_BYTES_MAX = 64 << 20  # of values that are read before those who asked are told
JOB_BYTES_MAX = 1 << 20  # of values that one client is told at once; it asks for the rest when it has taken those
TRIES_MAX = 100  # of a command, when others change what it read
ALONE_SECONDS = 2.0  # in which commands that failed together are tried each by itself; then all have failed
_END_SECONDS = 0.4
_CHANGED = (KeyExists, KeyMissing, VersionConflict)  # what a write is refused with that others came before
_OF_ALL = (OutcomeUnknown, StoreClosed, StoreBusy, ReadOnly)  # no write by itself would fare better, or may be tried


class Keyspace:
    """Does what clients ask in a thread: takes all that waits, reads its keys, runs the commands, writes once.

    What one job asks of a key is done in its order. A command that runs `alone` has a transaction of its own, so that
    what is done together is of one key each: when somebody else, who is no client of ours, has changed a key, what was
    asked of that key is run again, and nothing else was done of it. Thread-safe.
    """

    def __init__(self, store: Store, deadlines: Deadlines | None = None) -> None:
        self._store = store
        self._deadlines = deadlines or Deadlines()
        here = store.node.here
        self._answered = Tally() if here is None else here.tally()  # nodes elsewhere count what comes to them
        self._ready = threading.Condition()  # guards everything below
        self._jobs: deque[Job] = deque()
        self._left = 0  # jobs that were submitted and not done
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="eau2-doors", daemon=True)
        self._thread.start()

    def submit(self, commands: Sequence[Command], done: Callable[[list[Outcome]], None]) -> None:
        """Have `commands`, one at least, done, in order, and then `done` called in another thread with the outcomes.

        These may be those of the first commands only, where values are large: the others were not done. StoreClosed.
        """
        if not commands:
            raise ValueError("nothing to do")
        with self._ready:
            if self._closed:
                raise StoreClosed("the door is closed")
            self._jobs.append(Job(commands, done))
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
                jobs = self._do(jobs)

    def _do(self, jobs: list[Job]) -> list[Job]:
        """Do `jobs` as far as memory allows; return those that are left. Nothing is held of what was read."""
        try:
            tasks, found = self._select(jobs)
            self._settle(tasks, found)
        except Exception as error:  # our own fault; whoever asked must not wait for ever
            log("failed", error=repr(error))
            tasks = [Task(job, command) for job in jobs for command in job.commands]
            for task in tasks:
                task.outcome = Eau2Error(f"internal failure: {type(error).__name__}")
        for task in tasks:
            task.job.outcomes.append(task.outcome)
        for job in jobs:
            if job.outcomes:
                with self._ready:
                    self._left -= 1
                job.done(job.outcomes)
        return [job for job in jobs if not job.outcomes]

    def _take(self) -> list[Job]:
        """Return the jobs that wait, up to about TOGETHER_MAX commands; [] when there will be no more."""
        with self._ready:
            while not self._jobs and not self._closed:
                self._ready.wait()
            taken: list[Job] = []
            count = 0
            while self._jobs and count < TOGETHER_MAX:
                taken.append(self._jobs.popleft())
                count += len(taken[-1].commands)
            return taken

    def _select(self, jobs: Sequence[Job]) -> tuple[list[Task], Found]:
        """Return the commands that are done now, and what they read: as much as may be in memory."""
        found = Found()
        if jobs[0].commands[0].alone:
            task = Task(jobs[0], jobs[0].commands[0])
            self._fetch([task], found)
            return [task], found
        tasks: list[Task] = []
        wave: list[Task] = []
        size = 0
        for job in jobs:
            for command in job.commands:
                if command.alone or job.full or size > READ_BYTES_MAX:
                    break
                wave.append(Task(job, command))
                if len(wave) >= READ_TOGETHER_MAX:
                    size += self._fetch(wave, found)
                    tasks += _fitting(wave)
                    wave = []
        self._fetch(wave, found)
        return tasks + _fitting(wave), found

    def _fetch(self, wave: Sequence[Task], found: Found) -> int:
        """Read what the commands of `wave` read; return its size."""
        keys = list(dict.fromkeys(key for task in wave for key in task.command.reads if key not in found.asked))
        self._answered.keys += sum(len(task.command.reads) for task in wave) - len(keys)
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

    def _look_up(self, keys: list[str], found: Found, deadline: float) -> int:
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

    def _settle(self, tasks: list[Task], found: Found) -> None:
        for _ in range(TRIES_MAX):
            tasks = self._run(tasks, found)
            if not tasks:
                return
            found = Found()
            self._fetch(tasks, found)
        for task in tasks:
            task.outcome = StoreBusy("others kept changing the key", hint="ask again later")

    def _run(self, tasks: list[Task], found: Found) -> list[Task]:
        """Run `tasks`; return those that are to be run again, for somebody else has changed what they read."""
        view = KeysSeen(found, self._store, self._deadlines)
        for task in tasks:
            view.run(task)
        writes = list(view.writes())
        self._answered.keys += view.changes - len(writes)
        if not writes:
            return []
        try:
            outcomes = self._write(writes, tasks)
        except Eau2Error as error:
            if len(tasks) > 1 and not isinstance(error, _OF_ALL):
                self._one_by_one(tasks, error)
            else:
                self._fail(tasks, {write.key for write in writes}, error)
            return []
        if tasks[0].command.counts:  # alone
            tasks[0].outcome = sum(
                isinstance(outcome, int) and outcome > 0 and view.counts(write.key)
                for write, outcome in zip(writes, outcomes, strict=True)
            )
        changed: set[str] = set()
        for write, outcome in zip(writes, outcomes, strict=True):
            if isinstance(outcome, _CHANGED):
                changed.add(write.key)
            elif isinstance(outcome, Eau2Error):
                self._fail(tasks, {write.key}, outcome)
        return [task for task in tasks if not changed.isdisjoint(task.keys)]

    def _write(self, writes: Sequence[Write], tasks: Sequence[Task]) -> list[int | Eau2Error]:
        node = self._store.node
        if node.here is None or not tasks[0].command.alone or not any(write.expect for write in writes):
            return node.write(writes)
        return node.here.write_all(writes)  # where one is refused the command is run again, as if it had not been

    def _one_by_one(self, tasks: list[Task], error: Eau2Error) -> None:
        """Run each of `tasks` by itself: one key may be on a node that is down, one value not fit the disk, and that
        is no matter of the others. Not for long: who asks meanwhile waits."""
        deadline = time.monotonic() + ALONE_SECONDS
        for task in tasks:
            if time.monotonic() > deadline:
                task.outcome = error
                continue
            found = Found()
            self._fetch([task], found)
            self._settle([task], found)

    def _fail(self, tasks: Iterable[Task], keys: set[str], error: Eau2Error) -> None:
        for task in tasks:
            if not keys.isdisjoint(task.keys):
                task.outcome = error


def _fitting(wave: Iterable[Task]) -> list[Task]:
    """Return those of `wave` whose jobs have not read too much before them."""
    fitting = []
    for task in wave:
        if not task.job.full:
            fitting.append(task)
            task.job.bytes += task.bytes
            task.job.full = task.job.bytes > JOB_BYTES_MAX
    return fitting

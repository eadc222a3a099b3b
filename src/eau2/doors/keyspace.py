"""The store as doors see it: operations of many clients at once, done together. Group commit."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from eau2.doors.log import log
from eau2.doors.work import Operation, Outcome, Verb
from eau2.errors import Eau2Error, KeyExists, KeyMissing, OutcomeUnknown, StoreClosed, WrongKind
from eau2.store.nodes import Expect, Kind, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eau2.store.store import Store

TOGETHER_MAX = 512  # operations that one transaction has: more are no faster
READ_TOGETHER_MAX = 16  # values of one look-up, each of which may be large
READ_BYTES_MAX = 64 << 20  # of values that are read before those who asked are told
JOB_BYTES_MAX = 1 << 20  # of values that one client is told at once; it asks for the rest when it has taken those
_END_SECONDS = 1.0

_EXPECT = {Verb.PUT: Expect.ANYTHING, Verb.CREATE: Expect.ABSENT, Verb.UPDATE: Expect.PRESENT}


class _Job:
    """What one client asked at once: done in order."""

    __slots__ = ("bytes", "done", "operations", "outcomes")

    def __init__(self, operations: Sequence[Operation], done: Callable[[list[Outcome]], None]) -> None:
        self.operations = operations
        self.outcomes: list[Outcome] = []
        self.bytes = 0  # of the values among them
        self.done = done

    @property
    def ended(self) -> bool:
        return len(self.outcomes) == len(self.operations) or self.bytes > JOB_BYTES_MAX

    def add(self, outcomes: list[Outcome]) -> None:
        self.outcomes += outcomes
        self.bytes += sum(len(each) for each in outcomes if isinstance(each, bytes))

    def next(self, *, reads: bool) -> list[Operation]:
        """Return what is to be done next, as far as all of it reads, or all of it writes."""
        found: list[Operation] = []
        for operation in self.operations[len(self.outcomes) :]:
            if (operation.verb is Verb.GET) != reads:
                break
            found.append(operation)
        return found


class Keyspace:
    """Does what clients ask in a few threads: all reads that wait in one look-up, all writes in one transaction.

    What one job asks is done in its order; of different jobs, in any. Memory is bounded, whatever the values.
    Thread-safe.
    """

    def __init__(self, store: Store, *, threads: int = 1) -> None:
        self._store = store
        self._ready = threading.Condition()  # guards everything below
        self._jobs: deque[_Job] = deque()
        self._closed = False
        self._counts = [0, 0]
        self._threads = [
            threading.Thread(target=self._work, name=f"eau2-door-{index}", daemon=True) for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, operations: Sequence[Operation], done: Callable[[list[Outcome]], None]) -> None:
        """Have `operations` done, in order, and then `done` called in another thread with the outcomes.

        These may be those of the first operations only, where values are large: the others were not done. StoreClosed.
        """
        with self._ready:
            if self._closed:
                raise StoreClosed("the door is closed")
            self._jobs.append(_Job(operations, done))
            self._ready.notify()

    def counts(self) -> tuple[int, int]:
        """Return how many operations were done, and in how many transactions and look-ups."""
        with self._ready:
            return self._counts[0], self._counts[1]

    def close(self) -> None:
        """Finish what was submitted, and end the threads; wait for it for a second. May be called again."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join(_END_SECONDS)

    # -- private ------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while jobs := self._take():
            waiting = jobs
            while waiting:
                for reads in (True, False):
                    self._step([(job, job.next(reads=reads)) for job in waiting], reads=reads)
                for job in waiting:
                    if job.ended:
                        job.done(job.outcomes)
                waiting = [job for job in waiting if not job.ended]

    def _take(self) -> list[_Job]:
        """Return the jobs that wait, up to about TOGETHER_MAX operations; [] when there will be no more."""
        with self._ready:
            while not self._jobs and not self._closed:
                self._ready.wait()
            taken: list[_Job] = []
            count = 0
            while self._jobs and count < TOGETHER_MAX:
                taken.append(self._jobs.popleft())
                count += len(taken[-1].operations)
            return taken

    def _step(self, asked: list[tuple[_Job, list[Operation]]], *, reads: bool) -> None:
        operations = [operation for _, some in asked for operation in some]
        if not operations:
            return
        outcomes = self._read(operations) if reads else self._write(operations)
        start = 0
        for job, some in asked:
            job.add(outcomes[start : start + len(some)])
            start += len(some)

    def _read(self, operations: list[Operation]) -> list[Outcome]:
        """Return the outcomes of `operations`, or of as many as may be in memory at once."""
        outcomes: list[Outcome] = []
        size = 0
        while len(outcomes) < len(operations) and size < READ_BYTES_MAX:
            some = operations[len(outcomes) : len(outcomes) + READ_TOGETHER_MAX]
            found = self._each(some, self._read_together)
            size += sum(len(each) for each in found if isinstance(each, bytes))
            outcomes += found
        return outcomes

    def _read_together(self, operations: list[Operation]) -> list[Outcome]:
        found = self._store.get_many([operation.key for operation in operations], default=None)
        return [_bytes(operation.key, found[operation.key]) for operation in operations]

    def _write(self, operations: list[Operation]) -> list[Outcome]:
        return self._each(operations, self._write_together)

    def _write_together(self, operations: list[Operation]) -> list[Outcome]:
        writes = [
            Write(key, Kind.DELETED) if verb is Verb.DELETE else Write(key, Kind.BYTES, value, (), _EXPECT[verb])
            for verb, key, value in operations
        ]
        return [_written(outcome) for outcome in self._store.node.write(writes)]

    def _each(self, operations: list[Operation], together: Callable[[list[Operation]], list[Outcome]]) -> list[Outcome]:
        """Return the outcomes of `together`; where it fails as a whole, of each operation by itself.

        One key may be on a node that is down, one value not fit the disk: that is no matter of the others. But what
        may have been done must not be done again.
        """
        with self._ready:
            self._counts[0] += len(operations)
            self._counts[1] += 1
        try:
            return together(operations)
        except (OutcomeUnknown, StoreClosed) as error:
            return [error] * len(operations)
        except Eau2Error as error:
            if len(operations) == 1:
                return [error]
        except Exception as error:  # our own fault; whoever asked must not wait for ever
            log("failed", error=repr(error))
            return [Eau2Error(f"internal failure: {type(error).__name__}")] * len(operations)
        return [outcome for operation in operations for outcome in self._each([operation], together)]


def _bytes(key: str, value: object) -> Outcome:
    if value is None or isinstance(value, bytes):
        return value
    return WrongKind(f"{key!r} holds a frame, not bytes")


def _written(outcome: int | Eau2Error) -> Outcome:
    if isinstance(outcome, (KeyExists, KeyMissing)):
        return False
    return outcome if isinstance(outcome, Eau2Error) else outcome > 0

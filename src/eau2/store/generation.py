"""Has anybody written since? Counters that every process of a node maps, and the threads that wait on them.

The file holds five 64-bit numbers, `started`, `finished`, `flushed`, `batched` and `merged`. A writer, holding SQLite's
write lock, sets `started` += 1, commits, and then sets `finished` to the `started` it made. `flushed` says which
commits are on the medium; see `flush`. `batched` is the last commit that left batches in front of the tree
(recent.py), `merged` one that left none.

What a reader may conclude, and why its held read transaction is linearizable:

* There is one write lock, so commits are ordered: commit s is the one whose writer made `started` s. `finished` is
  set to s only after commit s, hence after all before it. So `finished == started == s` says: commit s is done, and
  none after s has begun to commit, for its writer would have made `started` s + 1 first.
* A reader that saw them equal to s and *then* began its snapshot has at least commit s in it. It trusts the snapshot
  for a get only if `started` is still s at the beginning of that get. Then no commit after s had begun at that moment,
  so the snapshot is exactly the state of that moment: the get happens there. In particular, when anybody anywhere
  has seen commit s + 1, `started` was s + 1 before, and nobody uses a snapshot of s any more.
* When commit s + 1 begins between the look at the counters and the beginning of the snapshot, the snapshot may or may
  not have it. The get that began it is right either way (it took the newest state there was, as SQLite always does);
  the next get finds `started` changed and ends it.
* Late writers: `finished` is set after the write lock is gone. A writer that is slow may set it to s when s + 1 has
  been committed already, after which they differ until the next write, or until `settle`. That costs speed (each
  get takes its own snapshot), never an old answer: equal means that the *last* commit is done.
* A writer that dies between the two leaves them different: again only speed, and `settle` mends it.
* The order of the stores in memory: `started` is stored before SQLite publishes the commit, between the two are
  system calls and SQLite's own barriers. A load that sees the commit is followed by one that sees `started`.

A reader that saw `batched <= merged` before its snapshot reads the tree alone. All that was committed before that look
is in it: `batched` is set before the commit, `merged` after. Batches that have been committed since, if the snapshot
has any, are of after the look: what the tree has is the state of before them, and the get happens there. Where it saw
otherwise, it looks for batches. A late writer, or one that died or whose commit was rolled back, only makes readers
look for nothing. After the loss of power the two may be of another time than the database: whoever opens it looks.

Waiting looks at the first 16 bytes: a waiter that read the counters, then found no value, sees either `started` or
`finished` change when the value is committed after its look. (`started` alone moves too early.)
If the writer dies in between, nothing more changes; so when the counters differ for long, `settle` makes them equal.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from typing import TYPE_CHECKING, Protocol

from eau2.errors import Corrupt
from eau2.store.interrupts import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SIZE, _NUMBER_SIZE = 40, 16
_POLL_SECONDS = 0.008  # a put in another process wakes a waiter this late, at most; half a hundredth of a core
_UNSETTLED_SECONDS = 0.02  # a commit takes less; then its writer may be dead
_WAIT_SECONDS = 2.0  # of one wait: Ctrl-C may be given to another thread, and then does not wake the main one
_LINGER_POLLS = 12  # the poller outlives its last waiter for 0.1 s: starting a thread costs more than a look


def has_batches(counters: memoryview) -> bool:
    """Whether there may be batches that are not in the tree."""
    return bool(counters[3] > counters[4] or counters[4] > counters[0])  # the latter is damage


class Generation:
    """The counters of one node, mapped. `started` and `finished` are read without a lock."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        file = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
        try:
            if os.fstat(file).st_size != _SIZE:
                raise Corrupt(f"{path} has {os.fstat(file).st_size} bytes, not {_SIZE}", hint="close all and delete it")
            self._map = mmap.mmap(file, _SIZE, access=mmap.ACCESS_READ if read_only else mmap.ACCESS_WRITE)
        finally:
            os.close(file)
        # [started, finished, flushed, batched, merged]: each is loaded and stored whole
        self.counters = memoryview(self._map).cast("Q")

    def number(self) -> int:
        """Return a number that differs after any write. 0.3 us."""
        return int.from_bytes(self._map[:_NUMBER_SIZE], "little")

    @property
    def settled(self) -> bool:
        return bool(self.counters[0] == self.counters[1])

    def start(self, *, batches: bool = False) -> int:
        """Before COMMIT, under the write lock: no held snapshot is trusted from here. Return what `finish` needs.

        batches: the commit leaves some in front of the tree.
        """
        counters = self.counters
        if counters[4] > counters[0]:  # damage, which would hide a batch once `started` has come so far
            counters[4] = 0
        started = counters[0] + 1
        if batches:
            counters[3] = started
        self.counters[0] = started
        return int(started)

    def finish(self, started: int) -> None:
        """After COMMIT, or after what began with `start` was rolled back."""
        if self.counters[1] < started:  # not back behind a later writer, as far as can be seen from here
            self.counters[1] = started

    def merged(self, started: int) -> None:
        """After commit `started`, which has left all in the tree. Later writers may have committed since."""
        if self.counters[4] < started <= self.counters[0]:
            self.counters[4] = started

    def flush(self, started: int, log: int) -> None:
        """Have commit `started`, and all before it, on the medium: they are in the file `log`. OSError.

        After `finish` and without a lock, so that processes flush for each other: who comes while another flushes
        commits, and the next flush is for all that have. Storing less than another stored costs a flush, no more.
        """
        counters = self.counters
        if started <= counters[2] <= counters[0]:  # above `started` is damage
            return
        os.sched_yield()  # whoever waits for a processor commits first: a tenth more where four processes put
        finished = max(started, counters[1])
        os.fdatasync(log)
        counters[2] = finished

    def settle(self) -> None:
        """Under the write lock: nobody is committing, so all that started has finished."""
        self.counters[1] = self.counters[0]

    def close(self) -> None:
        self.counters.release()
        self._map.close()


class Changing(Protocol):
    """What can be waited for."""

    @property
    def settled(self) -> bool: ...

    def number(self) -> int: ...


class Waiting:
    """Threads that wait for the generation to change. One poller thread looks at it, only while somebody waits.

    `settle` is called when the counters have differed for long; it must not wait.
    """

    def __init__(self, generation: Changing, settle: Callable[[], None]) -> None:
        self._generation = generation
        self._settle = settle
        self._lock = threading.RLock()  # guards everything below; entered itself: entering a Condition may be cut short
        self._changed = threading.Condition(self._lock)
        self._waiters = 0
        self._poller: threading.Thread | None = None
        self._closed = False
        self.waits = 0
        self.told: Callable[[], None] | None = None  # called after each write of this process, in its thread

    def wait(self, since: int, timeout_seconds: float) -> None:
        """Return when the generation is not `since`, when the time is over, or when closed."""
        deadline = time.monotonic() + timeout_seconds
        with self._lock:
            self.waits += 1
            self._waiters += 1
            try:
                if self._poller is None and not self._closed:
                    with uninterrupted():
                        self._poller = threading.Thread(target=self._poll, name="eau2-wait", daemon=True)
                        self._poller.start()
                while not self._closed and self._generation.number() == since:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return
                    self._changed.wait(min(left, _WAIT_SECONDS))
            finally:
                self._waiters -= 1

    def notify(self) -> None:
        """This process has written. Costs a look when nobody waits."""
        if self.told is not None:
            self.told()
        if self._waiters:
            with self._lock:
                self._changed.notify_all()

    def close(self) -> None:
        """Wake everybody and end the poller."""
        with self._lock:
            self._closed = True
            poller = self._poller
            self._changed.notify_all()
        if poller is not None:
            poller.join(1.0)

    def _poll(self) -> None:
        seen, since, idle = -1, 0.0, 0
        while True:
            with self._lock:
                idle = 0 if self._waiters else idle + 1
                if self._closed or idle > _LINGER_POLLS:
                    self._poller = None
                    return
                number = self._generation.number()
                if number != seen:
                    seen, since = number, time.monotonic()
                    self._changed.notify_all()
                stuck = not self._generation.settled and time.monotonic() - since > _UNSETTLED_SECONDS
            if stuck:
                self._settle()
                since = time.monotonic()
            time.sleep(_POLL_SECONDS)


def create(path: Path) -> None:
    """Write the counters of a new node to `path`, where nothing is. Bytes are written, so that mapping them never
    needs space that a full disk does not have."""
    path.write_bytes(bytes(_SIZE))

"""Writes of keys of several nodes, one at a time in all processes that have a directory open.

<path>/batches.lock     held while one goes on
<path>/batches          how many were decided, how many are done: readers, and writers that find a key in flight, wait
                        while they differ

Who finds them different and the lock free does what was decided: its writer was killed, or was cut short.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from eau2.cluster.shared import BUSY_SECONDS_MAX, Counters, SharedLock
from eau2.errors import StoreBusy
from eau2.store.interrupts import heed, uninterrupted
from eau2.store.nodes import closed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOOK_SECONDS = 0.0005  # between looks whether a batch of another process is over


class Batches:
    """The batches of one directory. `finish_decided` does what is decided and not done everywhere."""

    def __init__(self, path: Path, ended: threading.Event, finish_decided: Callable[[], None]) -> None:
        self._ended = ended
        self._finish_decided = finish_decided
        self._lock = SharedLock(path / "batches.lock", ended)
        self._counters = Counters(path / "batches")  # decided, and done
        self._owner = 0  # the thread of this process that holds the lock

    @property
    def half_done(self) -> bool:
        """Whether what was decided is not done yet. 0.1 us."""
        values = self._counters.values
        return bool(values[0] != values[1])

    @property
    def is_mine(self) -> bool:
        """Whether the batch that goes on is this thread's."""
        return self._owner == threading.get_ident()

    def wait(self) -> None:
        """Return when no batch is half done, by whatever process. 0.1 us when there is none. StoreBusy, StoreClosed."""
        deadline = 0.0
        while self.half_done:
            deadline = deadline or time.monotonic() + BUSY_SECONDS_MAX
            heed()
            if not self._do_what_is_left():
                if self._ended.wait(_LOOK_SECONDS):
                    raise closed()
                if time.monotonic() > deadline:
                    raise StoreBusy(f"a write of several keys has not ended in {BUSY_SECONDS_MAX:g} seconds")

    def _do_what_is_left(self) -> bool:
        """Do what was decided, if nobody is at it; return whether that was so."""
        with uninterrupted():
            if not self._lock.try_now():
                return False
            self._owner = threading.get_ident()
            try:
                self._finish()
            finally:
                self._release()
        return True

    async def begin(self) -> None:
        """Wait for the turn of this thread. `end` must follow."""
        await self._lock.acquire()
        self._owner = threading.get_ident()
        try:
            self._finish()
        except BaseException:
            self._release()
            raise

    def decided(self) -> None:
        """From here on others wait until it is done everywhere."""
        self._counters.values[0] += 1

    def end(self, *, done: bool) -> None:
        """Let go; unless all is done or undone, the next one does what was decided."""
        if done:
            self._counters.values[1] = self._counters.values[0]
        self._release()

    def close(self) -> None:
        self._lock.close()
        self._counters.close()

    def _finish(self) -> None:
        if self.half_done:
            self._finish_decided()
            self._counters.values[1] = self._counters.values[0]

    def _release(self) -> None:
        self._owner = 0
        self._lock.release()

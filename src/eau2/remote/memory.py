"""Memory for chunks that are brought. It is used again: fresh memory costs more than what is then written to it.

What waits to be used is the kernel's to take after some seconds, and not at once: writing to a page that was offered
costs as much again as the copy, since the processor has to note in each that it was written to.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Iterable

IDLE_SECONDS = 5.0
_STEP = 4 << 20  # regions have a multiple of these bytes, so that one fits chunks of nearly the same size
_SMALLEST = 1 << 20  # what is smaller is not worth a region
_FREE = getattr(mmap, "MADV_FREE", None)  # not in a Python that was built where it was not known


class Kept:
    """Bytes in a region of `Memory`, which has it back when nobody holds a buffer of them."""

    __slots__ = ("__weakref__", "_data", "size")

    def __init__(self, region: mmap.mmap, size: int) -> None:
        self._data, self.size = pa.py_buffer(region), size

    def buffer(self) -> pa.Buffer:
        """Return the bytes, read-only; the buffer, and all that is made of it, keeps the region."""
        return pa.foreign_buffer(self._data.address, self.size, base=self)


@dataclass(slots=True)
class _Idle:
    region: mmap.mmap
    since: float  # by `time.monotonic`, when it was noticed
    is_offered: bool = False  # to the kernel


class Memory:
    """Regions of memory, at most `bytes_max` with those that wait to be used again. Thread-safe.

    Those are the kernel's to take as soon as it needs memory, from IDLE_SECONDS on, though they count as ours till
    then. A thread sees to that as long as there are others.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._let_go: SimpleQueue[mmap.mmap] = SimpleQueue()  # of all queues it may be put to amid itself
        self._lock = threading.Lock()  # guards everything below
        self._idle: list[_Idle] = []  # the last used is the last
        self._is_looking = False
        self.bytes = 0

    def keep(self, pieces: Iterable[pa.Buffer], size: int) -> Kept | None:
        """Return `pieces`, of `size` bytes together, as one; None, before any is taken, where there is no room, or they
        are small. Corrupt where they have more; and what `pieces` raises."""
        region = self._region(size)
        if region is None:
            return None
        kept = Kept(region, size)
        weakref.finalize(kept, self._let_go.put, region).atexit = False  # no Python of ours: Ctrl-C may come amid it
        self._see_to_it()
        with memoryview(region) as view:
            end = 0
            for piece in pieces:
                part = memoryview(piece).cast("B")
                start, end = end, end + len(part)
                if end > size:
                    raise Corrupt(f"more than the {size:,} bytes that were announced came", hint="try again")
                view[start:end] = part
        return kept

    def look(self, now: float) -> bool:
        """Offer the kernel what has waited for IDLE_SECONDS at `now`. Return whether there is anything else."""
        with self._lock:
            self._gather(now)
            for idle in self._idle:
                if not idle.is_offered and now - idle.since >= IDLE_SECONDS:
                    _offer(idle.region)
                    idle.is_offered = True
            more = self._held() > 0 or not all(idle.is_offered for idle in self._idle)
            self._is_looking = self._is_looking and more
            return more

    def abandon(self) -> None:
        """In a forked child: begin anew. Another thread may have had the lock, and what the parent has is copied as
        soon as one of the two changes it."""
        self._lock, self._let_go = threading.Lock(), SimpleQueue()
        self._idle, self._is_looking, self.bytes = [], False, 0

    # -- private ------------------------------------------------------------------------------------------------------

    def _region(self, size: int) -> mmap.mmap | None:
        if size < _SMALLEST:
            return None
        wanted = -(-size // _STEP) * _STEP
        with self._lock:
            self._gather(time.monotonic())
            for at in reversed(range(len(self._idle))):
                if len(self._idle[at].region) == wanted:
                    return self._idle.pop(at).region
            if self._held() + wanted > self._bytes_max:
                return None
            while self.bytes + wanted > self._bytes_max:
                self.bytes -= len(self._idle.pop(0).region)
            try:
                region = mmap.mmap(-1, wanted, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError:  # a limit of the process
                return None
            self.bytes += wanted
            return region

    def _gather(self, now: float) -> None:
        """Under the lock: note what was let go since, which waits from `now` on."""
        with contextlib.suppress(Empty):
            while True:
                self._idle.append(_Idle(self._let_go.get_nowait(), now))

    def _held(self) -> int:
        """Under the lock."""
        return self.bytes - sum(len(idle.region) for idle in self._idle)

    def _see_to_it(self) -> None:
        with self._lock:
            # To start a thread at the end of the interpreter would wait for ever.
            if self._is_looking or _FREE is None or sys.is_finalizing():
                return
            self._is_looking = True
        try:
            threading.Thread(target=self._look_on, name="eau2-memory", daemon=True).start()
        except BaseException as error:
            self._is_looking = False  # the next will see to it
            if not isinstance(error, RuntimeError):  # no more threads
                raise

    def _look_on(self) -> None:
        try:
            while self.look(time.monotonic()):
                time.sleep(IDLE_SECONDS / 2)
        except BaseException:
            self._is_looking = False
            raise


def _offer(region: mmap.mmap) -> None:
    with contextlib.suppress(OSError):  # then it stays as it is
        if _FREE is not None:
            region.madvise(_FREE)

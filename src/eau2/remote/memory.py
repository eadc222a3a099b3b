"""Memory for chunks that are brought. It is used again: fresh memory costs more than what is then written to it."""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Iterable

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


class Memory:
    """Regions of memory, at most `bytes_max` with those that wait to be used again. Thread-safe.

    Those are the kernel's to take back as soon as it needs memory, though they count as ours till then.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._let_go: SimpleQueue[mmap.mmap] = SimpleQueue()  # of all queues it may be put to amid itself
        self._lock = threading.Lock()  # guards everything below
        self._idle: list[mmap.mmap] = []  # the last used is the last
        self.bytes = 0

    def keep(self, pieces: Iterable[pa.Buffer], size: int) -> Kept | None:
        """Return `pieces`, of `size` bytes together, as one; None, before any is taken, where there is no room, or they
        are small. Corrupt where they have more; and what `pieces` raises."""
        region = self._region(size)
        if region is None:
            return None
        kept = Kept(region, size)
        weakref.finalize(kept, _give_back, region, self._let_go).atexit = False
        with memoryview(region) as view:
            end = 0
            for piece in pieces:
                part = memoryview(piece).cast("B")
                start, end = end, end + len(part)
                if end > size:
                    raise Corrupt(f"more than the {size:,} bytes that were announced came", hint="try again")
                view[start:end] = part
        return kept

    def abandon(self) -> None:
        """In a forked child: begin anew. Another thread may have had the lock, and what the parent has is copied as
        soon as one of the two changes it."""
        self._lock, self._let_go, self._idle, self.bytes = threading.Lock(), SimpleQueue(), [], 0

    def _region(self, size: int) -> mmap.mmap | None:
        if size < _SMALLEST:
            return None
        wanted = -(-size // _STEP) * _STEP
        with self._lock:
            with contextlib.suppress(Empty):
                while True:
                    self._idle.append(self._let_go.get_nowait())
            for at in reversed(range(len(self._idle))):
                if len(self._idle[at]) == wanted:
                    return self._idle.pop(at)
            held = self.bytes - sum(map(len, self._idle))
            if held + wanted > self._bytes_max:
                return None
            while self.bytes + wanted > self._bytes_max:
                self.bytes -= len(self._idle.pop(0))
            try:
                region = mmap.mmap(-1, wanted, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError:  # a limit of the process
                return None
            self.bytes += wanted
            return region


def _give_back(region: mmap.mmap, queue: SimpleQueue[mmap.mmap]) -> None:
    try:
        if _FREE is not None:
            region.madvise(_FREE)
    except OSError:  # it stays as it is
        pass
    finally:
        queue.put(region)

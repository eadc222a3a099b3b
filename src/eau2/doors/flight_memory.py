"""Memory of this process for the messages that come, of up to 40 MB each: used again, where it would be given back.

As it comes, glibc maps memory for each large message and gives it back after, and what is fresh costs up to 3 s a
gigabyte in a virtual machine: more than all else that is done with it. Threads have arenas of 64 MB, which are given
back just so; hence one for all where no thread has allocated before. Importing pyarrow starts one that has: then glibc
keeps to one arena only with MALLOC_ARENA_MAX=1 in the environment, as `eau2 serve` has it. What is kept may be in
pieces, and is no bound: when nobody has asked anything for a while all of it is given back.
"""

from __future__ import annotations

import ctypes
import threading

IDLE_SECONDS = 5.0
_KEPT_BYTES_MAX = 512 << 20  # at the end of the heap
_MAPPED_BYTES_MIN = 1 << 30  # of one allocation, that is mapped by itself
_USUAL_KEPT, _USUAL_MAPPED = 64 << 20, 32 << 20  # what glibc comes to by itself once large blocks were freed
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # mallopt(3)

_libc = ctypes.CDLL(None)
_set = getattr(_libc, "mallopt", None)  # of glibc
_give_back = getattr(_libc, "malloc_trim", None)
_lock = threading.Lock()  # guards the line below
_users = 0


class ReusedMemory:
    """Keeps freed memory for what comes next, from its making until `close`. Of the whole process."""

    def __init__(self) -> None:
        self._given_back = 0.0
        self._closed = False
        _count(1)

    def look(self, now: float, used: float) -> None:
        """Give all back where it was `used` last, after that was done last, IDLE_SECONDS before `now`."""
        if used > self._given_back and now - used >= IDLE_SECONDS and _give_back is not None:
            _give_back(0)
            self._given_back = now

    def close(self) -> None:
        """Give it back. May be called again."""
        if not self._closed:
            self._closed = True
            _count(-1)


def _count(more: int) -> None:
    global _users
    with _lock:
        before, _users = _users, _users + more
        if _set is None or _give_back is None:
            return
        if not before:
            for option, value in (_MMAP_THRESHOLD, _MAPPED_BYTES_MIN), (_TRIM_THRESHOLD, _KEPT_BYTES_MAX):
                _set(option, value)
            _set(_ARENA_MAX, 1)
        elif not _users:
            for option, value in (_MMAP_THRESHOLD, _USUAL_MAPPED), (_TRIM_THRESHOLD, _USUAL_KEPT), (_ARENA_MAX, 0):
                _set(option, value)
            _give_back(0)

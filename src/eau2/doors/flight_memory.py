"""Memory of this process for the messages that come, of up to 40 MB each: used again, where it would be given back.

As it comes, glibc maps memory for each large message and gives it back after, and what is fresh costs up to 3 s a
gigabyte in a virtual machine: more than all else that is done with it. Threads have arenas of 64 MB, which are given
back just so; hence one for all.
"""

from __future__ import annotations

import ctypes

KEPT_BYTES_MAX = 512 << 20  # of what was freed last
_MAPPED_BYTES_MIN = 1 << 30  # of one allocation, that is mapped by itself
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # mallopt(3)


def reuse() -> bool:
    """Keep freed memory for what comes next, from now on; whether that can be had: only of glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    wanted = (_MMAP_THRESHOLD, _MAPPED_BYTES_MIN), (_TRIM_THRESHOLD, KEPT_BYTES_MAX), (_ARENA_MAX, 1)
    return mallopt is not None and min(mallopt(*each) for each in wanted) == 1

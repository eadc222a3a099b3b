"""The end of large files that a put has replaced: not while whoever put waits.

A file's name goes at once, its room when nobody has it open. To give that back takes 50 to 200 ms a gigabyte where the
file system tells the disk of it (mounted with `discard`), and all others who write would wait too. So a thread of the
process has the last descriptor, and closes it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from queue import Empty, SimpleQueue

_BYTES_MIN = 1 << 20  # smaller files end at once
_ROOM_BYTES_MIN = 512 << 20  # where less is free, besides what waits, who puts next may need the room
_WAITING_MAX = 64  # each is a descriptor
_LINGER_SECONDS = 0.1  # to start a thread costs more than to wait a little


def unlink(path: str, *, aside: bool = False) -> bool:
    """Remove the file; return whether it was there. `aside`: its room may come back some 0.1 s later, as long as the
    disk has enough."""
    file = _held(path) if aside else None
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    finally:
        if file is not None:
            _freeing.close(file)
    return True


def _held(path: str) -> int | None:
    """Return the file, open, if it is one to be closed aside."""
    with contextlib.suppress(OSError):  # no more descriptors; what else is wrong unlink will say
        size, waiting = os.stat(path).st_size, _freeing.waiting
        if size < _BYTES_MIN or waiting >= _WAITING_MAX:
            return None
        disk = os.statvfs(path)
        if disk.f_bavail * disk.f_frsize >= _ROOM_BYTES_MIN + size * (waiting + 1):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return None


class _Freeing:
    """Closes files, in a thread that ends when there are none. Takes no lock: signals' handlers come here too."""

    def __init__(self) -> None:
        self._files: SimpleQueue[int] = SimpleQueue()
        self._is_running = False

    @property
    def waiting(self) -> int:
        return self._files.qsize()

    def close(self, file: int) -> None:
        self._files.put(file)
        if self._is_running:  # its thread looks again after it has said otherwise
            return
        if sys.is_finalizing():  # to start a thread then would wait for ever
            _close_all(self._files)
            return
        try:
            threading.Thread(target=self._run, name="eau2-freeing", daemon=True).start()
        except RuntimeError:  # no more threads
            _close_all(self._files)

    def abandon(self) -> None:
        """In a forked child: the thread is the parent's. A file that it had taken goes with the child."""
        files, self._files = self._files, SimpleQueue()
        self._is_running = False
        _close_all(files)

    # -- private ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Another may run too, who was started at the same time."""
        while True:
            self._is_running = True
            with contextlib.suppress(Empty):
                while True:
                    os.close(self._files.get(timeout=_LINGER_SECONDS))
            self._is_running = False
            if self._files.empty():
                return


def _close_all(files: SimpleQueue[int]) -> None:
    with contextlib.suppress(Empty):
        while True:
            os.close(files.get_nowait())


_freeing = _Freeing()
os.register_at_fork(after_in_child=_freeing.abandon)

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
_ROOM_BYTES_MIN = 512 << 20  # where less is free, who puts next may need the room
_WAITING_MAX = 64  # each is a descriptor
_LINGER_SECONDS = 0.1  # to start a thread costs more than to wait a little
_LOCK_SECONDS = 1.0  # it is never held for long, but for who is interrupted and comes again


def unlink(path: str, *, aside: bool = False) -> bool:
    """Remove the file; return whether it was there. `aside`: its room may come back some 0.1 s later, as long as the
    disk has enough."""
    try:
        file = _held(path) if aside else None
        try:
            os.unlink(path)
        except BaseException:
            if file is not None:
                os.close(file)
            raise
        if file is not None:
            _freeing.close(file)
    except FileNotFoundError:
        return False
    return True


def _held(path: str) -> int | None:
    """Return the file, open, if it is one to be closed aside."""
    with contextlib.suppress(PermissionError):
        size = os.stat(path).st_size
        if size < _BYTES_MIN or not _freeing.has_place:
            return None
        disk = os.statvfs(path)
        if disk.f_bavail * disk.f_frsize >= _ROOM_BYTES_MIN:
            with contextlib.suppress(OSError):  # no more descriptors
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return None


class _Freeing:
    """Closes files, in a thread that ends when there are none."""

    def __init__(self) -> None:
        self._files: SimpleQueue[int] = SimpleQueue()
        self._lock = threading.Lock()  # guards the line below, and that the thread does not end as a file comes
        self._is_running = False

    @property
    def has_place(self) -> bool:
        return self._files.qsize() < _WAITING_MAX

    def close(self, file: int) -> None:
        if not self._handed_over(file):
            os.close(file)

    def abandon(self) -> None:
        """In a forked child: the thread is the parent's. A file that it had taken goes with the child."""
        files, self._files = self._files, SimpleQueue()
        self._lock, self._is_running = threading.Lock(), False
        with contextlib.suppress(Empty):
            while True:
                os.close(files.get_nowait())

    # -- private ------------------------------------------------------------------------------------------------------

    def _handed_over(self, file: int) -> bool:
        # To start a thread at the end of the interpreter would wait for ever.
        if sys.is_finalizing() or not self._lock.acquire(timeout=_LOCK_SECONDS):
            return False
        try:
            if not self._is_running:
                threading.Thread(target=self._run, name="eau2-freeing", daemon=True).start()
                self._is_running = True
            self._files.put(file)
            return True
        except RuntimeError:  # no more threads
            return False
        finally:
            self._lock.release()

    def _run(self) -> None:
        while True:
            try:
                os.close(self._files.get(timeout=_LINGER_SECONDS))
            except Empty:
                if self._ended():
                    return

    def _ended(self) -> bool:
        with self._lock:
            self._is_running = not self._files.empty()
            return not self._is_running


_freeing = _Freeing()
os.register_at_fork(after_in_child=_freeing.abandon)

"""The folder that queries spill to: one an engine, removed at close, and by the next process after a crash."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path

_PREFIX = "eau2-spill-"


class SpillFolder:
    """A folder of its own in `parent` (the system's for temporary files by default), made when first asked for.

    It holds a locked file: the kernel lets go of the lock when the process ends, however it ends, and then the folder
    is removed by whoever makes the next one.
    """

    def __init__(self, parent: str | None = None) -> None:
        self._parent = parent or tempfile.gettempdir()
        self._mutex = threading.Lock()  # guards both below
        self._path: str | None = None
        self._lock_fd = -1

    def path(self) -> str:
        """Return the folder's path, making it. OSError when that cannot be."""
        with self._mutex:
            if self._path is None:
                self._sweep()
                path = tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent)
                self._lock_fd = os.open(path + "/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
                self._path = path
            return self._path

    def remove(self) -> None:
        """Remove the folder and what is in it. May be called again."""
        with self._mutex:
            if self._path is not None:
                shutil.rmtree(self._path, ignore_errors=True)
                os.close(self._lock_fd)
                self._path, self._lock_fd = None, -1

    def _sweep(self) -> None:
        for folder in Path(self._parent).glob(_PREFIX + "*"):
            try:
                fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue  # just being made, just removed, or another user's
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # in use
            else:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)

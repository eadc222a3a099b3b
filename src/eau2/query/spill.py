"""The folder that queries spill to: one an engine, removed at close, and by the next process after a crash."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from eau2.errors import Eau2Error, failed_call
from eau2.store.holder import Holder, dead_holders

_PREFIX = "eau2-spill-"


class SpillFolder:
    """A folder of its own in `parent` (the system's for temporary files by default), made when first asked for.

    It goes with `remove`, with the last who holds this, and when the interpreter ends. What a process that was killed
    has left there is removed by whoever makes the next one. Thread-safe.
    """

    def __init__(self, parent: str | None = None) -> None:
        self._parent = Path(parent or tempfile.gettempdir())
        self._lock = threading.Lock()  # guards what is below
        self._path: str | None = None
        self._leave: weakref.finalize[[], SpillFolder] | None = None

    def path(self) -> str:
        """Return the folder's path, making it. StoreUnusable, ReadOnly and DiskFull when that cannot be."""
        with self._lock:
            if self._path is None:
                try:
                    holder = self._made()
                except Eau2Error:
                    raise
                except OSError as error:
                    raise failed_call(error, self._parent) from error
                self._path = str(holder.directory)
                self._leave = weakref.finalize(self, holder.close)
            return self._path

    def remove(self) -> None:
        """Remove the folder and what is in it. May be called again."""
        with self._lock:
            if self._leave is not None:
                self._leave()
                self._path = self._leave = None

    def _made(self) -> Holder:
        for left, lock in dead_holders(self._parent, prefix=_PREFIX):
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
        return Holder(self._parent, prefix=_PREFIX, mode=0o700)

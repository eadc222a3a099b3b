"""What has a node's commits on the medium, where that was asked for: `flush="power"`."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from eau2.errors import OutcomeUnknown

if TYPE_CHECKING:
    from pathlib import Path

    from eau2.store.generation import Generation

_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_begin_writing = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)  # of Linux
if _begin_writing is not None:
    _begin_writing.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class Flushing:
    """Flushes the log of the database at `path`, which a connection has open. Thread-safe.

    Not by SQLite, which flushes before it gives up the write lock: so each process would flush for itself alone.
    """

    def __init__(self, path: Path, generation: Generation) -> None:
        self._path, self._generation = path, generation
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the log's name
            self._log = os.open(f"{path}-wal", os.O_RDONLY)
        finally:
            os.close(directory)

    def begin(self) -> None:
        """Have the medium written to while something else is done: `flush` then takes half as long. 15 us."""
        if _begin_writing is not None:
            _begin_writing(self._log, 0, 0, _WRITE)  # what it cannot do, `flush` will say

    def flush(self, started: int) -> None:
        """Have commit `started`, and all before it, on the medium, before anybody is told or a file is removed.
        OutcomeUnknown."""
        if self._log < 0:
            raise OutcomeUnknown(f"{self._path}: written, but closed before the disk had it", hint="read it again")
        try:
            self._generation.flush(started, self._log)
        except OSError as error:
            what = f"{self._path}: written, but the disk did not say that it has it: {error}"
            raise OutcomeUnknown(what, hint="see whether the disk is healthy, and read it again") from error

    def close(self) -> None:
        log, self._log = self._log, -1
        if log >= 0:
            os.close(log)

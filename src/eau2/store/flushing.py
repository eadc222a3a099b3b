"""What has a node's commits on the medium, where that was asked for: `flush="power"`."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from eau2.errors import OutcomeUnknown

if TYPE_CHECKING:
    from pathlib import Path

    from eau2.store.generation import Generation

_AHEAD_BYTES = 32 << 10  # what a commit usually writes to the log is less
_STEP_BYTES_MAX = 1 << 20


class Flushing:
    """Flushes the log of the database at `path`, which a connection has open. Thread-safe.

    Not by SQLite, which flushes before it gives up the write lock: so each process would flush for itself alone.
    """

    def __init__(self, path: Path, generation: Generation) -> None:
        self._path, self._generation = path, generation
        self._size = 0  # of the log's file, as it was found
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the log's name
            self._log = os.open(f"{path}-wal", os.O_RDWR)
        finally:
            os.close(directory)

    def extend(self, used: int) -> None:
        """Have the log's file longer than the `used` bytes of it and what a commit may add, while it is short.

        A flush that must also write down that the file has grown takes twice as long. Under the write lock: then nobody
        writes behind the end of the file. SQLite takes no notice of zeros there.
        """
        if used + _AHEAD_BYTES > self._size:
            self._size = os.fstat(self._log).st_size
            if used + _AHEAD_BYTES > self._size:
                step = min(max(self._size, 2 * _AHEAD_BYTES), _STEP_BYTES_MAX)
                with contextlib.suppress(OSError):  # what has no room is said by the commit
                    self._size += os.pwrite(self._log, bytes(step), self._size)

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

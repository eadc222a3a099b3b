"""Room on the disk that is kept for what makes room: on a full one, not even a delete could be written down.

    <directory>/spare     SPARE_BYTES that are the file's, and hold nothing

Whoever meets a full disk while it deletes, undoes or opens gives the room up, tries again, and takes back what there
is then. Others may be quicker, as nobody can keep free room for himself alone: then it is DiskFull after all.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TypeVar

from eau2.errors import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Value = TypeVar("Value")

SPARE_BYTES = 2 << 20  # some hundred deletes, or the end of a large one; on a small disk less
_SMALLEST_PART = 64  # of the disk


class Spare:
    """The spare room of the node in `directory`. Shared by all processes that have it open."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "spare"
        self.is_short = False  # there was no room for all of it
        self.is_lent = False  # to who makes room now

    @property
    def bytes(self) -> int:
        """How much there is."""
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0

    def make(self) -> None:
        """Have it, as far as there is room, unless it is lent. 20 us when it is there."""
        if self.is_lent:  # what is written with it is not copied back yet, which may need some of it
            return
        with contextlib.suppress(OSError):
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                disk, have = os.fstatvfs(file), os.fstat(file).st_size
                wanted = min(SPARE_BYTES, disk.f_blocks * disk.f_frsize // _SMALLEST_PART)
                room = have + disk.f_bavail * disk.f_frsize
                self.is_short = room < wanted
                if have < wanted and have < room:
                    os.posix_fallocate(file, 0, min(wanted, room))
            finally:
                os.close(file)

    def lend(self, work: Callable[[], Value], shorten: Callable[[], None] | None = None) -> Value:
        """Return what `work` does, on a full disk tried again with the spare room, and with what `shorten` gives back
        of the log: before, as it may need some room for that, and after, as then there is room to take back."""
        try:
            return work()
        except DiskFull:
            if not self.bytes:
                raise
        self.is_lent = True
        try:
            with contextlib.suppress(OSError):
                os.truncate(self._path, 0)
            if shorten is not None:
                shorten()
            return work()
        finally:
            self.is_lent = False
            if shorten is not None:
                shorten()
            self.make()

"""Directories that end with their process: each has a locked file, and the kernel lets go of the lock with the process.

    <parent>/<prefix><process>-<random>/lock     held (flock) as long as the process that made the directory lives

However a process ends, the next to look finds its lock free and removes the directory. Neither may mistake one that is
just being made for one that was left: who makes it looks, once it has the lock, whether it is still there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from typing import TYPE_CHECKING

from eau2.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCK = "lock"
_TRIES_MAX = 100


class Holder:
    """A directory of this process's own under `parent`, made with it: who holds its lock is alive.

    Its name begins with `prefix`. OSError when it cannot be made.
    """

    def __init__(self, parent: Path, *, prefix: str = "", mode: int = 0o777) -> None:
        parent.mkdir(exist_ok=True)
        self._process = os.getpid()
        self.closed = False
        for _ in range(_TRIES_MAX):
            self.directory = parent / f"{prefix}{self._process}-{os.urandom(4).hex()}"
            self.directory.mkdir(mode)
            try:
                self._lock = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:  # another process has taken the empty directory for a dead one's
                continue
            with contextlib.suppress(BlockingIOError):  # another process looks whether we are alive
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._mine():
                    return
            os.close(self._lock)
        raise StoreUnusable(f"{parent}: no directory of our own after {_TRIES_MAX} tries")

    def _mine(self) -> bool:
        """Whether the lock file is still the one at its path: another process may have removed it before we held it."""
        try:
            return os.stat(self.directory / _LOCK).st_ino == os.fstat(self._lock).st_ino
        except FileNotFoundError:
            return False

    def close(self, *, keep: bool = False) -> None:
        """Give the lock up, and remove the directory unless `keep`: then the next to open looks for what was left.

        In a forked child the directory and the lock stay the parent's: the child gives up its copy of the descriptor.
        """
        self.closed = True  # first: who meets that the directory is gone can tell why
        if not keep and os.getpid() == self._process:
            shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)


def others_live(own: Path) -> bool:
    """Whether another process holds a directory beside `own`, that of this process."""
    for directory in own.parent.iterdir():
        if directory == own:
            continue
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
    return False


def dead_holders(parent: Path, *, prefix: str = "", own: Path | None = None) -> Iterator[tuple[Path, int]]:
    """Yield each directory whose process has ended, with its lock, which the caller holds now and closes."""
    for directory in sorted(parent.iterdir()):
        if directory == own or not directory.name.startswith(prefix):
            continue
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                directory.rmdir()  # empty: its process ended, or will try again under another name
            continue
        except OSError:  # another user's, or no directory: not ours to sweep
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        yield directory, lock

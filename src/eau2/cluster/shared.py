"""What the processes that have one directory open share: locks, who the members are, and counters."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import struct
import threading
import time
import weakref
from typing import TYPE_CHECKING, TypeVar

from eau2.cluster.epochs import Epochs, what_changed
from eau2.cluster.view import View
from eau2.errors import Corrupt, StoreBusy, failed_call
from eau2.store.interrupts import heed
from eau2.store.nodes import closed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

BUSY_SECONDS_MAX = 30.0  # as for the lock of one node
_LOOK_SECONDS = 0.2  # between looks whether to go on waiting
_LENGTH = struct.Struct("<Q")
_COUNTERS_BYTES = 16
_FILE, _HISTORY = "members.json", "history"  # an older eau2 does not look at the second, and leaves it out
_NAME = "the directory"  # says what its nodes are

Found = TypeVar("Found")


class SharedLock:
    """A `Lock` for the threads of all processes, with a note that outlives the one who wrote it."""

    def __init__(self, path: Path, ended: threading.Event) -> None:
        self._path = path
        self._ended = ended  # the store is closed: nobody waits any more
        self._threads = threading.Lock()  # held by who holds the file's lock, or tries to: guards what is below
        self._noted = False
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._file = file
        self._forgotten = weakref.finalize(self, os.close, file)
        self._forgotten.atexit = False
        _shared_locks.add(self)

    async def acquire(self) -> Sequence[str]:
        deadline = time.monotonic() + BUSY_SECONDS_MAX
        while not self._threads.acquire(timeout=_LOOK_SECONDS):
            self._check(deadline)
        try:
            pause = 0.0002
            while not self._try():
                self._check(deadline)
                time.sleep(pause)
                pause = min(2 * pause, 0.002)
            return self.left_over()
        except BaseException:
            self.release()
            raise

    def try_now(self) -> bool:
        """Take the lock if nobody has it; return whether it was taken."""
        if not self._threads.acquire(blocking=False):
            return False
        taken = False
        try:
            taken = self._try()
        finally:
            if not taken:
                self._let_go()
        return taken

    def note(self, keys: Sequence[str]) -> None:
        if keys:
            data = "\n".join(keys).encode()
            self._write(_LENGTH.pack(len(data)) + data)
        elif self._noted:
            self._write(_LENGTH.pack(0))
        self._noted = bool(keys)

    def _write(self, data: bytes) -> None:
        try:
            if os.pwrite(self._file, data, 0) < len(data):
                os.pwrite(self._file, _LENGTH.pack(0), 0)
                raise OSError(errno.ENOSPC, "a short write")
        except OSError as error:
            raise failed_call(error, self._path) from error

    def left_over(self) -> Sequence[str]:
        """Return what is noted. Without the lock it may be what a writer at work has noted."""
        head = os.pread(self._file, _LENGTH.size, 0)
        size = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        if not size:
            return ()
        self._noted = True
        return os.pread(self._file, size, _LENGTH.size).decode().split("\n")

    def release(self) -> None:
        try:
            if self._forgotten.alive:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            self._let_go()

    def close(self) -> None:
        """Close the file, once whoever holds the lock has let go of it: its number may be another's then."""
        if self._threads.acquire(blocking=False):
            self._forgotten()
            self._threads.release()

    def abandon(self) -> None:
        """In a forked child: the lock stays the parent's, and must not outlive it here."""
        self._forgotten()
        self._threads = threading.Lock()  # the parent's may have been held at the fork

    def _let_go(self) -> None:
        if self._ended.is_set():
            self._forgotten()
        self._threads.release()

    def _try(self) -> bool:
        if self._ended.is_set() or not self._forgotten.alive:
            raise closed()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _check(self, deadline: float) -> None:
        heed()
        if self._ended.is_set():
            raise closed()
        if time.monotonic() >= deadline:
            raise StoreBusy(
                f"{self._path}: others have been writing for over {BUSY_SECONDS_MAX:g} seconds",
                hint="end the process that writes, or try again",
            )


_shared_locks: weakref.WeakSet[SharedLock] = weakref.WeakSet()


def _abandon_all() -> None:
    for lock in list(_shared_locks):
        lock.abandon()


os.register_at_fork(after_in_child=_abandon_all)


class ThreadLock:
    """A `Lock` for the threads of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def acquire(self) -> Sequence[str]:
        deadline = time.monotonic() + BUSY_SECONDS_MAX
        while not self._lock.acquire(timeout=_LOOK_SECONDS):
            heed()
            if time.monotonic() >= deadline:
                raise StoreBusy(f"other threads have held a lock for over {BUSY_SECONDS_MAX:g} seconds")
        return ()

    def note(self, keys: Sequence[str]) -> None: ...

    def release(self) -> None:
        self._lock.release()


class Counters:
    """A few numbers that every process maps: each is loaded and stored whole. 0.1 us."""

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if os.fstat(file).st_size < _COUNTERS_BYTES:
                os.ftruncate(file, _COUNTERS_BYTES)
            self._map = mmap.mmap(file, _COUNTERS_BYTES)
        finally:
            os.close(file)
        self.values = memoryview(self._map).cast("Q")

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            self.values.release()
            self._map.close()


class Membership:
    """The view as a file, <path>/members.json, and its epoch as a counter that every process looks at."""

    def __init__(self, path: Path, ended: threading.Event) -> None:
        self._path = path / _FILE
        self._counters = Counters(path / "epoch")  # of the view; of the last one whose surplus copies are dropped
        self._lock = SharedLock(path / "members.lock", ended)

    def epoch(self) -> int:
        """Return the epoch there is now. 0.1 us."""
        return int(self._counters.values[0])

    def age(self) -> float:
        """Return for how many seconds there has been this view."""
        try:
            return time.time() - self._path.stat().st_mtime
        except OSError as error:
            raise failed_call(error, self._path) from error

    @property
    def tidy(self) -> bool:
        """Whether nothing is anywhere that belongs elsewhere, as far as that was looked at."""
        return bool(self._counters.values[1] >= self._counters.values[0])

    def tidied(self, epoch: int) -> None:
        self._counters.values[1] = epoch

    def read(self) -> View:
        return self._read(View.decode)

    def epochs(self) -> Epochs:
        """Return why the epochs came. 1 ms where there are many."""
        found = self._read(_epochs_in)
        if not found.changes:
            found.note(self.read(), time.time() - self.age(), "an eau2 that kept no history has made it", by=_NAME)
        return found

    def _read(self, decode: Callable[[bytes], Found]) -> Found:
        try:
            return decode(self._path.read_bytes())
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{self._path} is damaged: {error}", hint="restore the file from a copy") from error
        except OSError as error:
            raise failed_call(error, self._path) from error

    def _noted(self, found: View | None, view: View, seen: str) -> bytes:
        """Return what the file is to say: the view, and why it came."""
        epochs = Epochs() if found is None else self.epochs()
        epochs.note(view, time.time(), what_changed(found, view, seen), by=_NAME)
        return json.dumps(json.loads(view.encode()) | {_HISTORY: epochs.document()}).encode()

    async def change(self, make: Callable[[View | None], View], seen: str = "") -> View:
        """Replace the view by `make` of what it is (None: there is none), whole and at once. `seen`: why."""
        await self._lock.acquire()
        try:
            found = self.read() if self._path.exists() else None
            view = make(found)
            if found is None or view.epoch > found.epoch:
                new = self._path.with_suffix(".new")
                try:
                    with new.open("wb") as file:
                        file.write(self._noted(found, view, seen))
                        file.flush()
                        os.fsync(file.fileno())
                    new.replace(self._path)
                except OSError as error:
                    with contextlib.suppress(OSError):
                        new.unlink()
                    raise failed_call(error, new) from error
            self._counters.values[0] = view.epoch
            return view
        finally:
            self._lock.release()

    def close(self) -> None:
        self._lock.close()
        self._counters.close()


def _epochs_in(data: bytes) -> Epochs:
    found = json.loads(data)
    return Epochs.of(found[_HISTORY]) if _HISTORY in found else Epochs()

"""Files that are pushed: as the caller has them, and as a node writes them while it passes them on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from eau2.errors import InvalidOption, StoreUnusable
from eau2.fleet.run import NODE, PART_BYTES, File, Push

if TYPE_CHECKING:
    from collections.abc import Sequence

_WAIT_SECONDS = 1.0  # a bound on one wait; the loop around it waits on


class Parts(Protocol):
    """Who has the parts of files. Thread-safe."""

    def part(self, number: int) -> bytes | None:
        """Return a part; wait for it, if need be. None when it will never be there."""


class Source:
    """The files at `paths`, to be pushed to `directory` of every node. Open until `close`; a context manager.

    Reads each of them once, for its hash. InvalidOption when one is no file, or changed meanwhile; StoreUnusable.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], directory: str) -> None:
        self._files: list[int] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            found = [self._opened(Path(path)) for path in paths]
            self.push = Push(tuple(found), directory)
            undo.pop_all()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self, path: Path) -> File:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe has nobody to wait for
            self._files.append(file)
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidOption(f"{path} is no file", hint="push files, one by one; `tar` makes one of a folder")
            return File(path.name, status.st_size, stat.S_IMODE(status.st_mode), _sha256(file))
        except OSError as error:
            raise _unreadable(path, error) from error

    def part(self, number: int) -> bytes | None:
        """As `Parts.part`."""
        index, start, size = self.push.part(number)
        return os.pread(self._files[index], size, start)

    def close(self) -> None:
        """Idempotent."""
        while self._files:
            os.close(self._files.pop())


class Receiving:
    """What `push` becomes on node `name`: hidden files beside where they are to be, until all is there. Thread-safe.

    What has come can be read again by those below, also after it is in its place. OSError when it cannot be written.
    """

    def __init__(self, push: Push, name: str, run_id: str) -> None:
        self._push = push
        self._folder = Path(push.directory.replace(NODE, name))
        self._changed = threading.Condition()  # guards everything below
        self._wanted = set(range(push.parts))
        self._over = False
        self._failed: OSError | None = None
        self._files: list[int] = []
        self._new: list[Path] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in push.files:
                new = self._folder / f".{run_id}-{name}-{len(self._new)}"
                self._files.append(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                self._new.append(new)
                os.truncate(self._files[-1], file.size)
            undo.pop_all()

    def take(self, number: int, data: bytes) -> None:
        """Write a part. It may come twice, and in any order; what fails is raised by `wait`."""
        index, start, size = self._push.part(number)
        with self._changed:
            if self._over or number not in self._wanted:
                return
            try:
                if len(data) != size or os.pwrite(self._files[index], data, start) != size:
                    raise OSError(28, os.strerror(28), str(self._folder))
                self._wanted.discard(number)
            except OSError as error:
                self._failed = error
            self._changed.notify_all()

    def part(self, number: int) -> bytes | None:
        """As `Parts.part`."""
        index, start, size = self._push.part(number)
        with self._changed:
            while number in self._wanted and not self._over and self._failed is None:
                self._changed.wait(_WAIT_SECONDS)
            if self._over or number in self._wanted:
                return None
            return os.pread(self._files[index], size, start)

    def wait(self, seconds: float) -> bool:
        """Return whether all parts are there, within `seconds`, or nobody waits any more. OSError."""
        with self._changed:
            if self._wanted and not self._over and self._failed is None:
                self._changed.wait(seconds)
            if self._failed is not None:
                raise self._failed
            return not self._wanted or self._over

    def finish(self) -> None:
        """Put the files in their places, each whole or not at all. OSError; Corrupt contents are an OSError too."""
        with self._changed:
            for file, number in zip(self._push.files, self._files, strict=True):
                if _sha256(number) != file.sha256:
                    raise OSError(5, "it changed on the way, or while it was read", str(self._folder / file.name))
                os.fchmod(number, file.mode)
                os.fsync(number)
            for file, new in zip(self._push.files, self._new, strict=True):
                new.replace(self._folder / file.name)
            self._new.clear()

    def give_up(self) -> None:
        """Have nobody wait for parts any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def close(self) -> None:
        """Remove what is not in its place, and have nobody wait. Idempotent."""
        with self._changed:
            self._over = True
            while self._files:
                os.close(self._files.pop())
            while self._new:
                self._new.pop().unlink(missing_ok=True)
            self._changed.notify_all()


def _sha256(file: int) -> str:
    digest, start = hashlib.sha256(), 0
    while data := os.pread(file, PART_BYTES, start):
        digest.update(data)
        start += len(data)
    return digest.hexdigest()


def read_script(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the content of a script, and one byte over `limit` of a longer one. StoreUnusable."""
    try:
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike[str], error: OSError) -> StoreUnusable:
    return StoreUnusable(f"{os.fspath(path)} cannot be read: {error.strerror or error}")

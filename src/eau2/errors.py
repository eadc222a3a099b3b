"""Every error eau2 raises on purpose, drawn as one tree.

    Eau2Error
    |-- what the caller can mend
    |   |-- KeyMissing (KeyError)          no value under that key
    |   |-- KeyExists                      create() met a value
    |   |-- VersionConflict                if_version= is not the version there
    |   |-- InvalidKey (ValueError, TypeError)      not a key name
    |   |-- InvalidValue (ValueError, TypeError)    not bytes and not a table
    |   |-- ValueTooLarge (ValueError)     over a stated limit
    |   |-- WrongKind (TypeError)          bytes where a frame was asked for, or the reverse
    |   |-- InvalidOption (ValueError)     an option outside its range
    |   |-- QueryError (ValueError)        the engine refused the query; UnknownTable, UnknownColumn say why
    |   |-- LoadError (ValueError)         a file that cannot be read as asked: file, line, column
    |   `-- StoreClosed                    used after close(), or in a forked child
    |-- what met a limit of time or space
    |   |-- WaitTimeout (TimeoutError)     the value did not come in time
    |   |-- StoreBusy (TimeoutError)       another process held the write lock for too long
    |   |-- OutcomeUnknown (TimeoutError)  no node said in time whether the write was done
    |   |-- QueryOutOfMemory (MemoryError) the query needs more than memory_bytes, even spilling
    |   `-- DiskFull (OSError)             the write failed and changed nothing
    |-- what the operator can mend
    |   |-- NotAStore (ValueError)         the directory holds something else
    |   |-- FormatTooNew (ValueError)      written by a later eau2
    |   |-- NodeUnavailable (ConnectionError)   the nodes that have it are down, or cut off
    |   |-- ClusterUnavailable (ConnectionError)    no cluster answers at the address, or it refuses us
    |   |-- VersionsDiffer (ValueError)    of Python, Ray or eau2, here and on the cluster
    |   |-- PartMissing (ImportError)      an optional part of eau2 is not installed
    |   |-- NotAllowed (PermissionError)   the cluster was started without what is asked for
    |   |-- StoreUnusable (OSError)        the directory cannot be opened or read; ReadOnly: not written
    |   |   `-- ReadOnly (PermissionError)
    |   `-- Corrupt                        what is stored is not what was written
    `-- what the user's own function did
        |-- FunctionFailed (RuntimeError)  it raised, or ended its process; names the chunk
        `-- ProgramFailed (RuntimeError)   a program raised on one node, and was ended on all; names the node

Each also *is* the builtin that a Python reader expects. `str(error)` is one sentence that names the key, file
and number; `error.hint` says what to do next, and may be empty.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Eau2Error(Exception):
    """The root. `hint` is one sentence on what to do next, or ''."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:  # KeyError would print the repr, OSError its errno
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:  # errors travel between nodes, whatever their __init__ asks for
        return _made_again, (type(self), self.args, dict(self.__dict__))


def _made_again(kind: type[Eau2Error], args: tuple[object, ...], attributes: dict[str, object]) -> Eau2Error:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class KeyMissing(Eau2Error, KeyError):
    """No value under the key; the message names keys that are near.

    They are looked up when the message is first read: code that only catches the error does not pay for it.
    """

    def __init__(self, message: str, *, hint: str = "", near: Callable[[], Sequence[str]] | None = None) -> None:
        super().__init__(message, hint=hint)
        self._near = near

    def __str__(self) -> str:
        near, self._near = self._near, None
        if near is not None:
            try:
                names = near()
            except Eau2Error:  # the store was closed meanwhile: the message goes without
                names = ()
            if names:
                self.hint = "did you mean " + " or ".join(repr(name) for name in names) + "?"
        return super().__str__()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self),)


class KeyExists(Eau2Error):
    """`create` met a value; nothing was changed."""


class VersionConflict(Eau2Error):
    """The version is not `if_version`; nothing was changed. `found` is the version there."""

    def __init__(self, message: str, *, found: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.found = found


class InvalidKey(Eau2Error, ValueError, TypeError):
    """Not a key: no text, empty, over 512 bytes of UTF-8, or with a control character."""


class InvalidValue(Eau2Error, ValueError, TypeError):
    """Neither bytes nor anything that is a table."""


class ValueTooLarge(Eau2Error, ValueError):
    """Over a limit that the message states."""


class WrongKind(Eau2Error, TypeError):
    """The key holds a frame where bytes were asked for, bytes where a frame was, or no file."""


class InvalidOption(Eau2Error, ValueError):
    """An option outside its range."""


class QueryError(Eau2Error, ValueError):
    """The engine refused the query or failed in it."""


class UnknownTable(QueryError):
    """A name in the query is no frame of the store."""


class UnknownColumn(QueryError):
    """A name in the query is no column of its tables."""


class LoadError(Eau2Error, ValueError):
    """A file cannot be read as asked. `file`, `line` (from 1, or 0) and `column` (from 1, or 0) say where."""

    def __init__(self, message: str, *, file: str = "", line: int = 0, column: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.file, self.line, self.column = file, line, column


class StoreClosed(Eau2Error, RuntimeError):
    """The store was closed, or was opened before a fork."""


class WaitTimeout(Eau2Error, TimeoutError):
    """The value did not come in time."""


class StoreBusy(Eau2Error, TimeoutError):
    """Another process held the write lock for too long; nothing was changed."""


class OutcomeUnknown(Eau2Error, TimeoutError):
    """No node said in time whether the write was done: it may have been, or may yet be, once and whole."""


class NodeUnavailable(Eau2Error, ConnectionError):
    """The nodes that have what is asked for are down or cut off. A write that raises this changed nothing."""


class ClusterUnavailable(Eau2Error, ConnectionError):
    """No cluster answers at the address in time, it refuses us, or it cannot be started or ended."""


class VersionsDiffer(Eau2Error, ValueError):
    """The versions of Python, Ray or eau2 are not those of the cluster: nothing was sent to it."""


class PartMissing(Eau2Error, ImportError):
    """An optional part of eau2 is not installed: the hint says how to install it."""


class NotAllowed(Eau2Error, PermissionError):
    """The cluster was started without what is asked for: nothing was done."""


class QueryOutOfMemory(Eau2Error, MemoryError):
    """The query needs more than `memory_bytes`, even when spilling to disk."""


class DiskFull(Eau2Error, OSError):
    """The disk or quota is full: the write changed nothing, and reads go on."""


class NotAStore(Eau2Error, ValueError):
    """The directory is not empty and holds no store."""


class FormatTooNew(Eau2Error, ValueError):
    """The directory was written by a later eau2."""


class StoreUnusable(Eau2Error, OSError):
    """The directory cannot be opened or read."""


class ReadOnly(StoreUnusable, PermissionError):
    """The directory cannot be written."""


class Corrupt(Eau2Error):
    """What is stored is not what was written: the message names key, chunk and file as they apply."""


class FunctionFailed(Eau2Error, RuntimeError):
    """The user's function raised (it is the `__cause__`) or ended its process. `chunk` is the chunk's index."""

    def __init__(self, message: str, *, chunk: int = -1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.chunk = chunk


class ProgramFailed(Eau2Error, RuntimeError):
    """A program failed on `node` (why is the `__cause__`) and was ended on all others. `line` is of its file, or 0."""

    def __init__(self, message: str, *, node: str = "", line: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.node, self.line = node, line


def is_disk_full(error: OSError) -> bool:
    """Whether `error`, of the system, says that the disk or the user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def failed_call(error: OSError, path: str | os.PathLike[str]) -> Eau2Error:
    """Return the error of eau2 that a failed system call on the file `path` stands for."""
    if is_disk_full(error):
        return DiskFull(f"{os.fspath(path)}: the disk or quota is full, nothing was changed", hint="free some space")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnly(f"{os.fspath(path)} cannot be written: {error.strerror}")
    return StoreUnusable(f"{os.fspath(path)} cannot be read or written: {error.strerror}")

"""The directory of a node: whether it can be written, and what is made in it when it is new."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from eau2.errors import Corrupt, Eau2Error, ReadOnly, failed_call
from eau2.store import database, generation
from eau2.store.chunks import flush_file
from eau2.store.holder import Holder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def hold(directory: Path) -> Holder | None:
    """Return this process's place under staging/, or None where nothing can be written. DiskFull, StoreUnusable."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "chunks").mkdir(exist_ok=True)
        return Holder(directory / "staging")
    except OSError as error:
        if isinstance(error, Eau2Error):
            raise
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and (directory / "entries.db").exists():
            return None
        raise failed_call(error, directory) from error


def make(directory: Path, holder: Holder | None) -> None:
    """Make what is not there yet, each file whole at once. Two processes may do this at the same time."""
    entries, counters = directory / "entries.db", directory / "generation"
    counted = counters.exists()  # asked first, as it is made last: another process may make both in between
    if not entries.exists():
        if counted:
            raise Corrupt(f"{entries} is missing", hint="restore the file from a copy")
        _make_file(entries, database.create, holder)
    if not counters.exists():
        _make_file(counters, generation.create, holder)


def _make_file(path: Path, create: Callable[[Path], None], holder: Holder | None) -> None:
    if holder is None:
        raise ReadOnly(f"{path} is missing, and {path.parent} cannot be written")
    new = holder.directory / path.name
    try:
        create(new)
        flush_file(new)  # whole also after a loss of power: what follows may rely on it
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(new, path)
        new.unlink()
    except database.DAMAGE as error:
        raise database.meaning(error, path) from error
    except OSError as error:
        raise failed_call(error, path) from error

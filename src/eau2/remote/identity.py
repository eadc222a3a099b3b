"""Whose a data directory is: the name of its node, and the store that it is a part of, written in it.

<directory>/eau2-node.json    {"format": 1, "name": ..., "store": ...}
<directory>/owner.lock        held (flock) by the one process that has the node, whose id is written in it

So a machine that returns gets its chunks back, whatever it is called by then, and a process that was given up for dead
and is not keeps the next one out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from eau2.errors import Corrupt, FormatTooNew, NotAStore, StoreBusy, StoreUnusable, failed_call

FORMAT = 1
_FILE = "eau2-node.json"
_LOCK = "owner.lock"
_LOOK_SECONDS = 0.05
_SHARED = Path("/dev/shm")
_OURS = {_FILE, f"{_FILE}.new", _LOCK, "lost+found"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is. `store`: the id of the store that it is a part of; "" until it is part of one."""

    name: str
    store: str = ""


def read_identity(directory: str | os.PathLike[str]) -> Identity | None:
    """Return whose `directory` is, or None when it is nobody's yet. Corrupt, FormatTooNew, NotAStore (it holds
    something else), StoreUnusable."""
    path = Path(directory) / _FILE
    try:
        known = json.loads(path.read_bytes())
        format_, name, store = known["format"], known["name"], known["store"]
    except FileNotFoundError:
        _refuse_strangers(Path(directory))
        return None
    except OSError as error:
        raise failed_call(error, path) from error
    except (ValueError, TypeError, KeyError):
        raise Corrupt(f"{path} is damaged", hint="restore the file from a copy") from None
    if not (isinstance(format_, int) and isinstance(name, str) and isinstance(store, str) and name):
        raise Corrupt(f"{path} is damaged", hint="restore the file from a copy")
    if format_ > FORMAT:
        raise FormatTooNew(f"{directory} has format {format_}, this eau2 reads up to {FORMAT}", hint="use a newer eau2")
    return Identity(name, store)


def _refuse_strangers(directory: Path) -> None:
    try:
        found = sorted(set(os.listdir(directory)) - _OURS)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise NotAStore(f"{directory} is a file", hint="name a directory for the data") from None
    except OSError as error:
        raise failed_call(error, directory) from error
    if found:
        raise NotAStore(
            f"{directory} is not empty and holds no node of a cluster: it has {found[0]!r}",
            hint="name another directory",
        )


def remove_semaphores(process: int) -> None:
    """Remove what `process`, which has ended, has left of its worker processes in shared memory."""
    for left in _SHARED.glob(f"sem.loky-{process}-*"):
        with contextlib.suppress(OSError):  # another's
            left.unlink()


class OwnedDirectory:
    """The data directory of the node `name`, made when it is not there, owned by this process until `close`.

    Waits `patience_seconds` for the process that had it to end. StoreBusy when it does not; StoreUnusable when the
    directory is another node's; and what `read_identity` raises.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, *, patience_seconds: float = 2.0) -> None:
        self.path = Path(os.path.abspath(directory))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            raise NotAStore(f"{self.path} is a file", hint="name a directory for the data") from None
        except OSError as error:
            raise failed_call(error, self.path) from error
        try:
            self._take(patience_seconds)
            self._sweep()
            known = read_identity(self.path)
            if known is not None and known.name != name:
                raise StoreUnusable(
                    f"{self.path} is the data of {known.name!r}, not of {name!r}", hint="start it under its own name"
                )
            self.identity = known or Identity(name)
            if known is None:
                self._write()
        except BaseException:
            self.close()
            raise

    def _take(self, patience_seconds: float) -> None:
        deadline = time.monotonic() + patience_seconds
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() >= deadline:
                raise StoreBusy(f"{self.path} is in use by another process", hint="end that one first")
            time.sleep(_LOOK_SECONDS)

    def _sweep(self) -> None:
        """Remove what the process that had it last has left in shared memory, if it was killed: the semaphores of its
        worker processes. Their own process that would remove them is killed by Ray as well, unless it is quick."""
        last = os.pread(self._lock, 20, 0)
        if last.isdigit() and not Path(f"/proc/{int(last)}").exists():
            remove_semaphores(int(last))
        with contextlib.suppress(OSError):  # the disk is full: that is for who writes
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, b"%d" % os.getpid(), 0)

    def belong_to(self, store: str) -> None:
        """Be part of `store` from now on. StoreUnusable when it is of another, which is named."""
        if self.identity.store not in ("", store):
            raise of_another_store(self.identity, store, self.path)
        if not self.identity.store:
            self.identity = Identity(self.identity.name, store)
            self._write()

    def _write(self) -> None:
        new = self.path / f"{_FILE}.new"
        known = {"format": FORMAT, "name": self.identity.name, "store": self.identity.store}
        try:
            with new.open("w") as file:
                file.write(json.dumps(known) + "\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path / _FILE)
        except OSError as error:
            raise failed_call(error, new) from error

    def close(self) -> None:
        """Let the next process have it. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def of_another_store(identity: Identity, store: str, directory: object = "its data directory") -> StoreUnusable:
    """Return the error for a directory that is part of another store than `store`."""
    return StoreUnusable(
        f"{directory} ({identity.name}) is of the store {identity.store}, and this is {store}",
        hint="start it with an empty directory, or with the cluster that it is of",
    )

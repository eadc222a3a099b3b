"""Reading a node's entries: one connection, a read transaction that is kept while nobody writes, and what it found."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import apsw

from eau2.store.database import DAMAGE, SMALL_MAX, WHOLE, connect, lost, meaning
from eau2.store.nodes import Entry, amid_another, closed
from eau2.values.key import FIRST, prefix_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from eau2.errors import Eau2Error
    from eau2.store.database import Patience, Row
    from eau2.store.generation import Generation

_GET = "select version, kind, payload from entry where key = ?"
_GET_LARGE = "select payload from large where id = ?"
# In the order asked for; one statement for all costs half as much a key as one statement for each.
_GET_MANY = f"""select entry.version, entry.kind, {WHOLE}
               from carray(?) as asked left join entry on entry.key = asked.value"""
_CHUNK = "select size, refs, stamp from chunk where id = ?"
_IDLE_SECONDS = 0.025  # a kept transaction that nobody used for one to two of these is ended: the log can be reset
_MOMENT_SECONDS = 0.001
_REMEMBERED_BYTES = 48 << 20  # of the process, about; SQLite has another 32 MB of pages
_ENTRY_BYTES = 300  # of an entry that is remembered, besides its key and payload
_NONE = -1
new_entry = tuple.__new__  # what Entry() calls in the end; 0.2 us less a get


class Reader:
    """Reads entries and chunk rows. Thread-safe. Readers never wait for writers.

    `generation.py` says why the kept transaction never gives an old answer.
    """

    def __init__(self, path: Path, generation: Generation, patience: Patience, *, read_only: bool) -> None:
        self.path = path
        self._generation = generation
        self._counters = generation.counters
        self._reconnect: Callable[[], apsw.Connection] = lambda: connect(path, read_only=read_only, patience=patience)
        # Guards everything below, and the connection. A signal's handler may close amid a read of its own thread.
        self._lock = threading.RLock()
        self._connection = self._reconnect()
        self._run: Callable[..., Any] = self._connection.cursor().execute
        self._immutable = read_only  # such a connection may not see later writes: it is opened again after any
        self._opened_at = self._counters[0]
        self._kept = _NONE  # `started` for which the open read transaction is trusted, or none is open
        self._quiet = _NONE  # `started` at the last look, when no commit was going on
        self._used = False  # since the idle thread looked last
        self._remembered: dict[str, Entry] = {}  # as they were read from kept transactions, while `started` was:
        self._remembered_at = _NONE
        self._remembered_bytes = 0
        self._idle: threading.Thread | None = None
        self._idling = threading.Lock()  # held until all is closed; no Event: a signal's handler may close amid a close
        self._idling.acquire()
        self._closed = False
        self.gets = 0

    def get(self, key: str) -> Entry | None:
        """Return what is under `key`."""
        try:
            if (error := amid_another(self._lock)) is not None:
                raise error
            with self._lock:
                self.gets += 1
                started = self._counters[0]
                if started == self._remembered_at:
                    entry = self._remembered.get(key)
                    if entry is not None:
                        return entry
                self._used = True
                if started != self._kept:
                    self._renew(started)
                row: Row | None = self._run(_GET, (key,)).get
                if row is None:
                    return None
                if type(row[2]) is int:
                    row = self._with_large(key, row)
                    return None if row is None else new_entry(Entry, row)
                entry = new_entry(Entry, row)
                if self._kept == started:
                    self._remember(started, {key: entry})
                return entry
        except DAMAGE as error:
            self._begin_anew()
            raise self._meaning(error, key) from error

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return what is under those of `keys` that have a value, in their order, all of one moment."""
        if not keys:
            return {}
        try:
            with self._alone():
                self.gets += len(keys)
                started = self._counters[0]
                known = self._remembered if started == self._remembered_at else {}
                if known:
                    try:
                        return dict(zip(keys, map(known.__getitem__, keys), strict=True))
                    except KeyError:
                        pass  # not all are
                asked = [key for key in keys if key not in known]
                read = self._read_many(asked)
                if known and started != self._counters[0]:  # a write came between: what is known is of another moment
                    return self._read_many(keys)
                if self._kept == started:
                    self._remember(started, {key: entry for key, entry in read.items() if len(entry[2]) <= SMALL_MAX})
        except DAMAGE as error:
            for key in keys:
                self.get(key)  # one of them says which it is
            raise self._meaning(error) from error
        if len(asked) == len(keys):
            return read
        return {key: entry for key in keys if (entry := known.get(key) or read.get(key)) is not None}

    def keys(self, prefix: str, limit: int | None) -> list[str]:
        """Return the keys that start with `prefix`, sorted, at most the first `limit`."""
        end = prefix_end(prefix)
        first = max(prefix, FIRST)
        where = "key >= ?1" if end is None else "key >= ?1 and key < ?3"
        query = f"select key from entry where {where} order by key limit ?2"
        bindings = (first, -1 if limit is None else limit) + (() if end is None else (end,))
        return [row[0] for row in self.rows(query, bindings)]

    def chunk_rows(self, chunk_ids: Sequence[str]) -> list[tuple[int, int, str] | None]:
        """Return (size, references, stamp) of each chunk, None where there is no row: all of one moment."""
        with self._alone():
            run = self._begin()
            try:
                return [run(_CHUNK, (chunk_id,)).get for chunk_id in chunk_ids]
            except DAMAGE as error:
                self._end()
                raise self._meaning(error) from error
            finally:
                self._end_unless_kept()

    def is_free(self) -> bool:
        """Whether no thread reads now: a listing may take seconds."""
        if not self._lock.acquire(timeout=_MOMENT_SECONDS):  # longer than the idle thread looks
            return False
        self._lock.release()
        return True

    def rows(self, query: str, bindings: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query of this package."""
        with self._alone():
            run = self._begin()
            try:
                found: list[Any] = run(query, bindings).fetchall()
                return found
            except DAMAGE as error:
                self._end()
                raise self._meaning(error) from error
            finally:
                self._end_unless_kept()

    def close(self) -> None:
        """End the transaction, the connection and the idle thread. A last connection takes the log into the file."""
        amid = amid_another(self._lock) is not None
        with self._lock:
            if self._closed:
                return
            self._end()
            self._closed = True
            self._run = _refuse_closed
            self._counters = _NO_COUNTERS
            self._remembered, self._remembered_at = {}, _NONE
            self._connection.close()
            self._idling.release()
            idle = self._idle
        if idle is not None and not amid:  # else it waits for the lock, and sees then that it is over
            idle.join(1.0)

    def abandon(self) -> list[object]:
        """In a forked child: forget all without touching it. Return what must never be freed here."""
        left: list[object] = [self._connection, self._run]
        self._lock = threading.RLock()  # the parent's may have been held at the fork
        self._run = _refuse_forked
        self._kept, self._counters, self._closed = _NONE, _NO_COUNTERS, True
        self._remembered, self._remembered_at = {}, _NONE
        return left

    def _alone(self) -> threading.RLock:
        """Return the lock, which is not this thread's yet. StoreBusy."""
        if (error := amid_another(self._lock)) is not None:
            raise error
        return self._lock

    def _meaning(self, error: Exception, key: str = "") -> Eau2Error:
        return closed() if self._closed else meaning(error, self.path, key)

    # -- private, all under the lock ----------------------------------------------------------------------------------

    def _read_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        run = self._begin()
        try:
            rows = run(_GET_MANY, (apsw.carray(tuple(keys)),)).fetchall()
        except DAMAGE:
            self._end()
            raise
        finally:
            self._end_unless_kept()
        found = {key: new_entry(Entry, row) for key, row in zip(keys, rows, strict=True) if row[2] is not None}
        if len(found) < len(keys):
            for key, row in zip(keys, rows, strict=True):
                if row[2] is None and row[0] is not None:
                    raise lost(self.path, key)
        return found

    def _remember(self, started: int, entries: dict[str, Entry]) -> None:
        if started != self._remembered_at or self._remembered_bytes > _REMEMBERED_BYTES:
            self._remembered, self._remembered_at, self._remembered_bytes = {}, started, 0
        self._remembered.update(entries)
        self._remembered_bytes += sum(len(key) + len(entry[2]) + _ENTRY_BYTES for key, entry in entries.items())

    def _renew(self, started: int) -> None:
        """End the kept transaction, which is old; begin another on the second quiet look in a row."""
        self._end()
        if self._closed:
            return
        if self._immutable and started != self._opened_at:
            self._open_again(started)
        if self._counters[1] != started:
            self._quiet = _NONE
        elif self._quiet != started:
            self._quiet = started
        else:
            self._run("begin")  # the snapshot is taken by the first read that follows, after the look above
            self._kept = started
            if self._idle is None:
                self._idle = threading.Thread(target=self._end_when_idle, name="eau2-idle", daemon=True)
                self._idle.start()

    def _begin(self) -> Callable[..., Any]:
        """Be in a transaction, kept or not, for several reads of one moment."""
        self._used = True
        started = self._counters[0]
        if started != self._kept:
            self._renew(started)
        if self._kept == _NONE:
            self._run("begin")
        return self._run

    def _end_unless_kept(self) -> None:
        if self._kept == _NONE and not self._closed and self._connection.in_transaction:
            self._run("rollback")

    def _with_large(self, key: str, row: Row) -> Row | None:
        """Return `row` with its payload, which is elsewhere: both of one moment. One query would copy it once more."""
        run = self._run
        try:
            if self._kept == _NONE:  # that moment is gone
                run("begin")
                anew: Row | None = run(_GET, (key,)).get
                if anew is None or type(anew[2]) is not int:
                    return anew
                row = anew
            payload = run(_GET_LARGE, (row[2],)).get
            if payload is None:
                raise lost(self.path, key)
            return row[0], row[1], payload
        finally:
            self._end_unless_kept()

    def _begin_anew(self) -> None:
        """A read failed: take another snapshot for the next one."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        self._kept = _NONE
        if not self._closed and self._connection.in_transaction:
            self._run("rollback")

    def _open_again(self, started: int) -> None:
        connection = self._reconnect()
        self._connection.close()
        self._connection, self._run, self._opened_at = connection, connection.cursor().execute, started

    def _end_when_idle(self) -> None:
        looks = 0
        while True:
            self._idling.acquire(timeout=_IDLE_SECONDS)  # a closed reader has it wait no longer
            with self._lock:
                if not self._used and self._kept != _NONE:
                    self._end()
                looks = looks + 1 if self._kept == _NONE else 0
                self._used = False
                if looks > 2 or self._closed:
                    self._idle = None
                    return


_NO_COUNTERS = memoryview(bytes(16)).cast("Q")


def _refuse_closed(*_: object) -> Any:
    raise closed()


def _refuse_forked(*_: object) -> Any:
    raise closed(forked=True)

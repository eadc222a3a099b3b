"""Reading a node's entries: one connection, a read transaction that is kept while nobody writes, and what it found.

What was put lately may be in front of the tree: recent.py.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import apsw

from eau2.errors import Eau2Error
from eau2.store.database import DAMAGE, WHOLE, connect, lost, meaning
from eau2.store.generation import has_batches
from eau2.store.nodes import Entry, amid_another, closed, new_entry
from eau2.store.recent import Recent
from eau2.store.remembered import Remembered
from eau2.values.key import FIRST, prefix_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

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
_NONE = -1


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
        self._recent = Recent(path)
        self._doubts = read_only or self._lacks_note()  # the counters may not say that there are batches
        # Whether there are batches, as the transaction under way sees them; None before it has been looked at.
        self._front: bool | None = False
        self.merge: Callable[[], None] | None = None  # has what batches have in the tree, where that can be
        self._remembered = Remembered()
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
                if started == self._remembered.at:
                    entry = self._remembered.entries.get(key)
                    if entry is not None:
                        return entry
                return self._look_up(key, started)
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
                known = self._remembered.entries if started == self._remembered.at else {}
                found = dict(zip(keys, map(known.get, keys), strict=True))
                missing = [key for key, entry in found.items() if entry is None] if known else keys
                if not missing:
                    return found  # type: ignore[return-value]  # no None in it
                read = self._read_many(missing)
                if known and started != self._counters[0]:  # a write came between: what is known is of another moment
                    return self._read_many(keys)
                if self._kept == started:
                    self._remembered.add(started, read)
        except DAMAGE as error:
            for key in keys:
                self.get(key)  # one of them says which it is
            raise self._meaning(error) from error
        if len(missing) == len(keys):
            return read
        found.update(read)
        if len(read) == len(missing):
            return found  # type: ignore[return-value]  # no None in it
        return {key: entry for key, entry in found.items() if entry is not None}

    def plain(self, keys: Sequence[str]) -> dict[str, bytes] | None:
        """As `get_many`, but the bytes alone; None where a key has something else. Half the cost where all are known:
        what is known of 100,000 keys is in no cache of the processor, so that each object that is touched counts."""
        with self._alone():
            started = self._counters[0]
            known = self._remembered.plain if started == self._remembered.at else {}
            found = dict(zip(keys, map(known.get, keys), strict=True))
            missing = [key for key, value in found.items() if value is None] if known else [*found]
            self.gets += len(found) - len(missing)
        if not missing:
            return found  # type: ignore[return-value]  # no None in it
        read = self.get_many(missing)
        if len(missing) < len(found) and started != self._counters[0]:  # what is known is of another moment
            found, read = {}, self.get_many(keys)
        for key, (_, kind, payload) in read.items():
            if kind != 1:
                return None
            found[key] = payload
        return {key: value for key, value in found.items() if value is not None}

    def keys(self, prefix: str, limit: int | None) -> list[str]:
        """Return the keys that start with `prefix`, sorted, at most the first `limit`."""
        end = prefix_end(prefix)
        first = max(prefix, FIRST)
        where = "key >= ?1" if end is None else "key >= ?1 and key < ?3"
        query = f"select key from entry where {where} order by key limit ?2"
        bindings = (first, -1 if limit is None else limit) + (() if end is None else (end,))
        return [row[0] for row in self.entries(query, bindings)]

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

    def entries(self, query: str, bindings: Sequence[Any] = ()) -> list[Any]:
        """As `rows`, of a query that reads `entry`. What batches have is merged before; else it costs 2 us a key."""
        if not self._has_batches():
            return self.rows(query, bindings)
        if self.merge is not None:
            with contextlib.suppress(Eau2Error):
                self.merge()
                self._doubts = False
                return self.rows(query, bindings)
        with self._alone():
            self._end()
            try:
                run = self._begin()
                if self._sees_front():
                    self._recent.show(self._connection)
                found: list[Any] = run(query, bindings).fetchall()
                return found
            except DAMAGE as error:
                raise self._meaning(error) from error
            finally:
                self._end()  # with the view

    def rows(self, query: str, bindings: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query of this package, of other tables than `entry`."""
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
            self._remembered.forget()
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
        self._remembered.forget()
        return left

    def _alone(self) -> threading.RLock:
        """Return the lock, which is not this thread's yet. StoreBusy."""
        if (error := amid_another(self._lock)) is not None:
            raise error
        return self._lock

    def _meaning(self, error: Exception, key: str = "") -> Eau2Error:
        return closed() if self._closed else meaning(error, self.path, key)

    # -- private, all under the lock ----------------------------------------------------------------------------------

    def _look_up(self, key: str, started: int) -> Entry | None:
        self._used = True
        if started != self._kept:
            self._renew(started)
            if self._kept == _NONE and self._has_batches():
                return self._read_many([key]).get(key)
        entry = self._recent.get(key) if self._sees_front() else None
        if entry is None:
            row: Row | None = self._run(_GET, (key,)).get
            if row is None:
                return None
            if type(row[2]) is int:
                row = self._with_large(key, row)
                return None if row is None else new_entry(Entry, row)
            entry = new_entry(Entry, row)
        if self._kept == started:
            self._remembered.add(started, {key: entry})
        return entry

    def _read_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        run = self._begin()
        try:
            lately = self._recent.get_many(keys) if self._sees_front() else {}
            asked = [key for key in keys if key not in lately] if lately else keys
            rows = run(_GET_MANY, (apsw.carray(tuple(asked)),)).fetchall() if asked else []
        except DAMAGE:
            self._end()
            raise
        finally:
            self._end_unless_kept()
        found = {key: new_entry(Entry, row) for key, row in zip(asked, rows, strict=True) if row[2] is not None}
        if len(found) < len(asked):
            for key, row in zip(asked, rows, strict=True):
                if row[2] is None and row[0] is not None:
                    raise lost(self.path, key)
        if not lately:
            return found
        if not asked:
            return lately
        found |= lately
        return {key: found[key] for key in keys if key in found}

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
            self._expect_front()
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
            self._expect_front()
        return self._run

    def _has_batches(self) -> bool:
        return self._doubts or has_batches(self._counters)

    def _lacks_note(self) -> bool:
        """Whether there are batches of which the counters do not know: power was lost."""
        try:
            return not has_batches(self._counters) and len(self._run("select 1 from recent limit 2").fetchall()) > 1
        except DAMAGE:  # who gets a key is told
            return True

    def _expect_front(self) -> None:
        """Look whether there may be batches, after a transaction has begun and before it reads: what is merged between
        the two would not be seen at all."""
        self._front = None if self._has_batches() else False
        if self._front is False and self._recent:
            self._recent.forget()

    def _sees_front(self) -> bool:
        """Whether there are batches in the transaction under way. Then `_recent` has what it sees of them."""
        if self._front is None:
            self._recent.look(self._run)
            self._front = bool(self._recent)
        return self._front

    def _end_unless_kept(self) -> None:
        if self._kept == _NONE:
            self._end()

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
        self._kept, self._front = _NONE, False
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


_NO_COUNTERS = memoryview(bytes(40)).cast("Q")


def _refuse_closed(*_: object) -> Any:
    raise closed()


def _refuse_forked(*_: object) -> Any:
    raise closed(forked=True)

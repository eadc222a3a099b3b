"""Writing a node's entries: one transaction for all threads that wait, and what it does to the chunk files.

Under SQLite's write lock, in this order: the condition is looked at, staged chunk files get their names, rows are
written, `started` moves, COMMIT, `finished` moves. Chunks that lost their last reference keep a row with refs = 0; a
second transaction looks again, removes their files, then their rows. Because names are given and taken only under the
lock, a write that reuses a chunk and one that drops it cannot cross, and whatever is cut short leaves at most a file
that no row names, or a row with refs = 0: never a manifest that names a missing chunk.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import apsw
import pyarrow as pa

from eau2.errors import DiskFull, Eau2Error, StoreBusy, StoreClosed, failed_call
from eau2.store.database import BUSY_SECONDS_MAX, DAMAGE, connect, meaning
from eau2.store.nodes import Kind, closed, refusal
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from eau2.store.chunks import ChunkFiles
    from eau2.store.database import Flush, Patience
    from eau2.store.generation import Generation
    from eau2.store.nodes import Write

GONE_MAX = 100_000  # versions of deleted keys that are kept: 10 MB; older ones raise version_floor
_GONE_STEP = 1_000  # how many are forgotten at once
_SWEEP_SECONDS_MAX = 1.0  # to get the write lock: a sweep can be put off

_FIND = "select version, kind from entry where key = ?"
_INSERT = "insert into entry(key, version, kind, payload) values(?, ?, ?, ?)"
_UPDATE = "update entry set version = ?2, kind = ?3, payload = ?4 where key = ?1"
_LAST_VERSION = """select max((select value from meta where name = 'version_floor'),
                              coalesce((select version from gone where key = ?), 0))"""
# The last version and the kind under each key, in the order asked for; kind is null where nothing is.
_FIND_MANY = f"""select coalesce(entry.version, ({_LAST_VERSION.replace("?", "asked.value")})), entry.kind
                 from carray(?) as asked left join entry on entry.key = asked.value"""
_PUT_MANY = """insert into entry(key, version, kind, payload) values(?, ?, ?, ?) on conflict(key) do
               update set version = excluded.version, kind = excluded.kind, payload = excluded.payload"""
_TOGETHER_MIN = 8  # so many puts of bytes at least: two statements for all cost less than two for each
_NAME_CHUNK = """insert into chunk(id, size, refs, stamp) values(?1, ?2, 1, ?3)
                 on conflict(id) do update set refs = refs + 1, size = ?2, stamp = ?3"""

Outcome = int | Eau2Error


class _Request:
    """The writes of one caller, and what became of them."""

    __slots__ = ("alone", "done", "failure", "outcomes", "writes")

    def __init__(self, writes: Sequence[Write]) -> None:
        self.writes = writes
        self.outcomes: list[Outcome] = []
        self.failure: BaseException | None = None
        self.done = False
        # It moves files: its failure must not meet, nor be met by, the writes of others.
        self.alone = bool(writes[0].chunks) if len(writes) == 1 else any(write.chunks for write in writes)


class Writer:
    """Applies writes. Thread-safe: of the threads that wait, the first commits for all."""

    def __init__(
        self, path: Path, generation: Generation, files: ChunkFiles, patience: Patience, *, flush: Flush
    ) -> None:
        self._path = path
        self._generation = generation
        self._files = files
        self._patience = patience
        self._queue: deque[_Request] = deque()
        self._lock = threading.Lock()  # held by the thread that commits; guards everything below
        self._connection = connect(path, flush=flush, patience=patience)
        self._run = self._connection.cursor().execute
        self._run_many = self._connection.cursor().executemany
        self._unnamed: list[str] = []  # chunks that the transaction under way has left without a reference
        self._named: list[str] = []  # and those it has given files
        self._started = 0  # what `Generation.start` returned in the transaction under way, if it came so far
        self._closed = False
        self.left_over = False  # files may be there that no row names, and that we could not remove
        self.writes = 0
        self.commits = 0
        self.removed = 0

    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply `writes`; see `Node.write`."""
        request = _Request(writes)
        try:
            self._queue.append(request)  # the lock's holder takes it, or we do when we hold the lock
            while not request.done:
                if not (self._lock.acquire(False) or self._lock.acquire(timeout=3 * BUSY_SECONDS_MAX)):
                    self._withdraw(request, StoreBusy(f"{self._path}: other threads have been writing for too long"))
                    continue
                try:
                    if not request.done:
                        self._lead(request)
                finally:
                    self._lock.release()
        except BaseException as error:  # Ctrl-C: left in the queue, it would be written with whatever comes next
            self._withdraw(request, error)
            raise
        if request.failure is not None:
            raise request.failure
        return request.outcomes

    def transaction(self, change: Callable[[], Any], *, seconds: float = BUSY_SECONDS_MAX) -> Any:
        """Call `change` in a transaction of its own, under the write lock; return what it returns.

        StoreBusy when the lock does not come within `seconds`. What it raises rolls everything back.
        """
        if not self._lock.acquire(timeout=seconds):
            raise StoreBusy(f"{self._path}: other threads have been writing for over {seconds:g} seconds")
        try:
            self._patience.seconds = seconds
            return self._commit(change)
        finally:
            self._patience.seconds = BUSY_SECONDS_MAX
            self._lock.release()

    def execute(self, query: str, bindings: Sequence[Any] = ()) -> Any:
        """Run a statement inside `transaction`; return None, a value, a row, or a list of them."""
        return self._run(query, bindings).get

    def settle(self) -> None:
        """Make the counters equal if nobody is writing; give up at once if somebody is."""
        if self._lock.acquire(blocking=False):
            try:
                self._patience.seconds = 0.0
                if not self._closed:
                    self._run("begin immediate")
                    self._generation.settle()
                    self._run("rollback")
            except DAMAGE:
                return  # busy, or something that the next read or write will say better
            finally:
                self._patience.seconds = BUSY_SECONDS_MAX
                self._lock.release()

    def sweep_unnamed(self) -> None:
        """Remove the chunks that no manifest names: files, then rows."""

        unnamed = "select id from chunk where refs = 0"
        self.transaction(lambda: self._remove(_column(self.execute(unnamed))), seconds=_SWEEP_SECONDS_MAX)

    def sweep_files(self) -> None:
        """Remove the chunk files that no row names. Lists all of them: only after a process ended without closing."""
        ids = list(self._files.ids())

        def change() -> None:
            for chunk_id in ids:
                if self.execute("select 1 from chunk where id = ?", (chunk_id,)) is None:
                    self.removed += self._files.remove(chunk_id)

        if ids:
            self.transaction(change, seconds=_SWEEP_SECONDS_MAX)

    def close(self, seconds: float) -> None:
        """Wait for the write under way, take the log into the file, and close."""
        held = self._lock.acquire(timeout=seconds)
        self._closed = True
        if held:
            try:
                self._connection.close()
            finally:
                self._lock.release()

    def abandon(self) -> list[object]:
        """In a forked child: forget all without touching it. Return what must never be freed here."""
        left: list[object] = [self._connection, self._run, self._run_many]
        self._lock, self._closed = threading.Lock(), True
        return left

    # -- private, all under the lock ----------------------------------------------------------------------------------

    def _withdraw(self, request: _Request, error: BaseException) -> None:
        """Take back a request that no leader has; the outcome of one that a leader has still comes."""
        with contextlib.suppress(ValueError):
            self._queue.remove(request)
            self._fail(request, error)

    def _fail(self, request: _Request, error: BaseException) -> None:
        for write in request.writes:
            self._files.discard(write.chunks)
        request.failure, request.done = error, True

    def _lead(self, own: _Request) -> None:
        """Commit one batch: the first request, and those behind it that may share its transaction."""
        batch = [self._queue.popleft()]
        if not batch[0].alone:
            while self._queue and not self._queue[0].alone:
                batch.append(self._queue.popleft())
        try:
            try:
                self._commit_all(batch)
            except DiskFull:
                if len(batch) == 1:
                    raise
                self._commit_each(batch)
        except Exception as error:
            for request in batch:
                if not request.done:
                    self._fail(request, error)
        except BaseException as error:  # Ctrl-C in this thread is not the others': they lead themselves
            self._withdraw(own, error)
            if not own.done:  # it is in this batch
                self._fail(own, error)
            self._queue.extendleft(request for request in reversed(batch) if not request.done)
            raise

    def _commit_each(self, batch: list[_Request]) -> None:
        """The disk had no room for all of them; the one that is too large must not fail the others."""
        for request in batch:
            try:
                self._commit_all([request])
            except Eau2Error as error:
                self._fail(request, error)

    def _commit_all(self, batch: list[_Request]) -> None:
        self._unnamed.clear()
        try:
            self._commit(lambda: self._apply_all(batch))
        finally:
            if self._committed:  # also when Ctrl-C came right after: what is written must not be written again
                self._note_done(batch)
        if self._unnamed:
            self._remove_unnamed(list(self._unnamed))

    def _note_done(self, batch: list[_Request]) -> None:
        for request in batch:
            request.done = True
            self.writes += len(request.writes)
            if request.alone:
                for write, outcome in zip(request.writes, request.outcomes, strict=True):
                    if isinstance(outcome, Eau2Error):
                        self._files.discard(write.chunks)

    @property
    def _committed(self) -> bool:
        """Whether the last `_commit` came through. Asked of SQLite: Ctrl-C may come between it and any note of ours."""
        return self._started != 0 and not self._connection.in_transaction

    def _apply_all(self, batch: list[_Request]) -> None:
        for request in batch:
            together = self._put_together(request.writes) if len(request.writes) >= _TOGETHER_MIN else None
            request.outcomes = together or [self._apply(write) for write in request.writes]

    def _commit(self, change: Callable[[], Any]) -> Any:
        """Run `change` between BEGIN and COMMIT. A failure changes nothing, and is an error of eau2."""
        self._started, failed = 0, False  # first of all: `_committed` is asked even of what never began
        if self._closed:
            raise closed()
        self._named.clear()
        run = self._run
        try:
            run("begin immediate")
            result = change()
            self._started = self._generation.start()
            run("commit")
        except BaseException as error:
            failed = isinstance(error, Exception) or not self._committed
            if failed:
                self._roll_back()
            if isinstance(error, DAMAGE):
                if self._patience.stopped and isinstance(error, apsw.BusyError):
                    raise StoreClosed("the store was closed while it was written; nothing was changed") from error
                raise meaning(error, self._path) from error
            if isinstance(error, OSError) and not isinstance(error, Eau2Error):
                raise failed_call(error, str(error.filename or self._path)) from error
            raise
        finally:
            if self._started:
                self._generation.finish(self._started)
            if failed:
                self._started = 0
        self.commits += 1
        return result

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._run("rollback")
        if self._named:  # their rows are gone; another process may have named them since: look under the lock
            names, self._named = self._named, []
            try:
                self._run("begin immediate")
                for chunk_id in names:
                    if self.execute("select 1 from chunk where id = ?", (chunk_id,)) is None:
                        self._files.remove(chunk_id)
                self._run("rollback")
            except (*DAMAGE, OSError):
                self.left_over = True
                if self._connection.in_transaction:
                    self._run("rollback")

    def _put_together(self, writes: Sequence[Write]) -> list[Outcome] | None:
        """As `_apply` for each of `writes`, if they are plain puts of bytes under different keys; else None."""
        keys = [write.key for write in writes]
        plain = all(write.kind == Kind.BYTES and not write.expect for write in writes)
        if not plain or len(set(keys)) < len(keys):
            return None
        found: Any = self._run(_FIND_MANY, (apsw.carray(tuple(keys)),)).fetchall()
        for key, (_, kind) in zip(keys, found, strict=True):
            if kind == Kind.FRAME:
                self._release(key)
        versions: list[Outcome] = [version + 1 for version, _ in found]
        rows = [
            (write.key, version, write.kind, write.payload) for write, version in zip(writes, versions, strict=True)
        ]
        rows.sort()  # so that each page is visited once
        self._run_many(_PUT_MANY, rows)
        return versions

    def _apply(self, write: Write) -> Outcome:
        key, kind = write.key, write.kind
        found = self._run(_FIND, (key,)).get
        if write.expect:
            refused = refusal(key, write.expect, None if found is None else found[0])
            if refused is not None:
                return refused
        if kind == Kind.DELETED:
            return 0 if found is None else self._delete(key, found)
        if write.chunks:
            self._publish(write)
        if found is None:
            version = self._run(_LAST_VERSION, (key,)).get + 1
            self._run(_INSERT, (key, version, kind, write.payload))
        else:
            version = found[0] + 1
            if found[1] == Kind.FRAME:
                self._release(key)
            self._run(_UPDATE, (key, version, kind, write.payload))
        return int(version)

    def _delete(self, key: str, found: tuple[int, int]) -> int:
        if found[1] == Kind.FRAME:
            self._release(key)
        version = found[0] + 1
        self._run("delete from entry where key = ?", (key,))
        self._run("insert or replace into gone(key, version) values(?, ?)", (key, version))
        oldest, newest = self._run("select (select min(id) from gone), (select max(id) from gone)").get
        if newest - oldest >= GONE_MAX:
            self._run(
                """update meta set value = max(value, (select max(version) from gone where id < ?1))
                   where name = 'version_floor'""",
                (oldest + _GONE_STEP,),
            )
            self._run("delete from gone where id < ?", (oldest + _GONE_STEP,))
        return version

    def _publish(self, write: Write) -> None:
        """Give the staged chunks their names and count one reference each."""
        seen: set[str] = set()
        for staged in write.chunks:
            if staged.id in seen:  # a frame that holds the same rows twice
                self._files.discard([staged])
                continue
            seen.add(staged.id)
            known = self._run("select stamp from chunk where id = ?", (staged.id,)).get
            self._named.append(staged.id)
            size, mark = self._files.publish(staged, known)
            self._run(_NAME_CHUNK, (staged.id, size, mark))

    def _release(self, key: str) -> None:
        """Take one reference from each chunk of the frame that is about to go."""
        payload = self._run("select payload from entry where key = ?", (key,)).get
        try:
            ids = dict.fromkeys(Manifest.decode(payload).chunk_ids)
        except (pa.ArrowInvalid, KeyError):
            return
        for chunk_id in ids:
            if self._run("update chunk set refs = refs - 1 where id = ? returning refs", (chunk_id,)).get == 0:
                self._unnamed.append(chunk_id)

    def _remove_unnamed(self, chunk_ids: list[str]) -> None:
        """The second transaction. What it leaves undone the next sweep does, so its failure is not the write's."""
        try:
            self._commit(lambda: self._remove(chunk_ids))
        except Eau2Error:
            self.left_over = True

    def _remove(self, chunk_ids: list[str]) -> None:
        for chunk_id in chunk_ids:
            if self.execute("select 1 from chunk where id = ? and refs = 0", (chunk_id,)):
                self.removed += self._files.remove(chunk_id)
                self.execute("delete from chunk where id = ?", (chunk_id,))


def _column(found: Any) -> list[str]:
    """`Cursor.get` returns None, a value, or a list of values."""
    if found is None:
        return []
    return [found] if isinstance(found, str) else list(found)

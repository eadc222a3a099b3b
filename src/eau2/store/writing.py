"""Writing a node's entries: one transaction for all threads that wait. What it does to them is `changes.py`'s.

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
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from eau2.errors import DiskFull, Eau2Error, OutcomeUnknown, StoreBusy, StoreClosed, failed_call
from eau2.store.changes import Changes
from eau2.store.chunks import NoSuchChunk
from eau2.store.database import BUSY_SECONDS_MAX, DAMAGE, CopyingBack, Room, connect, meaning
from eau2.store.flushing import Flushing
from eau2.store.generation import has_batches
from eau2.store.nodes import amid_another, closed
from eau2.store.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from eau2.store.changes import Outcome
    from eau2.store.chunks import ChunkFiles
    from eau2.store.database import Flush, Patience
    from eau2.store.generation import Generation
    from eau2.store.nodes import Record, Write
    from eau2.store.request import Apply
    from eau2.store.spare import Spare

Value = TypeVar("Value")
_MERGE_SECONDS = 0.2  # who only reads waits so long for the lock


class Writer:
    """Applies writes. Thread-safe: of the threads that wait, the first commits for all."""

    def __init__(
        self, path: Path, generation: Generation, files: ChunkFiles, spare: Spare, patience: Patience, *, flush: Flush
    ) -> None:
        self._path = path
        self._generation = generation
        self._files = files
        self._spare = spare
        self._patience = patience
        self._queue: deque[Request] = deque()
        self._lock = threading.RLock()  # held by the thread that commits, see `_while_held`; guards everything below
        self._connection = connect(path, patience=patience)
        self.room = Room(path)
        self._copying_back = CopyingBack(path, self.room, patience)
        self._connection.set_wal_hook(self._copying_back)
        self.changes = Changes(self._connection, path, files, spare)
        self._run = self.changes.run
        self.flushing = None if flush == "process" else Flushing(path, generation)
        self._started = 0  # what `Generation.start` returned in the transaction under way, if it came so far
        self._closed = False
        self.left_over = False  # files may be there that no row names, and that we could not remove
        self.writes = 0
        self.commits = 0
        if not generation.settled:
            self.settle()

    def write(
        self,
        writes: Sequence[Write | Record],
        apply: Apply | None = None,
        *,
        alone: bool = False,
        undoes: bool = False,
    ) -> list[Outcome]:
        """Apply `writes` by `apply`, as `Changes.write` when it is not given, in one transaction with those of others
        unless `alone`; see `Node.write`. The staged chunks of one whose outcome is 0 or an error are removed. On a full
        disk what deletes, or `undoes` what failed, has the spare room."""
        request = Request(writes, apply, alone, undoes)
        if (amid := amid_another(self._lock)) is not None:
            self._fail(request, amid)
            raise amid
        try:
            self._queue.append(request)  # the lock's holder takes it, or we do when we hold the lock
            while not request.done:
                self._while_held(3 * BUSY_SECONDS_MAX, lambda held: self._lead_or_withdraw(request, held=held))
        except BaseException as error:  # Ctrl-C: left in the queue, it would be written with whatever comes next
            self._withdraw(request, error)
            raise
        if request.failure is not None:
            raise request.failure
        return request.outcomes

    def transaction(
        self,
        change: Callable[[], Any],
        *,
        seconds: float = BUSY_SECONDS_MAX,
        makes_room: bool = False,
        unflushed: Callable[[int], None] | None = None,
        in_front: bool = False,
        quickly: bool = False,
    ) -> Any:
        """Call `change` in a transaction of its own, under the write lock; return what it returns.

        StoreBusy when the lock does not come within `seconds`. What it raises rolls everything back.
        unflushed: is told what `flushing` is to flush; else that is waited for. in_front, quickly: see `Changes.begin`.
        """
        if (amid := amid_another(self._lock)) is not None:
            raise amid

        def work(held: bool) -> Any:
            if not held:
                raise StoreBusy(f"{self._path}: other threads have been writing for over {seconds:g} seconds")
            try:
                self._patience.seconds = seconds
                self.changes.unnamed.clear()
                result = self._commit_somehow(
                    lambda: self._commit(change, in_front=in_front, quickly=quickly), makes_room=makes_room
                )
                self._flush() if unflushed is None else unflushed(self._started)
                self._remove_unnamed()
                return result
            finally:
                self._patience.seconds = BUSY_SECONDS_MAX

        return self._while_held(seconds, work)

    def execute(self, query: str, bindings: Sequence[Any] = ()) -> Any:
        """Run a statement inside `transaction`; return None, a value, a row, or a list of them."""
        return self._run(query, bindings).get

    def require_room(self, size: int) -> None:
        """Inside `transaction`: raise DiskFull where payloads of `size` bytes, which it has written, have no room."""
        self.room.require_log(self._connection, size)

    def merge(self, seconds: float = _MERGE_SECONDS) -> None:
        """Have all batches in the tree; StoreBusy when the lock does not come within `seconds`."""
        self.transaction(lambda: None, seconds=seconds)

    def settle(self) -> None:
        """Make the counters equal if nobody is writing; give up at once if somebody is."""

        def work(held: bool) -> None:
            if not held or self._closed:
                return
            try:
                self._patience.seconds = 0.0
                self._run("begin immediate")
                self._generation.settle()
                self._run("rollback")
            except DAMAGE:
                return  # busy, or something that the next read or write will say better
            finally:
                self._patience.seconds = BUSY_SECONDS_MAX

        self._while_held(0.0, work)

    def close(self, seconds: float) -> bool:
        """Wait for the write under way, take the log into the file, and close. Return whether that write has ended."""
        try:
            with contextlib.suppress(Exception):  # the next write merges
                if not self._closed and has_batches(self._generation.counters):
                    self.transaction(self.changes.merge_if_quick, seconds=0.0, in_front=True)
        finally:  # also at Ctrl-C
            ended = self._close(seconds)
        return ended

    def _close(self, seconds: float) -> bool:

        def work(held: bool) -> bool:
            # The handler of a signal may close amid a write of its own thread, which has the lock.
            held = held and (self._closed or not self._connection.in_transaction)
            self._closed = True
            if held:
                self._connection.close()
                if self.flushing is not None:
                    self.flushing.close()
            self.left_over |= not held  # the write that goes on has staged files
            return held

        return self._while_held(seconds, work)

    def abandon(self) -> list[object]:
        """In a forked child: forget all without touching it. Return what must never be freed here."""
        left: list[object] = [self._connection, self._run, self.changes.run_many]
        self._lock, self._closed = threading.RLock(), True
        return left

    # -- private ------------------------------------------------------------------------------------------------------

    def _while_held(self, seconds: float, work: Callable[[bool], Value]) -> Value:
        """Wait for the lock, `seconds` at most; return what `work` does, told whether it came."""
        try:
            return work(self._lock.acquire(timeout=seconds))
        finally:
            # Ctrl-C may come as soon as the lock is taken, before anything of ours knows it. So whoever tried gives it
            # back; the lock knows its owner. Not by a function in Python, which Ctrl-C may cut short as it begins.
            try:  # noqa: SIM105
                self._lock.release()
            except RuntimeError:  # it was not ours
                pass

    # -- all under the lock -------------------------------------------------------------------------------------------

    def _lead_or_withdraw(self, request: Request, *, held: bool) -> None:
        if not held:
            self._withdraw(request, StoreBusy(f"{self._path}: other threads have been writing for too long"))
        elif not request.done:
            self._lead(request)

    def _withdraw(self, request: Request, error: BaseException) -> None:
        """Take back a request that no leader has; the outcome of one that a leader has still comes."""
        with contextlib.suppress(ValueError):
            self._queue.remove(request)
            self._fail(request, error)

    def _fail(self, request: Request, error: BaseException) -> None:
        for write in request.writes:
            self._files.discard(write.chunks)
        request.failure, request.done = error, True

    def _lead(self, own: Request) -> None:
        """Commit one batch: the first request, and those behind it that may share its transaction."""
        batch = [self._queue.popleft()]
        if not batch[0].alone:
            while self._queue and not self._queue[0].alone:
                batch.append(self._queue.popleft())
        try:
            try:
                self._commit_all(batch)
            except DiskFull:
                if batch[0].alone and not batch[0].makes_room:
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

    def _commit_each(self, batch: list[Request]) -> None:
        """The disk had no room for all of them; the one that is too large must not fail the others."""
        for request in batch:
            try:
                self._commit_alone(request)
            except Eau2Error as error:
                self._fail(request, error)

    def _commit_alone(self, request: Request) -> None:
        try:
            self._commit_somehow(lambda: self._commit_all([request]), makes_room=request.makes_room)
        except DiskFull:
            if request.makes_room or request.bytes > self._spare.bytes // 2:
                raise
            self._commit_in_place(request)

    def _commit_in_place(self, request: Request) -> None:
        """Commit what fits into the room that deletes have left in the database, whose file stays as large: the log
        alone has the spare room. Half of that at most, as it cannot be taken back while others read from the log."""

        def apply() -> None:
            self._apply_all([request])
            self.room.require_place(self._connection)

        self._commit_somehow(lambda: self._commit_all([request], apply), makes_room=True)

    def _commit_somehow(self, commit: Callable[[], Value], *, makes_room: bool) -> Value:
        """Return what `commit` does; on a full disk, if it makes room, or needs none, with what is spared for that."""
        return self._spare.lend(commit, self._shorten) if makes_room else commit()

    def _shorten(self) -> None:
        self._copying_back.shorten(self._connection)

    def _commit_all(self, batch: list[Request], apply: Callable[[], None] | None = None) -> None:
        self.changes.unnamed.clear()
        self._started = 0  # `_committed` is asked even of what never began
        try:
            self._commit(
                apply or (lambda: self._apply_all(batch)),
                in_front=self.room.is_plenty and all(each.in_front for each in batch),
            )
            self._flush()
        except OutcomeUnknown as error:
            for request in batch:
                self._fail(request, error)
            self.left_over = True
            return
        except BaseException:
            if self._committed:  # Ctrl-C came right after: what is written must not be written again
                try:
                    self._flush()
                finally:
                    self._note_done(batch)
            raise
        self._note_done(batch)
        self._remove_unnamed(aside=not any(request.makes_room for request in batch))
        if self._spare.is_short:
            self._spare.make()

    def _note_done(self, batch: list[Request]) -> None:
        for request in batch:
            request.done = True
            self.writes += len(request.writes)
            if request.alone:
                for write, outcome in zip(request.writes, request.outcomes, strict=True):
                    if not outcome or isinstance(outcome, Eau2Error):
                        self._files.discard(write.chunks)

    @property
    def _committed(self) -> bool:
        """Whether the last `_commit` came through. Asked of SQLite: Ctrl-C may come between it and any note of ours."""
        return self._started != 0 and not self._connection.in_transaction

    def _apply_all(self, batch: list[Request]) -> None:
        for request in batch:
            request.outcomes = (request.apply or self.changes.write)(request.writes)
            self.require_room(request.bytes)

    def _commit(self, change: Callable[[], Any], *, in_front: bool = False, quickly: bool = False) -> Any:
        """Run `change` between BEGIN and COMMIT. A failure changes nothing, and is an error of eau2."""
        self._started, failed = 0, False
        if self._closed:
            raise closed()
        self.changes.named.clear()
        run = self._run
        try:
            run("begin immediate")
            self.changes.begin(self._generation.counters[0], in_front=in_front, quickly=quickly)
            result = change()
            self._prepare_log()
            self._started = self._generation.start(batches=self.changes.has_batches)
            run("commit")
        except BaseException as error:
            failed = isinstance(error, Exception) or not self._committed
            if failed:
                self._roll_back()
            if isinstance(error, DAMAGE):
                if self._patience.stopped and isinstance(error, apsw.BusyError):
                    raise StoreClosed("the store was closed while it was written; nothing was changed") from error
                raise meaning(error, self._path) from error
            if isinstance(error, OSError) and not isinstance(error, (Eau2Error, NoSuchChunk)):
                raise failed_call(error, str(error.filename or self._path)) from error
            raise
        finally:
            if self._started:
                self._generation.finish(self._started)
            if failed:
                self._started = 0
        if not self.changes.has_batches:
            self._generation.merged(self._started)
        self.changes.committed(self._started)
        self.commits += 1
        return result

    def _prepare_log(self) -> None:
        self.room.require_copies(self._connection)
        if self.flushing is not None and self.room.is_plenty:
            self.flushing.extend(self._copying_back.log_bytes)

    def _flush(self) -> None:
        if self.flushing is not None:
            self.flushing.flush(self._started)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._run("rollback")
        if self.changes.named:  # their rows are gone; another process may have named them since: look under the lock
            names, self.changes.named = self.changes.named, []
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

    def _remove_unnamed(self, *, aside: bool = False) -> None:
        """The second transaction. What it leaves undone the next sweep does, so its failure is not the write's. Who
        deletes has the room at once, and who puts need not wait for it: see `freeing.unlink`."""
        if not (chunk_ids := list(self.changes.unnamed)):
            return
        remove = partial(self.changes.remove, chunk_ids, aside=aside)
        try:
            self._commit_somehow(lambda: self._commit(remove), makes_room=True)
        except Eau2Error:
            self.left_over = True

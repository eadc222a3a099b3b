"""How work gets to worker processes: the function by cloudpickle, the rows not at all: they map the chunk's file."""

from __future__ import annotations

import mmap
import os
import signal
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import pyarrow as pa

from eau2.errors import Eau2Error, QueryError, StoreClosed
from eau2.query.crossing import can_cross, error_text, pack, pack_error
from eau2.query.modules import install
from eau2.values.chunk import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from loky.process_executor import ProcessPoolExecutor

    from eau2.query.modules import Modules
    from eau2.query.source import Source
    from eau2.query.spill import SpillFolder
    from eau2.store.nodes import Place, Staged

IDLE_SECONDS = 30  # after which a worker process that has nothing to do ends
_PARENT_SECONDS = 0.2  # a worker outlives a parent that was killed by this


class Rows(NamedTuple):
    """Some rows of one chunk."""

    chunk: int
    start: int
    rows: int

    def of(self, table: pa.Table) -> pa.Table:
        return table if self.rows == table.num_rows else table.slice(self.start, self.rows)


@dataclass(frozen=True, slots=True)
class Task:
    """A caller's function, and what it is called with: a whole chunk, or each of its rows."""

    kind: Literal["chunk", "rows", "kept"]
    function: Callable[[Any], Any]

    def run(self, table: pa.Table) -> Any:
        if self.kind == "chunk":
            return self.function(table)
        results = [self.function(row) for row in table.to_pylist()]
        return results if self.kind == "rows" else [bool(result) for result in results]

    def finish(self, table: pa.Table, result: Any) -> Any:
        """Return what the caller gets, from what `run` returned of `table`: flags become the rows they keep."""
        return table.filter(pa.array(result, pa.bool_())) if self.kind == "kept" else result

    def pack(self) -> bytes:
        """Return this as bytes; functions of `__main__`, lambdas and closures too. QueryError when that cannot be."""
        import cloudpickle  # here: not needed until the first map in processes

        try:
            return bytes(cloudpickle.dumps(self))
        except Exception as error:
            raise QueryError(
                f"the function cannot be sent to another process: {error}",
                hint="it holds what is not pickled, such as an open file or a store; workers='threads' sends nothing",
            ) from error


def run_shipped(path: str, rows: Rows, shipped: bytes) -> Any:
    """In a worker process: run the task on rows of the chunk file at `path`."""
    try:
        return _task(shipped).run(rows.of(_mapped(path)))
    except Exception as error:
        if can_cross(error):
            raise
        raise RuntimeError(error_text(error)) from None  # it would end the pool


def run_on_node(path: str, rows: Rows, shipped: bytes) -> tuple[bool, bytes]:
    """In a worker process of a node: as `run_shipped`, and finish it. Return whether that was done, and its result, or
    what was raised, as bytes that only the caller looks into."""
    try:
        task, table = _task(shipped), rows.of(_mapped(path))
        return True, pack(task.finish(table, task.run(table)))
    except BaseException as error:  # SystemExit too: it is the caller's function that says so
        return False, pack_error(error)


_last_task: list[tuple[bytes, Task]] = []  # of this worker process, which does one thing at a time
_last_chunk: list[tuple[str, pa.Table]] = []


def _task(shipped: bytes) -> Task:
    if not _last_task or _last_task[0][0] != shipped:
        import cloudpickle  # here: not needed until the first map in processes

        _last_task[:] = [(shipped, cloudpickle.loads(shipped))]
    return _last_task[0][1]


def _mapped(path: str) -> pa.Table:
    if not _last_chunk or _last_chunk[0][0] != path:
        with open(path, "rb") as file:
            data = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        _last_chunk[:] = [(path, decode(data))]
    return _last_chunk[0][1]


class ChunkFiles:
    """Names for the chunks of a source while worker processes read them: links to their files, else copies.

    A link, because the frame may be deleted meanwhile: the parent's mapping keeps the file, but not its name.
    """

    def __init__(self, source: Source, spill: SpillFolder) -> None:
        self._source = source
        self._spill = spill
        self._paths: dict[int, str] = {}
        self._staged: list[tuple[Place, Staged]] = []
        self._copies: list[str] = []

    def __enter__(self) -> ChunkFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self._copies:
            Path(path).unlink(missing_ok=True)
        for node, staged in self._staged:
            node.discard([staged])

    def path(self, chunk: int) -> str:
        """Return a path of the file of that chunk."""
        if chunk not in self._paths:
            self._paths[chunk] = self._link(chunk) or self._copy(chunk)
        return self._paths[chunk]

    def _link(self, chunk: int) -> str:
        source = self._source
        if source.node is None:
            return ""
        buffers, places, _ = source.mapped
        node = source.node.at(places[chunk] if places else "")
        try:
            staged = node.stage_again(source.manifest.chunk_ids[chunk], buffers[chunk])
        except Eau2Error:  # read-only, or closed
            return ""
        self._staged.append((node, staged))
        return staged.path

    def _copy(self, chunk: int) -> str:
        handle, path = tempfile.mkstemp(prefix=f"chunk-{chunk}-", dir=self._spill.path())
        self._copies.append(path)
        with os.fdopen(handle, "wb") as file:
            file.write(self._source.buffers[chunk])
        return path


class WorkerProcesses:
    """The worker processes of one engine: made when first needed, lent to one map at a time, ended by `close`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._endings: WeakKeyDictionary[ProcessPoolExecutor, threading.Lock] = WeakKeyDictionary()
        self._lock = threading.Lock()  # guards everything below
        self._idle: ProcessPoolExecutor | None = None
        self._lent: set[ProcessPoolExecutor] = set()
        self._closed = False

    @contextmanager
    def lease(self) -> Iterator[ProcessPoolExecutor]:
        """Lend a pool. When the block is left by an error its processes are ended, whatever they run: promptly.

        StoreClosed when that was the end of the processes, by `close`.
        """
        pool = self._take()
        try:
            yield pool
        except BaseException as error:
            self._end(pool)
            if self._closed and isinstance(error, Exception):
                raise StoreClosed("the store was closed while the function ran", hint="open it again") from error
            raise
        with self._lock:
            self._lent.discard(pool)
            if self._idle is None and not self._closed:
                self._idle = pool
                return
        self._end(pool)

    def close(self) -> None:
        """End all processes, also those that run something. May be called again."""
        with self._lock:
            self._closed = True
            pools = [*self._lent, *([self._idle] if self._idle is not None else [])]
            self._idle = None
        ending = [threading.Thread(target=self._end, args=(pool,), name="eau2-workers") for pool in pools]
        for thread in ending:  # at once: each waits for its processes
            thread.start()
        for thread in ending:
            thread.join()

    def _take(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._closed:
                raise StoreClosed("the store was closed", hint="open it again")
            pool, self._idle = self._idle, None
            if pool is None:
                pool = worker_pool(self._count)
            self._lent.add(pool)
            return pool

    def _end(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:  # a pool that is shut down by two at once fails in one of them
            ending = self._endings.setdefault(pool, threading.Lock())
        with ending:
            pool.shutdown(wait=True, kill_workers=True)
        with self._lock:
            self._lent.discard(pool)


def worker_pool(count: int, modules: Modules = ()) -> ProcessPoolExecutor:
    """Return a pool of processes, started when they are needed, that find `modules` when they import."""
    from loky.process_executor import ProcessPoolExecutor  # here: not needed until the first map in processes

    return ProcessPoolExecutor(count, timeout=IDLE_SECONDS, initializer=_belong_to, initargs=(os.getpid(), modules))


def _belong_to(parent: int, modules: Modules) -> None:
    """In a worker process: leave Ctrl-C to `parent`, which hears it too and ends its workers; and end when it ends.

    A parent that is killed can end nobody, and a worker would first finish the caller's function, however long.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    install(modules)
    threading.Thread(target=_end_with, args=(parent,), name="eau2-parent", daemon=True).start()


def _end_with(parent: int) -> None:
    # Not PR_SET_PDEATHSIG: the kernel sends it when the *thread* ends that started us.
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)

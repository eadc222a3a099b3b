"""The caller's functions over chunks and rows, in threads or processes; results in order, failures with their chunk."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from eau2.errors import FunctionFailed, InvalidOption, QueryError, WaitTimeout
from eau2.query.crossing import MapOrder, error_text, unpack
from eau2.query.modules import own_modules
from eau2.query.placing import NotRun, Placed, WorkerEnded
from eau2.query.scattering import Scattered
from eau2.query.shipping import ChunkFiles, Rows, Task, run_on_node, run_shipped
from eau2.query.source import Source, joined, unnamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pyarrow as pa

    from eau2.query.answering import Answering
    from eau2.query.placing import Executor
    from eau2.query.recipe import Recipe
    from eau2.store.jobs import Jobs

Workers = Literal["threads", "processes"] | None
Answer = TypeVar("Answer")

ROWS_PER_TASK = 16_384  # of functions over rows: some 50 ms of work
ROWS_FOR_PROCESSES = 100_000  # fewer are done before the processes have started
BYTES_FOR_PROCESSES = 256 << 20
_LOOK_SECONDS = 60.0  # a bound on one wait; the loop around it waits on


class Subject(Protocol):
    """What is mapped over: a frame."""

    @property
    def source(self) -> Source | None: ...

    def _recipe(self) -> Recipe: ...

    @property
    def _engine(self) -> Answering: ...


def map_chunks(
    frame: Subject,
    function: Callable[[pa.Table], Any],
    combine: Callable[[list[Any]], Any] | None,
    *,
    workers: Workers,
    timeout_seconds: float | None,
) -> Any:
    """As `Frame.map_chunks`, whose docstring is the contract."""
    if combine is not None and not callable(combine):
        raise QueryError(f"combine is a function of the list of results, not {type(combine).__name__}")
    source = _source(frame)
    if workers is None:
        workers = "processes" if source.manifest.size >= BYTES_FOR_PROCESSES else "threads"
    tasks = [Rows(chunk, 0, rows) for chunk, rows in enumerate(source.manifest.chunk_rows)]
    results = list(_run(frame._engine, source, tasks, Task("chunk", function), workers, timeout_seconds))
    return results if combine is None else combine(results)


def map_rows(
    frame: Subject, function: Callable[[dict[str, Any]], Any], *, workers: Workers, timeout_seconds: float | None
) -> list[Any]:
    source = _source(frame)
    found = _run_rows(frame._engine, source, Task("rows", function), workers, timeout_seconds)
    return [result for part in found for result in part]


def filter_rows(
    frame: Subject, function: Callable[[dict[str, Any]], bool], *, workers: Workers, timeout_seconds: float | None
) -> Source:
    """Return the rows kept as a source that no key names, in files without names."""
    source = _source(frame)
    engine = frame._engine

    def kept() -> Iterator[pa.Table]:
        pending: list[pa.Table] = []
        held = 0
        for part in _run_rows(engine, source, Task("kept", function), workers, timeout_seconds):
            pending.append(part)
            held += part.nbytes
            if held >= 16 << 20:
                yield joined(pending)
                pending, held = [], 0
        if pending:
            yield joined(pending)

    return unnamed(source.schema, kept(), folder=engine.spill.path())


# -- private ----------------------------------------------------------------------------------------------------------


def _source(frame: Subject) -> Source:
    """What to map over: the chunks of a stored frame, or the answer of a derived one, in files without names."""
    source = frame.source
    if source is not None:
        if source.node is None or source.node.jobs is None:  # else who reads a chunk verifies it
            source.verify()
        return source
    engine, recipe = frame._engine, frame._recipe()
    return engine.queries.asked(engine, recipe, lambda: engine.settle(recipe))


def _row_tasks(source: Source) -> list[Rows]:
    return [
        Rows(chunk, start, min(ROWS_PER_TASK, rows - start))
        for chunk, rows in enumerate(source.manifest.chunk_rows)
        for start in range(0, rows, ROWS_PER_TASK)
    ]


def _run_rows(
    engine: Answering, source: Source, task: Task, workers: Workers, timeout_seconds: float | None
) -> Iterator[Any]:
    names = source.schema.names
    if len(set(names)) < len(names):
        raise QueryError(
            f"{source.title} has several columns of one name, and a row, a dict, would lose all but one",
            hint="map_chunks() gets them all",
        )
    if workers is None:
        many = source.manifest.rows >= ROWS_FOR_PROCESSES and engine.threads > 1
        workers = "processes" if many else "threads"
    return _run(engine, source, _row_tasks(source), task, workers, timeout_seconds)


def _run(
    engine: Answering,
    source: Source,
    parts: Sequence[Rows],
    task: Task,
    workers: Workers,
    timeout_seconds: float | None,
) -> Iterator[Any]:
    """Return what `task` makes of each of `parts`, in order, a few ahead. A failure stops the others."""
    if workers not in ("threads", "processes"):
        raise InvalidOption(f"workers is 'threads', 'processes' or None, not {workers!r}")
    if timeout_seconds is not None and not _is_above_zero(timeout_seconds):
        raise InvalidOption(f"timeout_seconds is a number above 0, not {timeout_seconds!r}")
    if not callable(task.function):
        raise QueryError(f"a function is expected, not {type(task.function).__name__}", hint="pass a function")
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    placed = Placed(source)
    if source.node is not None and (jobs := source.node.jobs) is not None:
        return _on_nodes(engine, jobs, placed, parts, task, deadline)
    if workers == "processes":
        return _in_processes(engine, placed, parts, task, deadline)
    # In this very thread: one part, or a function over rows, of which Python runs one at a time in any case.
    if deadline is None and (len(parts) <= 1 or task.kind != "chunk" or engine.threads == 1):
        return _here(placed, parts, task)
    return _in_threads(engine, placed, parts, task, deadline)


def _is_above_zero(seconds: object) -> bool:
    return isinstance(seconds, (int, float)) and seconds > 0


def _here(placed: Placed, parts: Sequence[Rows], task: Task) -> Iterator[Any]:
    for part in parts:
        try:
            result = _done(placed.source, part, task)
        except Exception as error:
            raise _failure(placed, [part.chunk], error) from error
        placed.count_task(part)
        yield result


def _done(source: Source, part: Rows, task: Task) -> Any:
    rows = part.of(source.chunk(part.chunk))
    return task.finish(rows, task.run(rows))


def _in_threads(
    engine: Answering, placed: Placed, parts: Sequence[Rows], task: Task, deadline: float | None
) -> Iterator[Any]:
    threads = _Threads(lambda part: _done(placed.source, part, task), min(engine.threads, len(parts)))
    try:
        yield from _in_order(placed, parts, lambda node: threads, threads.ahead, deadline)
    finally:
        threads.end()


class _Threads:
    """Threads that run `function` on parts. A thread cannot be stopped, but need not be waited for: these are daemons,
    where those of ThreadPoolExecutor keep the process from ending as long as the caller's function takes."""

    def __init__(self, function: Callable[[Rows], Any], count: int) -> None:
        self._function = function
        self._count = self.ahead = count
        self._parts: SimpleQueue[tuple[Rows, Future[Any]] | None] = SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._run, name=f"eau2-map_{number}", daemon=True).start()

    def submit(self, part: Rows) -> Future[Any]:
        future: Future[Any] = Future()
        self._parts.put((part, future))
        return future

    def end(self) -> None:
        """Start no part more, and let each thread end with the part it is at."""
        with contextlib.suppress(Empty):
            while True:
                self._parts.get_nowait()
        for _ in range(self._count):
            self._parts.put(None)

    def _run(self) -> None:
        while (item := self._parts.get()) is not None:
            part, future = item
            try:
                future.set_result(self._function(part))
            except BaseException as error:  # handed to the caller, who raises it
                future.set_exception(error)
            del item, future


def _in_processes(
    engine: Answering, placed: Placed, parts: Sequence[Rows], task: Task, deadline: float | None
) -> Iterator[Any]:
    shipped = task.pack()  # once; what cannot be sent is found here, before anything runs
    with engine.workers.lease() as pool, ChunkFiles(placed.source, engine.spill) as files:
        processes = _Processes(pool, files, shipped, engine.threads + 1)
        results = _in_order(placed, parts, lambda node: processes, processes.ahead, deadline)
        for part, result in zip(parts, results, strict=True):
            yield task.finish(part.of(placed.source.chunk(part.chunk)), result)


def _on_nodes(
    engine: Answering, jobs: Jobs, placed: Placed, parts: Sequence[Rows], task: Task, deadline: float | None
) -> Iterator[Any]:
    """On nodes that are processes of their own: their worker processes run it, whatever `workers` is."""
    shipped = task.pack()

    def here(left: contextlib.ExitStack) -> Executor:
        held = placed.source
        files = ChunkFiles(Source(held.key, held.version, held.manifest, held.mapped, None), engine.spill)
        pool = left.enter_context(engine.workers.lease())
        return _Processes(pool, left.enter_context(files), shipped, engine.threads + 1, run_on_node)

    with Scattered(jobs, placed, MapOrder(shipped, own_modules()), here) as nodes:
        results = _in_order(placed, parts, lambda node: nodes, nodes.ahead, deadline)
        for part, result in zip(parts, results, strict=True):
            try:
                found = unpack(result)
            except Exception as error:
                raise _not_remade(placed, part.chunk) from error
            yield found


class _Processes:
    """The worker processes as an `Executor`."""

    def __init__(
        self, pool: Any, files: ChunkFiles, shipped: bytes, ahead: int, run: Callable[..., Any] = run_shipped
    ) -> None:
        self.ahead = ahead
        self._pool, self._files, self._shipped, self._run = pool, files, shipped, run

    def submit(self, part: Rows) -> Future[Any]:
        """Have a worker run what was shipped. When one died before this, the pool refuses: a failure like any other."""
        try:
            future: Future[Any] = self._pool.submit(self._run, self._files.path(part.chunk), part, self._shipped)
        except BrokenExecutor as error:
            future = Future()
            future.set_exception(error)
        return future


def _in_order(
    placed: Placed, parts: Iterable[Rows], executor_of: Callable[[str], Executor], ahead: int, deadline: float | None
) -> Iterator[Any]:
    """Have each of `parts` run on its node; yield results in order. A failure of a later one is raised as soon as it is
    known.

    `ahead` are under way: of all nodes about as many each, because the chunks of a frame go round the nodes.
    """
    running: deque[tuple[Rows, Future[Any]]] = deque()
    for part in parts:
        running.append((part, executor_of(placed.node(part.chunk)).submit(part)))
        if len(running) >= ahead:
            yield _result(placed, running, deadline)
    while running:
        yield _result(placed, running, deadline)


def _result(placed: Placed, running: deque[tuple[Rows, Future[Any]]], deadline: float | None) -> Any:
    """Wait for the first of `running`, take it off and return its result; raise as soon as any of them has failed."""
    while True:
        for part, future in running:
            if future.done() and (error := future.exception()) is not None:
                if isinstance(error, NotRun):
                    raise error.reason
                failed = [part.chunk]
                if isinstance(error, BrokenExecutor):  # of a pool: any of these has ended it
                    failed = [each.chunk for each, other in running if other.exception() is error]
                raise _failure(placed, failed, error) from error
        part, future = running[0]
        if future.done():
            running.popleft()
            placed.count_task(part)
            return future.result()
        left = _LOOK_SECONDS if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise WaitTimeout(f"the function had not done chunk {part.chunk} of {placed.source.title} in time")
        wait([each for _, each in running if not each.done()], min(left, _LOOK_SECONDS), FIRST_COMPLETED)


def _failure(placed: Placed, chunks: Sequence[int], error: BaseException) -> FunctionFailed:
    where = _where(placed, chunks)
    if isinstance(error, BrokenExecutor) and "un-serialize" in str(error):  # the pool tells it by its text alone
        return _not_remade(placed, *chunks)
    if isinstance(error, (BrokenExecutor, WorkerEnded)):
        return FunctionFailed(
            f"a worker process ended while the function ran on {where}",
            chunk=min(chunks),
            hint="it called os._exit, crashed, or the machine was out of memory",
        )
    return FunctionFailed(f"the function failed on {where}: {error_text(error)}", chunk=min(chunks))


def _not_remade(placed: Placed, *chunks: int) -> FunctionFailed:
    return FunctionFailed(
        f"what the function returned on {_where(placed, chunks)} cannot be made again in this process",
        chunk=min(chunks),
        hint="return tables, bytes, numbers, text, or lists and dicts of such",
    )


def _where(placed: Placed, chunks: Sequence[int]) -> str:
    numbers = sorted(set(chunks))
    nodes = " or ".join(dict.fromkeys(placed.node(chunk) for chunk in numbers))
    names = " or ".join(map(str, numbers))
    return f"chunk {names} of {placed.source.title}" + (f" on {nodes}" if nodes else "")

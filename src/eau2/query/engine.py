"""The query engine of a store: plans, skips chunks, runs within its memory, and again when a join does not fit."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field, replace
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import pyarrow as pa

from eau2.errors import Eau2Error, QueryOutOfMemory, StoreClosed
from eau2.machine import cores, memory_of_machine
from eau2.metrics.report import counter
from eau2.query.engine_errors import interruption, is_exhausted, typed
from eau2.query.placing import Placed
from eau2.query.queries import Queries
from eau2.query.reads import Reads, note, table_read
from eau2.query.recipe import Recipe, Replaced
from eau2.query.shipping import WorkerProcesses
from eau2.query.source import joined, unnamed
from eau2.query.spill import SpillFolder
from eau2.query.waiting import Calls, asker, end_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from datafusion import DataFrame
    from datafusion.plan import LogicalPlan

    from eau2.query.placeholders import Values
    from eau2.query.placing import Share
    from eau2.query.sessions import Sessions
    from eau2.query.source import Source

KEPT_BYTES_MAX = 16 << 20  # of an answer that is handed on in batches; a larger one goes through a file
MEMORY_BYTES_MIN = 16 << 20
SOON_SECONDS = 0.001  # in which a batch comes that need not be waited for by another thread, at 20 us each

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counts since the store was opened by this process."""

    queries: int = field(metadata=counter("Queries that ran, also those behind rows and previews.", "queries"))
    chunks_read: int = field(metadata=counter("Chunks of all tables of the queries that were read.", "chunks"))
    chunks_skipped: int = field(
        metadata=counter("Chunks of tables of queries that were skipped, as no row could be in the answer.", "chunks")
    )
    retries: int = field(
        metadata=counter("Queries run again with sort-merge joins, as a hash join had used up the memory.", "queries")
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """How much of one table a query reads."""

    title: str
    chunks: int
    chunks_read: int
    bytes: int  # of the chunks read
    rows: int
    nodes: tuple[Share, ...]  # what each node reads of it; () where there is one node


class _Known(NamedTuple):
    """What was found out of a recipe before it ran."""

    chunks: Mapping[Source, Sequence[int]]  # those to read, of the sources of which some are skipped
    row_wise: bool  # each row of its answer comes from one row of one table
    few: bool  # of which few rows are expected


class Engine:
    """Runs recipes. Thread-safe; makes its sessions when the first query comes, which takes 0.3 s in a new process.

    memory_bytes: what all queries together may hold before they spill (half of the machine, or of the container).
    spill_dir: where they spill to, in a folder of their own that is removed by `close`; by default the system's.
    """

    def __init__(self, memory_bytes: int | None = None, *, spill_dir: str | None = None) -> None:
        self.memory_bytes = memory_bytes or max(MEMORY_BYTES_MIN, memory_of_machine() // 2)
        self.threads = cores()
        self.spill = SpillFolder(spill_dir)
        self.workers = WorkerProcesses(self.threads)
        self.queries = Queries()
        self._calls = Calls()
        self._lock = threading.Lock()  # guards everything below
        self._sessions: Sessions | None = None
        self._closed = False
        self._counts = [0, 0, 0, 0]
        self._known: WeakKeyDictionary[Recipe, _Known] = WeakKeyDictionary()

    def close(self) -> None:
        """Let go of the sessions, end idle threads and processes, remove what was spilled. May be called again."""
        with self._lock:
            self._closed = True
            self._sessions = None
        self._calls.end()
        self.workers.close()
        self.spill.remove()
        end_idle()

    def statistics(self) -> EngineStatistics:
        with self._lock:
            return EngineStatistics(*self._counts)

    # -- recipes ------------------------------------------------------------------------------------------------------

    def sql(
        self,
        query: str,
        resolve: Callable[[str], Source | None],
        names: Callable[[], Sequence[str]] | None = None,
        values: Values | None = None,
    ) -> Recipe:
        """Plan `query`, in which a name means what `resolve` returns; about 0.3 ms. `names` is asked for a hint,
        `values` are of its parameters.

        Raises UnknownTable, UnknownColumn, QueryError, and whatever `resolve` raises.
        """
        sessions = self._ready()
        return self._typed(lambda: sessions.sql(query, resolve, values), names)

    def received(self, plan: bytes, tables: Mapping[str, Source]) -> Recipe:
        """The recipe of a serialized Substrait plan, in which names mean what `tables` has. QueryError."""
        sessions = self._ready()
        return self._typed(lambda: sessions.received(plan, tables))

    def scan(self, source: Source) -> Recipe:
        """The recipe that reads all of `source`. QueryError when the engine cannot take its columns."""
        return self._typed(lambda: self._ready().scan(source))

    def extend(self, step: Callable[..., DataFrame], *recipes: Recipe) -> Recipe:
        """The recipe that applies `step` to what `recipes` build. UnknownColumn, QueryError."""
        self._ready()
        return self._typed(lambda: recipes[0].then(step, *recipes[1:]))

    def over(self, recipe: Recipe, sources: Mapping[Source, Source]) -> Recipe:
        """`recipe`, reading in place of each of its sources the one that `sources` has for it."""
        sessions = self._ready()
        planned = self._typed(lambda: recipe.build(Replaced(sessions.planning({}), sources)))
        reads = tuple((name, sources[source]) for name, source in recipe.reads)
        return Recipe(lambda planning: recipe.build(Replaced(planning, sources)), reads, planned)

    def planned(self, plan: LogicalPlan) -> Recipe:
        """The recipe of a plan that was made in another session, over tables of that."""
        frame = self._ready().plain.create_dataframe_from_logical_plan(plan)
        return Recipe(lambda planning: frame, (), frame)

    def fixed(self, recipe: Recipe) -> Recipe:
        """The recipe of the plan that `recipe` has, also of the time that it tells."""
        return self._typed(lambda: self.planned(recipe.planned.optimized_logical_plan()))

    # -- answers ------------------------------------------------------------------------------------------------------

    def schema(self, recipe: Recipe) -> pa.Schema:
        return self._typed(recipe.planned.schema)

    def collect(self, recipe: Recipe) -> pa.Table:
        """Run `recipe` and return its answer, in memory. Filters and selections keep the order of the rows."""
        frame, row_wise = self._start(recipe)
        if row_wise:
            parts = self._retried(frame, lambda each: each.collect_partitioned())
            batches = [batch for part in parts for batch in part]
        else:
            batches = self._retried(frame, lambda each: each.collect())
        batches = [batch for batch in batches if batch.num_rows] or batches[:1]
        return pa.Table.from_batches(batches) if batches else self.schema(recipe).empty_table()

    def count(self, recipe: Recipe) -> int:
        """Run `recipe` and return the number of its rows."""
        frame, _ = self._start(recipe)
        return int(self._retried(frame, lambda each: each.count()))

    def stream(self, recipe: Recipe) -> Iterator[pa.RecordBatch]:
        """Run `recipe` and yield its answer as it comes: memory stays bounded. In order as `collect`.

        Once a batch was given out the query cannot be run again. So where a hash join may still fail halfway, the
        answer is first written to a file without a name.
        """
        frame, row_wise = self._start(recipe)
        if row_wise:
            for stream in self._retried(frame, lambda each: each.execute_stream_partitioned()):
                yield from self._drained(stream)
        elif self._typed(lambda: "HashJoinExec: mode=Partitioned" in frame.execution_plan().display_indent()):
            yield from self._retried(frame, self._ran_to_its_end).batches()
        else:
            first, stream = self._retried(frame, _begun)
            if first is not None:
                yield first
                yield from self._drained(stream)

    def settle(self, recipe: Recipe) -> Source:
        """Run `recipe` and return its answer as a Source, in memory when it is small, else in files without a name."""
        return set_down(self.stream(recipe), self.schema(recipe), self.spill)

    def first(self, recipe: Recipe, rows: int) -> Iterator[pa.RecordBatch]:
        """Run `recipe` and yield batches that begin with its first `rows` rows. No chunk is read that is not needed, as
        long as no more batches are asked for."""
        if self._known_of(recipe).row_wise:  # then it is in order
            return self.stream(recipe)
        return self.stream(self.extend(lambda frame: frame.limit(rows), recipe))

    def plan_text(self, recipe: Recipe) -> str:
        return self._typed(lambda: str(recipe.planned.optimized_logical_plan().display_indent()))

    def moves(self, recipe: Recipe) -> str:
        """ "": nothing moves in one process."""
        del recipe
        return ""

    def moved(self, recipe: Recipe) -> str:
        """ "": nothing moves in one process."""
        del recipe
        return ""

    def readings(self, recipe: Recipe) -> list[Reading]:
        """How much `recipe` reads of each of its tables."""
        chosen = self._known_of(recipe).chunks
        found = []
        for source in dict.fromkeys(source for _, source in recipe.reads):
            shares = Placed(source).shares(chosen.get(source))
            read, rows, size = (sum(column) for column in list(zip(*shares, strict=True))[1:] or [(), (), ()])
            nodes = tuple(shares) if source.places else ()
            found.append(Reading(source.title, len(source.buffers), read, size, rows, nodes))
        return found

    # -- private ------------------------------------------------------------------------------------------------------

    def _ready(self) -> Sessions:
        with self._lock:
            if self._closed:
                raise StoreClosed("the store was closed", hint="open it again; to_arrow() still reads a stored frame")
            if self._sessions is None:
                # Here and not at the top: the engine takes 0.3 s to import, and `import eau2` less.
                from eau2.query.sessions import Sessions

                _refuse_fork()
                folder = self.spill.path()
                self._sessions = self._typed(lambda: Sessions(self.memory_bytes, folder, self.threads))
            _refuse_fork()
            return self._sessions

    def _start(self, recipe: Recipe, *, whole: bool = False) -> tuple[DataFrame, bool]:
        """Verify what `recipe` reads; return its query over only the chunks that it needs, and if it is row-wise."""
        sessions = self._ready()
        known = self._known_of(recipe)
        chosen = {} if whole else dict(known.chunks)
        read = skipped = row_bytes = 0
        tables = []
        for source in dict.fromkeys(source for _, source in recipe.reads):
            chunks = chosen.get(source)
            away = source.away()  # before they are brought
            source.verify(chunks)
            placed = Placed(source)
            placed.count_query(chunks)
            tables.append(table_read(source, chunks, away | placed.elsewhere()))
            row_bytes += source.row_bytes
            read += len(source.buffers) if chunks is None else len(chunks)
            skipped += 0 if chunks is None else len(source.buffers) - len(chunks)
            if source.was_renewed and chunks is None:  # the table that was made of it may be of what was damaged
                chosen[source] = list(range(len(source.buffers)))
        frame = self._typed(lambda: recipe.build(sessions.planning(chosen))) if chosen else recipe.planned
        if chosen and recipe.tells_time():
            # What it tells is later than what its chunks were chosen by, and stays so however it is planned from here.
            frame = self.fixed(replace(recipe, planned=frame)).planned
            if not self._typed(lambda: self._are_enough(chosen, recipe, frame)):
                return self._start(recipe, whole=True)
        note(Reads(tuple(tables), sum(table.bytes - table.local_bytes for table in tables)))
        with self._lock:
            for index, more in enumerate((1, read, skipped)):
                self._counts[index] += more
        session = sessions.running(row_bytes, in_order=known.row_wise, few=known.few)
        if session is not sessions.plain:
            frame = session.create_dataframe_from_logical_plan(frame.logical_plan())
        return frame, known.row_wise

    def _known_of(self, recipe: Recipe) -> _Known:
        with self._lock:
            found = self._known.get(recipe)
        if found is None:
            found = self._typed(lambda: self._look_at(recipe))
            with self._lock:
                self._known[recipe] = found
        return found

    def _look_at(self, recipe: Recipe) -> _Known:
        from eau2.query.pruning import chunks_to_read  # here: the engine takes 0.3 s to import
        from eau2.query.row_wise import filters, let_few_pass

        found = filters(recipe.planned)
        source = recipe.reads[0][1] if found and recipe.reads else None
        few = source is not None and len(source.manifest.chunk_rows) > 1 and let_few_pass(found or (), source)
        return _Known(chunks_to_read(recipe), found is not None, few)

    def _are_enough(self, chosen: Mapping[Source, Sequence[int]], recipe: Recipe, frame: DataFrame) -> bool:
        from eau2.query.pruning import are_enough

        return are_enough(chosen, recipe, frame)

    def _retried(self, frame: DataFrame, run: Callable[[DataFrame], Answer]) -> Answer:
        """Return `run(frame)`; when a hash join uses up the memory, once more with joins that sort, and spill."""
        try:
            return self._typed(lambda: self._calls.run(lambda: run(frame)))
        except QueryOutOfMemory:
            pass  # and not here: the error's trace holds what the first try had in memory
        sessions = self._ready()
        with self._lock:
            self._counts[3] += 1
        again = sessions.merging().create_dataframe_from_logical_plan(frame.logical_plan())
        return self._typed(lambda: self._calls.run(lambda: run(again)))

    def _typed(self, call: Callable[[], Answer], names: Callable[[], Sequence[str]] | None = None) -> Answer:
        """Return `call()`, the engine's errors made eau2's."""
        try:
            return call()
        except (Eau2Error, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except (TypeError, AttributeError):
            raise  # of the arguments, not of the query
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            if (stop := interruption(error)) is not None:
                raise stop from None
            raise typed(error, names=names) from (error if is_exhausted(error) else None)

    def _ran_to_its_end(self, frame: DataFrame) -> Source:
        batches = (batch.to_pyarrow() for batch in frame.execute_stream())
        return set_down(batches, frame.schema(), self.spill)

    def _drained(self, stream: object) -> Iterator[pa.RecordBatch]:
        batches = iter(stream)  # type: ignore[call-overload]  # the engine's RecordBatchStream
        soon = False  # whether the batch before has come without a wait
        while True:
            began, on_behalf = perf_counter(), asker()
            if on_behalf is None or (soon and on_behalf.is_patient):
                batch = self._typed(lambda: next(batches, None))
            else:  # somebody may leave, while few of many rows are in the answer
                batch = self._typed(lambda: self._calls.run(lambda: next(batches, None)))
            soon = perf_counter() - began < SOON_SECONDS
            if batch is None:
                return
            yield batch.to_pyarrow()


def set_down(batches: Iterator[pa.RecordBatch], schema: pa.Schema, spill: SpillFolder) -> Source:
    """Return `batches` as a Source, in memory when they are few, else in files without a name."""
    tables = _gathered(batches, KEPT_BYTES_MAX)
    first = next(tables, None)
    if first is None:
        return unnamed(schema, [])
    second = next(tables, None)
    if second is None:
        return unnamed(first.schema, [first])
    return unnamed(first.schema, chain([first, second], tables), folder=spill.path())


def _begun(frame: DataFrame) -> tuple[pa.RecordBatch | None, object]:
    stream = frame.execute_stream()
    first = next(iter(stream), None)
    return (None if first is None else first.to_pyarrow()), stream


def _gathered(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Yield `batches` joined to tables of about `size` bytes."""
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        pending.append(batch)
        held += batch.nbytes
        if held >= size:
            yield joined([pa.Table.from_batches(pending)])
            pending, held = [], 0
    if pending:
        yield joined([pa.Table.from_batches(pending)])


_engine_pid = [0]  # of the process whose engine threads run: they are the library's, one set a process


def _refuse_fork() -> None:
    """A forked child has the engine's locks but not its threads: a query there would wait for ever."""
    pid = os.getpid()
    if _engine_pid[0] == 0:
        _engine_pid[0] = pid
    elif _engine_pid[0] != pid:
        raise StoreClosed(
            "queries cannot run in a process that was forked after a query had run",
            hint='start processes with multiprocessing.get_context("spawn"), and open the store in each',
        )

"""The queries of an engine: those that run now, which can be ended, and the last that have run. Bounded.

A query is a recipe that somebody reads. It begins with the first row that is asked for, and ends when all were given
out, or nobody wants more. What it has kept of its recipe is words and numbers: no frame is held by having been read.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from eau2.errors import Eau2Error
from eau2.query.waiting import Asker, ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from eau2.query.answering import Answering
    from eau2.query.reads import TableRead
    from eau2.query.recipe import Recipe

RECENT_MAX = 100  # of those that took PLAN_SECONDS, and of those that did not: many short ones push out no long one
RUNNING_MAX = 1000  # more run, and are not listed
TEXT_MAX = 10_000  # characters that are kept of a query, and of its plan
PLAN_SECONDS = 0.05  # a query that took less ends without its plan having been written: that takes 1 ms

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class QueryReport:
    """One query, running or over."""

    number: int  # from 1, in the order in which they began
    text: str  # in SQL; "" for a plan that came as one
    steps: int  # that were added to the text by the verbs of frames: filter, aggregate, ...
    state: str  # "running", "done", "failed", "cancelled"
    began: float  # Unix time
    seconds: float  # so far, or in all; also those for which nobody took the next rows
    rows: int  # given out
    moved_bytes: int | None  # from node to node, and to the caller; None while it runs, or where that is not known
    read_bytes: int | None  # of chunks, each once; see `reads.py`. None likewise
    local_bytes: int | None  # of those, what was where it was read
    error: str  # why it failed, in one sentence
    plan: str  # of the engine; "" for one that was over in PLAN_SECONDS
    moves: str  # what ran on which nodes; "" where nothing moves
    tables: tuple[TableRead, ...]  # what it read of each frame; () likewise, and for one that came to no end


class Queries:
    """The queries of one engine. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._running: dict[int, _Running] = {}
        self._short: deque[QueryReport] = deque(maxlen=RECENT_MAX)
        self._long: deque[QueryReport] = deque(maxlen=RECENT_MAX)
        self._begun = 0
        self._seconds = 0.0

    def running(self) -> list[QueryReport]:
        """Return the queries that run, oldest first, without their plans. 5 us each."""
        with self._lock:
            found = list(self._running.values())
        return [query.report("running") for query in found]

    def recent(self) -> list[QueryReport]:
        """Return the last queries that are over, newest first: RECENT_MAX long ones, and as many short ones."""
        with self._lock:
            found = [*self._short, *self._long]
        return sorted(found, key=lambda query: -query.number)

    def one(self, number: int) -> QueryReport | None:
        """Return one of those, with its plan; None when it is not known any more. 1 ms for one that runs."""
        with self._lock:
            query = self._running.get(number)
        if query is not None:
            return replace(query.report("running"), plan=query.plan())
        return next((each for each in self.recent() if each.number == number), None)

    def totals(self) -> tuple[int, int, float]:
        """Return how many queries have begun, how many of them run, and the seconds of those that are over."""
        with self._lock:
            return self._begun, len(self._running), self._seconds

    def cancel(self, number: int) -> bool:
        """End a query that runs: who reads it gets QueryError. False when none of that number runs."""
        with self._lock:
            query = self._running.get(number)
        if query is None:
            return False
        query.asker.leave()
        return True

    # -- what frames call ---------------------------------------------------------------------------------------------

    def collected(self, engine: Answering, recipe: Recipe) -> pa.Table:
        """As `Answering.collect`."""
        with self._one(engine, recipe) as query:
            table = query.asker.run(lambda: engine.collect(recipe))
            query.rows = table.num_rows
            return table

    def counted(self, engine: Answering, recipe: Recipe) -> int:
        """As `Answering.count`."""
        with self._one(engine, recipe) as query:
            query.rows = 1
            return query.asker.run(lambda: engine.count(recipe))

    def asked(self, engine: Answering, recipe: Recipe, function: Callable[[], Answer]) -> Answer:
        """Return `function()`, which reads `recipe`."""
        with self._one(engine, recipe) as query:
            return query.asker.run(function)

    def streamed(
        self, engine: Answering, recipe: Recipe, batches: Iterator[pa.RecordBatch]
    ) -> Iterator[pa.RecordBatch]:
        """Yield `batches`, which come of reading `recipe`."""
        with self._one(engine, recipe) as query:
            while True:
                if query.asker.has_left:
                    raise ended()
                batch = query.asker.run(lambda: next(batches, None))
                if batch is None:
                    return
                query.rows += batch.num_rows
                yield batch

    # -- private ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _one(self, engine: Answering, recipe: Recipe) -> Iterator[_Running]:
        with self._lock:
            self._begun += 1
            query = _Running(self._begun, engine, recipe)
            if len(self._running) < RUNNING_MAX:
                self._running[query.number] = query
        state = error = ""
        try:
            yield query
        except GeneratorExit:  # nobody wants more of it
            raise
        except BaseException as failure:
            state = "cancelled" if query.asker.has_left else "failed"
            error = failure.message if isinstance(failure, Eau2Error) else type(failure).__name__
            raise
        finally:
            report = query.report(state or "done", error)
            with self._lock:
                self._running.pop(query.number, None)
                (self._long if report.seconds >= PLAN_SECONDS else self._short).append(report)
                self._seconds += report.seconds


class _Running:
    """A query that runs."""

    def __init__(self, number: int, engine: Answering, recipe: Recipe) -> None:
        self.number = number
        self.rows = 0
        self.asker = Asker(patient=True)
        self._engine, self._recipe = engine, recipe
        self._began, self._start = time.time(), time.perf_counter()

    def report(self, state: str, error: str = "") -> QueryReport:
        seconds = time.perf_counter() - self._start
        plan = moves = ""
        if state != "running" and seconds >= PLAN_SECONDS:
            plan, moves = self.plan(), self._engine.moved(self._recipe)
        reads = self.asker.reads if state == "done" else None
        return QueryReport(
            number=self.number,
            text=self._recipe.text[:TEXT_MAX],
            steps=self._recipe.depth,
            state=state,
            began=self._began,
            seconds=seconds,
            rows=self.rows,
            moved_bytes=None if reads is None else reads.moved_bytes,
            read_bytes=None if reads is None else reads.bytes,
            local_bytes=None if reads is None else reads.local_bytes,
            error=error[:TEXT_MAX],
            plan=plan,
            moves=moves[:TEXT_MAX],
            tables=() if reads is None else reads.tables,
        )

    def plan(self) -> str:
        try:
            return self._engine.plan_text(self._recipe)[:TEXT_MAX]
        except Eau2Error as error:  # the store was closed: the answer is not the worse for it
            return error.message

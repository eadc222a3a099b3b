"""The query engine of a store of which other processes have the chunks: it plans here, and runs where they are."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from eau2.distributed.away import AwayEngine, origin_of
from eau2.distributed.explanation import Explanation
from eau2.distributed.fragment import NodeLost
from eau2.errors import Corrupt, NodeUnavailable
from eau2.query.reads import Reads, note

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from eau2.distributed.fragment import Fleet, Workers
    from eau2.distributed.query import Query
    from eau2.query.engine import Engine
    from eau2.query.recipe import Recipe
    from eau2.query.source import Source

GATHER_BYTES_MAX = 16 << 20
HERE_BYTES_MAX = 32 << 20
AWAY_TIMES = 8
AT_CALLER = "the query, whole"
TRIES_MAX = 5  # on the nodes, each without those that were lost; and one when a chunk could not be read


class DistributedEngine(AwayEngine):
    """Runs recipes on `workers`, and what is left of them here, by `local`. Thread-safe.

    Any query gives the answer that it gives on one node: a plan that cannot be cut runs here, over the rows and columns
    it needs. When a node dies it is run again without it. Waiting for the nodes ends with Ctrl-C, and so does their
    work. What reads little is not sent anywhere: it runs here, over chunks that are brought and kept.

    here_bytes_max: of chunks that a query reads here; those that have to be brought first count AWAY_TIMES as much.
    """

    def __init__(
        self,
        local: Engine,
        fleet: Fleet,
        *,
        gather_bytes_max: int = GATHER_BYTES_MAX,
        here_bytes_max: int = HERE_BYTES_MAX,
    ) -> None:
        super().__init__(local)
        self._fleet = fleet
        self._gather_bytes_max = gather_bytes_max  # of rows to be grouped that are brought together in one place
        self._here_bytes_max = here_bytes_max
        self._lock = threading.Lock()  # guards both below
        self._ran: weakref.WeakKeyDictionary[Recipe, Explanation] = weakref.WeakKeyDictionary()
        self._run_as: weakref.WeakKeyDictionary[Recipe, Recipe] = weakref.WeakKeyDictionary()  # counted, or limited

    # -- answers ------------------------------------------------------------------------------------------------------

    def count(self, recipe: Recipe) -> int:
        """Run `recipe` and return the number of its rows: only their count is brought here."""
        from datafusion import functions, lit  # here, as everywhere below: the engine takes 0.3 s to import

        counted = self.extend(lambda frame: frame.aggregate([], [functions.count(lit(1))]), recipe)
        with self._lock:
            self._run_as[recipe] = counted
        return int(self.collect(counted).column(0)[0].as_py())

    def stream(self, recipe: Recipe) -> Iterator[pa.RecordBatch]:
        """Run `recipe` and yield its answer as it comes: memory stays bounded. In order as `collect`.

        What the nodes do is done before the first batch is given out, and needs none of them after that.
        """
        with self._lock:
            self._run_as.pop(recipe, None)
        answer = self._sent(recipe)
        yield from self._local.stream(self._here(recipe, recipe)) if answer is None else answer

    def first(self, recipe: Recipe, rows: int) -> Iterator[pa.RecordBatch]:
        """As `Engine.first`. What runs on the nodes brings no row more."""
        limited = self.extend(lambda frame: frame.limit(rows), recipe)
        with self._lock:
            self._run_as[recipe] = limited
        answer = self._sent(limited)
        yield from self._local.first(self._here(recipe, limited), rows) if answer is None else answer

    def moves(self, recipe: Recipe) -> str:
        """How `recipe` is cut, where its parts run, and what moves: as it ran the last time, else by guesses."""
        return str(self.explain(recipe))

    def moved(self, recipe: Recipe) -> str:
        """As `Answering.moved`."""
        with self._lock:
            ran = self._ran.get(self._run_as.get(recipe, recipe))
        return "" if ran is None else str(ran)

    def explain(self, recipe: Recipe, *, run: bool = False) -> Explanation:
        """Return how `recipe` was cut when it ran last, or how it will be; `run` runs it first."""
        if run:
            for _ in self.stream(recipe):
                pass
        with self._lock:
            if recipe in self._ran:
                return self._ran[recipe]
        chunks = self._chunks(recipe)
        if not self._is_worth_sending(chunks):
            return Explanation((), AT_CALLER, (), 0, ran=False)
        with self._fleet.begin() as workers, self._query(recipe, chunks, workers) as query:
            return query.planned()

    # -- private ------------------------------------------------------------------------------------------------------

    def _sent(self, recipe: Recipe) -> Iterator[pa.RecordBatch] | None:
        """Run `recipe` on the nodes, and return its answer; None where it is to run here."""
        chunks = self._chunks(recipe)
        without: set[str] = set()
        tries = TRIES_MAX if self._is_worth_sending(chunks) else 0
        while tries > 0:
            tries -= 1
            try:
                with self._fleet.begin(without) as workers, self._query(recipe, chunks, workers) as query:
                    answer = query.answer()
                    ran = query.ran()
                    note(Reads(ran.read, ran.moved_bytes + ran.brought_bytes))
                    self._note(recipe, ran)
                    return answer
            except NodeLost as lost:
                without.add(lost.node)
            except (NodeUnavailable, Corrupt):  # copies may be elsewhere by now, or are mended by this
                tries = min(tries, 1)
                for origin in map(origin_of, chunks):
                    if origin.node is not None:
                        origin.renew()
        return None

    def _here(self, recipe: Recipe, asked: Recipe) -> Recipe:
        """Return what is to run here for `recipe`, which was `asked`."""
        near, reads = self._brought(recipe)
        self._note(
            asked, Explanation((), AT_CALLER, (), 0, ran=True, read=reads.tables, brought_bytes=reads.moved_bytes)
        )
        return near

    def _query(self, recipe: Recipe, chunks: Mapping[Source, Sequence[int]], workers: Workers) -> Query:
        from eau2.distributed.query import Query

        return Query(recipe, chunks, self._local, workers, gather_bytes_max=self._gather_bytes_max)

    def _chunks(self, recipe: Recipe) -> dict[Source, Sequence[int]]:
        """Return which chunks `recipe` reads of each of its sources."""
        from eau2.query.pruning import chunks_to_read

        chosen = chunks_to_read(recipe)
        return {source: chosen.get(source, range(len(source.manifest.chunk_rows))) for _, source in recipe.reads}

    def _is_worth_sending(self, chunks: Mapping[Source, Sequence[int]]) -> bool:
        """Whether a query that reads `chunks` is worth being sent to the nodes. Rows without columns cannot be."""
        if not all(len(source.schema) for source in chunks):
            return False
        size = sum(source.manifest.chunk_sizes[chunk] for source, some in chunks.items() for chunk in some)
        if size > self._here_bytes_max:
            return True
        away = sum(self._fleet.away_bytes(origin_of(source), some) for source, some in chunks.items())
        return size + AWAY_TIMES * away > self._here_bytes_max

    def _note(self, recipe: Recipe, explanation: Explanation) -> None:
        with self._lock:
            self._ran[recipe] = explanation

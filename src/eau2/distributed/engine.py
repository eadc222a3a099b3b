"""The query engine of a store of which other processes have the chunks: it plans here, and runs where they are."""

from __future__ import annotations

import re
import threading
import weakref
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.distributed.absent import Absent
from eau2.distributed.explanation import Explanation
from eau2.distributed.fragment import NodeLost
from eau2.errors import Corrupt, NodeUnavailable, QueryError
from eau2.query.engine import set_down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from datafusion import DataFrame

    from eau2.distributed.fragment import Fleet, Workers
    from eau2.distributed.query import Query
    from eau2.query.engine import Engine, EngineStatistics, Reading
    from eau2.query.placeholders import Values
    from eau2.query.recipe import Recipe
    from eau2.query.source import Source

GATHER_BYTES_MAX = 16 << 20
HERE_BYTES_MAX = 32 << 20
AWAY_TIMES = 8
TRIES_MAX = 5  # on the nodes, each without those that were lost; and one when a chunk could not be read
_SAMPLE = re.compile(r"\btablesample\b", re.IGNORECASE)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)


class DistributedEngine:
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
        self.threads = local.threads
        self.spill = local.spill
        self.workers = local.workers
        self._local = local
        self._fleet = fleet
        self._gather_bytes_max = gather_bytes_max  # of rows to be grouped that are brought together in one place
        self._here_bytes_max = here_bytes_max
        self._lock = threading.Lock()  # guards both below
        self._absent: weakref.WeakKeyDictionary[Source, weakref.ref[Absent]] = weakref.WeakKeyDictionary()
        self._ran: weakref.WeakKeyDictionary[Recipe, Explanation] = weakref.WeakKeyDictionary()

    def close(self) -> None:
        """As `Engine.close`."""
        self._local.close()

    def statistics(self) -> EngineStatistics:
        """Return the counts of what ran here."""
        return self._local.statistics()

    # -- recipes ------------------------------------------------------------------------------------------------------

    def sql(
        self,
        query: str,
        resolve: Callable[[str], Source | None],
        names: Callable[[], Sequence[str]] | None = None,
        values: Values | None = None,
    ) -> Recipe:
        """Plan `query` as `Engine.sql` does. QueryError also for what the engine would answer wrongly."""
        if _SAMPLE.search(_QUOTED.sub("", query)):
            raise QueryError(
                "TABLESAMPLE is not known to the engine, which would give all rows", hint="filter by a hash"
            )
        recipe = self._local.sql(query, lambda name: self._stand_in(resolve(name)), names, values)
        _refuse_correlated_not_in(self._local.plan_text(recipe))
        return recipe

    def scan(self, source: Source) -> Recipe:
        """The recipe that reads all of `source`."""
        return self._local.scan(self._known(source))

    def extend(self, step: Callable[..., DataFrame], *recipes: Recipe) -> Recipe:
        """The recipe that applies `step` to what `recipes` build. UnknownColumn, QueryError."""
        return self._local.extend(step, *recipes)

    # -- answers ------------------------------------------------------------------------------------------------------

    def schema(self, recipe: Recipe) -> pa.Schema:
        return self._local.schema(recipe)

    def collect(self, recipe: Recipe) -> pa.Table:
        """Run `recipe` and return its answer, in memory. Filters and selections keep the order of the rows."""
        batches = list(self.stream(recipe))
        return pa.Table.from_batches(batches) if batches else self.schema(recipe).empty_table()

    def count(self, recipe: Recipe) -> int:
        """Run `recipe` and return the number of its rows: only their count is brought here."""
        from datafusion import functions, lit  # here, as everywhere below: the engine takes 0.3 s to import

        counted = self.extend(lambda frame: frame.aggregate([], [functions.count(lit(1))]), recipe)
        return int(self.collect(counted).column(0)[0].as_py())

    def stream(self, recipe: Recipe) -> Iterator[pa.RecordBatch]:
        """Run `recipe` and yield its answer as it comes: memory stays bounded. In order as `collect`.

        What the nodes do is done before the first batch is given out, and needs none of them after that.
        """
        answer = self._sent(recipe)
        yield from self._local.stream(self._near(recipe)) if answer is None else answer

    def first(self, recipe: Recipe, rows: int) -> Iterator[pa.RecordBatch]:
        """As `Engine.first`. What runs on the nodes brings no row more."""
        answer = self._sent(self.extend(lambda frame: frame.limit(rows), recipe))
        yield from self._local.first(self._near(recipe), rows) if answer is None else answer

    def settle(self, recipe: Recipe) -> Source:
        """As `Engine.settle`."""
        return set_down(self.stream(recipe), self.schema(recipe), self.spill)

    def plan_text(self, recipe: Recipe) -> str:
        return self._local.plan_text(recipe)

    def readings(self, recipe: Recipe) -> list[Reading]:
        """How much `recipe` reads of each of its tables, on which nodes."""
        return self._local.readings(self._near(recipe))

    def moves(self, recipe: Recipe) -> str:
        """How `recipe` is cut, where its parts run, and what moves: as it ran the last time, else by guesses."""
        return str(self.explain(recipe))

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
            return _here()
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
                    self._note(recipe, query.ran())
                    return answer
            except NodeLost as lost:
                without.add(lost.node)
            except (NodeUnavailable, Corrupt):  # copies may be elsewhere by now, or are mended by this
                tries = min(tries, 1)
                for origin in map(_origin, chunks):
                    if origin.node is not None:
                        origin.renew()
        self._note(recipe, _here())
        return None

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
        away = sum(self._fleet.away_bytes(_origin(source), some) for source, some in chunks.items())
        return size + AWAY_TIMES * away > self._here_bytes_max

    def _near(self, recipe: Recipe) -> Recipe:
        """Return `recipe` over what its sources stand for, which can be read here."""
        return self._local.over(recipe, {source: _origin(source) for _, source in recipe.reads})

    def _note(self, recipe: Recipe, explanation: Explanation) -> None:
        with self._lock:
            self._ran[recipe] = explanation

    def _stand_in(self, source: Source | None) -> Source | None:
        return None if source is None else self._known(source)

    def _known(self, source: Source) -> Absent:
        """Return what stands for `source` in plans: the same one as long as somebody holds a recipe over it."""
        with self._lock:
            known = self._absent.get(source)
            found = known() if known is not None else None
            if found is None:
                found = Absent(source)
                self._absent[source] = weakref.ref(found)
            return found


def _origin(source: Source) -> Source:
    assert isinstance(source, Absent)
    return source.origin


def _here() -> Explanation:
    return Explanation((), "the query, whole", (), 0, ran=False)


def _refuse_correlated_not_in(plan: str) -> None:
    """Raise QueryError where NOT IN looks at the outer row: the engine is wrong there about nulls, or fails."""
    for line in plan.splitlines():
        if "null_aware" in line and _conditions(line.partition("Join:")[2]) > 1:
            raise QueryError(
                "NOT IN over a subquery that depends on the outer row is not answered rightly where values are missing",
                hint="use NOT EXISTS, and say what missing values mean",
            )


def _conditions(text: str) -> int:
    """Return how many conditions a join has whose line in the plan goes on with `text`."""
    keys, _, rest = _QUOTED.sub("", text).partition("Filter:")
    count, depth = bool(keys.strip()) + bool(rest.strip()), 0
    for at, letter in enumerate(whole := keys + rest):
        depth += (letter in "([") - (letter in ")]")
        count += depth == 0 and (letter == "," or whole.startswith(" AND ", at))
    return count

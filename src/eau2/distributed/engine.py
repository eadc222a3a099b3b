"""The query engine of a store of which other processes have the chunks: it plans here, and runs where they are."""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.distributed.absent import Absent
from eau2.distributed.query import Query
from eau2.distributed.stages import GATHER_BYTES_MAX
from eau2.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from datafusion import DataFrame

    from eau2.distributed.explanation import Explanation
    from eau2.distributed.fragment import Workers
    from eau2.query.engine import Engine
    from eau2.query.recipe import Recipe
    from eau2.query.source import Source

_SAMPLE = re.compile(r"\btablesample\b", re.IGNORECASE)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)


class DistributedEngine:
    """Runs recipes on `workers`, and what is left of them here, by `local`. Thread-safe.

    Any query gives the answer that it gives on one node: a plan that cannot be cut runs here, over the rows and columns
    it needs. Waiting for the nodes ends with Ctrl-C, and so does their work.
    """

    def __init__(self, local: Engine, workers: Workers, *, gather_bytes_max: int = GATHER_BYTES_MAX) -> None:
        self._local = local
        self._gather_bytes_max = gather_bytes_max  # of rows to be grouped that are brought together in one place
        self._workers = workers
        self._absent: weakref.WeakKeyDictionary[Source, weakref.ref[Absent]] = weakref.WeakKeyDictionary()

    # -- recipes ------------------------------------------------------------------------------------------------------

    def sql(
        self, query: str, resolve: Callable[[str], Source | None], names: Callable[[], Sequence[str]] | None = None
    ) -> Recipe:
        """Plan `query` as `Engine.sql` does. QueryError also for what the engine would answer wrongly."""
        if _SAMPLE.search(_QUOTED.sub("", query)):
            raise QueryError(
                "TABLESAMPLE is not known to the engine, which would give all rows", hint="filter by a hash"
            )
        recipe = self._local.sql(query, lambda name: self._stand_in(resolve(name)), names)
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

    def stream(self, recipe: Recipe) -> Iterator[pa.RecordBatch]:
        """Run `recipe` and yield its answer as it comes: memory stays bounded. In order as `collect`."""
        with self._query(recipe) as query:
            yield from query.answer()

    def explain(self, recipe: Recipe, *, run: bool = False) -> Explanation:
        """Return how `recipe` is cut, by guesses of what its parts make; with `run`, by what they made and moved."""
        with self._query(recipe) as query:
            return query.explain(run=run)

    # -- private ------------------------------------------------------------------------------------------------------

    def _query(self, recipe: Recipe) -> Query:
        return Query(recipe, self._local, self._workers, gather_bytes_max=self._gather_bytes_max)

    def _stand_in(self, source: Source | None) -> Source | None:
        return None if source is None else self._known(source)

    def _known(self, source: Source) -> Absent:
        """Return what stands for `source` in plans: the same one as long as somebody holds a recipe over it."""
        known = self._absent.get(source)
        found = known() if known is not None else None
        if found is None:
            found = Absent(source)
            self._absent[source] = weakref.ref(found)
        return found


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

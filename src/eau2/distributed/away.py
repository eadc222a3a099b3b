"""The part of an engine that is the same wherever its queries run: they are planned here, over tables without rows."""

from __future__ import annotations

import re
import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.distributed.absent import Absent
from eau2.errors import QueryError
from eau2.query.engine import set_down
from eau2.query.reads import Reads, note, table_read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from datafusion import DataFrame

    from eau2.query.engine import Engine, EngineStatistics, Reading
    from eau2.query.placeholders import Values
    from eau2.query.recipe import Recipe
    from eau2.query.source import Source

_SAMPLE = re.compile(r"\btablesample\b", re.IGNORECASE)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)


class AwayEngine(ABC):
    """Plans recipes by `local`, over what stands for their frames; who inherits says where they run. Thread-safe."""

    def __init__(self, local: Engine) -> None:
        self.threads = local.threads
        self.spill = local.spill
        self.workers = local.workers
        self.queries = local.queries
        self._local = local
        self._standing = threading.Lock()  # guards the line below
        self._absent: weakref.WeakKeyDictionary[Source, weakref.ref[Absent]] = weakref.WeakKeyDictionary()

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

    def received(self, plan: bytes, tables: Mapping[str, Source]) -> Recipe:
        """The recipe of a serialized Substrait plan, in which names mean what `tables` has. QueryError."""
        return self._local.received(plan, {name: self._known(source) for name, source in tables.items()})

    # -- answers ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def stream(self, recipe: Recipe) -> Iterator[pa.RecordBatch]:
        """As `Answering.stream`."""

    def schema(self, recipe: Recipe) -> pa.Schema:
        return self._local.schema(recipe)

    def collect(self, recipe: Recipe) -> pa.Table:
        """Run `recipe` and return its answer, in memory. Filters and selections keep the order of the rows."""
        batches = list(self.stream(recipe))
        return pa.Table.from_batches(batches) if batches else self.schema(recipe).empty_table()

    def settle(self, recipe: Recipe) -> Source:
        """As `Engine.settle`."""
        return set_down(self.stream(recipe), self.schema(recipe), self.spill)

    def plan_text(self, recipe: Recipe) -> str:
        return self._local.plan_text(recipe)

    def moved(self, recipe: Recipe) -> str:
        """Nothing is known of it, where who inherits does not know better."""
        del recipe
        return ""

    def readings(self, recipe: Recipe) -> list[Reading]:
        """How much `recipe` reads of each of its tables, on which nodes."""
        return self._local.readings(self._near(recipe))

    # -- private ------------------------------------------------------------------------------------------------------

    def _near(self, recipe: Recipe) -> Recipe:
        """Return `recipe` over what its sources stand for, which can be read here."""
        return self._local.over(recipe, {source: origin_of(source) for _, source in recipe.reads})

    def _brought(self, recipe: Recipe) -> tuple[Recipe, Reads]:
        """Return `recipe` to be read here, and what it reads so and had to be brought for it, which is noted."""
        from eau2.query.pruning import chunks_to_read  # here: the engine takes 0.3 s to import

        away = {source: origin_of(source).away() for source in dict.fromkeys(source for _, source in recipe.reads)}
        chosen = chunks_to_read(recipe)
        near = self._near(recipe)  # which brings some
        tables, moved = [], 0
        for source, before in away.items():
            origin, chunks = origin_of(source), chosen.get(source)
            tables.append(table_read(origin, chunks, before))
            brought = before if chunks is None else before - (origin.away() - set(chunks))
            moved += sum(origin.manifest.chunk_sizes[chunk] for chunk in brought)
        reads = Reads(tuple(tables), moved)
        note(reads)
        return near, reads

    def _stand_in(self, source: Source | None) -> Source | None:
        return None if source is None else self._known(source)

    def _known(self, source: Source) -> Absent:
        """Return what stands for `source` in plans: the same one as long as somebody holds a recipe over it."""
        with self._standing:
            known = self._absent.get(source)
            found = known() if known is not None else None
            if found is None:
                found = Absent(source)
                self._absent[source] = weakref.ref(found)
            return found


def origin_of(source: Source) -> Source:
    assert isinstance(source, Absent)
    return source.origin


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

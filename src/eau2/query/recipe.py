"""A recipe: how a query is built, so that it can be built again over fewer chunks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from eau2.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datafusion import DataFrame
    from datafusion.plan import LogicalPlan

    from eau2.query.placeholders import Values
    from eau2.query.source import Source

    Step = tuple[Callable[..., DataFrame], tuple["Recipe", ...]]


STEPS_MAX = 1000  # one after the other: each nests the plan deeper, and at 8000 the engine overflows its stack

# By whatever names they were called. The text of a plan has the first rows of VALUES only.
_TIME = re.compile(r"\b(?:now|current_date|current_time)\(\)|^\s*Values: .*\.\.\.$", re.MULTILINE)


class Planning(Protocol):
    """What a recipe is built with: names become tables, whole or with some chunks left out."""

    def sql(self, query: str, tables: Mapping[str, Source], *, values: Values, as_written: bool) -> DataFrame: ...

    def table(self, source: Source) -> DataFrame: ...

    def received(self, plan: bytes, tables: Mapping[str, Source]) -> DataFrame: ...


@dataclass(frozen=True, eq=False)
class Recipe:
    """A query over sources that are held. Immutable; may be built by several threads at once."""

    begin: Callable[[Planning], DataFrame]
    reads: tuple[tuple[str, Source], ...]  # every table by the name it has in the plan
    planned: DataFrame  # built over all chunks
    steps: tuple[Step, ...] = ()
    depth: int = 0  # of the steps, also through the recipes that they take
    text: str = ""  # what it began as, in SQL; "" for a plan that was received

    def tells_time(self) -> bool:
        """Whether it asks what time it is, or may do so: a plan of it has the time at which it was built. 10 us."""
        return _TIME.search(self.planned.logical_plan().display_indent()) is not None

    def build(self, planning: Planning) -> DataFrame:
        """Return the query built with `planning`."""
        frame = self.begin(planning)
        for step, others in self.steps:
            frame = step(frame, *(other.build(planning) for other in others))
        return frame

    def then(self, step: Callable[..., DataFrame], *others: Recipe) -> Recipe:
        """Return the recipe that applies `step` to what this and `others` build. Raises what `step` raises, and
        QueryError after STEPS_MAX steps."""
        depth = 1 + max(recipe.depth for recipe in (self, *others))
        if depth > STEPS_MAX:
            raise QueryError(
                f"the frame was made in over {STEPS_MAX:,} steps, one of another",
                hint="store.put() it in between, and go on from what is stored; or say it in fewer steps",
            )
        planned = step(self.planned, *(recipe.planned for recipe in others))
        reads = dict.fromkeys(read for recipe in (self, *others) for read in recipe.reads)
        return Recipe(self.begin, tuple(reads), planned, (*self.steps, (step, others)), depth, self.text)


class Replaced:
    """`planning`, in which each source is another: a recipe that is built with it reads those."""

    def __init__(self, planning: Planning, sources: Mapping[Source, Source]) -> None:
        self._planning = planning
        self._sources = sources

    def sql(self, query: str, tables: Mapping[str, Source], *, values: Values, as_written: bool) -> DataFrame:
        others = {name: self._sources[source] for name, source in tables.items()}
        return self._planning.sql(query, others, values=values, as_written=as_written)

    def table(self, source: Source) -> DataFrame:
        return self._planning.table(self._sources[source])

    def received(self, plan: bytes, tables: Mapping[str, Source]) -> DataFrame:
        return self._planning.received(plan, {name: self._sources[source] for name, source in tables.items()})


def plan_node(plan: LogicalPlan) -> Any:
    """Return what the top of `plan` is, as the engine's class for it; None for the few that it has none for."""
    try:
        return plan.to_variant()
    except Exception:  # the engine raises a bare one
        return None

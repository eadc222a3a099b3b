"""A recipe: how a query is built, so that it can be built again over fewer chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datafusion import DataFrame
    from datafusion.plan import LogicalPlan

    from eau2.query.source import Source


class Planning(Protocol):
    """What a recipe is built with: names become tables, whole or with some chunks left out."""

    def sql(self, query: str, tables: Mapping[str, Source], *, as_written: bool) -> DataFrame: ...

    def table(self, source: Source) -> DataFrame: ...


@dataclass(frozen=True, eq=False)
class Recipe:
    """A query over sources that are held. Immutable; may be built by several threads at once."""

    build: Callable[[Planning], DataFrame]
    reads: tuple[tuple[str, Source], ...]  # every table by the name it has in the plan
    planned: DataFrame  # built over all chunks

    def then(self, step: Callable[..., DataFrame], *others: Recipe) -> Recipe:
        """Return the recipe that applies `step` to what this and `others` build. Raises what `step` raises."""
        recipes = (self, *others)
        planned = step(*(recipe.planned for recipe in recipes))

        def build(planning: Planning) -> DataFrame:
            return step(*(recipe.build(planning) for recipe in recipes))

        reads = dict.fromkeys(read for recipe in recipes for read in recipe.reads)
        return Recipe(build, tuple(reads), planned)


def plan_node(plan: LogicalPlan) -> Any:
    """Return what the top of `plan` is, as the engine's class for it; None for the few that it has none for."""
    try:
        return plan.to_variant()
    except Exception:  # the engine raises a bare one
        return None

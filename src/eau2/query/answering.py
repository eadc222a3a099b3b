"""The seam of queries: what a frame asks of the engine of its store, wherever that has its queries run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa
    from datafusion import DataFrame

    from eau2.query.engine import Reading
    from eau2.query.placeholders import Values
    from eau2.query.queries import Queries
    from eau2.query.recipe import Recipe
    from eau2.query.shipping import WorkerProcesses
    from eau2.query.source import Source
    from eau2.query.spill import SpillFolder


class Answering(Protocol):
    """What plans recipes and runs them. Thread-safe."""

    threads: int  # of this process, for the caller's functions
    workers: WorkerProcesses  # likewise
    spill: SpillFolder
    queries: Queries  # those that run, and the last that ran

    def sql(
        self,
        query: str,
        resolve: Callable[[str], Source | None],
        names: Callable[[], Sequence[str]] | None = None,
        values: Values | None = None,
    ) -> Recipe:
        """Plan `query`, in which a name means what `resolve` returns. `names` is asked for a hint, `values` are of its
        parameters.

        Raises UnknownTable, UnknownColumn, QueryError, and whatever `resolve` raises.
        """

    def received(self, plan: bytes, tables: Mapping[str, Source]) -> Recipe:
        """Return the recipe of a serialized Substrait plan, in which names mean what `tables` has. QueryError."""

    def scan(self, source: Source) -> Recipe:
        """Return the recipe that reads all of `source`. QueryError when the engine cannot take its columns."""

    def extend(self, step: Callable[..., DataFrame], *recipes: Recipe) -> Recipe:
        """Return the recipe that applies `step` to what `recipes` build. UnknownColumn, QueryError."""

    def schema(self, recipe: Recipe) -> pa.Schema:
        """Return the columns of the answer."""

    def collect(self, recipe: Recipe) -> pa.Table:
        """Run `recipe` and return its answer, in memory. Filters and selections keep the order of the rows."""

    def count(self, recipe: Recipe) -> int:
        """Run `recipe` and return the number of its rows."""

    def stream(self, recipe: Recipe) -> Iterator[pa.RecordBatch]:
        """Run `recipe` and yield its answer as it comes: memory stays bounded. In order as `collect`."""

    def first(self, recipe: Recipe, rows: int) -> Iterator[pa.RecordBatch]:
        """Run `recipe` and yield batches that begin with its first `rows` rows, reading no more than that takes."""

    def settle(self, recipe: Recipe) -> Source:
        """Run `recipe` and return its answer as a Source, in memory when it is small, else in files without a name."""

    def plan_text(self, recipe: Recipe) -> str:
        """Return the engine's plan."""

    def readings(self, recipe: Recipe) -> list[Reading]:
        """Return how much `recipe` reads of each of its tables. Runs nothing."""

    def moves(self, recipe: Recipe) -> str:
        """Return which parts of `recipe` run where, and what moves between them; "" where nothing does."""

    def moved(self, recipe: Recipe) -> str:
        """Return what `recipe` did when it ran last here: which parts ran where, and what moved. "" where that is not
        known, or nothing moves. Asks nobody."""

    def close(self) -> None:
        """Let go of what was made, and end what runs. May be called again."""

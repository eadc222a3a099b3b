"""One query on many nodes: cut and run, or gathered when it cannot be cut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

import pyarrow as pa
from datafusion import SessionContext

from eau2.distributed import gathered
from eau2.distributed.absent import Absent
from eau2.distributed.cut import Cut
from eau2.distributed.explanation import Explanation, Step
from eau2.distributed.fragment import CannotCut
from eau2.distributed.joins import mark_null_aware
from eau2.distributed.parts import Part, Where
from eau2.distributed.stages import Estimated, Running, described
from eau2.distributed.substrait import Dialect, reads, register
from eau2.errors import QueryError
from eau2.query.pruning import are_enough
from eau2.query.reads import table_read
from eau2.query.recipe import plan_node
from eau2.query.sessions import consumed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from datafusion.plan import LogicalPlan

    from eau2.distributed.fragment import Workers
    from eau2.distributed.parts import Output
    from eau2.distributed.substrait import Rel
    from eau2.query.engine import Engine
    from eau2.query.reads import TableRead
    from eau2.query.recipe import Recipe
    from eau2.query.source import Source

_NUMBERED = re.compile(r"__\w+_\d+")  # names that the engine gives, each time others


class Query:
    """A run of a recipe, over `chunks` of its sources. A context: what it has made on the nodes is freed at its end."""

    def __init__(
        self,
        recipe: Recipe,
        chunks: Mapping[Source, Sequence[int]],
        local: Engine,
        workers: Workers,
        *,
        gather_bytes_max: int,
    ) -> None:
        self._recipe = recipe
        self._chunks = chunks
        self._local = local
        self._workers = workers
        self._text = local.plan_text(recipe)
        times = max(1, self._text.count("TableScan:")) / max(1, len(self._chunks))  # that a table is read, about
        sizes = (source.manifest.chunk_sizes[chunk] for source, chunks in self._chunks.items() for chunk in chunks)
        size = int(sum(sizes) * times)
        self._estimated = Estimated(workers, size, gather_bytes_max=gather_bytes_max)
        self._running = Running(workers, size, gather_bytes_max=gather_bytes_max)
        self._uncut = ""
        self._at_caller = "nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def answer(self) -> Iterator[pa.RecordBatch]:
        """Run the query, and return its answer with the columns and types of its plan.

        What runs on the nodes has run by then, and what it made has come here: what is left needs no node.
        """
        schema = self._recipe.planned.schema()
        try:
            batches = self._answer()
        except (CannotCut, RecursionError) as why:  # it is nested deeper than Python goes
            batches = self._gathered(str(why))
        return (conformed(batch, schema) for batch in batches)

    def planned(self) -> Explanation:
        """Return how the query is cut, by guesses of what its parts make."""
        self._plan()
        return self._explanation(self._estimated, ran=False)

    def ran(self) -> Explanation:
        """Return how the query has run."""
        return self._explanation(self._running, ran=True)

    # -- private ------------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[TableRead, ...]:
        """Return what it reads: chunks where they are, but rows that no node has, which are given to one."""
        return tuple(
            table_read(source.origin, chunks, () if source.origin.places else chunks)
            for source, chunks in self._chunks.items()
            if isinstance(source, Absent)
        )

    def _explanation(self, runs: Estimated, *, ran: bool) -> Explanation:
        steps = (
            Step(what, where.value, out.move, out.rows, out.bytes, out.moved_rows, out.moved_bytes)
            for what, where, out in runs.outputs
        )
        nodes = tuple(self._workers.nodes)
        read = self._read() if ran else ()
        given = sum(each.bytes - each.local_bytes for each in read)
        return Explanation(tuple(steps), self._at_caller, nodes, runs.partitions, ran, self._uncut, read, given)

    def _placed(self, runs: Estimated) -> tuple[Cut, Part]:
        tables: dict[str, tuple[Absent, Sequence[int]]] = {}
        for name, source in self._recipe.reads:
            assert isinstance(source, Absent)
            if tables.setdefault(name, (source, self._chunks[source]))[0] is not source:
                raise CannotCut(f"two versions of {name!r} are read")
        cut = Cut(Dialect(), tables, runs)
        plan = self._recipe.planned.optimized_logical_plan()
        joins = [" null_aware" in each.display() for each in _walk(plan) if type(plan_node(each)).__name__ == "Join"]
        if self._text.count(" null_aware") != sum(joins):
            raise CannotCut("it has a NOT IN inside of an expression")
        rel = self._relation(cut.dialect)
        part = cut.place(mark_null_aware(rel, joins) if any(joins) else rel)
        self._at_caller = described(part.rel, cut.scans) if part.where is Where.ONE else "nothing"
        return cut, part

    def _relation(self, dialect: Dialect) -> Rel:
        """Return the plan, also where columns that it does not read are of types that cannot be said in Substrait."""
        try:
            return dialect.relation(self._recipe.planned)
        except CannotCut:
            if self._recipe.tells_time():
                raise  # the chunks to read were chosen by the time that this plan has
            others: dict[Source, Source] = {
                source: _without(source, needed, dialect) for source, needed in self._needs().items()
            }
            if all(source is other for source, other in others.items()):
                raise
        try:
            return dialect.relation(self._again(others).planned)
        except QueryError as error:
            raise CannotCut(error.message) from None

    def _needs(self) -> dict[Absent, gathered.Needed]:
        return gathered.needs(self._recipe)  # type: ignore[return-value]  # all that it reads are

    def _again(self, sources: Mapping[Source, Source]) -> Recipe:
        """Return the recipe over other sources, which has the same plan, but for the time that it tells."""
        recipe = self._local.over(self._recipe, sources)
        if recipe.tells_time():
            one, other = ([each.columns for each in gathered.needs(of).values()] for of in (self._recipe, recipe))
            is_same = one == other
        else:
            is_same = _NUMBERED.sub("", self._text) == _NUMBERED.sub("", self._local.plan_text(recipe))
        if not is_same:
            raise QueryError("the engine planned one query in two ways")
        return recipe

    def _plan(self) -> None:
        try:
            cut, part = self._placed(self._estimated)
            if part.where is not Where.ONE:
                cut.stage(part, in_order=part.in_order).move = "gather"
        except (CannotCut, RecursionError) as why:
            self._stages(self._estimated, str(why))

    def _answer(self) -> Iterator[pa.RecordBatch]:
        cut, part = self._placed(self._running)
        if part.where is not Where.ONE:
            output = cut.stage(part, in_order=part.in_order)
            output.move = "gather"
            return iter(self._running.read(output))
        cut.dialect.schema(part.rel)  # or it cannot be read
        session = SessionContext()
        for name in dict.fromkeys(reads(part.rel)):
            output = cut.inputs[name]
            parts = 1 if output.in_order else self._local.threads
            register(session, name, self._running.read(output), output.schema, parts)
        return self._local.stream(self._local.planned(consumed(session, cut.dialect.encode(part.rel))))

    def _stages(self, runs: Estimated, why: str) -> dict[Absent, tuple[Output, list[int]]]:
        """Run the stages that have what the query needs of each table."""
        runs.outputs.clear()
        self._uncut = why
        self._at_caller = "the query"
        found = {}
        for source, needed in self._needs().items():
            cut = Cut(Dialect(), {name: (source, self._chunks[source]) for name, _ in self._recipe.reads}, runs)
            found[source] = gathered.stage(cut, source, needed, self._chunks[source])
        return found

    def _gathered(self, why: str) -> Iterator[pa.RecordBatch]:
        """Run the query here, over what it needs of its tables."""
        self._running.close()
        sources: dict[Source, Source] = {
            source: gathered.Gathered(source, columns, self._running.read(output))
            for source, (output, columns) in self._stages(self._running, why).items()
        }
        again = self._again(sources)
        if again.tells_time():
            again = self._local.fixed(again)
            if not are_enough(self._chunks, self._recipe, again.planned):
                self._chunks = {source: range(len(source.manifest.chunk_rows)) for source in self._chunks}
                return self._gathered(why)
        return self._local.stream(again)


def _without(source: Absent, needed: gathered.Needed, dialect: Dialect) -> Absent:
    """Return `source`, where it has columns that are not read and cannot be said in Substrait, with others for them."""
    if needed.columns is None:
        return source
    unread = [field for field in source.schema if field.name not in needed.columns]
    unsaid = {field.name: pa.bool_() for field in unread if not dialect.has(field.type)}
    return source.with_types(unsaid) if unsaid else source


def _walk(plan: LogicalPlan) -> Iterator[LogicalPlan]:
    yield plan
    for each in plan.inputs():
        yield from _walk(each)


def conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return `batch` with the names and types of `schema`: zones of times come out as UTC in places."""
    if batch.schema.equals(schema):
        return batch
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)

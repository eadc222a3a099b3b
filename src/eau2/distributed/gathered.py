"""Queries that are not cut: the rows they need come to the caller, and the engine runs them there as they are.

Only the columns that the optimized plan reads come, and only rows that pass the filter right above a table. The plan is
made again over what has come, so it is the same plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from eau2.distributed.fragment import CannotCut
from eau2.distributed.parts import Scan, Where
from eau2.distributed.substrait import VOLATILE
from eau2.query.recipe import plan_node
from eau2.query.source import Source
from eau2.store.nodes import MappedFrame
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from datafusion.plan import LogicalPlan

    from eau2.distributed.absent import Absent
    from eau2.distributed.cut import Cut
    from eau2.distributed.parts import Output
    from eau2.query.recipe import Recipe


class Gathered(Source):
    """Rows of a stored frame that have come to the caller: of some columns; the others are missing everywhere."""

    def __init__(self, absent: Absent, columns: Sequence[int], batches: Sequence[pa.RecordBatch]) -> None:
        super().__init__(absent.key, absent.version, Manifest.of(absent.schema, []), MappedFrame(()), None)
        self._rows = self._widened(batches, columns)

    def batches(self, chunks: Iterable[int] | None = None) -> list[pa.RecordBatch]:
        return self._rows

    def _widened(self, batches: Sequence[pa.RecordBatch], columns: Sequence[int]) -> list[pa.RecordBatch]:
        most = max((batch.num_rows for batch in batches), default=0)
        place = {column: index for index, column in enumerate(columns)}
        missing = {
            index: pa.nulls(most, field.type) for index, field in enumerate(self.schema) if index not in place
        }  # once for all batches
        return [
            pa.RecordBatch.from_arrays(
                [
                    batch.column(place[index]) if index in place else missing[index].slice(0, batch.num_rows)
                    for index in range(len(self.schema))
                ],
                schema=self.schema,
            )
            for batch in batches
        ]


def stage(cut: Cut, source: Absent, needed: Needed, chunks: Sequence[int]) -> tuple[Output, list[int]]:
    """Run the stage that has what is needed of `source`; return what it made, and which columns these are."""
    return _passing(cut, source, needed) or _whole(cut, source, needed, chunks)


def _passing(cut: Cut, source: Absent, needed: Needed) -> tuple[Output, list[int]] | None:
    """Run the stage that has the rows of `source` that pass its filter; None when that cannot be said in Substrait."""
    if needed.filter is None:
        return None
    frame = cut.dialect.session.create_dataframe_from_logical_plan(needed.filter)
    try:
        part = cut.place(cut.dialect.relation(frame))
        if part.where is not Where.NODES:
            return None
        output = cut.stage(part, in_order=part.in_order)
    except (CannotCut, RecursionError):
        return None
    output.move = "gather"
    return output, [source.schema.get_field_index(name) for name in frame.schema().names]


def _whole(cut: Cut, source: Absent, needed: Needed, chunks: Sequence[int]) -> tuple[Output, list[int]]:
    """Run the stage that has all rows of `chunks`, in the columns that are needed and those that cannot be left out."""
    columns = [
        index
        for index, field in enumerate(source.schema)
        if needed.columns is None or field.name in needed.columns or not (field.nullable and _has_nulls(field.type))
    ]
    scan = Scan(source, tuple(columns or [0]), tuple(chunks))
    return cut.rows(scan), list(scan.columns)


class Needed:
    """What a plan reads of one table."""

    def __init__(self) -> None:
        self.columns: set[str] | None = set()  # None: all of them
        self.filter: LogicalPlan | None = None  # of its rows, where one can be told
        self.scans = 0


def needs(recipe: Recipe) -> dict[Source, Needed]:
    """Return what the optimized plan of `recipe` reads of each of its sources."""
    plan = recipe.planned.optimized_logical_plan()
    found = {source: Needed() for _, source in recipe.reads}
    tells_time = recipe.tells_time()  # it is planned again over what has come: by then other rows may pass
    by_name: dict[str, set[Source]] = {}
    for name, source in recipe.reads:
        by_name.setdefault(name, set()).add(source)
    scans = list(_scans(plan, None))
    if len(scans) != plan.display_indent().count("TableScan:") or any(len(each) > 1 for each in by_name.values()):
        for needed in found.values():
            needed.columns = None  # tables in subqueries of expressions, or two of one name: it is not known which
        return found
    for node, above in scans:
        if node.table_name() not in by_name:
            continue  # what a recursive query has found so far
        (source,) = by_name[node.table_name()]
        needed = found[source]
        needed.scans += 1
        needed.filter = above if needed.scans == 1 and not tells_time else None
        if needed.columns is not None:
            needed.columns |= {name for _, name in node.projection()}
    return found


def _scans(plan: LogicalPlan, above: LogicalPlan | None) -> Iterator[tuple[Any, LogicalPlan | None]]:
    """Yield each table that the plan reads, and the plan of its filter if it has one that always says the same."""
    node = plan_node(plan)
    kind = type(node).__name__
    if kind == "TableScan":
        yield node, above
        return
    text = plan.display()
    is_filter = kind == "Filter" and not any(f"{name}(" in text for name in VOLATILE)
    for each in plan.inputs():
        yield from _scans(each, plan if is_filter else None)


def _has_nulls(type_: pa.DataType) -> bool:
    """Whether a column of `type_` can be missing everywhere, as Arrow makes it."""
    types = pa.types
    return not (types.is_nested(type_) or types.is_run_end_encoded(type_) or isinstance(type_, pa.BaseExtensionType))

"""Which chunks can hold no row of the answer: a filter, asked of what the manifest knows of each chunk.

The filters of the optimized plan are rewritten over a small table with a row a chunk (`min:i max:i nulls:i rows`, as in
the manifest) and the engine itself evaluates them, so that its rules of comparing and casting hold. What is not
understood counts as true, and so does an unknown bound: a chunk is skipped only when no row of it can pass.
"""

from __future__ import annotations

import re
from functools import reduce
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from datafusion import Expr, col, functions, lit

from eau2.values.key import prefix_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datafusion import DataFrame, SessionContext
    from datafusion.plan import LogicalPlan

    from eau2.frame.recipe import Recipe
    from eau2.frame.source import Source

LIST_LENGTH_MAX = 200  # of IN: longer lists are not looked at
_COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
_MIRRORED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


class Pruner:
    """Says which chunks of each source a query has to read. Thread-safe."""

    def __init__(self, session: SessionContext) -> None:
        self._session = session  # any: it only evaluates

    def choose(self, recipe: Recipe) -> dict[Source, list[int]]:
        """Return the chunks to read of each source of which some can be skipped; the others are not in it.

        Costs nothing where every source has one chunk, about a millisecond for hundreds.
        """
        sources: dict[str, Source] = {}
        doubtful = set()
        for name, read in recipe.reads:
            if sources.setdefault(name, read) is not read:
                doubtful.add(name)  # two versions under one name cannot be told apart in the plan
        if all(len(source.buffers) <= 1 for source in sources.values()):
            return {}
        plan = recipe.planned.optimized_logical_plan()
        scans = list(_scans(plan, None))
        if sum(1 for _ in re.finditer("TableScan:", plan.display_indent())) != len(scans):
            return {}  # a subquery inside an expression reads a table, perhaps one that another scan filters
        kept: dict[Source, set[int]] = {}
        for name, predicate in scans:
            source = sources.get(name)
            if source is None or name in doubtful or len(source.buffers) <= 1:
                continue
            chunks = range(len(source.buffers)) if predicate is None else self._survivors(source, predicate)
            kept.setdefault(source, set()).update(chunks)
        return {source: sorted(chunks) for source, chunks in kept.items() if len(chunks) < len(source.buffers)}

    def _survivors(self, source: Source, predicate: Expr) -> list[int]:
        everything = list(range(len(source.buffers)))
        condition = _Ranges(source).may_hold(predicate)
        if condition is None:
            return everything
        try:
            rows = self._known(source).select(functions.coalesce(condition, lit(True)).alias("may")).collect()
        except Exception:  # a cast of a bound that fails says nothing of the rows: then the query itself will say it
            return everything
        may = [value for batch in rows for value in batch.column(0).to_pylist()]
        return [index for index, value in enumerate(may) if value] if len(may) == len(everything) else everything

    def _known(self, source: Source) -> DataFrame:
        table = source.manifest.table
        known = {"rows": table.column("rows")}
        for index in range(len(source.schema)):
            known[f"nulls:{index}"] = table.column(f"nulls:{index}")
            if f"min:{index}" in table.column_names:
                bounds = table.column(f"min:{index}"), table.column(f"max:{index}")
                known[f"min:{index}"], known[f"max:{index}"] = _in_engine_order(*bounds)
        return self._session.read_batches(pa.table(known).combine_chunks().to_batches())


def _in_engine_order(least: pa.ChunkedArray, most: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Widen bounds of floating point to the engine's order, in which -NaN < -inf, -0.0 < 0.0 and inf < NaN.

    Where there is a NaN its sign is not known, and nothing can be said.
    """
    type_ = least.type
    if not pa.types.is_floating(type_):
        return least, most
    unknown = pa.scalar(None, type_)
    odd = pc.fill_null(pc.is_nan(most), False)
    least = pc.if_else(pc.equal(least, 0.0), pa.scalar(-0.0, type_), least)
    most = pc.if_else(pc.equal(most, 0.0), pa.scalar(0.0, type_), most)
    return pc.if_else(odd, unknown, least), pc.if_else(odd, unknown, most)


def _scans(plan: LogicalPlan, predicate: Expr | None) -> Iterator[tuple[str, Expr | None]]:
    """Yield each table that the plan reads, with the filter right above it. Not those in subqueries in expressions."""
    node = plan.to_variant()
    kind = type(node).__name__
    if kind == "TableScan":
        filters = [*map(_expression, node.filters()), *([] if predicate is None else [predicate])]
        yield node.table_name(), reduce(lambda one, other: one & other, filters) if filters else None
        return
    below = _expression(node.predicate()) if kind == "Filter" else None
    for each in plan.inputs():
        yield from _scans(each, below)


class _Ranges:
    """Rewrites a predicate over the columns of `source` into one over what is known of its chunks."""

    def __init__(self, source: Source) -> None:
        self._schema = source.schema
        self._known = set(source.manifest.table.column_names)
        self._rewrites: dict[str, Callable[[Expr, Any], Expr | None]] = {
            "BinaryExpr": self._binary,
            "InList": self._in_list,
            "Like": self._like,
            "IsNull": self._is_null,
            "IsNotNull": self._is_not_null,
            "Column": lambda predicate, node: self._boolean(predicate, "max"),
            "Not": self._not,
            "IsTrue": lambda predicate, node: self.may_hold(_operands(predicate)[0]),
        }

    def may_hold(self, predicate: Expr) -> Expr | None:
        """Return what is true (or null) of every chunk that has a row of which `predicate` is true; None: nothing."""
        node = predicate.to_variant()
        rewrite = self._rewrites.get(type(node).__name__)
        return None if rewrite is None else rewrite(predicate, node)

    # -- private: one a kind of expression --------------------------------------------------------------------------

    def _binary(self, predicate: Expr, node: Any) -> Expr | None:
        left, right = _operands(predicate)
        op = node.op()
        if op == "AND":
            known = [each for each in (self.may_hold(left), self.may_hold(right)) if each is not None]
            return reduce(lambda one, other: one & other, known) if known else None
        if op == "OR":
            one, other = self.may_hold(left), self.may_hold(right)
            return None if one is None or other is None else one | other
        if op not in _COMPARISONS:
            return None
        if _is_literal(left) and not _is_literal(right):
            left, right, op = right, left, _MIRRORED[op]
        return self._compare(left, op, right) if _is_literal(right) else None

    def _in_list(self, predicate: Expr, node: Any) -> Expr | None:
        subject, *values = _operands(predicate)
        if len(values) > LIST_LENGTH_MAX or not all(_is_literal(value) for value in values):
            return None
        negated = node.negated()
        parts = [self._compare(subject, "!=" if negated else "=", value) for value in values]
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return None
        return reduce((lambda one, other: one & other) if negated else (lambda one, other: one | other), known)

    def _like(self, predicate: Expr, node: Any) -> Expr | None:
        subject, pattern = _operands(predicate)
        # The class does not say whether case counts; the text does. "ILIKE" in the pattern itself only skips less.
        if node.negated() or node.escape_char() or "ILIKE" in predicate.canonical_name():
            return None
        if not _is_literal(pattern):
            return None
        text = pattern.python_value()
        text = text.as_py() if isinstance(text, pa.Scalar) else text
        prefix = re.split(r"[%_\\]", text)[0] if isinstance(text, str) else ""
        if not prefix:
            return None
        above, end = self._compare(subject, ">=", lit(prefix)), prefix_end(prefix)
        below = None if end is None else self._compare(subject, "<", lit(end))
        return above if above is None or below is None else above & below

    def _is_null(self, predicate: Expr, node: Any) -> Expr | None:
        nulls = self._column(_operands(predicate)[0], "nulls")
        return None if nulls is None else nulls > lit(0)

    def _is_not_null(self, predicate: Expr, node: Any) -> Expr | None:
        nulls = self._column(_operands(predicate)[0], "nulls")
        return None if nulls is None else nulls < col("rows")

    def _boolean(self, predicate: Expr, side: str) -> Expr | None:
        return self._column(predicate, side) if self._type(predicate) == pa.bool_() else None

    def _not(self, predicate: Expr, node: Any) -> Expr | None:
        least = self._boolean(_operands(predicate)[0], "min")
        return None if least is None else ~least

    # -- private: what they are made of -------------------------------------------------------------------------------

    def _compare(self, subject: Expr, op: str, value: Expr) -> Expr | None:
        """Rewrite `subject op value`. `subject` is a column, or a cast of one that keeps the order."""
        least, most = self._bound(subject, "min"), self._bound(subject, "max")
        if least is None or most is None:
            return None
        nulls = self._column(_uncast(subject), "nulls")
        if op == "=":
            may = (least <= value) & (most >= value)
        elif op == "!=":
            may = (least != value) | (most != value)
        elif op in ("<", "<="):
            may = least < value if op == "<" else least <= value
        else:
            may = most > value if op == ">" else most >= value
        # Null is never true; a chunk of nulls has no bounds, and only this says so.
        return may if nulls is None else functions.coalesce(may, lit(True)) & (nulls < col("rows"))

    def _bound(self, subject: Expr, side: str) -> Expr | None:
        if type(subject.to_variant()).__name__ == "Cast":
            column, target = _uncast(subject), subject.canonical_name().rpartition(" AS ")[2][:-1]
            type_, bound = self._type(column), self._column(column, side)
            if type_ is None or bound is None or not _keeps_order(type_, target):
                return None
            return functions.arrow_cast(bound, target)
        return self._column(subject, side)

    def _column(self, subject: Expr, side: str) -> Expr | None:
        index = self._index(subject)
        name = f"{side}:{index}"
        return col(f'"{name}"') if index >= 0 and name in self._known else None

    def _type(self, subject: Expr) -> pa.DataType | None:
        index = self._index(subject)
        return self._schema.field(index).type if index >= 0 else None

    def _index(self, subject: Expr) -> int:
        node = subject.to_variant()
        return int(self._schema.get_field_index(node.name())) if type(node).__name__ == "Column" else -1


def _operands(expression: Expr) -> list[Expr]:
    return [_expression(operand) for operand in expression.rex_call_operands()]


def _expression(value: Any) -> Expr:
    """`value` as an expression that has operators: the engine hands out its raw ones in places."""
    return value if isinstance(value, Expr) else Expr(value)


def _is_literal(expression: Expr) -> bool:
    return type(expression.to_variant()).__name__ == "Literal"


def _uncast(subject: Expr) -> Expr:
    return _operands(subject)[0] if type(subject.to_variant()).__name__ == "Cast" else subject


def _keeps_order(type_: pa.DataType, target: str) -> bool:
    """Whether casting from `type_` to the engine's type `target` never swaps two values.

    Between time with and without zone it does, where clocks are put back; so do text and numbers.
    """
    kind = target.partition("(")[0]
    numbers = ("Int8", "Int16", "Int32", "Int64", "Float32", "Float64", "Decimal128", "Decimal256")
    if pa.types.is_signed_integer(type_) or pa.types.is_unsigned_integer(type_):
        return kind in (*numbers, "UInt8", "UInt16", "UInt32", "UInt64")
    if pa.types.is_decimal(type_):
        return kind in ("Float64", "Decimal128", "Decimal256")
    if pa.types.is_float32(type_):
        return kind == "Float64"
    if pa.types.is_date(type_):
        return kind in ("Date32", "Date64") or (kind == "Timestamp" and '"' not in target)
    if pa.types.is_timestamp(type_):
        return kind == "Timestamp" and ('"' in target) == (type_.tz is not None)
    return kind in ("Utf8", "LargeUtf8", "Utf8View") and (pa.types.is_string(type_) or pa.types.is_large_string(type_))

"""Which chunks can hold no row of the answer: a filter, asked of what the manifest knows of each chunk.

The filters of the optimized plan are rewritten over the manifest's columns (a row a chunk: `min:i max:i nulls:i rows`).
The engine has made both sides of a comparison one type by then, so nothing is left to interpret but order. What is not
understood counts as true, and so does an unknown bound: a chunk is skipped only when no row of it can pass.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datafusion import Expr

from eau2.query.recipe import plan_node
from eau2.values.key import prefix_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    from datafusion import DataFrame
    from datafusion.plan import LogicalPlan

    from eau2.query.recipe import Recipe
    from eau2.query.source import Source

    May = npt.NDArray[np.bool_] | None  # a flag a chunk: whether it may hold a row; None: nothing is known

LIST_LENGTH_MAX = 200  # of IN: longer lists are not looked at
_MIRRORED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
# Whether a chunk with the least and the most value may have one of which that is true, of whole numbers.
_ORDERS: Mapping[str, Callable[[Any, Any, int], npt.NDArray[np.bool_]]] = {
    "=": lambda least, most, value: (least <= value) & (most >= value),
    "!=": lambda least, most, value: (least != value) | (most != value),
    "<": lambda least, most, value: least < value,
    "<=": lambda least, most, value: least <= value,
    ">": lambda least, most, value: most > value,
    ">=": lambda least, most, value: most >= value,
}
_TEXT = (pa.string(), pa.large_string(), pa.string_view())


def chunks_to_read(recipe: Recipe) -> dict[Source, list[int]]:
    """Return the chunks to read of each source of which some can be skipped; the others are not in it.

    Costs nothing where every source has one chunk, else some 0.2 ms for the plan and 20 us for a comparison.
    """
    sources: dict[str, Source] = {}
    doubtful = set()
    for name, read in recipe.reads:
        if sources.setdefault(name, read) is not read:
            doubtful.add(name)  # two versions under one name cannot be told apart in the plan
    if all(len(source.manifest.chunk_rows) <= 1 for source in sources.values()):
        return {}
    plan = recipe.planned.optimized_logical_plan()
    scans = list(_scans(plan, None))
    if all(predicate is None for _, predicate in scans):
        return {}
    if plan.display_indent().count("TableScan:") != len(scans):
        return {}  # a subquery inside an expression reads a table, perhaps one that another scan filters
    kept: dict[Source, npt.NDArray[np.bool_]] = {}
    for name, predicate in scans:
        source = sources.get(name)
        if source is None or name in doubtful or len(source.manifest.chunk_rows) <= 1:
            continue
        try:
            may = None if predicate is None else _Ranges(source).may_hold(predicate)
        except RecursionError:  # hundreds of conditions, each nested in the one before
            may = None
        # A table that is read twice: what either needs.
        kept[source] = kept.get(source, np.zeros(len(source.manifest.chunk_rows), bool)) | (
            True if may is None else may
        )
    return {source: np.flatnonzero(may).tolist() for source, may in kept.items() if not may.all()}


def _scans(plan: LogicalPlan, predicate: Expr | None) -> Iterator[tuple[str, Expr | None]]:
    """Yield each table that the plan reads, with the filter right above it. Not those in subqueries in expressions."""
    node = plan_node(plan)
    kind = type(node).__name__
    if kind == "TableScan":
        filters = [*map(as_expr, node.filters()), *([] if predicate is None else [predicate])]
        yield node.table_name(), reduce(lambda one, other: one & other, filters) if filters else None
        return
    below = as_expr(node.predicate()) if kind == "Filter" else None
    for each in plan.inputs():
        yield from _scans(each, below)


def are_enough(chunks: Mapping[Source, Sequence[int]], recipe: Recipe, planned: DataFrame) -> bool:
    """Whether `recipe` has to read only `chunks` as `planned`, which is built of it at a later time. The chunks of a
    source that is not in it are all there."""
    needed = chunks_to_read(replace(recipe, planned=planned))
    every = {source: range(len(source.manifest.chunk_rows)) for source in chunks}
    return all(set(needed.get(source, every[source])) <= set(some) for source, some in chunks.items())


class _Ranges:
    """Asks a predicate over the columns of `source` of what is known of its chunks."""

    def __init__(self, source: Source) -> None:
        self._schema = source.schema
        self._table = source.manifest.table
        self._whole = source.manifest.whole_numbers
        self._rewrites: dict[str, Callable[[Expr, Any], May]] = {
            "BinaryExpr": self._binary,
            "InList": self._in_list,
            "Like": self._like,
            "IsNull": self._is_null,
            "IsNotNull": self._is_not_null,
            "Column": lambda predicate, node: self._boolean(predicate, True),
            "Not": lambda predicate, node: self._boolean(operands(predicate)[0], False),
            "IsTrue": lambda predicate, node: self.may_hold(operands(predicate)[0]),
        }

    def may_hold(self, predicate: Expr) -> May:
        """Return a flag a chunk: false only where `predicate` is true of no row. None: nothing can be said."""
        rewrite = self._rewrites.get(predicate.variant_name())
        return None if rewrite is None else rewrite(predicate, predicate.to_variant())

    # -- private: one a kind of expression ----------------------------------------------------------------------------

    def _binary(self, predicate: Expr, node: Any) -> May:
        left, right = operands(predicate)
        op = node.op()
        if op == "AND":
            return _both(self.may_hold(left), self.may_hold(right))
        if op == "OR":
            return _either(self.may_hold(left), self.may_hold(right))
        if op not in _MIRRORED:
            return None
        if _is_literal(left):
            left, right, op = right, left, _MIRRORED[op]
        return self._compare(left, op, _literal(right)) if _is_literal(right) else None

    def _in_list(self, predicate: Expr, node: Any) -> May:
        subject, *values = operands(predicate)
        if len(values) > LIST_LENGTH_MAX or not all(map(_is_literal, values)):
            return None
        if node.negated():
            return reduce(_both, [self._compare(subject, "!=", _literal(value)) for value in values])
        return reduce(_either, [self._compare(subject, "=", _literal(value)) for value in values])

    def _like(self, predicate: Expr, node: Any) -> May:
        subject, pattern = operands(predicate)
        # The class does not say whether case counts; the text does. "ILIKE" in the pattern itself only skips less.
        if node.negated() or node.escape_char() or "ILIKE" in predicate.canonical_name() or not _is_literal(pattern):
            return None
        value = _literal(pattern)
        prefix = re.split(r"[%_\\]", value.as_py())[0] if value.type in _TEXT and value.is_valid else ""
        if not prefix:
            return None
        end = prefix_end(prefix)
        may = self._compare(subject, ">=", pa.scalar(prefix, value.type))
        return may if end is None else _both(may, self._compare(subject, "<", pa.scalar(end, value.type)))

    def _is_null(self, predicate: Expr, node: Any) -> May:
        nulls = self._counts(operands(predicate)[0])
        return None if nulls is None else nulls > 0

    def _is_not_null(self, predicate: Expr, node: Any) -> May:
        nulls = self._counts(operands(predicate)[0])
        return None if nulls is None else nulls < self._rows()

    def _boolean(self, subject: Expr, value: bool) -> May:
        return self._compare(subject, "=", pa.scalar(value))

    # -- private: what they are made of -------------------------------------------------------------------------------

    def _compare(self, subject: Expr, op: str, value: pa.Scalar) -> May:
        """Ask `subject op value`. `subject` is a column, or a cast of one that keeps the order."""
        column = operands(subject)[0] if subject.variant_name() == "Cast" else subject
        index = self._index(column)
        if index < 0 or not value.is_valid:
            return None
        known = self._whole.get(index)
        if known is not None and value.type == self._schema.types[index]:  # as most are: no call of Arrow's, each 10 us
            return _ORDERS[op](*known, value.as_py())
        has_values = self._numbers(f"nulls:{index}") < self._rows()  # null is never true
        if f"min:{index}" not in self._table.column_names:
            return has_values
        bounds = _as_type(self._table.column(f"min:{index}"), self._table.column(f"max:{index}"), value)
        if bounds is None:
            return has_values
        least, most = bounds
        if op == "=":
            may = pc.and_kleene(pc.less_equal(least, value), pc.greater_equal(most, value))
        elif op == "!=":
            may = pc.or_kleene(pc.not_equal(least, value), pc.not_equal(most, value))
        elif op in ("<", "<="):
            may = pc.less(least, value) if op == "<" else pc.less_equal(least, value)
        else:
            may = pc.greater(most, value) if op == ">" else pc.greater_equal(most, value)
        if pa.types.is_floating(value.type):
            may = _near_zero(may, op, least, most, value)
        flags: npt.NDArray[np.bool_] = np.asarray(pc.fill_null(may, True).to_numpy(zero_copy_only=False), bool)
        return np.logical_and(has_values, flags)

    def _counts(self, subject: Expr) -> npt.NDArray[np.int64] | None:
        index = self._index(subject)
        return None if index < 0 or _hides_nulls(self._schema.types[index]) else self._numbers(f"nulls:{index}")

    def _numbers(self, name: str) -> npt.NDArray[np.int64]:
        return np.asarray(self._table.column(name).to_numpy(), np.int64)

    def _rows(self) -> npt.NDArray[np.int64]:
        return self._numbers("rows")

    def _index(self, subject: Expr) -> int:
        if subject.variant_name() != "Column":
            return -1
        return int(self._schema.get_field_index(subject.to_variant().name()))


def _both(one: May, other: May) -> May:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _either(one: May, other: May) -> May:
    return None if one is None or other is None else one | other


def _as_type(
    least: pa.ChunkedArray, most: pa.ChunkedArray, value: pa.Scalar
) -> tuple[pa.ChunkedArray, pa.ChunkedArray] | None:
    """Return the bounds in the type of `value`, or None when that could change their order."""
    type_ = least.type
    if type_ != value.type:
        if not _keeps_order(type_, value.type):
            return None
        try:
            least, most = least.cast(value.type), most.cast(value.type)
        except pa.ArrowInvalid:  # a bound that does not fit: then the query itself will say so
            return None
    if not pa.types.is_floating(value.type):
        return least, most
    if pc.is_nan(value).as_py():
        return None
    # NaN as a bound: there is one in the chunk, of a sign unknown; the engine has -NaN < -inf and inf < NaN.
    known = pc.invert(pc.fill_null(pc.is_nan(most), False))
    unknown = pa.scalar(None, value.type)
    return pc.if_else(known, least, unknown), pc.if_else(known, most, unknown)


def _near_zero(
    may: pa.ChunkedArray, op: str, least: pa.ChunkedArray, most: pa.ChunkedArray, value: pa.Scalar
) -> pa.ChunkedArray:
    """The engine has -0.0 < 0.0, Arrow has them equal, and which of the two a bound was is not known."""
    if value.as_py() != 0.0:
        return may
    zero = {"<": pc.equal(least, value), ">": pc.equal(most, value), "!=": pc.equal(least, value)}.get(op)
    return may if zero is None else pc.or_kleene(may, zero)


def _keeps_order(type_: pa.DataType, target: pa.DataType) -> bool:
    """Whether casting from `type_` to `target` never swaps two values, and is the same in Arrow and in the engine.

    Between time with and without zone it is neither, where clocks are put back; so it is between text and numbers.
    """
    types = pa.types
    if types.is_integer(type_):
        return bool(types.is_integer(target) or types.is_float64(target) or types.is_decimal(target))
    if types.is_decimal(type_):
        return bool(types.is_decimal(target) and target.scale >= type_.scale)
    if types.is_float32(type_):
        return bool(types.is_float64(target))
    if types.is_date32(type_):
        return bool(types.is_date64(target) or (types.is_timestamp(target) and target.tz is None))
    if types.is_timestamp(type_):
        return bool(types.is_timestamp(target) and (target.tz is None) == (type_.tz is None))
    return type_ in _TEXT and target in _TEXT


def _hides_nulls(type_: pa.DataType) -> bool:
    """Whether Arrow, and so the manifest, does not count all nulls of `type_`: not those in what values refer to."""
    if isinstance(type_, pa.BaseExtensionType):
        return _hides_nulls(type_.storage_type)
    return any(is_(type_) for is_ in (pa.types.is_dictionary, pa.types.is_run_end_encoded, pa.types.is_union))


def _is_literal(expression: Expr) -> bool:
    return bool(expression.variant_name() == "Literal")


def _literal(expression: Expr) -> pa.Scalar:
    value: pa.Scalar = expression.python_value()
    return value


def operands(expression: Expr) -> list[Expr]:
    return [as_expr(operand) for operand in expression.rex_call_operands()]


def as_expr(value: Any) -> Expr:
    """`value` as an expression: the engine hands out its raw ones in places."""
    return value if isinstance(value, Expr) else Expr(value)

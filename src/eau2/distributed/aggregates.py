"""Aggregates in two steps: where the rows are, and then over what that came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datafusion import col, lit
from datafusion import functions as f

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datafusion import DataFrame, Expr

    from eau2.distributed.substrait import Rel

_MERGED: dict[str, Callable[[Expr], Expr]] = {
    "sum": f.sum,
    "count": lambda part: f.coalesce(f.sum(part), lit(0)),  # where no node has any rows there is nothing to add up
    "min": f.min,
    "max": f.max,
    "bool_and": f.bool_and,
    "bool_or": f.bool_or,
    "bit_and": f.bit_and,
    "bit_or": f.bit_or,
    "bit_xor": f.bit_xor,
}
_DIGITS_MAX = 32  # of an average of decimals


@dataclass(frozen=True, slots=True)
class SplitAggregate:
    """An aggregate that can be done in two steps. `partial` has the groups' columns, then those of `_columns`."""

    partial: Rel
    group_count: int
    functions: tuple[str, ...]

    def can_merge(self, types: Sequence[pa.DataType]) -> bool:
        """Whether an answer with columns of `types` can be had: not every type has an average by division."""
        pairs = zip(self.functions, types[self.group_count :], strict=True)
        return all(function != "avg" or _divides(type_) for function, type_ in pairs)

    def merge(self, parts: DataFrame, types: Sequence[pa.DataType]) -> DataFrame:
        """Return the answer over `parts`, the rows of all partial aggregates, with columns of `types`."""
        groups = [col(f"c{index}") for index in range(self.group_count)]
        merged: list[Expr] = []
        at = self.group_count
        for function in self.functions:
            for part in _columns(function):
                merged.append(_MERGED[part](col(f"c{at}")).alias(f"m{at}"))
                at += 1
        whole = parts.aggregate(groups, merged)
        schema = whole.schema()
        answer: list[Expr] = [*groups]
        at = self.group_count
        for function, type_ in zip(self.functions, types[self.group_count :], strict=True):
            found = _average(f"m{at}", f"m{at + 1}", type_) if function == "avg" else col(f"m{at}")
            if function == "avg" or schema.field(at).type != type_:  # of structs Substrait can say none
                found = found.cast(type_)
            answer.append(found.alias(f"a{at}"))
            at += len(_columns(function))
        return whole.select(*answer)


def split(rel: Rel) -> SplitAggregate | None:
    """Return `rel`, an aggregate, in two steps, or None when it cannot be: then its rows have to come together."""
    body = rel["aggregate"]
    if len(body.get("groupings", ())) > 1:
        return None
    functions: list[str] = []
    partial: list[dict[str, Any]] = []
    for measure in body.get("measures", ()):
        call = measure["measure"]
        function = call["functionReference"]
        if not _splits(call):
            return None
        functions.append(function)
        partial += [{**measure, "measure": {**call, "functionReference": part}} for part in _columns(function)]
    groups = len(body.get("groupingExpressions", ()))
    return SplitAggregate({"aggregate": {**body, "measures": partial}}, groups, tuple(functions))


def _splits(call: dict[str, Any]) -> bool:
    function = call["functionReference"]
    all_rows = call.get("invocation", "AGGREGATION_INVOCATION_ALL") == "AGGREGATION_INVOCATION_ALL"
    return (function in _MERGED or function == "avg") and all_rows and not call.get("sorts")


def _columns(function: str) -> tuple[str, ...]:
    return ("sum", "count") if function == "avg" else (function,)


def _divides(type_: pa.DataType) -> bool:
    """Whether an average of `type_` is a sum by a count. Of decimals, where a sum has room for a million of them and
    for the four digits more that the average has: else it would come around without a word."""
    if pa.types.is_decimal128(type_):
        return bool(type_.precision <= _DIGITS_MAX)
    return bool(pa.types.is_float64(type_))


def _average(total: str, count: str, type_: pa.DataType) -> Expr:
    divisor = type_ if pa.types.is_floating(type_) else pa.decimal128(20, 0)
    return col(total) / col(count).cast(divisor)

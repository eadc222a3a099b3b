"""Queries each row of whose answer comes from one row of one table: what is known of them before they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eau2.query.pruning import as_expr, operands
from eau2.query.recipe import plan_node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datafusion import DataFrame, Expr

    from eau2.query.source import Source

LOOKED_AT_MAX = 50  # conditions, from the last: each costs more, the more of them there are
MANY = 1 << 15  # values, of which one is rare: of as many rows hardly one is expected to have it
_KINDS = frozenset({"Projection", "Filter", "SubqueryAlias"})


def filters(frame: DataFrame) -> list[Expr] | None:
    """Return what the rows of `frame` are filtered by, [] for all of them; None when it is not row-wise."""
    found: list[Expr] = []
    plan = frame.logical_plan()
    while True:
        node = plan_node(plan)
        kind = type(node).__name__
        if kind == "TableScan":
            return found
        inputs = plan.inputs()
        if kind not in _KINDS or len(inputs) != 1:
            return None
        if kind == "Filter":
            found.append(as_expr(node.predicate()))
        plan = inputs[0]


def let_few_pass(filters: Sequence[Expr], source: Source) -> bool:
    """Whether one of `filters` wants one whole number of a column that has them far apart. 20 us a comparison.

    A guess, by what the manifest knows: it may cost time, never an answer.
    """
    pending = list(filters)
    for _ in range(LOOKED_AT_MAX):
        if not pending:
            break
        predicate = pending.pop()
        if predicate.variant_name() != "BinaryExpr":
            continue
        op, sides = predicate.to_variant().op(), operands(predicate)
        if op == "AND":
            pending.extend(sides)
        elif op == "=" and {side.variant_name() for side in sides} == {"Column", "Literal"}:
            (column,) = (side for side in sides if side.variant_name() == "Column")
            if _spread(source, column.to_variant().name()) >= MANY:
                return True
    return False


def _spread(source: Source, column: str) -> float:
    """How far apart the whole numbers of `column` are in the chunk where that is least; 0 where it is not known."""
    known = source.manifest.whole_numbers.get(source.schema.get_field_index(column))
    return 0.0 if known is None else min((known[1].astype(float) - known[0]).tolist(), default=0.0)

"""What joins allow: which side may go to all nodes, and by what their rows meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eau2.distributed.fragment import CannotCut
from eau2.distributed.substrait import (
    call,
    conjuncts,
    field_of,
    fields,
    inputs_of,
    is_volatile,
    kind_of,
    shifted,
    width,
    with_inputs,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.distributed.substrait import Expression, Rel

_EQUAL = ("equal", "is_not_distinct_from")
# A side may be read whole by every node that has a part of the other, where each row of the answer comes of one row of
# the other, or of one and its match.
_RIGHT_TO_ALL = ("INNER", "LEFT", "LEFT_SEMI", "LEFT_ANTI", "LEFT_MARK")
_LEFT_TO_ALL = ("INNER", "RIGHT", "RIGHT_SEMI", "RIGHT_ANTI", "RIGHT_MARK")


@dataclass(frozen=True, slots=True)
class Join:
    """A join as far as it matters where its rows are. `left_keys` and `right_keys` are equal for rows that meet."""

    kind: str  # INNER, LEFT, OUTER, LEFT_SEMI, ...
    left_keys: tuple[Expression, ...]
    right_keys: tuple[Expression, ...]  # with the right side's own numbers of columns

    @classmethod
    def of(cls, rel: Rel) -> Join:
        """Return what `rel`, a join or a cross product, is."""
        if "cross" in rel:
            return cls("INNER", (), ())
        body = rel["join"]
        boundary = width(body["left"])
        pairs = [
            pair
            for condition in conjuncts(body.get("expression", {}))
            if (pair := _key_pair(condition, boundary)) is not None
        ]
        kind = body["type"].removeprefix("JOIN_TYPE_")
        return cls(kind, tuple(left for left, _ in pairs), tuple(right for _, right in pairs))

    def may_go_to_all(self, *, left: bool) -> bool:
        """Whether every node may read the whole of that side."""
        return self.kind in (_LEFT_TO_ALL if left else _RIGHT_TO_ALL)

    def together(self, left_width: int) -> tuple[frozenset[int], ...]:
        """Return the sets of columns of which rows with equal values are in one partition, after an exchange.

        Not of a side of which rows that are missing come out as nulls: those are where the other side's are.
        """
        found = []
        if self.kind in ("INNER", "LEFT", "LEFT_SEMI", "LEFT_ANTI", "LEFT_MARK"):
            found.append([field_of(key) for key in self.left_keys])
        if self.kind in ("RIGHT_SEMI", "RIGHT_ANTI", "RIGHT_MARK"):
            found.append([field_of(key) for key in self.right_keys])
        if self.kind in ("INNER", "RIGHT"):
            found.append([None if (at := field_of(key)) is None else at + left_width for key in self.right_keys])
        return tuple(frozenset(at for at in keys if at is not None) for keys in found if None not in keys)


def mark_null_aware(rel: Rel, is_null_aware: Sequence[bool]) -> Rel:
    """Return `rel` with those of its joins marked, in the order from above and the left, that stand for NOT IN.

    CannotCut when it has another number of joins.
    """
    flags = iter(is_null_aware)

    def marked(each: Rel) -> Rel:
        kind, body = kind_of(each)
        if kind in ("join", "cross"):
            flag = next(flags, None)
            if flag is None or (flag and body.get("type") != "JOIN_TYPE_LEFT_ANTI"):
                raise CannotCut("its joins are not those of the engine's plan")
            each = {kind: {**body, "nullAware": flag}} if flag else each
        return with_inputs(each, [marked(below) for below in inputs_of(each)])

    found = marked(rel)
    if next(flags, None) is not None:
        raise CannotCut("its joins are not those of the engine's plan")
    return found


def not_in(rel: Rel, left: Rel, right: Rel) -> Rel:
    """Return the rows of `left` that NOT IN `right` leaves, for `rel`, a join marked as null-aware.

    All where `right` has no rows; none where it has a missing value; else those with a value that has no match.
    """
    join = Join.of(rel)
    if len(join.left_keys) != 1 or len(conjuncts(rel["join"]["expression"])) != 1:
        raise CannotCut("it has a NOT IN that depends on the outer row")
    body = {name: value for name, value in rel["join"].items() if name != "nullAware"}
    rows = _count(right, {"literal": {"i64": "1"}})
    values = _count(right, join.right_keys[0])
    none_missing = call("and", call("is_not_null", join.left_keys[0]), call("equal", rows, values))
    condition = call("or", call("equal", rows, {"literal": {"i64": "0"}}), none_missing)
    return {"filter": {"input": with_inputs({"join": body}, [left, right]), "condition": condition}}


def _count(rel: Rel, argument: Expression) -> Expression:
    measure = {
        "functionReference": "count",
        "arguments": [{"value": argument}],
        "invocation": "AGGREGATION_INVOCATION_ALL",
    }
    body = {"input": rel, "groupings": [{}], "measures": [{"measure": measure}]}
    return {"subquery": {"scalar": {"input": {"aggregate": body}}}}


def _key_pair(condition: Expression, boundary: int) -> tuple[Expression, Expression] | None:
    function = condition.get("scalarFunction", {})
    if function.get("functionReference") not in _EQUAL or len(function.get("arguments", ())) != 2:
        return None
    if "subquery" in str(condition) or is_volatile(condition):
        return None
    one, other = (argument["value"] for argument in function["arguments"])
    sides = [{column >= boundary for column in fields(each)} for each in (one, other)]
    if sides == [{False}, {True}]:
        return one, shifted(other, -boundary)
    if sides == [{True}, {False}]:
        return other, shifted(one, -boundary)
    return None

"""What makes a new, lazy frame of a frame: by delegation to the engine's own DataFrame."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from eau2.errors import InvalidOption, QueryError, WrongKind
from eau2.frame.column import Column, column_expression
from eau2.query.engine_errors import check_expression, check_query, unknown_column

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa
    from datafusion import DataFrame, Expr
    from datafusion.expr import SortExpr

    from eau2.frame.frame import Frame

    Expression: TypeAlias = Expr | Column | str

JoinHow = Literal["inner", "left", "right", "full", "semi", "anti"]
ROWS_MAX = 2**63 - 1  # the engine and Arrow count in 64 bits


class Operations(ABC):
    """The verbs of a lazy frame. Each returns a frame at once; nothing runs until that is read.

    Expressions are those of `eau2.col`, `eau2.lit` and `eau2.functions`, or a column of a frame. A text that names a
    column is that column; in `filter` any other text is an expression in SQL. What the engine does not accept is raised
    here: UnknownColumn, QueryError.
    """

    @property
    @abstractmethod
    def schema(self) -> pa.Schema: ...

    @abstractmethod
    def _then(self, step: Callable[..., DataFrame], *others: Frame) -> Frame:
        """The frame that `step` makes of this and `others`."""

    def filter(self, *predicates: Expression) -> Frame:
        """The rows for which all `predicates` are true, in order. Chunks that can hold none are not read."""
        return self._then(lambda frame: frame.filter(*self._expressions(predicates, as_column=False)))

    def select(self, *expressions: Expression) -> Frame:
        """Those columns or expressions only, in order."""
        return self._then(lambda frame: frame.select(*self._expressions(expressions)))

    def aggregate(
        self, group_by: Expression | Sequence[Expression], aggregates: Expression | Sequence[Expression]
    ) -> Frame:
        """A row a group: its key columns, then the aggregates. An empty `group_by`: one row for all."""
        keys, values = self._expressions(_several(group_by)), self._expressions(_several(aggregates))
        return self._then(lambda frame: frame.aggregate(keys, values))

    def sort(self, *by: Expression | SortExpr) -> Frame:
        """Ordered by columns or expressions; `col("x").sort(ascending=False)` for the other way."""
        if not by:
            raise QueryError("sort needs a column or expression to sort by")
        return self._then(lambda frame: frame.sort(*self._expressions(by)))

    def limit(self, count: int, offset: int = 0) -> Frame:
        """At most `count` rows after the first `offset`; which ones only a `sort` before decides."""
        return self._then(lambda frame: frame.limit(checked_count(count), checked_count(offset)))

    def distinct(self) -> Frame:
        """Each different row once."""
        return self._then(lambda frame: frame.distinct())

    def with_column(self, name: str, expression: Expression) -> Frame:
        """One more column, or another in its place."""
        (value,) = self._expressions([expression])
        return self._then(lambda frame: frame.with_column(_text(name), value))

    def with_columns(self, *expressions: Expression, **named: Expression) -> Frame:
        """More columns: expressions with an `alias`, or by keyword."""
        values = self._expressions(expressions)
        by_name = dict(zip(named, self._expressions(list(named.values())), strict=True))
        return self._then(lambda frame: frame.with_columns(*values, **by_name))

    def drop(self, *names: str) -> Frame:
        """Without those columns. UnknownColumn."""
        for name in names:
            self._index(name)
        return self._then(lambda frame: frame.drop(*map(_quoted, names)))

    def rename(self, names: Mapping[str, str]) -> Frame:
        """With columns renamed: `{"old": "new"}`. UnknownColumn."""
        for name in names:
            self._index(name)
        steps = [(_quoted(old), _text(new)) for old, new in names.items()]
        if any(new in names for new in names.values()):  # two that change places: by way of names that are not there
            kept = {*self.schema.names, *names.values()}
            free = [f"eau2_renamed_{number}" for number in range(len(kept) + len(names))]
            free = [name for name in free if name not in kept]
            steps = [(old, between) for (old, _), between in zip(steps, free, strict=False)] + [
                (between, new) for (_, new), between in zip(steps, free, strict=False)
            ]

        def rename(frame: DataFrame) -> DataFrame:
            for old, new in steps:
                frame = frame.with_column_renamed(old, new)
            return frame

        return self._then(rename)

    def with_column_renamed(self, old_name: str, new_name: str) -> Frame:
        """As `rename`, by the engine's name."""
        return self.rename({old_name: new_name})

    def alias(self, name: str) -> Frame:
        """The same rows under another table name: for joining a frame with itself."""
        return self._then(lambda frame: frame.alias(_text(name)))

    def join(
        self,
        right: Frame,
        on: str | Sequence[str] | None = None,
        how: JoinHow = "inner",
        *,
        left_on: str | Sequence[str] | None = None,
        right_on: str | Sequence[str] | None = None,
    ) -> Frame:
        """Rows of both with equal key columns; a key named alike is there once. UnknownColumn."""
        lefts, rights = _names(on if left_on is None else left_on), _names(on if right_on is None else right_on)
        if not lefts or len(lefts) != len(rights):
            raise QueryError("a join needs on=, or left_on= and right_on= of as many columns")
        self._check_other(right)
        for name in lefts:
            self._index(name)
        for name in rights:
            right._index(name)
        return self._then(lambda one, other: _joined(one, other, how, lefts, rights), right)

    def join_on(self, right: Frame, *on: Expr, how: JoinHow = "inner") -> Frame:
        """Rows of both for which all expressions are true."""
        conditions = self._expressions(on, as_column=False)
        return self._then(lambda one, other: one.join_on(other, *conditions, how=how), right)

    def union(self, other: Frame, *, distinct: bool = False) -> Frame:
        """The rows of both, which have the same columns."""
        return self._then(lambda one, more: one.union(more, distinct=distinct), other)

    def intersect(self, other: Frame, *, distinct: bool = False) -> Frame:
        """The rows that are in both."""
        return self._then(lambda one, more: one.intersect(more, distinct=distinct), other)

    def except_all(self, other: Frame, *, distinct: bool = False) -> Frame:
        """The rows that are not in `other`."""
        return self._then(lambda one, more: one.except_all(more, distinct=distinct), other)

    # -- private -------------------------------------------------------------------------------------------------------

    def _check_other(self, other: object) -> None:
        if not isinstance(other, Operations):
            raise WrongKind(f"the other side is a frame of this store, not {type(other).__name__}", hint="put it first")

    def _index(self, name: str) -> int:
        names = self.schema.names
        if not isinstance(name, str):
            raise WrongKind(f"a column is named by text, not {type(name).__name__}")
        if names.count(name) != 1:
            if name in names:
                raise QueryError(f"{names.count(name)} columns are named {name!r}", hint="to_arrow() reads them all")
            raise unknown_column(name, names)
        return int(names.index(name))

    def _expressions(self, values: Sequence[object], *, as_column: bool = True) -> list[Any]:
        from datafusion import Expr  # here: the engine takes 0.3 s to import
        from datafusion.expr import SortExpr

        names = self.schema.names
        found: list[Any] = []
        for value in values:
            if isinstance(value, Column):
                found.append(value.expression)
            elif isinstance(value, str) and value in names:
                found.append(column_expression(value))
            elif isinstance(value, str) and as_column:
                raise unknown_column(value, names)
            elif isinstance(value, str):
                check_query(value)
                found.append(value)
            elif isinstance(value, (Expr, SortExpr)):
                check_expression(value if isinstance(value, Expr) else value.expr())
                found.append(value)
            else:
                raise _no_expression(value)
        return found


def _joined(one: DataFrame, other: DataFrame, how: str, lefts: list[str], rights: list[str]) -> DataFrame:
    """Join by plain names: the engine folds others to lower case, and quoted it would keep both keys of that name."""
    alike = lefts == rights
    plain = [f"eau2_key_{number}" for number in range(len(lefts))]
    for name, left, right in zip(plain, lefts, rights, strict=True):
        one = one.with_column_renamed(_quoted(left), name)
        other = other.with_column_renamed(_quoted(right), name if alike else name + "_right")
    keys: dict[str, Any] = (
        {"on": plain} if alike else {"left_on": plain, "right_on": [name + "_right" for name in plain]}
    )
    try:
        joined = one.join(other, how=how, **keys)
    except Exception as error:
        if "duplicate qualified field name" not in str(error):
            raise
        joined = one.join(other.alias("right"), how=how, **keys)  # of one table with itself
    there = set(joined.schema().names)
    for name, left, right in zip(plain, lefts, rights, strict=True):
        for made, known in ((name, left), (name + "_right", right)):
            if made in there:
                joined = joined.with_column_renamed(made, known)
    return joined


def _several(values: object) -> Sequence[Any]:
    return values if isinstance(values, (list, tuple)) else [values]


def _names(names: str | Sequence[str] | None) -> list[str]:
    if isinstance(names, (list, tuple)) or names is None:
        return list(names or ())
    return [_text(names)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise WrongKind(f"a name is text, not {type(name).__name__}: {name!r:.80}")
    return name


def _no_expression(value: object) -> WrongKind:
    hint = "eau2.col('x') is a column, eau2.lit(3) a value, eau2.functions has the rest"
    if isinstance(value, (list, tuple)):
        hint = "pass several as several arguments, with a * before the list"
    elif callable(value):
        hint = "filter_rows() and map_rows() run a function on each row"
    return WrongKind(f"an expression or the name of a column is expected, not {type(value).__name__}", hint=hint)


def checked_count(count: object) -> int:
    """Return `count`; InvalidOption unless it is a number of rows."""
    number = whole_number(count, "a number of rows")
    if not 0 <= number <= ROWS_MAX:
        raise InvalidOption(f"a number of rows is from 0 to {ROWS_MAX:,}, not {number:,}")
    return number


def whole_number(value: object, what: str) -> int:
    """Return `value` as int; InvalidOption for what is none. NumPy's integers are."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidOption(f"{what} is a whole number, not {value!r:.80}")
    return operator.index(value)

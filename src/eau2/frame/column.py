"""One column of a frame: lazy, and usable in the engine's expressions."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NoReturn

from eau2.errors import WrongKind

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from datafusion import Expr

    from eau2.frame.frame import Frame


def column_expression(name: str) -> Expr:
    """Return the engine's expression for the column of that name, to the letter."""
    from datafusion import col  # here: the engine takes 0.3 s to import

    return col('"' + name.replace('"', '""') + '"')


def _forward(op: Callable[[Any, Any], Any]) -> Callable[[Column, object], Expr]:
    return lambda self, other: op(self.expression, other.expression if isinstance(other, Column) else other)


def _backward(op: Callable[[Any, Any], Any]) -> Callable[[Column, object], Expr]:
    def apply(self: Column, other: object) -> Expr:
        from datafusion import lit  # here: the engine takes 0.3 s to import

        return op(lit(other), self.expression)

    return apply


class Column:
    """`frame["fare"]`: nothing is read until asked. `frame["fare"] > 5` is an expression of the engine.

    Whatever an expression can do (`.is_null()`, `.sort()`, `.alias("x")`, ...) this can, by `.expression`,
    and the engine's functions take it: `functions.sum(frame["fare"])`.
    """

    __hash__ = None  # type: ignore[assignment]  # == makes an expression

    def __init__(self, frame: Frame, name: str) -> None:
        self._frame = frame
        self._name = name

    def __repr__(self) -> str:
        return f"<Column {self._name!r}: {self.type} of {self._frame._title()}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> pa.DataType:
        return self._frame.schema.field(self._name).type

    @property
    def expression(self) -> Expr:
        """The engine's expression for this column, by its name to the letter."""
        return column_expression(self._name)

    @property
    def expr(self) -> object:
        """What the engine's functions look for in their arguments, so that they take a Column as it is."""
        return self.expression.expr

    def to_arrow(self) -> pa.ChunkedArray:
        """The values. Of a stored frame without a copy, and no other column is touched."""
        return self._frame._column(self._name)

    def to_numpy(self) -> np.ndarray[Any, Any]:
        """The values; read-only, and without a copy, where there is one chunk and no null."""
        array = self.to_arrow()
        values: np.ndarray[Any, Any] = (
            array.chunk(0).to_numpy(zero_copy_only=False) if array.num_chunks == 1 else array.to_numpy()
        )
        return values

    def to_pandas(self) -> pd.Series[Any]:
        """The values as a Series of the caller's own, which may be written to."""
        return self.to_arrow().to_pandas().rename(self._name).copy()  # it may be a view of the file

    def to_polars(self) -> pl.Series:
        import polars  # here: optional, and heavy

        return polars.Series(self._name, polars.from_arrow(self.to_arrow()))

    def to_pylist(self) -> list[Any]:
        return list(self.to_arrow().to_pylist())

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        import numpy  # here: `import eau2` does without

        return numpy.array(self.to_numpy(), dtype, copy=copy)

    def __bool__(self) -> NoReturn:
        raise WrongKind("a column is neither true nor false", hint="join conditions with & and |, not `and` and `or`")

    def __iter__(self) -> NoReturn:
        raise WrongKind("a column is not iterated value by value", hint="to_numpy() or to_pylist() reads it whole")

    def __getitem__(self, key: object) -> Expr:
        return self.expression[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.expression, name)

    __lt__ = _forward(operator.lt)
    __le__ = _forward(operator.le)
    __eq__ = _forward(operator.eq)  # an expression, as in the engine
    __ne__ = _forward(operator.ne)
    __gt__ = _forward(operator.gt)
    __ge__ = _forward(operator.ge)
    __add__ = _forward(operator.add)
    __sub__ = _forward(operator.sub)
    __mul__ = _forward(operator.mul)
    __truediv__ = _forward(operator.truediv)
    __mod__ = _forward(operator.mod)
    __and__ = _forward(operator.and_)
    __or__ = _forward(operator.or_)
    __radd__ = _backward(operator.add)
    __rsub__ = _backward(operator.sub)
    __rmul__ = _backward(operator.mul)
    __rtruediv__ = _backward(operator.truediv)
    __rmod__ = _backward(operator.mod)

    def __invert__(self) -> Expr:
        return ~self.expression

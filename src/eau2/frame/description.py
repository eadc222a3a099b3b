"""A row a column: what `Frame.describe` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from eau2.frame.frame import Frame

_SCHEMA = pa.schema(
    {
        "column": pa.string(),
        "type": pa.string(),
        "values": pa.int64(),
        "nulls": pa.int64(),
        "least": pa.string(),
        "most": pa.string(),
        "mean": pa.float64(),
        "deviation": pa.float64(),
    }
)


def described(frame: Frame) -> pa.Table:
    """Return values, nulls, least and most of every column, and mean and standard deviation of the numbers."""
    from datafusion import functions, lit  # here: the engine takes 0.3 s to import

    schema = frame.schema
    expressions = []
    for index, field in enumerate(schema):
        value = frame[field.name].expression
        expressions.append(functions.count(value).alias(f"values:{index}"))
        if _is_ordered(field.type):
            expressions.append(functions.min(value).alias(f"least:{index}"))
            expressions.append(functions.max(value).alias(f"most:{index}"))
        if _is_number(field.type):
            expressions.append(functions.avg(value).alias(f"mean:{index}"))
            expressions.append(functions.stddev(value).alias(f"deviation:{index}"))
    if not expressions:
        return _SCHEMA.empty_table()
    answer: dict[str, Any] = (
        frame.aggregate([], [functions.count(lit(1)).alias("rows"), *expressions]).to_arrow().to_pylist()[0]
    )
    rows = []
    for index, field in enumerate(schema):
        found = {name: answer.get(f"{name}:{index}") for name in ("values", "least", "most", "mean", "deviation")}
        rows.append(
            {
                "column": field.name,
                "type": str(field.type),
                "values": found["values"],
                "nulls": answer["rows"] - found["values"],
                "least": _text(found["least"]),
                "most": _text(found["most"]),
                "mean": None if found["mean"] is None else float(found["mean"]),
                "deviation": None if found["deviation"] is None else float(found["deviation"]),
            }
        )
    return pa.Table.from_pylist(rows, _SCHEMA)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _is_ordered(type_: pa.DataType) -> bool:
    text = pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    return bool(text or _is_number(type_) or pa.types.is_temporal(type_) or pa.types.is_boolean(type_))

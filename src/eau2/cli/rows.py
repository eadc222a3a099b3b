"""Rows of a frame as text and as JSON values."""

from __future__ import annotations

import base64
import datetime
import json
import math
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from eau2.cli.screen import rows_table
from eau2.values.schema import type_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from rich.table import Table


_UNITS_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def plain(table: pa.Table, *, flat: bool = False) -> pa.Table:
    """Return `table` with what neither JSON nor Python has in full: dictionaries decoded, durations as seconds,
    dates, times and decimals as text. With `flat`, for CSV, lists and structs as JSON text, and binary as base64."""
    for index, field in enumerate(table.schema):
        column = _plain(table.column(index), flat=flat)
        if column.type != field.type:
            table = table.set_column(index, field.name, column)
    return table


def table_of(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return the rows of an answer. Of a column that the plan says may be null, a batch may say that it is not."""
    several = [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches]
    return pa.Table.from_batches(several, schema)


def _plain(column: pa.ChunkedArray, *, flat: bool) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if flat and isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if flat and pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    kind = column.type
    if pa.types.is_duration(kind):
        return pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), _UNITS_A_SECOND[kind.unit])
    if pa.types.is_decimal(kind) or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind)):
        return column.cast(pa.string())
    if pa.types.is_interval(kind) or (flat and (pa.types.is_nested(kind) or _is_binary(kind))):
        return pa.chunked_array([pa.array([_as_text(cell) for cell in column.to_pylist()], pa.string())])
    return column


def _is_binary(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_binary_view(type_)
        or pa.types.is_fixed_size_binary(type_)
    )


def _as_text(cell: object) -> str | None:
    value = json_value(cell)
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_json(batch: pa.RecordBatch | pa.Table) -> Iterator[dict[str, object]]:
    """Yield each row as an object whose values JSON has. NaN and infinities are null, bytes base64, the rest text."""
    table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    table = plain(table)
    names = table.schema.names
    simple = [_is_simple(field.type) for field in table.schema]
    columns = [
        column.to_pylist() if easy else [json_value(cell) for cell in column.to_pylist()]
        for column, easy in zip(table.columns, simple, strict=True)
    ]
    if not columns:
        yield from ({} for _ in range(table.num_rows))
    for cells in zip(*columns, strict=True):
        yield dict(zip(names, cells, strict=True))


def _is_simple(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(type_)
        or pa.types.is_boolean(type_)
        or pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_string_view(type_)
    )


def json_value(value: object) -> object:
    """Return `value`, as pyarrow gives it, as something that JSON has.

    >>> json_value([1, float("nan"), b"x", {"at": datetime.date(2026, 1, 2)}])
    [1, None, 'eA==', {'at': '2026-01-02'}]
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, dict):
        return {str(name): json_value(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(part) for part in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat(" ") if isinstance(value, datetime.datetime) else value.isoformat()
    return str(value)


def preview(console: Console, table: pa.Table) -> tuple[Table, int]:
    """Return the rows of `table` for a person to read, and how many of its columns fitted."""
    kinds = [type_name(field.type) for field in table.schema]
    right = [pa.types.is_integer(field.type) or _is_real(field.type) for field in table.schema]
    columns = [[_cell(value) for value in column.to_pylist()] for column in plain(table).columns]
    rows = list(zip(*columns, strict=True)) if columns else []
    return rows_table(console, table.schema.names, kinds, right, rows)


def _is_real(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _cell(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, bytes):
        return repr(value[:80])[2:-1]
    if isinstance(value, (dict, list)):
        return json.dumps(json_value(value), ensure_ascii=False)
    return str(value)


def column_bounds(least: pa.ChunkedArray, most: pa.ChunkedArray) -> tuple[object, object]:
    """Return the least and greatest of what a manifest knows of a column's chunks, as JSON values."""
    if pa.types.is_floating(most.type) and pc.any(pc.is_nan(most)).as_py():
        return json_value(pc.min(least).as_py()), "NaN"  # above every number, as in the engine
    bounds = pa.table({"least": [pc.min(least)], "most": [pc.max(most)]})
    row = next(as_json(bounds))
    return row["least"], row["most"]

"""Answers compared as people would: floats and decimals up to rounding, rows without an order as multisets."""

from __future__ import annotations

import decimal
import math
from typing import Any

import pyarrow as pa

ROUNDING = 1e-6
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    """The rows of `table`, as values that can be compared; also where it has two columns of one name."""
    columns = [_values(column) for column in table.columns]
    return list(zip(*columns, strict=True)) if columns else [()] * table.num_rows


def difference(found: pa.Table, expected: pa.Table, *, in_order: bool = False) -> str:
    """What differs between two answers, or ''."""
    left, right = rows_of(found), rows_of(expected)
    if not in_order:
        left, right = sorted(left, key=_rank), sorted(right, key=_rank)
    if len(left) != len(right):
        return f"{len(left)} rows, not {len(right)}: {left[:5]}, not {right[:5]}"
    for one, other in zip(left, right, strict=True):
        if not _alike(one, other):
            return f"{one}, not {other}"
    return ""


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type):  # Python has not all of them
        numbers = column.cast(pa.int64()).to_pylist()
        return [None if number is None else number * NANOSECONDS[column.type.unit] for number in numbers]
    return [_plain(value) for value in column.to_pylist()]


def _plain(value: Any) -> Any:
    if isinstance(value, decimal.Decimal | bool):
        return float(value)
    if isinstance(value, dict):
        return tuple(sorted((name, _plain(each)) for name, each in value.items()))
    if isinstance(value, list):
        return tuple(_plain(each) for each in value)
    return value


def _rank(row: tuple[Any, ...]) -> tuple[tuple[int, Any], ...]:
    """A key to sort rows by in which what is equal up to rounding comes at the same place, or nearly always."""
    ranked: list[tuple[int, Any]] = []
    for value in row:
        if value is None:
            ranked.append((3, ""))
        elif isinstance(value, int | float):
            ranked.append((2, "") if math.isnan(value) else (0, round(float(value), 3)))
        else:
            ranked.append((1, str(value)))
    return tuple(ranked)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(_alike(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, int | float) and isinstance(other, int | float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other or abs(one - other) <= ROUNDING * max(1.0, abs(one), abs(other))
    return bool(one == other)

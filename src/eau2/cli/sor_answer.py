"""What `eau2 sor` is asked: the type of a column, or one value, of a SoR file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from eau2.errors import InvalidOption
from eau2.ingest.reading import read
from eau2.values.schema import type_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

Value = bool | int | float | str | None


def column_type(path: str, start: int, length: int | None, column: int) -> str:
    """Return BOOL, INT, FLOAT or STRING. Reads the whole range: a late value may widen the column.

    A range is the lines that start in `length` bytes (None: all) from `start`. LoadError; InvalidOption when there is
    no such column.
    """
    schema, _ = _found(path, start, length, column, row=None)
    return type_name(schema.field(column).type)


def value(path: str, start: int, length: int | None, column: int, row: int) -> Value:
    """Return the value in `column` of `row` (from 0 in the range), or None when it is missing. Errors as above."""
    _, found = _found(path, start, length, column, row)
    return found


def shown(found: Value) -> str:
    """Return `found` as the original tool prints it.

    >>> shown("a b"), shown(True), shown(1.5), shown(None)
    ('"a b"', '1', '1.5', '')
    """
    if found is None:
        return ""
    if isinstance(found, bool):
        return str(int(found))
    return f'"{found}"' if isinstance(found, str) else str(found)


def _found(path: str, start: int, length: int | None, column: int, row: int | None) -> tuple[pa.Schema, Value]:
    if column < 0 or (row or 0) < 0:
        raise InvalidOption(f"columns and rows count from 0, not {min(column, row or 0)}")

    def look(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> tuple[pa.Schema, int, Value]:
        rows, found = 0, None
        for batch in batches:
            if row is not None and rows <= row < rows + batch.num_rows and column < batch.num_columns:
                found = batch.column(column)[row - rows].as_py()
            rows += batch.num_rows
        return schema, rows, found

    whole = start == 0 and length is None
    end = sys.maxsize if length is None else start + length
    reading = read(path, format="sor", byte_range=None if whole else (start, end), progress=False)
    (schema, rows, found), _ = reading.run(look)
    if column >= len(schema):
        raise InvalidOption(f"{path} has no column {column}: there are {len(schema)}, from 0")
    if row is not None and row >= rows:
        raise InvalidOption(f"{path} has no row {row} there: there are {rows:,}, from 0")
    return schema, found

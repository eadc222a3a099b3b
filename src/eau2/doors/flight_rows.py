"""Rows as they go to clients of Flight: in messages that these take, and with all of their dictionaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.doors.flight_errors import told_to_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH_BYTES = 4 << 20  # of answers: ADBC's driver refuses messages of over 16 MiB


def streamed(schema: pa.Schema, batches: Callable[[], Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch | pa.Table]:
    """Yield what `batches` returns, all of `schema`, in parts."""
    # pyarrow sends the dictionaries of tables only.
    is_coded = any(_is_coded(field.type) for field in schema)
    with told_to_client():
        for batch in batches():
            for piece in _cut(_as_announced(batch, schema)):
                yield pa.Table.from_batches([piece]) if is_coded else piece


def _as_announced(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return `batch` with the very `schema`: what the engine plans may differ from what comes in what may be null."""
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    if not columns:
        return batch.replace_schema_metadata(schema.metadata)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield `batch` in parts of up to BATCH_BYTES, or of one row."""
    half = batch.num_rows // 2
    if half and batch.nbytes > BATCH_BYTES:
        first, second = batch.slice(0, half), batch.slice(half)
        if first.nbytes < 0.9 * batch.nbytes or second.nbytes < 0.9 * batch.nbytes:  # else it is a shared dictionary
            yield from _cut(first)
            yield from _cut(second)
            return
    yield batch


def _is_coded(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _is_coded(kind.storage_type)
    return pa.types.is_dictionary(kind) or any(_is_coded(kind.field(index).type) for index in range(kind.num_fields))

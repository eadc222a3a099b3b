"""Parquet and Arrow files as streams of batches. Their lines are their rows."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from eau2.errors import LoadError
from eau2.ingest.formats import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS_PER_BATCH_MAX = 128 << 10
BATCH_BYTES = 8 << 20  # of Parquet, about: a row group may be of any size
READ_BYTES = 1 << 20  # without a limit whole columns of a row group are read at once


@contextmanager
def open_table(path: str, format_: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Give the schema and the batches of the file. LoadError, also from the batches, when it cannot be read."""
    try:
        Path(path).open("rb").close()  # Arrow's own errors lack the reason
        file = pa.OSFile(path)
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        try:
            schema, batches = _parquet(file) if format_ == "parquet" else _arrow(file)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, format_, error, 0) from error
        yield schema, _guarded(batches, path, format_)


def _parquet(file: pa.NativeFile) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    table = pq.ParquetFile(file, buffer_size=READ_BYTES)
    groups = [table.metadata.row_group(index) for index in range(table.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return table.schema_arrow, table.iter_batches(min(ROWS_PER_BATCH_MAX, BATCH_BYTES // max(1, row_bytes) + 1))


def _arrow(file: pa.NativeFile) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    magic = file.read(6)
    file.seek(0)
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(file)
        return reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
    stream = pa.ipc.open_stream(file)
    return stream.schema, iter(stream)


def _guarded(batches: Iterator[pa.RecordBatch], path: str, format_: str) -> Iterator[pa.RecordBatch]:
    rows = 0
    while True:
        try:
            batch = next(batches, None)
            if batch is not None:
                batch.validate()
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, format_, error, rows) from error
        if batch is None:
            return
        rows += batch.num_rows
        yield batch


def _damaged(path: str, format_: str, error: Exception, rows: int) -> LoadError:
    reason = str(error).split("\n")[0].rstrip(".")
    where = f" after row {rows:,}" if rows else ""
    return LoadError(
        f"{path} is no {format_} file, or is damaged{where}: {reason}",
        file=path,
        line=rows + 1 if rows else 0,
        hint="is it whole, and is format= right?",
    )

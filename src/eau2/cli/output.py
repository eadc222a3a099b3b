"""Writes the rows of a frame as a file or to a pipe, a batch at a time, so that a result larger than memory fits."""

from __future__ import annotations

import errno
import io
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from eau2.cli.rows import as_json, plain, table_of
from eau2.errors import DiskFull, InvalidOption, LoadError, is_disk_full
from eau2.ingest.whole import WholeFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Writer = Callable[[IO[bytes], pa.Schema, Iterable[pa.RecordBatch]], int]

EXTENSIONS = {
    ".csv": "csv",
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_BATCH_ROWS_MIN = 64 << 10  # of a Parquet row group or an Arrow batch: smaller ones read slowly


def format_of(path: str) -> str:
    """Return the format for the extension of `path`; InvalidOption when it says nothing."""
    try:
        return EXTENSIONS[Path(path).suffix.lower()]
    except KeyError:
        raise InvalidOption(
            f"the name {path!r} does not say in which format to write it",
            hint=f"give --format, or end the name with one of {' '.join(EXTENSIONS)}",
        ) from None


def write_rows(
    target: str | None, format_: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> tuple[int, int]:
    """Write `batches` to the file `target` (None: standard output) and return (rows, bytes).

    A file appears whole or not at all. InvalidOption when the format cannot hold a column; LoadError, DiskFull when the
    file cannot be written. Memory: a few batches.
    """
    with _opened(target) as file:
        counted = _Counted(file)
        try:
            rows = _WRITERS[format_](counted, schema, batches)  # type: ignore[arg-type]
        except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise InvalidOption(
                f"{format_} cannot hold this result: {' '.join(str(error).split())}",
                hint="cast the column in the query, or write another format",
            ) from error
        file.flush()
        return rows, counted.size


class _Counted(io.RawIOBase):
    """A file that only goes forward and knows how much was written. Closing it leaves `file` open."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._file.write(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def writable(self) -> bool:
        return True


@contextmanager
def _opened(target: str | None) -> Iterator[IO[bytes]]:
    if target is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    try:
        with WholeFile(target) as file:
            yield file
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(f"no space to write {target}", hint="free some space and run it again") from error
        if error.errno == errno.EPIPE or error.errno is None or isinstance(error, (DiskFull, LoadError)):
            raise
        raise LoadError(f"cannot write {target}: {error.strerror}", file=target) from error


def _csv(file: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    rows = 0
    flat = plain(schema.empty_table(), flat=True).schema
    with pa.PythonFile(file, mode="w") as sink, pa_csv.CSVWriter(sink, flat) as writer:
        for batch in batches:
            writer.write_table(plain(pa.Table.from_batches([batch]), flat=True))
            rows += batch.num_rows
    return rows


def _json(file: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    _require_own_names(schema)
    rows = 0
    file.write(b"[")
    for batch in batches:
        lines = [_encoded(row) for row in as_json(batch)]
        if lines:
            file.write((b",\n " if rows else b"") + b",\n ".join(lines))
        rows += len(lines)
    file.write(b"]\n")
    return rows


def _ndjson(file: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    _require_own_names(schema)
    rows = 0
    for batch in batches:
        file.write(b"".join(_encoded(row) + b"\n" for row in as_json(batch)))
        rows += batch.num_rows
    return rows


def _require_own_names(schema: pa.Schema) -> None:
    names: list[str] = schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidOption(
            f"two columns are named {twice!r}, and an object has one", hint="give them aliases, with as"
        )


def _encoded(row: dict[str, object]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _parquet(file: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    rows = 0
    with pa.PythonFile(file, mode="w") as sink, pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for table in _larger(schema, batches):
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _arrow(file: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    rows = 0
    with pa.PythonFile(file, mode="w") as sink, pa.ipc.new_file(sink, schema) as writer:
        for table in _larger(schema, batches):
            writer.write_table(table.combine_chunks())
            rows += table.num_rows
    return rows


def _larger(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows of `batches` in tables of at least _BATCH_ROWS_MIN rows, but the last."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(part.num_rows for part in waiting) >= _BATCH_ROWS_MIN:
            yield table_of(waiting, schema)
            waiting = []
    if waiting:
        yield table_of(waiting, schema)


_WRITERS: dict[str, Writer] = {"csv": _csv, "json": _json, "ndjson": _ndjson, "parquet": _parquet, "arrow": _arrow}

"""The rows of a frame as the messages of an upload to a served store, with their metadata. Pure.

They go as Flight has rows; or by columns, of frames of numbers: as pieces, see `wire.py`. With the first piece of each
chunk goes how many rows it has, and then come the values of each column in turn. So the server needs no chunk in
memory, and does with each piece all that there is to do while it is in the processor's cache: half the work. A chunk
that has nulls, or is small, goes as pieces that are IPC streams.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.ingest.writer import SMALL_BATCHES_MAX, Packing, pieces_of
from eau2.served.wire import PIECES, Header, cut, rows
from eau2.values.arriving import widths
from eau2.values.chunk import CHUNK_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Message = tuple[pa.RecordBatch, bytes]  # with its metadata

ROW_MESSAGE_BYTES = 4 << 20  # of rows to be stored: of 1 MB each took a quarter longer, of 40 MB twice as long
COLUMN_BYTES_MIN = 256 << 10  # of a column in a chunk: smaller pieces cost more than what they save
SCHEMA_BYTES_MAX = 1 << 20  # of one that is told in a command
MORE = b"more"  # with a message of an upload: the next belongs to the same batch
ROWS = b"rows"  # with a piece of an upload by columns: it is rows, the last of a chunk; before the last it is MORE
WHOLE = b"whole"  # with the last message of an upload: without it the client gave up halfway
_FLAT = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_temporal,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


@dataclass(frozen=True, slots=True)
class Upload:
    """What is sent."""

    announced: pa.Schema  # of the messages
    header: Header  # what the server is told besides
    messages: Iterator[Message]


def upload(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Upload:
    """Return how `batches` are sent. Takes the first at once, of small ones some. Holds the rows of one chunk.

    They are cut as the writer of chunks cuts them, so that the same rows are cut alike however they are put.
    """
    following = iter(batches)
    first: list[pa.RecordBatch] = []
    encoded = schema.serialize()
    least = len(schema) * COLUMN_BYTES_MIN
    if widths(schema) is not None and least <= CHUNK_BYTES_MAX and encoded.size <= SCHEMA_BYTES_MAX:
        size = 0
        for batch in islice(following, SMALL_BATCHES_MAX):
            first.append(batch)
            size += batch.nbytes
            if _has_nulls(batch):
                break
            if size >= least:
                told = {"schema": b64encode(encoded).decode()}
                return Upload(PIECES, told, _by_columns(schema, chain(first, following)))
    return Upload(schema, {}, _by_rows(chain(first, following)))


def _by_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Message]:
    """Small messages where parts are joined easily."""
    for batch in batches:
        for whole in pieces_of(batch, CHUNK_BYTES_MAX):
            small = all(_joins(column) for column in whole.columns)
            *parts, last = pieces_of(whole, ROW_MESSAGE_BYTES) if small else (whole,)
            for part in parts:
                yield part, MORE
            yield last, b""


def _joins(column: pa.Array) -> bool:
    """Whether parts of `column` take as much as the whole, but for what fills up a buffer: so chunks are cut alike."""
    return not column.null_count and any(is_it(column.type) for is_it in _FLAT)


def _by_columns(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[Message]:
    packing = Packing(CHUNK_BYTES_MAX)
    for batch in batches:
        for chunk in packing.add(batch):
            yield from _chunk(schema, chunk)
    if not packing.is_empty:
        yield from _chunk(schema, packing.take())


def _chunk(schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> Iterator[Message]:
    size = sum(batch.nbytes for batch in batches)
    if size < len(schema) * COLUMN_BYTES_MIN or any(map(_has_nulls, batches)):
        *parts, last = rows(batches)
        for part in parts:
            yield part, MORE
        yield last, ROWS
        return
    said = json.dumps({"rows": sum(batch.num_rows for batch in batches)}).encode()
    for index, width in enumerate(widths(schema) or ()):
        for batch in batches:
            column = batch.column(index)
            values = column.buffers()[1].slice(column.offset * width, len(column) * width)
            for message in cut(values):
                yield message, said
                said = b""


def _has_nulls(batch: pa.RecordBatch) -> bool:
    return any(column.null_count for column in batch.columns)

"""Batches become chunks: cut, encoded, hashed, measured and staged in parallel, a few chunks in memory at a time."""

from __future__ import annotations

import itertools
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from eau2.errors import InvalidValue
from eau2.values.arriving import ArrivingChunk, Columns, gathered
from eau2.values.chunk import CHUNK_BYTES_MAX, encode_as_one, one_batch
from eau2.values.manifest import ChunkEntry, ColumnRange, Manifest, homes_of_equal
from eau2.values.ranges import Span, column_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from eau2.store.nodes import Node, Staged

Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)

WORKERS_MAX = 4  # each holds a chunk, and memory is bandwidth-bound before that
SMALL_BATCHES_MAX = 1000  # are joined: a batch of a row takes over a kilobyte that its size in bytes does not say
MEASURED_BESIDE_BYTES = 4 << 20  # text of a single chunk from here on is measured by other threads beside the rest


class FrameWriter:
    """Cuts the batches of one frame, for `key`, into chunks and stages each on its homes.

    `with FrameWriter(node, schema) as writer:` then `write` each batch and `finish` once; leaving the block without
    `finish` removes what was staged. Of Columns it holds none in memory; of rows at most `workers` + 1 chunks, of which
    columns of text, or with nulls, are there twice while their batches are joined: 0.5 GB at four workers, at most. Not
    thread-safe.
    """

    def __init__(
        self,
        node: Node,
        schema: pa.Schema,
        *,
        key: str = "",
        home: str = "",
        chunk_bytes: int = CHUNK_BYTES_MAX,
        workers: int | None = None,
    ) -> None:
        self.schema = schema
        self._plain_schema = _without_views(schema)
        self._node = node
        self._key, self._home = key, home  # which say where the chunks go
        self._chunks = itertools.count()
        self._packing = Packing(chunk_bytes)
        self._workers = workers or min(WORKERS_MAX, os.cpu_count() or 1)
        self._pool: ThreadPoolExecutor | None = None  # made for the second chunk: most frames have one
        self._running: deque[Future[tuple[ChunkEntry, Staged]]] = deque()
        self._done: list[tuple[ChunkEntry, Staged]] = []
        self._finished = False

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self.discard()

    def write(self, batch: pa.RecordBatch | pa.Table | Columns) -> None:
        """Add the rows of `batch`, whose schema is the writer's. A table counts as the one batch that its batches would
        be; Columns, which only a node of this process takes, are a chunk by themselves, written before this returns.
        Waits while all workers are busy."""
        if isinstance(batch, Columns):
            self._write_columns(batch)
            return
        for batches in self._packing.add(self._plain(batch)):
            self._submit(batches)

    def _write_columns(self, columns: Columns) -> None:
        chunk = ArrivingChunk.of(self.schema, columns)
        if chunk is None:
            self.write(gathered(self.schema, columns))
            return
        if not self._packing.is_empty:
            self._submit(self._packing.take())
        self._collect(0)
        homes = self._node.assigned(self._key, next(self._chunks), self._home)
        here = self._node.here
        assert here is not None  # else it is not given Columns
        staged = here.stage_arriving(chunk)
        try:
            entry = ChunkEntry(chunk.id, chunk.rows, chunk.size, homes, chunk.ranges)
        except BaseException:
            self._node.discard([staged])
            raise
        self._done.append((entry, staged))

    def _plain(self, batch: Rows) -> Rows:
        """Return `batch` without views: a slice of a view keeps, and counts, all the text of the whole."""
        if self._plain_schema is self.schema:
            return batch
        columns = [  # each by itself: casting a batch also casts what needs no cast, and Arrow breaks structs of nulls
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(batch.columns, self._plain_schema, strict=True)
        ]
        return type(batch).from_arrays(columns, schema=self._plain_schema)

    def finish(self) -> tuple[bytes, tuple[Staged, ...]]:
        """Return the encoded manifest and the staged chunks that it names, each once."""
        if not self._packing.is_empty:
            beside = self._packing.bytes >= MEASURED_BESIDE_BYTES
            self._submit(self._packing.take(), is_last=True, beside=beside)
        self._collect(0)
        self._finished = True
        self._stop()
        entries = [entry for entry, _ in self._done]
        homes = homes_of_equal((entry.id, entry.homes) for entry in entries)  # where the staged one that is kept is
        return Manifest.of(self.schema, entries).assigned_to(homes).encode(), self._staged()

    def discard(self) -> None:
        """Remove what was staged, after a failure."""
        self._finished = True
        for future in self._running:
            if not future.cancel() and future.exception() is None:
                self._done.append(future.result())
        self._running.clear()
        self._stop()
        self._node.discard([staged for _, staged in self._done])

    def _staged(self) -> tuple[Staged, ...]:
        """Equal chunks of one frame have one id: keep the first staged of each."""
        kept: dict[str, Staged] = {}
        surplus = []
        for _, staged in self._done:
            if kept.setdefault(staged.id, staged) is not staged:
                surplus.append(staged)
        self._node.discard(surplus)
        return tuple(kept.values())

    def _submit(self, batches: list[pa.RecordBatch], *, is_last: bool = False, beside: bool = False) -> None:
        homes = self._node.assigned(self._key, next(self._chunks), self._home)
        if is_last and self._pool is None:
            self._done.append(self._stage(batches, homes, beside=beside))
            return
        self._collect(self._workers - 1)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="eau2-writer")
        self._running.append(self._pool.submit(self._stage, batches, homes))

    def _collect(self, running_max: int) -> None:
        """Wait until at most `running_max` chunks are being written; raise the first failure."""
        while self._running and (len(self._running) > running_max or self._running[0].done()):
            self._done.append(self._running.popleft().result())

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _stage(
        self, batches: list[pa.RecordBatch], homes: tuple[str, ...], *, beside: bool = False
    ) -> tuple[ChunkEntry, Staged]:
        """Write the rows of `batches`. Numbers are measured as they are hashed; `beside` lets threads of its own
        measure the other columns meanwhile."""
        table = pa.Table.from_batches(batches, self._plain_schema)
        batches.clear()
        if self._plain_schema is not self.schema:
            table = _with_views(one_batch(table), self.schema)
        spans = {
            index: span
            for index, column in enumerate(table.columns)
            if len(column) and not column.null_count and (span := Span.of(column.type)) is not None
        }
        others = [column for index, column in enumerate(table.columns) if index not in spans]
        if not (beside and others):
            return self._written(table, homes, spans, map(column_range, others))
        with ThreadPoolExecutor(self._workers, thread_name_prefix="eau2-writer") as pool:
            return self._written(table, homes, spans, pool.map(column_range, others))

    def _written(
        self, table: pa.Table, homes: tuple[str, ...], spans: dict[int, Span], others: Iterable[ColumnRange]
    ) -> tuple[ChunkEntry, Staged]:
        """Stage `table`. What its columns span is told by `spans`, as they are written, and by `others` at the end."""
        try:
            chunk = encode_as_one(table, spans)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowCapacityError) as error:
            raise InvalidValue(
                f"Arrow cannot write these rows to a file: {error}",
                hint="columns nested more than 60 deep cannot be stored, nor one row of over 2 GiB",
            ) from error
        staged = self._node.stage(chunk, homes)
        try:
            rest = iter(others)
            columns = tuple(
                _range(spans[index], column) if index in spans else next(rest)
                for index, column in enumerate(table.columns)
            )
        except BaseException:
            self._node.discard([staged])
            raise
        return ChunkEntry(chunk.id, chunk.rows, chunk.size, homes, columns), staged


class Packing:
    """Cuts batches and puts them together, to the rows of one chunk each: alike whoever does it, so that the same rows
    are the same chunks."""

    def __init__(self, chunk_bytes: int) -> None:
        self.bytes = 0  # of what `take` would return
        self._chunk_bytes = chunk_bytes
        self._pending: list[pa.RecordBatch] = []  # rows of the chunk that is not full yet
        self._joined = 0  # of the pending batches, those that need no joining

    @property
    def is_empty(self) -> bool:
        return not self._pending

    def add(self, batch: pa.RecordBatch | pa.Table) -> Iterator[list[pa.RecordBatch]]:
        """Add the rows of `batch`, and yield those of each chunk that is full."""
        # By the same `pieces_of`, before it was sent.
        was_cut = isinstance(batch, pa.Table) and batch.nbytes <= tolerated(self._chunk_bytes)
        for piece in [batch] if was_cut else pieces_of(batch, self._chunk_bytes):
            size = piece.nbytes
            if self._pending and self.bytes + size > self._chunk_bytes:
                yield self.take()
            self._pending += piece.to_batches() if isinstance(piece, pa.Table) else [piece]
            self.bytes += size
            if len(self._pending) - self._joined >= SMALL_BATCHES_MAX:
                small = pa.Table.from_batches(self._pending[self._joined :])
                self._pending[self._joined :] = one_batch(small).to_batches()
                self._joined = len(self._pending)

    def take(self) -> list[pa.RecordBatch]:
        """Return the rows of the chunk that is not full, and begin another."""
        batches, self._pending, self.bytes, self._joined = self._pending, [], 0, 0
        return batches


def _range(span: Span, column: pa.ChunkedArray) -> ColumnRange:
    """Return what `span` has seen, if that was all of `column`; not where its table cannot be joined."""
    return span.range() if span.rows == len(column) else column_range(column)


def tolerated(bytes_max: int) -> int:
    """Return how large a piece of about `bytes_max` may be, rather than be cut again."""
    return bytes_max * 5 // 4


def pieces_of(batch: Rows, bytes_max: int) -> Iterable[Rows]:
    """Yield slices of `batch` of at most about `bytes_max`, in order; one row is never cut."""
    size, rows = batch.nbytes, batch.num_rows
    if size <= bytes_max or rows <= 1:
        if rows:
            yield batch
        return
    step = max(1, rows * bytes_max // size)
    for start in range(0, rows, step):
        piece = batch.slice(start, step)
        if piece.nbytes > tolerated(bytes_max) and piece.num_rows > 1:  # rows of very different size
            half = piece.num_rows // 2
            first, second = piece.slice(0, half), piece.slice(half)
            if first.nbytes + second.nbytes < piece.nbytes * 3 // 2:  # not a type whose slices keep everything
                yield from pieces_of(first, bytes_max)
                yield from pieces_of(second, bytes_max)
                continue
        yield piece


def _with_views(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` as `schema` has it: its views, each over text of its own and not over that of the whole."""
    columns = [
        column
        if column.type == field.type
        else pa.concat_arrays([*column.chunks, column.chunk(0)[:0]]).cast(field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _without_views(schema: pa.Schema) -> pa.Schema:
    """Return `schema` with plain types in place of views, or itself when it has none."""
    for index, field in enumerate(schema):
        if pa.types.is_string_view(field.type):
            schema = schema.set(index, field.with_type(pa.large_string()))
        elif pa.types.is_binary_view(field.type):
            schema = schema.set(index, field.with_type(pa.large_binary()))
    return schema

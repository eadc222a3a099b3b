"""What a node does with a fragment: runs it over its chunks, within its memory, and keeps what it makes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pyarrow as pa
from datafusion import SessionContext

from eau2.distributed.fragment import CannotCut
from eau2.distributed.hashing import Splitter
from eau2.distributed.substrait import register
from eau2.query.engine_errors import interruption, is_exhausted, typed
from eau2.query.sessions import consumed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from datafusion import DataFrame
    from datafusion.plan import LogicalPlan

    from eau2.distributed.fragment import ChunksRead, Fragment, Piece, PiecesRead
    from eau2.query.sessions import Sessions
    from eau2.query.waiting import Calls

# About, of what is kept, hashed and sent at a time: of a node's memory at most this part, as it is held besides.
PIECE_BYTES_MAX = 64 << 20
PIECE_SHARE = 16

# Fragments that read more than this part of a node's memory run in one thread each, several at once. The engine would
# have its threads exchange rows, and when the memory is used up there, may wait for ever (datafusion 55, issue 24883).
ALONE_SHARE = 32
SPLIT_AGAIN = 8  # parts of a partition that does not fit in memory
# What the engine says of plans that it made differently for the whole query: gathered, that says what is wrong with it.
_OF_THE_PLAN = ("This feature is not implemented", "Internal error", "Error during planning", "Schema error")


class Rows(NamedTuple):
    """A table that a fragment reads."""

    batches: list[pa.RecordBatch]
    schema: pa.Schema


class Shelf(Protocol):
    """Where a node finds the rows that fragments read, and keeps those they make."""

    def chunk(self, key: str, chunk_id: str) -> pa.Table:
        """Return the rows of a chunk of this node, verified. Corrupt, NodeUnavailable when it is not here."""

    def piece(self, piece: Piece) -> pa.Table:
        """Return the rows of a piece, of this node or another."""

    def keep(self, table: pa.Table, partition: int, order: int) -> Piece:
        """Keep `table` as a piece of this node."""

    def drop(self, pieces: Sequence[Piece]) -> None:
        """Let go of pieces of this node."""


class Runner:
    """Runs fragments with the sessions of one node, which share its memory. Thread-safe."""

    def __init__(self, sessions: Sessions, *, memory_bytes: int, threads: int, shelf: Shelf) -> None:
        self._sessions = sessions
        self._parallel_bytes_max = memory_bytes // ALONE_SHARE
        self._piece_bytes = min(PIECE_BYTES_MAX, memory_bytes // PIECE_SHARE)
        self._threads = threads
        self._shelf = shelf
        self._lock = threading.Lock()  # guards the count
        self._retries = 0

    @property
    def retries(self) -> int:
        """How often a fragment had used up the memory, and was run in another way."""
        return self._retries

    def run(self, fragment: Fragment, calls: Calls) -> list[Piece]:
        """Return the pieces that `fragment` makes, with columns c0, c1, ...

        `calls.end()` ends it: it raises StoreClosed then. Whatever it raises, it has kept nothing.
        """
        made: list[Piece] = []
        splitter = Splitter(fragment.keys, fragment.partitions) if fragment.keys and fragment.partitions > 1 else None
        try:
            for order, chunks in _units(fragment):
                made += self._retried(fragment, chunks, order, splitter, calls)
        except BaseException:
            self._shelf.drop(made)
            raise
        return made

    def _retried(
        self, fragment: Fragment, chunks: Sequence[ChunksRead], order: int, splitter: Splitter | None, calls: Calls
    ) -> list[Piece]:
        """Run the fragment over `chunks`, in other ways when it uses up the memory."""
        ways = [(1, False), (SPLIT_AGAIN, False), (1, True)]
        kinds = {given.keys for given in fragment.pieces} - {None}
        if not kinds or () in kinds:
            del ways[1]  # what it reads is whole, or was not hashed
        while True:
            made: list[Piece] = []
            parts, merging = ways.pop(0)
            try:
                for tables in self._tables(fragment, chunks, parts):
                    answer = self._answer(fragment, tables, calls, merging=merging)
                    for table in _gathered(answer, self._piece_bytes):
                        for partition, part in [(0, table)] if splitter is None else splitter.split(table):
                            made.append(self._shelf.keep(part, partition, order))
            except BaseException as error:
                self._shelf.drop(made)
                if not ways or not is_exhausted(error):
                    raise _typed(error) from None
                with self._lock:
                    self._retries += 1
            else:
                return made

    def _tables(self, fragment: Fragment, chunks: Sequence[ChunksRead], parts: int) -> Iterator[dict[str, Rows]]:
        """Yield what the fragment reads, by name; or `parts` times what it reads of a part of its partition."""
        tables = {read.name: Rows(self._batches(read), _schema(read)) for read in chunks}
        for given in fragment.pieces:
            batches = [batch for piece in given.pieces for batch in self._shelf.piece(piece).to_batches()]
            tables[given.name] = Rows(batches, _schema(given))
        if parts == 1:
            yield tables
            return
        split: dict[str, dict[int, pa.Table]] = {}
        for given in fragment.pieces:
            if given.keys:
                # Rows of one partition of n are in every n-th of a multiple of n, as the hash is the same.
                splitter = Splitter(given.keys, fragment.partitions * parts)
                split[given.name] = dict(splitter.split(pa.Table.from_batches(*tables[given.name])))
        for place in sorted({place for each in split.values() for place in each}):
            some = {name: each[place].to_batches() if place in each else [] for name, each in split.items()}
            yield {**tables, **{name: Rows(batches, tables[name].schema) for name, batches in some.items()}}

    def _answer(
        self, fragment: Fragment, tables: Mapping[str, Rows], calls: Calls, *, merging: bool
    ) -> Iterator[pa.RecordBatch]:
        if not fragment.plan:
            for batches, _ in tables.values():
                yield from (batch for batch in batches if batch.num_rows)
            return
        frame = self._frame(fragment, tables, merging=merging)
        if fragment.in_order:
            streams = calls.run(frame.execute_stream_partitioned)
        else:
            streams = [calls.run(frame.execute_stream)]
        for stream in streams:
            batches = iter(stream)
            while (batch := calls.run(_next_of(batches))) is not None:
                yield batch.to_pyarrow()

    def _frame(self, fragment: Fragment, tables: Mapping[str, Rows], *, merging: bool) -> DataFrame:
        every = [batch for batches, _ in tables.values() for batch in batches]
        alone = not fragment.in_order and sum(batch.nbytes for batch in every) > self._parallel_bytes_max
        plan = _plan(fragment, tables, 1 if alone else self._threads)
        if fragment.in_order and "Limit:" in plan.display_indent():
            alone = True  # of several partitions the engine would take the first rows of any
            plan = _plan(fragment, tables, 1)
        if merging:
            session = self._sessions.merging()  # by several threads, or the engine would not sort
        else:
            widest = max((batch.nbytes // max(1, batch.num_rows) for batch in every), default=0)
            session = self._sessions.running(widest, in_order=fragment.in_order, alone=alone)
        return session.create_dataframe_from_logical_plan(plan)

    def _batches(self, read: ChunksRead) -> list[pa.RecordBatch]:
        schema = _schema(read)
        found = []
        for _, chunk_id in read.chunks:
            for batch in self._shelf.chunk(read.key, chunk_id).to_batches():
                arrays = [batch.column(column) for column in read.columns]
                found.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        return found


def _plan(fragment: Fragment, tables: Mapping[str, Rows], parts: int) -> LogicalPlan:
    """Return the plan of `fragment` over `tables`, each in as many parts."""
    session = SessionContext()
    for name, (batches, schema) in tables.items():
        register(session, name, batches, schema, parts)
    return consumed(session, fragment.plan)


def _schema(read: ChunksRead | PiecesRead) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(read.schema))


def _units(fragment: Fragment) -> list[tuple[int, Sequence[ChunksRead]]]:
    """Return what is run by itself, with its place in the order: each chunk, or all."""
    if not fragment.in_order:
        return [(0, fragment.chunks)]
    (read,) = fragment.chunks  # rows that are in order come of one table
    units: list[tuple[int, Sequence[ChunksRead]]] = []
    for index, chunk_id in read.chunks:
        one = type(read)(read.name, read.key, read.columns, ((index, chunk_id),), read.schema)
        units.append((index, [one]))
    return units


def _gathered(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Yield `batches` as tables of about `size` bytes, with columns c0, c1, ..."""
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        pending.append(batch)
        held += batch.nbytes
        if held >= size:
            yield _numbered(pending)
            pending, held = [], 0
    if pending:
        yield _numbered(pending)


def _numbered(batches: list[pa.RecordBatch]) -> pa.Table:
    schema = pa.schema([pa.field(f"c{index}", field.type) for index, field in enumerate(batches[0].schema)])
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches])


def _next_of(batches: Iterator[pa.RecordBatch]) -> Callable[[], pa.RecordBatch | None]:
    return lambda: next(batches, None)


def _typed(error: BaseException) -> BaseException:
    if any(label in str(error) for label in _OF_THE_PLAN):
        return CannotCut(str(error).partition("\n")[0])
    if (stop := interruption(error)) is not None:
        return stop
    is_panic = type(error).__name__ == "PanicException"
    return typed(error) if is_panic or isinstance(error, Exception) else error

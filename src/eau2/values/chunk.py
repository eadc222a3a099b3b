"""A chunk: up to CHUNK_BYTES_MAX of a frame's rows as one Arrow IPC file, never changed, named by its hash."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

CHUNK_BYTES_MAX = 64 << 20  # of Arrow buffers: large enough to scan at full speed, small enough to move and retry
SEEN_BYTES = 512 << 10  # hashed and measured at once: fits the processor's cache


@dataclass(frozen=True, slots=True)
class Chunk:
    """The bytes of one chunk before they are stored."""

    id: str  # 32 hexadecimal digits: XXH3-128 of the bytes
    rows: int
    size: int  # bytes of the whole file
    pieces: tuple[pa.Buffer, ...]  # the file in order; large ones are the columns' own memory, not copies


class Sees(Protocol):
    """Is shown the values of a column, part by part."""

    def see(self, part: pa.Buffer) -> None: ...


class _Sink:
    """What Python's own files have besides `write`."""

    closed = False
    size = 0

    def tell(self) -> int:
        return self.size

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class _Pieces(_Sink):
    """Keeps what the IPC writer hands it, without copying the columns."""

    def __init__(self, behind: dict[int, list[pa.Buffer]], shown: dict[int, tuple[int, list[Sees]]]) -> None:
        self._behind, self._shown = behind, shown  # by the addresses of the writer's buffers
        self.pieces: list[pa.Buffer] = []
        self.hash = xxhash.xxh3_128()

    def write(self, data: object) -> int:
        piece = pa.py_buffer(data)
        size, spans = self._shown.pop(piece.address, (0, []))
        if piece.size != size:  # of several batches, as the table could not be joined: not all of the column
            spans = []
        for part in self._behind.pop(piece.address, None) or [piece]:
            self.pieces.append(part)
            if spans:
                self._show(part, spans)
            else:
                self.hash.update(part)
        self.size += piece.size
        return int(piece.size)

    def _show(self, part: pa.Buffer, spans: Iterable[Sees]) -> None:
        """Hash `part`, and show it."""
        for start in range(0, part.size, SEEN_BYTES):
            block = part.slice(start, min(SEEN_BYTES, part.size - start))
            self.hash.update(block)
            for span in spans:
                span.see(block)


class _Layout(_Sink):
    """Keeps what the IPC writer hands it, with the numbers of the columns in their places."""

    def __init__(self, columns: dict[tuple[int, int], int]) -> None:
        self._columns = columns  # by the addresses and sizes of their buffers
        self.pieces: list[pa.Buffer | int] = []

    def write(self, data: object) -> int:
        piece = pa.py_buffer(data)
        column = self._columns.pop((piece.address, piece.size), None)
        self.pieces.append(piece if column is None else column)
        self.size += piece.size
        return int(piece.size)


def encode(table: pa.Table) -> Chunk:
    """Return `table` as a chunk: its batches, uncompressed, in one IPC file. Costs one pass for the hash (15 GB/s).

    Batches are written as they are: a table of one batch is read back as one, which is fastest.
    """
    return _encoded(table, pa.ipc.new_file)


def encode_stream(table: pa.Table) -> Chunk:
    """Return `table` as an IPC stream: its batches may have dictionaries that differ, which a file cannot have."""
    return _encoded(table, pa.ipc.new_stream)


def encode_as_one(table: pa.Table, spans: Mapping[int, Sees] | None = None) -> Chunk:
    """Return what `encode` has for `one_batch` of `table`. Columns of numbers without nulls are not copied for that:
    what their batches have is written one behind the other. Half the time of a copy into memory that is not yet there.

    spans: are shown what columns of plain numbers without nulls have, by the columns' numbers, as it is hashed: then it
    is in the processor's cache. Those of other columns are shown nothing, and those of a table that cannot be joined
    perhaps not all.
    """
    joined, behind = _joined(_exact(table))
    shown: dict[int, tuple[int, list[Sees]]] = {}
    for index, span in (spans or {}).items():
        column = joined.column(index)
        if len(column) and column.num_chunks == 1 and _is_plain(column.type) and not column.null_count:
            (part,), width = column.chunks, column.type.bit_width // 8
            size = width * len(part)
            there = shown.setdefault(part.buffers()[1].address + width * part.offset, (size, []))
            if there[0] == size:  # columns may share their memory
                there[1].append(span)
    chunk = _encoded(joined, pa.ipc.new_file, behind, shown)
    return encode(one_batch(table)) if behind else chunk  # should Arrow hand on anything but the buffers that it has


def _joined(table: pa.Table) -> tuple[pa.Table, dict[int, list[pa.Buffer]]]:
    """Return `table` as one batch, and what is to be written in place of buffers, by their addresses: these have only
    addresses, and no memory."""
    widths = {
        index: column.type.bit_width // 8
        for index, column in enumerate(table.columns)
        if column.num_chunks > 1 and _is_plain(column.type) and not column.null_count
    }
    size = sum(widths.values()) * table.num_rows
    rest = one_batch(table.select([index for index in range(table.num_columns) if index not in widths]))
    if not size or any(column.num_chunks > 1 for column in rest.columns):
        return one_batch(table), {}
    nothing = pa.py_buffer(mmap.mmap(-1, size))
    others = iter(rest.columns)
    columns: list[pa.Array | pa.ChunkedArray] = []
    behind: dict[int, list[pa.Buffer]] = {}
    start = 0
    for index, column in enumerate(table.columns):
        if index not in widths:
            columns.append(next(others))
            continue
        width = widths[index]
        there = nothing.slice(start, width * table.num_rows)
        start += there.size
        behind[there.address] = [
            part.buffers()[1].slice(part.offset * width, len(part) * width) for part in column.chunks if len(part)
        ]
        columns.append(pa.Array.from_buffers(column.type, table.num_rows, [None, there], null_count=0))
    return pa.Table.from_arrays(columns, schema=table.schema), behind


def _exact(table: pa.Table) -> pa.Table:
    """Return `table` with each column of plain numbers without nulls over its own bytes alone: of a slice, Arrow would
    write what follows too, as far as it fills up eight bytes, and the same rows would not always be the same chunk."""
    if not table.num_columns:  # its rows are a number alone
        return table
    columns = [
        _over_own(column) if column.num_chunks == 1 and _is_plain(column.type) and not column.null_count else column
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _over_own(column: pa.ChunkedArray) -> pa.Array:
    (part,), width = column.chunks, column.type.bit_width // 8
    _, values = part.buffers()
    own = values if values is None else values.slice(part.offset * width, len(part) * width)
    return pa.Array.from_buffers(column.type, len(part), [None, own], null_count=0)


def _is_plain(type_: pa.DataType) -> bool:
    """Whether an array without nulls is one buffer, of as many bytes for each value."""
    return pa.types.is_decimal(type_) or (pa.types.is_primitive(type_) and not pa.types.is_boolean(type_))


def _encoded(
    table: pa.Table,
    new: Callable[[pa.PythonFile, pa.Schema], Any],
    behind: dict[int, list[pa.Buffer]] | None = None,
    shown: dict[int, tuple[int, list[Sees]]] | None = None,
) -> Chunk:
    sink = _Pieces(behind if behind is not None else {}, shown or {})
    with pa.PythonFile(sink, mode="w") as file, new(file, table.schema) as writer:
        writer.write_table(table)
    return Chunk(sink.hash.hexdigest(), table.num_rows, sink.size, tuple(sink.pieces))


def layout(schema: pa.Schema, rows: int) -> list[pa.Buffer | int] | None:
    """Return the file that `encode` makes of so many rows of plain numbers without nulls, with the numbers of the
    columns where their values belong. None should Arrow hand on anything but the buffers that it has."""
    sizes = [rows * type_.bit_width // 8 for type_ in schema.types]
    nothing = pa.py_buffer(mmap.mmap(-1, sum(sizes)))  # addresses, and no memory
    columns, places = [], {}
    start = 0
    for index, (type_, size) in enumerate(zip(schema.types, sizes, strict=True)):
        there = nothing.slice(start, size)
        start += size
        places[there.address, size] = index
        columns.append(pa.Array.from_buffers(type_, rows, [None, there], null_count=0))
    sink = _Layout(places)
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return None if places else sink.pieces


def one_batch(table: pa.Table) -> pa.Table:
    """Return `table` as one batch where its types can be joined; readers are fastest so. No copy when it is one."""
    if all(column.num_chunks <= 1 for column in table.columns):
        return table
    try:
        return table.unify_dictionaries().combine_chunks()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # types that cannot be joined stay several batches
        return table


def identify(data: pa.Buffer) -> str:
    """Return the chunk id that `data` has: equal to its name unless it was damaged. 15 GB/s."""
    return xxhash.xxh3_128_hexdigest(data)


class Arriving:
    """The pieces of a chunk as they come, and once they are over the `id` that they have together: hashed while they
    are in the processor's cache."""

    def __init__(self, pieces: Iterable[pa.Buffer]) -> None:
        self._pieces, self._hash = pieces, xxhash.xxh3_128()

    def __iter__(self) -> Iterator[pa.Buffer]:
        for piece in self._pieces:
            self._hash.update(piece)
            yield piece

    @property
    def id(self) -> str:
        return self._hash.hexdigest()


def decode(data: pa.Buffer) -> pa.Table:
    """Return the rows of a chunk as views into `data`: nothing is copied, and pages come in when touched."""
    return pa.ipc.open_file(pa.BufferReader(data)).read_all()


def decode_stream(data: pa.Buffer) -> pa.Table:
    """Return the rows of a stream, likewise."""
    return pa.ipc.open_stream(pa.BufferReader(data)).read_all()


def same_chunks(chunk_ids: Sequence[str]) -> str:
    """Return a name for `chunk_ids` in their order: frames that have the same have the same rows."""
    return xxhash.xxh3_128_hexdigest("".join(chunk_ids).encode())

"""A chunk: up to CHUNK_BYTES_MAX of a frame's rows as one Arrow IPC file, never changed, named by its hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

CHUNK_BYTES_MAX = 64 << 20  # of Arrow buffers: large enough to scan at full speed, small enough to move and retry


@dataclass(frozen=True, slots=True)
class Chunk:
    """The bytes of one chunk before they are stored."""

    id: str  # 32 hexadecimal digits: XXH3-128 of the bytes
    rows: int
    size: int  # bytes of the whole file
    pieces: tuple[pa.Buffer, ...]  # the file in order; large ones are the columns' own memory, not copies


class _Pieces:
    """A sink that keeps what the IPC writer hands it, without copying the columns."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[pa.Buffer] = []
        self.size = 0
        self.hash = xxhash.xxh3_128()

    def write(self, data: object) -> int:
        piece = pa.py_buffer(data)
        self.pieces.append(piece)
        self.hash.update(piece)
        self.size += piece.size
        return int(piece.size)

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


def encode(table: pa.Table) -> Chunk:
    """Return `table` as a chunk: its batches, uncompressed, in one IPC file. Costs one pass for the hash (15 GB/s).

    Batches are written as they are: a table of one batch is read back as one, which is fastest.
    """
    return _encoded(table, pa.ipc.new_file)


def encode_stream(table: pa.Table) -> Chunk:
    """Return `table` as an IPC stream: its batches may have dictionaries that differ, which a file cannot have."""
    return _encoded(table, pa.ipc.new_stream)


def _encoded(table: pa.Table, new: Callable[[pa.PythonFile, pa.Schema], Any]) -> Chunk:
    sink = _Pieces()
    with pa.PythonFile(sink, mode="w") as file, new(file, table.schema) as writer:
        writer.write_table(table)
    return Chunk(sink.hash.hexdigest(), table.num_rows, sink.size, tuple(sink.pieces))


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

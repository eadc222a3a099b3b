"""What a query reads on a node, and keeps there, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.distributed.fragment import ChunkGone, Piece
from eau2.errors import Corrupt, failed_call
from eau2.remote.pieces import INLINE_BYTES_MAX, Kept, map_file, read_piece
from eau2.store.nodes import ReadCounts, closed
from eau2.values.chunk import decode, encode_stream

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eau2.remote.transport import Transport
    from eau2.store.mapping import Mapping
    from eau2.store.node import DirectoryNode


class Shelf:
    """That of one query on `node`: see `runner.Shelf`. Thread-safe."""

    def __init__(self, query: str, node: DirectoryNode, folder: Path, transport: Transport) -> None:
        self._query, self._node, self._transport = query, node, transport
        self._folder = folder / query
        try:
            self._folder.mkdir()
        except OSError as error:
            raise failed_call(error, self._folder) from error
        self._lock = threading.Lock()  # guards everything below
        self._count = 0
        self._given: dict[str, Mapping] = {}
        self._brought: dict[tuple[str, int], pa.Table] = {}  # pieces of other nodes, until they are freed
        self._bringing: dict[tuple[str, int], threading.Lock] = {}  # held by who brings one: the others wait for it
        self._closed = False

    # -- what is read -------------------------------------------------------------------------------------------------

    def chunk(self, key: str, chunk_id: str) -> pa.Table:
        with self._lock:
            given = self._given.get(chunk_id)
        if given is not None:
            return decode(given.buffer())
        try:
            (data,) = self._node.map([chunk_id], key=key)
        except FileNotFoundError:
            raise ChunkGone(f"{key!r}: chunk {chunk_id} is not on {self._node.name}") from None
        try:
            table = decode(data)
        except (pa.ArrowException, OSError) as error:
            raise Corrupt(f"{key!r}: chunk {chunk_id} is no Arrow file: {error}", hint="put the frame again") from error
        self._node.count_read(ReadCounts(chunks_read=1, rows_read=table.num_rows, bytes_read=data.size))
        return table

    def give(self, chunk_id: str, data: bytes) -> None:
        """Have a chunk that is on no node."""
        path = self._write(f"given-{chunk_id}", [pa.py_buffer(data)])
        mapping = map_file(path, len(data))
        assert mapping is not None
        with self._lock:
            self._given[chunk_id] = mapping

    def piece(self, piece: Piece) -> pa.Table:
        if piece.node == self._node.name:
            return read_piece(piece, self._transport, str(self._folder))
        place = piece.node, piece.handle.number
        with self._lock:
            bringing = self._bringing.setdefault(place, threading.Lock())
        with bringing:
            with self._lock:
                found = self._brought.get(place)
            if found is None:
                found = read_piece(piece, self._transport, str(self._folder))
                self._node.count_read(ReadCounts(rows_moved=piece.rows, bytes_moved=piece.bytes))
                with self._lock:
                    if not self._closed:
                        self._brought[place] = found
        return found

    def part(self, number: int, start: int, size: int) -> bytes:
        """Return some bytes of a piece. FileNotFoundError."""
        with (self._folder / str(number)).open("rb") as file:
            file.seek(start)
            return file.read(size)

    # -- what is kept -------------------------------------------------------------------------------------------------

    def keep(self, table: pa.Table, partition: int, order: int) -> Piece:
        chunk = encode_stream(table)
        with self._lock:
            number = self._count
            self._count += 1
        kept = Kept(self._query, number, chunk.size, chunk.id)
        if chunk.size <= INLINE_BYTES_MAX:
            kept = kept._replace(data=b"".join(chunk.pieces))
        else:
            kept = kept._replace(path=self._write(str(number), chunk.pieces))
        return Piece(kept, self._node.name, partition, order, table.num_rows, table.nbytes)

    def drop(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if piece.node != self._node.name:
                with self._lock:
                    self._brought.pop((piece.node, piece.handle.number), None)
                    self._bringing.pop((piece.node, piece.handle.number), None)
            elif piece.handle.path:
                with contextlib.suppress(OSError):
                    os.unlink(piece.handle.path)

    def close(self) -> None:
        """Let go of everything: what is made after this is refused. Idempotent."""
        with self._lock:
            self._closed = True
            self._given.clear()
            self._brought.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, name: str, pieces: Sequence[pa.Buffer]) -> str:
        """Write a file, and return its path. StoreClosed when the query has ended; DiskFull and others."""
        path = self._folder / name
        try:
            with self._lock:  # so that none is made while the folder is removed
                if self._closed:
                    raise closed()
                file = path.open("xb", buffering=0)
            with file:
                for piece in pieces:
                    rest = memoryview(piece)
                    while len(rest):
                        rest = rest[file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise failed_call(error, path) from error
        return str(path)

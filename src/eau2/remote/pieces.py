"""Pieces of queries as they lie on nodes, and as they are had from there: by who runs the query, and by other nodes.

A small piece is in its own handle, and travels with that. Any other is a file in the folder of the node that made it.
Its name is unguessable: who can open it is on that machine, and maps it; who cannot has it brought, in parts.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from eau2.cluster.peer import Unreachable
from eau2.distributed.fragment import NodeLost
from eau2.errors import Corrupt
from eau2.remote.jobs import GONE_SECONDS
from eau2.remote.transport import answer_of, view_without
from eau2.remote.work import PART_BYTES
from eau2.store.chunks import stamp_of
from eau2.store.mapping import Mapping, in_file
from eau2.values.chunk import decode_stream, identify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.distributed.fragment import Piece
    from eau2.remote.transport import Pending, Transport

INLINE_BYTES_MAX = 16 << 10
_AHEAD = 3  # parts that are asked for before the one that is waited for has come
# For one part: many are under way at once, for several fragments and queries, and a slow link has them one after the
# other. That its node is gone is known long before. To ask sooner again would make the link slower still.
_SLOW_SECONDS = 60.0
_AGAIN_SECONDS = 0.1


class Kept(NamedTuple):
    """The handle of a piece: where its rows are."""

    query: str
    number: int  # of the pieces of that query on its node
    size: int
    id: str  # by which the bytes are known to be whole, as those of a chunk
    path: str = ""  # of a file on the node's machine
    data: bytes = b""  # all of it, where it is small


def read_piece(piece: Piece, transport: Transport, folder: str) -> pa.Table:
    """Return the rows of a piece, in memory where it is small, else in a file that is mapped: the node's own, or one
    without a name in `folder`. NodeLost, Corrupt; DiskFull and others of the folder."""
    kept: Kept = piece.handle
    if not kept.path:
        return decode_stream(pa.py_buffer(kept.data))
    mapping = map_file(kept.path, kept.size) or _brought(piece, transport, folder)
    return decode_stream(mapping.buffer())


def map_file(path: str, size: int) -> Mapping | None:
    """Return the file mapped, where it is on this machine and can be read."""
    file = _opened(path)
    if file is None:
        return None
    try:
        stamp = stamp_of(os.fstat(file))
        return Mapping(file, stamp) if stamp[1] == size else None
    finally:
        os.close(file)


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _brought(piece: Piece, transport: Transport, folder: str) -> Mapping:
    mapping = in_file(_parts(piece, transport), folder)
    if identify(mapping.buffer()) != piece.handle.id:
        raise Corrupt(f"what {piece.node} has made for a query was damaged on its way", hint="try again")
    return mapping


def _parts(piece: Piece, transport: Transport) -> Iterator[pa.Buffer]:
    coming: deque[tuple[int, Pending]] = deque()
    for start in range(0, piece.handle.size, PART_BYTES):
        coming.append((start, _asked(piece, transport, start)))
        if len(coming) > _AHEAD:
            yield _part(piece, transport, *coming.popleft())
    while coming:
        yield _part(piece, transport, *coming.popleft())


def _asked(piece: Piece, transport: Transport, start: int) -> Pending:
    arguments = (piece.handle.query, piece.handle.number, start, PART_BYTES)
    return transport.call(piece.node, "piece", (arguments, {}), _SLOW_SECONDS)


def _part(piece: Piece, transport: Transport, start: int, pending: Pending) -> pa.Buffer:
    """Return the part that begins at `start`, for which `pending` was asked; again where that was lost."""
    patience = time.monotonic() + GONE_SECONDS
    while True:
        try:
            part: pa.Buffer = answer_of(transport, piece.node, pending)
        except Unreachable:
            if view_without(transport, piece.node) is not None or time.monotonic() >= patience:
                raise NodeLost(piece.node) from None
        except FileNotFoundError:  # it was started anew, or has given up the query
            raise NodeLost(piece.node, f"{piece.node} has lost what it had made for a query") from None
        else:
            return part
        time.sleep(_AGAIN_SECONDS)
        pending = _asked(piece, transport, start)

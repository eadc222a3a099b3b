"""Whole files as values: a frame of one binary column, a row a piece. All that holds for frames holds for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.errors import DiskFull, Eau2Error, LoadError, WrongKind, is_disk_full
from eau2.ingest.whole import WholeFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIECE_BYTES = 32 << 20  # half a chunk, so that a piece and its framing always fit one
_MARK = b"eau2:file"
FILE_SCHEMA = pa.schema([pa.field("data", pa.large_binary(), nullable=False)]).with_metadata({_MARK: b"1"})


def is_file(schema: pa.Schema) -> bool:
    return bool(schema.metadata and _MARK in schema.metadata)


def read_pieces(path: str | os.PathLike[str]) -> Iterator[pa.RecordBatch]:
    """Yield the bytes of the file at `path` as rows. LoadError when it cannot be read."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                yield pa.RecordBatch.from_arrays([pa.array([piece], pa.large_binary())], schema=FILE_SCHEMA)
    except OSError as error:
        raise LoadError(
            f"cannot read {os.fspath(path)}: {error.strerror}", file=os.fspath(path), hint="give the path of a file"
        ) from error


def write_pieces(key: str, pieces: Iterable[bytes | pa.Buffer], path: str | os.PathLike[str]) -> int:
    """Write `pieces` to `path`, which appears whole or not at all. Return its size in bytes."""
    name = os.fspath(path)
    size = 0
    try:
        with WholeFile(path) as file:
            for piece in pieces:
                size += file.write(piece)
    except OSError as error:
        if isinstance(error, Eau2Error):  # of the pieces
            raise
        if is_disk_full(error):
            raise DiskFull(f"no space to write {key!r} to {name}", hint="free some space and call again") from error
        raise LoadError(f"cannot write {name}: {error.strerror}", file=name) from error
    return size


def not_a_file(key: str) -> WrongKind:
    return WrongKind(f"{key!r} holds a frame, not a file", hint="read it with store.frame(key)")

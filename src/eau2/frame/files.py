"""Whole files as values: a frame of one binary column, a row a piece. All that holds for frames holds for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.errors import DiskFull, LoadError, WrongKind
from eau2.store.nodes import is_disk_full

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
    target = Path(path)
    part = target.with_name(f".{target.name[:100]}.{os.urandom(4).hex()}.part")
    try:
        with part.open("xb") as file:
            for piece in pieces:
                file.write(piece)
            size = file.tell()
        part.replace(target)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and is_disk_full(error):
            raise DiskFull(f"no space to write {key!r} to {target}", hint="free some space and call again") from error
        if isinstance(error, OSError):
            raise LoadError(f"cannot write {target}: {error.strerror}", file=str(target)) from error
        raise
    return size


def not_a_file(key: str) -> WrongKind:
    return WrongKind(f"{key!r} holds a frame, not a file", hint="read it with store.frame(key)")

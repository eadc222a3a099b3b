"""A manifest: what is stored under a frame's key. It is the commit: a frame exists when its manifest does.

Encoded as one Arrow IPC stream whose table has a row a chunk and whose schema metadata holds the frame's own schema,
so that minimum and maximum keep their Arrow type, and so that pruning is a filter over that very table.

    id: string   rows: int64   bytes: int64   homes: list<string>
    nulls:0 ... : int64   min:0 ... max:0 ... : the type of the column

Columns are numbered, not named: names may repeat in a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

MANIFEST_FORMAT = b"1"
_SCHEMA, _FORMAT = b"eau2:schema", b"eau2:manifest"


@dataclass(frozen=True, slots=True)
class ColumnRange:
    """What is known of one column of one chunk. `least` and `most` are None when not known or all missing.

    For floating point, `most` is NaN when any value is (as in the engine's order, NaN is above every number).
    """

    nulls: int
    least: pa.Scalar | None = None
    most: pa.Scalar | None = None


@dataclass(frozen=True, slots=True)
class ChunkEntry:
    """One chunk of a frame, as its manifest has it."""

    id: str
    rows: int
    size: int  # bytes of the chunk file
    homes: tuple[str, ...]
    columns: tuple[ColumnRange, ...]


@dataclass(frozen=True)
class Manifest:
    """The schema and the ordered chunks of a frame."""

    schema: pa.Schema
    table: pa.Table  # a row a chunk, columns as above

    @cached_property
    def chunk_ids(self) -> tuple[str, ...]:
        return tuple(self.table.column("id").to_pylist())

    @cached_property
    def chunk_rows(self) -> tuple[int, ...]:
        return tuple(self.table.column("rows").to_pylist())

    @cached_property
    def rows(self) -> int:
        return sum(self.chunk_rows)

    @cached_property
    def size(self) -> int:
        """Bytes of the chunk files together."""
        return sum(self.table.column("bytes").to_pylist())

    @classmethod
    def of(cls, schema: pa.Schema, chunks: Sequence[ChunkEntry]) -> Manifest:
        columns: dict[str, pa.Array] = {
            "id": pa.array([chunk.id for chunk in chunks], pa.string()),
            "rows": pa.array([chunk.rows for chunk in chunks], pa.int64()),
            "bytes": pa.array([chunk.size for chunk in chunks], pa.int64()),
            "homes": pa.array([chunk.homes for chunk in chunks], pa.list_(pa.string())),
        }
        for index, field in enumerate(schema):
            ranges = [chunk.columns[index] for chunk in chunks]
            columns[f"nulls:{index}"] = pa.array([known.nulls for known in ranges], pa.int64())
            if any(known.least is not None for known in ranges):
                columns[f"min:{index}"] = _scalars([known.least for known in ranges], field.type)
                columns[f"max:{index}"] = _scalars([known.most for known in ranges], field.type)
        return cls(schema, pa.table(columns))

    def encode(self) -> bytes:
        metadata = {_FORMAT: MANIFEST_FORMAT, _SCHEMA: self.schema.serialize().to_pybytes()}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema.with_metadata(metadata)) as writer:
            writer.write_table(self.table)
        return bytes(sink.getvalue())

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Return the manifest encoded in `data`, whose checksum the caller has verified."""
        table = pa.ipc.open_stream(pa.py_buffer(data)).read_all()
        schema = pa.ipc.read_schema(pa.py_buffer(table.schema.metadata[_SCHEMA]))
        return cls(schema, table.replace_schema_metadata(None))


def _scalars(values: Sequence[pa.Scalar | None], type_: pa.DataType) -> pa.Array:
    return pa.array(values, type_)

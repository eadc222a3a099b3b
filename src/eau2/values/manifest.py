"""A manifest: what is stored under a frame's key. It is the commit: a frame exists when its manifest does.

Encoded as one Arrow IPC stream whose table has a row a chunk and whose schema metadata holds the frame's own schema,
so that minimum and maximum keep their Arrow type, and so that pruning is a filter over that very table.

    id: string   rows: int64   bytes: int64   homes: list<string>
    nulls:0 ... : int64   min:0 ... max:0 ... : the type of the column

Columns are numbered, not named: names may repeat in a frame.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

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
    def chunk_sizes(self) -> tuple[int, ...]:
        return tuple(self.table.column("bytes").to_pylist())

    @cached_property
    def chunk_homes(self) -> tuple[tuple[str, ...], ...]:
        """The nodes each chunk was assigned to."""
        return tuple(map(tuple, self.table.column("homes").to_pylist()))

    @cached_property
    def rows(self) -> int:
        return sum(self.chunk_rows)

    @cached_property
    def size(self) -> int:
        """Bytes of the chunk files together."""
        return sum(self.chunk_sizes)

    @cached_property
    def whole_numbers(self) -> dict[int, tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]]:
        """The least and the most of each chunk, of the columns of whole numbers of which all chunks know them."""
        found = {}
        for index, type_ in enumerate(self.schema.types):
            if pa.types.is_integer(type_) and f"min:{index}" in self.table.column_names:
                least, most = self.table.column(f"min:{index}"), self.table.column(f"max:{index}")
                if not (least.null_count or most.null_count):
                    found[index] = least.to_numpy(), most.to_numpy()
        return found

    @classmethod
    def of(cls, schema: pa.Schema, chunks: Sequence[ChunkEntry]) -> Manifest:
        columns: dict[str, pa.Array] = {
            "id": _texts([chunk.id for chunk in chunks]),
            "rows": _numbers([chunk.rows for chunk in chunks]),
            "bytes": _numbers([chunk.size for chunk in chunks]),
            "homes": _lists([chunk.homes for chunk in chunks]),
        }
        for index, field in enumerate(schema):
            ranges = [chunk.columns[index] for chunk in chunks]
            columns[f"nulls:{index}"] = _numbers([known.nulls for known in ranges])
            if any(known.least is not None for known in ranges):
                columns[f"min:{index}"] = _scalars([known.least for known in ranges], field.type)
                columns[f"max:{index}"] = _scalars([known.most for known in ranges], field.type)
        return cls(schema, pa.table(columns))

    def assigned_to(self, homes: Sequence[Sequence[str]]) -> Manifest:
        """Return the manifest with other homes, one list of nodes for each chunk."""
        place = self.table.schema.get_field_index("homes")
        return Manifest(self.schema, self.table.set_column(place, "homes", _lists(homes)))

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


def homes_of_equal(chunks: Iterable[tuple[str, tuple[str, ...]]]) -> list[tuple[str, ...]]:
    """Return the homes to assign to `chunks`, each with its id and those it would be given alone: equal chunks of a
    frame are one file on a node, so all have those of the first, or there would be more copies than are asked for.

    >>> homes_of_equal([("a", ("node-0",)), ("b", ("node-1",)), ("a", ("node-2",))])
    [('node-0',), ('node-1',), ('node-0',)]
    """
    first: dict[str, tuple[str, ...]] = {}
    return [first.setdefault(chunk_id, homes) for chunk_id, homes in chunks]


# Arrays are made of buffers here, and not by `pa.array`: its first call in a process imports pandas where that is
# installed, which takes longer than to put a gigabyte.


def _numbers(values: Sequence[int]) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(array("q", values))])


def _texts(values: Sequence[str]) -> pa.Array:
    encoded = [value.encode() for value in values]
    buffers = [None, _ends(map(len, encoded)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _lists(values: Sequence[Sequence[str]]) -> pa.Array:
    children = [_texts([text for value in values for text in value])]
    return pa.Array.from_buffers(pa.list_(pa.string()), len(values), [None, _ends(map(len, values))], children=children)


def _ends(lengths: Iterable[int]) -> pa.Buffer:
    return pa.py_buffer(array("i", accumulate(lengths, initial=0)))


def _scalars(values: Sequence[pa.Scalar | None], type_: pa.DataType) -> pa.Array:
    return pa.concat_arrays([pa.nulls(1, type_) if value is None else pa.repeat(value, 1) for value in values])

"""A chunk of numbers whose columns come one after the other, in parts: each is hashed, measured and handed on while it
is in the processor's cache. Rows that come side by side have to be in memory together before; these have not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import xxhash

from eau2.values.chunk import SEEN_BYTES, layout
from eau2.values.ranges import Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eau2.values.manifest import ColumnRange


@dataclass(frozen=True, slots=True)
class Columns:
    """The rows of one chunk, at least one, as they come: of each column in turn its values, in parts of whole values.

    There are no nulls. Of schemas for which `widths` has something. Whoever takes it takes all parts.
    """

    rows: int
    parts: Iterator[pa.Buffer]


def widths(schema: pa.Schema) -> list[int] | None:
    """Return how many bytes a value of each column has; None where there are others than `Span` measures."""
    if not len(schema) or any(Span.of(type_) is None for type_ in schema.types):
        return None
    return [type_.bit_width // 8 for type_ in schema.types]


def gathered(schema: pa.Schema, columns: Columns) -> pa.Table:
    """Take all parts; return the rows as a table. Nothing is copied."""
    arrays = []
    for width, type_ in zip(widths(schema) or (), schema.types, strict=True):
        parts = _column(columns.parts, columns.rows * width)
        chunks = [pa.Array.from_buffers(type_, part.size // width, [None, part], null_count=0) for part in parts]
        arrays.append(pa.chunked_array(chunks, type_))
    return pa.Table.from_arrays(arrays, schema=schema)


class ArrivingChunk:
    """The file of a chunk as its columns come. Iterate once; then it has `id`, and `ranges`."""

    def __init__(self, columns: Columns, file: Sequence[pa.Buffer | int], spans: list[Span], sizes: list[int]) -> None:
        self.rows = columns.rows
        self.size = sum(sizes) + sum(piece.size for piece in file if not isinstance(piece, int))
        self._columns, self._file, self._spans, self._sizes = columns, file, spans, sizes
        self._hash = xxhash.xxh3_128()

    @classmethod
    def of(cls, schema: pa.Schema, columns: Columns) -> ArrivingChunk | None:
        """Return the chunk of `columns`; None should Arrow not tell where in a file the columns are."""
        file = layout(schema, columns.rows)
        if file is None:
            return None
        spans = [span for type_ in schema.types if (span := Span.of(type_)) is not None]
        return cls(columns, file, spans, [columns.rows * width for width in widths(schema) or ()])

    def __iter__(self) -> Iterator[pa.Buffer]:
        for piece in self._file:
            if not isinstance(piece, int):
                self._hash.update(piece)
                yield piece
                continue
            for part in _column(self._columns.parts, self._sizes[piece]):
                for start in range(0, part.size, SEEN_BYTES):
                    block = part.slice(start, min(SEEN_BYTES, part.size - start))
                    self._hash.update(block)
                    self._spans[piece].see(block)
                    yield block

    @property
    def id(self) -> str:
        return str(self._hash.hexdigest())

    @property
    def ranges(self) -> tuple[ColumnRange, ...]:
        """What the columns span."""
        return tuple(span.range() for span in self._spans)


def _column(parts: Iterator[pa.Buffer], size: int) -> Iterator[pa.Buffer]:
    """Yield the parts of one column, of `size` bytes together."""
    while size:
        part = next(parts)
        size -= part.size
        yield part

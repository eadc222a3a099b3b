"""A stored frame as it is held: its manifest, and the mapped bytes of its chunks."""

from __future__ import annotations

import mmap
import tempfile
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from eau2.errors import Corrupt, StoreClosed
from eau2.values.chunk import decode, encode, one_batch
from eau2.values.manifest import ChunkEntry, Manifest
from eau2.values.ranges import column_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eau2.store.nodes import Staged


class Keeper(Protocol):
    """What a held frame needs of its node."""

    def verify(self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "") -> None: ...

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged: ...

    def discard(self, staged: Sequence[Staged]) -> None: ...


@dataclass(frozen=True, eq=False)
class Source:
    """One version of a frame, held: its chunks stay readable whatever is put or deleted meanwhile.

    Thread-safe. Compared by identity: what is cached for one (its engine tables) ends with it.
    """

    key: str  # "" for rows that no key names
    version: int
    manifest: Manifest
    buffers: Sequence[pa.Buffer]  # one a chunk
    node: Keeper | None  # None for rows that no key names
    places: tuple[str, ...] = ()  # a live home of each chunk, spread evenly; () when all are on the one node
    _decoded: dict[int, pa.Table] = field(default_factory=dict, init=False, repr=False)
    _faults: list[str] = field(default_factory=list, init=False, repr=False)

    @property
    def schema(self) -> pa.Schema:
        return self.manifest.schema

    @property
    def node_name(self) -> str:
        return str(getattr(self.node, "name", ""))

    @cached_property
    def row_ends(self) -> tuple[int, ...]:
        """The number of rows up to the end of each chunk."""
        return tuple(accumulate(self.manifest.chunk_rows))

    @cached_property
    def row_bytes(self) -> int:
        """What a row takes, in the chunk with the widest."""
        sizes = self.manifest.table.column("bytes").to_pylist()
        return max(
            (size // max(1, rows) for size, rows in zip(sizes, self.manifest.chunk_rows, strict=True)), default=0
        )

    @property
    def title(self) -> str:
        return f"{self.key} v{self.version}" if self.key else "rows without a key"

    def verify(self, chunks: Sequence[int] | None = None) -> None:
        """Raise Corrupt unless the chunks (all by default) are what was written. About 2 us a chunk."""
        if self.node is None:
            return
        ids: Sequence[str] = self.manifest.chunk_ids
        data = self.buffers
        if chunks is not None:
            ids, data = [ids[index] for index in chunks], [data[index] for index in chunks]
        try:
            self.node.verify(ids, data, key=self.key)
        except StoreClosed:
            return  # a held frame stays readable after close, and in a forked child; nobody is left to ask
        except Corrupt as error:
            self._faults[:] = [error.message]
            raise

    @property
    def was_corrupt(self) -> bool:
        """Whether a look at it has found damage: it is mapped anew then, as it may have been mended."""
        return bool(self._faults)

    def chunk(self, index: int) -> pa.Table:
        """Return the rows of a chunk as views into its mapping. 0.1 ms the first time."""
        found = self._decoded.get(index)
        if found is None:
            try:
                found = decode(self.buffers[index])
            except (pa.ArrowException, OSError) as error:
                raise Corrupt(
                    f"{self.key!r}: chunk {index} ({self.manifest.chunk_ids[index]}) is no Arrow file: {error}",
                    hint="run `eau2 check`, and put the frame again",
                ) from error
            if found.schema.names != self.schema.names or found.num_rows != self.manifest.chunk_rows[index]:
                raise Corrupt(f"{self.key!r}: chunk {index} is not the one that the manifest describes")
            self._decoded[index] = found
        return found

    def batches(self, chunks: Iterable[int] | None = None) -> list[pa.RecordBatch]:
        indexes = range(len(self.buffers)) if chunks is None else chunks
        return [batch for index in indexes for batch in self.chunk(index).to_batches()]

    @cached_property
    def table(self) -> pa.Table:
        """All rows, nothing copied."""
        if not self.buffers:
            return pa.Table.from_batches([], self.schema)  # Schema.empty_table cannot make unions
        if len(self.schema) == 0:  # joining tables without columns would forget their rows
            return pa.Table.from_batches(self.batches())
        tables = [self.chunk(index) for index in range(len(self.buffers))]
        return pa.concat_tables(tables).replace_schema_metadata(self.schema.metadata)

    def locate(self, row: int) -> tuple[int, int]:
        """Return the chunk that has `row`, and the row's number in it."""
        chunk = bisect_right(self.row_ends, row)
        return chunk, row - (self.row_ends[chunk - 1] if chunk else 0)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Return `tables` as one, of one batch where its types can be joined."""
    if not tables[0].num_columns:  # concat_tables would forget their rows
        return pa.Table.from_batches([batch for table in tables for batch in table.to_batches()], tables[0].schema)
    return one_batch(pa.concat_tables(tables))


def unnamed(schema: pa.Schema, tables: Iterable[pa.Table], *, folder: str | None = None) -> Source:
    """Return `tables` as a Source that no key names, one chunk each (empty ones are left out).

    With `folder` the rows are written there, to files without a name that are gone when nobody holds the Source: memory
    stays bounded by one table. Without, they are kept in memory.
    """
    entries: list[ChunkEntry] = []
    buffers: list[pa.Buffer] = []
    for table in tables:
        if table.num_rows == 0:
            continue
        chunk = encode(table)
        ranges = tuple(column_range(column) for column in table.columns)
        entries.append(ChunkEntry(chunk.id, chunk.rows, chunk.size, (), ranges))
        if folder is None:
            buffers.append(pa.py_buffer(b"".join(chunk.pieces)))
            continue
        with tempfile.TemporaryFile(dir=folder) as file:
            for piece in chunk.pieces:
                file.write(piece)
            file.flush()
            buffers.append(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    return Source("", 0, Manifest.of(schema, entries), buffers, None)

"""A stored frame as it is held: its manifest, and the mapped bytes of its chunks."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.errors import Corrupt, Eau2Error, StoreClosed
from eau2.store.mapping import in_file
from eau2.store.nodes import MappedFrame
from eau2.values.chunk import decode, encode, one_batch
from eau2.values.manifest import ChunkEntry, Manifest
from eau2.values.ranges import column_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eau2.store.nodes import Node

_WHOLE = -1  # among the decoded chunks: all of them as one table


class Source:
    """One version of a frame, held: its chunks stay readable whatever is put or deleted meanwhile.

    Thread-safe. Compared by identity: what is cached for one (its engine tables) ends with it. The rows never change,
    but they are mapped anew when a chunk turns out to be damaged, and from other nodes when nodes die or return.

    key, version: "" and 0 for rows that no key names; these have no `node`.
    """

    def __init__(self, key: str, version: int, manifest: Manifest, mapped: MappedFrame, node: Node | None) -> None:
        self.key = key
        self.version = version
        self.manifest = manifest
        self.mapped = mapped
        self.node = node
        self.was_renewed = False  # what was made of its buffers before may be of a damaged one
        self._decoded: dict[int, pa.Table] = {}
        self._faults: list[str] = []

    @property
    def buffers(self) -> Sequence[pa.Buffer]:
        """The bytes of each chunk."""
        return self.mapped.buffers

    @property
    def places(self) -> tuple[str, ...]:
        """The node that each chunk is mapped from: a live home, spread evenly. () when all are on the one node."""
        return self.mapped.places

    def away(self) -> frozenset[int]:
        """Return the chunks that have to be brought to be read in this process."""
        is_here = getattr(self.mapped.buffers, "is_here", None)  # of chunks that are brought when they are touched
        if is_here is None:
            return frozenset()
        return frozenset(chunk for chunk in range(len(self.mapped.buffers)) if not is_here(chunk))

    @property
    def schema(self) -> pa.Schema:
        return self.manifest.schema

    @cached_property
    def row_ends(self) -> tuple[int, ...]:
        """The number of rows up to the end of each chunk."""
        return tuple(accumulate(self.manifest.chunk_rows))

    @cached_property
    def row_bytes(self) -> int:
        """What a row takes, in the chunk with the widest."""
        sizes = zip(self.manifest.chunk_sizes, self.manifest.chunk_rows, strict=True)
        return max((size // max(1, rows) for size, rows in sizes), default=0)

    @property
    def title(self) -> str:
        return f"{self.key} v{self.version}" if self.key else "rows without a key"

    def verify(self, chunks: Sequence[int] | None = None) -> None:
        """Raise Corrupt unless the chunks (all by default) are what was written. About 2 us a chunk.

        What is damaged is mapped anew first: it may have been mended, and other nodes may have it.
        """
        if self.node is None:
            return
        ids: Sequence[str] = self.manifest.chunk_ids
        data, places, _ = self.mapped
        if chunks is not None:
            ids, data = [ids[index] for index in chunks], [data[index] for index in chunks]
            places = tuple(places[index] for index in chunks) if places else ()
        try:
            self.node.verify(ids, data, key=self.key, places=places)
        except StoreClosed:
            return  # a held frame stays readable after close, and in a forked child; nobody is left to ask
        except Corrupt as error:
            self._faults[:] = [error.message]
            if not self.renew():
                raise

    def renew(self) -> bool:
        """Map the chunks again, from the nodes that are live now; return whether that was possible."""
        assert self.node is not None
        try:
            mapped = self.node.map_frame(self.manifest, key=self.key)
        except (Eau2Error, FileNotFoundError):  # replaced or deleted meanwhile, or all copies are damaged
            return False
        self.mapped = mapped  # first: who finds `_decoded` empty decodes what is mapped now
        self._decoded = {}
        self.was_renewed = True
        return True

    @property
    def was_corrupt(self) -> bool:
        """Whether a look at it has found damage: it is mapped anew then, as it may have been mended."""
        return bool(self._faults)

    def chunk(self, index: int) -> pa.Table:
        """Return the rows of a chunk as views into its mapping. 0.1 ms the first time."""
        decoded = self._decoded
        found = decoded.get(index)
        if found is None:
            data = self.buffers[index]
            try:
                found = decode(data)
            except (pa.ArrowException, OSError) as error:
                raise Corrupt(
                    f"{self.key!r}: chunk {index} ({self.manifest.chunk_ids[index]}) is no Arrow file: {error}",
                    hint="run `eau2 check`, and put the frame again",
                ) from error
            if found.schema.names != self.schema.names or found.num_rows != self.manifest.chunk_rows[index]:
                raise Corrupt(f"{self.key!r}: chunk {index} is not the one that the manifest describes")
            decoded[index] = found
        return found

    def batches(self, chunks: Iterable[int] | None = None) -> list[pa.RecordBatch]:
        indexes = range(len(self.buffers)) if chunks is None else chunks
        return [batch for index in indexes for batch in self.chunk(index).to_batches()]

    @property
    def table(self) -> pa.Table:
        """All rows, nothing copied."""
        decoded = self._decoded
        if _WHOLE not in decoded:
            decoded[_WHOLE] = self._table()
        return decoded[_WHOLE]

    def _table(self) -> pa.Table:
        if not self.buffers:
            return pa.Table.from_batches([], self.schema)  # Schema.empty_table cannot make unions
        if len(self.schema) == 0:  # joining tables without columns would forget their rows
            return pa.Table.from_batches(self.batches())
        tables = [self.chunk(index) for index in range(len(self.buffers))]
        return pa.concat_tables(tables).replace_schema_metadata(self.schema.metadata)

    def first(self, rows: int) -> pa.Table:
        """Return the first `rows` rows, or all there are. No chunk after them is touched."""
        chunks = range(bisect_right(self.row_ends, rows - 1) + 1)
        if len(chunks) >= len(self.buffers) or not len(self.schema):
            whole = self.table
            return whole.slice(0, min(rows, whole.num_rows))  # beyond its end, a table without columns would grow
        found = pa.concat_tables([self.chunk(index) for index in chunks])
        return found.slice(0, rows).replace_schema_metadata(self.schema.metadata)

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
        else:
            buffers.append(in_file(chunk.pieces, folder).buffer())
    return Source("", 0, Manifest.of(schema, entries), MappedFrame(buffers), None)

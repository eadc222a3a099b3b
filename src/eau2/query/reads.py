"""What a query has read and moved, as the engine that ran it says: noted where it runs, for who began it.

Bytes are those of the chunks that may hold a row of the answer, whole, each once. A query that ends early, or reads
columns only, has touched fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eau2.query.waiting import asker

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from eau2.query.source import Source


@dataclass(frozen=True, slots=True)
class TableRead:
    """How much a query read of one frame."""

    title: str  # key and version
    chunks: int
    chunks_read: int  # those that could hold a row of the answer
    bytes: int  # of the chunks read
    local_bytes: int  # of those that were where they were read: on the node that has them, or brought there before


@dataclass(frozen=True, slots=True)
class Reads:
    """What one run of a query has read, and what had to move for it."""

    tables: tuple[TableRead, ...]
    moved_bytes: int  # of chunks that were read elsewhere, and of what parts of the query made

    @property
    def bytes(self) -> int:
        return sum(table.bytes for table in self.tables)

    @property
    def local_bytes(self) -> int:
        return sum(table.local_bytes for table in self.tables)


def table_read(source: Source, chunks: Sequence[int] | None, away: Collection[int] = ()) -> TableRead:
    """Return that `chunks` (None: all) of `source` are read, of which those that are `away` are not where that is."""
    sizes = source.manifest.chunk_sizes
    read = range(len(sizes)) if chunks is None else chunks
    size = source.manifest.size if chunks is None else sum(sizes[chunk] for chunk in read)
    local = sum(sizes[chunk] for chunk in read if chunk not in away) if away else size
    return TableRead(source.title, len(sizes), len(read), size, local)


def note(reads: Reads) -> None:
    """Have whoever began the query in this thread know. What was noted first counts: the engine beneath is asked for
    what is left of a query when it has run elsewhere."""
    on_behalf = asker()
    if on_behalf is not None and on_behalf.reads is None:
        on_behalf.reads = reads

"""A plan in parts: where their rows are, and what a part has made that was run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from eau2.distributed import substrait

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from eau2.distributed.absent import Absent
    from eau2.distributed.fragment import Piece
    from eau2.distributed.substrait import Rel


class Where(Enum):
    """Where the rows of a part are."""

    NODES = "on the nodes that have the chunks"
    PARTITIONS = "in partitions"
    ONE = "in one place"


@dataclass(frozen=True, slots=True)
class Part:
    """A relation that has been placed and not yet run."""

    rel: Rel
    where: Where
    bytes: int  # about
    together: tuple[frozenset[int], ...] = ()  # sets of columns: rows that are equal in them are in one partition
    in_order: bool = False  # each row comes of one of a chunk, and they are as they are there


@dataclass(frozen=True, slots=True)
class Scan:
    """A stored table that is read: some of its columns, of some of its chunks."""

    source: Absent
    columns: tuple[int, ...]
    chunks: tuple[int, ...]

    @property
    def schema(self) -> pa.Schema:
        """The types of the columns, named c0, c1, ..."""
        return substrait.numbered([self.source.schema.field(column).type for column in self.columns])

    @property
    def bytes(self) -> int:
        """About what the columns take."""
        return self.bytes_of(self.chunks)

    def bytes_of(self, chunks: Sequence[int]) -> int:
        """About what the columns take in `chunks`."""
        rows = sum(self.source.manifest.chunk_rows[chunk] for chunk in chunks)
        return rows * self.source.row_width(self.columns)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part that runs, and leaves its rows where it ran."""

    rel: Rel
    where: Where
    schema: pa.Schema
    keys: tuple[int, ...]  # columns to hash by
    in_order: bool
    bytes: int  # about


@dataclass(slots=True)
class Output:
    """What a stage has made, or in a plan that does not run, what it might make."""

    schema: pa.Schema
    rows: int
    bytes: int
    pieces: Sequence[Piece] = ()
    columns: int = 0  # of the part; what it was hashed by may follow
    keys: tuple[int, ...] = ()  # that it was hashed by
    in_order: bool = False
    is_scalar: bool = False  # of a subquery: what asks for it may run in several stages, so it stays to the end
    move: str = ""  # how it is read: gather, broadcast, exchange; stay: where it is
    moved_rows: int = 0  # that were read where they had not been made
    moved_bytes: int = 0

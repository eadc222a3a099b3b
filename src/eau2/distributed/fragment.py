"""What travels to the nodes and back: fragments of a query, over chunks and over what other fragments made.

Names, numbers and bytes only, so that they can be sent to other processes as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that a fragment has made, kept where it ran until they are freed."""

    handle: Any  # the workers' own: what they find the rows by
    node: str  # that made it; "" for the caller
    partition: int  # of those the rows were hashed to; 0 where they were not
    order: int  # pieces of rows in order are in that of their first chunk
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ChunksRead:
    """A stored table in a fragment: some columns of those of its chunks that this node reads."""

    name: str  # in the fragment's plan, where the columns are c0, c1, ...
    key: str
    columns: tuple[int, ...]
    chunks: tuple[tuple[int, str], ...]  # their indexes in the frame, and ids
    schema: bytes  # of the columns, as an Arrow IPC message: there may be no chunks


@dataclass(frozen=True, slots=True)
class PiecesRead:
    """What other fragments made, as a table of a fragment."""

    name: str  # in the fragment's plan, where the columns are c0, c1, ...
    pieces: tuple[Piece, ...]
    schema: bytes
    keys: tuple[int, ...] | None = None  # by whose hash these are a partition; (): some by no rule; None: all rows


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a query for one node to run.

    plan: a relation as a serialized Substrait plan, over the names of `chunks` and `pieces`.
    keys: the columns of the answer by whose hash its rows go to `partitions` pieces; () for one piece.
    in_order: each chunk gives pieces of its own, with rows in the order they have there.
    """

    node: str
    plan: bytes
    chunks: tuple[ChunksRead, ...]
    pieces: tuple[PiecesRead, ...]
    keys: tuple[int, ...] = ()
    partitions: int = 1
    in_order: bool = False


class Workers(Protocol):
    """The nodes that run fragments, and what they have made. Thread-safe: several queries run at once."""

    @property
    def nodes(self) -> Sequence[str]:
        """The names of the nodes that can run fragments."""

    @property
    def memory_bytes(self) -> int:
        """What the queries of one node together may hold before they spill."""

    @property
    def threads(self) -> int:
        """How many fragments a node runs at once."""

    def run(self, fragments: Sequence[Fragment]) -> list[Piece]:
        """Run all of them, at the same time where they are of different nodes; return the pieces they made.

        When one fails the others are ended, what they made is freed, and its error is raised. So it is when waiting
        is interrupted, by Ctrl-C or a time limit. A node that is gone is NodeUnavailable.
        """

    def keep(self, table: pa.Table) -> Piece:
        """Keep rows of the caller's where nodes can read them."""

    def read(self, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
        """Bring pieces to the caller, one after the other, in the order given."""

    def free(self, pieces: Sequence[Piece]) -> None:
        """Let go of pieces. Does not wait, nor fail where a node is gone."""

"""What travels to the nodes and back: fragments of a query, over chunks and over what other fragments made.

Names, numbers and bytes only, so that they can be sent to other processes as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from eau2.errors import NodeUnavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from eau2.query.source import Source


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that a fragment has made, kept where it ran until they are freed."""

    handle: Any  # the workers' own: what they find the rows by
    node: str  # that made it
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


class CannotCut(Exception):  # no error: the query is gathered then, and is right
    """The plan, or a part of it, has no form in which it could be cut. The message says why."""


class NodeLost(NodeUnavailable):
    """`node` does not answer, or has lost what it had of a query: that may be run again, without it."""

    def __init__(self, node: str, message: str = "") -> None:
        super().__init__(message or f"{node} does not answer", hint="see whether it lives")
        self.node = node


class ChunkGone(NodeUnavailable):
    """A node has not the chunk that it was to read: the frame was replaced or deleted, or copies are being made."""


class Workers(Protocol):
    """The nodes that run the fragments of one query, and what they have made for it."""

    @property
    def nodes(self) -> Sequence[str]:
        """The names of the nodes that can run fragments. They stay the same."""

    @property
    def memory_bytes(self) -> int:
        """What the queries of one node together may hold before they spill."""

    @property
    def threads(self) -> int:
        """How many fragments of a query a node runs at once."""

    def place(self, source: Source, chunk: int) -> str:
        """Return the node that reads a chunk of `source`; rows that no node has are given to one. ChunkGone."""

    def run(self, fragments: Sequence[Fragment]) -> list[Piece]:
        """Run all of them, at the same time where they are of different nodes; return the pieces they made.

        When one fails the others are ended, all that was kept is freed, and its error is raised. So it is when waiting
        is interrupted, by Ctrl-C or a time limit. A node that is gone is NodeLost, a chunk ChunkGone.
        """

    def read(self, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
        """Bring pieces to the caller, one after the other, in the order given: in files that are mapped, where they
        are large."""

    def free(self, pieces: Sequence[Piece]) -> None:
        """Let go of pieces. Does not wait, nor fail where a node is gone."""


class Fleet(Protocol):
    """All nodes. Thread-safe: several queries run at once."""

    def begin(self, without: Collection[str] = ()) -> AbstractContextManager[Workers]:
        """Return the workers of one query, on the nodes that are live now and not in `without`; nothing of them is left
        at its end. NodeLost, NodeUnavailable."""

    def away_bytes(self, source: Source, chunks: Iterable[int]) -> int:
        """Return what would have to be brought here to read those chunks."""

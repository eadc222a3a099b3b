"""What became of one block of lines: rows, and an account of every line that is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Reject:
    """One bad line, or one bad cell. Lines and columns count from 1; column 0 means the line as a whole."""

    line: int
    column: int
    reason: str
    raw: bytes  # the line without its LF
    kept: bool = False  # on_error="null": the cell became missing, and the line is a row


@dataclass(frozen=True, slots=True)
class Widening:
    """A column whose type became wider, and the first line that needed it. `old` is None for a new column."""

    column: str
    old: pa.DataType | None
    new: pa.DataType
    line: int


@dataclass(slots=True)
class Block:
    """The account of some consecutive lines: lines = rows + blank + bad.

    `schema` is the schema after the block. When it is not the one the block was read with, `batches` is incomplete.
    """

    schema: pa.Schema
    lines: int = 0
    rows: int = 0
    blank: int = 0
    rejects: list[Reject] = field(default_factory=list)
    widened: list[Widening] = field(default_factory=list)
    batches: list[pa.RecordBatch] = field(default_factory=list)
    span: int = -1  # line ends passed, where a record may hold several; -1: as many as `lines`

    def __post_init__(self) -> None:
        assert self.lines >= self.rows + self.blank

    @property
    def bad(self) -> int:
        return self.lines - self.rows - self.blank


class Lines(Protocol):
    """A text format that is read a block of whole lines at a time. Pure, and safe to call from several threads."""

    def infer(self, head: bytes) -> pa.Schema:
        """Return the schema that the first lines, `head`, suggest."""

    def parse(self, data: bytes | pa.Buffer, schema: pa.Schema) -> Block:
        """Return the rows of the lines in `data`. Never fails: a line is a row, blank, or a reject."""

"""What a query does on many nodes: its stages, where they run, and what moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eau2.query.reads import TableRead


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of a query, and how what it makes moves. Rows and bytes are guessed until it has run."""

    what: str  # filter(trips), ...
    where: str
    move: str  # gather, broadcast, exchange; stay: what follows runs where it is
    rows: int  # made; 0 where it did not run
    bytes: int
    moved_rows: int  # read where they had not been made: by each node once
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a query runs on many nodes. `str()` shows it, a line a step, and what is done at the caller last."""

    steps: tuple[Step, ...]
    at_caller: str
    nodes: tuple[str, ...]
    partitions: int
    ran: bool
    uncut: str = ""  # why the rows of its tables are gathered; "" where the query was cut
    read: tuple[TableRead, ...] = ()  # of each frame, where it ran
    brought_bytes: int = 0  # of chunks that were not where they were read

    @property
    def moved_bytes(self) -> int:
        return sum(step.moved_bytes for step in self.steps)

    @property
    def moved_rows(self) -> int:
        return sum(step.moved_rows for step in self.steps)

    def __str__(self) -> str:
        lines = [f"{len(self.nodes)} nodes, {self.partitions} partitions"] if self.nodes else []
        if size := sum(table.bytes for table in self.read):
            local = sum(table.local_bytes for table in self.read)
            brought = f", {self.brought_bytes:,} bytes brought" if self.brought_bytes else ""
            lines.append(f"{size:,} bytes of chunks read, {100 * local // size} % where they are{brought}")
        if self.uncut:
            lines.append(f"not cut: {self.uncut}")
        for number, step in enumerate(self.steps):
            made = f"{step.rows:,} rows, {step.bytes:,} bytes" if self.ran else f"about {step.bytes:,} bytes"
            moved = f", of which moved {step.moved_rows:,} rows, {step.moved_bytes:,} bytes" if self.ran else ""
            lines.append(f"{number}. {step.where}: {step.what}; {step.move} {made}{moved}")
        lines.append(f"at the caller: {self.at_caller}")
        return "\n".join(lines)

"""Text in the SoR format to typed Arrow columns, with an account of every line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from eau2.values.block import Block, Reject, Widening
from eau2.values.schema import column_names, type_name
from eau2.values.sor_lines import (
    COLUMNS_MAX,
    KIND_OF_TYPE,
    TYPE_OF_KIND,
    BadLine,
    Cell,
    Kind,
    cells_of,
    column_of,
    evident_cells,
    evident_lines,
    is_utf8,
    kind_of,
    needs,
)
from eau2.values.sor_plain import plain_columns
from eau2.values.sor_straight import straighten

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LINES_FOR_INFERENCE = 500
PIECE_BYTES = 64 << 10  # what is read again line by line when one line of a block is odd
TEXT_IN_REASON_BYTES = 40


@dataclass(frozen=True)
class Sor:
    """How to read SoR: `names` and `types` as the caller gave them, if at all. See eau2.values.block.Lines.

    With names or types a longer line is bad; without, it adds columns. A value that its column cannot hold widens the
    column when `widen` and no types were given; otherwise the line is bad, or with `null` the cell becomes missing.
    """

    names: tuple[str, ...] | None = None
    types: tuple[pa.DataType, ...] | None = None
    widen: bool = True
    null: bool = False

    @property
    def may_widen(self) -> bool:
        return self.widen and self.types is None

    @property
    def may_grow(self) -> bool:
        return self.widen and self.types is None and self.names is None

    def infer(self, head: bytes) -> pa.Schema:
        """Return the schema of the first LINES_FOR_INFERENCE lines of `head`. Bad lines and missing values do not vote.

        >>> Sor().infer(b'<1><a>\\n<2><>').types
        [DataType(int64), DataType(string)]
        """
        if self.types is not None:
            return _schema(self.names, [KIND_OF_TYPE[type_] for type_ in self.types])
        width_max = COLUMNS_MAX if self.names is None else len(self.names)
        votes: list[set[Kind]] = []
        for line in split_lines(head, LINES_FOR_INFERENCE):
            cells = _voting_cells(line, self.null)
            if len(cells) > width_max:
                continue
            votes.extend(set() for _ in range(len(cells) - len(votes)))
            for column, cell in zip(votes, cells, strict=False):
                if cell is not None:
                    column.add(kind_of(cell))
        if self.names is not None:
            votes.extend(set() for _ in range(len(self.names) - len(votes)))
        return _schema(self.names, [_elected(column) for column in votes])

    def parse(self, data: bytes | pa.Buffer, schema: pa.Schema) -> Block:
        block = Block(schema)
        if len(data) and bytes(data[-1:]) != b"\n":
            data = bytes(data) + b"\n"
        if not self._parse_together(data, block):
            for piece in split_pieces(bytes(data), PIECE_BYTES):
                if not self._parse_together(piece, block):
                    self._parse_lines(split_lines(piece), block)
        return block

    def _parse_together(self, data: bytes | pa.Buffer, block: Block) -> bool:
        """Read all lines at once, but for a few; return whether that could be done."""
        types = block.schema.types
        columns = plain_columns(data, types)
        if columns is not None:
            self._add(block, columns, [], len(columns[0]))
            return True
        straight = straighten(data, len(types))
        columns = None if straight is None else plain_columns(straight.text, types)
        if straight is None or columns is None:
            return False
        self._add(block, straight.shown(columns), straight.odd, straight.lines)
        return True

    def _parse_lines(self, lines: list[bytes], block: Block) -> None:
        """Read the odd lines one by one, and what is left of the piece without them as a plain one."""
        types = tuple(block.schema.types)
        evident, odd = evident_lines(lines, types)
        columns = plain_columns(b"\n".join(evident) + b"\n", types) if evident else None
        if columns is None:
            columns, odd = [pa.array([], type_) for type_ in types], list(range(len(lines)))
        self._add(block, columns, [(index, lines[index]) for index in odd], len(lines))

    def _add(self, block: Block, columns: list[pa.Array], odd: Sequence[tuple[int, bytes]], lines: int) -> None:
        """Add `lines` lines to the block: `columns` have the rows of those that are not `odd`."""
        schema = block.schema
        rows = _Rows(self, block)
        rows.read(odd)
        block.lines += lines
        block.rows += lines - len(odd)
        if block.schema != schema:
            return
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        if rows.places:
            batch = _interleaved(batch, rows.batch(), lines, [index for index, _ in odd], rows.places)
        if batch.num_rows:
            block.batches.append(batch)


def _interleaved(
    plain: pa.RecordBatch, rows: pa.RecordBatch, count: int, odd: Sequence[int], places: Sequence[int]
) -> pa.RecordBatch:
    """Return the rows of both in the order of their `count` lines: `rows` are the lines `places` of the `odd` ones."""
    order = np.full(count, -1, np.int64)
    is_plain = np.ones(count, np.bool_)
    is_plain[list(odd)] = False
    order[is_plain] = np.arange(plain.num_rows)
    order[list(places)] = plain.num_rows + np.arange(len(places))
    both = pa.Table.from_batches([plain, rows]).combine_chunks()
    return both.take(pa.array(order[order >= 0])).combine_chunks().to_batches()[0]


class _Rows:
    """Reads lines one by one and adds them to a block's account: exact, and some twenty times slower than all at once.

    `places` are the indices of the lines that became rows.
    """

    def __init__(self, sor: Sor, block: Block) -> None:
        self._sor, self._block = sor, block
        self._kinds = [KIND_OF_TYPE[type_] for type_ in block.schema.types]
        self._types = tuple(block.schema.types)
        self._rows: list[list[Cell]] = []
        self._line = 0
        self.places: list[int] = []

    def read(self, lines: Sequence[tuple[int, bytes]]) -> None:
        """Take up lines, each with its index. The block's schema changes when one of them needs it."""
        block = self._block
        for index, line in lines:
            self._line = block.lines + index + 1
            if line in (b"", b"\r"):
                block.blank += 1
                continue
            try:
                cells = self._cells(line)
            except BadLine as bad:
                block.rejects.append(Reject(self._line, bad.column, bad.reason, line))
                continue
            if cells:
                block.rows += 1
                self._rows.append(cells)
                self.places.append(index)
            else:
                block.blank += 1
        block.schema = _schema(self._names(), self._kinds)

    def batch(self) -> pa.RecordBatch:
        """Return the rows, under the block's schema."""
        width = len(self._kinds)
        rows = (cells if len(cells) == width else cells + [None] * (width - len(cells)) for cells in self._rows)
        columns = [column_of(cells, kind) for cells, kind in zip(zip(*rows, strict=True), self._kinds, strict=False)]
        if not self._rows:
            return pa.RecordBatch.from_pylist([], schema=self._block.schema)
        return pa.RecordBatch.from_arrays(columns, schema=self._block.schema)

    def _names(self) -> tuple[str, ...]:
        known = self._block.schema.names
        return (*known, *column_names(len(self._kinds))[len(known) :])

    def _cells(self, line: bytes) -> list[Cell]:
        """Return the cells of `line`, all of which fit their columns: widened if need be."""
        evident = evident_cells(line, self._types)
        if evident is not None:
            return evident
        cells = cells_of(without_return(line))
        if len(cells) > len(self._kinds) and not self._sor.may_grow:
            raise BadLine(len(self._kinds) + 1, f"{len(cells):,} fields, but {len(self._kinds):,} columns")
        kinds, line_number = self._kinds, self._line
        wider: list[tuple[int, Kind]] = []
        nulled: list[Reject] = []
        ascii_line = line.isascii()
        for index, cell in enumerate(cells):
            if cell is None:
                continue
            kind = kinds[index] if index < len(kinds) else Kind.BOOL
            needed = needs(cell, kind)
            reason = _why_bad(cell, kind, needed, may_widen=self._sor.may_widen, ascii_line=ascii_line)
            if not reason:
                if needed is not kind:
                    wider.append((index, needed))
            elif self._sor.null:
                cells[index] = None
                nulled.append(Reject(line_number, index + 1, reason, line, kept=True))
            else:
                raise BadLine(index + 1, reason)
        self._block.rejects.extend(nulled)
        self._widen(len(cells), dict(wider))
        return cells

    def _widen(self, width: int, wider: dict[int, Kind]) -> None:
        line_number, known = self._line, len(self._kinds)
        for index, kind in wider.items():
            if index < known:
                name = self._block.schema.field(index).name if index < len(self._block.schema) else f"c{index}"
                old = TYPE_OF_KIND[self._kinds[index]]
                self._block.widened.append(Widening(name, old, TYPE_OF_KIND[kind], line_number))
                self._kinds[index] = kind
        for index in range(known, width):
            kind = wider.get(index, Kind.BOOL)
            self._block.widened.append(Widening(f"c{index}", None, TYPE_OF_KIND[kind], line_number))
            self._kinds.append(kind)
        if wider or width > known:
            self._types = tuple(TYPE_OF_KIND[kind] for kind in self._kinds)


def _why_bad(cell: bytes, kind: Kind, needed: Kind, *, may_widen: bool, ascii_line: bool) -> str:
    if needed is Kind.STRING and not ascii_line and not is_utf8(cell):
        return "not valid UTF-8"
    if needed is not kind and not may_widen:
        return f"{_shown(cell)} is not {_ARTICLE[kind]} {type_name(TYPE_OF_KIND[kind])}"
    return ""


_ARTICLE = {Kind.BOOL: "a", Kind.INT: "an", Kind.FLOAT: "a", Kind.STRING: "a"}


def _shown(cell: bytes) -> str:
    shown = cell[:TEXT_IN_REASON_BYTES].decode(errors="replace")
    return f"'{shown}'" if len(cell) <= TEXT_IN_REASON_BYTES else f"'{shown}...'"


def _voting_cells(line: bytes, null: bool) -> list[Cell]:
    """Return the cells of a line that is a row; none for one that is bad or blank."""
    try:
        cells = cells_of(without_return(line))
    except BadLine:
        return []
    if line.isascii():
        return cells
    valid = [cell if cell is None or is_utf8(cell) else None for cell in cells]
    return valid if null or valid == cells else []


def _elected(votes: set[Kind]) -> Kind:
    """Return the type of a column: the widest vote. EXPONENT abstains when the others make it FLOAT."""
    widest = max(votes - {Kind.EXPONENT}, default=Kind.BOOL)
    return Kind.STRING if Kind.EXPONENT in votes and widest is not Kind.FLOAT else widest


def _schema(names: tuple[str, ...] | None, kinds: list[Kind]) -> pa.Schema:
    found = column_names(len(kinds)) if names is None else names
    return pa.schema([(name, TYPE_OF_KIND[kind]) for name, kind in zip(found, kinds, strict=True)])


# -- lines ------------------------------------------------------------------------------------------------------------


def split_lines(data: bytes, count_max: int = -1) -> list[bytes]:
    """Return the (first `count_max`) lines of `data` without their LF; the last LF may be missing."""
    lines = data.split(b"\n", count_max)
    if 0 <= count_max < len(lines) or not lines[-1]:
        lines.pop()
    return lines


def split_pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Cut `data` after line ends into pieces of about `size` bytes; a longer line is a piece of its own."""
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + size) + 1 or data.find(b"\n", start + size) + 1 or len(data)
        yield data[start:end]
        start = end


def without_return(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line

"""One line of SoR, exactly: its cells, and the narrowest type of each. The fast path must agree with this file.

A cell is None when missing, else the bytes of the value; quoted values keep their quotes until they are stored, so that
`"12"` and `12` stay different. What the rules leave open is decided here:

* blanks are space and tab; NUL, other control characters and a CR that is not before LF are ordinary characters;
* digits beyond 64 bits are a STRING (as FLOAT they would lose digits);
* `1e5`, `nan`, `inf` (a sign may precede; small letters, but for E) are FLOAT in a FLOAT column, STRING elsewhere.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.values.schema import BOOL, FLOAT, INT, STRING

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS_MAX = 10_000  # fields of a line; more are a damaged file, and each would cost a column in every chunk
Cell = bytes | None
Types = tuple[pa.DataType, ...]

# Possessive quantifiers (*+): megabytes of blanks would otherwise be tried in every division.
_FIELD = re.compile(rb'[ \t]*+<[ \t]*+("[^"\n]*+"|[^ \t"<>\n]*+)[ \t]*+>')
_BLANKS = re.compile(rb"[ \t]*")
_BARE = re.compile(rb'[^ \t"<>\n]*')
_INT = re.compile(rb"[+-]?[0-9]+")
_FLOAT = re.compile(rb"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)")
_FLOAT_IN_FLOAT = re.compile(rb"[+-]?(?:nan|inf|(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+)")
_INT_DIGITS_MAX = 19
_PATTERN_FIELDS_MAX = 200  # a pattern of many fields takes long to compile


class Kind(IntEnum):
    """The type of a value, narrow to wide. EXPONENT votes for FLOAT in a FLOAT column and for STRING elsewhere."""

    BOOL = 0
    INT = 1
    FLOAT = 2
    EXPONENT = 3
    STRING = 4


KIND_OF_TYPE: dict[pa.DataType, Kind] = {BOOL: Kind.BOOL, INT: Kind.INT, FLOAT: Kind.FLOAT, STRING: Kind.STRING}
TYPE_OF_KIND: dict[Kind, pa.DataType] = {kind: type_ for type_, kind in KIND_OF_TYPE.items()}


class BadLine(Exception):
    """The line is no row: in which field (from 1), and why. A normal outcome of reading, so not an Eau2Error."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


def cells_of(line: bytes) -> list[Cell]:
    """Return the cells of `line` (without LF and the CR before it): none for a blank line. BadLine says where and why.

    >>> cells_of(b'<1> < "a > b" ><>')
    [b'1', b'"a > b"', None]
    """
    cells: list[Cell] = []
    position, end, match = 0, len(line), _FIELD.match
    while position < end:
        found = match(line, position)
        if found is None:
            break
        cells.append(found.group(1) or None)
        position = found.end()
    if position < end:
        _check_rest(line, position, len(cells) + 1)
    if len(cells) > COLUMNS_MAX:
        raise BadLine(COLUMNS_MAX + 1, f"more than {COLUMNS_MAX:,} fields")
    return cells


def _check_rest(line: bytes, position: int, column: int) -> None:
    """Return when only blanks are left; else raise BadLine with what is wrong with the field that starts there."""
    position = _skip(_BLANKS, line, position)
    if position == len(line):
        return
    if line[position : position + 1] != b"<":
        raise BadLine(column, "text outside < >")
    position = _skip(_BLANKS, line, position + 1)
    if line[position : position + 1] == b'"':
        closing = line.find(b'"', position + 1)
        if closing < 0:
            raise BadLine(column, "unclosed quote")
        position = _skip(_BLANKS, line, closing + 1)
        raise BadLine(column, "unclosed <" if position == len(line) else "text after the closing quote")
    position = _skip(_BARE, line, position)
    stopped = line[position : position + 1]
    position = _skip(_BLANKS, line, position)
    if position == len(line):
        raise BadLine(column, "unclosed <")
    if line[position : position + 1] == b"<":
        raise BadLine(column, "< inside a value without quotes")
    if stopped == b'"':
        raise BadLine(column, "quote inside a value")
    raise BadLine(column, "several words without quotes")


def _skip(pattern: re.Pattern[bytes], line: bytes, position: int) -> int:
    found = pattern.match(line, position)
    return position if found is None else found.end()


def kind_of(cell: bytes) -> Kind:
    """Return the narrowest type of a value.

    >>> [kind_of(cell).name for cell in (b"1", b"01", b".5", b"1e5", b'"1"', b"9" * 20)]
    ['BOOL', 'INT', 'FLOAT', 'EXPONENT', 'STRING', 'STRING']
    """
    if cell in (b"0", b"1"):
        return Kind.BOOL
    if cell[0] > 57 and cell[0] not in b"in":  # no digit, sign or point: most text ends here
        return Kind.STRING
    if _INT.fullmatch(cell):
        return Kind.INT if _fits_64_bits(cell) else Kind.STRING
    if _FLOAT.fullmatch(cell):
        return Kind.FLOAT
    return Kind.EXPONENT if _FLOAT_IN_FLOAT.fullmatch(cell) else Kind.STRING


def _fits_64_bits(digits: bytes) -> bool:
    significant = digits.lstrip(b"+-").lstrip(b"0")
    if len(significant) != _INT_DIGITS_MAX:  # int() refuses very long text
        return len(significant) < _INT_DIGITS_MAX
    return -(1 << 63) <= int(digits) < 1 << 63


def needs(cell: bytes, type_: Kind) -> Kind:
    """Return the type that a column of `type_` must have to hold `cell`: `type_` itself, or a wider one."""
    if type_ is Kind.STRING:
        return type_
    kind = kind_of(cell)
    if kind is Kind.EXPONENT:
        return type_ if type_ is Kind.FLOAT else Kind.STRING
    return max(kind, type_)


def is_utf8(cell: bytes) -> bool:
    try:
        cell.decode()
    except UnicodeDecodeError:
        return False
    return True


def evident_lines(lines: Sequence[bytes], types: Types) -> tuple[list[bytes], list[int]]:
    """Return the lines that are evidently rows of `types`, short ones padded, and the indices of all others."""
    plain: list[bytes] = []
    odd: list[int] = []
    width = len(types)
    if width > _PATTERN_FIELDS_MAX:
        return plain, list(range(len(lines)))
    match = _row_pattern(types, _PLAIN, b"?:").fullmatch
    for index, line in enumerate(lines):
        if match(line) is None:
            fields = line.count(b"<")
            if not 0 < fields < width or _row_pattern(types[:fields], _PLAIN, b"?:").fullmatch(line) is None:
                odd.append(index)
                continue
            line = line.removesuffix(b"\r") + b"<>" * (width - fields)
        if line.isascii() or is_utf8(line):
            plain.append(line)
        else:
            odd.append(index)
    return plain, odd


def evident_cells(line: bytes, types: Types) -> list[Cell] | None:
    """Return the cells of a line that is evidently a row of `types`; None when a closer look is needed."""
    if len(types) > _PATTERN_FIELDS_MAX:
        return None
    found = _row_pattern(types, _ANY, b"").fullmatch(line)
    return list(found.groups()) if found is not None and (line.isascii() or is_utf8(line)) else None


@lru_cache(maxsize=256)
def _row_pattern(types: Types, quoted: bytes, group: bytes) -> re.Pattern[bytes]:
    """The pattern of a line of `types`: `quoted` is what may stand between quotes, `group` what a value's group is."""
    values = (_EVIDENT[KIND_OF_TYPE[type_]].replace(b"QUOTED", quoted) for type_ in types)
    fields = (rb"[ \t]*+<[ \t]*+(" + group + value + rb")?[ \t]*+>" for value in values)
    return re.compile(b"".join(fields) + rb"[ \t]*+\r?")


_EVIDENT = {  # digits are few enough to be within 64 bits
    Kind.BOOL: rb"[01]",
    Kind.INT: rb"[+-]?[0-9]{1,18}",
    Kind.FLOAT: rb"[+-]?(?:[0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)",
    Kind.STRING: rb'"QUOTED*+"|[^ \t"<>\r\n]++',
}
_PLAIN, _ANY = rb'[^"<>\r\n]', rb'[^"\n]'


def column_of(cells: Sequence[Cell], kind: Kind) -> pa.Array:
    """Return `cells`, each of which fits `kind`, as an Arrow array."""
    if kind is Kind.BOOL:
        return pa.array([None if cell is None else cell == b"1" for cell in cells], BOOL)
    if kind is Kind.INT:
        return pa.array([None if cell is None else int(cell) for cell in cells], INT)
    if kind is Kind.FLOAT:
        return pa.array([None if cell is None else float(cell) for cell in cells], FLOAT)
    return pa.array([None if cell is None else _unquoted(cell) for cell in cells], pa.binary()).cast(STRING)


def _unquoted(cell: bytes) -> bytes:
    return cell[1:-1] if cell[:1] == b'"' else cell

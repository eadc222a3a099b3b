"""Blocks of plain SoR at the speed of Arrow's CSV reader.

A block is plain when every line has the schema's number of fields, and every `<` and `>` in it stands at the edge of a
field. That is proved by counting pairs of neighbouring bytes, which costs a tenth of the parsing. Then `<` becomes a
blank, and Arrow reads the block straight into typed columns with `>` as its delimiter: it trims blanks around numbers
by itself, and around text we do it. Quotes stay in the text until all of it is split, so that a quoted number is not
taken for a number, and so that a `>` between quotes shows as a lone quote.

What Arrow reads more generously than the rules (0x1F, NaN, digits beyond 64 bits) is looked for afterwards. Whenever
anything is not as expected the answer is None, and the caller reads the lines one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from eau2.values.schema import FLOAT, INT, STRING
from eau2.values.sor_lines import Kind, needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Mask = NDArray[np.bool_]

_LF, _CR, _TAB, _BLANK, _QUOTE, _PLUS, _ZERO, _OPEN, _CLOSE = b'\n\r\t "+0<>'
_OPEN_TO_BLANK = np.uint8(_OPEN ^ _BLANK)
_EXACT_BELOW = 2.0**63  # FLOAT text without a point is an integer of 64 bits, so larger numbers are looked at again
_WINDOW = 64 << 10  # bytes looked at together: small enough for the cache and for the allocator to keep
_TO_END = 1 << 30  # not None: without an end, binary_slice of pyarrow 26 fails with "Negative buffer resize"
_MISSING = [" " * count for count in range(1, 17)]
_AROUND = [(" " * before, " " * after) for before in range(1, 5) for after in range(4)]
_TRUE = [f"{before}1{after}" for before, after in _AROUND]
_FALSE = [f"{before}0{after}" for before, after in _AROUND]


def plain_columns(data: bytes | pa.Buffer, types: Sequence[pa.DataType]) -> list[pa.Array] | None:
    """Return the columns of the lines in `data`, each ended by LF, or None unless that is quick and certain."""
    raw = np.frombuffer(data, np.uint8)
    # In memory of Arrow, whose allocator keeps it: the system's gives large pieces back each time, and the page faults
    # cost as much as the parsing. For the same reason there are windows.
    text = np.frombuffer(pa.allocate_buffer(raw.size), np.uint8)
    spaced = _layout(raw, _census(raw, text), len(types))
    if spaced is None:
        return None
    try:
        table = _read(text, [pa.binary() if type_ == STRING else type_ for type_ in types])
    except pa.ArrowInvalid:
        if not _signed(raw, types):
            return None
        return _with_plus_signs(raw, text, types, spaced)
    return _finish(raw, text, table, types, spaced)


def _finish(
    raw: Bytes, text: Bytes, table: list[pa.Array], types: Sequence[pa.DataType], spaced: bool
) -> list[pa.Array] | None:
    if INT in types and _has_hexadecimal(raw) and not _ints_are_decimal(text, types):
        return None
    columns: list[pa.Array] = []
    for index, (column, type_) in enumerate(zip(table, types, strict=True)):
        if type_ == FLOAT and not _floats_are_plain(column, text, index, len(types)):
            return None
        found = _texts(column, spaced) if type_ == STRING else column
        if found is None:
            return None
        columns.append(found)
    return columns


# -- the proof --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Census:
    """How often bytes, and pairs of neighbours, occur."""

    opens: int
    closes: int
    lines: int
    edges: int  # `<` after `>` or LF
    ends: int  # LF after `>`
    small: int  # blanks and control characters, LF too


def _census(raw: Bytes, text: Bytes | None) -> _Census:
    """Count in `raw`, and write it to `text`, if given, with a blank for each `<`."""
    counts = np.zeros(6, np.int64)
    for start in range(0, raw.size, _WINDOW):
        window = raw[start : start + _WINDOW + 1]  # and the byte after it, for pairs
        own = window[:_WINDOW]
        opens, closes, ends = window == _OPEN, window == _CLOSE, window == _LF
        own_opens = opens[:_WINDOW]
        if text is not None:
            np.bitwise_xor(own, own_opens.view(np.uint8) * _OPEN_TO_BLANK, out=text[start : start + _WINDOW])
        closes_before_end = np.count_nonzero(closes[:-1] & ends[1:])
        own_closes, own_ends = np.count_nonzero(closes[:_WINDOW]), np.count_nonzero(ends[:_WINDOW])
        closes |= ends
        edges = np.count_nonzero(closes[:-1] & opens[1:])
        small = np.count_nonzero(own <= _BLANK)
        counts += (np.count_nonzero(own_opens), own_closes, own_ends, edges, closes_before_end, small)
    return _Census(*counts.tolist())


def _layout(raw: Bytes, census: _Census, width: int) -> bool | None:
    """Return whether there are blanks anywhere when all lines are rows of `width` fields; None when they are not.

    Such lines have, blanks and CR before LF aside: LF only after `>`, and `<` only after those two, or first. Then the
    `>` and LF but the last are as many as the `<` and LF that follow them, so nothing else follows them.
    """
    if not census.lines or not width or census.opens != census.lines * width or census.closes != census.opens:
        return None
    if census.small == census.lines:
        return False if _is_tight(raw, census) else None
    found = _without_blanks(raw)
    if found is None:
        return None
    tight, spaced = found
    return spaced if _is_tight(tight, _census(tight, None)) else None


def _without_blanks(raw: Bytes) -> tuple[Bytes, bool] | None:
    """Return `raw` without blanks and the CR before LF, and whether it had blanks; None when another CR is there."""
    tight = np.frombuffer(pa.allocate_buffer(raw.size), np.uint8)
    size, spaced = 0, False
    for start in range(0, raw.size, _WINDOW):
        window = raw[start : start + _WINDOW + 1]
        own = window[:_WINDOW]
        kept = own != _BLANK
        kept &= own != _TAB
        spaced = spaced or not kept.all()
        returns = window == _CR
        if returns.any():
            if np.count_nonzero(returns[:-1] & (window[1:] == _LF)) != np.count_nonzero(returns[:_WINDOW]):
                return None
            kept &= ~returns[:_WINDOW]
        count = int(np.count_nonzero(kept))
        np.compress(kept, own, out=tight[size : size + count])
        size += count
    return tight[:size], spaced


def _is_tight(raw: Bytes, census: _Census) -> bool:
    return bool(raw[0] == _OPEN) and census.edges == census.opens - 1 and census.ends == census.lines


def _read(text: Bytes, types: Sequence[pa.DataType], only: Sequence[int] | None = None) -> list[pa.Array]:
    """Let Arrow split `text`; a last column of nothing follows the last `>`. ArrowInvalid when it does not fit."""
    names = [str(index) for index in range(len(types) + 1)]
    wanted = names[:-1] if only is None else [names[index] for index in only]
    table = csv.read_csv(
        pa.BufferReader(pa.py_buffer(text)),
        read_options=csv.ReadOptions(use_threads=False, block_size=text.size + 1, column_names=names),
        parse_options=csv.ParseOptions(delimiter=">", quote_char=False),
        convert_options=csv.ConvertOptions(
            column_types=dict(zip(names, types, strict=False)),
            include_columns=wanted,
            null_values=_MISSING,
            strings_can_be_null=True,
            true_values=_TRUE,
            false_values=_FALSE,
        ),
    )
    return [column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() for column in table.columns]


# -- numbers ----------------------------------------------------------------------------------------------------------


def _has_hexadecimal(raw: Bytes) -> bool:
    """Whether some field may start with 0x, which Arrow reads as an integer."""
    for start in range(0, raw.size, _WINDOW):
        window = raw[start : start + _WINDOW + 2]
        zeros = window[1:-1] == _ZERO
        zeros &= (window[2:] | 32) == ord("x")
        if zeros.any():
            before = window[:-2][zeros]
            if ((before == _OPEN) | (before == _BLANK) | (before == _TAB)).any():
                return True
    return False


def _ints_are_decimal(text: Bytes, types: Sequence[pa.DataType]) -> bool:
    ints = [index for index, type_ in enumerate(types) if type_ == INT]
    for column in _read(text, [pa.binary()] * len(types), ints):
        letters = _bytes_of(column) | 32
        if (letters == ord("x")).any():
            return False
    return True


def _signed(raw: Bytes, types: Sequence[pa.DataType]) -> bool:
    return INT in types and bool(((raw[:-1] == _OPEN) & (raw[1:] == _PLUS)).any())


def _with_plus_signs(raw: Bytes, text: Bytes, types: Sequence[pa.DataType], spaced: bool) -> list[pa.Array] | None:
    """Read again without the sign of `<+5` in INT columns, which Arrow's integers do not take."""
    opens = np.flatnonzero(raw == _OPEN)
    if opens.size % len(types):
        return None
    columns = np.arange(opens.size) % len(types)
    is_int = np.array([type_ == INT for type_ in types])
    signs = opens[is_int[columns] & (raw[opens + 1] == _PLUS)] + 1
    digits = raw[signs + 1]
    if not ((digits >= _ZERO) & (digits <= _ZERO + 9)).all():
        return None
    text = text.copy()
    text[signs] = _BLANK
    try:
        table = _read(text, [pa.binary() if type_ == STRING else type_ for type_ in types])
    except pa.ArrowInvalid:
        return None
    if _has_hexadecimal(text):
        return None
    return _finish(raw, text, table, types, spaced)


def _floats_are_plain(column: pa.Array, text: Bytes, index: int, width: int) -> bool:
    """Whether what is not finite, or very large, is written as the rules have it (`nan`, not `NaN`)."""
    values = np.frombuffer(column.buffers()[1], np.float64, len(column)) if len(column) else np.empty(0)
    odd = ~(np.abs(values) < _EXACT_BELOW)
    if not odd.any():
        return True
    texts = _read(text, [pa.binary()] * width, [index])[0].filter(pa.array(odd)).drop_null()
    return all(needs(cell.strip(b" \t"), Kind.FLOAT) is Kind.FLOAT for cell in pc.unique(texts).to_pylist())


# -- text -------------------------------------------------------------------------------------------------------------


def _bytes_of(column: pa.Array) -> Bytes:
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1)
    return np.frombuffer(column.buffers()[2], np.uint8, offsets[-1]) if offsets[-1] else np.empty(0, np.uint8)


def _texts(column: pa.Array, spaced: bool) -> pa.Array | None:
    """Return the values of a STRING column without blanks and quotes; None when one of them is not plain.

    `column` holds a blank (the former `<`) and all up to `>`. Missing values are null, or nothing but blanks.
    """
    if column.null_count == len(column):
        return pa.nulls(len(column), STRING)
    first = 1
    if spaced:
        column = pc.ascii_trim(_as_text(column), characters=" \t").cast(pa.binary())
        column = pc.if_else(pc.equal(pc.binary_length(column), 0), pa.scalar(None, pa.binary()), column)
        if column.null_count == len(column):
            return pa.nulls(len(column), STRING)
        first = 0
    data = _bytes_of(column)
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1)
    lengths = np.diff(offsets)
    quoted = (data[np.minimum(offsets[:-1] + first, data.size - 1)] == _QUOTE) & (lengths > 0)
    pairs = int(np.count_nonzero(quoted))
    if np.count_nonzero(data == _QUOTE) != 2 * pairs:
        return None
    if pairs and not ((data[offsets[1:] - 1] == _QUOTE) & (lengths >= first + 2))[quoted].all():
        return None
    if spaced and pairs + column.null_count < len(column) and _has_inner_blanks(data, offsets, ~quoted):
        return None
    try:
        return _without_edges(column, quoted, pairs, first).cast(STRING)
    except pa.ArrowInvalid:  # not UTF-8
        return None


def _without_edges(column: pa.Array, quoted: Mask, pairs: int, first: int) -> pa.Array:
    if not pairs:
        return pc.binary_slice(column, first, _TO_END) if first else column
    inner = pc.binary_slice(column, first + 1, -1)
    if pairs + column.null_count == len(column):
        return inner
    return pc.if_else(pa.array(quoted), inner, pc.binary_slice(column, first, _TO_END))


def _as_text(column: pa.Array) -> pa.Array:
    """The same bytes as a string column, not checked to be UTF-8: trimming looks at bytes only."""
    return pa.Array.from_buffers(STRING, len(column), column.buffers(), column.null_count, column.offset)


def _has_inner_blanks(data: Bytes, offsets: NDArray[np.int32], bare: Mask) -> bool:
    blanks = data == _BLANK
    blanks |= data == _TAB
    if not blanks.any():
        return False
    before = np.zeros(data.size + 1, np.int32)
    np.cumsum(blanks, out=before[1:])
    return bool((np.diff(before[offsets]) > 0)[bare].any())

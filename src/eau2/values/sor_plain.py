"""Blocks of plain SoR at the speed of Arrow's CSV reader.

A block is plain when every line has the schema's number of fields, and every `<` and `>` in it stands at the edge of a
field. That is proved by counting pairs of neighbouring bytes, which costs a tenth of the parsing. Then `<` becomes a
blank, and Arrow reads the block straight into typed columns with `>` as its delimiter: it trims blanks around numbers
by itself, and around text we do it. Quotes stay in the text until all of it is split, so that a quoted number is not
taken for a number, and so that a `>` between quotes shows as a lone quote.

What Arrow reads more generously than the rules (0x1F, NaN, digits beyond 64 bits) is looked for afterwards. Whenever
anything is not as expected the answer is None, and the caller looks closer.

Each step goes over the whole block: steps over small windows would stay in the cache, but threads that take turns at
Python's lock that often lost more. The memory is Arrow's, whose allocator keeps it: the system's gives large pieces
back each time, and the page faults cost as much as the parsing.
"""

from __future__ import annotations

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
    Offsets = NDArray[np.int32]

_LF, _CR, _TAB, _BLANK, _QUOTE, _PLUS, _ZERO, _NINE, _X, _OPEN, _CLOSE = b'\n\r\t "+09x<>'
_OPEN_TO_BLANK = np.uint8(_OPEN ^ _BLANK)
_CASE = np.uint8(32)  # the bit by which small letters differ from capitals
_EXACT_BELOW = 2.0**63  # FLOAT text without a point is an integer of 64 bits, so larger numbers are looked at again
_TO_END = 1 << 30  # not None: without an end, binary_slice of pyarrow 26 fails with "Negative buffer resize"
_BEFORE_MAX = 4  # blanks before each text of a column that are cut off together
_MISSING = [" " * count for count in range(1, 17)]
_AROUND = [(" " * before, " " * after) for before in range(1, 5) for after in range(4)]
_TRUE = [f"{before}1{after}" for before, after in _AROUND]
_FALSE = [f"{before}0{after}" for before, after in _AROUND]


def plain_columns(data: bytes | pa.Buffer, types: Sequence[pa.DataType]) -> list[pa.Array] | None:
    """Return the columns of the lines in `data`, each ended by LF, or None unless that is quick and certain."""
    raw = np.frombuffer(data, np.uint8)
    splittable = _splittable(raw, len(types))
    if splittable is None:
        return None
    text, lines = splittable
    read_as = [pa.binary() if type_ == STRING else type_ for type_ in types]
    try:
        table = _read(text, read_as)
    except pa.ArrowInvalid:
        if INT not in types or not _drop_plus_signs(text, types):
            return None
        try:
            table = _read(text, read_as)
        except pa.ArrowInvalid:
            return None
    if len(table[0]) != lines:  # those without any byte are left out
        return None
    return _finished(table, text, types)


def _finished(table: list[pa.Array], text: Bytes, types: Sequence[pa.DataType]) -> list[pa.Array] | None:
    if INT in types and _has_hexadecimal(text) and not _ints_are_decimal(text, types):
        return None
    columns: list[pa.Array] = []
    for index, (column, type_) in enumerate(zip(table, types, strict=True)):
        if type_ == FLOAT and not _floats_are_plain(column, text, index, len(types)):
            return None
        found = _texts(column) if type_ == STRING else column
        if found is None:
            return None
        columns.append(found)
    return columns


def memory(size: int) -> Bytes:
    return np.frombuffer(pa.allocate_buffer(size), np.uint8)


def marks(raw: Bytes, byte: int) -> Mask:
    """Return where `byte` is."""
    return np.equal(raw, np.uint8(byte), out=memory(raw.size).view(np.bool_))


# -- the proof --------------------------------------------------------------------------------------------------------


def _splittable(raw: Bytes, width: int) -> tuple[Bytes, int] | None:
    """Return `raw` with a blank for each `<`, and how many lines it has.

    None when its `<`, `>` and LF are not those of lines of `width` fields.

    Blanks and CR before LF aside, in such lines `<` and LF stand only after `>` or LF, or first, and there are `width`
    `<` a line. It is left to Arrow to find `width` `>` in each line, and no line to be empty. Then every `<` starts one
    of the fields that Arrow splits, each starts another, and none is after a line's last `>`.
    """
    if not raw.size or not width or raw[-1] != _LF:
        return None
    opens, after, edges = marks(raw, _OPEN), marks(raw, _LF), marks(raw, _CLOSE)
    fields, lines = np.count_nonzero(opens), np.count_nonzero(after)
    if fields != lines * width:
        return None
    edges |= after
    after |= opens
    if raw[0] != _OPEN or _pairs(edges, after) != fields + lines - 1:
        blanks = _blanks(raw)
        if blanks is None or not blanks[: int(opens.argmax())].all():
            return None
        _spread(edges, blanks)
        if _pairs(edges, after) != fields + lines - 1:
            return None
    text = np.multiply(opens.view(np.uint8), _OPEN_TO_BLANK, out=memory(raw.size))
    return np.bitwise_xor(text, raw, out=text), int(lines)


def _pairs(left: Mask, right: Mask) -> int:
    """Return how often something in `left` is followed by something in `right`."""
    both = memory(left.size - 1).view(np.bool_)
    return int(np.count_nonzero(np.logical_and(left[:-1], right[1:], out=both)))


def _blanks(raw: Bytes) -> Mask | None:
    """Return where blanks and the CR before LF are; None when another CR is there."""
    blanks = marks(raw, _BLANK)
    blanks |= marks(raw, _TAB)
    returns = marks(raw, _CR)
    if returns.any():
        if _pairs(returns, marks(raw, _LF)) != np.count_nonzero(returns):
            return None
        blanks |= returns
    return blanks


def _spread(edges: Mask, blanks: Mask) -> None:
    """Let each of `edges` reach over the run of blanks that follows it. Changes both."""
    step = 1  # `blanks` marks the ends of runs of `step` blanks
    while step < edges.size and blanks.any():
        edges[step:] |= edges[:-step] & blanks[step:]
        blanks[step:] &= blanks[:-step]
        blanks[:step] = False
        step *= 2


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


def _has_hexadecimal(text: Bytes) -> bool:
    """Whether some field may start with 0x, which Arrow reads as an integer."""
    small = np.bitwise_or(text, _CASE, out=memory(text.size))
    letters = np.equal(small, _X, out=small.view(np.bool_))
    if not letters.any():
        return False
    at = np.flatnonzero(letters)
    at = at[at >= 2]
    before = text[at - 2]
    return bool(((text[at - 1] == _ZERO) & ((before == _BLANK) | (before == _TAB))).any())


def _ints_are_decimal(text: Bytes, types: Sequence[pa.DataType]) -> bool:
    ints = [index for index, type_ in enumerate(types) if type_ == INT]
    return not any((_bytes_of(column) | _CASE == _X).any() for column in _read(text, [pa.binary()] * len(types), ints))


def _drop_plus_signs(text: Bytes, types: Sequence[pa.DataType]) -> bool:
    """Put a blank for the sign of `<+5>` in INT columns, which Arrow's integers do not take. Whether any was found."""
    signs = np.flatnonzero(text[:-1] == _PLUS)
    before, digits = text[signs - 1], text[signs + 1]
    signs = signs[((before == _BLANK) | (before == _TAB)) & (digits >= _ZERO) & (digits <= _NINE)]
    columns = np.searchsorted(np.flatnonzero(text == _CLOSE), signs) % len(types)
    signs = signs[np.array([type_ == INT for type_ in types])[columns]]
    text[signs] = _BLANK
    return bool(signs.size)


def _floats_are_plain(column: pa.Array, text: Bytes, index: int, width: int) -> bool:
    """Whether what is not finite, or very large, is written as the rules have it (`nan`, not `NaN`)."""
    values = np.frombuffer(column.buffers()[1], np.float64, len(column)) if len(column) else np.empty(0)
    odd = ~(np.abs(values) < _EXACT_BELOW)
    if not odd.any():
        return True
    texts = _read(text, [pa.binary()] * width, [index])[0].filter(pa.array(odd)).drop_null()
    return all(needs(cell.strip(b" \t"), Kind.FLOAT) is Kind.FLOAT for cell in pc.unique(texts).to_pylist())


# -- text -------------------------------------------------------------------------------------------------------------


def _offsets_of(column: pa.Array) -> Offsets:
    return np.frombuffer(column.buffers()[1], np.int32, len(column) + 1)


def _bytes_of(column: pa.Array) -> Bytes:
    size = _offsets_of(column)[-1]
    return np.frombuffer(column.buffers()[2], np.uint8, size) if size else np.empty(0, np.uint8)


def _texts(column: pa.Array) -> pa.Array | None:
    """Return the values of a STRING column without blanks and quotes; None when one of them is not plain.

    `column` holds a blank (the former `<`) and what is before and after it, up to `>`. Missing values are null, or
    nothing but blanks.
    """
    before = _blanks_before(column)
    if before is None:
        column = pc.ascii_trim(_as_text(column), characters=" \t").cast(pa.binary())
        column = pc.if_else(pc.equal(pc.binary_length(column), 0), pa.scalar(None, pa.binary()), column)
        before = 0
    if column.null_count == len(column):
        return pa.nulls(len(column), STRING)
    data, offsets = _bytes_of(column), _offsets_of(column)
    starts, lengths = offsets[:-1] + before, np.diff(offsets)
    quoted = (data.take(starts, mode="clip") == _QUOTE) & (lengths > 0)
    pairs = int(np.count_nonzero(quoted))
    if np.count_nonzero(data == _QUOTE) != 2 * pairs:
        return None
    closed = (data.take(offsets[1:] - 1, mode="clip") == _QUOTE) & (lengths >= before + 2)
    if np.count_nonzero(closed & quoted) != pairs:
        return None
    valid = len(column) - column.null_count
    if pairs < valid and _has_inner_blanks(data, offsets, ~quoted, before, valid):
        return None
    try:
        return _without_edges(column, quoted, pairs, before).cast(STRING)
    except pa.ArrowInvalid:  # not UTF-8
        return None


def _blanks_before(column: pa.Array) -> int | None:
    """Return how many blanks stand before each value of `column`, and none after it; None when they differ."""
    if column.null_count == len(column):
        return 0
    data, offsets = _bytes_of(column), _offsets_of(column)
    if column.null_count:
        valid = np.diff(offsets) > 0
        starts, ends = offsets[:-1][valid], offsets[1:][valid]
    else:
        starts, ends = offsets[:-1], offsets[1:]
    if _is_blank(data.take(ends - 1)).any():
        return None
    for before in range(1, _BEFORE_MAX + 1):  # there is one, the former `<`, and some value ends each
        blank = _is_blank(data.take(starts + before))
        if not blank.any():
            return before
        if not blank.all():
            return None
    return None


def _is_blank(bytes_: Bytes) -> Mask:
    blank: Mask = bytes_ == _BLANK
    blank |= bytes_ == _TAB
    return blank


def _without_edges(column: pa.Array, quoted: Mask, pairs: int, before: int) -> pa.Array:
    if not pairs:
        return pc.binary_slice(column, before, _TO_END) if before else column
    inner = pc.binary_slice(column, before + 1, -1)
    if pairs + column.null_count == len(column):
        return inner
    return pc.if_else(pa.array(quoted), inner, pc.binary_slice(column, before, _TO_END))


def _as_text(column: pa.Array) -> pa.Array:
    """The same bytes as a string column, not checked to be UTF-8: trimming looks at bytes only."""
    return pa.Array.from_buffers(STRING, len(column), column.buffers(), column.null_count, column.offset)


def _has_inner_blanks(data: Bytes, offsets: Offsets, bare: Mask, before: int, values: int) -> bool:
    """Whether a bare one of the `values` has blanks besides the `before` ones at its start."""
    blanks = _is_blank(data)
    if np.count_nonzero(blanks) == before * values:
        return False
    counts = np.zeros(data.size + 1, np.int32)
    np.cumsum(blanks, out=counts[1:])
    return bool((np.diff(counts[offsets]) > before)[bare].any())

"""Blocks of SoR that are nearly plain, made plain: short lines are padded, odd ones set aside, `<` in quotes hidden.

Which lines are rows is not decided here: what is made plain is still proved to be, and what is set aside is read line
by line. A `<` or `>` between quotes becomes a byte that the block does not have. Where the quotes stand as they should,
that changes nothing but the text between them; where they do not, the proof fails as it would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from eau2.values.schema import STRING
from eau2.values.sor_plain import marks, memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from eau2.values.sor_plain import Bytes, Mask

    Numbers = NDArray[np.int64]

_LF, _CR, _QUOTE, _OPEN, _CLOSE = b'\n\r"<>'
_HIDDEN_OPEN, _HIDDEN_CLOSE = 1, 2


@dataclass(frozen=True, slots=True)
class Straight:
    """`text` has the lines of a block but the `odd` ones; `hidden`: some of its bytes stand for `<` and `>`."""

    text: bytes
    lines: int  # of the block
    odd: list[tuple[int, bytes]]  # index in the block, and the line
    hidden: bool

    def shown(self, columns: list[pa.Array]) -> list[pa.Array]:
        """Return the columns that were read from `text` with `<` and `>` for what stands for them."""
        if not self.hidden:
            return columns
        return [_shown(column) if column.type == STRING else column for column in columns]


def straighten(data: bytes | pa.Buffer, width: int) -> Straight | None:
    """Return the lines of `data`, each ended by LF, with `width` fields each; None when that helps nothing."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw == _LF)
    if not ends.size or raw[-1] != _LF:
        return None
    opens, closes = marks(raw, _OPEN), marks(raw, _CLOSE)
    inside, unclosed = _between_quotes(raw, ends)
    hidden = None if inside is None else _hidden(raw, opens, closes, inside)
    text = raw if hidden is None else hidden
    fields = _per_line(opens, ends)
    fits = (fields > 0) & (fields <= width) & (fields == _per_line(closes, ends)) & ~unclosed
    missing = np.where(fits, width - fields, -1)
    if hidden is None and not missing.any():
        return None
    starts = np.append(0, ends[:-1] + 1)
    odd = np.flatnonzero(~fits)
    lines = [bytes(raw[start:end]) for start, end in zip(starts[odd].tolist(), ends[odd].tolist(), strict=True)]
    odd_lines = list(zip(odd.tolist(), lines, strict=True))
    return Straight(_joined(text, starts, ends, missing), ends.size, odd_lines, hidden is not None)


def _between_quotes(raw: Bytes, ends: Numbers) -> tuple[Mask | None, Mask]:
    """Return which bytes follow an odd number of quotes in their line, if any, and which lines have an odd number."""
    quotes = marks(raw, _QUOTE)
    if not quotes.any():
        return None, np.zeros(ends.size, np.bool_)
    inside = np.logical_xor.accumulate(quotes, out=quotes)
    at_end = inside[ends]
    at_start = np.append(False, at_end[:-1])
    if at_start.any():
        inside ^= np.repeat(at_start, np.diff(ends, prepend=-1))
    return inside, at_end != at_start


def _hidden(raw: Bytes, opens: Mask, closes: Mask, inside: Mask) -> Bytes | None:
    """Return `raw` without `<` and `>` that are `inside`, which are taken from the marks too; None when there are none.

    None also when the bytes that would stand for them occur.
    """
    hidden_opens, hidden_closes = opens & inside, closes & inside
    if not hidden_opens.any() and not hidden_closes.any():
        return None
    if marks(raw, _HIDDEN_OPEN).any() or marks(raw, _HIDDEN_CLOSE).any():
        return None
    opens ^= hidden_opens
    closes ^= hidden_closes
    text = np.multiply(hidden_opens.view(np.uint8), np.uint8(_OPEN ^ _HIDDEN_OPEN), out=memory(raw.size))
    text ^= hidden_closes.view(np.uint8) * np.uint8(_CLOSE ^ _HIDDEN_CLOSE)
    text ^= raw
    return text


def _shown(column: pa.Array) -> pa.Array:
    """Return the STRING `column` with `<` and `>` for the bytes that stand for them."""
    data = column.buffers()[2]
    if data is None or not data.size:
        return column
    raw = np.frombuffer(data, np.uint8)
    shown = marks(raw, _HIDDEN_OPEN).view(np.uint8) * np.uint8(_OPEN ^ _HIDDEN_OPEN)
    shown ^= marks(raw, _HIDDEN_CLOSE).view(np.uint8) * np.uint8(_CLOSE ^ _HIDDEN_CLOSE)
    shown ^= raw
    buffers = [*column.buffers()[:2], pa.py_buffer(shown)]
    return pa.Array.from_buffers(STRING, len(column), buffers, column.null_count, column.offset)


def _per_line(what: Mask, ends: Numbers) -> Numbers:
    return np.diff(np.searchsorted(np.flatnonzero(what), ends), prepend=0)


def _joined(text: Bytes, starts: Numbers, ends: Numbers, missing: Numbers) -> bytes:
    """Return `text` with `missing` more fields at the end of each line, and without lines of which -1 are missing."""
    view = text.data
    changed = np.flatnonzero(missing)
    returns = (text[ends[changed] - 1] == _CR).tolist()
    fields = [b"<>" * count for count in range(int(missing.max(initial=0)) + 1)]
    parts: list[memoryview | bytes] = []
    position = 0
    columns = starts[changed].tolist(), ends[changed].tolist(), missing[changed].tolist(), returns
    for start, end, count, has_return in zip(*columns, strict=True):
        if count < 0:
            parts.append(view[position:start])
            position = end + 1
        else:
            parts += (view[position : end - has_return], fields[count])
            position = end - has_return
    parts.append(view[position:])
    return b"".join(parts)

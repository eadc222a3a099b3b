"""Where the records of CSV end, as Arrow has it.

A quote that is not a value's first character is an ordinary one, a line end between quotes ends no record, and a CR
that no LF follows is a line end too. Quotes are looked at many at a time, and one by one only where some are stray.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_QUOTE, _LF = ord('"'), ord("\n")
_WINDOW = 256 << 10  # looked at at once: with larger arrays most of the time goes to the page faults of new memory
# What a chunk goes on from: a value whose quote is open, and one whose quote was closed unless another follows.
_INSIDE, _CLOSED = b'\n"x', b'\n""'


class Quotes:
    """Follows the quotes of a text that starts with a record, chunk after chunk. Linear, and over 1 GB/s."""

    def __init__(self, delimiter: str) -> None:
        self.open = False  # whether the next chunk starts between quotes
        self._before = b"\n"  # as if the next chunk went on from it
        self._starts = np.zeros(256, bool)  # after which a value starts
        self._starts[list(b"\r\n" + delimiter.encode())] = True

    @property
    def at_line_start(self) -> bool:
        """Whether the next chunk starts with a record."""
        return self._before == b"\n"

    def restart(self) -> None:
        """Take the next chunk for the start of a record."""
        self.open, self._before = False, b"\n"

    def last_end(self, chunk: bytes) -> int:
        """Return where the last record that ends in `chunk` ends; 0 when none does."""
        end = 0
        step = _WINDOW if b'"' in chunk or len(self._before) > 1 else len(chunk)
        for start in range(0, len(chunk), step or 1):
            if start and self._before == b"\r" and chunk[start] != _LF:
                end = start
            found = self._last_end(chunk[start : start + step])
            end = start + found if found else end
        return end

    # -- private ------------------------------------------------------------------------------------------------------

    def _last_end(self, chunk: bytes) -> int:
        opened, marks = self._marks(chunk)
        end = _last(b"\n", chunk, len(chunk), opened, marks)
        if chunk.find(b"\r", end, -1) < 0:  # not the last byte: a LF may follow
            return end
        return max(end, _last(b"\r", chunk, len(chunk) - 1, opened, marks))

    def _marks(self, chunk: bytes) -> tuple[bool, npt.NDArray[np.intp]]:
        """Return whether `chunk` starts between quotes, and where that changes."""
        if b'"' not in chunk and len(self._before) == 1:
            self._before = chunk[-1:]
            return False, np.empty(0, np.intp)
        text = self._before + chunk
        data = np.frombuffer(text, np.uint8)
        marks, stray = np.flatnonzero(data == _QUOTE), False
        before = data[marks[::2] - 1]
        if not (self._starts[before] | (before == _QUOTE)).all():  # else they open and close by turns
            marks, stray = self._turns(data, marks)
        marks -= len(self._before)
        self.open = marks.size % 2 == 1
        if self.open:
            self._before = _INSIDE
        elif text.endswith(b'"'):
            self._before = b"x" if stray else _CLOSED
        else:
            self._before = chunk[-1:]
        earlier = int(np.searchsorted(marks, 0))
        return earlier % 2 == 1, marks[earlier:]

    def _turns(self, data: npt.NDArray[np.uint8], quotes: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], bool]:
        """Return which of `quotes` open or close, and whether the last is stray.

        Two quotes side by side change nothing, wherever they are. So of a run of quotes only an odd one counts: where a
        value may start it opens, or closes what is open, and elsewhere nothing is open after it.
        """
        gaps = np.flatnonzero(np.diff(quotes) != 1)
        first, last = np.append(0, gaps + 1), np.append(gaps, quotes.size - 1)  # of each run
        odd = (last - first) % 2 == 0
        starts = self._starts[data[quotes[first] - 1]]
        turns = np.cumsum(odd & starts)
        turns -= np.maximum.accumulate(np.where(odd & ~starts, turns, 0))  # since nothing was open for sure
        inside = turns % 2 == 1  # after each run
        return quotes[last[np.diff(inside, prepend=False)]], not (starts[-1] or inside[-2:-1].any())


def _last(line_end: bytes, chunk: bytes, end: int, opened: bool, marks: npt.NDArray[np.intp]) -> int:
    """Return the position after the last `line_end` in `chunk[:end]` that is not between quotes, or 0."""
    while (end := chunk.rfind(line_end, 0, end)) >= 0:
        before = int(np.searchsorted(marks, end))
        if (before + opened) % 2 == 0:
            return end + 1
        if not before:
            return 0
        end = int(marks[before - 1])
    return 0


def unclosed(data: bytes, delimiter: str) -> int:
    """Return where the record starts whose quote is not closed before `data` ends; the end of `data` when all are.

    >>> unclosed(b'1,"a"\\n2,"b', ","), unclosed(b'1,5" pipe\\n', ",")
    (6, 10)
    """
    quotes = Quotes(delimiter)
    end = quotes.last_end(data)
    return end if quotes.open else len(data)


def line_ends(data: bytes) -> int:
    r"""Return how many lines end in `data`.

    >>> line_ends(b"a\r\nb\rc\n")
    3
    """
    lone = data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0
    return data.count(b"\n") + lone


def line_count(data: bytes) -> int:
    """Return how many lines `data` has, of which the last may have no end."""
    return line_ends(data) + (bool(data) and not data.endswith((b"\n", b"\r")))


def first_record(data: bytes, delimiter: str) -> tuple[int, bytes]:
    """Return where the first record of `data` ends that is not blank, and its text. All of `data` when it is cut."""
    blank = len(data) - len(data.lstrip(b"\r\n"))
    found = _record(delimiter).match(data, blank)
    end = len(data) if found is None else found.end()
    return end, data[blank:end].rstrip(b"\r\n")


def split_records(data: bytes, delimiter: str) -> list[tuple[int, bytes]]:
    """Return the number of the first line, and the text, of each record of `data` that is not blank."""
    records: list[tuple[int, bytes]] = []
    line = 1
    for found in _record(delimiter).finditer(data):
        text = found[0].rstrip(b"\r\n")
        if text:
            records.append((line, text))
        line += line_ends(found[0])
    return records


@lru_cache
def _record(delimiter: str) -> re.Pattern[bytes]:
    """The pattern of a record with its line end."""
    rest = b"[^%b\r\n]*+" % re.escape(delimiter.encode())
    value = rb'(?:"(?:[^"]++|"")*+"%b|(?!")%b)' % (rest, rest)
    return re.compile(rb"%b(?:%b%b)*+(?:\r\n?|\n|\Z)" % (value, re.escape(delimiter.encode()), value))

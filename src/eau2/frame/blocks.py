"""A text file cut into blocks of whole lines, of which one is in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eau2.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

BLOCK_BYTES = 1 << 20  # what a processor's cache holds: larger blocks were slower
LINE_BYTES_MAX = 256 << 20  # one line is in memory several times
RECORD_BYTES_MAX = 16 << 20  # a quoted value with line ends; beyond, a quote is taken for a stray one
_LF, _QUOTE = 10, 34


def lines_of(
    file: BinaryIO,
    *,
    name: str,
    byte_range: tuple[int, int] | None = None,
    quoted: bool = False,
    size: int = BLOCK_BYTES,
) -> Iterator[bytes]:
    """Yield the lines of `file` that start in `byte_range`, in blocks of about `size` bytes or of one line.

    quoted: a line end between quotes does not end a line, as in CSV. LoadError for a line over LINE_BYTES_MAX.
    """
    cut: Callable[[bytes], int] = _Quotes() if quoted else _last_line_end
    parts: list[bytes] = []
    held, lines = 0, 0
    for chunk in _chunks(file, byte_range, size):
        end = cut(chunk)
        if not end:
            parts.append(chunk)
            held += len(chunk)
            if held > LINE_BYTES_MAX:
                raise LoadError(
                    f"line {lines + 1:,} of {name} is longer than {LINE_BYTES_MAX >> 20} MiB",
                    file=name,
                    line=lines + 1,
                    hint="is it the right format?",
                )
            continue
        block = b"".join([*parts, chunk[:end]]) if parts else chunk[:end]
        lines += block.count(b"\n")
        yield block
        parts = [chunk[end:]] if end < len(chunk) else []
        held = len(chunk) - end
    if parts:
        yield b"".join(parts)


def _last_line_end(chunk: bytes) -> int:
    return chunk.rfind(b"\n") + 1


class _Quotes:
    """Finds the last line end that is not between quotes, chunk after chunk."""

    def __init__(self) -> None:
        self._open = False  # whether the next chunk starts between quotes
        self._waited = 0  # bytes without an end

    def __call__(self, chunk: bytes) -> int:
        end = chunk.rfind(b"\n") + 1
        if end and (chunk.count(b'"', 0, end) + self._open) % 2 == 0:
            return self._done(chunk, end)
        return self._search(chunk)

    def _search(self, chunk: bytes) -> int:
        data = np.frombuffer(chunk, np.uint8)
        inside = (np.cumsum(data == _QUOTE) + self._open) % 2 == 1
        ends = np.flatnonzero((data == _LF) & ~inside)
        if ends.size:
            return self._done(chunk, int(ends[-1]) + 1)
        self._waited += len(chunk)
        if self._waited > RECORD_BYTES_MAX and (end := chunk.rfind(b"\n") + 1):
            return self._done(chunk, end)
        self._open = bool((chunk.count(b'"') + self._open) % 2)
        return 0

    def _done(self, chunk: bytes, end: int) -> int:
        self._waited = 0
        self._open = bool(chunk.count(b'"', end) % 2)
        return end


def _chunks(file: BinaryIO, byte_range: tuple[int, int] | None, size: int) -> Iterator[bytes]:
    """Yield the bytes from the first line start at or after the range's start to the end of its last line."""
    start, end = byte_range or (0, None)
    position = _line_start(file, start) if start else 0
    last = b"\n"
    while end is None or position < end:
        chunk = file.read(size if end is None else min(size, end - position))
        if not chunk:
            return
        position += len(chunk)
        last = chunk[-1:]
        yield chunk
    while last != b"\n":  # the line that starts in the range ends beyond it
        chunk = file.readline(size)
        if not chunk:
            return
        last = chunk[-1:]
        yield chunk


def _line_start(file: BinaryIO, start: int) -> int:
    """Move to the first byte at or after `start` that starts a line; return its position (the file's end if none)."""
    file.seek(start - 1)
    while chunk := file.readline(BLOCK_BYTES):
        if chunk.endswith(b"\n"):
            break
    return file.tell()

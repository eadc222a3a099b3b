"""A text file cut into blocks of whole lines, of which one is in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from eau2.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

BLOCK_BYTES = 2 << 20  # the overhead of a block is then 2 percent; several blocks are in memory, each six times
LINE_BYTES_MAX = 256 << 20  # one line is in memory several times
RECORD_BYTES_MAX = 16 << 20  # a quoted value with line ends; beyond, a quote is taken for a stray one
_LF, _QUOTE = 10, 34
_WINDOW = 64 << 10


def lines_of(
    file: BinaryIO, *, name: str, byte_range: tuple[int, int] | None = None, size: int = BLOCK_BYTES
) -> Iterator[pa.Buffer]:
    """Yield the lines of `file` that start in `byte_range`, in blocks of about `size` bytes or of one line.

    LoadError for a line over LINE_BYTES_MAX. The blocks are in Arrow's memory, which is used again: the page faults of
    new memory cost as much as reading a cached file.
    """
    start, end = byte_range or (0, None)
    position = _line_start(file, start) if start else 0
    held = b""  # `held` is the start of a line whose end is not read yet
    while end is None or position < end:
        wanted = max(size, len(held)) if end is None else min(max(size, len(held)), end - position)
        buffer = pa.allocate_buffer(len(held) + wanted)
        view = memoryview(buffer).cast("B")
        view[: len(held)] = held
        count = file.readinto(view[len(held) :])  # type: ignore[attr-defined]  # all our files are buffered readers
        if not count:
            break
        position += count
        filled = len(held) + count
        cut = _after_last_line_end(view, len(held), filled)
        held = bytes(view[cut:filled])
        if cut:
            yield buffer.slice(0, cut)
        elif len(held) > LINE_BYTES_MAX:
            raise _too_long(name)
    if held and end is not None:  # the line that starts in the range ends beyond it
        held += file.readline(LINE_BYTES_MAX)
    if held:
        yield pa.py_buffer(held)


def _after_last_line_end(view: memoryview, start: int, end: int) -> int:
    """Return the position after the last LF in `view[start:end]`, or 0."""
    while end > start:
        window = max(start, end - _WINDOW)
        found = bytes(view[window:end]).rfind(b"\n")
        if found >= 0:
            return window + found + 1
        end = window
    return 0


def _too_long(name: str) -> LoadError:
    return LoadError(
        f"{name} has a line longer than {LINE_BYTES_MAX >> 20} MiB", file=name, hint="is the format right?"
    )


def records_of(
    file: BinaryIO, *, name: str, byte_range: tuple[int, int] | None = None, size: int = BLOCK_BYTES
) -> Iterator[pa.Buffer]:
    """Yield the records of a CSV file as `lines_of` yields lines: a line end between quotes does not end a record."""
    cut = _Quotes()
    parts: list[bytes] = []
    held = 0
    for chunk in _chunks(file, byte_range, size):
        end = cut(chunk)
        if not end:
            parts.append(chunk)
            held += len(chunk)
            if held > LINE_BYTES_MAX:
                raise _too_long(name)
            continue
        yield pa.py_buffer(b"".join([*parts, chunk[:end]]) if parts else chunk[:end])
        parts = [chunk[end:]] if end < len(chunk) else []
        held = len(chunk) - end
    if parts:
        yield pa.py_buffer(b"".join(parts))


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

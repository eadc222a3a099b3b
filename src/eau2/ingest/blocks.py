"""A text file cut into blocks of whole lines, of which one is in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.errors import LoadError
from eau2.values.quotes import Quotes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

BLOCK_BYTES = 2 << 20  # the overhead of a block is then 2 percent; several blocks are in memory, each six times
LINE_BYTES_MAX = 256 << 20  # one line is in memory several times
RECORD_BYTES_MAX = 16 << 20  # a quoted value with line ends; beyond, a quote is taken for a stray one
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
    file: BinaryIO, *, name: str, delimiter: str, byte_range: tuple[int, int] | None = None, size: int = BLOCK_BYTES
) -> Iterator[pa.Buffer]:
    """Yield the records of a CSV file as `lines_of` yields lines: a line end between quotes does not end a record.

    `file` stands where the records begin, and `byte_range` counts from there. What is before the range is read too, at
    some GB/s: whether a line end in it is between quotes cannot be told otherwise.
    """
    quotes = Quotes(delimiter)
    start, end = byte_range or (0, None)
    passed = sum(len(chunk) for chunk, _ in _chunks(file, quotes, start, size))
    parts: list[bytes] = []
    held = 0
    for chunk, cut in _chunks(file, quotes, None if end is None else end - passed, size):
        if not cut:
            parts.append(chunk)
            held += len(chunk)
            if held > LINE_BYTES_MAX:
                raise _too_long(name)
            continue
        yield pa.py_buffer(b"".join([*parts, chunk[:cut]]) if parts else chunk[:cut])
        parts = [chunk[cut:]] if cut < len(chunk) else []
        held = len(chunk) - cut
    if parts:
        yield pa.py_buffer(b"".join(parts))


def _chunks(file: BinaryIO, quotes: Quotes, count: int | None, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield `count` bytes (None: all) and the rest of their last line; each chunk with where its last record ends."""
    waited = 0  # bytes without an end
    while True:
        wanted = size if count is None else min(size, count)
        # At the end of the count: the record that starts before it ends beyond it.
        chunk = file.read(wanted) if wanted > 0 else b"" if quotes.at_line_start else file.readline(size)
        if not chunk:
            return
        count = None if count is None else count - len(chunk)
        cut = quotes.last_end(chunk)
        waited = len(chunk) - cut if cut else waited + len(chunk)
        if waited > RECORD_BYTES_MAX and quotes.open and (line_end := chunk.rfind(b"\n", cut) + 1):
            cut, waited = line_end, len(chunk) - line_end
            quotes.restart()
            quotes.last_end(chunk[cut:])
        yield chunk, cut


def _line_start(file: BinaryIO, start: int) -> int:
    """Move to the first byte at or after `start` that starts a line; return its position (the file's end if none)."""
    file.seek(start - 1)
    while chunk := file.readline(BLOCK_BYTES):
        if chunk.endswith(b"\n"):
            break
    return file.tell()

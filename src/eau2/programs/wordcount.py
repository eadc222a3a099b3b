"""Word count: how often each word occurs in a text file, or in a frame with one column of text.

Words are split at white space as C's isspace has it: space, \\t \\n \\v \\f \\r and nothing else, so NEXT LINE (U+0085)
and NO-BREAK SPACE are part of words. Case and punctuation are kept.

Words are bytes. A text need not be UTF-8: a word that is not is counted like any other, and is *shown* with each
offending byte as \\xNN; `WordCount.undecodable` says how many of the different words that concerns.

How: the text comes in blocks cut between words. numpy finds where words start; an Arrow array over the block's own
memory has one value a word (with the white space after it, so that nothing is copied); Arrow counts the values, and
only the different ones are trimmed and merged. Memory: about 4 blocks a thread, and the different words.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eau2.errors import InvalidOption, InvalidValue, LoadError, ValueTooLarge
from eau2.programs.parallel import in_order, thread_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO

    from numpy.typing import NDArray

    from eau2.frame.frame import Frame

BLOCK_BYTES = 8 << 20  # about; large enough that most words recur in a block, small enough to share among threads
_STRIDE_BYTES = 256 << 10  # the masks of so much text stay in cache
WORD_BYTES_MAX = 512 << 20  # a word is held whole, with what numpy needs to find its end
_MERGE_ROWS = 1 << 20  # partial counts are merged when there are this many, or twice the words known by then
_COUNTS = pa.schema([("word", pa.large_binary()), ("count", pa.int64())])


class WordCountDict(TypedDict):
    """What `eau2 wordcount --json` prints."""

    words: int
    distinct: int
    top: list[tuple[str, int]]


@dataclass(frozen=True)
class WordCount:
    """The words of a text."""

    words: int  # all of them
    distinct: int  # different ones
    undecodable: int  # different words that are not UTF-8; shown with \xNN in place of the offending bytes
    _tally: pa.Table = field(repr=False)  # word: large_binary, count: int64; in no order

    @property
    def counts(self) -> pa.Table:
        """A table (word: string, count: int64), most frequent first, equal counts by word. Sorts anew: O(n log n)."""
        return _shown(self._tally.sort_by([("count", "descending"), ("word", "ascending")]))

    def top(self, n: int) -> list[tuple[str, int]]:
        """Return the `n` most frequent words with their counts, equal counts by word (in order of code points)."""
        if n < 0:
            raise InvalidOption(f"top(n) takes n from 0, not {n}")
        keys = [("count", "descending"), ("word", "ascending")]
        first = _shown(self._tally.take(pc.select_k_unstable(self._tally, min(n, self.distinct), keys)))
        return list(zip(first["word"].to_pylist(), first["count"].to_pylist(), strict=True))

    def to_dict(self, top: int = 20) -> WordCountDict:
        """Return what `eau2 wordcount --top TOP --json` prints."""
        return {"words": self.words, "distinct": self.distinct, "top": self.top(top)}


def wordcount(source: str | os.PathLike[str] | Frame, *, threads: int | None = None) -> WordCount:
    """Return the word counts of a text file (a path; pipes will do), or of a frame with one column of text.

    A row of the frame may hold one word or a whole text; a word ends at the end of its row, and missing rows hold none.
    `threads` is 1 or more; None is one a core.

    Raises LoadError when the file cannot be read, InvalidValue when the frame is not one column of text, ValueTooLarge
    for a word over WORD_BYTES_MAX. Reads 100 to 200 MB/s a core.
    """
    threads = thread_count(threads)
    pieces = _file_pieces(Path(source), threads) if isinstance(source, (str, os.PathLike)) else _frame_pieces(source)
    return _merged(in_order(count_piece, pieces, threads))


class Piece(NamedTuple):
    """A part of a text that no word leaves."""

    text: NDArray[np.uint8]
    ends: NDArray[np.int64] | None = (
        None  # ascending offsets at which words end even without white space: a frame's rows
    )
    ours: bool = False  # the text may be written to


def _merged(parts: Iterable[pa.Table]) -> WordCount:
    """Merge partial counts. They are merged as they come, so that memory follows the different words, not the text."""
    known, waiting, rows = pa.Table.from_batches([], _COUNTS), [], 0
    for part in parts:
        waiting.append(part)
        rows += part.num_rows
        if rows > max(_MERGE_ROWS, 2 * known.num_rows):
            known, waiting, rows = _sum([known, *waiting]), [], 0
    known = _sum([known, *waiting])
    words, undecodable = pc.sum(known["count"]).as_py() or 0, _undecodable(known["word"])
    return WordCount(words, known.num_rows, undecodable, known)


def _sum(parts: list[pa.Table]) -> pa.Table:
    total = pa.concat_tables(parts).group_by("word").aggregate([("count", "sum")])
    return total.rename_columns({"count_sum": "count"}).select(["word", "count"])


def count_piece(piece: Piece) -> pa.Table:
    """Return (word: large_binary, count: int64) for a piece, a word once for each kind of white space after it.

    Keeps no part of the text. Releases the GIL nearly always.
    """
    text, offsets = piece.text, _word_starts(piece)
    words = len(offsets) - 1
    if not words:
        return pa.Table.from_batches([], _COUNTS)
    kind = pa.binary() if offsets.dtype == np.int32 else pa.large_binary()
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    values = pa.table({"word": pa.Array.from_buffers(kind, words, buffers)})
    # Twice as fast as value_counts: its hash table is made for many rows. One thread: the pieces are the parallel part.
    counts = values.group_by("word", use_threads=False).aggregate([([], "count_all")]).combine_chunks()
    return pa.table([_trimmed(counts["word"].chunk(0)), counts["count_all"]], schema=_COUNTS)


def _word_starts(piece: Piece) -> NDArray[np.signedinteger]:
    """Return where the words of a piece start, and its length."""
    text, ends = piece.text, piece.ends
    found: list[NDArray[np.int64]] = []
    was_space = True
    for begin in range(0, len(text), _STRIDE_BYTES):
        stride = text[begin : begin + _STRIDE_BYTES]
        space = _is_space(stride)
        if piece.ours:  # all white space becomes the blank, so that a word is not another one before a LF
            np.maximum(stride, space.view(np.uint8) << 5, out=stride)
        starts = np.empty(len(space), bool)
        starts[0] = was_space and not space[0]
        np.greater(space[:-1], space[1:], out=starts[1:])
        if ends is not None:
            first, last = np.searchsorted(ends, (begin, begin + len(space)))
            cuts = ends[first:last] - begin
            starts[cuts] = ~space[cuts]
        was_space = bool(space[-1])
        at = np.flatnonzero(starts)
        at += begin
        found.append(at)
    size: type[np.signedinteger] = np.int32 if len(text) < 1 << 31 else np.int64
    offsets: NDArray[np.signedinteger] = np.empty(sum(map(len, found)) + 1, size)
    if found:
        np.concatenate(found, out=offsets[:-1], casting="same_kind")
    offsets[-1] = len(text)
    return offsets


def _is_space(text: NDArray[np.uint8]) -> NDArray[np.bool_]:
    space: NDArray[np.bool_] = np.less(text - np.uint8(9), 5)  # \t \n \v \f \r are 9 to 13; lower bytes wrap around
    space |= text == 32
    return space


def _trimmed(words: pa.Array) -> pa.Array:
    """Return `words` as large_binary without their white space; they have none but at the end."""
    _, offsets, data = words.buffers()
    size = np.int64 if pa.types.is_large_binary(words.type) else np.int32
    bounds = np.frombuffer(offsets, size, count=len(words) + 1)
    text = np.frombuffer(data, np.uint8)
    keep = ~_is_space(text)
    kept = np.zeros(len(text) + 1, np.int64)
    np.cumsum(keep, out=kept[1:])
    buffers = [None, pa.py_buffer(kept[bounds]), pa.py_buffer(text[keep])]
    return pa.Array.from_buffers(pa.large_binary(), len(words), buffers)


def _file_pieces(path: Path, threads: int) -> Iterator[Piece]:
    """Read `path` in pieces that end after white space, or at the end of the file.

    They lie in `threads` + 1 blocks of memory used in turn, since fresh memory costs as much as counting: a piece may
    be overwritten when `threads` more have been asked for.
    """
    try:
        with path.open("rb", buffering=0) as file:
            memory = deque(np.empty(_block_bytes(file, threads), np.uint8) for _ in range(threads + 1))
            block, filled = memory[0], 0
            while read := file.readinto(block[filled:].data):
                fresh, filled = filled, filled + read
                if cut := _cut(block, fresh, filled):
                    yield Piece(block[:cut], ours=True)
                    memory.rotate(-1)  # not before the yield: the next block may be in use until then
                    rest, block = block[cut:filled], memory[0]
                    if len(rest) >= len(block):
                        block = memory[0] = np.empty_like(rest, shape=2 * len(rest))
                    block[: len(rest)] = rest
                    filled = len(rest)
                elif filled == len(block):  # all of it one word
                    _check_word_size(filled, path)
                    block = memory[0] = np.concatenate([block, np.empty_like(block)])
            yield Piece(block[:filled], ours=True)
    except OSError as error:
        hint = "give the path of a text file" if isinstance(error, (FileNotFoundError, IsADirectoryError)) else ""
        raise LoadError(f"cannot read {path}: {error.strerror}", file=str(path), hint=hint) from error


def _block_bytes(file: FileIO, threads: int) -> int:
    """Return a size near BLOCK_BYTES of which each thread gets as many; pipes have no size."""
    size = os.fstat(file.fileno()).st_size
    rounds = max(1, round(size / BLOCK_BYTES / threads))
    return max(_STRIDE_BYTES, -(-size // (rounds * threads)) + 1024) if size else BLOCK_BYTES


def _check_word_size(size: int, path: Path) -> None:
    if size >= WORD_BYTES_MAX:
        raise ValueTooLarge(f"a word of {path} has over {WORD_BYTES_MAX} bytes", hint="is this a text file?")


def _cut(block: NDArray[np.uint8], start: int, stop: int) -> int:
    """Return the offset after the last white space of `block` in [start, stop), or 0 when there is none."""
    for near in (max(start, stop - 1024), start):
        space = np.flatnonzero(_is_space(block[near:stop]))
        if len(space):
            return near + int(space[-1]) + 1
    return 0


def _frame_pieces(frame: Frame) -> Iterator[Piece]:
    fields = list(frame.schema)
    if len(fields) != 1 or not _is_text(fields[0].type):
        found = ", ".join(f"{field.name} {field.type}" for field in fields) or "none"
        hint = 'select one: frame.select("name")'
        raise InvalidValue(f"word count takes a frame with one column of text, this one has: {found}", hint=hint)
    for batch in frame.batches():
        yield from column_pieces(batch.column(0))


def column_pieces(column: pa.Array) -> Iterator[Piece]:
    """Cut a column of text into pieces of about BLOCK_BYTES, over its own memory when it is string or large_string."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = column.cast(pa.large_string())
    if column.null_count:  # what a missing row's offsets span is not text
        column = column.drop_null()
    if not len(column):
        return
    _, buffer, data = column.buffers()
    size = np.int64 if pa.types.is_large_string(column.type) else np.int32
    bounds = np.frombuffer(buffer, size)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    text = np.frombuffer(data or b"", np.uint8)
    row = 0
    while row < len(column):
        stop = int(np.searchsorted(bounds, bounds[row] + BLOCK_BYTES, side="right")) - 1
        stop = min(max(stop, row + 1), len(column))
        piece = text[bounds[row] : bounds[stop]]
        if len(piece) > WORD_BYTES_MAX:
            raise ValueTooLarge(f"a row of the frame has {len(piece)} bytes of text, over {WORD_BYTES_MAX}")
        yield Piece(piece, bounds[row:stop] - bounds[row])
        row = stop


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value))


def _undecodable(words: pa.ChunkedArray) -> int:
    if _decoded(words) is not None:
        return 0
    return sum(_show(word).encode() != word for word in words.to_pylist())


def _decoded(words: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return `words` as text, or None when one of them is not UTF-8."""
    kind = pa.string() if words.nbytes < 1 << 31 else pa.large_string()
    try:
        return words.cast(pa.large_string()).cast(kind)
    except pa.ArrowInvalid:
        return None


def _shown(counts: pa.Table) -> pa.Table:
    words = _decoded(counts["word"])
    if words is None:
        words = pa.chunked_array([[_show(word) for word in counts["word"].to_pylist()]], pa.string())
    return pa.table({"word": words, "count": counts["count"]})


def _show(word: bytes) -> str:
    return word.decode("utf-8", "backslashreplace")

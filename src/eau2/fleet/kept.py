"""What runs have written on a node, on its disk: to be looked at while they run, later, and after kill -9.

<node>/runs/ID.out.0000000000    what run ID wrote to standard output, from that byte on; ID.err.* likewise

Files of one stream follow each other, of SEGMENT_BYTES each. Of what writes much the first two stay, and the last two:
how it began, and how it ended.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

from eau2.errors import InvalidOption, failed_call
from eau2.fleet.run import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SEGMENT_BYTES = 128 << 10
SEGMENTS_MAX = 4  # of a stream: so 1 MiB of a run
RUNS_MAX = 100  # whose output is kept
DAYS_MAX = 30  # older than the newest
_FOLDER = "runs"
_FIRST = 2  # segments that stay, however much follows
_ID = re.compile(r"\d{13}-[0-9a-f]{1,16}")
_DAY_MILLISECONDS = 86_400_000
STREAMS: tuple[Stream, ...] = get_args(Stream)


class Piece(NamedTuple):
    """What was written to a stream, from byte `start` of it on."""

    start: int
    data: bytes


class KeptOutput:
    """The outputs that are kept in `directory` of a node. Thread-safe, for one writer of each run."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._folder = Path(directory) / _FOLDER

    def begin(self, run_id: str) -> Keeping:
        """Return what keeps the output of a run; forget the oldest runs. InvalidOption when that is no id."""
        require_id(run_id)
        with contextlib.suppress(OSError):  # no room, or no right: the run goes on, and nothing is kept
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._forget(run_id)
        return Keeping(self._folder, run_id)

    def read(self, run_id: str, starts: tuple[int, int] = (0, 0)) -> tuple[list[Piece], list[Piece]]:
        """Return what is kept of standard output and of standard error, each from its start on, at most 1 MiB in all.
        What lies between two pieces was left out. Nothing of a run that is not kept. InvalidOption, StoreUnusable."""
        require_id(run_id)
        out, err = (joined(self._pieces(run_id, stream, start)) for stream, start in zip(STREAMS, starts, strict=True))
        return out, err

    def _pieces(self, run_id: str, stream: Stream, start: int) -> Iterator[Piece]:
        for begin, path in self._segments(run_id, stream):
            with contextlib.suppress(FileNotFoundError):  # a newer one has just taken its place
                try:
                    data = path.read_bytes()[max(0, start - begin) :]
                except FileNotFoundError:
                    raise
                except OSError as error:
                    raise failed_call(error, path) from error
                if data:
                    yield Piece(max(start, begin), data)

    def _segments(self, run_id: str, stream: Stream) -> list[tuple[int, Path]]:
        found = self._folder.glob(f"{run_id}.{stream}.*")
        return sorted((int(path.suffix[1:]), path) for path in found if path.suffix[1:].isdecimal())

    def _forget(self, newest: str) -> None:
        paths: dict[str, list[Path]] = {}
        for path in self._folder.iterdir():
            paths.setdefault(path.name.partition(".")[0], []).append(path)
        paths.pop(newest, None)
        old = sorted(paths)[: -(RUNS_MAX - 1)]
        old += [run_id for run_id in paths if _made(run_id) < _made(newest) - DAYS_MAX * _DAY_MILLISECONDS]
        for path in (path for run_id in old for path in paths[run_id]):
            path.unlink(missing_ok=True)


class Keeping:
    """Keeps the output of one run as it is written. For one thread at a time."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder, self._id = folder, run_id
        self._streams = {stream: _Segments(folder, f"{run_id}.{stream}") for stream in STREAMS}

    def write(self, stream: Stream, start: int, data: bytes) -> None:
        """Keep what was written to `stream` from byte `start` on. What cannot be written is left out: a full disk does
        not end a command."""
        self._streams[stream].write(start, data)

    def close(self) -> None:
        """Idempotent."""
        for stream in self._streams.values():
            stream.close()


class _Segments:
    """The files of one stream."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._starts: list[int] = []
        self._file = -1
        self._end = 0  # of the file that is open, in the stream

    def write(self, start: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                room = self._room(start)
                size = os.write(self._file, view[:room])
            except OSError:
                self.close()
                return
            start, self._end, view = start + size, self._end + size, view[size:]

    def _room(self, start: int) -> int:
        """Return how many bytes the open file takes from `start` on; open the next, if need be."""
        if self._file < 0 or self._end != start or self._end - self._starts[-1] >= SEGMENT_BYTES:
            self.close()
            path = self._folder / f"{self._name}.{start:010d}"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._starts.append(start)
            self._end = start
            if len(self._starts) > SEGMENTS_MAX:
                gone = self._starts.pop(_FIRST)
                (self._folder / f"{self._name}.{gone:010d}").unlink(missing_ok=True)
        return SEGMENT_BYTES - (self._end - self._starts[-1])

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Return `pieces`, which are in order, those that follow each other as one.

    >>> joined([Piece(0, b"ab"), Piece(2, b"c"), Piece(9, b"z")])
    [Piece(start=0, data=b'abc'), Piece(start=9, data=b'z')]
    """
    found: list[tuple[int, list[bytes]]] = []
    end = -1
    for piece in pieces:
        if piece.start != end:
            found.append((piece.start, []))
        found[-1][1].append(piece.data)
        end = piece.start + len(piece.data)
    return [Piece(start, b"".join(parts)) for start, parts in found]


def left_out(pieces: list[Piece], total: int | None) -> int:
    """Return how many bytes of a stream, read from its first, are in none of `pieces`. total: how many were written;
    None while that is not known.

    >>> left_out([Piece(0, b"abc"), Piece(10, b"k")], 12)
    8
    """
    end = max((piece.start + len(piece.data) for piece in pieces), default=0)
    return max(end, total or 0) - sum(len(piece.data) for piece in pieces)


def require_id(run_id: str) -> None:
    """InvalidOption unless `run_id` is as `new_id` makes them."""
    if _ID.fullmatch(run_id) is None:  # it becomes the name of a file
        raise InvalidOption(f"{run_id!r:.60} is no id of a run", hint="`eau2 exec --list` shows them")


def _made(run_id: str) -> int:
    """Return when a run was made, in milliseconds."""
    return int(run_id[:13]) if _ID.fullmatch(run_id) else 0

"""Are all commits still in the log that a killed process has left?

SQLite reads such a log up to the first frame that is not whole, as it must: there ends what a killed writer wrote.
Damage further up looks the same to it, and takes along, without a word, all commits behind it. But the log's index, a
mapped file, outlives its process too, and knows how many frames were committed. So before SQLite reads the log, and
writes the index anew, we look whether so many are whole. Nothing is changed by that: whoever opens next finds the same.

What is no damage: frames behind the committed ones; an index from before this boot (a loss of power may take the last
commits along and leave the index that counted them); no index (who deletes it takes the log as it is).

Both formats: https://sqlite.org/walformat.html
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from eau2.errors import Corrupt

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Words = npt.NDArray[np.uint32]

_INDEX_HEADER = 48  # bytes, and a copy behind them
_LOG_HEADER = 32
_COPIED = 128  # where the index keeps the number of frames that were being copied into the database, or have been
_LIVE = 128  # the byte of the index, whatever it holds, on which every connection has a lock
_FRAMES_AT_ONCE = 2048


def require_commits(path: Path) -> None:
    """Raise Corrupt when commits to the database at `path`, which processes killed since have made, are lost.

    11 us when there is no log, 15 when a process has it open; else it reads the log, at 1.4 GB/s.
    Not to be called while this process has a connection to it: its locks on the index would go when we close that file.
    """
    index, log = (path.with_name(path.name + suffix) for suffix in ("-shm", "-wal"))
    try:
        left = _left(index)
        if left is None:
            return
        committed, salts, copied = left
        whole = _whole_frames(log, committed, salts)
    except PermissionError:
        return  # SQLite meets it too, and says what it is
    # Unless the index is as it was, another process came first: it has looked, and what we read was its log.
    if whole < committed and _left(index) == left:
        hint = "restore the store from a copy"
        if whole >= copied:  # else what can be read is older than what is in the database
            hint += f"; or delete {index} to go on without the rest, and run `eau2 check`"
        raise Corrupt(
            f"{log} is damaged: of {committed:,} pages that a killed process committed to it, {whole:,} can be read",
            hint=hint,
        )


def _left(index: Path) -> tuple[int, bytes, int] | None:
    """Return how many frames were committed to the log, its salts, and how many of the frames are in the database too.

    None when somebody has it open, when there are no such frames, and when it is not known.
    """
    try:
        file = os.open(index, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        start = os.pread(file, _COPIED + 4, 0)
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        if _is_live(file) or len(start) < _COPIED + 4 or os.fstat(file).st_mtime < booted:
            return None
    finally:
        os.close(file)
    for header in (start[:_INDEX_HEADER], start[_INDEX_HEADER : 2 * _INDEX_HEADER]):
        words = np.frombuffer(header, np.uint32).reshape(1, -1)
        if (_checksums(words[:, :10], _weights(10), _NOTHING) == words[:, 10:]).all():  # else its write was cut short
            copied = int.from_bytes(start[_COPIED:], sys.byteorder)
            return (int(words[0, 4]), header[32:40], copied) if words[0, 4] else None
    return None


def _is_live(index: int) -> bool:
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LIVE, 1, 0)
    (kind,) = struct.unpack_from("h", fcntl.fcntl(index, fcntl.F_GETLK, lock))
    return bool(kind != fcntl.F_UNLCK)


def _whole_frames(log: Path, committed: int, salts: bytes) -> int:
    """Return how many of the first `committed` frames are whole. A checksum goes on from that of the frame before."""
    try:
        file = log.open("rb", buffering=0)
    except FileNotFoundError:
        return 0
    with file:
        header = file.read(_LOG_HEADER)
        if len(header) < _LOG_HEADER or header[16:24] != salts:
            return 0
        order = ">u4" if header[3] & 1 else "<u4"  # in which the checksums take the words; they are stored as >u4
        before = np.frombuffer(header, ">u4")[6:].reshape(1, 2)
        if (_checksums(np.frombuffer(header, order)[:6].reshape(1, -1), _weights(6), _NOTHING) != before).any():
            return 0
        page = int.from_bytes(header[8:12], "big") // 4
        weights = np.insert(_weights(2 + page), [4] * 4, 0, axis=0)  # the frame's own salts and checksum do not count
        done = 0
        while done < committed:
            words = np.fromfile(file, order, (6 + page) * min(_FRAMES_AT_ONCE, committed - done))
            frames = words[: len(words) // (6 + page) * (6 + page)].reshape(-1, 6 + page)
            stored = frames.view(">u4")[:, 4:6]
            right = (_checksums(frames, weights, np.concatenate([before, stored[:-1]])) == stored).all(axis=1)
            right &= (frames[:, 2:4] == np.frombuffer(salts, order)).all(axis=1)
            if not right.all() or not len(frames):
                return done + int(np.argmin([*right, False]))
            before, done = stored[-1:], done + len(frames)
    return done


_NOTHING = np.zeros((1, 2), np.uint32)


def _weights(words: int) -> Words:
    """Return how often each of `words` words counts in each half of a checksum, and before them the two halves of the
    checksum that it goes on from.

    SQLite adds by turns, `a += word + b; b += word + a`: so the words count as the Fibonacci numbers, from the last.
    """
    numbers = [0, 1]
    while len(numbers) < words + 2:
        numbers.append((numbers[-1] + numbers[-2]) & 0xFFFFFFFF)
    falling = np.array(numbers[::-1], np.uint32)
    rows = np.stack([falling[1:], falling[:-1]], axis=1)  # the first for `b`; `a` counts as the first word
    return np.concatenate([rows[1:2], rows])


def _checksums(rows: Words, weights: Words, before: Words) -> Words:
    """Return the checksum of each row of words, going on from `before`."""
    return rows.astype(np.uint32, copy=False) @ weights[2:] + before.astype(np.uint32, copy=False) @ weights[:2]

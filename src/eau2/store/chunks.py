"""The chunk files of a node: written where nobody sees them, moved to their names, removed.

    chunks/ab/ab12....arrow       named by the hash of its bytes, never changed, shared by all frames that have it
    staging/<holder>/<id>.<n>     a chunk that no manifest names yet; holder.py says whose. arriving.<n> while it comes,
                                  and until it has its name

Whether a file is still what was written is told by its **stamp**: boot, inode, size, and both times. Time stamps are
coarse (4 ms), so each file's modification time is set to one fixed moment long ago when it has been written: any later
write moves it, however soon it comes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from eau2.errors import StoreUnusable, failed_call
from eau2.store.freeing import unlink
from eau2.store.nodes import Staged, closed
from eau2.values.chunk import identify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from eau2.store.holder import Holder
    from eau2.values.arriving import ArrivingChunk


WRITTEN_NS = 951_782_400_000_000_000  # 29 February 2000, whole seconds: every file system can keep it
_SUFFIX = ".arrow"
_PIECES_MAX = 1000  # buffers a system call: IOV_MAX is 1024
# Bytes a system call: the kernel caches what is larger in pages as large. In a virtual machine these are often such as
# the host has to give back first: in calls of 1 MB a gigabyte took up to 3 s every other time. So calls get small for
# the rest of a file when one has taken long; from the beginning they would cost two threads that write a third more.
_WRITE_BYTES_MAX, _WRITE_BYTES_MIN = 128 << 10, 32 << 10
_LONG_SECONDS = 250e-6  # of the processor; 30 us are usual
_ROOM_BYTES_MIN = 1 << 20  # taken at once from here on
_ROOM_BYTES_STEP = 8 << 20  # taken at once of what comes from others, who may announce more than they send

_fallocate = getattr(ctypes.CDLL(None), "fallocate", None)  # of Linux
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

Stamp = tuple[int, int, int, int]  # inode, size, mtime_ns, ctime_ns


class NoSuchChunk(FileNotFoundError):
    """A chunk is not on this node. For the cluster, which knows where to look next: not an error of eau2."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, "no such chunk", path)

    def __reduce__(self) -> tuple[object, ...]:
        return NoSuchChunk, (self.filename,)


def boot_id() -> str:
    """Return what differs between boots of the machine: a stamp says nothing about what happened while it was off."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux: trust nothing that another process has found whole
        return os.urandom(16).hex()


def stamp_of(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class ChunkFiles:
    """The files of one node, as one process sees them."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.directory = directory
        self._chunks = directory / "chunks"
        self._prefix = f"{self._chunks}/"
        self._durable = durable  # flush to the medium before the manifest is committed
        self._boot = boot_id()
        self._numbers = itertools.count()
        self.holder: Holder | None = None  # none when read-only
        self.written = 0

    def path(self, chunk_id: str) -> str:
        return f"{self._prefix}{chunk_id[:2]}/{chunk_id}{_SUFFIX}"

    def mark(self, stamp: Stamp) -> str:
        """Return the stamp as the database keeps it."""
        inode, size, modified, changed = stamp
        return f"{self._boot} {inode} {size} {modified} {changed}"

    def stat(self, chunk_id: str) -> Stamp | None:
        """Return the file's stamp now, or None when it is not there. 1 us."""
        try:
            return stamp_of(os.stat(self.path(chunk_id)))
        except FileNotFoundError:
            return None

    # -- staging ------------------------------------------------------------------------------------------------------

    def stage(self, chunk_id: str, pieces: Iterable[pa.Buffer], size: int) -> Staged:
        """Write `pieces`, of `size` bytes, to a new file of this process. DiskFull, ReadOnly; then the file is gone.

        StoreClosed when the process's directory went meanwhile.
        """
        path = self._new_path(chunk_id)
        self._write(path, pieces, size)
        return Staged(chunk_id, path)

    def stage_arriving(self, chunk: ArrivingChunk) -> Staged:
        """As `stage`, of a chunk that is not known before its end."""
        path = self._new_path("arriving")
        self._write(path, chunk, chunk.size, step=_ROOM_BYTES_STEP)
        return Staged(chunk.id, path)

    def _write(self, path: str, pieces: Iterable[pa.Buffer], size: int, *, step: int = 0) -> None:
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                write_all(file, pieces, size, step=step)
                os.utime(file, ns=(WRITTEN_NS, WRITTEN_NS))
                if self._durable:
                    os.fsync(file)
            finally:
                os.close(file)
        except BaseException as error:
            unlink(path)
            if isinstance(error, OSError):
                raise self._failed(error, path) from error
            raise
        self.written += 1

    def _failed(self, error: OSError, path: str) -> Exception:
        return closed() if self.holder is not None and self.holder.closed else failed_call(error, path)

    def stage_again(self, chunk_id: str, data: pa.Buffer, trusted: Stamp | None) -> Staged:
        """Stage a chunk that is mapped as `data`: a link to its file while that is `trusted`, else a copy."""
        path = self._new_path(chunk_id)
        try:
            if trusted is not None and self.stat(chunk_id) == trusted:
                os.link(self.path(chunk_id), path)
                if os.stat(path).st_ino == trusted[0]:
                    return Staged(chunk_id, path)
                os.unlink(path)
        except OSError:  # removed meanwhile, or a file system without links
            unlink(path)
        return self.stage(chunk_id, [data], data.size)

    def discard(self, staged: Iterable[Staged]) -> None:
        for chunk in staged:
            unlink(chunk.path)

    def _new_path(self, chunk_id: str) -> str:
        assert self.holder is not None  # the node has refused writes before
        return f"{self.holder.directory}/{chunk_id}.{next(self._numbers)}"

    # -- under the write lock -----------------------------------------------------------------------------------------

    def publish(self, staged: Staged, known: str | None) -> tuple[int, str]:
        """Give a staged file its name; return its size and mark. `known` is the mark in the chunk's row, if any.

        Where the file is there already and untouched, the staged one is dropped; else it takes its place.
        """
        path = self.path(staged.id)
        there, new = self.stat(staged.id), stamp_of(os.stat(staged.path))
        if there is not None and there[0] == new[0]:  # a link to it; unlinking changes ctime, nothing else
            os.unlink(staged.path)
            self._flush_there(path)
            return self._renewed(staged.id, there, known)
        if there is not None and self.mark(there) == known:
            unlink(staged.path, aside=True)
            self._flush_there(path)
            return there[1], known
        if new[2] != WRITTEN_NS:
            self._hash(staged.path, staged.id)
        try:
            os.rename(staged.path, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.rename(staged.path, path)
            self._flush(str(self._chunks))
        self._flush(os.path.dirname(path))
        stamp = stamp_of(os.stat(path))
        return stamp[1], self.mark(stamp)

    def _renewed(self, chunk_id: str, before: Stamp, known: str | None) -> tuple[int, str]:
        """The linked file's mark, renewed: trusted when only ctime differs, which making the link has changed."""
        now = self.stat(chunk_id)
        assert now is not None  # only the holder of the write lock removes files
        untouched = known is not None and known.split()[:4] == self.mark(now).split()[:4]
        if not (untouched and now[:3] == before[:3] and now[2] == WRITTEN_NS):
            self._hash(self.path(chunk_id), chunk_id)
        return now[1], self.mark(now)

    def _hash(self, path: str, chunk_id: str) -> None:
        found = file_id(path)
        if found != chunk_id:
            raise StoreUnusable(f"{path} was changed before it was stored", hint="see what else writes there")

    def _flush_there(self, path: str) -> None:
        """Whoever wrote the file may not have flushed it."""
        if self._durable:
            flush_file(path)
            flush_file(os.path.dirname(path))

    def _flush(self, directory: str) -> None:
        if self._durable:
            flush_file(directory)

    def remove(self, chunk_id: str, *, aside: bool = False) -> bool:
        """Unlink the file; return whether it was there. aside: see `freeing.unlink`."""
        return unlink(self.path(chunk_id), aside=aside)

    # -- all of them --------------------------------------------------------------------------------------------------

    def ids(self) -> Iterator[str]:
        """Yield the id of every chunk file that is there."""
        with contextlib.suppress(FileNotFoundError):
            for folder in os.scandir(self._chunks):
                for file in os.scandir(folder.path):
                    if file.name.endswith(_SUFFIX):
                        yield file.name.removesuffix(_SUFFIX)


def flush_file(path: str | Path) -> None:
    """Bring a file or a directory to the medium."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def file_id(path: str) -> str:
    """Return the chunk id that the file's bytes have. FileNotFoundError. 15 GB/s once they are in memory."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_size == 0:
            return identify(b"")
        with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as data:
            return identify(data)
    finally:
        os.close(file)


def write_all(file: int, pieces: Iterable[pa.Buffer], size: int, *, step: int = 0) -> None:
    """Write `pieces`, whatever kind of buffers, to the open `file`. OSError, and what `pieces` raises.

    size: that they have together, or 0. To take the room at once saves a quarter of the time for large ones; `step` by
    step as they come, if it is given.
    """
    taken, written = 0, 0
    room, left = _WRITE_BYTES_MAX, _Views(memoryview(piece).cast("B") for piece in pieces)
    while views := left.take(room):
        start = time.thread_time()
        if taken <= written < size and size >= _ROOM_BYTES_MIN and _fallocate is not None:
            _fallocate(file, _KEEP_SIZE, taken, min(step or size, size - taken))  # what it cannot do, writes will say
            taken += step or size
        written += sum(map(len, views))
        while views:
            count = os.writev(file, views)
            if count == 0:
                raise OSError(errno.EIO, "nothing was written")
            done = 0
            while done < len(views) and count >= len(views[done]):
                count -= len(views[done])
                done += 1
            del views[:done]
            if count:
                views[0] = views[0][count:]
        if time.thread_time() - start > _LONG_SECONDS:
            room = _WRITE_BYTES_MIN


class _Views:
    """Views that are cut and put together as system calls take them."""

    def __init__(self, views: Iterable[memoryview]) -> None:
        self._views = iter(views)
        self._rest: memoryview | None = None  # of one that was cut

    def take(self, size: int) -> list[memoryview]:
        """Return the next `size` bytes, or as many as there are, in at most as many views as a system call takes."""
        together: list[memoryview] = []
        while size and len(together) < _PIECES_MAX:
            view = self._rest if self._rest is not None else next(self._views, None)
            if view is None:
                break
            self._rest = view[size:] if len(view) > size else None
            if len(view):
                together.append(view[:size])
                size -= len(together[-1])
        return together

"""Chunk files in memory. **The mapping is the lease**: the kernel keeps a removed file alive while it is mapped.

A file is opened, mapped and closed at once; no page is read by that. Python's own `mmap` keeps a descriptor for each
(before 3.13), so a frame of 64 GB would use up the 1024 that a process has: hence `mmap` of the C library.

A chunk is trusted without being read while its file's stamp is the one under which it was last hashed, here or, by its
row, in any process in this boot. Otherwise it is hashed first.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.errors import Corrupt, Eau2Error, StoreUnusable, failed_call
from eau2.store.chunks import file_id, stamp_of, write_all
from eau2.values.chunk import identify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from eau2.store.chunks import ChunkFiles, Stamp

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value

_HINT = "put the frame again, or restore the file from a copy; `eau2 check` lists all that is damaged"
_GONE: Stamp = (0, 0, 0, 0)  # the file has no name any more: nobody can open it to change it


class Mapping:
    """One chunk file in memory, until nobody holds a buffer of it."""

    __slots__ = ("__weakref__", "address", "size", "stamp")

    def __init__(self, file: int, stamp: Stamp) -> None:
        self.size = stamp[1]
        self.stamp = stamp  # under which its bytes were found to be right
        address = _mmap(None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        if address is None or address == _FAILED:
            code = ctypes.get_errno()
            raise StoreUnusable(
                f"a chunk of {self.size:,} bytes cannot be mapped: {os.strerror(code)}",
                hint="see `ulimit -v` and /proc/sys/vm/max_map_count",
            )
        self.address: int = address
        weakref.finalize(self, _munmap, address, self.size).atexit = False

    def buffer(self) -> pa.Buffer:
        """Return the bytes; the buffer, and all that is made of it, keeps this mapping."""
        return pa.foreign_buffer(self.address, self.size, base=self)

    def readable(self) -> bool:
        """Whether the file was not cut off under the mapping: to touch what is missing would end the process."""
        end, sink = os.pipe()
        try:
            os.write(sink, memoryview(self.buffer())[-1:])  # the kernel reads, and fails, in our place
        except OSError:
            return False
        finally:
            os.close(end)
            os.close(sink)
        return True


def in_file(pieces: Iterable[pa.Buffer], folder: str, size: int = 0) -> Mapping:
    """Return `pieces` mapped as one, from a file without a name in `folder` that goes with the mapping. DiskFull,
    StoreUnusable and others of the folder; and what `pieces` raises.

    size: that they will have, where it is known.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="eau2-") as file:
            write_all(file.fileno(), pieces, size)
            return Mapping(file.fileno(), stamp_of(os.fstat(file.fileno())))
    except Eau2Error:
        raise
    except OSError as error:
        raise failed_call(error, folder) from error


class Mappings:
    """The chunk files that are mapped in this process, shared by all who ask. Thread-safe."""

    def __init__(self, files: ChunkFiles) -> None:
        self._files = files
        self._lock = threading.Lock()  # guards everything below
        self._mapped: weakref.WeakValueDictionary[str, Mapping] = weakref.WeakValueDictionary()  # the latest of each
        self._at: weakref.WeakValueDictionary[int, Mapping] = weakref.WeakValueDictionary()  # all, by their address
        self.count = 0
        self.verified = 0
        self._linking = threading.Lock()  # one link at a time, or each would look like a change to the other

    def shared(self, chunk_id: str) -> Mapping | None:
        """Return the mapping of the file that now has the chunk's name, if there is one here that is known as whole."""
        with self._lock:
            mapping = self._mapped.get(chunk_id)
        return mapping if mapping is not None and mapping.stamp == self._files.stat(chunk_id) else None

    def open(self, chunk_id: str, size: int, mark: str, key: str) -> tuple[Mapping, str | None]:
        """Map the chunk's file; hash it unless its stamp is that of `mark`. Return the mapping and its new mark, if
        it has one. FileNotFoundError; Corrupt, also when the file has not `size` bytes.
        """
        path = self._files.path(chunk_id)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnusable(_named(key, f"chunk {path} cannot be opened: {error.strerror}")) from error
        try:
            stamp = stamp_of(os.fstat(file))
            if stamp[1] != size:
                raise Corrupt(_named(key, f"chunk {path} has {stamp[1]:,} bytes, not {size:,}"), hint=_HINT)
            mapping = Mapping(file, stamp)
        finally:
            os.close(file)
        new_mark = self._files.mark(stamp)
        renewed = None
        if new_mark != mark:
            self._hash(chunk_id, mapping, key)
            renewed = new_mark
        with self._lock:
            self.count += 1
            self._mapped[chunk_id] = self._at[mapping.address] = mapping
        return mapping, renewed

    @contextmanager
    def linking(self, chunk_id: str) -> Iterator[Mapping | None]:
        """While a link to the chunk's file is made or removed, with what `shared` returns.

        That changes the file's ctime and nothing else: what was trusted before is trusted with the new one.
        """
        with self._linking:
            mapping = self.shared(chunk_id)
            yield mapping
            now = self._files.stat(chunk_id)
            if mapping is not None and now is not None and now[:3] == mapping.stamp[:3]:
                mapping.stamp = now

    def verify(self, chunk_id: str, data: pa.Buffer, key: str, mark_of: Callable[[str], str]) -> bool:
        """Raise Corrupt unless `data`, what was mapped of the chunk, is still what was written. Return whether it was
        hashed for that. 1.5 us. `mark_of` is asked for the mark in the chunk's row when the file has another stamp.

        The chunk's file may be another one by now: what is asked of is `data`, which may be of the one before.
        """
        mapping = self._at.get(data.address)
        if mapping is None:
            return False
        stamp = self._files.stat(chunk_id)
        if stamp == mapping.stamp:
            return False
        if stamp is None or stamp[0] != mapping.stamp[0]:  # the mapped file has no name any more
            if mapping.stamp == _GONE:
                return False
            self._hash(chunk_id, mapping, key)
            mapping.stamp = _GONE
            return True
        path = self._files.path(chunk_id)
        if stamp[1] != mapping.size:  # touching what was cut off would end the process
            self._forget(chunk_id, mapping)
            raise Corrupt(_named(key, f"chunk {path} has {stamp[1]:,} bytes, not {mapping.size:,}"), hint=_HINT)
        known = self._files.mark(stamp) == mark_of(chunk_id)  # another process has linked it, or hashed it since
        if not known:
            self._hash(chunk_id, mapping, key)
        mapping.stamp = stamp
        return not known

    def whole(self, chunk_id: str) -> bool:
        """Hash the file as it is now, for `check`. FileNotFoundError."""
        return file_id(self._files.path(chunk_id)) == chunk_id

    def _hash(self, chunk_id: str, mapping: Mapping, key: str) -> None:
        with self._lock:
            self.verified += 1
        if not mapping.readable() or identify(mapping.buffer()) != chunk_id:
            self._forget(chunk_id, mapping)
            raise Corrupt(
                _named(key, f"chunk {self._files.path(chunk_id)} is damaged: its hash is not its name"), hint=_HINT
            )

    def _forget(self, chunk_id: str, mapping: Mapping) -> None:
        """Share `mapping` with nobody else. Those who have it are told at each `verify`."""
        with self._lock:
            if self._mapped.get(chunk_id) is mapping:
                del self._mapped[chunk_id]

    def abandon(self) -> None:
        """In a forked child: mappings stay readable there, the lock may not."""
        self._lock, self._linking = threading.Lock(), threading.Lock()


def _named(key: str, sentence: str) -> str:
    return f"{key!r}: {sentence}" if key else sentence

"""Chunks in a driver: mapped from the node's own files where these are on this machine, else brought once and cached.

A chunk that is brought is written to a file without a name, and that is mapped: what is held stays readable, what is
not is the kernel's to drop, and the cache is bounded by what it names, whatever is held besides. Where the cache was
given memory, chunks are kept there as far as it goes, which is faster.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from eau2.errors import Corrupt
from eau2.store.chunks import ChunkFiles, NoSuchChunk, boot_id
from eau2.store.mapping import Mapping, Mappings, in_file
from eau2.values.chunk import Arriving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

    from eau2.remote.memory import Kept, Memory
    from eau2.remote.server import Whereabouts

CACHE_BYTES = 1 << 30


class NearFiles:
    """The chunk files of a node whose directory this process can read. Thread-safe."""

    def __init__(self, directory: str) -> None:
        self._files = ChunkFiles(Path(directory), durable=False)
        self._mappings = Mappings(self._files)

    @classmethod
    def of(cls, node: Whereabouts) -> NearFiles | None:
        """Return those of a node that is there, or None: it is on another machine, or out of reach."""
        try:
            status = os.stat(node.directory)
        except OSError:
            return None
        same = (status.st_dev, status.st_ino) == (node.device, node.inode) and node.boot == boot_id()
        return cls(node.directory) if same and os.access(node.directory, os.R_OK | os.X_OK) else None

    def map(
        self, chunk_ids: Sequence[str], key: str, marks: Callable[[list[str]], list[tuple[int, str] | None]]
    ) -> list[pa.Buffer]:
        """Return the bytes of chunks. `marks` is asked for those that are not mapped yet, as the node has them.
        FileNotFoundError, Corrupt, StoreUnusable."""
        found = {chunk_id: self._mappings.shared(chunk_id) for chunk_id in dict.fromkeys(chunk_ids)}
        missing = [chunk_id for chunk_id, mapping in found.items() if mapping is None]
        for chunk_id, row in zip(missing, marks(missing) if missing else (), strict=True):
            if row is None:
                raise NoSuchChunk(self._files.path(chunk_id))
            found[chunk_id], _ = self._mappings.open(chunk_id, *row, key)
        return [mapping.buffer() for chunk_id in chunk_ids if (mapping := found[chunk_id]) is not None]

    def verify(self, chunk_id: str, data: pa.Buffer, key: str, mark_of: Callable[[str], str]) -> None:
        self._mappings.verify(chunk_id, data, key, mark_of)


class ChunkCache:
    """Chunks that were brought here, the last used of them, `bytes_max` in all. Thread-safe."""

    def __init__(self, bytes_max: int = CACHE_BYTES, memory: Memory | None = None) -> None:
        self._bytes_max = bytes_max
        self._memory = memory
        self._lock = threading.Lock()  # guards everything below
        self._chunks: OrderedDict[str, Mapping | Kept] = OrderedDict()
        self._bringing: dict[str, threading.Lock] = {}  # held by who brings the chunk: the others wait for it
        self.bytes = 0
        self.brought_bytes = 0  # since it was made

    def get(self, chunk_id: str, bring: Callable[[], Iterable[pa.Buffer]], size: int = 0) -> pa.Buffer:
        """Return a chunk's bytes, which `bring` brings in pieces when they are not here: checked, and once for all who
        ask. size: that they have, or 0 where it is not known."""
        with self._lock:
            bringing = self._bringing.setdefault(chunk_id, threading.Lock())
        with bringing:
            with self._lock:
                found = self._chunks.get(chunk_id)
                if found is not None:
                    self._chunks.move_to_end(chunk_id)
            if found is None:
                found = self._kept(chunk_id, bring(), size)
            with self._lock:
                self._bringing.pop(chunk_id, None)
        return found.buffer()

    def has(self, chunk_id: str) -> bool:
        with self._lock:
            return chunk_id in self._chunks

    def _kept(self, chunk_id: str, pieces: Iterable[pa.Buffer], size: int) -> Mapping | Kept:
        arriving = Arriving(pieces)
        kept: Mapping | Kept | None = None
        if self._memory is not None and size:
            kept = self._memory.keep(arriving, size)
        if kept is None:
            kept = in_file(arriving, tempfile.gettempdir(), size)
        if arriving.id != chunk_id:
            raise Corrupt(f"chunk {chunk_id} was damaged on its way", hint="try again")
        with self._lock:
            self._chunks[chunk_id] = kept
            self.bytes += kept.size
            self.brought_bytes += kept.size
            while self.bytes > self._bytes_max and self._chunks:
                self.bytes -= self._chunks.popitem(last=False)[1].size
        return kept

    def clear(self) -> None:
        with self._lock:
            self._chunks.clear()
            self.bytes = 0


class FarChunk:
    """A chunk of a frame that is held: `bring` brings its bytes when it is touched. It is held as long as this is."""

    def __init__(
        self, chunk_id: str, cache: ChunkCache, bring: Callable[[], Iterable[pa.Buffer]], size: int = 0
    ) -> None:
        self.id = chunk_id
        self._cache = cache
        self._bring = bring
        self._size = size  # where it is known

    def buffer(self) -> pa.Buffer:
        return self._cache.get(self.id, self._bring, self._size)

    def is_here(self) -> bool:
        """Whether it was brought, and is still kept."""
        return self._cache.has(self.id)


class FarBuffers(Sequence[Any]):
    """The chunks of a frame, some of which are brought when they are touched: a sequence of buffers."""

    def __init__(self, pieces: Sequence[Any]) -> None:
        self.pieces = pieces  # buffers, and FarChunks

    def __len__(self) -> int:
        return len(self.pieces)

    def is_here(self, index: int) -> bool:
        """Whether nothing has to be brought for that chunk."""
        piece = self.pieces[index]
        return not isinstance(piece, FarChunk) or piece.is_here()

    @overload
    def __getitem__(self, index: int) -> pa.Buffer: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[pa.Buffer]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [_buffer(piece) for piece in self.pieces[index]]
        return _buffer(self.pieces[index])

    def __iter__(self) -> Iterator[pa.Buffer]:
        return map(_buffer, self.pieces)


def _buffer(piece: Any) -> pa.Buffer:
    return piece.buffer() if isinstance(piece, FarChunk) else piece

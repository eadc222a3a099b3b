"""A frame that the server holds for us: its chunks are brought when they are touched."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from eau2.errors import NodeUnavailable
from eau2.remote.chunks import FarBuffers, FarChunk
from eau2.served.connection import BYTES_A_SECOND_MIN, CALL_SECONDS
from eau2.served.wire import SessionGone
from eau2.store.chunks import NoSuchChunk
from eau2.values.chunk import same_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from eau2.remote.chunks import ChunkCache
    from eau2.served.connection import Connection
    from eau2.values.manifest import Manifest


class Lease:
    """That the server holds a frame, until nobody here has this any more. NoSuchChunk when it is another by now."""

    def __init__(self, connection: Connection, key: str, manifest: Manifest) -> None:
        self.connection, self.key = connection, key
        self._same = same_chunks(manifest.chunk_ids)
        self._sizes = manifest.chunk_sizes
        self._again = threading.Lock()  # guards the three below
        self._session, self._number = self._hold()
        self._release = connection.held(self, self._session, self._number)

    def number(self) -> tuple[str, int]:
        """Return the session, and the frame's number in it. It is held anew where the server has lost the session:
        NodeUnavailable when the key has another by then."""
        with self._again:
            if self._session != self.connection.session():
                try:
                    session, number = self._hold()
                except FileNotFoundError:
                    raise NodeUnavailable(
                        f"{self.connection.address} was started again, and {self.key!r} was replaced since",
                        hint="get the frame again",
                    ) from None
                self._release()
                self._session, self._number = session, number
                self._release = self.connection.held(self, session, number)
            return self._session, self._number

    def header(self) -> dict[str, object]:
        """Return what names it to the server."""
        session, number = self.number()
        return {"session": session, "held": number}

    def read(self, index: int) -> Iterator[pa.Buffer]:
        """Yield the bytes of a chunk in pieces. NodeUnavailable."""
        try:
            yield from self._pieces(index)
        except SessionGone:  # before the first piece
            yield from self._pieces(index)

    def _pieces(self, index: int) -> Iterator[pa.Buffer]:
        seconds = CALL_SECONDS + self._sizes[index] / BYTES_A_SECOND_MIN
        return self.connection.read({**self.header(), "chunk": index}, seconds=seconds)

    def _hold(self) -> tuple[str, int]:
        session, found = self.connection.in_session("hold", {"key": self.key, "same": self._same})
        if "held" not in found:
            raise NoSuchChunk(self.key)
        return session, found["held"]


class HeldBuffers(FarBuffers):
    """The chunks of a frame under a lease."""

    def __init__(self, lease: Lease, cache: ChunkCache, manifest: Manifest) -> None:
        self.lease = lease
        named = enumerate(zip(manifest.chunk_ids, manifest.chunk_sizes, strict=True))
        super().__init__([FarChunk(name, cache, partial(lease.read, at), size) for at, (name, size) in named])

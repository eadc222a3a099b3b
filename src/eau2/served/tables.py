"""Joins the floor of frames to a served store: rows are sent to the server, which cuts them into chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eau2.frame.frame import Frame
from eau2.frame.tables import FrameTables
from eau2.query.engine import Engine
from eau2.served.connection import LONG_SECONDS
from eau2.served.engine import ServedEngine
from eau2.served.held import HeldBuffers
from eau2.served.wire import SessionGone
from eau2.store.nodes import Staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa

    from eau2.query.source import Source
    from eau2.served.connection import Connection
    from eau2.store.nodes import Node

    Sent = tuple[bytes, tuple[Staged, ...]]


class ServedTables(FrameTables):
    """`FrameTables` of a served store. What the server has is neither brought nor sent again, to be stored."""

    def __init__(self, connection: Connection, memory_bytes: int | None) -> None:
        self._served = ServedEngine(Engine(memory_bytes), connection)
        super().__init__(self._served)
        self._connection = connection

    def stage(self, node: Node, key: str, value: object, schema: object, home: str = "") -> Sent:
        if isinstance(value, Frame) and value.source is None and schema is None:
            asked = self._served.asked_of(value)
            if asked is not None:
                return self._staged("stage_query", asked.header, key, home, asked.columns())
        return super().stage(node, key, value, schema, home)

    def stage_batches(
        self, node: Node, key: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], home: str = ""
    ) -> Sent:
        """As `FrameTables.stage_batches`: sends them."""
        node.generation()  # StoreClosed
        return b"", (Staged(self._connection.send(key, schema, batches, home), ""),)

    def _shared(self, node: Node, key: str, source: Source) -> Sent:
        buffers = source.mapped.buffers
        if isinstance(buffers, HeldBuffers) and buffers.lease.connection is self._connection:
            return self._staged("share", buffers.lease.header, key)
        return self.stage_batches(node, key, source.schema, source.batches())

    def _staged(
        self, verb: str, header: Callable[[], dict[str, object]], key: str, home: str = "", payload: bytes = b""
    ) -> Sent:
        """Have the server stage what it has. `header` is asked again where the server has lost the session."""

        def once() -> Sent:
            asked = {**header(), "key": key, "home": home}
            replies = self._connection.call(verb, asked, payload, seconds=LONG_SECONDS)
            return b"", (Staged(replies[0][0]["token"], ""),)

        try:
            return self._served.calls.run(once)
        except SessionGone:
            return self._served.calls.run(once)

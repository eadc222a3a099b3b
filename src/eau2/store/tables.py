"""The seam between a store and what is above it: frames, queries and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

    from eau2.frame.frame import Frame
    from eau2.ingest.report import LoadReport
    from eau2.query.queries import Queries
    from eau2.query.source import Source
    from eau2.store.nodes import Entry, Node, Staged
    from eau2.store.store import Store
    from eau2.values.arriving import Columns


class Tables(Protocol):
    """What the floor above does for a store: it knows what a frame means. Handed in by `eau2.open`."""

    @property
    def queries(self) -> Queries:
        """The queries that run for this process, and the last that have."""

    def stage(
        self, node: Node, key: str, value: object, schema: pa.Schema | None, home: str = ""
    ) -> tuple[bytes, tuple[Staged, ...]]:
        """Write `value`, a table of any kind for `key`, as chunks on `node`, from its member `home` on; return its
        manifest and the chunks, not yet seen."""

    def stage_batches(
        self, node: Node, key: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | Columns], home: str = ""
    ) -> tuple[bytes, tuple[Staged, ...]]:
        """As `stage`, of batches that all have `schema`. Columns only where `node.here` is one."""

    def frame(self, node: Node, key: str, entry: Entry) -> Frame:
        """Return the frame whose manifest is `entry`. FileNotFoundError when a chunk is gone."""

    def sql(self, store: Store, query: str, parameters: object = None) -> Frame: ...

    def asked(self, query: str, sources: Mapping[str, Source]) -> Frame:
        """Return the lazy answer of an SQL query, in which names mean what `sources` has. As `Store.sql`."""

    def received(self, plan: bytes, sources: Mapping[str, Source]) -> Frame:
        """Return the lazy answer of a serialized Substrait plan, likewise. QueryError."""

    def load(self, store: Store, key: str, path: str | os.PathLike[str], **options: Any) -> LoadReport: ...

    def stage_file(self, node: Node, key: str, path: str | os.PathLike[str]) -> tuple[bytes, tuple[Staged, ...]]: ...

    def write_file(self, key: str, value: bytes | Frame, path: str | os.PathLike[str]) -> int: ...

    def drop_stale(self, node: Node) -> None:
        """Let go of what has been replaced or deleted, so that its disk space is free."""

    def close(self) -> None: ...

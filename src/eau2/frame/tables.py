"""Joins the floor of frames to a store: staging, opening, querying and loading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eau2.frame.engine import Engine
from eau2.frame.frame import Frame
from eau2.frame.intake import batches_of
from eau2.frame.source import Source
from eau2.values.manifest import Manifest
from eau2.values.schema import arrow_schema

if TYPE_CHECKING:


    from eau2.store.nodes import Entry, Node, Staged


class FrameTables:
    """`eau2.store.store.Tables` for one store: holds its query engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def stage(self, node: Node, value: object, schema: object) -> tuple[bytes, tuple[Staged, ...]]:
        if isinstance(value, Frame) and value.source is not None and schema is None:
            return _share(node, value.source)
        wanted = None if schema is None else arrow_schema(schema)
        found, batches = batches_of(value, wanted)
        return stage_batches(node, found, batches)

    def frame(self, node: Node, key: str, entry: Entry) -> Frame:
        return Frame.stored(self._source(node, key, entry), self._engine)

    def _source(self, node: Node, key: str, entry: Entry) -> Source:
        manifest = Manifest.decode(entry.payload)
        return Source(key, entry.version, manifest, node.map(manifest.chunk_ids, key=key), node)

"""Joins the floor of frames to a store: staging, opening, querying and loading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eau2.errors import KeyMissing, WrongKind
from eau2.frame.frame import Frame, read_batches
from eau2.frame.opened import OpenSources
from eau2.ingest.files import FILE_SCHEMA, is_file, not_a_file, read_pieces, write_pieces
from eau2.ingest.intake import batches_of, cast_batches
from eau2.ingest.writer import FrameWriter
from eau2.query.engine_errors import check_query
from eau2.query.placeholders import bound
from eau2.store.nodes import Kind, Write
from eau2.values.schema import arrow_schema

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

    from eau2.ingest.report import LoadReport
    from eau2.query.answering import Answering
    from eau2.query.queries import Queries
    from eau2.query.source import Source
    from eau2.store.nodes import Entry, Node, Staged
    from eau2.store.store import Store
    from eau2.values.arriving import Columns

StagedFrame = tuple[bytes, tuple["Staged", ...]]  # the encoded manifest, and the chunks that it names


class FrameTables:
    """`eau2.store.tables.Tables` for one store: holds its query engine."""

    def __init__(self, engine: Answering) -> None:
        self._engine = engine
        self._opened = OpenSources()

    @property
    def queries(self) -> Queries:
        return self._engine.queries

    def stage(self, node: Node, key: str, value: object, schema: object, home: str = "") -> StagedFrame:
        self._opened.drop_stale(node)
        if isinstance(value, Frame) and value.source is not None and schema is None and not home:
            return self._shared(node, key, value.source)
        wanted = None if schema is None else arrow_schema(schema)
        if isinstance(value, Frame):  # not as a foreign table: a C stream would make text of the errors of its query
            found, batches = cast_batches(*read_batches(value), wanted)
        else:
            found, batches = batches_of(value, wanted)
        return self.stage_batches(node, key, found, batches, home)

    def stage_file(self, node: Node, key: str, path: str | os.PathLike[str]) -> StagedFrame:
        return self.stage_batches(node, key, FILE_SCHEMA, read_pieces(path))

    def write_file(self, key: str, value: bytes | Frame, path: str | os.PathLike[str]) -> int:
        if isinstance(value, bytes):
            return write_pieces(key, [value], path)
        if not is_file(value.schema):
            raise not_a_file(key)
        return write_pieces(key, (cell.as_buffer() for batch in value.batches() for cell in batch.column(0)), path)

    def frame(self, node: Node, key: str, entry: Entry) -> Frame:
        return Frame.stored(self._opened.open(node, key, entry), self._engine)

    def drop_stale(self, node: Node) -> None:
        self._opened.drop_stale(node)

    def asked(self, query: str, sources: Mapping[str, Source]) -> Frame:
        check_query(query)
        return Frame.derived(self._engine.sql(query, sources.get), self._engine)

    def received(self, plan: bytes, sources: Mapping[str, Source]) -> Frame:
        return Frame.derived(self._engine.received(plan, sources), self._engine)

    def sql(self, store: Store, query: str, parameters: object = None) -> Frame:
        asked = set()

        def resolve(name: str) -> Source | None:
            asked.add(name)
            try:
                return store.frame(name).source
            except (KeyMissing, WrongKind):
                return None

        check_query(query)
        text, values = bound(query, parameters)
        recipe = None if values else self._opened.plan(text)
        if recipe is None or any(resolve(name) is not source for name, source in recipe.reads):
            asked.clear()
            recipe = self._engine.sql(text, resolve, store.node.frames, values)
            # Of a name that was asked for and is not read, it cannot be seen later whether it means another frame.
            if not values and asked == {name for name, _ in recipe.reads}:
                self._opened.keep_plan(text, recipe)
        return Frame.derived(recipe, self._engine)

    def load(self, store: Store, key: str, path: str | os.PathLike[str], **options: Any) -> LoadReport:
        from eau2.ingest.reading import read  # here: Arrow's readers of CSV, JSON and Parquet take 30 ms to import

        node = store.node
        staged: list[Staged] = []

        def stage(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> bytes:
            payload, chunks = self.stage_batches(node, key, schema, batches)
            staged.extend(chunks)
            return payload

        try:
            payload, report = read(path, **options).run(stage, key=key)
        except BaseException:  # the rejects could not be put in their place, after all was staged
            node.discard(staged)
            raise
        for outcome in node.write([Write(key, Kind.FRAME, payload, tuple(staged))]):
            if isinstance(outcome, Exception):
                raise outcome
        return report

    def close(self) -> None:
        self._opened.clear()
        self._engine.close()

    # -- parts of it, which tables of another kind do otherwise -------------------------------------------------------

    def stage_batches(
        self, node: Node, key: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | Columns], home: str = ""
    ) -> StagedFrame:
        """Write `batches` as the chunks of a frame for `key`, not yet seen. Columns only on a node of this process."""
        with FrameWriter(node, schema, key=key, home=home) as writer:
            for batch in batches:
                writer.write(batch)
            return writer.finish()

    def _shared(self, node: Node, key: str, source: Source) -> StagedFrame:
        """A stored frame put under another key: the same chunks, nothing is encoded and next to nothing written."""
        del key
        source.verify()
        homes = source.manifest.chunk_homes
        chunks = {
            chunk_id: (data, assigned)
            for chunk_id, data, assigned in zip(source.manifest.chunk_ids, source.buffers, homes, strict=True)
        }
        staged: list[Staged] = []
        try:
            staged.extend(node.stage_again(chunk_id, *found) for chunk_id, found in chunks.items())
        except BaseException:
            node.discard(staged)
            raise
        return source.manifest.encode(), tuple(staged)

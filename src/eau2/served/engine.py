"""The query engine of a served store: it plans here, and the server runs the query over the frames that it holds."""

from __future__ import annotations

import base64
import weakref
from typing import TYPE_CHECKING

from eau2.distributed.away import AwayEngine, origin_of
from eau2.distributed.fragment import CannotCut
from eau2.query.waiting import Calls
from eau2.served.connection import LONG_SECONDS
from eau2.served.held import HeldBuffers
from eau2.served.wire import SessionGone, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from eau2.frame.frame import Frame
    from eau2.query.engine import Engine
    from eau2.query.placeholders import Values
    from eau2.query.recipe import Recipe
    from eau2.query.source import Source
    from eau2.served.connection import Connection, Stream
    from eau2.served.held import Lease
    from eau2.served.wire import Header


class ServedEngine(AwayEngine):
    """Has the server behind `connection` run recipes. Thread-safe.

    A query in SQL travels as it is; what was made of frames as a Substrait plan. What has no such plan, and what reads
    rows that only this process has, runs here by `local`, over chunks that are brought.
    """

    def __init__(self, local: Engine, connection: Connection) -> None:
        super().__init__(local)
        self._connection = connection
        self.calls = Calls()
        self._queries: weakref.WeakKeyDictionary[Recipe, str] = weakref.WeakKeyDictionary()

    def close(self) -> None:
        """As `Engine.close`."""
        self.calls.end()
        super().close()

    # -- recipes ------------------------------------------------------------------------------------------------------

    def sql(
        self,
        query: str,
        resolve: Callable[[str], Source | None],
        names: Callable[[], Sequence[str]] | None = None,
        values: Values | None = None,
    ) -> Recipe:
        """As `Engine.sql`."""
        recipe = super().sql(query, resolve, names, values)
        if not values:  # else its plan has them
            self._queries[recipe] = query
        return recipe

    # -- answers ------------------------------------------------------------------------------------------------------

    def stream(self, recipe: Recipe) -> Iterator[pa.RecordBatch]:
        """As `Engine.stream`: run at the server, and brought as it comes."""
        asked = self.asked(recipe)
        yield from self._local.stream(self._brought(recipe)[0]) if asked is None else self._answer(asked, recipe)

    def count(self, recipe: Recipe) -> int:
        """Run `recipe` and return the number of its rows: only that is brought."""
        asked = self.asked(recipe)
        if asked is None:
            return self._local.count(self._brought(recipe)[0])
        (batch,) = self._pieces(asked, count=True)
        return int(batch.column(0)[0].as_py())

    def first(self, recipe: Recipe, rows: int) -> Iterator[pa.RecordBatch]:
        """As `Engine.first`. No row more is brought."""
        asked = self.asked(recipe)
        if asked is None:
            yield from self._local.first(self._brought(recipe)[0], rows)
        else:
            yield from self._answer(asked, recipe, limit=rows)

    def moves(self, recipe: Recipe) -> str:
        """Where it runs."""
        if self.asked(recipe) is None:
            return "here, over chunks that are brought"
        return f"at the server {self._connection.address}: only the answer is brought"

    def asked_of(self, frame: Frame) -> Asked | None:
        """Return what the server is asked for a derived frame of this engine; None where it must run here."""
        return self.asked(frame._recipe()) if frame._engine is self else None

    def asked(self, recipe: Recipe) -> Asked | None:
        """Return what the server is asked to run it; None where it must run here."""
        sources: dict[str, Source] = {}
        leases: dict[str, Lease] = {}
        for name, absent in recipe.reads:
            source = origin_of(absent)
            buffers = source.mapped.buffers
            if not isinstance(buffers, HeldBuffers) or buffers.lease.connection is not self._connection:
                return None
            known = sources.setdefault(name, source)
            if known.manifest.chunk_ids != source.manifest.chunk_ids or not known.schema.equals(source.schema):
                return None  # two versions under one name
            leases[name] = buffers.lease
        query = self._queries.get(recipe)
        try:
            said: Header = {"sql": query} if query is not None else {"plan": self._plan(recipe)}
        except CannotCut:
            return None
        return Asked(said, leases, self._connection, self.schema(recipe))

    # -- private ------------------------------------------------------------------------------------------------------

    def _plan(self, recipe: Recipe) -> str:
        from eau2.distributed.substrait import Dialect, empty_batch  # here: the engine takes 0.3 s to import

        if " null_aware" in self._local.plan_text(recipe):
            raise CannotCut("Substrait forgets what NOT IN means")
        dialect = Dialect()
        rel = dialect.relation(recipe.planned)
        for name, source in dict(recipe.reads).items():
            dialect.session.register_record_batches(name, [[empty_batch(source.schema)]])
        dialect.schema(rel)  # or it cannot be read
        return base64.b64encode(dialect.encode(rel)).decode()

    def _answer(self, asked: Asked, recipe: Recipe, **more: object) -> Iterator[pa.RecordBatch]:
        from eau2.distributed.query import conformed

        schema = self.schema(recipe)
        for batch in self._pieces(asked, **more):
            yield conformed(batch, schema)

    def _pieces(self, asked: Asked, **more: object) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the answer. Waiting for each part ends with Ctrl-C, and with the store."""
        with asked.stream(self.calls, more) as stream:
            while (data := self.calls.run(stream.next)) is not None:
                yield from rows_of(data)


class Asked:
    """A query for the server: what is said of it, the frames that it reads, by their names in it, and its columns."""

    def __init__(self, said: Header, leases: dict[str, Lease], connection: Connection, schema: pa.Schema) -> None:
        self._said, self._leases, self._connection, self._schema = said, leases, connection, schema

    def columns(self) -> bytes:
        """Return the schema that the server is to give the answer, which a plan has not; b"" where it knows it."""
        return self._schema.serialize().to_pybytes() if "plan" in self._said else b""

    def header(self) -> Header:
        """Return the session, and the query in it. NodeUnavailable when a frame was replaced after the server was
        started again."""
        for _ in range(3):
            session = self._connection.session()
            found = {name: lease.number() for name, lease in self._leases.items()}
            if all(of == session for of, _ in found.values()):
                tables = {name: number for name, (_, number) in found.items()}
                return {"session": session, "query": {**self._said, "tables": tables}}
        raise SessionGone("the server loses its sessions", hint="see its log")

    def stream(self, calls: Calls, more: Header) -> Stream:
        """Return the answer, begun: what the query fails with at once is raised."""
        try:
            return self._begun(calls, more)
        except SessionGone:  # once: what is held is held anew
            return self._begun(calls, more)

    def _begun(self, calls: Calls, more: Header) -> Stream:
        asked = calls.run(self.header)
        asked["query"].update(more)
        stream = calls.run(lambda: self._connection.stream(asked, seconds=LONG_SECONDS))
        try:
            calls.run(stream.begin)
        except BaseException:
            stream.reader.cancel()
            raise
        return stream

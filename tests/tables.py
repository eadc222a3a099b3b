"""Frames of several small chunks, over an engine and no store: what a query may skip shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from eau2.frame.frame import Frame
from eau2.query.engine import Engine
from eau2.query.source import Source, unnamed

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa


class Tables:
    """Frames by name, and queries over them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sources: dict[str, Source] = {}

    def hold(self, key: str, table: pa.Table, *, rows_per_chunk: int = 1_000_000) -> Frame:
        """The frame of `table`, cut into chunks of `rows_per_chunk`, under `key`."""
        parts = [table.slice(start, rows_per_chunk) for start in range(0, table.num_rows, rows_per_chunk)]
        version = self.sources[key].version + 1 if key in self.sources else 1
        made = unnamed(table.schema, parts)
        self.sources[key] = Source(key, version, made.manifest, made.mapped, None)
        return Frame.stored(self.sources[key], self.engine)

    def sql(self, query: str) -> Frame:
        return Frame.derived(self.engine.sql(query, self.sources.get, lambda: sorted(self.sources)), self.engine)


class MakeTables(Protocol):
    def __call__(self, memory_bytes: int | None = None, *, threads: int | None = None) -> Tables: ...


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture
def tables(shared_engine: Engine) -> Tables:
    """Frames on an engine that all tests share: making one takes a while."""
    return Tables(shared_engine)


@pytest.fixture
def make_tables() -> Iterator[MakeTables]:
    """Makes frames on an engine of their own, closed after the test. What a machine has cores for, `threads` says."""
    engines = []

    def make(memory_bytes: int | None = None, *, threads: int | None = None) -> Tables:
        engines.append(Engine(memory_bytes))
        engines[-1].threads = threads or engines[-1].threads
        return Tables(engines[-1])

    yield make
    for engine in engines:
        engine.close()

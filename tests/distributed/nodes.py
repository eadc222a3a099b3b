"""Several nodes in one process, each with sessions and memory of its own; what is sent between them is serialized."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from eau2.distributed.engine import DistributedEngine
from eau2.distributed.fragment import ChunkGone, NodeLost, Piece
from eau2.distributed.runner import Runner
from eau2.query.sessions import Sessions
from eau2.query.source import Source, unnamed
from eau2.query.spill import SpillFolder
from eau2.query.waiting import Calls
from eau2.store.nodes import MappedFrame

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    import pyarrow as pa

    from eau2.distributed.fragment import Fragment
    from eau2.query.engine import Engine
    from eau2.query.recipe import Recipe

WAIT_SECONDS = 120
THREADS = 2


class Place:
    """One node: chunks, the pieces it keeps, and sessions."""

    def __init__(self, name: str, nodes: Nodes, memory_bytes: int) -> None:
        self.name = name
        self.chunks: dict[tuple[str, str], pa.Table] = {}
        self.pieces: dict[int, pa.Table] = {}
        self.spill = SpillFolder()
        self.runner = Runner(
            Sessions(memory_bytes, self.spill.path(), THREADS), memory_bytes=memory_bytes, threads=THREADS, shelf=self
        )
        self._nodes = nodes

    def chunk(self, key: str, chunk_id: str) -> pa.Table:
        return self.chunks[key, chunk_id]

    def piece(self, piece: Piece) -> pa.Table:
        return self._nodes.place(piece.node).pieces[piece.handle]

    def keep(self, table: pa.Table, partition: int, order: int) -> Piece:
        handle = next(self._nodes.handles)
        self.pieces[handle] = table
        return Piece(handle, self.name, partition, order, table.num_rows, table.nbytes)

    def drop(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self.pieces.pop(piece.handle, None)


class Nodes:
    """A `Fleet` in one process."""

    def __init__(self, count: int, memory_bytes: int = 256 << 20) -> None:
        self.handles = itertools.count()
        self.memory_bytes = memory_bytes
        self.places = {name: Place(name, self, memory_bytes) for name in (f"node-{index}" for index in range(count))}
        self.nodes = tuple(self.places)
        self.fragments: list[Fragment] = []  # all that were run
        self.begun = threading.Event()
        self.threads = THREADS
        self._pools = {name: ThreadPoolExecutor(THREADS, name) for name in self.nodes}

    def place(self, name: str) -> Place:
        if name not in self.places:
            raise NodeLost(name)
        return self.places[name]

    @property
    def kept(self) -> int:
        return sum(len(place.pieces) for place in self.places.values())

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown()
        for place in self.places.values():
            place.spill.remove()

    @contextlib.contextmanager
    def begin(self, without: Collection[str] = ()) -> Iterator[Run]:
        yield Run(self, tuple(name for name in self.nodes if name not in without))

    def away_bytes(self, source: Source, chunks: Iterable[int]) -> int:
        return sum(source.manifest.chunk_sizes[chunk] for chunk in chunks)

    def run(self, fragments: Sequence[Fragment]) -> list[Piece]:
        self.fragments += fragments
        calls = [Calls() for _ in fragments]
        futures: list[Future[list[Piece]]] = []
        try:
            for fragment, each in zip(fragments, calls, strict=True):
                sent = pickle.loads(pickle.dumps(fragment))
                futures.append(self._pools[sent.node].submit(self.place(sent.node).runner.run, sent, each))
            self.begun.set()
            done, _ = wait(futures, WAIT_SECONDS, FIRST_EXCEPTION)
            for future in done:
                future.result()
            assert len(done) == len(futures), "a fragment hangs"
        except BaseException:
            for each in calls:
                each.end()
            wait(futures, WAIT_SECONDS)
            for future in futures:
                if future.exception() is None:
                    self.free(future.result())
            raise
        return [piece for future in futures for piece in future.result()]

    def read(self, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
        for piece in pieces:
            yield self.place(piece.node).pieces[piece.handle]

    def free(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self.place(piece.node).drop([piece])


class Run:
    """`Workers` for one query."""

    def __init__(self, all_nodes: Nodes, nodes: tuple[str, ...]) -> None:
        self._all = all_nodes
        self.nodes = nodes
        self.memory_bytes, self.threads = all_nodes.memory_bytes, all_nodes.threads
        self.run, self.read, self.free = all_nodes.run, all_nodes.read, all_nodes.free

    def place(self, source: Source, chunk: int) -> str:
        if source.places:
            if source.places[chunk] not in self.nodes:
                raise ChunkGone(f"{source.key!r}: chunk {chunk} was on {source.places[chunk]}")
            return source.places[chunk]
        name = self.nodes[chunk % len(self.nodes)]
        self._all.places[name].chunks[source.key, source.manifest.chunk_ids[chunk]] = source.chunk(chunk)
        return name


class Cluster:
    """Frames by name on several nodes, and queries over them; `engine` alone has the same frames whole."""

    def __init__(self, engine: Engine, count: int, memory_bytes: int = 256 << 20, **options: int) -> None:
        self.engine = engine
        self.nodes = Nodes(count, memory_bytes)
        self.distributed = DistributedEngine(engine, self.nodes, **{"here_bytes_max": 0, **options})
        self.sources: dict[str, Source] = {}
        self.whole: dict[str, Source] = {}

    def hold(self, key: str, table: pa.Table, *, rows_per_chunk: int) -> None:
        """Keep `table` under `key`, its chunks going round the nodes."""
        parts = [table.slice(start, rows_per_chunk) for start in range(0, table.num_rows, rows_per_chunk)]
        made = unnamed(table.schema, parts)
        names = self.nodes.nodes
        places = tuple(names[index % len(names)] for index in range(len(parts)))
        for index, (place, chunk_id) in enumerate(zip(places, made.manifest.chunk_ids, strict=True)):
            self.nodes.places[place].chunks[key, chunk_id] = made.chunk(index)
        version = self.sources[key].version + 1 if key in self.sources else 1
        self.sources[key] = Source(key, version, made.manifest, MappedFrame(made.buffers, places, names), None)
        self.whole[key] = Source(key, version, made.manifest, made.mapped, None)

    def recipe(self, query: str) -> Recipe:
        return self.distributed.sql(query, self.sources.get)

    def sql(self, query: str) -> pa.Table:
        """The answer of the nodes; nothing of it is kept there."""
        try:
            return self.distributed.collect(self.recipe(query))
        finally:
            assert self.nodes.kept == 0

    def alone(self, query: str) -> pa.Table:
        """The answer of the engine alone."""
        return self.engine.collect(self.engine.sql(query, self.whole.get))

    def explain(self, query: str, *, run: bool = True):
        return self.distributed.explain(self.recipe(query), run=run)

    def close(self) -> None:
        self.nodes.close()

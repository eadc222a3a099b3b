"""The nodes of a cluster as a driver has them for queries. What a node does for them: `queries.py`.

A query has a job on each node that it sends something to. However it ends, the jobs end, and with them all that nodes
do and keep for it. When the driver ends they do so too, once it is not heard of any more.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from eau2.cluster.peer import Unreachable
from eau2.distributed.engine import DistributedEngine
from eau2.distributed.fragment import ChunkGone, NodeLost
from eau2.errors import NodeUnavailable
from eau2.frame.tables import FrameTables
from eau2.query.engine import Engine
from eau2.query.waiting import waiting
from eau2.remote.chunks import FarBuffers
from eau2.remote.pieces import read_piece
from eau2.remote.queries import Given, Ordered
from eau2.store.nodes import ReadCounts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from eau2.distributed.fragment import Fragment, Piece
    from eau2.errors import Eau2Error
    from eau2.query.source import Source
    from eau2.query.spill import SpillFolder
    from eau2.remote.driver import RemoteCluster, RemoteNodes
    from eau2.remote.place import RemotePlace
    from eau2.remote.queries import Ran, Terms
    from eau2.store.jobs import Job, Jobs

_LOOK_SECONDS = 60.0  # a bound on one wait; the loop around it waits on


def tables_of(nodes: RemoteNodes, memory_bytes: int | None = None) -> FrameTables:
    """Return the tables of a store on `nodes`: queries run there. memory_bytes: for what of them runs here."""
    engine = Engine(memory_bytes)
    return FrameTables(DistributedEngine(engine, RemoteFleet(nodes.whole(), engine.spill)))


class RemoteFleet:
    """`Fleet` of a cluster. What is brought from other machines is written to `spill`."""

    def __init__(self, cluster: RemoteCluster, spill: SpillFolder) -> None:
        self._cluster = cluster
        self._spill = spill

    def begin(self, without: Collection[str] = ()) -> RemoteWorkers:
        return RemoteWorkers(self._cluster, self._spill, without)

    def away_bytes(self, source: Source, chunks: Iterable[int]) -> int:
        buffers = source.mapped.buffers
        if not isinstance(buffers, FarBuffers):
            return 0
        return sum(source.manifest.chunk_sizes[chunk] for chunk in chunks if not buffers.is_here(chunk))


class RemoteWorkers:
    """`Workers` for one query: a context, all is over at its end. Used by one thread."""

    def __init__(self, cluster: RemoteCluster, spill: SpillFolder, without: Collection[str]) -> None:
        self._cluster, self._spill = cluster, spill
        self.nodes = tuple(name for name in cluster.names() if name not in without)
        if not self.nodes:
            raise NodeUnavailable("no node is live that could run a query", hint="start one")
        terms = cluster.each([partial(_terms, cluster.at(name)) for name in self.nodes])
        self.memory_bytes = min(each.memory_bytes for each in terms)
        self.threads = min(each.threads for each in terms)
        self._order = _Order(cluster.jobs)
        self._freed: dict[str, list[Piece]] = defaultdict(list)  # that the node has not heard of
        self._places: dict[Source, tuple[str, ...]] = {}
        self._given: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._order.end()

    # -- where chunks are read ----------------------------------------------------------------------------------------

    def place(self, source: Source, chunk: int) -> str:
        """As `Workers.place`: the node from which it is mapped, if that can be used, else another of its homes."""
        if not source.places:
            return self._give(source, chunk)
        if source not in self._places:
            self._places[source] = self._spread(source)
        place = self._places[source][chunk]
        if not place:
            chunk_id, homes = source.manifest.chunk_ids[chunk], " and ".join(source.manifest.chunk_homes[chunk])
            raise ChunkGone(f"{source.key!r}: chunk {chunk_id} is on {homes}, which cannot be asked")
        return place

    def _spread(self, source: Source) -> tuple[str, ...]:
        manifest, found = source.manifest, list(source.places)
        load = Counter(dict.fromkeys(self.nodes, 0))
        load.update(place for place in found if place in load)
        for chunk, place in enumerate(found):
            if place not in load:
                assigned = manifest.chunk_homes[chunk]
                others = self._cluster.view.chunk_homes(manifest.chunk_ids[chunk], assigned)
                there = [name for name in assigned if name in load] or [name for name in others if name in load]
                found[chunk] = min(there, key=lambda name: load[name], default="")
                load[found[chunk]] += 1
        return tuple(found)

    def _give(self, source: Source, chunk: int) -> str:
        """Have a node know a chunk of rows that are here; return which."""
        chunk_id = source.manifest.chunk_ids[chunk]
        known = self._order.name, chunk_id
        if known not in self._given:
            name = self.nodes[chunk % len(self.nodes)]
            self._order.tell(name, Given(chunk_id, source.buffers[chunk].to_pybytes()))
            self._given[known] = name
        return self._given[known]

    # -- fragments and pieces -----------------------------------------------------------------------------------------

    def run(self, fragments: Sequence[Fragment]) -> list[Piece]:
        """As `Workers.run`."""
        ordered: dict[str, list[tuple[int, Fragment]]] = defaultdict(list)
        for number, fragment in enumerate(fragments):
            ordered[fragment.node].append((number, fragment))
        try:
            return self._order.run(
                self._cluster,
                {name: Ordered(tuple(theirs), tuple(self._freed.pop(name, ()))) for name, theirs in ordered.items()},
            )
        except BaseException:
            self._order.end()
            self._order = _Order(self._cluster.jobs)
            self._freed.clear()
            raise

    def read(self, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
        """As `Workers.read`."""
        transport, folder = self._cluster.transport, self._spill.path()
        for piece in pieces:
            table = read_piece(piece, transport, folder)
            counts = ReadCounts(rows_moved=piece.rows, bytes_moved=piece.bytes)
            self._cluster.at(piece.node).count_read(counts)
            yield table

    def free(self, pieces: Sequence[Piece]) -> None:
        """As `Workers.free`. Nodes hear of it when they get more to do, or at the end."""
        for name in self.nodes:
            self._freed[name] += pieces


def _terms(node: RemotePlace) -> Terms:
    try:
        return node.terms()
    except Unreachable:
        raise NodeLost(node.name) from None


class _Order:
    """What is under way on the nodes for a query: a job on each, and what these have said. Thread-safe."""

    def __init__(self, jobs: Jobs) -> None:
        self.name = uuid.uuid4().hex
        self._jobs = jobs
        self._changed = threading.Condition()  # guards everything below
        self._begun: dict[str, Job] = {}
        self._ran: dict[int, Ran] = {}
        self._error: Exception | None = None
        self._ended = False

    def run(self, cluster: RemoteCluster, ordered: Mapping[str, Ordered]) -> list[Piece]:
        """Have nodes do what is ordered; return the pieces that the fragments made, in their order."""
        cluster.each([partial(self.tell, name, thing) for name, thing in ordered.items()])
        numbers = sorted(number for thing in ordered.values() for number, _ in thing.fragments)
        with waiting(self.lost), self._changed:
            while self._error is None and not self._ran.keys() >= set(numbers):
                self._changed.wait(_LOOK_SECONDS)
            if self._error is not None:
                raise self._error
            return [piece for number in numbers for piece in self._ran.pop(number).made]

    def tell(self, node: str, thing: Given | Ordered) -> None:
        """Tell a node, on which a job is begun if need be. NodeLost."""
        try:
            self._job(node).tell(thing)
        except NodeUnavailable as error:
            raise NodeLost(node, error.message) from error

    def _job(self, node: str) -> Job:
        with self._changed:
            found = self._begun.get(node)
        if found is None:
            found = self._jobs.begin(node, "query", self.name, _Ear(self, node))
            with self._changed:
                if not self._ended:
                    self._begun[node] = found
                    return found
            found.end()
        return found

    def end(self) -> None:
        """End all jobs, without waiting for that. Idempotent."""
        with self._changed:
            self._ended = True
            jobs = list(self._begun.values())
        for job in jobs:
            job.end()

    def heard(self, ran: Ran) -> None:
        with self._changed:
            self._ran[ran.number] = ran
            self._error = self._error or ran.error
            self._changed.notify_all()

    def lost(self, error: Exception) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class _Ear:
    """Hears what the job on one node says."""

    order: _Order
    node: str

    def hear(self, told: Ran) -> None:
        self.order.heard(told)

    def lost(self, error: Eau2Error) -> None:
        self.order.lost(NodeLost(self.node, error.message) if isinstance(error, NodeUnavailable) else error)

    def room(self) -> int:
        return 1000  # each is small

"""Where a frame is read: the tasks of a chunk run on a node that has it, and what has to move for that is counted.

In one process the nodes share its threads and worker processes: a task "runs on" the node whose file it reads. Where
nodes are processes of their own, each has an `Executor` of its own; nothing else here is different.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from eau2.errors import StoreClosed
from eau2.query.shipping import Rows
from eau2.store.nodes import ReadCounts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from eau2.errors import Eau2Error
    from eau2.query.source import Source


class Executor(Protocol):
    """What runs the tasks of a node."""

    ahead: int  # how many may be under way, so that it is never idle

    def submit(self, part: Rows) -> Future[Any]: ...


class NotRun(Exception):
    """What a task's future comes to when no node could run it. `reason` is what the caller gets."""

    def __init__(self, reason: Eau2Error) -> None:
        super().__init__(reason)
        self.reason = reason


class WorkerEnded(Exception):
    """What a task's future comes to when the worker process ended that ran it, and no other."""


class Share(NamedTuple):
    """What one node reads of a frame."""

    node: str
    chunks: int
    rows: int
    bytes: int


class Placed:
    """A source, and for each of its chunks the node that reads it. Made for one run."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._nodes = _readers(source)
        self._origins = source.places
        self._moved: dict[int, str] = {}

    def node(self, chunk: int) -> str:
        """Return the node that reads `chunk`; "" where it is on none."""
        if chunk in self._moved:
            return self._moved[chunk]
        if self._nodes:
            return self._nodes[chunk]
        return str(getattr(self.source.node, "name", ""))

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes that read any chunk."""
        return tuple(dict.fromkeys(self.node(chunk) for chunk in range(len(self.source.manifest.chunk_ids))))

    def move(self, chunk: int, node: str) -> None:
        """Have `node` read `chunk`."""
        self._moved[chunk] = node

    def elsewhere(self) -> frozenset[int]:
        """Return the chunks that are read on another node than they are mapped from: that one is dead."""
        if self._nodes == self._origins:
            return frozenset()
        return frozenset(chunk for chunk, node in enumerate(self._nodes) if node != self._origins[chunk])

    def shares(self, chunks: Iterable[int] | None = None) -> list[Share]:
        """Return what each node reads of `chunks` (all by default), in the order of their first chunk."""
        manifest = self.source.manifest
        if not self._nodes and chunks is None and manifest.chunk_rows:
            return [Share(self.node(0), len(manifest.chunk_rows), manifest.rows, manifest.size)]
        found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for chunk in range(len(manifest.chunk_rows)) if chunks is None else chunks:
            share = found[self.node(chunk)]
            for index, more in enumerate((1, manifest.chunk_rows[chunk], manifest.chunk_sizes[chunk])):
                share[index] += more
        return [Share(node, *share) for node, share in found.items()]

    def count_query(self, chunks: Iterable[int] | None) -> None:
        """Count that a query reads `chunks`. The engine is in this process, as the nodes are: nothing moves."""
        if self.source.node is not None:
            for node, count, rows, size in self.shares(chunks):
                counts = ReadCounts(chunks_read=count, rows_read=rows, bytes_read=size)
                self.source.node.at(node).count_read(counts)

    def count_task(self, part: Rows) -> None:
        """Count a task that is done, where the nodes do not count for themselves."""
        if self.source.node is not None and self.source.node.jobs is None:
            origin = self._origins[part.chunk] if self._origins else ""
            _count(self.source, part, self.node(part.chunk), origin, 1)


def count_local(source: Source, chunk: int, node: str) -> None:
    """Count that a program's instance on `node` reads a chunk of `source`."""
    if source.node is not None:
        places = source.places
        _count(source, Rows(chunk, 0, source.manifest.chunk_rows[chunk]), node, places[chunk] if places else "", 0)


def _count(source: Source, part: Rows, node: str, origin: str, tasks: int) -> None:
    """Count what `node` read; it has moved if `origin`, the node whose file is mapped, is another."""
    assert source.node is not None
    counts = counted(part, source.manifest.chunk_sizes[part.chunk], source.manifest.chunk_rows[part.chunk], tasks)
    if origin not in ("", node):
        counts = counts._replace(rows_moved=counts.rows_read, bytes_moved=counts.bytes_read)
    source.node.at(node).count_read(counts)


def counted(part: Rows, chunk_bytes: int, chunk_rows: int, tasks: int) -> ReadCounts:
    """Return what is counted for reading a part of a chunk of that size: the parts of a chunk add up to it."""
    rows = max(1, chunk_rows)
    read = chunk_bytes * (part.start + part.rows) // rows - chunk_bytes * part.start // rows
    return ReadCounts(tasks, int(part.start == 0), part.rows, read)


def _readers(source: Source) -> tuple[str, ...]:
    """Return the node that reads each chunk: the one from which it is mapped, if that is live; () for one node.

    When nodes have died or returned since, the chunks are mapped again, from those that are live now. What they do not
    have any more is still mapped from a node that is dead: others read it, and it counts as moved to them.
    """
    if source.node is None or not source.places:
        return ()
    try:
        live = source.node.live()
    except StoreClosed:  # a held frame is readable then too
        return source.places
    if live != source.mapped.live:
        source.renew()
    places = source.places
    if not live or set(places) <= set(live):
        return places
    load = Counter(dict.fromkeys(live, 0))
    load.update(place for place in places if place in load)
    found = []
    for place in places:
        if place not in load:
            place = min(live, key=lambda name: load[name])
            load[place] += 1
        found.append(place)
    return tuple(found)

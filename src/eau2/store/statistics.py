"""What a node counts, and how its sizes are known each second though to count them takes long."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from eau2.errors import InvalidOption
from eau2.metrics.process import ProcessStatistics, process_statistics
from eau2.metrics.published import Published
from eau2.metrics.report import Report, counter, gauge, metrics_of, names_of
from eau2.values.key import FIRST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from eau2.metrics.report import Metric
    from eau2.store.reading import Reader

_KEYS = "select count(*), coalesce(sum(kind in (2, 4)), 0) from entry where key >= ?"
_CHUNKS = "select count(*), coalesce(sum(size), 0) from chunk where refs > 0"
_COUNT_SHARE = (
    200  # what took so long to count is counted again after that many times as long: half a percent of a core
)


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Counts since the node was opened by this process, and sizes now."""

    keys: int = field(metadata=gauge("Keys with a value now.", "keys"))
    frames: int = field(metadata=gauge("Keys with a frame now.", "keys"))
    chunks: int = field(metadata=gauge("Chunk files that a frame names.", "chunks"))
    chunk_bytes: int = field(metadata=gauge("Size of the chunk files together.", "bytes"))
    value_bytes: int = field(metadata=gauge("Size of the database file and its log.", "bytes"))
    gets: int = field(metadata=counter("Keys that were looked up.", "keys"))
    writes: int = field(metadata=counter("Keys that were written or deleted.", "keys"))
    commits: int = field(
        metadata=counter("Transactions: fewer than writes when writers shared one.", "transactions"),
    )
    waits: int = field(metadata=counter("Waits for a write.", "waits"))
    chunks_written: int = field(metadata=counter("Chunk files written.", "chunks"))
    chunks_mapped: int = field(metadata=counter("Chunk files mapped into memory.", "chunks"))
    chunks_verified: int = field(
        metadata=counter("Chunks hashed because they were not known to be untouched.", "chunks")
    )
    chunks_removed: int = field(metadata=counter("Chunk files removed because nothing names them.", "chunks"))
    tasks: int = field(
        default=0,
        metadata=counter(
            "Calls of map_chunks and the like, for a chunk or some of its rows, done on the node.", "calls"
        ),
    )
    chunks_read: int = field(
        default=0,
        metadata=counter("Chunks read by tasks and queries, which skip those without a row of the answer.", "chunks"),
    )
    rows_read: int = field(default=0, metadata=counter("Rows of the chunks that were read.", "rows"))
    bytes_read: int = field(
        default=0,
        metadata=counter("Bytes of the chunks that were read, whole, whatever columns were asked for.", "bytes"),
    )
    rows_moved: int = field(default=0, metadata=counter("Rows of what moved between nodes, or to a caller.", "rows"))
    bytes_moved: int = field(
        default=0,
        metadata=counter(
            "Bytes of chunks and answers that were read here and came from another node, or went to a caller.", "bytes"
        ),
    )
    chunks_mended: int = field(
        default=0,
        metadata=counter("Chunk files found damaged or missing, and replaced by another node's copy.", "chunks"),
    )
    copies_missing: int = field(
        default=0,
        metadata=gauge("Copies of keys and chunks that the last look of the repair found short.", "copies"),
    )
    copied: int = field(default=0, metadata=counter("Copies of keys and chunks that repair has made.", "copies"))
    copied_bytes: int = field(default=0, metadata=counter("Bytes of the copies that repair has made.", "bytes"))
    operations: int = field(
        default=0,
        metadata=counter(
            "Keys that the node was asked for or to write, each once however it was answered and however many copies "
            "it has, and tasks.",
            "operations",
        ),
    )
    name: str = ""  # of the node; "" for several together
    nodes: tuple[NodeStatistics, ...] = ()  # each node by itself, where these are the sums


class Tally:
    """Keys that were asked for and that the node did not look up by itself. For one thread, and it is only added to."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys = 0


class Asked:
    """How many keys a node was asked for, or to write. Thread-safe.

    A node that is alone was asked for what it does, and for what doors answer of what they have of it. Of several nodes
    each does also what it was not asked for: copies, and second looks. There the home of a key counts.
    """

    def __init__(self) -> None:
        self.by_homes = False  # of several nodes: what the node does besides is not counted
        self._lock = threading.Lock()  # guards both below
        self._tallies: list[Tally] = []
        self._keys = 0

    def tally(self) -> Tally:
        """Return what one thread of a door counts with: to take a lock would cost it a tenth of an answer."""
        found = Tally()
        with self._lock:
            self._tallies.append(found)
        return found

    def count(self, keys: int) -> None:
        """The node was asked for so many keys, or to write them, as their home."""
        with self._lock:
            self._keys += keys

    def all(self, done: int) -> int:
        """Return how many there were, of a node that has `done` so many."""
        with self._lock:
            return (self._keys if self.by_homes else done) + sum(tally.keys for tally in self._tallies)


class Sizes(NamedTuple):
    """How much a node has. See the fields of these names in `NodeStatistics`."""

    keys: int
    frames: int
    chunks: int
    chunk_bytes: int


class Sizing:
    """The sizes of the node that `reader` reads. Thread-safe."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()  # guards what is below
        self._known: Sizes | None = None
        self._generation = -1
        self._again = 0.0

    def count(self) -> Sizes:
        """Return the sizes now. 10 ms for 100,000 keys."""
        ((keys, frames),) = self._reader.entries(_KEYS, (FIRST,))
        ((chunks, chunk_bytes),) = self._reader.rows(_CHUNKS)
        return Sizes(keys, frames, chunks, chunk_bytes)

    def lately(self, generation: int) -> Sizes:
        """Return the sizes as of `generation` of the node; those of some time before, where to count took long."""
        with self._lock:
            if self._known is not None and (generation == self._generation or time.monotonic() < self._again):
                return self._known
        began = time.monotonic()
        found = self.count()
        now = time.monotonic()
        with self._lock:
            self._known, self._generation, self._again = found, generation, now + _COUNT_SHARE * (now - began)
        return found


def bytes_with_log(database: Path) -> int:
    """Return the size of `database` and its log."""
    size = 0
    for path in (database, f"{database}-wal"):
        with contextlib.suppress(FileNotFoundError):  # the log goes with the last connection
            size += os.stat(path).st_size
    return size


class Figures:
    """All that the node in `directory` says of itself, its process, and what is published on it. Thread-safe."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = directory
        self._published = Published(names_of(NodeStatistics) | names_of(ProcessStatistics))
        self._others: dict[str, Callable[[], object]] = {}
        self.asked = Asked()

    def also(self, prefix: str, count: Callable[[], object]) -> None:
        """Have among the figures what `count` returns, a statistics object, with names that begin with `prefix`."""
        self._others = {**self._others, prefix: count}  # replaced, never changed: others go through it meanwhile

    def publish(self, metrics: Sequence[Metric], *, source: str = "") -> None:
        """As `Node.publish`."""
        for metric in metrics:
            if str(metric.name).startswith(tuple(self._others)):
                raise InvalidOption(f"{metric.name} is among the figures of eau2's own", hint="choose another name")
        self._published.publish(metrics, source=source)

    def metrics(self, statistics: NodeStatistics) -> tuple[Metric, ...]:
        """Return the figures of the node whose `statistics` these are. About 0.2 ms."""
        process = metrics_of(process_statistics(self._directory))
        others = [metric for prefix, count in self._others.items() for metric in metrics_of(count(), prefix=prefix)]
        return (*metrics_of(statistics), *process, *others, *self._published.all())

    def report(self, statistics: NodeStatistics) -> Report:
        """Return them as what the node says now."""
        return Report(statistics.name, 0.0, self.metrics(statistics))

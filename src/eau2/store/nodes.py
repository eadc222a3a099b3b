"""The seams of the store: what a node does, and who the nodes are.

`Node` is one place that stores: a directory, or (on a cluster) an actor that has one. `Nodes` says which there are.
Everything that must be right on many nodes (placement, replication, repair) is written once above these two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from eau2.errors import KeyExists, KeyMissing, StoreBusy, StoreClosed, VersionConflict
from eau2.store.statistics import NodeStatistics as NodeStatistics  # noqa: TC001  # others have it from here

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import RLock

    import pyarrow as pa

    from eau2.errors import Eau2Error
    from eau2.fleet.any_fleet import AnyFleet
    from eau2.metrics.report import Metric, Report
    from eau2.store.here import Here
    from eau2.store.jobs import Jobs
    from eau2.store.membership import EpochChange, Member, WayIn
    from eau2.store.statistics import Figures
    from eau2.values.chunk import Chunk
    from eau2.values.manifest import Manifest


class Kind(IntEnum):
    """What is under a key."""

    DELETED = 0  # was there; keeps the version, so that versions of a key only ever grow
    BYTES = 1
    FRAME = 2  # the payload is a manifest; its chunks are on this node, which counts the reference
    HOLD = 3  # not a value: the payload lists the chunks, a line each, that this node holds for a frame of the cluster
    SPREAD = 4  # the payload is a manifest; its chunks are wherever a HOLD has them
    EXPIRING = 5  # bytes, after the moment from which they are not to be seen: expiry.py


class Entry(NamedTuple):  # a get makes one: half the cost of a dataclass
    """What is stored under a key."""

    version: int
    kind: int  # Kind.BYTES, EXPIRING or FRAME, as the database gives it
    payload: bytes


new_entry = tuple.__new__  # what Entry() calls in the end; 0.2 us less
RANK_BITS = 32  # of a rank are the version; those above are the epoch in which it was written
VERSION_MASK = (1 << RANK_BITS) - 1


class Record(NamedTuple):
    """What one node has under a key, as it is copied to others: a value, or that it was deleted.

    The rank orders all writes of a key on all nodes: the epoch in which it was written, then the version. On a store of
    one node there is no epoch, and the rank is the version. `Entry.version` of a node is the rank too.
    """

    key: str
    rank: int
    kind: int  # a Kind; DELETED says that there is nothing, since `rank`
    payload: bytes = b""
    chunks: tuple[Staged, ...] = ()  # of a HOLD: files staged on the very node, for those of its chunks that it lacks


class Expect(IntEnum):
    """What must be under the key for a write to happen. A version (from 1) may stand in its place."""

    ANYTHING = 0
    ABSENT = -1  # else KeyExists
    PRESENT = -2  # else KeyMissing


@dataclass(frozen=True, slots=True)
class Staged:
    """A chunk that a node has written but that no manifest names yet."""

    id: str
    path: str
    node: str = ""  # where there are several
    copies: tuple[Staged, ...] = ()  # all of them, each on its node


class Write(NamedTuple):
    """One change of one key. Kind.DELETED deletes (a key that is absent is no error under Expect.ANYTHING)."""

    key: str
    kind: Kind
    payload: bytes = b""
    chunks: tuple[Staged, ...] = ()  # exactly the chunks that the manifest in `payload` names
    expect: int = Expect.ANYTHING


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that `check` found wrong."""

    what: str  # one sentence
    key: str = ""
    chunk: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """What `check` looked at, and what was wrong."""

    keys: int
    chunks: int
    bytes: int  # of values and chunks whose checksum was computed
    faults: tuple[Fault, ...]


class ReadCounts(NamedTuple):
    """What has been read on a node; see the fields of these names in `NodeStatistics`."""

    tasks: int = 0
    chunks_read: int = 0
    rows_read: int = 0
    bytes_read: int = 0
    rows_moved: int = 0
    bytes_moved: int = 0
    chunks_mended: int = 0

    def and_also(self, more: ReadCounts) -> ReadCounts:
        return ReadCounts(*map(sum, zip(self, more, strict=True)))


class MappedFrame(NamedTuple):
    """The chunks of a frame in memory."""

    buffers: Sequence[pa.Buffer]  # one a chunk
    places: tuple[str, ...] = ()  # the node from whose file each is mapped; () where there is one node
    live: tuple[str, ...] = ()  # the nodes that were live when they were mapped


class Place(Protocol):
    """One of several nodes, by itself: what is asked of it besides the whole."""

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged:
        """Stage a chunk that is mapped here as `data`: a link where its file is there, else a copy."""

    def discard(self, staged: Sequence[Staged]) -> None:
        """Remove staged chunks that will not be written."""

    def count_read(self, more: ReadCounts) -> None:
        """Count what was read there. Also after close()."""

    def statistics(self) -> NodeStatistics: ...


class Node(Protocol):
    """One place that stores. Thread-safe. Errors are those of `eau2.errors`; after close(), StoreClosed."""

    @property
    def jobs(self) -> Jobs | None:
        """Who begins jobs on the nodes, where these are processes of their own; None where they are in this one."""

    @property
    def fleet(self) -> AnyFleet | None:
        """What runs commands on every node of a cluster; None of a store that is none."""

    @property
    def here(self) -> Here | None:
        """What only a node of this process can do; None where others must be asked, and of one that only reads."""

    def get(self, key: str) -> Entry | None:
        """Return what is under `key` (never Kind.DELETED), or None. Corrupt when its page is. About 3 us."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return what is under those of `keys` that have a value, in their order: one snapshot. About 1 us a key.

        Not for internal keys: `records` has them.
        """

    def keys(self, prefix: str = "", *, limit: int | None = None) -> list[str]:
        """Return the keys that start with `prefix`, sorted by code point; at most the first `limit` of them."""

    def frames(self) -> list[str]:
        """Return the keys that hold frames, sorted. Looks at all: 10 ms for 100,000 keys."""

    def write(self, writes: Sequence[Write]) -> list[int | Eau2Error]:
        """Apply `writes` in order in one transaction. Return for each its new version, or the error that refused it.

        0 stands for a deletion that met no value. The writes not refused are durable at the node's flush level when
        this returns. A failure of the whole (DiskFull, ReadOnly, StoreBusy, Corrupt) is raised and changes nothing.
        Staged chunks are published by a write that succeeds and are removed by one that is refused or fails.
        """

    # -- waiting ----------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """Return a number that differs after any process has written. 0.3 us."""

    def wait_for_write(self, since: int, timeout_seconds: float) -> int:
        """Return generation() as soon as it is not `since`, or when the time is over."""

    # -- chunks -----------------------------------------------------------------------------------------------------

    def assigned(self, key: str, index: int, first: str = "") -> tuple[str, ...]:
        """Return the homes of chunk `index` of a frame that is put under `key` now: round the ring from node `first`,
        by default from the key's home. InvalidOption when `first` is no live node."""

    def chunk_homes(self, chunk_id: str, assigned: Sequence[str]) -> tuple[str, ...]:
        """Return the live homes of a chunk that its manifest assigns to `assigned`; () where there is one node, or
        nobody here knows."""

    def live(self) -> tuple[str, ...]:
        """Return the live nodes; () where there is one node."""

    def at(self, name: str) -> Place:
        """Return the node of that name, dead or alive; this one where there is one node."""

    def stage(self, chunk: Chunk, homes: Sequence[str] = ()) -> Staged:
        """Write `chunk`, on each of `homes`, where nobody sees it yet. DiskFull leaves nothing behind."""

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged:
        """Stage a chunk that is mapped here as `data`, assigned to `homes`: a link where its file is there, else a
        copy."""

    def discard(self, staged: Sequence[Staged]) -> None:
        """Remove staged chunks that will not be written."""

    def map_frame(self, manifest: Manifest, *, key: str = "") -> MappedFrame:
        """Return the chunks of a frame as read-only memory-mapped buffers, verified (see ARCHITECTURE.md,
        Verification): each from a live home, so that every node has as many as can be.

        A buffer stays readable while it is held, whatever is deleted meanwhile. FileNotFoundError (not an Eau2Error)
        when a file is not there: the caller reads the manifest again, and it is Corrupt only if that has not changed.
        A copy that is damaged or missing is replaced by that of another node, if one has it.
        """

    def verify(
        self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "", places: Sequence[str] = ()
    ) -> None:
        """Raise Corrupt unless `data`, mapped from the nodes `places`, is still what was written. 2 us a chunk."""

    def count_read(self, more: ReadCounts) -> None:
        """Count what was read here. Also after close()."""

    def rebalance(self) -> int:
        """Move the chunks of stored frames to where they would be put now; return how many copies were made."""

    def check(self) -> NodeCheck:
        """Compute every checksum and compare every reference, and report what is wrong. Reads everything."""

    def statistics(self) -> NodeStatistics: ...

    def reports(self) -> tuple[Report, ...]:
        """Return what each node last said of itself, in natural order of names. Some figures may be some seconds older
        than the report, where to count them takes long. About 1 ms."""

    def publish(self, metrics: Sequence[Metric], *, source: str = "") -> None:
        """Have `metrics` in the reports, of the node that is nearest, until its process ends. InvalidOption,
        InvalidValue.

        source: who publishes them each second, until it ends; several together, see `Published`.
        """

    def close(self) -> None: ...


class Replica(Node, Protocol):
    """A node that can have copies of what others have: what the members of a cluster are made of."""

    @property
    def figures(self) -> Figures:
        """What it says of itself, and where its member counts."""

    def records(self, keys: Sequence[str]) -> dict[str, Record]:
        """Return what is known of those of `keys` that have a value or are remembered as deleted: one snapshot."""

    def version_floor(self) -> int:
        """Return the highest version (no epoch in it) of any deleted key that is not remembered any more."""

    def listing(self, after: str, limit: int) -> list[tuple[str, int, int]]:
        """Return (key, rank, kind) of at most `limit` keys above `after` in their order, deleted ones too."""

    def store(self, records: Sequence[Record], *, force: bool = False, seen: Mapping[str, int] | None = None) -> None:
        """Have `records` as they are, in one transaction: durable when this returns, nothing changed when it raises.

        A record is passed over when the node has the key at that rank or above, unless `force`, or unless the node has
        it at the very rank that `seen` says: nobody has written it since that was looked at. What is replaced lets go
        of its chunks. DiskFull, ReadOnly, StoreBusy, Corrupt; FileNotFoundError when a chunk of a HOLD is neither
        staged nor there.
        """

    def erase(self, keys: Sequence[str], *, seen: Mapping[str, int] | None = None) -> None:
        """Forget `keys` without a trace: for copies that belong elsewhere. Those in `seen` only at the rank it says."""

    def adopt(self) -> None:
        """Make every frame a SPREAD one, with a HOLD of the same rank for its chunks: the store becomes one of many."""

    def map(self, chunk_ids: Sequence[str], *, key: str = "") -> list[pa.Buffer]:
        """Return the bytes of chunks as `map_frame` does. FileNotFoundError, Corrupt."""

    def mend(self, staged: Staged) -> None:
        """Have a staged chunk's file in place of that of the same chunk here, if this is damaged or missing.

        FileNotFoundError when nothing here names the chunk any more.
        """

    def chunk_sizes(self) -> dict[str, int]:
        """Return the size in bytes of each chunk that a frame or hold of this node names."""

    def has_chunks(self, chunk_ids: Sequence[str]) -> list[bool]:
        """Return for each chunk whether a frame or hold of this node names it."""


class Nodes(Protocol):
    """Who the nodes are."""

    def members(self) -> tuple[str, ...]:
        """Return the names of the live nodes, in order."""

    def at(self, name: str) -> Place:
        """Return the node of that name. StoreUnusable when there is none."""

    def membership(self) -> tuple[Member, ...]:
        """As `Store.members`."""

    def epochs(self) -> tuple[EpochChange, ...]:
        """As `Store.epochs`."""

    def way_in(self) -> WayIn:
        """As `Store.way_in`."""

    def whole(self) -> Node:
        """Return all of them as one: what a store talks to."""

    def close(self) -> None: ...


def refusal(key: str, expect: int, found: int | None) -> Eau2Error | None:
    """Return the error that refuses a write under `expect` where version `found` is (None: nothing), or None."""
    if expect == Expect.ANYTHING or (expect == Expect.ABSENT and found is None):
        return None
    if found is None:
        return KeyMissing(f"no value under {key!r}")
    if expect == Expect.ABSENT:
        return KeyExists(f"{key!r} is there already, version {found}", hint="put() replaces, update() changes")
    if expect in (Expect.PRESENT, found):
        return None
    return VersionConflict(
        f"{key!r} has version {found}, not {expect}", found=found, hint="read it again, and update with its version"
    )


def amid_another(lock: RLock) -> StoreBusy | None:
    """Return the error for a thread that has `lock`, if this one has it: it is a signal's handler, or a finalizer, that
    interrupts a read or a write of its own thread, and must not meddle with it. 40 ns."""
    if not lock._is_owned():  # type: ignore[attr-defined]  # what threading.Condition asks
        return None
    return StoreBusy(
        "this thread is amid a read or a write, which a signal's handler or a finalizer has interrupted",
        hint="note there what is to be done, and do it after",
    )


def no_homes(node: Node, chunk_id: str, assigned: Sequence[str]) -> tuple[str, ...]:
    """`Node.chunk_homes` of one that is alone."""
    return ()


def closed(*, forked: bool = False) -> StoreClosed:
    """Return the error for a node that is used after close(), or in a child of the process that opened it."""
    if forked:
        return StoreClosed(
            "the store was open in the process that this one was forked from",
            hint="close it before the fork and open it in both, or start children with spawn or forkserver",
        )
    return StoreClosed("the store is closed", hint="open it again")

"""One node of a cluster as a driver asks it by itself: for its files, its chunks, and what it counts."""

from __future__ import annotations

import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from eau2.cluster.peer import BYTES_PER_SECOND, Unreachable
from eau2.errors import NodeUnavailable, StoreUnusable
from eau2.remote.chunks import NearFiles
from eau2.remote.transport import WORK_SECONDS, answer_of, opened, patience
from eau2.store.nodes import ReadCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from eau2.metrics.gossip import Answer, Digest
    from eau2.metrics.report import Metric
    from eau2.remote.queries import Terms
    from eau2.remote.transport import Pending, Transport
    from eau2.remote.watch import Watch
    from eau2.store.nodes import NodeCheck, NodeStatistics, Record, Staged
    from eau2.values.chunk import Chunk

_LEND_MAX = 8  # chunks in one request: each may have to be read from the disk and hashed first
_LEAVE_SECONDS = 0.5  # a driver that closes waits no longer; a node finds out by itself
_COUNTS_MAX = 1000  # reads that are counted here before the node is told


class Lease:
    """What a node keeps for this driver, until nobody holds this any more."""

    def __init__(self, node: str, watch: Watch) -> None:
        self.name = uuid.uuid4().hex
        watch.keep(self.name)
        weakref.finalize(self, watch.give_back, node, self.name).atexit = False


class Lent:
    """A chunk that node `place` has, and keeps."""

    def __init__(self, place: RemotePlace, chunk_id: str, lease: Lease) -> None:
        self.place = place
        self.id = chunk_id
        self.lease = lease

    def read(self) -> pa.Buffer:
        """Bring the bytes. Unreachable, FileNotFoundError, Corrupt."""
        return self.place.read(self.id, self.lease.name)


class RemotePlace:
    """Node `name`, for the driver `client`. Thread-safe. All raise Unreachable when the node does not answer."""

    def __init__(self, name: str, transport: Transport, client: str, watch: Watch) -> None:
        self.name = name
        self._transport, self._client, self._watch = transport, client, watch
        self._lock = threading.Lock()  # guards what is below
        self._near: NearFiles | None = None
        self._asked = False  # where it is
        self._terms: Terms | None = None
        self._counts, self._counted = ReadCounts(), 0

    def __repr__(self) -> str:
        return f"<RemotePlace {self.name}: {'on this machine' if self._near else 'elsewhere'}>"

    def _send(self, method: str, *given: Any) -> Pending:
        return self._transport.call(self.name, method, (given, {}), patience(method, given))

    def _ask(self, method: str, *given: Any) -> Any:
        return self._answer(self._send(method, *given))

    def _answer(self, pending: Pending) -> Any:
        return answer_of(self._transport, self.name, pending, self._watch.learn)

    def work(self, method: str, *given: Any) -> Any:
        """Have `method` done, however long it takes, as long as the node answers."""
        token = uuid.uuid4().hex
        while (answer := self._ask("work", token, method, given, WORK_SECONDS)) is None:
            pass
        return opened(answer)

    # -- chunks -------------------------------------------------------------------------------------------------------

    def near(self) -> NearFiles | None:
        """Return the node's files if they are on this machine; it is asked where they are once."""
        with self._lock:
            if not self._asked:
                self._near = NearFiles.of(self._ask("whereabouts"))
                self._asked = True
            return self._near

    def is_near(self) -> bool:
        """Whether the node is on this machine, as far as it says."""
        try:
            return self.near() is not None
        except Unreachable:
            return False

    def map(self, chunk_ids: Sequence[str], *, key: str = "") -> list[Any]:
        """Return chunks, mapped or `Lent`. FileNotFoundError, Corrupt."""
        near = self.near()
        if near is not None:
            try:
                return list(near.map(chunk_ids, key, lambda missing: self._ask("marks", missing)))
            except FileNotFoundError:
                self._asked = False  # it may be elsewhere by now
                raise
        groups = [list(chunk_ids[start : start + _LEND_MAX]) for start in range(0, len(chunk_ids), _LEND_MAX)]
        leases = [Lease(self.name, self._watch) for _ in groups]
        sent = [
            self._send("lend", self._client, lease.name, group, key)
            for group, lease in zip(groups, leases, strict=True)
        ]
        found: list[Any] = []
        for group, lease, pending in zip(groups, leases, sent, strict=True):
            for chunk_id, failure in zip(group, self._answer(pending), strict=True):
                if failure is not None:
                    raise failure
                found.append(Lent(self, chunk_id, lease))
        return found

    def read(self, chunk_id: str, lease: str = "") -> pa.Buffer:
        """Bring the bytes of a chunk. FileNotFoundError, Corrupt."""
        return self._ask("read", self._client, lease, chunk_id)

    def verify(self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "") -> None:
        """As `Node.verify`. What was brought was verified then."""
        near = self._near
        if near is not None:
            for chunk_id, mapped in zip(chunk_ids, data, strict=True):
                near.verify(chunk_id, mapped, key, self._mark_of)

    def _mark_of(self, chunk_id: str) -> str:
        try:
            ((_, mark),) = self._ask("marks", [chunk_id])
        except (Unreachable, TypeError):  # what is mapped can be hashed without the node
            return ""
        return str(mark)

    def has_chunks(self, chunk_ids: Sequence[str]) -> list[bool]:
        found: list[bool] = self._ask("node", "has_chunks", chunk_ids)
        return found

    def chunk_sizes(self) -> dict[str, int]:
        found: dict[str, int] = self._ask("node", "chunk_sizes")
        return found

    # -- queries ------------------------------------------------------------------------------------------------------

    def terms(self) -> Terms:
        """Return what the node has for queries; it is asked once."""
        if self._terms is None:
            self._terms = self._ask("terms")
        return self._terms

    # -- staging ------------------------------------------------------------------------------------------------------

    def stage(self, chunk: Chunk) -> Staged:
        """Send a chunk to the node, where nobody sees it yet."""
        pending = self._transport.call(
            self.name,
            "stage",
            ((self._client, chunk.id, chunk.pieces), {}),
            patience("stage", ()) + chunk.size / BYTES_PER_SECOND,
        )
        return self._kept(self._answer(pending))

    def link(self, chunk_id: str) -> Staged:
        """Stage a chunk that the node has. FileNotFoundError, Corrupt."""
        return self._kept(self._ask("link", self._client, chunk_id))

    def _kept(self, staged: Staged) -> Staged:
        self._watch.keep(staged.path)
        return staged

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged:
        """Stage a chunk that is mapped here as `data`, so that its path is a file of this machine. StoreUnusable when
        the node is elsewhere; NodeUnavailable."""
        try:
            if self.near() is None:
                raise StoreUnusable(f"{self.name} is on another machine")
            return self.link(chunk_id)
        except (Unreachable, FileNotFoundError) as error:
            raise NodeUnavailable(f"{self.name} has no chunk {chunk_id} now: {error}") from error

    def discard(self, staged: Sequence[Staged]) -> None:
        """Forget staged chunks, and remove those that were not written. Not waited for."""
        self._send("discard", self._client, staged)
        for chunk in staged:
            self._watch.let_go(chunk.path)

    # -- the node itself ----------------------------------------------------------------------------------------------

    def count_read(self, more: ReadCounts) -> None:
        with self._lock:
            self._counts, self._counted = self._counts.and_also(more), self._counted + 1
            if self._counted < _COUNTS_MAX:
                return
        self.tell_counts()

    def tell_counts(self) -> Pending | None:
        """Tell the node what was counted here. Not waited for."""
        with self._lock:
            if not self._counted:
                return None
            counts, self._counts, self._counted = self._counts, ReadCounts(), 0
        return self._send("node", "count_read", counts)

    def statistics(self) -> NodeStatistics:
        told = self.tell_counts()
        if told is not None:
            self._answer(told)
        found: NodeStatistics = self._ask("statistics")
        return found

    def gossip(self, digest: Digest) -> Answer:
        """Return what the node has heard that is not in `digest`."""
        found: Answer = self._ask("gossip", digest)
        return found

    def publish(self, metrics: Sequence[Metric], source: str) -> None:
        """Have `metrics` of `source` among the figures of the node. InvalidOption."""
        self._ask("publish", list(metrics), source)

    def check(self) -> NodeCheck:
        found: NodeCheck = self.work("node", "check")
        return found

    def listing(self, after: str, limit: int) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = self._ask("node", "listing", after, limit)
        return found

    def records(self, keys: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = self._ask("node", "records", keys)
        return found

    def leave(self) -> Pending:
        """Have the node keep nothing for this driver any more."""
        self.tell_counts()
        return self._transport.call(self.name, "leave", ((self._client,), {}), _LEAVE_SECONDS)

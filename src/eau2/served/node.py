"""A served store as one node: `eau2.store.nodes.Node` over calls to its server."""

from __future__ import annotations

import os
import threading
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from eau2.errors import (
    ClusterUnavailable,
    Eau2Error,
    InvalidOption,
    NodeUnavailable,
    StoreUnusable,
    ValueTooLarge,
    VersionsDiffer,
    WaitTimeout,
)
from eau2.machine import memory_of_machine
from eau2.metrics.report import Metric, Report
from eau2.query.waiting import Calls, end_idle
from eau2.remote.chunks import CACHE_BYTES, ChunkCache
from eau2.remote.memory import Memory
from eau2.served.connection import CALL_SECONDS, LONG_SECONDS, Connection
from eau2.served.fleet import ServedFleet
from eau2.served.held import HeldBuffers, Lease
from eau2.served.watch import Watch
from eau2.served.wire import PROTOCOL, WRITE_BYTES_MAX, made_again
from eau2.store.membership import EpochChange, Member, WayIn
from eau2.store.nodes import Entry, Fault, Kind, MappedFrame, NodeCheck, NodeStatistics, closed
from eau2.store.open_nodes import add_open, remove_open

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from eau2.store.nodes import Node, ReadCounts, Staged, Write
    from eau2.values.chunk import Chunk
    from eau2.values.manifest import Manifest

HELLO_SECONDS = 20.0
_memory = Memory(min(2 * CACHE_BYTES, memory_of_machine() // 8))  # for the chunks of all served stores
os.register_at_fork(after_in_child=_memory.abandon)
_NEVER = "chunks are cut and placed by the server"  # what the floors above do not ask of this node


class ServedNode:
    """All nodes of the store behind `connection`, as one. Thread-safe.

    Raises what the server's store raises; NodeUnavailable when it does not answer, OutcomeUnknown for a write of which
    it does not say whether it was done, ReadOnly when the token may only read.
    """

    jobs = None
    here = None

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.fleet = ServedFleet(connection)  # what is served may be no cluster: then each of its verbs says so
        self.cache = ChunkCache(CACHE_BYTES, _memory)
        self._watch = Watch(connection)
        self._calls = Calls()  # which Ctrl-C and the end interrupt: gRPC's own waiting hears of neither
        self._process = os.getpid()
        self._closed = threading.Event()
        add_open(self)

    def __repr__(self) -> str:
        return f"<ServedNode {self.connection.address}>"

    # -- entries ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """As `Node.get`. One call."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As `Node.get_many`. One call."""
        found: dict[str, Entry] = {}
        for said, data in self._call("entries", {"keys": list(keys)}) if keys else ():
            start = 0
            for key, version, kind, size in said["entries"]:
                found[key] = Entry(version, kind, bytes(data[start : start + size]))
                start += size
        return found

    def keys(self, prefix: str = "", *, limit: int | None = None) -> list[str]:
        return [key for said, _ in self._call("keys", {"prefix": prefix, "limit": limit}) for key in said["keys"]]

    def frames(self) -> list[str]:
        return [key for said, _ in self._call("frames", {}) for key in said["keys"]]

    def write(self, writes: Sequence[Write]) -> list[int | Eau2Error]:
        """As `Node.write`. One call, of at most WRITE_BYTES_MAX."""
        if not writes:
            return []
        size = sum(len(write.payload) for write in writes)
        if size > WRITE_BYTES_MAX:
            raise ValueTooLarge(
                f"{size:,} bytes are over the limit of {WRITE_BYTES_MAX:,} for one call to {self.connection.address}",
                hint="put them in several calls",
            )
        self._check_open()
        header: dict[str, Any] = {"writes": [_said(write) for write in writes]}
        if any(write.chunks for write in writes):
            header["session"] = self.connection.session()
        payload = b"".join(write.payload for write in writes)
        try:
            (said, _), *_ = self._calls.run(lambda: self.connection.write(header, payload))
        finally:
            self._watch.bump()
        return [made_again(each) if isinstance(each, dict) else each for each in said["outcomes"]]

    # -- waiting ------------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """As `Node.generation`: as far as the server has said something since. 0.3 us."""
        self._check_open()
        return self._watch.number()

    def wait_for_write(self, since: int, timeout_seconds: float) -> int:
        """As `Node.wait_for_write`. Wakes some milliseconds after a write."""
        self._check_open()
        self._watch.wait(since, timeout_seconds)
        return self.generation()

    # -- chunks -------------------------------------------------------------------------------------------------------

    def map_frame(self, manifest: Manifest, *, key: str = "") -> MappedFrame:
        """As `Node.map_frame`: the server holds the frame, and chunks are brought when they are touched. One call."""
        self._check_open()
        lease = self._calls.run(lambda: Lease(self.connection, key, manifest))
        return MappedFrame(HeldBuffers(lease, self.cache, manifest))

    def verify(
        self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "", places: Sequence[str] = ()
    ) -> None:
        """Nothing: the server verifies what it sends, and what comes here is looked at when it comes."""
        self._check_open()

    def discard(self, staged: Sequence[Staged]) -> None:
        """As `Node.discard`; what the server cannot be told of it forgets with the session."""
        tokens = [each.id for each in staged]
        if tokens and not self._closed.is_set():
            try:
                self.connection.in_session("discard", {"tokens": tokens})
            except Eau2Error:
                return

    def assigned(self, key: str, index: int, first: str = "") -> tuple[str, ...]:
        raise InvalidOption(_NEVER)

    def chunk_homes(self, chunk_id: str, assigned: Sequence[str]) -> tuple[str, ...]:
        """(): the server's nodes are its own matter."""
        return ()

    def stage(self, chunk: Chunk, homes: Sequence[str] = ()) -> Staged:
        raise InvalidOption(_NEVER)

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged:
        raise InvalidOption(_NEVER)

    def live(self) -> tuple[str, ...]:
        """(): the server's nodes are its own matter."""
        return ()

    def at(self, name: str) -> Node:
        if name not in ("", self.connection.address):  # chunks that are brought say no name
            raise StoreUnusable(f"no node {name!r}", hint=f"the only one is {self.connection.address!r}")
        return self

    def count_read(self, more: ReadCounts) -> None:
        """Nothing: the server counts what it reads."""

    # -- the store itself ---------------------------------------------------------------------------------------------

    def rebalance(self) -> int:
        (said, _), *_ = self._call("rebalance", {}, seconds=LONG_SECONDS)
        return int(said["copies"])

    def check(self) -> NodeCheck:
        (said, _), *_ = self._call("check", {}, seconds=LONG_SECONDS)
        return NodeCheck(**{**said["check"], "faults": tuple(Fault(**each) for each in said["check"]["faults"])})

    def statistics(self) -> NodeStatistics:
        (said, _), *_ = self._call("statistics", {})
        nodes = tuple(NodeStatistics(**{**each, "nodes": ()}) for each in said["statistics"]["nodes"])
        return NodeStatistics(**{**said["statistics"], "nodes": nodes})

    def reports(self) -> tuple[Report, ...]:
        (said, _), *_ = self._call("reports", {})
        return tuple(
            Report(node, age, tuple(Metric(*metric) for metric in metrics)) for node, age, metrics in said["reports"]
        )

    def publish(self, metrics: Sequence[Metric], *, source: str = "") -> None:
        self._call("publish", {"metrics": [astuple(metric) for metric in metrics], "source": source})

    def said(self, verb: str) -> dict[str, Any]:
        """Return what the server says to a `verb` that needs nothing and is answered in one reply."""
        (said, _), *_ = self._call(verb, {})
        return said

    def close(self) -> None:
        """End the waiting of all threads, and the session unless frames are held. Idempotent."""
        if self._closed.is_set() or os.getpid() != self._process:
            return
        self._closed.set()
        self._watch.close()
        self._calls.end()
        self.connection.close()
        end_idle()
        remove_open(self)

    def abandon(self) -> None:
        """In a forked child: use nothing that is the parent's."""
        self._closed.set()

    # -- private ------------------------------------------------------------------------------------------------------

    def _call(
        self, verb: str, header: dict[str, Any], *, seconds: float = CALL_SECONDS
    ) -> list[tuple[dict[str, Any], memoryview]]:
        self._check_open()
        replies = self._calls.run(lambda: self.connection.call(verb, header, seconds=seconds))
        self._watch.heard(replies[-1][0].get("generation"))
        return replies

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise closed(forked=os.getpid() != self._process)


class ServedNodes:
    """`Nodes` of a served store: one, whatever the server has."""

    def __init__(self, connection: Connection) -> None:
        """Raises ClusterUnavailable when nobody answers there, or refuses us; VersionsDiffer."""
        try:
            (said, _), *_ = connection.call("hello", seconds=HELLO_SECONDS)
        except (NodeUnavailable, WaitTimeout) as error:
            raise ClusterUnavailable(error.message, hint="see whether `eau2 serve` runs there") from None
        if said.get("protocol") != PROTOCOL:
            raise VersionsDiffer(
                f"the server at {connection.address} is eau2 {said.get('eau2')}, which speaks otherwise",
                hint="have the same version on both sides",
            )
        self._node = ServedNode(connection)

    def members(self) -> tuple[str, ...]:
        return (self._node.connection.address,)

    def at(self, name: str) -> Node:
        return self._node.at(name)

    def membership(self) -> tuple[Member, ...]:
        """The nodes of the server's store, not the server."""
        return tuple(Member(**each) for each in self._node.said("members")["members"])

    def epochs(self) -> tuple[EpochChange, ...]:
        found = self._node.said("epochs")["epochs"]
        return tuple(EpochChange(**{**each, "members": tuple(each["members"])}) for each in found)

    def way_in(self) -> WayIn:
        """As `Store.way_in`: of the server's store. It takes a token for everything."""
        return WayIn(**self._node.said("way_in")["way_in"])

    def whole(self) -> ServedNode:
        return self._node

    def close(self) -> None:
        self._node.close()


def _said(write: Write) -> tuple[str, int, int | str, int]:
    what = write.chunks[0].id if write.kind == Kind.FRAME else len(write.payload)
    return write.key, int(write.kind), what, int(write.expect)

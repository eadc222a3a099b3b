"""The nodes of one directory as one: requests are calls, and other processes have them too."""

from __future__ import annotations

import contextlib
import os
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.cluster.reporting import Reporting
from eau2.cluster.whole import Whole, as_users_know
from eau2.errors import Corrupt, Eau2Error, NodeUnavailable
from eau2.store.generation import Waiting
from eau2.store.interrupts import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    import pyarrow as pa

    from eau2.cluster.local import LocalMembers
    from eau2.cluster.peer import Peer
    from eau2.cluster.view import View
    from eau2.metrics.report import Metric, Report
    from eau2.store.node import DirectoryNode
    from eau2.store.nodes import Entry, NodeStatistics, Staged

_WAIT_SECONDS_MAX = 0.5  # for a write: then the homes may be others


class Cluster(Whole):
    """The `Node` over all members of a directory. Thread-safe."""

    def __init__(self, members: LocalMembers, name: str) -> None:
        super().__init__(name, members.client, members.ended)
        self._members = members
        self._waiting = Waiting(_All(self), _nothing)
        self._reporting = Reporting()

    def __repr__(self) -> str:
        return f"<Cluster {self.name}: {len(self.nodes)} nodes, epoch {self._members.view.epoch}>"

    @property
    def view(self) -> View:
        return self._members.view

    @property
    def nodes(self) -> dict[str, DirectoryNode]:
        return self._members.nodes

    def at(self, name: str) -> DirectoryNode:
        return self._members.nodes[name]

    def _peer(self, name: str) -> Peer:
        return self._members.members[name]

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with uninterrupted():  # locks of several nodes are held, and noted in files
            return super()._run(coroutine)

    def get(self, key: str) -> Entry | None:
        """As `Node.get`. About 8 us; 25 in a view that is not settled yet."""
        self._check_open()
        try:
            found = self._members.client.get_at_once(key)
        except (NotServing, WrongEpoch, ValueError, OSError):  # or a file of ours was closed meanwhile
            return self.get_many([key]).get(key)
        return found if found is None else as_users_know(found)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """Return a number that differs after any write on any node. 0.4 us a node."""
        self._check_open()
        return sum(node.generation() << 128 * place for place, node in enumerate(self.nodes.values()))

    def wait_for_write(self, since: int, timeout_seconds: float) -> int:
        """As `Node.wait_for_write`. One node is waited for at a time, with the others looked at in between."""
        self._check_open()
        self._waiting.wait(since, min(timeout_seconds, _WAIT_SECONDS_MAX))
        return self.generation()

    def _written(self) -> None:
        self._waiting.notify()

    # -- the cluster itself -------------------------------------------------------------------------------------------

    def _stage_copy(self, name: str, chunk_id: str, data: pa.Buffer) -> Staged:
        node = self.nodes[name]
        with contextlib.suppress(FileNotFoundError, Corrupt):
            (data,) = node.map([chunk_id])
        return node.stage_again(chunk_id, data)

    def rebalance(self) -> int:
        """As `Node.rebalance`."""
        self._check_open()
        try:
            return self._members.rebalance().copies
        except (NotServing, Unreachable, WrongEpoch) as error:
            raise NodeUnavailable("the members changed meanwhile", hint="call rebalance() again") from error

    def reports(self) -> tuple[Report, ...]:
        """As `Node.reports`: made now. The process is the same for all nodes."""
        self._check_open()
        members = self._members
        present = [members.nodes[name] for name in members.view.present if name not in members.down]
        with self._unless_closed():
            found = self._reporting.reports(present, lambda node: self._statistics(node, lately=True))
        self._check_open()  # else it may be why nobody has said anything
        return found

    def publish(self, metrics: Sequence[Metric], *, source: str = "") -> None:
        """As `Node.publish`: all are near, and the first live node has them."""
        self._check_open()
        if not self.names():
            raise NodeUnavailable("no node is live", hint="start one")
        self.nodes[self.names()[0]].publish(metrics, source=source)

    def _statistics(self, node: DirectoryNode, *, lately: bool = False) -> NodeStatistics:
        found, repairs = node.statistics(lately=lately), self._members.repairs
        if node.name not in repairs:  # it joins just now
            return found
        repair = repairs[node.name].progress
        copied = repair.keys + repair.chunks
        return replace(found, copies_missing=repair.missing, copied=copied, copied_bytes=repair.bytes)

    def close(self) -> None:
        """End all nodes within a second. Idempotent."""
        if not self._ended.is_set() and os.getpid() == self._process:
            self._ended.set()
            self._waiting.close()
            for node in self.nodes.values():
                with contextlib.suppress(Eau2Error):
                    node.close()
            self._members.close()


class _All:
    """The counters of all nodes as one, for those who wait."""

    settled = True  # a writer that died delays a waiter by one look of half a second

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = weakref.ref(cluster)

    def number(self) -> int:
        cluster = self._cluster()
        try:
            return 0 if cluster is None else cluster.generation()
        except (Eau2Error, ValueError):  # closed meanwhile
            return 0


def _nothing() -> None: ...

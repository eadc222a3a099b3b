"""Many nodes as the one `Node` that a `Store` talks to."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import Counter
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from eau2.cluster.audit import audit
from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.cluster.runtime import finish
from eau2.errors import Corrupt, Eau2Error, InvalidOption, NodeUnavailable
from eau2.store.generation import Waiting
from eau2.store.nodes import Entry, Kind, NodeCheck, NodeStatistics, Staged, Write, closed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    import pyarrow as pa

    from eau2.cluster.local import LocalMembers
    from eau2.store.node import DirectoryNode
    from eau2.values.chunk import Chunk
    from eau2.values.manifest import Manifest

_FRAME, _SPREAD = int(Kind.FRAME), int(Kind.SPREAD)
_WAIT_SECONDS_MAX = 0.5  # for a write: then the homes may be others


class Cluster:
    """The `Node` over all members of a directory. Thread-safe."""

    def __init__(self, members: LocalMembers, name: str) -> None:
        self.name = name
        self._members = members
        self._client = members.client
        self._process = os.getpid()
        self._closed = False
        self._waiting = Waiting(_All(self), _nothing)

    @property
    def _nodes(self) -> dict[str, DirectoryNode]:
        return self._members.nodes

    def __repr__(self) -> str:
        return f"<Cluster {self.name}: {len(self._nodes)} nodes, epoch {self._members.view.epoch}>"

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            self._check_open()
        except BaseException:
            coroutine.close()
            raise
        self._client.view = self._members.view
        try:
            return finish(coroutine)
        except (ValueError, OSError):
            self._check_open()  # a file of ours was closed meanwhile
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise closed()
        if os.getpid() != self._process:
            raise closed(forked=True)

    # -- entries ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """As `Node.get`. About 15 us."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As `Node.get_many`. About 4 us a key: two looks at each, unless one node is the home of all."""
        if not keys:
            return {}
        found: dict[str, Entry] = self._run(self._client.get(keys))
        return {
            key: entry if entry.kind != _SPREAD else Entry(entry.version, _FRAME, entry.payload)
            for key, entry in found.items()
        }

    def keys(self, prefix: str = "", *, limit: int | None = None) -> list[str]:
        found: list[str] = self._run(self._client.names(prefix, limit))
        return found

    def frames(self) -> list[str]:
        found: list[str] = self._run(self._client.names(frames=True))
        return found

    def write(self, writes: Sequence[Write]) -> list[int | Eau2Error]:
        if not writes:
            return []
        spread = [self._spread(write) for write in writes]
        try:
            outcomes: list[int | Eau2Error] = self._run(self._client.write(spread))
        finally:  # what was published is not there any more under its staged name
            self.discard([chunk for write in writes for chunk in write.chunks])
        self._waiting.notify()
        return outcomes

    def _spread(self, write: Write) -> Write:
        if write.kind != Kind.FRAME:
            return write
        copies = tuple(copy for chunk in write.chunks for copy in chunk.copies)
        return write._replace(kind=Kind.SPREAD, chunks=copies)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """Return a number that differs after any write on any node. 0.4 us a node."""
        self._check_open()
        return sum(node.generation() << 128 * place for place, node in enumerate(self._nodes.values()))

    def wait_for_write(self, since: int, timeout_seconds: float) -> int:
        """As `Node.wait_for_write`. One node is waited for at a time, with the others looked at in between."""
        self._check_open()
        self._waiting.wait(since, min(timeout_seconds, _WAIT_SECONDS_MAX))
        return self.generation()

    # -- chunks -------------------------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Return the live nodes, in natural order."""
        return self._members.names()

    def assigned(self, key: str, index: int, first: str = "") -> tuple[str, ...]:
        """As `Node.assigned`."""
        self._check_open()
        view = self._members.view
        if first and first not in view.live:
            raise InvalidOption(f"{first!r} is no live node", hint=f"these are: {', '.join(self.names())}")
        return view.assigned(key, index, first)

    def places(self, manifest: Manifest) -> tuple[str, ...]:
        """Return for each chunk of a frame one live home that has it, so that each home has as many as can be."""
        view = self._members.view
        load: Counter[str] = Counter()
        chosen: list[str] = []
        for chunk_id, assigned in zip(manifest.chunk_ids, manifest.chunk_homes, strict=True):
            there = [name for name in view.chunk_homes(chunk_id, assigned) if self._has(name, chunk_id)]
            there = there or [name for name in view.live if self._has(name, chunk_id)]
            if not there:
                self._refuse_chunk(chunk_id, assigned)
            place = min(there, key=lambda name: (load[name], there.index(name)))
            load[place] += 1
            chosen.append(place)
        return tuple(chosen)

    def _has(self, name: str, chunk_id: str) -> bool:
        return self._nodes[name].has_chunks([chunk_id])[0]

    def _refuse_chunk(self, chunk_id: str, assigned: Sequence[str]) -> None:
        down = [name for name in self._nodes if name not in self._members.view.live]
        if down:
            raise NodeUnavailable(
                f"chunk {chunk_id} is on {' and '.join(assigned)}; down: {', '.join(down)}", hint="start them again"
            )
        raise FileNotFoundError(2, "no such chunk", chunk_id)

    def stage(self, chunk: Chunk, homes: Sequence[str] = ()) -> Staged:
        """Write `chunk` on each of `homes`, where nobody sees it yet. DiskFull leaves nothing behind."""
        self._check_open()
        return self._on_each(
            chunk.id, homes or self._members.view.assigned(chunk.id, 0), lambda node: node.stage(chunk)
        )

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged:
        self._check_open()
        homes = self._members.view.chunk_homes(chunk_id, homes)
        return self._on_each(chunk_id, homes, lambda node: _staged_again(node, chunk_id, data))

    def _on_each(self, chunk_id: str, homes: Sequence[str], stage: Callable[[Any], Staged]) -> Staged:
        if not homes:
            raise NodeUnavailable("no node is live", hint="start one")
        copies: list[Staged] = []
        try:
            copies.extend(replace(stage(self._nodes[name]), node=name) for name in homes)
        except BaseException:
            self.discard([Staged(chunk_id, "", copies=tuple(copies))])
            raise
        return replace(copies[0], copies=tuple(copies))

    def discard(self, staged: Sequence[Staged]) -> None:
        for chunk in staged:
            for copy in chunk.copies:
                self._nodes[copy.node].discard([copy])

    def map(self, chunk_ids: Sequence[str], *, key: str = "", places: Sequence[str] = ()) -> list[pa.Buffer]:
        """As `Node.map`, each chunk from its place; where it is damaged or gone there, from another node."""
        self._check_open()
        found: list[pa.Buffer] = []
        for chunk_id, place in zip(chunk_ids, places or [""] * len(chunk_ids), strict=True):
            found.append(self._map_one(chunk_id, place, key))
        return found

    def _map_one(self, chunk_id: str, place: str, key: str) -> pa.Buffer:
        failure: Exception | None = None
        live = self._members.view.live
        for name in ([place] if place in live else []) + [name for name in live if name != place]:
            try:
                return self._nodes[name].map([chunk_id], key=key)[0]
            except FileNotFoundError as error:
                failure = failure or error
            except Corrupt as error:
                failure = error
        raise failure or FileNotFoundError(2, "no such chunk", chunk_id)

    def verify(self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "") -> None:
        """As `Node.verify`: a node that has not mapped a buffer passes it over."""
        self._check_open()
        for node in self._nodes.values():
            node.verify(chunk_ids, data, key=key)

    # -- the cluster itself -------------------------------------------------------------------------------------------

    def check(self) -> NodeCheck:
        """As `Node.check` for all nodes; and every key and chunk has its copies, equal, where they belong."""
        self._check_open()
        return audit(self._members)

    def rebalance(self) -> int:
        """As `Node.rebalance`."""
        self._check_open()
        try:
            return self._members.rebalance().copies
        except (NotServing, Unreachable, WrongEpoch) as error:
            raise NodeUnavailable("the members changed meanwhile", hint="call rebalance() again") from error

    def statistics(self) -> NodeStatistics:
        """Return the sums of all nodes; keys, frames and chunks are counted once each, not each copy."""
        parts = [node.statistics() for node in self._nodes.values()]
        sums = {field.name: sum(getattr(part, field.name) for part in parts) for field in fields(NodeStatistics)}
        chunks = {chunk: size for node in self._nodes.values() for chunk, size in node.chunk_sizes().items()}
        sums |= {"keys": len(self.keys()), "frames": len(self.frames())}
        sums |= {"chunks": len(chunks), "chunk_bytes": sum(chunks.values())}
        return NodeStatistics(**sums)

    def close(self) -> None:
        """End all nodes within a second. Idempotent."""
        if not self._closed and os.getpid() == self._process:
            self._closed = True
            self._members.ended.set()
            self._waiting.close()
            for node in self._nodes.values():
                with contextlib.suppress(Eau2Error):
                    node.close()
            self._members.close()


def _staged_again(node: Any, chunk_id: str, data: pa.Buffer) -> Staged:
    """Stage on `node` a chunk that is mapped from another: linked where it has one of its own."""
    with contextlib.suppress(FileNotFoundError, Corrupt):
        (data,) = node.map([chunk_id])
    staged: Staged = node.stage_again(chunk_id, data)
    return staged


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

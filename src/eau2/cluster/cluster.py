"""Many nodes as the one `Node` that a `Store` talks to."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import Counter, defaultdict
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from eau2.cluster.audit import audit
from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.cluster.runtime import finish
from eau2.errors import Corrupt, Eau2Error, InvalidOption, NodeUnavailable
from eau2.store.generation import Waiting
from eau2.store.nodes import Entry, Kind, MappedFrame, NodeCheck, NodeStatistics, ReadCounts, Staged, Write, closed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    import pyarrow as pa

    from eau2.cluster.local import LocalMembers
    from eau2.cluster.view import View
    from eau2.store.node import DirectoryNode
    from eau2.values.chunk import Chunk
    from eau2.values.manifest import Manifest

_FRAME, _SPREAD = int(Kind.FRAME), int(Kind.SPREAD)
_WAIT_SECONDS_MAX = 0.5  # for a write: then the homes may be others


class Cluster:
    """The `Node` over all members of a directory. Thread-safe."""

    jobs = None

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
        """As `Node.get`. About 8 us; 25 in a view that is not settled yet."""
        self._check_open()
        try:
            found = self._client.get_at_once(key)
        except (NotServing, WrongEpoch, ValueError, OSError):  # or a file of ours was closed meanwhile
            return self.get_many([key]).get(key)
        return found if found is None else _as_users_know(found)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As `Node.get_many`. About 3 us a key; twice that while others write."""
        if not keys:
            return {}
        found: dict[str, Entry] = self._run(self._client.get(keys))
        return {key: _as_users_know(entry) for key, entry in found.items()}

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

    def live(self) -> tuple[str, ...]:
        self._check_open()
        return self._members.view.live

    def at(self, name: str) -> DirectoryNode:
        return self._nodes[name]

    def map_frame(self, manifest: Manifest, *, key: str = "") -> MappedFrame:
        """As `Node.map_frame`. A frame of which a home lacks a chunk has it from any node that has one."""
        self._check_open()
        view = self._members.view
        places = self._places(view, manifest)
        buffers: list[pa.Buffer | None] = [None] * len(places)
        for place in dict.fromkeys(places):
            mine = [index for index, name in enumerate(places) if name == place]
            with contextlib.suppress(FileNotFoundError, Corrupt):  # one of them: then each by itself
                found = self._nodes[place].map([manifest.chunk_ids[index] for index in mine], key=key)
                for index, buffer in zip(mine, found, strict=True):
                    buffers[index] = buffer
        for index, buffer in enumerate(buffers):
            if buffer is None:
                buffers[index], places[index] = self._map_one(view, manifest, index, places[index], key)
        return MappedFrame(buffers, tuple(places), view.live)

    def _places(self, view: View, manifest: Manifest) -> list[str]:
        """Return for each chunk of a frame one live home that has it, so that each home has as many as can be."""
        ids = manifest.chunk_ids
        homes = [view.chunk_homes(*chunk) for chunk in zip(ids, manifest.chunk_homes, strict=True)]
        asked: dict[str, list[str]] = defaultdict(list)
        for chunk_id, names in zip(ids, homes, strict=True):
            for name in names:
                asked[name].append(chunk_id)
        has = {name: self._having(name, chunks) for name, chunks in asked.items()}
        load: Counter[str] = Counter()
        chosen: list[str] = []
        for index, chunk_id in enumerate(ids):
            there = [name for name in homes[index] if chunk_id in has[name]]
            there = there or [name for name in view.live if self._having(name, [chunk_id])]
            if not there:
                self._refuse_chunk(chunk_id, manifest.chunk_homes[index])
            place = min(there, key=lambda name: load[name])
            load[place] += 1
            chosen.append(place)
        return chosen

    def _having(self, name: str, chunk_ids: Sequence[str]) -> set[str]:
        node = self._nodes[name]
        return {chunk for chunk, there in zip(chunk_ids, node.has_chunks(chunk_ids), strict=True) if there}

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

    def _map_one(self, view: View, manifest: Manifest, index: int, place: str, key: str) -> tuple[pa.Buffer, str]:
        """Map a chunk from `place`; where it is damaged or gone there, mend it, or else map it from another node."""
        chunk_id = manifest.chunk_ids[index]
        with contextlib.suppress(FileNotFoundError, Corrupt):
            return self._nodes[place].map([chunk_id], key=key)[0], place
        if not self._mend(view, place, chunk_id, manifest.chunk_rows[index]):
            for name in view.live:
                with contextlib.suppress(FileNotFoundError, Corrupt):
                    return self._nodes[name].map([chunk_id], key=key)[0], name
        return self._nodes[place].map([chunk_id], key=key)[0], place  # or what is wrong with it is raised

    def _mend(self, view: View, name: str, chunk_id: str, rows: int) -> bool:
        """Have `name`'s copy of a chunk, which cannot be read, replaced by that of another; return whether it was."""
        others = [other for other in view.live if other != name and self._having(other, [chunk_id])]
        try:
            size = self._run(self._members.members[name].mend(view.epoch, chunk_id, others))
        except (Eau2Error, FileNotFoundError, NotServing, Unreachable, WrongEpoch):  # then it is read from another
            return False
        self._nodes[name].count_read(ReadCounts(rows_moved=rows, bytes_moved=size, chunks_mended=1))
        return True

    def verify(
        self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "", places: Sequence[str] = ()
    ) -> None:
        self._check_open()
        for chunk_id, mapped, place in zip(chunk_ids, data, places, strict=True):
            self._nodes[place].verify([chunk_id], [mapped], key=key)

    def count_read(self, more: ReadCounts) -> None:
        """Nothing is read here: each node counts for itself."""

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
        parts = tuple(self._statistics(name) for name in self._nodes)
        names = [field.name for field in fields(NodeStatistics) if field.name not in ("name", "nodes")]
        sums = {name: sum(getattr(part, name) for part in parts) for name in names}
        chunks = {chunk: size for node in self._nodes.values() for chunk, size in node.chunk_sizes().items()}
        sums |= {"keys": len(self.keys()), "frames": len(self.frames())}
        sums |= {"chunks": len(chunks), "chunk_bytes": sum(chunks.values())}
        return NodeStatistics(**sums, nodes=parts)

    def _statistics(self, name: str) -> NodeStatistics:
        found, repairs = self._nodes[name].statistics(), self._members.repairs
        if name not in repairs:  # it joins just now
            return found
        repair = repairs[name].progress
        return replace(
            found,
            copies_missing=repair.missing,
            copied=repair.keys + repair.chunks,
            copied_bytes=repair.bytes,
        )

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


def _as_users_know(entry: Entry) -> Entry:
    return entry if entry.kind != _SPREAD else Entry(entry.version, _FRAME, entry.payload)


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

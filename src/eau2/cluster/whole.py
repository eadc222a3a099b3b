"""Many nodes as the one `Node` that a `Store` talks to, however they are reached."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from eau2.cluster.audit import audit
from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.cluster.runtime import finish
from eau2.cluster.view import State, View
from eau2.errors import Corrupt, Eau2Error, InvalidOption, NodeUnavailable
from eau2.store.nodes import Entry, Kind, MappedFrame, NodeCheck, NodeStatistics, ReadCounts, Staged, Write, closed

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from eau2.cluster.client import Client
    from eau2.cluster.peer import Peer
    from eau2.fleet.any_fleet import AnyFleet
    from eau2.metrics.report import Metric, Report
    from eau2.store.jobs import Jobs
    from eau2.values.chunk import Chunk
    from eau2.values.manifest import Manifest

_FRAME, _SPREAD = int(Kind.FRAME), int(Kind.SPREAD)
_GONE = (FileNotFoundError, Corrupt, Unreachable)  # why a chunk cannot be had from a node


class Whole(ABC):
    """The `Node` over all members. Thread-safe.

    client: it asks them. ended: set once this is closed, by whoever makes one of these.
    """

    jobs: Jobs | None = None
    fleet: AnyFleet | None = None
    here = None

    def __init__(self, name: str, client: Client, ended: threading.Event) -> None:
        self.name = name
        self._client = client
        self._ended = ended
        self._process = os.getpid()

    # -- how they are reached -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def view(self) -> View:
        """The view there is now, as far as is known here."""

    @property
    @abstractmethod
    def nodes(self) -> Mapping[str, Any]:
        """All nodes, each as what it is by itself: `Replica`, or as much of it as is asked here."""

    @abstractmethod
    def _peer(self, name: str) -> Peer: ...

    @abstractmethod
    def _written(self) -> None:
        """Wake those who wait for a write."""

    @abstractmethod
    def _stage_copy(self, name: str, chunk_id: str, data: pa.Buffer) -> Staged:
        """Stage on node `name` a chunk that is mapped as `data` from any: linked where it has one of its own."""

    def each(self, calls: Iterable[Callable[[], Any]]) -> list[Any]:
        """Make all `calls`, each to one node; return what they returned."""
        return [call() for call in calls]

    def _answering(self) -> list[Any]:
        """Return the nodes that can be asked now."""
        return list(self.nodes.values())

    def _likely(self, name: str, chunk_ids: Sequence[str]) -> set[str]:
        """Return those of `chunk_ids` that node `name`, a home of all, is thought to have."""
        return self._having(name, chunk_ids)

    def _mapped(self, buffers: list[Any], places: tuple[str, ...], live: tuple[str, ...], key: str) -> MappedFrame:
        return MappedFrame(buffers, places, live)

    # -- whether it is open -------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        """Raise StoreClosed unless this can be used."""
        if os.getpid() != self._process:
            raise closed(forked=True)
        if self._ended.is_set():
            raise closed()

    @contextlib.contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Whatever fails because this was closed meanwhile is StoreClosed: asking nodes, or files of ours."""
        try:
            yield
        except (Eau2Error, Unreachable, ValueError, OSError):
            self._check_open()
            raise

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run `coroutine`, of the client, to its end, in the view there is now. StoreClosed."""
        try:
            with self._unless_closed():
                self._check_open()
                self._client.learn(self.view)
                return finish(coroutine)
        finally:
            coroutine.close()  # it may not have begun

    # -- entries ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        if not keys:
            return {}
        found: dict[str, Entry] = self._run(self._client.get(keys))
        return {key: as_users_know(entry) for key, entry in found.items()}

    def keys(self, prefix: str = "", *, limit: int | None = None) -> list[str]:
        found: list[str] = self._run(self._client.names(prefix, limit))
        return found

    def frames(self) -> list[str]:
        found: list[str] = self._run(self._client.names(frames=True))
        return found

    def write(self, writes: Sequence[Write]) -> list[int | Eau2Error]:
        if not writes:
            return []
        spread = [_spread(write) for write in writes]
        try:
            outcomes: list[int | Eau2Error] = self._run(self._client.write(spread))
        finally:  # what was published is not there any more under its staged name
            self.discard([chunk for write in writes for chunk in write.chunks])
        self._written()
        return outcomes

    # -- chunks -------------------------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Return the live nodes, in natural order."""
        return tuple(sorted(self.view.live, key=lambda name: (len(name), name)))

    def assigned(self, key: str, index: int, first: str = "") -> tuple[str, ...]:
        """As `Node.assigned`."""
        self._check_open()
        view = self.view
        if first and first not in view.live:
            raise InvalidOption(f"{first!r} is no live node", hint=f"these are: {', '.join(self.names())}")
        return view.assigned(key, index, first)

    def chunk_homes(self, chunk_id: str, assigned: Sequence[str]) -> tuple[str, ...]:
        return self.view.chunk_homes(chunk_id, assigned)

    def live(self) -> tuple[str, ...]:
        self._check_open()
        return self.view.live

    def map_frame(self, manifest: Manifest, *, key: str = "") -> MappedFrame:
        """As `Node.map_frame`. A frame of which a home lacks a chunk has it from any node that has one."""
        self._check_open()
        view = self.view
        places = self._places(view, manifest)
        buffers: list[Any] = [None] * len(places)
        several: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(places):
            several[name].append(index)

        def map_on(name: str, mine: Sequence[int]) -> None:
            with contextlib.suppress(*_GONE):  # one of them: then each by itself
                found = self.nodes[name].map([manifest.chunk_ids[index] for index in mine], key=key)
                for index, buffer in zip(mine, found, strict=True):
                    buffers[index] = buffer

        self.each([lambda name=name, mine=mine: map_on(name, mine) for name, mine in several.items()])  # type: ignore[misc]
        for index, buffer in enumerate(buffers):
            if buffer is None:
                buffers[index], places[index] = self._map_one(view, manifest, index, places[index], key)
        return self._mapped(buffers, tuple(places), view.live, key)

    def _places(self, view: View, manifest: Manifest) -> list[str]:
        """Return for each chunk of a frame one live home that has it, so that each home has as many as can be."""
        ids = manifest.chunk_ids
        homes = [view.chunk_homes(*chunk) for chunk in zip(ids, manifest.chunk_homes, strict=True)]
        asked: dict[str, list[str]] = defaultdict(list)
        for chunk_id, names in zip(ids, homes, strict=True):
            for name in names:
                asked[name].append(chunk_id)
        has = {name: self._likely(name, chunks) for name, chunks in asked.items()}
        load: Counter[str] = Counter()
        chosen: list[str] = []
        for index, chunk_id in enumerate(ids):
            there = [name for name in homes[index] if chunk_id in has[name]]
            there = there or [name for name in view.live if self._having(name, [chunk_id])]
            if not there:
                raise self._no_chunk(chunk_id, manifest.chunk_homes[index], key="")
            place = min(there, key=lambda name: load[name])
            load[place] += 1
            chosen.append(place)
        return chosen

    def _having(self, name: str, chunk_ids: Sequence[str]) -> set[str]:
        with contextlib.suppress(Unreachable):
            there = self.nodes[name].has_chunks(chunk_ids)
            return {chunk for chunk, is_there in zip(chunk_ids, there, strict=True) if is_there}
        return set()

    def _no_chunk(self, chunk_id: str, assigned: Sequence[str], key: str) -> Exception:
        """Return the error for a chunk that no live node has: NodeUnavailable when another may."""
        view = self.view
        down = [name for name, _ in view.members if name not in view.live and view.state(name) != State.LEFT]
        if down:
            of = f"{key!r}: " if key else ""
            return NodeUnavailable(
                f"{of}chunk {chunk_id} is on {' and '.join(assigned)}; down: {', '.join(down)}",
                hint="start them again",
            )
        return FileNotFoundError(2, "no such chunk", chunk_id)

    def _map_one(self, view: View, manifest: Manifest, index: int, place: str, key: str) -> tuple[Any, str]:
        """Map a chunk from `place`; where it is damaged or gone there, mend it, or else map it from another node."""
        chunk_id = manifest.chunk_ids[index]
        silent = ""
        try:
            return self.nodes[place].map([chunk_id], key=key)[0], place
        except Unreachable as error:
            silent = error.name
        except (FileNotFoundError, Corrupt):
            if self._mend(view, place, chunk_id, manifest.chunk_rows[index]):
                with contextlib.suppress(*_GONE):  # it may have been lost, or end, since
                    return self.nodes[place].map([chunk_id], key=key)[0], place
        for name in view.live:
            try:
                return self.nodes[name].map([chunk_id], key=key)[0], name
            except Unreachable as error:
                silent = error.name
            except (FileNotFoundError, Corrupt):
                continue
        if not silent:
            try:
                return self.nodes[place].map([chunk_id], key=key)[0], place  # or what is wrong with it is raised
            except FileNotFoundError:
                raise self._no_chunk(chunk_id, manifest.chunk_homes[index], key) from None
            except Unreachable as error:
                silent = error.name
        raise NodeUnavailable(f"{key!r}: chunk {chunk_id} is on {silent}, which does not answer")

    def _mend(self, view: View, name: str, chunk_id: str, rows: int) -> bool:
        """Have `name`'s copy of a chunk, which cannot be read, replaced by that of another; return whether it was."""
        others = [other for other in view.live if other != name and self._having(other, [chunk_id])]
        try:
            size = self._run(_mended(self._peer(name), view.epoch, chunk_id, others))
        except (Eau2Error, FileNotFoundError, NotServing, Unreachable, WrongEpoch):  # then it is read from another
            return False
        self.nodes[name].count_read(ReadCounts(rows_moved=rows, bytes_moved=size, chunks_mended=1))
        return True

    def verify(
        self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "", places: Sequence[str] = ()
    ) -> None:
        self._check_open()
        for chunk_id, mapped, place in zip(chunk_ids, data, places, strict=True):
            self.nodes[place].verify([chunk_id], [mapped], key=key)

    # -- staging ------------------------------------------------------------------------------------------------------

    def stage(self, chunk: Chunk, homes: Sequence[str] = ()) -> Staged:
        """Write `chunk` on each of `homes` that answers, or on others for those that are not live, where nobody sees it
        yet. DiskFull leaves nothing behind; NodeUnavailable when none answers."""
        self._check_open()
        homes = self.view.chunk_homes(chunk.id, homes)
        return self._on_each(chunk.id, homes, lambda name: self.nodes[name].stage(chunk))

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged:
        self._check_open()
        homes = self.view.chunk_homes(chunk_id, homes)
        return self._on_each(chunk_id, homes, lambda name: self._stage_copy(name, chunk_id, data))

    def _on_each(self, chunk_id: str, homes: Sequence[str], stage: Callable[[str], Staged]) -> Staged:
        """Stage a chunk on all `homes`, or at least on one. Those that do not answer are not asked again, as each try
        may take as long as the first: who orders the frame sees what it is short of, and has it copied at once."""
        if not homes:
            raise NodeUnavailable("no node is live", hint="start one")
        copies: list[Staged] = []
        silent: list[str] = []

        def stage_on(name: str) -> None:
            try:
                copies.append(replace(stage(name), node=name))
            except Unreachable:
                silent.append(name)

        try:
            self.each([lambda name=name: stage_on(name) for name in homes])  # type: ignore[misc]
            if not copies:
                raise NodeUnavailable(f"chunk {chunk_id} is to go to {' and '.join(silent)}, and none answers")
        except BaseException:
            self.discard([Staged(chunk_id, "", copies=tuple(copies))])
            raise
        return replace(copies[0], copies=tuple(copies))

    def discard(self, staged: Sequence[Staged]) -> None:
        parts: dict[str, list[Staged]] = defaultdict(list)
        for chunk in staged:
            for copy in chunk.copies:
                parts[copy.node].append(copy)
        for name, copies in parts.items():
            self.nodes[name].discard(copies)

    # -- the cluster itself -------------------------------------------------------------------------------------------

    def count_read(self, more: ReadCounts) -> None:
        """Nothing is read here: each node counts for itself."""
        del more

    def check(self) -> NodeCheck:
        """As `Node.check` for all nodes; and every key and chunk has its copies, equal, where they belong."""
        self._check_open()
        return audit(self)

    def statistics(self) -> NodeStatistics:
        """Return the sums of all nodes; keys, frames and chunks are counted once each, not each copy."""
        self._check_open()
        several = self._answering()
        parts = tuple(self.each([lambda node=node: self._statistics(node) for node in several]))  # type: ignore[misc]
        names = [field.name for field in fields(NodeStatistics) if field.name not in ("name", "nodes")]
        sums = {name: sum(getattr(part, name) for part in parts) for name in names}
        sizes = self.each([node.chunk_sizes for node in several])
        chunks = {chunk: size for each in sizes for chunk, size in each.items()}
        sums |= {"keys": len(self.keys()), "frames": len(self.frames())}
        sums |= {"chunks": len(chunks), "chunk_bytes": sum(chunks.values())}
        return NodeStatistics(**sums, nodes=parts)

    @abstractmethod
    def reports(self) -> tuple[Report, ...]:
        """As `Node.reports`."""

    @abstractmethod
    def publish(self, metrics: Sequence[Metric], *, source: str = "") -> None:
        """As `Node.publish`."""

    def _statistics(self, node: Any) -> NodeStatistics:
        found: NodeStatistics = node.statistics()
        return found


async def _mended(peer: Peer, epoch: int, chunk_id: str, nodes: Sequence[str]) -> int:
    return await peer.mend(epoch, chunk_id, nodes)


def as_users_know(entry: Entry) -> Entry:
    """Return `entry` of the kind that it has on a store of one node."""
    return entry if entry.kind != _SPREAD else Entry(entry.version, _FRAME, entry.payload)


def _spread(write: Write) -> Write:
    if write.kind != Kind.FRAME:
        return write
    copies = tuple(copy for chunk in write.chunks for copy in chunk.copies)
    return write._replace(kind=Kind.SPREAD, chunks=copies)

"""The store of a cluster as a driver has it: `Nodes` and `Node`, over a `Transport`."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from eau2.cluster.client import ANSWER_SECONDS, Client
from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.cluster.runtime import finish
from eau2.cluster.whole import Whole
from eau2.errors import Corrupt, Eau2Error, NodeUnavailable, StoreUnusable
from eau2.metrics.gossip import Gossip
from eau2.remote.asking import awaited, ready
from eau2.remote.chunks import CACHE_BYTES, ChunkCache, FarBuffers, FarChunk
from eau2.remote.fleet import Fleet
from eau2.remote.jobs import FarJobs
from eau2.remote.place import Lent, RemotePlace
from eau2.remote.transport import ThreadRuntime
from eau2.remote.watch import Watch
from eau2.store.membership import no_way_in
from eau2.store.nodes import MappedFrame
from eau2.store.open_nodes import add_open, remove_open
from eau2.values.chunk import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from eau2.cluster.peer import Peer
    from eau2.cluster.view import View
    from eau2.metrics.gossip import Answer
    from eau2.metrics.report import Metric, Report
    from eau2.remote.transport import Transport
    from eau2.store.membership import EpochChange, Member, WayIn
    from eau2.store.nodes import NodeCheck, NodeStatistics, Staged
    from eau2.values.manifest import Manifest

_WAIT_SECONDS_MAX = 0.5  # for a write: then the homes may be others
_THREADS = 8  # that ask several nodes at once


class RemoteNodes:
    """`Nodes` of the cluster that `transport` reaches.

    name: of this driver, for requests; one that nobody else has by default. answer_seconds: for how long nodes are
    asked again before an error says that they do not answer. cache_bytes: what is kept of chunks that were brought from
    other machines. Raises NodeUnavailable when the cluster is not ready in `answer_seconds`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        name: str = "",
        answer_seconds: float = ANSWER_SECONDS,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        ended = threading.Event()
        runtime = ThreadRuntime(transport, ended)
        status = ready(runtime, answer_seconds)
        assert status.view is not None  # it is ready
        self.store = status.store
        client = Client(name or uuid.uuid4().hex, runtime, status.view, answer_seconds=answer_seconds)
        self._whole = RemoteCluster(transport, client, runtime, ended, cache_bytes=cache_bytes)

    def members(self) -> tuple[str, ...]:
        return self._whole.names()

    def at(self, name: str) -> RemotePlace:
        if name not in self._whole.nodes:
            raise StoreUnusable(f"the cluster has no node {name!r}", hint=f"it has {', '.join(self._whole.nodes)}")
        return self._whole.nodes[name]

    def membership(self) -> tuple[Member, ...]:
        found: tuple[Member, ...] = self._whole.coordinators("members")
        return found

    def epochs(self) -> tuple[EpochChange, ...]:
        found: tuple[EpochChange, ...] = self._whole.coordinators("epochs")
        return found

    def way_in(self) -> WayIn:
        raise no_way_in("a cluster over this transport")

    def whole(self) -> RemoteCluster:
        return self._whole

    def close(self) -> None:
        self._whole.close()


class RemoteCluster(Whole):
    """The `Node` over all members. Thread-safe."""

    jobs: FarJobs
    fleet: Fleet

    def __init__(
        self, transport: Transport, client: Client, runtime: ThreadRuntime, ended: threading.Event, *, cache_bytes: int
    ) -> None:
        super().__init__("", client, ended)
        self._runtime = runtime
        self._cache = ChunkCache(cache_bytes)
        self._watch = Watch(client, transport)
        self.transport = transport
        self.jobs = FarJobs(transport)
        self.fleet = Fleet(transport)
        self._lock = threading.Lock()  # guards what is below
        self._by_name: dict[str, RemotePlace] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._gossip = Gossip("")  # it hears, and has nothing to say
        add_open(self)

    def __repr__(self) -> str:
        return f"<RemoteCluster: {len(self.view.live)} nodes live, epoch {self.view.epoch}>"

    @property
    def view(self) -> View:
        return self._client.view

    @property
    def nodes(self) -> Mapping[str, RemotePlace]:
        """All that have been members since this driver was connected, those that are dead too."""
        members = self._client.view.members
        if any(name not in self._by_name for name, _ in members):
            with self._lock:
                new = [name for name, _ in members if name not in self._by_name]
                made = {name: RemotePlace(name, self.transport, self._client.name, self._watch) for name in new}
                self._by_name = {**self._by_name, **made}  # replaced, never changed: others go through it meanwhile
        return self._by_name

    def _answering(self) -> list[RemotePlace]:
        nodes = self.nodes
        return [nodes[name] for name in self.view.present]

    def at(self, name: str) -> RemotePlace:
        return self.nodes[name]

    def _peer(self, name: str) -> Peer:
        return self._runtime.peer(name)

    def each(self, calls: Iterable[Callable[[], Any]]) -> list[Any]:
        several = list(calls)
        if len(several) < 2:
            return [call() for call in several]
        with self._lock:
            self._check_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="eau2-driver")
            futures = [self._pool.submit(call) for call in several]
        for future in futures:  # each call has its own time
            with contextlib.suppress(CancelledError):  # the store was closed; `wait` would not hear of it
                future.exception()
        self._check_open()
        return [future.result() for future in futures]

    # -- who is live --------------------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        self._look_round()
        return super().names()

    def live(self) -> tuple[str, ...]:
        self._look_round()
        return super().live()

    def assigned(self, key: str, index: int, first: str = "") -> tuple[str, ...]:
        """As `Node.assigned`."""
        self._look_round()
        return super().assigned(key, index, first)

    def _look_round(self) -> None:
        """Have the view that there is now: ask for it, unless who watches hears of each."""
        self._check_open()
        if not self._watch.hears():
            self._ask_view()

    def _ask_view(self) -> None:
        self._check_open()
        with contextlib.suppress(Unreachable):  # then it is as it was
            self._client.learn(finish(awaited(self._runtime.coordinator().view())))

    # -- waiting ------------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """Return a number that differs after any write on any node. 1 us: nobody is asked."""
        self._check_open()
        return self._watch.number()

    def wait_for_write(self, since: int, timeout_seconds: float) -> int:
        """As `Node.wait_for_write`. A write of another driver wakes within some 20 ms."""
        self._check_open()
        self._watch.wait(since, min(timeout_seconds, _WAIT_SECONDS_MAX))
        return self.generation()

    def _written(self) -> None:
        self._watch.bump()

    # -- chunks -------------------------------------------------------------------------------------------------------

    def _likely(self, name: str, chunk_ids: Sequence[str]) -> set[str]:
        return set(chunk_ids)  # not asked: who has it not after all says so when it is to be mapped

    def _mapped(self, buffers: list[Any], places: tuple[str, ...], live: tuple[str, ...], key: str) -> MappedFrame:
        if not any(isinstance(buffer, Lent) for buffer in buffers):
            return MappedFrame(buffers, places, live)
        pieces = [
            FarChunk(piece.id, self._cache, partial(self._brought, piece, key)) if isinstance(piece, Lent) else piece
            for piece in buffers
        ]
        return MappedFrame(FarBuffers(pieces), places, live)

    def _brought(self, lent: Lent, key: str) -> Sequence[pa.Buffer]:
        return [self._bring(lent, key)]

    def _bring(self, lent: Lent, key: str) -> pa.Buffer:
        """Return the bytes of a chunk from the node that keeps it, or from any that has it."""
        self._check_open()
        try:
            return lent.read()
        except (Unreachable, FileNotFoundError, Corrupt) as error:
            failure = error
        for name in self.view.live:
            with contextlib.suppress(Unreachable, FileNotFoundError, Corrupt):
                return self.nodes[name].read(lent.id)
        self._check_open()
        if isinstance(failure, Corrupt):
            raise failure
        raise NodeUnavailable(
            f"{key!r}: chunk {lent.id} is on {lent.place.name}, which does not answer or has lost it",
            hint="start it again, or get the frame again",
        ) from failure

    def verify(
        self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "", places: Sequence[str] = ()
    ) -> None:
        """As `Node.verify`: of chunks that are mapped. What is brought is verified when it comes."""
        self._check_open()
        pieces = data.pieces if isinstance(data, FarBuffers) else data
        for chunk_id, piece, place in zip(chunk_ids, pieces, places, strict=True):
            if not isinstance(piece, FarChunk):
                self.nodes[place].verify([chunk_id], [piece], key=key)

    def map_frame(self, manifest: Manifest, *, key: str = "") -> MappedFrame:
        with self._unless_closed():
            return super().map_frame(manifest, key=key)

    def stage(self, chunk: Chunk, homes: Sequence[str] = ()) -> Staged:
        with self._unless_closed():
            return super().stage(chunk, homes)

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged:
        with self._unless_closed():
            return super().stage_again(chunk_id, data, homes)

    def _stage_copy(self, name: str, chunk_id: str, data: pa.Buffer) -> Staged:
        try:
            return self.nodes[name].link(chunk_id)
        except (FileNotFoundError, Corrupt):
            return self.nodes[name].stage(Chunk(chunk_id, 0, data.size, (data,)))

    # -- the cluster itself -------------------------------------------------------------------------------------------

    def check(self) -> NodeCheck:
        self._ask_view()  # who watches hears of one that has left within seconds: here it would be missed
        with _said("check"):
            return super().check()

    def statistics(self) -> NodeStatistics:
        self._ask_view()
        with _said("statistics"):
            return super().statistics()

    def reports(self) -> tuple[Report, ...]:
        """As `Node.reports`: any node knows them, and is asked for what has changed since."""
        for look in (self._check_open, self._ask_view):  # the coordinator only where no node of before answers
            look()
            for name in self._runtime.chance.sample(live := self.view.live, len(live)):
                with self._lock:
                    digest = self._gossip.digest()
                with contextlib.suppress(Unreachable), self._unless_closed():
                    return self._heard(self.nodes[name].gossip(digest))
        raise NodeUnavailable("no node says how it is", hint="try again when one is back")

    def _heard(self, answer: Answer) -> tuple[Report, ...]:
        with self._lock:
            now = self._runtime.now()
            self._gossip.hear(answer.news, now)
            self._gossip.forget(now)
            return self._gossip.reports(now)

    def publish(self, metrics: Sequence[Metric], *, source: str = "") -> None:
        """As `Node.publish`: on a node of this machine, or else on the first that answers."""
        self._look_round()
        live = [self.nodes[name] for name in super().names()]
        for place in sorted(live, key=lambda place: not place.is_near()):
            with contextlib.suppress(Unreachable), self._unless_closed():
                place.publish(metrics, source)
                return
        raise NodeUnavailable("no node takes figures", hint="try again when one is back")

    def coordinators(self, what: str) -> Any:
        """Return what the coordinator knows of the members."""
        self._check_open()
        with _said(what):
            return finish(awaited(getattr(self._runtime.coordinator(), what)()))

    def rebalance(self) -> int:
        """As `Node.rebalance`."""
        self._check_open()
        coordinator: Any = self._runtime.coordinator()
        with _said("rebalance"):
            view = finish(awaited(coordinator.advance()))
            return sum(self.nodes[name].work("rebalance", view).copies for name in view.live)

    def close(self) -> None:
        """End within a second; nodes go on. Idempotent."""
        if self._ended.is_set() or os.getpid() != self._process:
            return
        with self._lock:
            self._ended.set()
        self.jobs.close()
        self.fleet.close()
        self._watch.close()
        for left in [place.leave() for place in self._answering()]:
            with contextlib.suppress(Unreachable, Eau2Error):
                left.result()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._cache.clear()
        remove_open(self)

    def abandon(self) -> None:
        """In a forked child nothing here is used: `_check_open` says so."""


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Say of nodes that do not answer, or not in this view, what users are told."""
    try:
        yield
    except Unreachable as error:
        raise NodeUnavailable(f"{what}: {error}", hint="try again when it is back, or the others go on") from error
    except (NotServing, WrongEpoch) as error:
        raise NodeUnavailable(f"{what}: the members changed meanwhile", hint="try again") from error

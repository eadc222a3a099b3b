"""What the process of a node does: it has the node's directory alone, and answers what is asked over a `Transport`.

What members and clients ask of the member is done where that runs (`membership.py`). What reads, writes and hashes
whole chunks is done by a pool of threads, and so is in nobody's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from eau2.cluster.coordinator import LEASE_SECONDS
from eau2.cluster.peer import Unreachable
from eau2.errors import Corrupt, DiskFull
from eau2.machine import cores, memory_of_machine
from eau2.query.spill import SpillFolder
from eau2.remote.crew import Crew
from eau2.remote.gossiping import Gossiping
from eau2.remote.hosting import Hosted
from eau2.remote.identity import OwnedDirectory
from eau2.remote.lending import Lending
from eau2.remote.membership import GRACE_SECONDS, Membership, NodeStatus
from eau2.remote.queries import Queries, Terms
from eau2.remote.runs import ASKED, Runs
from eau2.remote.spreading import KIND
from eau2.remote.work import JOB_CALLS, Work
from eau2.store.chunks import boot_id
from eau2.store.node import DirectoryNode
from eau2.store.nodes import closed
from eau2.values.chunk import Chunk

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    import pyarrow as pa

    from eau2.metrics.report import Metric
    from eau2.remote.transport import Answer, Arguments, Transport
    from eau2.store.database import Flush
    from eau2.store.nodes import NodeStatistics, Staged

_logger = logging.getLogger(__name__)
_POOL_THREADS = 8
_FORGET_SECONDS = 10.0
_STOP_SECONDS = 0.3  # for each of the threads; the node itself takes at most 0.9
_OF_MEMBER = frozenset(
    ["get", "names", "write", "hold", "release", "replicate", "revoke", "collect", "reserve", "finish"]
)
_OF_MEMBER |= {"listing", "records", "copy", "mend"}
_OF_MEMBERSHIP = frozenset({"meet", "changed", "rebalance"})
_OF_GOSSIP = frozenset({"asked", "gossip", "hear_news"})
_OF_NODE = frozenset(["check", "listing", "records", "chunk_sizes", "has_chunks", "count_read"])


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a node has its files: who sees the same directory on the same machine may map them."""

    directory: str
    boot: str
    device: int
    inode: int


class NodeServer:
    """The node `name` in `directory`, from construction to `stop`. Thread-safe.

    It takes part as soon as the coordinator, which it reaches by `transport`, knows of it; a directory that took part
    before has what it had. `ask` answers others. Raises what `OwnedDirectory` and `DirectoryNode` do.

    memory_bytes: what all queries on this node together may hold before they spill, to its directory; half of the
    machine, or of the container, by default. allow_exec: whether it runs commands for whoever asks. brought: who
    brought its machine in.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        transport: Transport,
        *,
        name: str,
        flush: Flush = "process",
        lease_seconds: float = LEASE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        memory_bytes: int | None = None,
        allow_exec: bool = False,
        brought: str = "",
    ) -> None:
        self.name = name
        self._stopped = False
        self._terms = Terms(memory_bytes or memory_of_machine() // 2, cores())
        with contextlib.ExitStack() as undo:
            self._owned = OwnedDirectory(directory, name)
            undo.callback(self._owned.close)
            self._node = DirectoryNode(self._owned.path, flush=flush, name=name)
            undo.callback(self._node.close)
            self._spill = SpillFolder(os.fspath(self._owned.path))
            with contextlib.suppress(DiskFull):  # of that queries will say; all else goes on without room
                self._spill.path()  # what a process that was killed has left goes now
            self._membership = Membership(
                self._owned,
                self._node,
                transport,
                lease_seconds=lease_seconds,
                grace_seconds=grace_seconds,
                brought=brought,
            )
            undo.pop_all()
        self._lending = Lending()
        self._crew = Crew(self._node, self._terms.threads)
        self._queries = Queries(self._node, transport, self._spill, self._terms)
        self._runs = Runs(name, self._owned.path, transport, allowed=allow_exec)
        kinds: dict[str, Any] = {
            KIND: self._runs.begin,
            "map": self._crew.map,
            "program": partial(Hosted, transport),
            "query": self._queries.begin,
        }
        self._node.figures.also("engine_", self._queries.statistics)
        self._jobs = Work(name, kinds)
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="eau2-node")
        self._gossiping = Gossiping(name, transport, self._members, self._counted)
        for forever in (self._forgetting(), self._gossiping.saying(), self._gossiping.asking()):
            self._membership.submit(forever).add_done_callback(_look_for_faults)

    def __repr__(self) -> str:
        return f"<NodeServer {self.name} {self._owned.path}: {self._membership}>"

    def ask(self, method: str, arguments: Arguments) -> Future[Answer]:
        """Have `method` done. Never waits, never raises: the future comes to what was returned, or raised."""
        given, named = arguments
        if self._stopped:
            return unreachable(self.name)
        if method == "work":
            return self._membership.submit(answered(self._work(*given)))
        if method in _OF_MEMBERSHIP:
            return self._membership.submit(answered(getattr(self._membership, method)(*given, **named)))
        if method in _OF_GOSSIP:
            return self._membership.submit(answered(getattr(self._gossiping, method)(*given)))
        if method in _OF_MEMBER:
            return self._membership.submit(answered(self._ask_member(method, given, named)))
        if method == "hear_job":
            return self._jobs.hear_job(*given)
        try:
            return self._pool.submit(self._answer, method, given, named)
        except RuntimeError:  # it was stopped just now
            return unreachable(self.name)

    async def _ask_member(self, method: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return await getattr(self._membership.present(), method)(*given, **named)

    async def _work(self, token: str, method: str, given: tuple[Any, ...], seconds: float) -> Answer | None:
        """Have `method` done, however long it takes: see `Membership.work`."""
        return await self._membership.work(token, lambda: self.ask(method, (given, {})), seconds)

    async def _forgetting(self) -> None:
        """See now and then which drivers have ended without a word: what is kept for them takes room."""
        while not self._stopped:
            await asyncio.sleep(_FORGET_SECONDS)
            with contextlib.suppress(RuntimeError):  # it was stopped just now
                self._pool.submit(self._discard_overdue)

    def _answer(self, method: str, given: tuple[Any, ...], named: dict[str, Any]) -> Answer:
        try:
            if method in JOB_CALLS:
                return getattr(self._jobs, method)(*given), None
            return getattr(self, f"_do_{method}")(*given, **named), None
        except Exception as error:
            return None, error

    def stop(self) -> None:
        """End within a second, whatever is under way. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._jobs.close()
        self._runs.close()
        self._crew.close()
        self._queries.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._membership.stop(_STOP_SECONDS)
        self._node.close()
        self._spill.remove()
        self._owned.close()

    # -- chunks -------------------------------------------------------------------------------------------------------

    def _do_stage(self, client: str, chunk_id: str, pieces: Sequence[pa.Buffer]) -> Staged:
        """Write a chunk where nobody sees it yet, for driver `client`."""
        self._discard_overdue()  # first: it may be what the disk has no room beside
        size = sum(piece.size for piece in pieces)
        return self._noted(client, self._node.stage(Chunk(chunk_id, 0, size, tuple(pieces))))

    def _do_link(self, client: str, chunk_id: str) -> Staged:
        """Stage a chunk that is here already. FileNotFoundError, Corrupt."""
        (data,) = self._node.map([chunk_id])
        return self._noted(client, self._node.stage_again(chunk_id, data))

    def _noted(self, client: str, staged: Staged) -> Staged:
        self._lending.staged(client, time.monotonic(), staged)
        return replace(staged, node=self.name)

    def _do_discard(self, client: str, staged: Sequence[Staged]) -> None:
        """Forget staged chunks; remove those that were not written."""
        self._node.discard(staged)
        self._lending.discarded(client, staged)

    def _discard_overdue(self) -> None:
        self._node.discard(self._lending.overdue(time.monotonic()))

    def _do_whereabouts(self) -> Whereabouts:
        status = os.stat(self._owned.path)
        return Whereabouts(str(self._owned.path), boot_id(), status.st_dev, status.st_ino)

    def _do_marks(self, chunk_ids: Sequence[str]) -> list[tuple[int, str] | None]:
        """Return of each chunk its size and the mark under which it was found whole; None where it is not here."""
        return self._node.marks(chunk_ids)

    def _do_lend(self, client: str, lease: str, chunk_ids: Sequence[str], key: str) -> list[Exception | None]:
        """Keep chunks for driver `client` until it gives `lease` back; say for each why that cannot be, if so:
        FileNotFoundError, Corrupt."""
        found: dict[str, pa.Buffer] = {}
        failures: dict[str, Exception] = {}
        for chunk_id in chunk_ids:
            try:
                (found[chunk_id],) = self._node.map([chunk_id], key=key)
            except (FileNotFoundError, Corrupt) as error:
                failures[chunk_id] = error
        self._lending.lend(client, time.monotonic(), lease, found)
        return [failures.get(chunk_id) for chunk_id in chunk_ids]

    def _do_read(self, client: str, lease: str, chunk_id: str) -> pa.Buffer:
        """Return the bytes of a chunk that was lent. FileNotFoundError when it is not, and is not here; Corrupt."""
        found = self._lending.lent(client, time.monotonic(), lease, chunk_id)
        return found if found is not None else self._node.map([chunk_id])[0]

    def _do_hear(self, client: str, leases: Sequence[str]) -> None:
        """Driver `client` is alive, and gives `leases` back."""
        self._lending.hear(client, time.monotonic())
        self._lending.give_back(client, leases)

    def _do_leave(self, client: str) -> None:
        """Driver `client` has ended."""
        self._node.discard(self._lending.leave(client))

    def _do_chunk(self, epoch: int, chunk_id: str) -> bytes:
        """As `Peer.chunk`, which the member need not do itself."""
        self._membership.present().same_epoch(epoch)
        data: bytes = self._node.map([chunk_id])[0].to_pybytes()
        return data

    # -- queries ------------------------------------------------------------------------------------------------------

    def _do_terms(self) -> Terms:
        return self._terms

    def _do_piece(self, query: str, number: int, start: int, size: int) -> bytes:
        """Return a part of what was made for a query. FileNotFoundError."""
        return self._queries.piece(query, number, start, size)

    # -- the node itself ----------------------------------------------------------------------------------------------

    def _do_node(self, method: str, *given: Any) -> Any:
        """Ask the node itself, whatever the epoch: what it has, not what counts."""
        if method not in _OF_NODE:
            raise AttributeError(f"nobody asks a node for {method}")
        return getattr(self._node, method)(*given)

    def _do_publish(self, metrics: Sequence[Metric], source: str) -> None:
        """As `Node.publish`."""
        self._node.publish(metrics, source=source)

    def _members(self) -> Sequence[str]:
        member = self._membership.member
        return () if member is None else member.view.present

    async def _counted(self) -> Sequence[Metric]:
        """Return what this node says of itself. StoreClosed."""
        try:
            counting = self._pool.submit(self._do_statistics, lately=True)
        except RuntimeError:  # it was stopped just now
            raise closed() from None
        return self._node.figures.metrics(await asyncio.wrap_future(counting))

    def _do_statistics(self, *, lately: bool = False) -> NodeStatistics:
        """As `Node.statistics`, with what its repair has done."""
        found, repair = self._node.statistics(lately=lately), self._membership.repair
        if repair is None:
            return found
        done = repair.progress
        copied = done.keys + done.chunks
        return replace(found, copies_missing=done.missing, copied=copied, copied_bytes=done.bytes)

    def _do_fleet(self, method: str, *given: Any) -> Any:
        """Ask for what was run here, or have it ended."""
        if method not in ASKED:
            raise AttributeError(f"nobody asks a node's runs for {method}")
        return getattr(self._runs, method)(*given)

    def _do_status(self) -> NodeStatus:
        return self._membership.status()


def _look_for_faults(future: Future[None]) -> None:
    """What is to go on for ever has ended: by a fault of ours, unless the node was stopped."""
    if future.cancelled():
        return
    error = future.exception()
    if error is not None and not isinstance(error, CancelledError):
        _logger.error("a loop of the node has ended", exc_info=error)


def unreachable(name: str) -> Future[Answer]:
    """Return the answer of one who has stopped."""
    done: Future[Answer] = Future()
    done.set_result((None, Unreachable(name)))
    return done


async def answered(coroutine: Coroutine[Any, Any, Any]) -> Answer:
    """Return what `coroutine` returns, or raises, as what travels back."""
    try:
        return await coroutine, None
    except Exception as error:
        return None, error

"""A node's part in the cluster: its `Member`, and the loops that keep it one.

Two threads, so that the one is not in the other's way:

* one runs the member, its repair, and all that is asked of it, in asyncio. Nothing there happens at the same time as
  anything else, which is what the member's code is written for and tested with. It calls the node's database in that
  thread: calls of microseconds, and of milliseconds where the disk flushes;
* one renews the lease, so that a disk that is slow for a moment does not cost the node its membership. When the first
  has not moved for `STALLED_SECONDS` it stops renewing, and the others go on without the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eau2.cluster.coordinator import LEASE_SECONDS
from eau2.cluster.keys import VIEW
from eau2.cluster.member import Member
from eau2.cluster.peer import NotServing, Unreachable
from eau2.cluster.rebalance import Moved, rebalance
from eau2.cluster.repair import Repair
from eau2.cluster.view import View
from eau2.errors import Eau2Error
from eau2.remote.loops import LoopThread
from eau2.remote.transport import LoopRuntime
from eau2.store.nodes import RANK_BITS, Kind, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from eau2.remote.identity import OwnedDirectory
    from eau2.remote.transport import Answer, Transport
    from eau2.store.node import DirectoryNode

STALLED_SECONDS = 10.0
GRACE_SECONDS = 60.0  # surplus copies are kept so long after all is in its place
_BEGIN_SECONDS = 30.0
_BEAT_SECONDS = 1.0
_UNDO_SECONDS = 0.25
_ANNOUNCE_SECONDS = 0.1
_OVERDUE_SECONDS = 0.5
_FORGOTTEN_SECONDS = 600.0
_LOOK_AGAIN_SECONDS = 0.5  # for a write of which nobody told, as whoever wrote was cut short


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself. `refused`: why it is no member, or not any more; "" when nothing is wrong."""

    name: str
    store: str
    epoch: int
    serves: bool
    refused: str


class Membership:
    """The membership of `node`, in the directory `owned`, from construction to `stop`. Thread-safe.

    brought: who brought its machine in, which is said when it joins."""

    def __init__(
        self,
        owned: OwnedDirectory,
        node: DirectoryNode,
        transport: Transport,
        *,
        lease_seconds: float = LEASE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        brought: str = "",
    ) -> None:
        self.name = node.name
        self.member: Member | None = None
        self.repair: Repair | None = None
        self._owned, self._node = owned, node
        self._runtime = LoopRuntime(transport)
        self._lease_seconds, self._grace_seconds = lease_seconds, grace_seconds
        self._incarnation, self._brought = uuid.uuid4().hex, brought
        self._refused = ""
        self._beat = self._runtime.now()
        self._work: dict[str, asyncio.Future[Answer]] = {}  # by the name that who asked gave it
        self._asked: dict[str, float] = {}  # when they last did
        self._waiting: set[asyncio.Future[None]] = set()  # for a write
        self._loop, self._leases = LoopThread("eau2-member"), LoopThread("eau2-lease")
        known = node.records([VIEW]).get(VIEW)
        try:
            if known is not None:
                view = View.decode(known.payload)
                self._loop.submit(self._begin(view, since=view.epoch)).result(_BEGIN_SECONDS)
        except BaseException:
            self.stop(_UNDO_SECONDS)
            raise
        node.on_write(self._wrote)
        self._run(self._loop, self._beating())
        self._run(self._leases, self._renewing())

    def __repr__(self) -> str:
        return f"<Membership of {self.name}: {self.member}>"

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run `coroutine` where the member runs."""
        return self._loop.submit(coroutine)

    def present(self) -> Member:
        """Return the member. NotServing before there is one."""
        if self.member is None:
            raise NotServing
        return self.member

    def status(self) -> NodeStatus:
        member = self.member
        epoch, serves = (0, False) if member is None else (member.view.epoch, member.serves)
        return NodeStatus(self.name, self._owned.identity.store, epoch, serves, self._refused)

    def stop(self, timeout_seconds: float) -> None:
        """End both threads, whatever is under way."""
        self._leases.stop(timeout_seconds)
        self._loop.stop(timeout_seconds)

    def _run(self, loop: LoopThread, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run one of our loops, or a part of one. Should it fail, our fault, the node is a member no longer."""

        def look(future: Future[None]) -> None:
            if not future.cancelled() and (error := future.exception()) is not None:
                self._refused = "".join(traceback.format_exception(error))

        loop.submit(coroutine).add_done_callback(look)

    # -- what is asked ------------------------------------------------------------------------------------------------

    async def meet(self, store: str, view: View | None) -> tuple[str, View | None]:
        """Be of `store` and enter `view`, where these are given; return the store and the view that this node has.

        StoreUnusable when it is of another store.
        """
        if store:
            self._owned.belong_to(store)
        if view is not None and self.member is None:
            self._node.store([Record(VIEW, view.epoch << RANK_BITS, Kind.BYTES, view.encode())])
            await self._begin(view, since=0)
        elif view is not None and self.member is not None:
            self.member.enter(view)
        return self._owned.identity.store, None if self.member is None else self.member.view

    async def _begin(self, view: View, *, since: int) -> None:
        """Be a member, in `view`. `since`: the epoch in which this node ended, 0 if it has never been one."""
        self.member = Member(self.name, self._node, self._runtime, view, incarnation=self._incarnation, since=since)
        self.repair = Repair(self.member, grace_seconds=self._grace_seconds)
        self._run(self._loop, self.repair.tend())
        self._run(self._loop, self._ending_overdue(self.member))

    async def rebalance(self, view: View) -> Moved:
        """Move the chunks of the frames that this member orders to where they would be put in `view`, which it enters.
        Raises as a write does."""
        member, moved = self.present(), Moved()
        member.enter(view)
        await member.settle()
        await rebalance(member, view, moved)
        return moved

    async def work(self, token: str, begin: Callable[[], Future[Answer]], seconds: float) -> Answer | None:
        """Return what the work named `token` came to, which `begin` begins when it is not under way; None when it takes
        longer than `seconds`: ask again."""
        if token not in self._work:
            self._work[token] = asyncio.wrap_future(begin())
        done, _ = await asyncio.wait([self._work[token]], timeout=seconds)
        self._asked[token] = now = self._runtime.now()
        for other in [name for name, at in self._asked.items() if now - at > _FORGOTTEN_SECONDS]:  # who asked has ended
            if self._work[other].done():
                del self._work[other], self._asked[other]
        if not done:
            return None
        del self._asked[token]
        return self._work.pop(token).result()

    async def changed(self, since: int, seconds: float) -> tuple[int, int]:
        """Return the node's generation and epoch as soon as there was a write after `since`, or when `seconds` are
        over."""
        deadline = self._runtime.now() + seconds
        while (left := deadline - self._runtime.now()) > 0:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(woken)  # before the look: a thread that writes just after it is to find somebody waiting
            try:
                if self._node.generation() != since:
                    break
                await asyncio.wait([woken], timeout=min(left, _LOOK_AGAIN_SECONDS))
            finally:
                self._waiting.discard(woken)
        return self._node.generation(), 0 if self.member is None else self.member.view.epoch

    def _wrote(self) -> None:
        """There was a write. Called by whoever wrote, in any thread."""
        if self._waiting:
            self._loop.call(self._wake)

    def _wake(self) -> None:
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)

    # -- loops --------------------------------------------------------------------------------------------------------

    async def _beating(self) -> None:
        while True:
            self._beat = self._runtime.now()
            await asyncio.sleep(_BEAT_SECONDS)

    async def _renewing(self) -> None:
        """Ask for another lease four times in each, whether the last questions were answered or not: one that is lost
        must not keep the next from being asked, and so cost the node its membership."""
        known = False  # to the coordinator
        while True:
            with contextlib.suppress(Unreachable):
                if not known:
                    known = await self._announce()
            if known and not self._refused and self._runtime.now() - self._beat < STALLED_SECONDS:
                self._run(self._leases, self._renew(self.present()))
            await asyncio.sleep(self._lease_seconds / 4 if known or self._refused else _ANNOUNCE_SECONDS)

    async def _announce(self) -> bool:
        """Have the coordinator know of this node; return whether it takes it as a member."""
        coordinator: Any = self._runtime.coordinator()
        store = self._owned.identity.store if self.member is not None else ""
        try:
            store, view = await coordinator.announce(self.name, self._incarnation, store, self._brought)
            await asyncio.wrap_future(self._loop.submit(self.meet(store, view)))
        except Eau2Error as error:  # it may be mended meanwhile
            self._refused = str(error)
            return False
        self._refused = ""
        return True

    async def _renew(self, member: Member) -> None:
        asked, epoch = self._runtime.now(), member.view.epoch
        whole = member.whole == epoch
        try:
            view = await self._runtime.coordinator().renew(self.name, self._incarnation, member.renewing, whole=whole)
        except Unreachable:
            return
        until = asked + self._lease_seconds
        if view.epoch == epoch:
            member.renewed(view, until)
        else:
            self._loop.call(member.renewed, view, until)

    async def _ending_overdue(self, member: Member) -> None:
        """By itself: repair may wait for what is overdue."""
        while True:
            await member.end_overdue()
            await asyncio.sleep(_OVERDUE_SECONDS)

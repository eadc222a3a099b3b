"""The nodes of one directory in this process: their members, and who looks after them.

<path>/node-0/ node-1/ ...   a DirectoryNode each, with the locks of its order
<path>/members.json          the view

Other processes have the same nodes. A view is replaced by who holds the locks of all orders, so nothing that was
written in one epoch is in flight in the next. A node fails only when it is told to (`fail`), which tests and
benchmarks do.
"""

from __future__ import annotations

import contextlib
import math
import threading
import uuid
from typing import TYPE_CHECKING

from eau2.cluster.batches import Batches
from eau2.cluster.calls import Calls, LocalClient, OrderLock, finish
from eau2.cluster.keys import decisions_on
from eau2.cluster.member import Member
from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.cluster.rebalance import Moved, rebalance
from eau2.cluster.repair import Repair
from eau2.cluster.shared import Membership
from eau2.cluster.view import State, View
from eau2.errors import Eau2Error, NodeUnavailable
from eau2.store.interrupts import uninterrupted
from eau2.store.nodes import closed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from eau2.cluster.shared import SharedLock
    from eau2.store.node import DirectoryNode

GRACE_SECONDS = 60.0  # surplus copies are kept so long after a view was made
_TEND_SECONDS = 0.05
_TEND_SECONDS_MAX = 1.0
_TRIES_MAX = 100
_INTERRUPTIONS = (Eau2Error, NotServing, Unreachable, WrongEpoch, OSError)


class LocalMembers:
    """The members over `nodes`, as one process has them.

    open_node: for one that another process lets join. grace_seconds: for how long surplus copies are kept.
    """

    def __init__(
        self,
        path: Path,
        nodes: Mapping[str, DirectoryNode],
        open_node: Callable[[str], DirectoryNode],
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.path = path
        self._open_node = open_node
        self.nodes = dict(nodes)  # replaced when one joins, never changed: others go through it meanwhile
        self.ended = threading.Event()
        self.membership = Membership(path, self.ended)
        self.down: set[str] = set()
        self.batches = Batches(path, self.ended, self._finish_decided)
        self._grace_seconds = grace_seconds
        self._locks: dict[tuple[str, str], SharedLock] = {}
        self._changing = threading.Lock()  # one thread enters a view at a time
        self._tending = threading.RLock()  # guards the two below; entered itself: see `Waiting`
        self._tended = threading.Condition(self._tending)
        self._tender: threading.Thread | None = None
        self._untended = False  # something has changed since the tender looked
        self._repaired = 0, 0  # the epoch, and how much was owed, when all copies were there that can be
        self._view = self.membership.read()
        self.members: dict[str, Member] = {}
        self.repairs: dict[str, Repair] = {}
        for name in self.nodes:
            self._start(name)
        self.client = LocalClient(self)
        try:
            self._clear_up()
        except BaseException:
            self.close()
            raise
        self.tend()

    def _start(self, name: str) -> None:
        member = Member(
            name, self.nodes[name], Calls(self, name), self._view, incarnation=uuid.uuid4().hex, leased=False
        )
        self.members = {**self.members, name: member}
        repair = Repair(member, grace_seconds=math.inf)
        if name in self.repairs:  # it is started again
            repair.progress = self.repairs[name].progress
        self.repairs[name] = repair

    def _clear_up(self) -> None:
        """Do or undo what killed processes have left half done."""
        self.batches.wait()
        for (name, order), lock in self._locks.items():
            if lock.left_over() and name in self._view.live:
                finish(self._even_out(name, order))

    async def _even_out(self, name: str, order: str) -> None:
        member = self.members[name]
        await member.settle()
        async with (member.order if order == "order" else member.decisions).stillness(member.view.epoch):
            pass

    # -- the view -----------------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """The view there is now, also when another process has made it."""
        if self.membership.epoch() != self._view.epoch:
            self._enter(self.membership.read())
        return self._view

    def _enter(self, view: View) -> None:
        with uninterrupted(), self._changing:
            if view.epoch <= self._view.epoch:
                return
            for name, _ in view.members:
                if name not in self.nodes:
                    self._open(name)
            for name, member in self.members.items():
                if name not in self.down:
                    member.enter(view)
            self._view = view
        self.tend()

    def _open(self, name: str) -> None:
        if self.ended.is_set():
            raise closed()
        self.nodes = {**self.nodes, name: self._open_node(name)}
        self._start(name)

    def change(self, make: Callable[[View], View], *, failing: str = "", seen: str = "") -> View:
        """Replace the view by `make` of what it is, while nobody writes, in any process. StoreBusy, NodeUnavailable.

        `failing`: a member that does not answer from then on. `seen`: why, besides what the two views show.
        """
        for _ in range(_TRIES_MAX):
            with contextlib.suppress(WrongEpoch, NotServing):
                finish(self._change(make, failing, seen))
                return self._view
        raise NodeUnavailable("the members changed meanwhile", hint="try again")

    async def _change(self, make: Callable[[View], View], failing: str, seen: str) -> None:
        await self.batches.begin()
        try:
            view = self.view
            async with contextlib.AsyncExitStack() as still:
                for name in view.live:
                    await self.members[name].settle()
                for order in ("order", "decisions"):
                    for name in view.live:
                        lock: contextlib.AbstractAsyncContextManager[None]
                        lock = getattr(self.members[name], order).stillness(view.epoch)
                        await still.enter_async_context(lock)
                new = await self.membership.change(lambda found: make(found or view), seen)
                if failing:
                    self.down.add(failing)
                    self.members[failing].has_ended = True  # before its locks, which are its successor's, are let go
                self._enter(new)
        finally:
            self.batches.end(done=not self.batches.half_done)

    def _set_state(self, name: str, state: State, *, failing: str = "", seen: str) -> None:
        def having(found: View) -> View:
            return found if found.state(name) == state else found.having(name, state)

        self.change(having, failing=failing, seen=seen)

    def names(self) -> tuple[str, ...]:
        """Return the live members, in natural order."""
        return tuple(sorted(self.view.live, key=lambda name: (len(name), name)))

    def fail(self, name: str) -> None:
        """Take node `name` away as if it had died: what it has stays on its disk."""
        self._set_state(name, State.DEAD, failing=name, seen="it was taken away")

    def restore(self, name: str) -> None:
        """Start node `name` again: it joins, and is live when it has what it missed."""
        if name in self.down:
            with self._changing:
                self._start(name)
                self.down.discard(name)
        if self.view.state(name) == State.DEAD:
            self._set_state(name, State.JOINING, seen="it was started again")

    def rebalance(self) -> Moved:
        """Move the chunks of all frames to where they would be put today. In an epoch of its own."""
        seen = "chunks are moved to where they belong now"
        view, moved = self.change(lambda found: found.later(1), seen=seen), Moved()
        for name in view.live:
            finish(self.members[name].settle())
        for name in view.live:
            finish(rebalance(self.members[name], view, moved))
        return moved

    # -- looking after it ---------------------------------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether all members are live or dead, and everything has all its copies, as far as that was looked at."""
        view = self.view
        return view.present == view.live and view.base == view.live and not view.fell

    @property
    def is_tidy(self) -> bool:
        """Whether besides nothing is kept that belongs elsewhere, or that nobody needs any more."""
        return self.is_whole and self.membership.tidy and not self._owes

    @property
    def _owed(self) -> int:
        """How many writes of this process were done with fewer copies of a chunk than there are to be."""
        return sum(member.order.owed for member in self.members.values())

    @property
    def _owes(self) -> bool:
        """Whether there were any since all copies were last seen to be there."""
        return self._owed != self._repaired[1]

    def pay(self) -> None:
        """Have missing copies made at once if something was written here without them."""
        if self._owes:
            with contextlib.suppress(ValueError):  # it was closed meanwhile, which is not the writer's failure
                self.membership.tidied(0)  # should this process be killed: whoever opens the directory next looks
            self.tend()

    def tend(self) -> None:
        """Have a thread bring copies to where they belong, until they are there, and drop in time what is surplus."""
        with self._tending:
            self._untended = True
            self._tended.notify_all()
            if self._tender is None and not self.ended.is_set() and not (self.membership.tidy and not self._owes):
                self._tender = threading.Thread(target=self._tend, name="eau2-repair", daemon=True)
                self._tender.start()

    def _tend(self) -> None:
        pause = _TEND_SECONDS
        while True:
            with self._tending:
                if self._untended:
                    pause, self._untended = _TEND_SECONDS, False
            idle = 0.0
            with contextlib.suppress(*_INTERRUPTIONS):
                idle = self.tend_once()
            with self._tending:
                if self.ended.is_set() or (idle == math.inf and not self._untended):
                    self._tender = None
                    return
                if not self._untended:
                    self._tended.wait(max(idle, pause))
            pause = min(pause * 1.5, _TEND_SECONDS_MAX)

    def tend_once(self) -> float:
        """Do one round of repair; return how long there is nothing to do, in seconds: math.inf for nothing at all."""
        self.batches.wait()
        if self.is_tidy:
            return math.inf
        if not self.is_whole or self._owes:
            return self._repair_once()
        view = self.view
        left = self._grace_seconds - self.membership.age()
        if left > 0:
            return min(left, _TEND_SECONDS_MAX)
        for name in view.live:
            finish(self.members[name].settle())
            if not finish(Repair(self.members[name], grace_seconds=0.0).step()):
                return 0.0
        if self.view.epoch == view.epoch:
            self.membership.tidied(view.epoch)
        return 0.0

    def _repair_once(self) -> float:
        view, owed = self.view, self._owed
        if self._repaired == (view.epoch, owed):
            return _TEND_SECONDS_MAX
        whole = True
        for name in view.present:
            finish(self.members[name].settle())
            done = finish(self.repairs[name].step())
            whole = whole and done
            if done and view.state(name) == State.JOINING and self.view.epoch == view.epoch:
                self.change(lambda found, name=name: found.having(name, State.LIVE) if found == view else found)  # type: ignore[misc]
                return 0.0
        if whole and (view.awaits or self.is_whole):  # of those awaited: only they may know some keys
            self._repaired = view.epoch, owed
        elif whole and self.view.epoch == view.epoch:
            self.change(lambda found: found.repaired() if found == view else found)
        return 0.0

    # -- batches ------------------------------------------------------------------------------------------------------

    def _finish_decided(self) -> None:
        """Do what was decided and not done everywhere."""
        decided = sorted({key for name in self._view.live for key in decisions_on(self.nodes[name])})
        if not decided:
            return
        for name in self._view.live:
            self.members[name].unsettle()
        for name in self._view.live:
            finish(self.members[name].settle())
        self.forget(decided)

    def forget(self, keys: Sequence[str]) -> None:
        """Forget decisions of batches that are done."""
        for key in keys:
            for name in self._view.writers(key):
                self.members[name].forget(key)

    # -- the end ------------------------------------------------------------------------------------------------------

    def order_lock(self, name: str, order: str) -> SharedLock:
        """Return the lock of an order of node `name`."""
        if (name, order) not in self._locks:
            self._locks[name, order] = OrderLock(self.nodes[name].directory / f"{order}.lock", self)
        return self._locks[name, order]

    def close(self) -> None:
        self.ended.set()
        with self._tending:
            tender = self._tender
            self._tended.notify_all()
        if tender is not None and tender is not threading.current_thread():
            tender.join(1.0)
        for lock in self._locks.values():
            lock.close()
        self.batches.close()
        self.membership.close()

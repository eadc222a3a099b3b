"""The nodes of one directory in this process: their members, how they reach each other, and who looks after them.

<path>/node-0/ node-1/ ...   a DirectoryNode each, with the locks of its order
<path>/members.json          the view
<path>/batches.lock          held while a write of keys of several nodes goes on; its counters tell readers of others

Nothing is sent: a request is a call. A node fails only when it is told to (`fail`), which tests and benchmarks do.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from eau2.cluster.client import Client
from eau2.cluster.keys import DECISION
from eau2.cluster.member import Member
from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.cluster.rebalance import Moved, rebalance
from eau2.cluster.repair import Repair
from eau2.cluster.runtime import finish
from eau2.cluster.shared import Counters, Membership, SharedLock, ThreadLock
from eau2.cluster.view import State, View, first_view
from eau2.errors import Eau2Error, InvalidOption, StoreBusy
from eau2.store.nodes import Kind, Write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence
    from pathlib import Path

    from eau2.cluster.peer import Coordination, Peer
    from eau2.cluster.runtime import Lock
    from eau2.store.node import DirectoryNode
    from eau2.store.nodes import Entry, Replica

Answer = TypeVar("Answer")

REPLICAS = 2
_LOOK_SECONDS = 0.0005  # between looks whether a batch of another process is over
_TEND_SECONDS = 0.05
_TEND_SECONDS_MAX = 1.0


class LocalMembers:
    """The members over `nodes`, as one process has them. `view`: what there is when nothing was there yet."""

    def __init__(self, path: Path, nodes: Mapping[str, DirectoryNode]) -> None:
        self.path = path
        self.nodes = dict(nodes)
        self.ended = threading.Event()
        self.membership = Membership(path, self.ended)
        self.down: set[str] = set()
        self._batches = SharedLock(path / "batches.lock", self.ended)
        self._counters = Counters(path / "batches")  # batches decided, and done
        self._locks: list[SharedLock] = [self._batches]
        self._changing = threading.Lock()  # one thread enters a view at a time
        self._tender: threading.Thread | None = None
        self._view = self.membership.read()
        self.members: dict[str, Member] = {}
        self.repairs: dict[str, Repair] = {}
        for name in self.nodes:
            self._start(name)
        self.client = _LocalClient(self)
        if self._counters.values[0] != self._counters.values[1]:
            self.wait_for_batches()
        self.tend()

    def _start(self, name: str) -> None:
        runtime = _Local(self, name)
        member = Member(name, self.nodes[name], runtime, self._view, incarnation=uuid.uuid4().hex, leased=False)
        self.members[name] = member
        repair = Repair(member)
        if name in self.repairs:  # it is started again
            repair.progress = self.repairs[name].progress
        self.repairs[name] = repair

    @staticmethod
    def names_in(path: Path) -> tuple[str, ...]:
        """Return the names of the nodes of the directory `path`."""
        membership = Membership(path, threading.Event())
        try:
            return tuple(name for name, _ in membership.read().members)
        finally:
            membership.close()

    # -- the view -----------------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """The view there is now, also when another process has made it."""
        if self.membership.epoch() != self._view.epoch:
            self._enter(self.membership.read())
        return self._view

    def _enter(self, view: View) -> None:
        with self._changing:
            if view.epoch > self._view.epoch:
                self._view = view
                for name, member in self.members.items():
                    if name not in self.down:
                        member.enter(view)

    def set_state(self, name: str, state: State) -> View:
        """Make a view in which `name` is in `state`, if it is not."""

        def make(found: View | None) -> View:
            assert found is not None
            return found if found.state(name) == state else found.having(name, state)

        self._enter(finish(self.membership.change(make)))
        return self._view

    def names(self) -> tuple[str, ...]:
        """Return the live members, in natural order."""
        return tuple(sorted(self.view.live, key=lambda name: (len(name), name)))

    def fail(self, name: str) -> None:
        """Take node `name` away as if it had died: what it has stays on its disk."""
        self.down.add(name)
        self.set_state(name, State.DEAD)
        self.tend()

    def restore(self, name: str) -> None:
        """Start node `name` again: it joins, and is live when it has what it missed."""
        with self._changing:
            self._start(name)
        self.down.discard(name)
        self.set_state(name, State.JOINING)
        self.tend()

    def rebalance(self) -> Moved:
        """Move the chunks of all frames to where they would be put today. In an epoch of its own."""

        def make(found: View | None) -> View:
            assert found is not None
            return found.later(1)

        self._enter(finish(self.membership.change(make)))
        view, moved = self._view, Moved()
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

    def tend(self) -> None:
        """Have a thread bring copies to where they belong, until they are there."""
        if self._tender is None and not self.ended.is_set() and not self.is_whole:
            self._tender = threading.Thread(target=self._tend, name="eau2-repair", daemon=True)
            self._tender.start()

    def _tend(self) -> None:
        pause = _TEND_SECONDS
        try:
            while not self.ended.is_set():
                with contextlib.suppress(Eau2Error, NotServing, Unreachable, WrongEpoch, OSError):
                    if self.tend_once():
                        return
                self.ended.wait(pause)
                pause = min(pause * 1.5, _TEND_SECONDS_MAX)
        finally:
            self._tender = None

    def tend_once(self) -> bool:
        """Do one round of repair; return whether there is nothing more to do."""
        view = self.view
        whole = True
        for name in view.present:
            if name in self.down:
                self.set_state(name, State.DEAD)
                return False
            member, repair = self.members[name], self.repairs[name]
            finish(member.settle())
            done = finish(repair.step())
            whole = whole and done
            if done and view.state(name) == State.JOINING and self.view.epoch == view.epoch:
                self.set_state(name, State.LIVE)
                return False
        if not whole or self.view.epoch != view.epoch:
            return False
        if not self.is_whole:
            self._enter(
                finish(self.membership.change(lambda found: found.repaired() if found == view else found or view))
            )
            return False
        return True

    # -- batches ------------------------------------------------------------------------------------------------------

    def wait_for_batches(self) -> None:
        """Return when no write of several nodes is half done, by whatever process. 0.1 us when there is none."""
        values = self._counters.values
        while values[0] != values[1]:
            if self._batches.try_now():
                try:
                    if values[0] != values[1]:  # its process was killed
                        self._finish_decided()
                        values[1] = values[0]
                finally:
                    self._batches.release()
            else:
                if self.ended.wait(_LOOK_SECONDS):
                    return

    def _finish_decided(self) -> None:
        """Do what a killed process had decided and not done everywhere."""
        decided: set[str] = set()
        for name in self._view.live:
            rows = self.nodes[name].listing(DECISION, 1000)
            decided.update(key for key, _, kind in rows if key.startswith(DECISION) and kind == Kind.BYTES)
        if not decided:
            return
        for name in self._view.live:
            self.members[name].unsettle()
            finish(self.members[name].settle())
        for key in sorted(decided):
            finish(self.client.write([Write(key, Kind.DELETED)]))

    async def begin_batch(self) -> None:
        await self._batches.acquire()
        if self._counters.values[0] != self._counters.values[1]:
            self._finish_decided()
            self._counters.values[1] = self._counters.values[0]

    def decided_batch(self) -> None:
        self._counters.values[0] += 1

    def end_batch(self) -> None:
        self._counters.values[1] = self._counters.values[0]
        self._batches.release()

    # -- the end ------------------------------------------------------------------------------------------------------

    def lock(self, path: Path) -> SharedLock:
        lock = SharedLock(path, self.ended)
        self._locks.append(lock)
        return lock

    def close(self) -> None:
        self.ended.set()
        tender = self._tender
        if tender is not None and tender is not threading.current_thread():
            tender.join(1.0)
        for lock in self._locks:
            lock.close()
        self._counters.close()
        self.membership.close()


class _Local:
    """The `Runtime` of one member, or of a client, in this process."""

    def __init__(self, members: LocalMembers, name: str = "") -> None:
        self._members = members
        self._name = name
        self.chance = random.Random()

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        self._members.ended.wait(seconds)

    def peer(self, name: str) -> Peer:
        member = self._members.members.get(name)
        return _DOWN if member is None or name in self._members.down else member

    def coordinator(self) -> Coordination:
        return self

    async def together(self, calls: Sequence[Awaitable[Answer]]) -> list[Answer | BaseException]:
        answers: list[Answer | BaseException] = []
        left = list(calls)
        try:
            while left:
                try:
                    answers.append(await left.pop(0))
                except Exception as error:
                    answers.append(error)
        finally:
            for call in left:
                call.close()  # type: ignore[attr-defined]  # all are coroutines
        return answers

    def lock(self, name: str) -> Lock:
        if name == "settle":
            return ThreadLock()
        return self._members.lock(self._members.nodes[self._name].directory / f"{name}.lock")

    # -- the coordinator ----------------------------------------------------------------------------------------------

    async def renew(self, name: str, incarnation: str, epoch: int, *, whole: bool) -> View:
        return self._members.view

    async def suspect(self, name: str) -> View:
        return self._members.set_state(name, State.DEAD) if name in self._members.down else self._members.view

    async def view(self) -> View:
        return self._members.view


class _Down:
    """A node that does not answer."""

    def __getattr__(self, name: str) -> Any:
        async def call(*_: object, **__: object) -> Any:
            raise Unreachable("a node that is down")

        return call


_DOWN: Any = _Down()


class _LocalClient(Client):
    """A client that also minds the batches of other processes."""

    def __init__(self, members: LocalMembers) -> None:
        super().__init__(uuid.uuid4().hex, _Local(members), members.view)
        self._members = members

    async def _look(self, view: View, parts: dict[str, list[str]]) -> dict[str, Entry]:
        self._members.wait_for_batches()
        return await super()._look(view, parts)

    async def _names(self, view: View, prefix: str, limit: int | None, frames: bool) -> list[str]:
        self._members.wait_for_batches()
        return await super()._names(view, prefix, limit, frames)

    async def _attempt(self, view: View, writes: Sequence[Write]) -> list[int | Eau2Error] | None:
        await self._members.begin_batch()
        try:
            return await super()._attempt(view, writes)
        finally:
            self._members.end_batch()

    async def decide(self, view: View, batch: str, records: bytes) -> bool:
        self._members.decided_batch()
        return await super().decide(view, batch, records)


async def make_members(path: Path, node: Replica, names: Sequence[str], replicas: int | None, *, alone: bool) -> None:
    """Make the membership of a directory whose first node is `node`, or let nodes join that are not in it yet.

    `alone`: no other process has the directory open. InvalidOption when it has more nodes, or other replicas.
    """
    ended = threading.Event()
    membership = Membership(path, ended)

    def make(found: View | None) -> View:
        if found is None:
            if not node.listing("", 1):
                return first_view(names, replicas or REPLICAS)
            if not alone:
                raise StoreBusy(
                    f"{path} is open elsewhere with one node", hint="close it there, then open it with several"
                )
            node.adopt()
            found = first_view(names[:1], replicas or REPLICAS)
            known: set[str] = {names[0]}
        else:
            known = {name for name, _ in found.members}
            if len(known) > len(names):
                raise InvalidOption(f"{path} has {len(known)} nodes, not {len(names)}", hint="leave out nodes=")
            if replicas is not None and found.replicas != replicas:
                raise InvalidOption(f"{path} keeps {found.replicas} copies, not {replicas}", hint="leave out replicas=")
        for name in names:
            if name not in known:
                found = found.having(name, State.JOINING)
        return found

    try:
        await membership.change(make)
    finally:
        membership.close()

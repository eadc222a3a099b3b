"""Requests as calls: how members of one process reach each other, in the caller's thread."""

from __future__ import annotations

import contextlib
import os
import random
import time
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from eau2.cluster import runtime
from eau2.cluster.client import Client
from eau2.cluster.keys import DECISION, without_epoch
from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.cluster.shared import SharedLock, ThreadLock
from eau2.errors import DiskFull, failed_call
from eau2.store.interrupts import heed, uninterrupted
from eau2.store.nodes import Kind, closed
from eau2.store.spare import Spare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable, Sequence
    from pathlib import Path

    from eau2.cluster.client import Outcome
    from eau2.cluster.local import LocalMembers
    from eau2.cluster.peer import Coordination, Peer
    from eau2.cluster.runtime import Lock
    from eau2.cluster.view import View
    from eau2.store.nodes import Entry, Write

Answer = TypeVar("Answer")


def finish(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Run `coroutine` to its end in this thread. Ctrl-C does not end it where locks are held."""
    with uninterrupted():
        return runtime.finish(coroutine)


_NOTE_BYTES = 16 << 10  # of keys in flight can be noted on a full disk
_SPARE_BYTES = 1 << 20  # of a disk, for what a database needs besides the values


class Calls:
    """The `Runtime` of one member, or of a client, in this process."""

    def __init__(self, members: LocalMembers, name: str = "") -> None:
        self._members = members
        self._name = name
        self.chance = random.Random()

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        if self._members.ended.wait(seconds):
            raise closed()
        heed()

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
        return ThreadLock() if name == "settle" else self._members.order_lock(self._name, name)

    # -- the coordinator ----------------------------------------------------------------------------------------------

    async def renew(self, name: str, incarnation: str, epoch: int, *, whole: bool) -> View:
        return self._members.view

    async def suspect(self, name: str) -> View:
        return self._members.view

    async def view(self) -> View:
        return self._members.view


class _Down:
    """A node that does not answer."""

    def __getattr__(self, name: str) -> Any:
        async def call(*_: object, **__: object) -> Any:
            raise Unreachable("a node that is down")

        return call


_DOWN: Any = _Down()


class OrderLock(SharedLock):
    """The lock of an order: whoever gets it is in the view there is, which only who has all these locks replaces."""

    def __init__(self, path: Path, members: LocalMembers) -> None:
        super().__init__(path, members.ended)
        self._members = members
        with contextlib.suppress(OSError):  # on a full disk it has what it had
            os.posix_fallocate(self._file, 0, _NOTE_BYTES)

    async def acquire(self) -> Sequence[str]:
        """As `Lock.acquire`. NotServing: what is in flight may be part of a batch that is decided and half done, and
        is not to be undone. It is not waited for here: who does it may wait for what we hold."""
        left = await super().acquire()
        try:
            _ = self._members.view  # entered, if another process has made it
            batches = self._members.batches
            if left and batches.half_done and not batches.is_mine:
                raise NotServing
        except BaseException:
            self.release()
            raise
        return left


class LocalClient(Client):
    """A client that also minds what other processes do."""

    def __init__(self, members: LocalMembers) -> None:
        super().__init__(uuid.uuid4().hex, Calls(members), members.view)
        self._members = members

    def get_at_once(self, key: str) -> Entry | None:
        """Return what is under `key`. NotServing or WrongEpoch when that takes more than a look at its home. 7 us."""
        members, view = self._members, self._members.view
        if members.batches.half_done or view.may_lose or not view.live:
            raise NotServing
        member = members.members[view.homes(key)[0]]
        member.admit(view.epoch)
        if key in member.order.blocked or key in member.in_doubt:
            raise NotServing
        found = member.node.get(key)
        member.node.figures.asked.count(1)
        member.admit(view.epoch)
        self._same_view(view)
        return found and without_epoch(found)

    async def _get(self, view: View, keys: Sequence[str], *, again: bool = False) -> dict[str, Entry]:
        """As for any client, at half the cost while nobody writes on these nodes."""
        parts = self._by_home(view, keys)
        before = self._generations(parts)
        if all(started == finished for started, finished in before):
            found = await self._look(view, parts, again=again)
            if self._generations(parts) == before:  # no commit meanwhile: all of it was there at once
                return found
            again = True
        return await super()._get(view, keys, again=again)

    def _generations(self, names: Iterable[str]) -> list[tuple[int, int]]:
        """Return how many commits of each node have started, and how many of them are done."""
        return [divmod(self._members.nodes[name].generation(), 1 << 64)[::-1] for name in names]

    async def _look(
        self, view: View, parts: dict[str, list[str]], *, deleted: bool = False, again: bool = False
    ) -> dict[str, Entry]:
        self._members.batches.wait()
        found = await super()._look(view, parts, deleted=deleted, again=again)
        self._same_view(view)
        return found

    async def _names(self, view: View, prefix: str, limit: int | None, frames: bool) -> list[str]:
        self._members.batches.wait()
        found = await super()._names(view, prefix, limit, frames)
        self._same_view(view)
        return found

    async def _refresh(self) -> None:
        if not self._members.batches.is_mine:
            self._members.batches.wait()
        await super()._refresh()

    def _same_view(self, view: View) -> None:
        """Raise WrongEpoch if another process has made a view since: others may have served these keys in it."""
        if self._members.view.epoch != view.epoch:
            raise WrongEpoch(self._members.view)

    async def _attempt(self, view: View, writes: Sequence[Write], batch: str) -> list[Outcome] | None:
        self._require_space(view, writes)
        await self._members.batches.begin()
        done = False
        try:
            found = await super()._attempt(view, writes, batch)
            done = True
            return found
        finally:
            if not done:  # what is decided the next one does
                for member in self._members.members.values():
                    member.order.give_up(batch)
            self._members.batches.end(done=done)

    def _require_space(self, view: View, writes: Sequence[Write]) -> None:
        """Raise DiskFull where `writes` may not fit: once it is decided, a batch cannot be undone any more."""
        size = 2 * sum(len(write.payload) + len(write.key) for write in writes)
        makes_room = all(write.kind == Kind.DELETED for write in writes)
        for name in view.present:
            directory = self._members.nodes[name].directory
            try:
                found = os.statvfs(directory)
            except OSError as error:
                raise failed_call(error, directory) from error
            room = found.f_bavail * found.f_frsize
            if size > Spare(directory).bytes + room if makes_room else size + _SPARE_BYTES > room:
                raise DiskFull(f"{directory}: the disk or quota is full, nothing was changed", hint="free some space")

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        try:
            return await super().write(writes)
        finally:
            if any(write.kind == Kind.SPREAD for write in writes):  # the members may have changed since it was staged
                self._members.pay()

    async def decide(self, view: View, batch: str, records: bytes) -> bool:
        self._members.batches.decided()
        return await super().decide(view, batch, records)

    async def _forget(self, view: View, batch: str) -> None:
        """Without a trace: nothing comes late here."""
        self._members.forget([DECISION + batch])

"""A driver's ear: has anybody written since, and who is live now. And the drivers' sign of life to the nodes.

A thread asks each live node to answer when there is a write (long polls), so that whoever waits is woken within
milliseconds, and whoever looks whether anything has changed need ask nobody. It runs while somebody looks, or while
nodes keep something for this driver, and for some seconds after.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.errors import Eau2Error
from eau2.remote.loops import LoopThread
from eau2.remote.transport import POLL_SECONDS, LoopRuntime

if TYPE_CHECKING:
    from eau2.cluster.client import Client
    from eau2.cluster.view import View
    from eau2.remote.transport import Transport

_LINGER_SECONDS = 10.0
_PAUSE_SECONDS = 0.01  # between questions to one node: a write is heard of this late, at most
_AGAIN_SECONDS = 0.2  # after one that was not answered
_BEAT_SECONDS = 0.5  # between looks at what is to be told
_HEARD_SECONDS = 10.0  # between signs of life
_STOP_SECONDS = 0.5
_UNSURE_SECONDS = 0.02  # between looks of those who wait while a node does not answer


class Watch:
    """What `client` hears of. Thread-safe."""

    def __init__(self, client: Client, transport: Transport) -> None:
        self._client = client
        self._runtime = LoopRuntime(transport)
        self._changed = threading.Condition()  # guards everything below
        self._number = 0
        self._sure: set[str] = set()  # nodes of which every write is heard
        self._wanted_until = 0.0
        self._thread: LoopThread | None = None
        self._closed = False
        self.kept: set[str] = set()  # what nodes keep for this driver: leases, and staged files by their path
        self._returned: deque[tuple[str, str]] = deque()  # (node, lease) that are given back

    # -- for any thread -----------------------------------------------------------------------------------------------

    def number(self) -> int:
        """Return a number that differs after any write. 1 us; while nothing is heard it differs each time."""
        with self._changed:
            self._want()
            if not self._is_sure():
                self._number += 1
            return self._number

    def hears(self) -> bool:
        """Whether every write and every view is heard of."""
        with self._changed:
            self._want()
            return self._is_sure()

    def wait(self, since: int, timeout_seconds: float) -> None:
        """Return when the number is not `since`, when it is not known, when the time is over, or when closed."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while not self._closed and self._number == since and (left := deadline - time.monotonic()) > 0:
                self._want()
                sure = self._is_sure()
                self._changed.wait(min(left, _AGAIN_SECONDS if sure else _UNSURE_SECONDS))
                if not sure:
                    return

    def bump(self) -> None:
        """This driver has written."""
        with self._changed:
            self._number += 1
            self._changed.notify_all()

    def learn(self, view: View) -> None:
        """Somebody was told of `view`."""
        if self._client.learn(view):
            self.bump()

    def keep(self, name: str) -> None:
        """Nodes keep `name` for this driver: they are to hear that it lives."""
        with self._changed:
            self.kept.add(name)
            self._want()

    def let_go(self, name: str) -> None:
        """Nodes do not keep `name` any more."""
        with self._changed:
            self.kept.discard(name)

    def give_back(self, node: str, lease: str) -> None:
        """A lease is not needed any more. Called in the middle of anything: takes no lock."""
        self._returned.append((node, lease))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.stop(_STOP_SECONDS)

    def _want(self) -> None:
        self._wanted_until = time.monotonic() + _LINGER_SECONDS
        if self._thread is None and not self._closed:
            self._thread = LoopThread("eau2-watch")
            self._thread.submit(self._watch(self._thread))

    def _is_sure(self) -> bool:
        live = self._client.view.live  # with none of them there is nobody of whom a later view could be heard
        return self._thread is not None and bool(live) and self._sure.issuperset(live)

    # -- in the thread ------------------------------------------------------------------------------------------------

    async def _watch(self, thread: LoopThread) -> None:
        following: dict[str, asyncio.Task[None]] = {}
        heard = 0.0
        while not self._ends(thread):
            live = self._client.view.live
            for name in [name for name in following if name not in live]:
                following.pop(name).cancel()
            for name in live:
                if name not in following:
                    following[name] = asyncio.ensure_future(self._follow(name))
            now = self._runtime.now()
            if self._returned or now - heard > _HEARD_SECONDS:
                heard = now
                await self._tell(self._client.view.present)
            await asyncio.sleep(_BEAT_SECONDS)
        thread.stop(0.0)

    def _ends(self, thread: LoopThread) -> bool:
        """Whether nobody needs the thread any more: then it is another that watches, if somebody does again."""
        with self._changed:
            if not self._closed and (self.kept or time.monotonic() < self._wanted_until):
                return False
            self._sure.clear()
            if self._thread is thread:
                self._thread = None
            return True

    async def _follow(self, name: str) -> None:
        known = -1
        peer: Any = self._runtime.peer(name)
        try:
            while True:
                try:
                    number, epoch = await peer.changed(known, POLL_SECONDS)
                except (Unreachable, NotServing, WrongEpoch, Eau2Error):
                    known = -1
                    self._hear(name, sure=False)
                    await self._refresh()
                    await asyncio.sleep(_AGAIN_SECONDS)
                    continue
                if number != known:
                    known = number
                    self._hear(name, sure=True)
                if epoch > self._client.view.epoch:
                    await self._refresh()
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            self._hear(name, sure=False)

    def _hear(self, name: str, *, sure: bool) -> None:
        with self._changed:
            (self._sure.add if sure else self._sure.discard)(name)
            self._number += 1
            self._changed.notify_all()

    async def _refresh(self) -> None:
        with contextlib.suppress(Unreachable, Eau2Error):
            self.learn(await self._runtime.coordinator().view())

    async def _tell(self, present: tuple[str, ...]) -> None:
        """Tell nodes that this driver lives, and what it gives back."""
        returned: dict[str, list[str]] = {name: [] for name in present}
        while self._returned:
            node, lease = self._returned.popleft()
            if node in returned:
                returned[node].append(lease)
            self.let_go(lease)
        peers: list[Any] = [self._runtime.peer(name) for name in returned]
        told = await self._runtime.together(
            [peer.hear(self._client.name, returned[name]) for name, peer in zip(returned, peers, strict=True)]
        )
        for name, answer in zip(returned, told, strict=True):
            if isinstance(answer, BaseException):  # again, as long as it lives
                self._returned.extend((name, lease) for lease in returned[name])

"""What the connections of one server share: the store, who is connected, tokens and the clock."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from eau2.doors.addresses import LOOPBACK, Networks
from eau2.doors.deadlines import Sweeping
from eau2.doors.keyspace import Keyspace
from eau2.doors.log import log
from eau2.doors.tokens import Access, Tokens
from eau2.doors.turn import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eau2.doors.deadlines import Deadlines
    from eau2.doors.work import Command, Outcome
    from eau2.store.store import Store

_MEMBERS_SECONDS = 1.0  # for which the number of members is not asked for again


class _Connection(Protocol):
    def end(self) -> None: ...
    def abort(self) -> None: ...
    def look(self, now: float) -> None: ...


class Shared:
    """What the connections of one server share. For the event loop only, but for what `Keyspace` calls back."""

    def __init__(
        self, store: Store, tokens: Tokens, connections_max: int, stop: Callable[[], None], deadlines: Deadlines
    ) -> None:
        self.tokens = tokens
        self.shut_down = stop
        self.connections: set[_Connection] = set()
        self._store = store
        self._keyspace = Keyspace(store, deadlines)
        self.sweep = Sweeping(deadlines, self.submit).sweep
        self._loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self._loop.time  # no method: each request asks
        self._connections_max = connections_max
        self._loopback = Networks(LOOPBACK)
        self._told: deque[tuple[Callable[[list[Outcome]], None], list[Outcome]]] = deque()
        self._telling = False  # the loop was asked to call `_tell`
        turns = Turns(store.node.here, deadlines, self._keyspace, self._loop)
        self.gather, self.kept = turns.gather, turns.kept
        self._members = (-_MEMBERS_SECONDS, 0)
        self._begun = self.now()
        self.closed_too: list[Callable[[], None]] = []  # what doors have besides connections

    def access(self, connection: object) -> Access:
        """Return what a client may do that has not said who it is."""
        return Access(self.tokens, lambda what: self.audit(what, connection))

    def admit(self, connection: _Connection) -> bool:
        """Whether there is room for `connection`, which must `leave` if so."""
        if len(self.connections) >= self._connections_max:
            log("refused", client=connection, what="connection", most=self._connections_max)
            return False
        self.connections.add(connection)
        return True

    def leave(self, connection: _Connection) -> None:
        self.connections.discard(connection)

    def submit(self, commands: Sequence[Command], done: Callable[[list[Outcome]], None]) -> None:
        """Have the store do `commands`; `done` is called in the event loop. As Keyspace.submit."""
        self._keyspace.submit(commands, lambda outcomes: self._tell_later(done, outcomes))

    def member_count(self) -> int:
        now = self.now()
        if now - self._members[0] >= _MEMBERS_SECONDS:
            self._members = now, len(self._store.nodes)
        return self._members[1]

    def facts(self) -> dict[str, str | int]:
        """Return what INFO tells of the server."""
        return {
            "eau2_version": version("eau2"),
            "process_id": os.getpid(),
            "uptime_in_seconds": int(self.now() - self._begun),
            "connected_clients": len(self.connections),
            "maxclients": self._connections_max,
            "nodes": self.member_count(),
        }

    def is_loopback(self, address: str) -> bool:
        return address in self._loopback

    def audit(self, what: str, who: object, **facts: object) -> None:
        log(what, audit=True, client=str(who), **facts)

    def close(self) -> None:
        for close in self.closed_too:
            close()
        self._keyspace.close()

    # -- private ------------------------------------------------------------------------------------------------------

    def _tell_later(self, done: Callable[[list[Outcome]], None], outcomes: list[Outcome]) -> None:
        # In a thread of the keyspace. The loop is woken once for all that is told before it comes to it.
        self._told.append((done, outcomes))
        if not self._telling:
            self._telling = True
            try:
                self._loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # the loop is closed: nobody is there to be told
                self._told.clear()

    def _tell(self) -> None:
        self._telling = False  # first: what is appended from now on wakes the loop again
        while self._told:
            done, outcomes = self._told.popleft()
            try:
                done(outcomes)
            except Exception as error:  # our own fault; the others are told all the same
                log("failed", error=repr(error))

"""A server: the doors of one store, their sockets and their end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from eau2.doors.addresses import LOOPBACK, Networks, is_loopback
from eau2.doors.connection import Connection
from eau2.doors.datagram_door import DatagramDoor
from eau2.doors.deadlines import Deadlines, Sweeping
from eau2.doors.keyspace import Keyspace
from eau2.doors.lines import LinesConversation
from eau2.doors.log import log
from eau2.doors.redis import Listings, RedisConversation
from eau2.doors.tokens import Access, Tokens
from eau2.doors.turn import Turns
from eau2.errors import InvalidOption, StoreUnusable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from eau2.doors.work import Command, Conversation, Outcome
    from eau2.store.store import Store

CONNECTIONS_MAX = 10_000
END_SECONDS = 0.5  # to answer what was accepted when the server stops
START_SECONDS = 30.0
_LOOK_SECONDS = 1.0  # between two looks at the deadlines of connections
_UDP_BUFFER_BYTES = 4 << 20  # what the kernel keeps for us while we are busy
_MEMBERS_SECONDS = 1.0  # for which the number of members is not asked for again


@dataclass(frozen=True, slots=True)
class Doors:
    """Which doors a server has. A port of 0 is any that is free; None is no door."""

    host: str = "127.0.0.1"
    crud_port: int | None = 0  # CRUD lines over TCP
    redis_port: int | None = 0  # RESP, the protocol of Redis
    udp_port: int | None = 0
    udp_trust: tuple[str, ...] = ()  # networks besides loopback whose datagrams are answered
    allow_shutdown: bool = False  # by UDP, from loopback
    allow_wipe: bool = False  # by UDP
    connections_max: int = CONNECTIONS_MAX


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
        self._connections_max = connections_max
        self._loopback = Networks(LOOPBACK)
        self._told: deque[tuple[Callable[[list[Outcome]], None], list[Outcome]]] = deque()
        self._telling = False  # the loop was asked to call `_tell`
        turns = Turns(store.node.here, deadlines, self._keyspace, self._loop)
        self.gather, self.kept = turns.gather, turns.kept
        self._members = (-_MEMBERS_SECONDS, 0)
        self._begun = self.now()

    def access(self, connection: object) -> Access:
        """Return what a client may do that has not said who it is."""
        return Access(self.tokens, lambda what: self.audit(what, connection))

    def now(self) -> float:
        return self._loop.time()

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


class Server:
    """The doors of `store`, open until `close`: a thread with an event loop. A context manager.

    tokens: who may do what; without any, whoever reaches a door may read and write, so only loopback is listened at.
    tls: for the TCP doors. clock: as `time.time`; by it keys end. Raises InvalidOption; StoreUnusable when a port
    is taken. The store is not closed with it.
    """

    def __init__(
        self,
        store: Store,
        doors: Doors,
        *,
        tokens: Tokens | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._deadlines = Deadlines(clock)
        self._store, self._doors, self._tokens, self._tls = store, doors, tokens or Tokens(), tls
        self._refuse_open()
        self.addresses: dict[str, tuple[str, int]] = {}  # by door: crud, redis, udp
        self.stopped = threading.Event()  # set when the server was asked to stop, or has
        self._begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="eau2-server", daemon=True)
        self._thread.start()
        try:
            self._begun.result(START_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        doors = ", ".join(f"{door} at {host}:{port}" for door, (host, port) in self.addresses.items())
        return f"<Server: {doors}>"

    def close(self) -> None:
        """Listen no more, answer what was accepted, end. Within a second. May be called again."""
        self.stopped.set()
        self._wake()
        self._thread.join()

    # -- private ------------------------------------------------------------------------------------------------------

    def _refuse_open(self) -> None:
        if is_loopback(self._doors.host):
            return
        if (self._doors.crud_port, self._doors.redis_port) != (None, None) and not self._tokens:
            raise InvalidOption(
                f"whoever reaches {self._doors.host} could read and write everything",
                hint="give --token-file, or EAU2_TOKEN; 127.0.0.1 is reached from this machine only",
            )
        if self._doors.udp_port is not None and not self._doors.udp_trust:
            raise InvalidOption(
                f"datagrams have no token, and {self._doors.host} is reached from other machines",
                hint="give --udp-trust and a network, or leave the UDP door out",
            )

    def _wake(self) -> None:
        loop, wake = getattr(self, "_loop", None), getattr(self, "_wanted", None)
        if loop is not None and wake is not None:
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:  # it has ended
                return

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self._loop, self._wanted = asyncio.get_running_loop(), asyncio.Event()
        listening: list[asyncio.Server] = []
        datagrams: DatagramDoor | None = None
        shared = Shared(self._store, self._tokens, self._doors.connections_max, self._stop, self._deadlines)
        try:
            try:
                datagrams = await self._listen(shared, listening)
            except BaseException as error:
                self._begun.set_exception(error)
                return
            self._begun.set_result(None)
            while not self.stopped.is_set():
                await self._look(shared)
        except BaseException as error:
            log("failed", error=repr(error))
            raise
        finally:
            await self._end(shared, listening, datagrams)

    async def _listen(self, shared: Shared, listening: list[asyncio.Server]) -> DatagramDoor | None:
        loop, doors = asyncio.get_running_loop(), self._doors
        datagrams: DatagramDoor | None = None
        try:
            for name, port, converse in self._spoken(shared):
                door = name, port
                made = partial(Connection, shared, converse)
                listening.append(await loop.create_server(made, doors.host, port, ssl=self._tls, backlog=1024))
                self._opened(name, listening[-1].sockets[0].getsockname())
            if doors.udp_port is not None:
                door = "udp", doors.udp_port
                trusted = Networks((*LOOPBACK, *doors.udp_trust))
                transport, datagrams = await loop.create_datagram_endpoint(
                    lambda: DatagramDoor(
                        shared, trusted, allow_shutdown=doors.allow_shutdown, allow_wipe=doors.allow_wipe
                    ),
                    (doors.host, doors.udp_port),
                )
                _enlarge(transport)
                self._opened("udp", transport.get_extra_info("sockname"))
        except OSError as error:
            if datagrams is not None:
                datagrams.close()
            raise StoreUnusable(
                f"the {door[0]} door cannot listen at {doors.host}:{door[1]}: {error.strerror or error}",
                hint="another process may have the port: 0 is any that is free",
            ) from error
        return datagrams

    def _spoken(self, shared: Shared) -> Iterator[tuple[str, int, Callable[[Access], Conversation]]]:
        """Yield each TCP door that is to be: its name, its port, and what makes its conversations."""
        if self._doors.crud_port is not None:
            yield "crud", self._doors.crud_port, LinesConversation
        if self._doors.redis_port is not None:
            listings = Listings(self._deadlines)
            allow_wipe = self._doors.allow_wipe
            yield (
                "redis",
                self._doors.redis_port,
                lambda access: RedisConversation(access, listings, shared.facts, allow_wipe=allow_wipe),
            )

    def _opened(self, door: str, address: tuple[str, int]) -> None:
        self.addresses[door] = address[0], address[1]
        log("listening", door=door, host=address[0], port=address[1], tls=self._tls is not None and door != "udp")

    async def _look(self, shared: Shared) -> None:
        try:
            await asyncio.wait_for(self._wanted.wait(), _LOOK_SECONDS)
        except TimeoutError:
            now = shared.now()
            shared.sweep()
            for connection in tuple(shared.connections):
                try:
                    connection.look(now)
                except Exception as error:  # our own fault; the others are looked at all the same
                    log("failed", error=repr(error))
                    connection.abort()

    def _stop(self) -> None:
        self.stopped.set()
        self._wanted.set()

    async def _end(self, shared: Shared, listening: list[asyncio.Server], datagrams: DatagramDoor | None) -> None:
        self.stopped.set()
        for server in listening:
            server.close()
        if datagrams is not None:
            datagrams.ending = True
        for connection in tuple(shared.connections):
            connection.end()
        deadline = time.monotonic() + END_SECONDS
        while (shared.connections or (datagrams and datagrams.working)) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        left = len(shared.connections)
        for connection in tuple(shared.connections):
            connection.abort()
        if datagrams is not None:
            datagrams.close()
        await asyncio.sleep(0)  # for transports to close
        await asyncio.get_running_loop().run_in_executor(None, shared.close)
        log("stopped", aborted=left)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop: uvloop's, with `eau2[serve]`; None for that of the standard library."""
    try:
        import uvloop  # an optional engine
    except ImportError:
        return None
    return uvloop.new_event_loop


def _enlarge(transport: asyncio.DatagramTransport) -> None:
    found = transport.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER_BYTES)

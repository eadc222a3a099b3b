"""A server: the doors of one store, their sockets and their end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.doors.addresses import LOOPBACK, Networks, is_loopback
from eau2.doors.connection import Connection
from eau2.doors.counts import Publishing
from eau2.doors.datagram_door import DatagramDoor
from eau2.doors.deadlines import Deadlines
from eau2.doors.lines import LinesConversation
from eau2.doors.log import log
from eau2.doors.redis import Listings, RedisConversation
from eau2.doors.shared import Shared
from eau2.doors.tokens import Tokens
from eau2.errors import InvalidOption, PartMissing, StoreUnusable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from types import ModuleType, TracebackType

    from eau2.doors.flight import FlightDoor
    from eau2.store.store import Store

CONNECTIONS_MAX = 10_000
END_SECONDS = 0.5  # to answer what was accepted when the server stops
START_SECONDS = 30.0
_LOOK_SECONDS = 1.0  # between two looks at the deadlines of connections
_HTTP_PARTS = ("starlette", "uvicorn", "h11")
_UDP_BUFFER_BYTES = 4 << 20  # what the kernel keeps for us while we are busy


@dataclass(frozen=True, slots=True)
class Doors:
    """Which doors a server has. A port of 0 is any that is free; None is no door."""

    host: str = "127.0.0.1"
    crud_port: int | None = 0  # CRUD lines over TCP
    redis_port: int | None = 0  # RESP, the protocol of Redis
    http_port: int | None = None  # takes `pip install eau2[serve]`
    udp_port: int | None = 0
    flight_port: int | None = None  # Arrow Flight
    page: bool = False  # the HTTP door has the page at /monitor/
    udp_trust: tuple[str, ...] = ()  # networks besides loopback whose datagrams are answered
    allow_shutdown: bool = False  # by UDP, from loopback
    allow_wipe: bool = False  # by UDP
    connections_max: int = CONNECTIONS_MAX


class Server:
    """The doors of `store`, open until `close`: a thread with an event loop. A context manager.

    tokens: who may do what; without any, whoever reaches a door may read and write, so only loopback is listened at.
    tls: for the TCP doors. certificate: what that was made of, PEM of the certificate and of its key, for Flight.
    clock: as `time.time`; by it keys end. Raises InvalidOption; StoreUnusable when a port is taken. The store is not
    closed with it.
    """

    def __init__(
        self,
        store: Store,
        doors: Doors,
        *,
        tokens: Tokens | None = None,
        tls: ssl.SSLContext | None = None,
        certificate: tuple[bytes, bytes] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._deadlines = Deadlines(clock)
        self._store, self._doors, self._tokens, self._tls = store, doors, tokens or Tokens(), tls
        self._certificate = certificate
        if (tls is None) != (certificate is None) and doors.flight_port is not None:
            raise InvalidOption("Flight needs the certificate and key themselves", hint="pass certificate= beside tls=")
        self._refuse_open()
        self.addresses: dict[str, tuple[str, int]] = {}  # by door: crud, redis, http, udp
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
        doors = self._doors
        ports = doors.flight_port, doors.crud_port, doors.redis_port, doors.http_port
        if any(port is not None for port in ports) and not self._tokens:
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
        flights: FlightDoor | None = None
        shared = Shared(self._store, self._tokens, self._doors.connections_max, self._stop, self._deadlines)
        self._publishing = Publishing(self._store)
        shared.closed_too.append(self._publishing.close)
        try:
            try:
                datagrams = await self._listen(shared, listening)
                flights = await asyncio.get_running_loop().run_in_executor(None, self._listen_to_flights, shared)
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
            ending = (
                None
                if flights is None
                else asyncio.get_running_loop().run_in_executor(None, flights.close, END_SECONDS / 2)
            )
            await self._end(shared, listening, datagrams, ending)

    async def _listen(self, shared: Shared, listening: list[asyncio.Server]) -> DatagramDoor | None:
        loop, doors = asyncio.get_running_loop(), self._doors
        datagrams: DatagramDoor | None = None
        try:
            for name, port, make in self._spoken(shared):
                door = name, port  # first: to make it may fail too
                listening.append(await loop.create_server(make(), doors.host, port, ssl=self._tls, backlog=1024))
                self._opened(name, listening[-1].sockets[0].getsockname())
            if doors.udp_port is not None:
                door = "udp", doors.udp_port
                trusted = Networks((*LOOPBACK, *doors.udp_trust))
                transport, datagrams = await loop.create_datagram_endpoint(
                    lambda: DatagramDoor(
                        shared,
                        self._publishing.door("udp", connects=False),
                        trusted,
                        allow_shutdown=doors.allow_shutdown,
                        allow_wipe=doors.allow_wipe,
                    ),
                    (doors.host, doors.udp_port),
                )
                _enlarge(transport)
                self._opened("udp", transport.get_extra_info("sockname"))
        except OSError as error:
            if datagrams is not None:
                datagrams.close()
            cause = error if error.errno else error.__cause__ or error.__context__  # uvloop's own has no number
            number = getattr(cause, "errno", None)
            why = os.strerror(number) if number else error  # asyncio's words say the address again
            raise StoreUnusable(
                f"the {door[0]} door cannot listen at {doors.host}:{door[1]}: {why}",
                hint="another process may have the port: 0 is any that is free",
            ) from error
        return datagrams

    def _listen_to_flights(self, shared: Shared) -> FlightDoor | None:
        doors = self._doors
        if doors.flight_port is None:
            return None
        from eau2.doors.flight import FlightDoor  # Flight takes 30 ms to import

        try:
            _require_free(doors.host, doors.flight_port)
            found = FlightDoor(
                self._store,
                self._tokens,
                self._publishing.door("flight", connects=False),
                shared.audit,
                doors.host,
                doors.flight_port,
                self._certificate,
            )
        except (OSError, pa.ArrowException) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise StoreUnusable(
                f"the flight door cannot listen at {doors.host}:{doors.flight_port}: {why}",
                hint="another process may have the port: 0 is any that is free",
            ) from error
        self._opened("flight", (doors.host, found.port))
        self._flights = found
        return found

    def _spoken(self, shared: Shared) -> Iterator[tuple[str, int, Callable[[], Callable[[], asyncio.Protocol]]]]:
        """Yield each TCP door that is to be: its name, its port, and what makes the door, which makes connections."""
        if self._doors.crud_port is not None:
            yield "crud", self._doors.crud_port, lambda: self._crud(shared)
        if self._doors.redis_port is not None:
            yield "redis", self._doors.redis_port, lambda: self._redis(shared)
        if self._doors.http_port is not None:
            yield "http", self._doors.http_port, lambda: self._http(shared)

    def _crud(self, shared: Shared) -> Callable[[], asyncio.Protocol]:
        return partial(Connection, shared, self._publishing.door("crud"), LinesConversation)

    def _redis(self, shared: Shared) -> Callable[[], asyncio.Protocol]:
        listings = Listings(self._deadlines)
        allow_wipe = self._doors.allow_wipe
        return partial(
            Connection,
            shared,
            self._publishing.door("redis"),
            lambda access: RedisConversation(access, listings, shared.facts, allow_wipe=allow_wipe),
        )

    def _http(self, shared: Shared) -> Callable[[], asyncio.Protocol]:
        counts = self._publishing.door("http")
        http = _http().HttpDoor(self._store, shared, counts, host=self._doors.host, page=self._doors.page)
        shared.closed_too.append(http.close)
        found: Callable[[], asyncio.Protocol] = http.connection
        return found

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

    async def _end(
        self,
        shared: Shared,
        listening: list[asyncio.Server],
        datagrams: DatagramDoor | None,
        flights: asyncio.Future[None] | None,
    ) -> None:
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
        if flights is not None:
            await flights
        await asyncio.get_running_loop().run_in_executor(None, shared.close)
        log("stopped", aborted=left)


def has_http() -> bool:
    """Whether what the HTTP door stands on is installed."""
    return all(find_spec(name) is not None for name in _HTTP_PARTS)


def _http() -> ModuleType:
    """Return the HTTP door. PartMissing where what it stands on is not installed."""
    if not has_http():
        raise PartMissing(
            f"the HTTP door needs {', '.join(_HTTP_PARTS)}, which are not all installed",
            hint='pip install "eau2[serve]"',
        )
    from eau2.doors import http  # here: its parts are optional, and take 0.2 s to import

    return http


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop: uvloop's, with `eau2[serve]`; None for that of the standard library."""
    try:
        import uvloop  # an optional engine
    except ImportError:
        return None
    return uvloop.new_event_loop


def _require_free(host: str, port: int) -> None:
    """Raise OSError where `port` is taken: gRPC only says that it did not start, and writes to standard error."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trying.bind(address)


def _enlarge(transport: asyncio.DatagramTransport) -> None:
    found = transport.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER_BYTES)

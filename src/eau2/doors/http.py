"""The HTTP door: connections with their limits and deadlines, and the threads that ask the store for them.

uvicorn and h11 speak HTTP, Starlette knows the routes (`http_routes`); what is here is what they leave to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import struct
import time
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from eau2.doors.addresses import client_text
from eau2.doors.connection import IDLE_SECONDS, RATE_MIN, STALLED_SECONDS
from eau2.doors.http_requests import Refused, bearer_of, check_sender, is_run, role_wanted, status_of
from eau2.doors.http_routes import router
from eau2.doors.http_threads import Threads
from eau2.doors.log import log
from eau2.doors.refused_runs import RefusedRuns
from eau2.errors import Eau2Error
from eau2.monitor.routes import ROOT
from eau2.monitor.routes import routes as page_routes
from eau2.monitor.watch import Watch
from eau2.query.waiting import Asker

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Scope, Send

    from eau2.doors.counts import DoorCounts
    from eau2.doors.shared import Shared
    from eau2.doors.tokens import Role
    from eau2.store.store import Store

HEAD_BYTES_MAX = 32 << 10  # of a request, with its headers
THREADS_MAX = 8  # that ask the store for keys and their values
QUERIES_MAX = 8  # that run at a time: others do not hold up who asks for a key
UPLOADS_MAX = 8  # frames that are taken in at once: each has a thread for as long as its rows come
PASSED_OVER_BYTES_MAX = 128 << 20  # of a body that is not wanted, before its connection is closed
_END_SECONDS = 0.4
_ALWAYS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
_PHRASES = {408: "Request Timeout", 503: "Service Unavailable"}
_SILENT = logging.Logger("eau2.doors.http", logging.CRITICAL + 1)  # what uvicorn would say, we say ourselves

Answer = TypeVar("Answer")


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("each connection answers by itself")


class HttpDoor:
    """What the connections of the HTTP door share. Made in the event loop, and closed in any thread."""

    def __init__(self, store: Store, shared: Shared, counts: DoorCounts, *, host: str, page: bool = False) -> None:
        self.store, self.shared, self.counts, self.host = store, shared, counts, host
        self._watch = Watch(store) if page else None
        self.refused = RefusedRuns(store, shared.audit)
        self.routes = router(() if self._watch is None else page_routes(self._watch))
        self.config = Config(
            _nobody,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # who asks is who is connected, whatever a header says
            workers=1,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            timeout_keep_alive=int(IDLE_SECONDS),
        )
        self.state = ServerState()
        self.askers = Threads(THREADS_MAX, "eau2-http")
        self.queries = Threads(QUERIES_MAX, "eau2-http-sql")
        self.uploads = Threads(UPLOADS_MAX, "eau2-http-put")

    def connection(self) -> HttpConnection:
        return HttpConnection(self)

    def close(self) -> None:
        deadline = time.monotonic() + _END_SECONDS
        if self._watch is not None:
            self._watch.close()
        for threads in (self.askers, self.queries, self.uploads):
            threads.end(deadline)


class Asking:
    """One request while it is answered: how its route asks the store."""

    def __init__(self, door: HttpDoor, client: HttpConnection) -> None:
        self._door, self._client = door, client
        self._asker = Asker()
        self._threads = door.askers
        self.loop = asyncio.get_running_loop()
        self.gone = False  # who asked has gone; read by other threads too
        self.ended = asyncio.Event()  # who asked has gone, or the server ends: an answer that never ends is to end
        self.role = ""  # of who asks
        self.client, self.has_tokens = client.host, bool(door.shared.tokens)

    @property
    def store(self) -> Store:
        return self._door.store

    def may_take_long(self) -> None:
        """Have what follows worked on beside what is quick."""
        self._threads = self._door.queries

    async def work(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return what `function` returns in a thread. A query in it ends when who asked goes away."""
        return await self.loop.run_in_executor(self._threads.pool, self._run, partial(function, *arguments))

    async def take_in(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """As `work`, for what waits for the client."""
        return await self.loop.run_in_executor(self._door.uploads.pool, self._run, partial(function, *arguments))

    def audit(self, what: str, **facts: object) -> None:
        self._door.shared.audit(what, self._client, **facts)

    def leave(self) -> None:
        self.gone = True
        self.ended.set()
        self._asker.leave()

    def _run(self, function: Callable[[], Answer]) -> Answer:
        try:
            return self._asker.run(function)
        except Eau2Error as error:
            str(error)  # KeyMissing looks up its hint when it is first read: here, and not in the event loop
            raise


class HttpConnection(H11Protocol):
    """One connection: uvicorn's, within our limits. For the event loop only."""

    def __init__(self, door: HttpDoor) -> None:
        super().__init__(door.config, door.state, {})
        self.app = self._answer
        self.logger = _SILENT
        self.access_log = False
        self._door, self._shared = door, door.shared
        self._asking: Asking | None = None
        self._closing = False  # what comes is not read
        self._moved = self._looked = 0.0  # when bytes last moved; when `look` was last called
        self._waited = 0.0  # seconds, for the request that has begun to come to its end
        self._got = 0  # bytes of it
        self._passed_over = 0  # bytes that came after their request was answered
        self._unsent = 0  # bytes of answers when they were last looked at
        self._seen: object = None  # the request that _waited and _got are of

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._moved = self._looked = self._shared.now()
        self._door.counts.connected(1)
        if not self._shared.admit(self):
            self._let_go(503, "too many connections: try again later")

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._moved = self._shared.now()
        self._begin_anew()
        self._got += len(data)
        self._door.counts.received += len(data)
        if self.conn.their_state is h11.SEND_BODY and not self._is_answering():
            self._passed_over += len(data)
            if self._passed_over > PASSED_OVER_BYTES_MAX:
                self.break_off()
                return
        try:
            super().data_received(data)
        except Exception:  # h11 has lost its place, and nothing that follows means anything
            self.break_off()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._moved = self._shared.now()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._moved = self._shared.now()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._door.counts.connected(-1)
        self._unset_keepalive_if_required()  # uvicorn leaves it where the connection broke
        if self._asking is not None:
            self._asking.leave()
        self._shared.leave(self)

    # -- what the server calls ----------------------------------------------------------------------------------------

    def end(self) -> None:
        """Take no more requests; answer that which has come, then close."""
        with contextlib.suppress(h11.LocalProtocolError):  # it is broken already
            self.shutdown()
        if self._asking is not None:
            self._asking.ended.set()

    def abort(self) -> None:
        self.break_off()

    def break_off(self) -> None:
        """Close so that no answer that is cut looks whole, not even to who reads until the connection ends."""
        self._closing = True
        with contextlib.suppress(OSError, AttributeError):  # it is closed
            found = self.transport.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def look(self, now: float) -> None:
        """Close when a request takes too long to come, its answer to be taken, or nothing is asked."""
        since, self._looked = now - self._looked, now
        if self.flow.write_paused or self.transport.is_closing():
            unsent = self.transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._moved = now
            self._unsent = unsent
            if now - self._moved > STALLED_SECONDS:
                self.break_off()
            return
        self._begin_anew()
        if self._is_coming():
            # Not while we do not read: then it is not the client who takes its time.
            self._waited += 0.0 if self.flow.read_paused else since
            if self._waited > STALLED_SECONDS + self._got / RATE_MIN:
                self._let_go(408, "a request took too long to come")
        elif not self._is_answering() and now - self._moved > IDLE_SECONDS:
            self.transport.close()

    def __repr__(self) -> str:
        return client_text(self.client)

    @property
    def host(self) -> str:
        """From where it came, "" where that is not known."""
        return self.client[0] if self.client else ""

    # -- private ------------------------------------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """Count from zero for a request that was not seen before."""
        if self.cycle is not self._seen:
            self._seen, self._waited, self._got, self._passed_over = self.cycle, 0.0, 0, 0

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _is_coming(self) -> bool:
        """Whether a request has begun to come that is not whole."""
        if self._is_answering():
            return self.cycle.more_body
        return self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])

    def _let_go(self, status: int, why: str) -> None:
        if self._is_answering() and self.cycle.response_started:
            self.break_off()
            return
        self._closing = True
        body = json.dumps({"error": "LetGo", "message": why, "hint": ""}).encode()
        head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: what uvicorn calls the application."""
        started, counts = False, self._door.counts
        counts.requests += 1
        end_timing = self._begin_timing(scope)

        async def tell(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                end_timing()  # what follows takes as long as its client takes it
                counts.errors += message["status"] >= 400
                headers = MutableHeaders(scope=message)
                headers["date"] = formatdate(usegmt=True)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        asking = self._asking = Asking(self._door, self)
        try:
            try:
                asking.role = self._admit(scope).name.lower()
                await self._door.routes({**scope, "app": self, "eau2": asking}, receive, tell)
            except (Refused, HTTPException, Eau2Error) as error:
                if started:
                    raise
                await told(error)(scope, receive, tell)
        except (ClientDisconnect, asyncio.CancelledError):
            self.break_off()
        except BaseException as error:  # amid an answer, or our own fault
            if not asking.gone:
                log("failed", client=self, error=str(error) if isinstance(error, Eau2Error) else repr(error))
            if started or asking.gone:
                self.break_off()
            else:
                await told(error)(scope, receive, tell)
        finally:
            self._asking = None
            asking.leave()

    def _begin_timing(self, scope: Scope) -> Callable[[], None]:
        """Return what is to be called when the answer begins. Who watches wants to see how soon others are answered."""
        counts = self._door.counts
        if scope["path"].startswith(ROOT):
            return lambda: None
        return partial(counts.end, counts.begin())

    def _admit(self, scope: Scope) -> Role:
        """Return what who asks may do; Refused unless that is enough. The path is from here on as it was sent, so that
        no key is lost in it."""
        raw: bytes = scope["raw_path"]
        if not raw.startswith(b"/"):
            raise Refused(400, "InvalidPath", "a path begins with a slash")
        if scope["http_version"] not in ("1.0", "1.1"):
            raise Refused(505, "VersionNotSupported", "this is HTTP 1.0 and 1.1")
        if len(raw) + len(scope["query_string"]) + sum(map(_length, scope["headers"])) > HEAD_BYTES_MAX:
            raise Refused(431, "HeadersTooLarge", f"a request's head has at most {HEAD_BYTES_MAX:,} bytes")
        scope["path"] = path = raw.decode("ascii")
        headers, method = Headers(scope=scope), scope["method"]
        access = self._shared.access(self)
        if path != "/health":  # probes come by any name
            check_sender(headers, host=self._door.host, has_tokens=access.has_tokens)
        wanted = role_wanted(method, path)
        token = bearer_of(headers.get("authorization", ""))
        challenge = {"www-authenticate": 'Bearer realm="eau2"'}
        if (
            access.has_tokens
            and token is not None
            and not access.identify(token.encode("latin-1").decode("utf-8", "surrogateescape"))
        ):
            challenge["www-authenticate"] += ', error="invalid_token"'
            raise Refused(401, "Unauthorized", "the token is not known here", headers=challenge)
        if not access.role and wanted:
            if is_run(method, path):
                access.audit("run refused: no token")
            hint = "send the header Authorization: Bearer TOKEN"
            raise Refused(401, "Unauthorized", "a token is wanted", hint=hint, headers=challenge)
        why = access.refusal(wanted, "")
        if why:
            if is_run(method, path):
                self._door.refused.note(repr(self), self.host, access.role.name.lower(), why)
            raise Refused(403, "Forbidden", why)
        return access.role


def _length(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1])


def told(error: BaseException) -> Response:
    """Return the answer that says `error`."""
    headers: dict[str, str] = {}
    if isinstance(error, Refused):
        status, kind, message, hint = error.status, error.kind, error.message, error.hint
        headers.update(error.headers)
    elif isinstance(error, HTTPException):
        status, kind, message, hint = error.status_code, error.detail.title().replace(" ", ""), error.detail, ""
        headers.update(error.headers or {})
    elif isinstance(error, Eau2Error):
        status, kind, message, hint = status_of(error), type(error).__name__, error.message, error.hint
    else:
        status, kind, message, hint = 500, "InternalFailure", type(error).__name__, "the server's log says more"
    if status in (503, 504):
        headers["retry-after"] = "1"
    body = json.dumps({"error": kind, "message": message, "hint": hint}, ensure_ascii=False)
    return Response(body.encode("utf-8", "backslashreplace"), status, headers, "application/json")

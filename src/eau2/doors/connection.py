"""One connection of a client that sends CRUD lines: its requests in order, its limits and its deadlines."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

from eau2.doors import lines
from eau2.doors.lines import Goodbye, Identify, Lines, Refused, Request
from eau2.doors.tokens import Role
from eau2.doors.work import Operation, Outcome, Verb
from eau2.errors import StoreClosed

if TYPE_CHECKING:
    from eau2.doors.server import Shared

REQUESTS_TOGETHER_MAX = 256  # of one connection, that go to the store at once
WAITING_MAX = 1024  # requests of one connection; then it is not read until some are answered
WAITING_BYTES_MAX = 8 << 20  # of their values
UNREAD_BYTES_MAX = 1 << 20  # of replies that the client does not take
IDLE_SECONDS = 300.0
STALLED_SECONDS = 30.0  # to finish a request that has begun, or to take a reply
RATE_MIN = 16 << 10  # bytes a second that make a long request no stalled one


class LinesConnection(asyncio.Protocol):
    """Answers one client. Lives in the event loop: only `done` of what it submits runs in another thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._lines = Lines()
        self._waiting: deque[Request] = deque()
        self._waiting_bytes = 0
        self._busy = False  # the store has some of our requests
        self._ending = False  # no more is read; what was accepted is answered
        self._paused = False  # the client does not take what we send
        self._role = shared.tokens.at_first
        self._transport: asyncio.Transport | None = None
        self._moved = self._began = 0.0  # when bytes last moved; when the request began that has not ended
        self._begun_bytes = 0  # of the request that has not ended

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of which not every loop's is an instance
        self._transport.set_write_buffer_limits(high=UNREAD_BYTES_MAX)
        self._moved = self._shared.now()
        if not self._shared.admit(self):
            self._leave("too many connections: try again later")

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self._moved = self._shared.now()
        requests = self._lines.feed(data)
        if requests:
            self._begun_bytes = 0
        if self._lines.amid:
            self._began = self._began if self._begun_bytes else self._moved
            self._begun_bytes += len(data)
        else:
            self._begun_bytes = 0
        self._take(requests)

    def eof_received(self) -> bool:
        self._take(self._lines.end())
        self.end()
        return True  # what was asked is answered before we close

    def pause_writing(self) -> None:
        self._paused = True
        self._moved = self._shared.now()

    def resume_writing(self) -> None:
        self._paused = False
        self._moved = self._shared.now()
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        self._shared.leave(self)

    # -- what the server calls ----------------------------------------------------------------------------------------

    def end(self) -> None:
        """Read no more; answer what was accepted, then close."""
        self._ending = True
        self._go_on()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def look(self, now: float) -> None:
        """Close when nothing has come for too long, or nothing was taken."""
        if self._transport is None:
            return
        if self._paused or self._transport.is_closing():
            if now - self._moved > STALLED_SECONDS:
                self.abort()
        elif self._busy or self._ending:
            return
        elif self._begun_bytes:
            if now - self._began > STALLED_SECONDS + self._begun_bytes / RATE_MIN:
                self._leave("a request took too long to come")
        elif now - self._moved > IDLE_SECONDS:
            self._leave(f"idle for {IDLE_SECONDS:g} seconds")

    # -- private ------------------------------------------------------------------------------------------------------

    def _leave(self, why: str) -> None:
        assert self._transport is not None
        self._transport.write(lines.error(why))
        self._transport.close()

    def _take(self, requests: list[Request]) -> None:
        self._waiting += requests
        self._waiting_bytes += sum(len(each.value) for each in requests if isinstance(each, Operation))
        self._go_on()

    def _go_on(self) -> None:
        """Answer what waits as far as that can be done now; read on if little is left."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while self._waiting and not self._busy and not self._paused:
            if isinstance(self._waiting[0], Operation):
                self._submit()
            else:
                self._answer(self._waiting.popleft())
        if self._ending and not self._waiting and not self._busy:
            transport.close()
            return
        full = len(self._waiting) > WAITING_MAX or self._waiting_bytes > WAITING_BYTES_MAX or self._paused
        if full or self._ending:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _answer(self, request: Request) -> None:
        assert self._transport is not None
        if isinstance(request, Identify):
            role = self._shared.tokens.role(request.token)
            if not role:
                self._shared.audit("token refused", self)
                request = Refused("the token is not known here")
            self._role = role or self._role
        self._transport.write(lines.answer(request, None))
        if isinstance(request, Goodbye):
            self._waiting.clear()
            self._ending = True

    def _submit(self) -> None:
        """Hand the operations that wait to the store, up to the first request that is none, or is not allowed."""
        some: list[Operation] = []
        while self._waiting and len(some) < REQUESTS_TOGETHER_MAX:
            request = self._waiting[0]
            if not isinstance(request, Operation):
                break
            self._waiting_bytes -= len(request.value)
            self._waiting.popleft()
            wanted = Role.READ if request.verb is Verb.GET else Role.WRITE
            if self._role < wanted:
                needs = (
                    "say AUTH and a token first" if not self._role else f"the token may only {self._role.name.lower()}"
                )
                self._waiting.appendleft(Refused(needs))
                break
            some.append(request)
        if not some:
            return
        try:
            self._shared.submit(some, lambda outcomes: self._told(some, outcomes))
        except StoreClosed as error:
            self._told(some, [error] * len(some))
            return
        self._busy = True

    def _told(self, operations: list[Operation], outcomes: list[Outcome]) -> None:
        """In the event loop: what came of what was submitted."""
        self._busy = False
        if self._transport is None:
            return
        self._transport.write(b"".join(map(lines.answer, operations, outcomes)))
        rest = operations[len(outcomes) :]
        self._waiting.extendleft(reversed(rest))
        self._waiting_bytes += sum(len(each.value) for each in rest)
        self._moved = self._shared.now()
        self._go_on()

    def __repr__(self) -> str:
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return f"{peer}"

"""One connection of a client over TCP: its requests in order, its limits and its deadlines."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, cast

from eau2.doors.addresses import client_text
from eau2.doors.work import Asked, Said, Verb
from eau2.errors import StoreClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.doors.counts import DoorCounts
    from eau2.doors.shared import Shared
    from eau2.doors.tokens import Access
    from eau2.doors.work import Conversation, Outcome, Plain

REQUESTS_TOGETHER_MAX = 256  # of one connection, that go to the store at once
WAITING_MAX = 1024  # requests of one connection; then it is not read until some are answered
WAITING_BYTES_MAX = 8 << 20  # that came with them
UNREAD_BYTES_MAX = 1 << 20  # of replies that the client does not take
IDLE_SECONDS = 300.0
STALLED_SECONDS = 30.0  # to finish a request that has begun, or to take a reply
_ERRORS = b"-", b"ERROR"  # how a reply begins that says one, in RESP and in CRUD lines
RATE_MIN = 16 << 10  # bytes a second that make a long request no stalled one


class Connection(asyncio.Protocol):
    """Answers one client. Lives in the event loop: only `done` of what it submits runs in another thread."""

    def __init__(self, shared: Shared, counts: DoorCounts, converse: Callable[[Access], Conversation]) -> None:
        self._shared, self._counts = shared, counts
        self._timed = 0.0  # when a request came whose reply is timed; 0.0 for none
        self._conversation = converse(shared.access(self))
        self._waiting: deque[Said | Asked] = deque()
        self._waiting_bytes = 0
        self._busy = False  # the store has some of our requests
        self._unread = b""  # what came, begins as what is plain, and is looked at together with what others say
        self._ending = False  # no more is read; what was accepted is answered
        self._paused = False  # the client does not take what we send
        self._reading = True
        self._transport: asyncio.Transport | None = None
        self._moved = self._began = 0.0  # when bytes last moved; when the request began that has not ended
        self._begun_bytes = 0  # of the request that has not ended
        self._unsent = 0  # bytes of replies when they were last looked at

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of which not every loop's is an instance
        self._transport.set_write_buffer_limits(high=UNREAD_BYTES_MAX)
        self._moved = self._shared.now()
        self._counts.connected(1)
        if not self._shared.admit(self):
            self._leave("too many connections: try again later")

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self._moved = self._shared.now()
        counts = self._counts
        counts.received += len(data)
        if self._unread:  # and that is not all
            self._busy = False
            data = self.take() + data
        elif not self._busy and not self._waiting and not self._paused:
            if counts.requests >= counts.time_at:
                self._timed = counts.begin()
            if self._answers_now(data):
                return
        self._feed(data)

    def eof_received(self) -> bool:
        self._take(self._conversation.end(), 0)
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
        self._counts.connected(-1)
        if self._unread:
            self._do_unheard(self.take())
        self._waiting.clear()
        del self._conversation  # it knows us, and would be kept until garbage is collected
        self._shared.leave(self)

    # -- what the server calls ----------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """Return what was gathered: nothing where it was done by itself, as more came."""
        data, self._unread = self._unread, b""
        return data

    def plain(self, data: bytes) -> Plain | None:
        """Return what `data`, which was taken, asks; None where that is not plain."""
        return self._conversation.plain(data)

    def told(self, reply: bytes, requests: int) -> None:
        """Answer so many requests, which were taken."""
        self._busy = False
        self._counts.requests += requests
        if self._transport is None:
            return
        self._transport.write(reply)
        self._replied(reply)
        if self._waiting or self._ending:
            self._go_on()

    def turned_away(self, data: bytes) -> None:
        """Have `data`, which was taken, done as anything else is."""
        self._busy = False
        self._feed(data)

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
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._moved = now
            self._unsent = unsent
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

    def _answers_now(self, data: bytes) -> bool:
        """Whether `data` is answered, or is looked at once all have said what they ask now, for it begins as what is
        plain does."""
        conversation = self._conversation
        begins = conversation.begins(data)
        if begins is None:
            return False
        if begins is Verb.GET:
            kept = self._shared.kept(data, conversation.absent)
            if kept is not None:
                assert self._transport is not None
                reply, requests = kept
                self._transport.write(reply)
                self._counts.requests += requests
                if self._timed:
                    self._replied(reply)
                return True
        if not self._shared.gather(self, begins, len(data)):
            return False
        self._unread = data
        self._busy = True
        return True

    def _do_unheard(self, data: bytes) -> None:
        """Have what puts done though the client has gone that sent it."""
        puts = self._conversation.begins(data) is Verb.PUT
        requests = self._conversation.feed(data)
        self._counts.requests += len(requests)
        asked = [each.command for each in requests if isinstance(each, Asked)]
        if puts and asked:
            with contextlib.suppress(StoreClosed):
                self._shared.submit(asked, lambda _: None)

    def _feed(self, data: bytes) -> None:
        """Have what `data` asks done in the order in which it came."""
        requests = self._conversation.feed(data)
        self._counts.requests += len(requests)
        if requests:
            self._begun_bytes = 0
        elif not self._busy:
            self._timed = 0.0  # what is yet to come of it takes its client's time
        if self._conversation.amid:
            self._began = self._began if self._begun_bytes else self._moved
            self._begun_bytes += len(data)
        else:
            self._begun_bytes = 0
        self._take(requests, len(data))

    def _replied(self, reply: bytes) -> None:
        """Count what was just sent."""
        if reply.startswith(_ERRORS):
            self._counts.errors += 1
        if self._timed:
            self._counts.end(self._timed)
            self._timed = 0.0

    def _leave(self, why: str) -> None:
        assert self._transport is not None
        self._transport.write(self._conversation.error(why))
        self._transport.close()

    def _take(self, requests: list[Said | Asked], size: int) -> None:
        self._waiting += requests
        self._waiting_bytes += size if self._waiting else 0
        self._go_on()

    def _go_on(self) -> None:
        """Answer what waits as far as that can be done now; read on if little is left."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while self._waiting and not self._busy and not self._paused and not transport.is_closing():
            request = self._waiting[0]
            if isinstance(request, Asked):
                self._submit()
            else:
                self._waiting.popleft()
                self._say(request)
        if not self._waiting:
            self._waiting_bytes = 0
        if self._ending and not self._waiting and not self._busy:
            transport.close()
            return
        full = len(self._waiting) > WAITING_MAX or self._waiting_bytes > WAITING_BYTES_MAX or self._paused
        wanted = not full and not self._ending
        if wanted != self._reading:
            self._reading = wanted
            (transport.resume_reading if wanted else transport.pause_reading)()

    def _say(self, said: Said) -> None:
        assert self._transport is not None
        self._transport.write(said.reply)
        self._replied(said.reply)
        if said.ends:
            self._waiting.clear()
            self._ending = True

    def _submit(self) -> None:
        """Hand the requests that wait to the store, up to the first that is answered without it."""
        some: list[Asked] = []
        while self._waiting and len(some) < REQUESTS_TOGETHER_MAX:
            request = self._waiting[0]
            if not isinstance(request, Asked):
                break
            some.append(request)
            self._waiting.popleft()
        try:
            self._shared.submit([each.command for each in some], lambda outcomes: self._told(some, outcomes))
        except StoreClosed as error:
            assert self._transport is not None
            self._transport.write(b"".join(each.answer(error) for each in some))
            return
        self._busy = True

    def _told(self, asked: list[Asked], outcomes: list[Outcome]) -> None:
        """In the event loop: what came of what was submitted."""
        self._busy = False
        if self._transport is None:
            return
        replies = [each.answer(outcome) for each, outcome in zip(asked, outcomes, strict=False)]
        self._transport.write(b"".join(replies))
        for reply in replies:
            self._replied(reply)
        self._waiting.extendleft(reversed(asked[len(outcomes) :]))  # not done yet
        self._moved = self._began = self._shared.now()  # while we did not read, no request could come to its end
        self._go_on()

    def __repr__(self) -> str:
        return client_text(None if self._transport is None else self._transport.get_extra_info("peername"))

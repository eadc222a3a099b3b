"""The UDP door: each datagram is answered once, and again when it comes again."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, cast

from eau2.doors.addresses import client_text
from eau2.doors.datagrams import Code, Refused, Replies, Request, Standing, answer, decode, number, reply
from eau2.doors.datagrams import Command as Asked
from eau2.doors.log import log
from eau2.doors.work import Operation, Outcome, Wipe
from eau2.errors import Eau2Error, StoreClosed

if TYPE_CHECKING:
    from eau2.doors.addresses import Networks
    from eau2.doors.counts import DoorCounts
    from eau2.doors.shared import Shared
    from eau2.doors.work import Command

Address = tuple[str, int] | tuple[str, int, int, int]


class DatagramDoor(asyncio.DatagramProtocol):
    """Lives in the event loop. What does not come from a trusted network is dropped: its sender may be forged, and an
    answer larger than its question would go to somebody who did not ask."""

    def __init__(
        self, shared: Shared, counts: DoorCounts, trusted: Networks, *, allow_shutdown: bool, allow_wipe: bool
    ) -> None:
        self._shared, self._counts = shared, counts
        self._trusted = trusted
        self._allow_shutdown, self._allow_wipe = allow_shutdown, allow_wipe
        self._replies = Replies()
        self._transport: asyncio.DatagramTransport | None = None
        self.working = 0  # requests that the store has
        self.ending = False  # nothing more is accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # of which not every loop's is an instance

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if self.ending or addr[0] not in self._trusted:
            return
        self._counts.requests += 1
        request = decode(data)
        if isinstance(request, Refused):
            self._counts.errors += 1
            self._send(reply(request.id, request.code), addr)
            return
        standing = self._replies.begin(addr, request.id, self._shared.now())
        if isinstance(standing, bytes):
            self._send(standing, addr)
        elif standing is Standing.FULL:
            self._counts.errors += 1
            self._send(reply(request.id, Code.OVERLOADED), addr)
        elif standing is Standing.NEW:
            self._do(request, addr)

    def error_received(self, exc: Exception) -> None:
        """A reply found nobody: its client has gone, or will ask again."""

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    # -- private ------------------------------------------------------------------------------------------------------

    def _do(self, request: Request, address: Address) -> None:
        what = request.what
        if isinstance(what, Operation):
            self._submit(what, request, address)
            return
        if what is Asked.WIPE_OUT and self._allow_wipe:
            self._shared.audit("wipe out", client_text(address))
            self._submit(Wipe(), request, address)
            return
        self._finish(request, address, self._answered(request, what, address))

    def _submit(self, command: Command, request: Request, address: Address) -> None:
        self.working += 1
        try:
            self._shared.submit([command], lambda outcomes: self._told(request, address, outcomes))
        except StoreClosed as error:
            self._told(request, address, [error])

    def _answered(self, request: Request, what: Asked, address: Address) -> bytes:
        if what is Asked.IS_ALIVE:
            return reply(request.id, Code.SUCCESS)
        if what is Asked.PROCESS_ID:
            return number(request.id, os.getpid())
        if what is Asked.MEMBER_COUNT:
            return number(request.id, self._shared.member_count())
        if what is Asked.SHUTDOWN and self._allow_shutdown and self._shared.is_loopback(address[0]):
            self._shared.audit("shutdown", client_text(address))
            self._shared.shut_down()
            return reply(request.id, Code.SUCCESS)
        return reply(request.id, Code.UNKNOWN_COMMAND)

    def _told(self, request: Request, address: Address, outcomes: list[Outcome]) -> None:
        self.working -= 1
        if isinstance(outcomes[0], Eau2Error):
            log("failed", door="udp", error=str(outcomes[0]))
            self._counts.errors += 1
        outcome = True if request.what is Asked.WIPE_OUT else outcomes[0]
        self._finish(request, address, answer(request, outcomes[0] if isinstance(outcomes[0], Eau2Error) else outcome))

    def _finish(self, request: Request, address: Address, message: bytes) -> None:
        self._replies.finish(address, request.id, message, self._shared.now())
        self._send(message, address)

    def _send(self, message: bytes, address: Address) -> None:
        if self._transport is not None:
            self._transport.sendto(message, address)

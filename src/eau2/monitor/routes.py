"""What the page is and asks for: its files, documents as JSON, and what changes as server-sent events.

/monitor/                       the page
/monitor/static/NAME            its files: nothing that is stored
/monitor/overview, sparks       nodes, sums, the server itself; an hour of operations
/monitor/node?name=             all figures of a node ("": of the server), with their hour
/monitor/keys?prefix=&after=    the tree of keys, a page at a time
/monitor/frame?key=, chunks     a frame; its chunks, from ?first= on
/monitor/queries[/NUMBER]       queries; one with its plan
/monitor/queries/NUMBER/cancel  POST, of an admin: ends it
/monitor/runs                   runs of commands: see run_routes.py
/monitor/events                 `overview` and `queries`, every few seconds
/monitor/who                    what the client may do
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from eau2.errors import Eau2Error
from eau2.monitor.documents import Document, encoded, number_asked, one_node, one_query, query_list, sparks
from eau2.monitor.frames import CHUNKS_MAX, chunk_page, frame_page
from eau2.monitor.keys import ROWS_MAX, key_page
from eau2.monitor.run_routes import RunPage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from eau2.monitor.watch import Watch
    from eau2.store.store import Store

ROOT = "/monitor/"
FILES = {  # that the page is made of
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "nodes.js": "text/javascript; charset=utf-8",
    "keys.js": "text/javascript; charset=utf-8",
    "frame.js": "text/javascript; charset=utf-8",
    "queries.js": "text/javascript; charset=utf-8",
    "runs.js": "text/javascript; charset=utf-8",
    "run.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "tools.js": "text/javascript; charset=utf-8",
    "mark.svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
QUERIES_SENT = 60  # of those that are over
CHUNK_FIRST_MAX = 10_000_000
QUIET_SECONDS = 15.0  # after which a stream says that it lives

Answer = TypeVar("Answer")


class Asking(Protocol):
    """One request, as the HTTP door has it."""

    role: str  # of who asks: "read", "write", "admin"
    client: str  # from where
    has_tokens: bool  # of the server: without, whoever reaches it is an admin
    ended: asyncio.Event  # who asked has gone, or the server ends

    @property
    def store(self) -> Store: ...

    def may_take_long(self) -> None:
        """Have what follows worked on beside what is quick."""

    async def work(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return what `function` returns in a thread."""

    def audit(self, what: str, **facts: object) -> None: ...


def routes(watch: Watch) -> list[Route]:
    """Return the routes of the page over `watch`."""
    page = _Page(watch)
    return [
        Route("/monitor", page.moved),
        Route(ROOT, page.index),
        Route(f"{ROOT}static/{{name}}", page.file),
        Route(f"{ROOT}who", page.who),
        Route(f"{ROOT}overview", page.overview),
        Route(f"{ROOT}sparks", page.sparks),
        Route(f"{ROOT}node", page.node),
        Route(f"{ROOT}keys", page.keys),
        Route(f"{ROOT}frame", page.frame),
        Route(f"{ROOT}chunks", page.chunks),
        Route(f"{ROOT}queries", page.queries),
        Route(f"{ROOT}queries/{{number:int}}", page.query),
        Route(f"{ROOT}queries/{{number:int}}/cancel", page.cancel, methods=["POST"]),
        *RunPage(watch.begun, _asking, _json).routes(ROOT),
        Route(f"{ROOT}events", page.events),
    ]


class _Page:
    """The answers. Each works on the store in a thread."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        folder = files("eau2.monitor").joinpath("static")
        self._files = {name: folder.joinpath(name).read_bytes() for name in FILES}

    # -- files --------------------------------------------------------------------------------------------------------

    async def moved(self, request: Request) -> Response:
        return RedirectResponse("monitor/", 308)

    async def index(self, request: Request) -> Response:
        return self._of_file("page.html")

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            raise HTTPException(404)
        return self._of_file(name)

    def _of_file(self, name: str) -> Response:
        headers = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
        return Response(self._files[name], 200, headers, FILES[name])

    # -- documents ----------------------------------------------------------------------------------------------------

    async def who(self, request: Request) -> Response:
        asking = _asking(request)
        return _json({"role": asking.role, "store": asking.store.name})

    async def overview(self, request: Request) -> Response:
        return Response(await _asking(request).work(self._watch.document), media_type="application/json")

    async def sparks(self, request: Request) -> Response:
        return _json(await _asking(request).work(self._sparks))

    async def node(self, request: Request) -> Response:
        found = await _asking(request).work(self._node, request.query_params.get("name", ""))
        if found is None:
            raise HTTPException(404, "no such node")
        return _json(found)

    async def keys(self, request: Request) -> Response:
        asking, asked = _asking(request), request.query_params
        limit = number_asked(asked.get("limit", "100"), "limit", 1, ROWS_MAX)
        return _json(await asking.work(key_page, asking.store, asked.get("prefix", ""), asked.get("after", ""), limit))

    async def frame(self, request: Request) -> Response:
        asking = _asking(request)
        return _json(await asking.work(frame_page, asking.store, request.query_params.get("key", "")))

    async def chunks(self, request: Request) -> Response:
        asking, asked = _asking(request), request.query_params
        first = number_asked(asked.get("first", "0"), "first", 0, CHUNK_FIRST_MAX)
        return _json({**await asking.work(chunk_page, asking.store, asked.get("key", ""), first), "page": CHUNKS_MAX})

    async def queries(self, request: Request) -> Response:
        return _json(await _asking(request).work(self._queries))

    async def query(self, request: Request) -> Response:
        found = await _asking(request).work(self._watch.queries.one, request.path_params["number"])
        if found is None:
            raise HTTPException(404, "no such query is remembered")
        return _json(one_query(found))

    async def cancel(self, request: Request) -> Response:
        asking, number = _asking(request), request.path_params["number"]
        if not self._watch.queries.cancel(number):
            raise HTTPException(404, "no such query runs")
        asking.audit("query cancelled", number=number)
        return _json({"cancelled": number})

    async def events(self, request: Request) -> Response:
        stream = self._events(_asking(request))
        first = await anext(stream)  # what is wrong with it is raised here
        return _Events(stream, first)

    # -- private ------------------------------------------------------------------------------------------------------

    def _queries(self) -> Document:
        queries = self._watch.queries
        return query_list(queries.running(), queries.recent()[:QUERIES_SENT], now=time.time())

    def _sparks(self) -> Document:
        self._watch.document()
        seen, history, guard = self._watch.seen()
        with guard:
            return {} if seen is None else sparks(seen, history)

    def _node(self, name: str) -> Document | None:
        self._watch.document()
        seen, history, guard = self._watch.seen()
        with guard:
            return None if seen is None else one_node(seen, history, name)

    async def _events(self, asking: Asking) -> AsyncIterator[bytes]:
        loop, looked = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(looked.set)

        if not self._watch.listen(tell):
            raise HTTPException(503, "too many pages are open")
        try:
            before: object = None
            while not asking.ended.is_set():
                looked.clear()
                yield _event("overview", await asking.work(self._said))
                if (now := self._watch.queries.totals()) != before or now[1]:
                    before = now
                    yield _event("queries", encoded(await asking.work(self._queries)))
                await _either(looked, asking.ended)
        finally:
            self._watch.unlisten(tell)

    def _said(self) -> bytes:
        try:
            return self._watch.document()
        except Eau2Error as error:  # the page says so, and goes on
            return encoded({"error": error.message, "hint": error.hint})


class _Events(StreamingResponse):
    """Server-sent events. That the client has gone is said by its connection."""

    def __init__(self, events: AsyncIterator[bytes], first: bytes) -> None:
        super().__init__(_with(first, events), media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


async def _with(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for each in rest:
        yield each


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    """Return when one of them is set, or after QUIET_SECONDS."""
    waits = [asyncio.ensure_future(each.wait()) for each in (one, other)]
    try:
        await asyncio.wait(waits, timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)  # JSON has no line end in it


def _asking(request: Request) -> Asking:
    asking: Asking = request.scope["eau2"]
    return asking


def _json(document: Document) -> Response:
    return Response(encoded(document), media_type="application/json")

"""What the HTTP door answers: its routes. Each asks the store in a thread, by the `Asking` of its request."""

from __future__ import annotations

import asyncio
import bisect
import json
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from eau2.doors.http_openapi import description
from eau2.doors.http_requests import Refused, condition_of, is_known, key_of, tag_of
from eau2.doors.http_uploads import put_body
from eau2.doors.http_values import NotAcceptable, encoded, format_asked
from eau2.errors import InvalidOption, InvalidValue, KeyMissing, StoreBusy, VersionConflict
from eau2.frame.frame import Frame, read_batches
from eau2.ingest.files import is_file
from eau2.metrics.prometheus import CONTENT_TYPE, exposition
from eau2.store.arguments import checked_prefix
from eau2.store.expiry import bytes_of
from eau2.store.nodes import Kind
from eau2.values.key import check_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from eau2.doors.http import Asking
    from eau2.store.store import Store

KEYS_MAX = 10_000  # of one page
KEYS_UNLESS_ASKED = 1000
QUERY_BYTES_MAX = 1 << 20
_PIECE_BYTES = 256 << 10  # of bytes that are sent at once
_TRIES_MAX = 100
_TEXT_TYPES = ("", "text/plain", "application/sql")

_INDEX = """eau2: a key-value store whose values are bytes or dataframes

GET    /keys?prefix=&limit=&after=   keys
GET    /keys/KEY                     bytes, or a frame by Accept or ?format=json|ndjson|csv|arrow
PUT    /keys/KEY                     bytes, or a frame by Content-Type: Arrow stream, CSV, NDJSON, Parquet
DELETE /keys/KEY
POST   /sql                          a query as text/plain, or {"query": ...}
GET    /openapi.json                 all of this for programs
GET    /metrics                      figures of all nodes, for Prometheus
GET    /health                       for probes
"""


class Found(NamedTuple):
    """What is under a key."""

    version: int
    value: bytes | Frame


def router(more: Sequence[Route] = ()) -> Router:
    """Return the routes of the door, and `more`: those of the page."""
    return Router(
        [
            Route("/", index),
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
            Route("/keys", list_keys),
            Route("/keys/{key:path}", one_key, methods=["GET", "PUT", "DELETE"]),
            Route("/sql", query, methods=["POST"]),
            *more,
        ],
        redirect_slashes=False,
    )


# -- about the server -------------------------------------------------------------------------------------------------


async def index(request: Request) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(f"<!doctype html><title>eau2</title><pre>{_INDEX.replace('&', '&amp;')}</pre>")
    return PlainTextResponse(_INDEX)


async def health(request: Request) -> Response:
    """Whether the store can be read."""
    asking = _asking(request)
    await asking.work(asking.store.exists, "health")
    return JSONResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    """What each node says of itself, and how long ago it did."""
    asking = _asking(request)
    text = await asking.work(lambda: exposition(asking.store.reports()))
    return Response(text, media_type=CONTENT_TYPE)


async def openapi(request: Request) -> Response:
    return JSONResponse(description())


# -- keys -------------------------------------------------------------------------------------------------------------


async def list_keys(request: Request) -> Response:
    asking, asked = _asking(request), request.query_params
    text = asked.get("limit", str(KEYS_UNLESS_ASKED))
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) <= KEYS_MAX):
        raise InvalidOption(f"limit is from 1 to {KEYS_MAX}, not {text!r:.80}")
    keys = await asking.work(_page, asking.store, asked.get("prefix", ""), asked.get("after", ""), int(text))
    more = len(keys) > int(text)
    keys = keys[: int(text)]
    return JSONResponse({"keys": keys, "next": keys[-1] if more else None})


def _page(store: Store, prefix: str, after: str, count: int) -> list[str]:
    """Return the keys after `after`, at most `count` and one more."""
    if not after:
        return store.node.keys(checked_prefix(prefix), limit=count + 1)
    keys = store.keys(prefix)
    start = bisect.bisect_right(keys, after)
    return keys[start : start + count + 1]


async def one_key(request: Request) -> Response:
    # One route, so that the answer to another method lists all that are allowed.
    if request.method == "PUT":
        return await put_value(request)
    return await (delete_value if request.method == "DELETE" else get_value)(request)


async def get_value(request: Request) -> Response:
    asking, key = _asking(request), _key(request)
    found = await asking.work(_look_up, asking.store, key)
    headers = {"etag": tag_of(found.version), "cache-control": "private, no-cache"}
    if is_known(request.headers.get("if-none-match"), found.version):
        return Response(status_code=304, headers=headers)
    override = request.query_params.get("format")
    if isinstance(found.value, bytes):
        if override is not None:
            raise NotAcceptable(f"{key!r} holds bytes, which have no format", hint="leave ?format= out")
        if len(found.value) <= _PIECE_BYTES:
            return Response(found.value, 200, headers, "application/octet-stream")
        headers["content-length"] = str(len(found.value))
        wanted = b"" if request.method == "HEAD" else found.value
        return Streamed(_cut(wanted), headers, "application/octet-stream")
    headers["vary"] = "Accept"
    if override is None and is_file(found.value.schema):
        return await _told(asking, request, _file_pieces(found.value), headers, "application/octet-stream")
    format_ = format_asked(request.headers.get("accept", ""), override)
    pieces = await asking.work(lambda frame: encoded(*read_batches(frame), format_), found.value)
    return await _told(asking, request, pieces, headers, format_.value)


def _look_up(store: Store, key: str) -> Found:
    """Return the value under `key` with its version. KeyMissing."""
    for _ in range(_TRIES_MAX):
        entry = store.node.get(check_key(key))
        if entry is not None and entry.kind in (Kind.BYTES, Kind.EXPIRING):
            return Found(entry.version, bytes_of(entry))
        value = store.get(key)
        if isinstance(value, Frame):
            return Found(value.version or 0, value)
    raise StoreBusy(f"{key!r} was replaced {_TRIES_MAX} times while it was read", hint="try again")


async def put_value(request: Request) -> Response:
    asking, key = _asking(request), _key(request)
    condition = condition_of(request.headers.get("if-match"), request.headers.get("if-none-match"))
    existed = condition.present or (not condition.absent and await asking.work(asking.store.exists, key))
    try:
        version, account = await put_body(asking, request, key, condition)
    except KeyMissing as error:  # update: what it was to replace is not there
        raise VersionConflict(error.message, found=0, hint="If-Match replaces what is there") from None
    headers = {"etag": tag_of(version)}
    if account is not None:
        return JSONResponse({**account, "version": version}, 200, headers)
    return Response(status_code=204 if existed else 201, headers=headers)


async def delete_value(request: Request) -> Response:
    asking, key = _asking(request), _key(request)
    condition = condition_of(request.headers.get("if-match"), request.headers.get("if-none-match"))
    if condition.absent:
        raise InvalidOption("nothing is deleted that is not there", hint="If-Match names the version to delete")
    try:
        deleted = await asking.work(lambda: asking.store.delete(key, if_version=condition.version))
    except KeyMissing as error:
        raise VersionConflict(error.message, found=0) from None
    if not deleted:
        await asking.work(asking.store.version, key)  # which says what is near
        raise StoreBusy(f"{key!r} was put while it was to be deleted", hint="try again")
    return Response(status_code=204)


# -- queries ----------------------------------------------------------------------------------------------------------


async def query(request: Request) -> Response:
    asking = _asking(request)
    text = _query_of(_media_type(request), await _body(request))
    format_ = format_asked(request.headers.get("accept", ""), request.query_params.get("format"))
    asking.may_take_long()
    pieces = await asking.work(lambda: encoded(*read_batches(asking.store.sql(text)), format_))
    return await _told(asking, request, pieces, {"vary": "Accept"}, format_.value)


def _query_of(media_type: str, body: bytes) -> str:
    if media_type not in (*_TEXT_TYPES, "application/json"):
        raise Refused(
            415,
            "UnsupportedMediaType",
            f"a query is text/plain, or application/json, not {media_type}",
            hint="curl -H 'Content-Type: text/plain' --data-binary ..., or curl --json '{\"query\": ...}'",
        )
    try:
        text = body.decode()
        if media_type == "application/json":
            given = json.loads(text)
            if not isinstance(given, dict) or set(given) != {"query"} or not isinstance(given["query"], str):
                raise InvalidValue('a query as JSON is {"query": "select ..."}')
            text = given["query"]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InvalidValue(f"the query is not {media_type or 'text'}: {error}") from None
    if not text.strip():
        raise InvalidValue("no query is in the body", hint="select 1")
    return text


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > QUERY_BYTES_MAX:
            raise Refused(413, "ValueTooLarge", f"a query has at most {QUERY_BYTES_MAX:,} bytes")
    return bytes(body)


# -- answers ----------------------------------------------------------------------------------------------------------


class Streamed(StreamingResponse):
    """An answer in pieces. That the client has gone is not looked for here: its connection says so."""

    def __init__(self, pieces: AsyncIterator[bytes], headers: dict[str, str], media_type: str) -> None:
        super().__init__(pieces, headers=headers, media_type=media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


async def _told(
    asking: Asking, request: Request, pieces: Iterator[bytes], headers: dict[str, str], media_type: str
) -> Response:
    """Return the answer that `pieces` are. What is wrong with the first is raised here: nothing was said yet."""
    if request.method == "HEAD":
        return Streamed(_cut(b""), headers, media_type)
    first = await asking.work(next, pieces, b"")
    return Streamed(_worked_out(asking, first, pieces), headers, media_type)


async def _worked_out(asking: Asking, first: bytes, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    piece: bytes | None = first
    while piece is not None and not asking.gone:
        if piece:
            yield piece
        piece = await asking.work(next, pieces, None)


async def _cut(value: bytes) -> AsyncIterator[bytes]:
    view = memoryview(value)
    for start in range(0, len(value), _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])
        await asyncio.sleep(0)  # others are answered too while a client takes all of it at once


def _file_pieces(frame: Frame) -> Iterator[bytes]:
    for batch in frame.batches():
        for cell in batch.column(0):
            data = cell.as_buffer()
            for start in range(0, data.size, _PIECE_BYTES):
                yield data.slice(start, min(_PIECE_BYTES, data.size - start)).to_pybytes()


# -- requests ---------------------------------------------------------------------------------------------------------


def _asking(request: Request) -> Asking:
    asking: Asking = request.scope["eau2"]
    return asking


def _key(request: Request) -> str:
    """Return the key in the path; that of ?key= where the path has none, for clients that fold `.` and `..` away."""
    escaped = request.path_params["key"]
    if not escaped and "key" in request.query_params:
        return check_key(request.query_params["key"])
    return key_of(escaped)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()

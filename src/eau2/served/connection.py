"""The connection of a client with a served store: calls, their errors and times, and a session that is kept alive.

The session begins when the first frame is held or sent. It goes on as long as frames are held, also after `close`: what
is held stays readable. One thread says that we live, and lets go of frames that nobody here holds any more.
"""

from __future__ import annotations

import contextlib
import json
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import flight

from eau2.errors import ClusterUnavailable, Eau2Error, NodeUnavailable, OutcomeUnknown, ReadOnly, WaitTimeout
from eau2.served.uploads import WHOLE, upload
from eau2.served.wire import (
    LEASE_SECONDS,
    Header,
    SessionGone,
    content,
    made_again,
    message,
    parsed,
)
from eau2.store.nodes import closed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CALL_SECONDS = 60.0  # of one call, besides what its bytes take
LONG_SECONDS = 24 * 3600.0  # of what reads or rewrites all that is stored
BYTES_A_SECOND_MIN = 1 << 20
_KEEP_SECONDS = LEASE_SECONDS / 4
_SILENT_MAX = 4  # times that the server says nothing when it is told that we live: then its streams are given up
_PING_MS, _PONG_MS = 310_000, 20_000  # of gRPC, for what is sent: a server takes pings each 300 s, and no more often
_GATHER_SECONDS = 0.05  # released frames are told of together
_NOT_SENT = ("failed to connect", "Connection refused", "name resolution", "DNS")  # of gRPC: nobody got the call


class Connection:
    """Calls to the server at `address`, HOST:PORT. Thread-safe."""

    def __init__(self, address: str, token: str = "", *, roots: bytes | None = None) -> None:
        self.address = address
        self._client = flight.FlightClient(
            f"{'grpc' if roots is None else 'grpc+tls'}://{address}",
            tls_root_certs=roots or None,
            generic_options=[("grpc.keepalive_time_ms", _PING_MS), ("grpc.keepalive_timeout_ms", _PONG_MS)],
        )
        self._headers = [(b"authorization", b"Bearer " + token.encode())] if token else []
        self._beginning = threading.Lock()  # held while a session is begun
        self._lock = threading.Lock()  # guards everything below
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._session = ""
        self._held = 0
        self._closed = False
        self._keeper: threading.Thread | None = None
        # Frames that nobody holds any more: their session and number. Of all queues it may be put to amid itself.
        self._wake: SimpleQueue[tuple[str, int] | None] = SimpleQueue()

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(
        self, verb: str, header: Header | None = None, payload: bytes = b"", *, seconds: float = CALL_SECONDS
    ) -> list[tuple[Header, memoryview]]:
        """Return the replies to `verb`. Raises what the server raises; NodeUnavailable, WaitTimeout."""
        action = flight.Action(f"eau2.{verb}", message(header or {}, payload))
        options = self._options(seconds + len(payload) / BYTES_A_SECOND_MIN)
        try:
            return [parsed(result.body) for result in self._client.do_action(action, options)]
        except (flight.FlightError, pa.ArrowException) as error:
            raise self._error(error, header) from None

    def write(self, header: Header, payload: bytes) -> list[tuple[Header, memoryview]]:
        """As `call`, for what changes something. OutcomeUnknown when nobody says whether it was done."""
        try:
            return self.call("write", header, payload)
        except (NodeUnavailable, WaitTimeout) as error:
            if isinstance(error, NodeUnavailable) and any(text in error.message for text in _NOT_SENT):
                raise
            raise OutcomeUnknown(
                f"the server at {self.address} did not say whether the write was done: {error.message}",
                hint="read what is there",
            ) from None

    def read(self, asked: Header, *, seconds: float) -> Iterator[pa.Buffer]:
        """Yield the pieces of the stream that `asked` names. Leaving it ends it at the server."""
        with self.stream(asked, seconds=seconds) as stream:
            yield from stream

    def stream(self, asked: Header, *, seconds: float) -> Stream:
        """Return the pieces of that stream; a context, which another thread may end by cancelling its `reader`."""
        try:
            ticket = flight.Ticket(json.dumps(asked).encode())
            reader = self._client.do_get(ticket, self._options(seconds))
            stream = Stream(reader, lambda error: self._error(error, asked))
            with self._lock:
                self._streams.add(stream)
            return stream
        except (flight.FlightError, pa.ArrowException) as error:
            raise self._error(error, asked) from None

    def send(self, key: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], home: str) -> str:
        """Send the rows of a frame for `key`; return the token under which the server keeps them. Memory stays bounded.

        Raises what `batches` raises, and then the server forgets what came.
        """
        session, _ = self.in_session("keep", {"released": []})  # the server knows it: rows are not sent twice
        sent = upload(schema, batches)
        asked = {"stage": key, "home": home, "session": session, **sent.header}
        descriptor = flight.FlightDescriptor.for_command(json.dumps(asked).encode())
        try:
            writer, reader = self._client.do_put(descriptor, sent.announced, self._options(LONG_SECONDS))
        except (flight.FlightError, pa.ArrowException) as error:
            raise self._error(error) from None
        try:
            for batch, mark in sent.messages:
                writer.write_with_metadata(batch, mark)
            writer.write_metadata(pa.py_buffer(WHOLE))
            writer.done_writing()
            answer = reader.read()
            writer.close()
        except (flight.FlightError, pa.ArrowException) as error:
            raise self._refused(writer, error) from None
        except BaseException:  # of `batches`: the server is not told that this was all
            self._refused(writer, None)
            raise
        if answer is None:
            raise NodeUnavailable(f"the server at {self.address} took {key!r} and said nothing", hint="try again")
        token: str = json.loads(answer.to_pybytes())["token"]
        return token

    def _refused(self, writer: flight.FlightStreamWriter, error: Exception | None) -> Exception:
        """End `writer`, whose writing has failed with `error`; return the server's own error if it says one."""
        try:
            writer.close()
        except (flight.FlightError, pa.ArrowException) as said:
            error = said
        if self._closed:  # and so the session was ended
            return closed()
        return NodeUnavailable("the server ended the call") if error is None else self._error(error)

    def _options(self, seconds: float) -> flight.FlightCallOptions:
        return flight.FlightCallOptions(timeout=seconds, headers=self._headers)

    def _error(self, error: Exception, asked: Header | None = None) -> Exception:
        """Return the eau2 error that `error` of Flight stands for. A session in `asked` that the server does not know
        is forgotten."""
        said = getattr(error, "extra_info", b"")
        if said:
            with contextlib.suppress(ValueError):
                found = made_again(json.loads(bytes(said)))
                if isinstance(found, SessionGone) and asked is not None:
                    self._lost(str(asked.get("session")))
                return found
        text, server = _said_by_flight(error), f"the server at {self.address}"
        if isinstance(error, flight.FlightUnauthenticatedError):
            return ClusterUnavailable(f"{server} refuses us: {text}", hint="pass token=, or set EAU2_TOKEN")
        if isinstance(error, flight.FlightUnauthorizedError):
            return ReadOnly(f"{server} refuses it: {text}")
        if isinstance(error, flight.FlightTimedOutError):
            return WaitTimeout(f"{server} did not answer in time", hint="see whether it lives")
        if isinstance(error, (flight.FlightUnavailableError, flight.FlightCancelledError)):
            return NodeUnavailable(f"{server} does not answer: {text}", hint="see whether it lives")
        return Eau2Error(f"{server} failed: {text}")

    # -- the session --------------------------------------------------------------------------------------------------

    def session(self) -> str:
        """Return the name of the session, which is begun if need be."""
        with self._beginning:
            if not self._session:
                name = self.call("begin")[0][0]["session"]
                with self._lock:
                    self._session = name
            with self._lock:
                if self._keeper is None:
                    self._keeper = threading.Thread(target=self._keep, name="eau2-served", daemon=True)
                    self._keeper.start()
                return self._session

    def in_session(self, verb: str, header: Header) -> tuple[str, Header]:
        """Return the session, and the reply to `verb` in it: in another one when the server has lost it."""
        name = self.session()
        try:
            return name, self.call(verb, {**header, "session": name})[0][0]
        except SessionGone:
            name = self.session()
            return name, self.call(verb, {**header, "session": name})[0][0]

    def _lost(self, name: str) -> None:
        with self._lock:
            if self._session == name:
                self._session = ""

    def held(self, holder: object, session: str, number: int) -> Callable[[], object]:
        """Have the frame `number` let go of when nobody holds `holder` any more; return what does that at once."""
        with self._lock:
            self._held += 1
        release = weakref.finalize(holder, self._wake.put, (session, number))
        release.atexit = False
        return release

    def close(self) -> None:
        """Make no more calls, but for what is held. Idempotent."""
        with self._lock:
            self._closed = True
            keeper, held = self._keeper, self._held
        self._wake.put(None)
        if keeper is not None and not held and keeper is not threading.current_thread():
            keeper.join(1.0)

    def _keep(self) -> None:
        silent = 0
        while True:
            released = self._released()
            with self._lock:
                self._held -= len(released)
                name, over = self._session, self._closed and not self._held
            try:
                if over:
                    self.call("end", {"session": name}, seconds=0.5)
                    return
                if name:
                    theirs = [number for session, number in released if session == name]
                    self.call("keep", {"session": name, "released": theirs}, seconds=_KEEP_SECONDS)
                silent = 0
            except SessionGone:
                silent = 0
            except Eau2Error:  # who asks for something hears of it; here it is only tried again
                if over:
                    return
                silent += 1
                if silent >= _SILENT_MAX:
                    self._give_up()

    def _give_up(self) -> None:
        """Have all that waits for more of a stream hear that the server does not answer."""
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.reader.cancel()

    def _released(self) -> list[tuple[str, int]]:
        """Wait for frames that nobody holds any more, or until it is time to say that we live."""
        found: list[tuple[str, int]] = []
        wait = _KEEP_SECONDS
        while True:
            try:
                released = self._wake.get(timeout=wait)
            except Empty:
                return found
            if released is None:
                return found
            found.append(released)
            wait = _GATHER_SECONDS


class Stream:
    """The pieces of one stream."""

    def __init__(self, reader: flight.FlightStreamReader, typed: Callable[[Exception], Exception]) -> None:
        self.reader, self._typed = reader, typed
        self._first: list[pa.Buffer | None] = []

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.cancel()

    def __iter__(self) -> Iterator[pa.Buffer]:
        while (data := self.next()) is not None:
            yield data

    def begin(self) -> None:
        """Wait for the first piece, which `next` returns then."""
        self._first = [self._read()]

    def next(self) -> pa.Buffer | None:
        """Return the next piece, None after the last."""
        return self._first.pop() if self._first else self._read()

    def _read(self) -> pa.Buffer | None:
        try:
            chunk = self.reader.read_chunk()
        except StopIteration:
            return None
        except (flight.FlightError, pa.ArrowException) as error:
            raise self._typed(error) from None
        return content(chunk.data)


def _said_by_flight(error: Exception) -> str:
    """Return the message of `error` without what Flight and gRPC put round it."""
    return str(error).partition("with message: ")[2].partition(". gRPC client debug")[0] or str(error)

"""Arrow Flight in front of a store: for any Flight client, and for `eau2.open("eau2://...")`.

A path descriptor of one part is a key, a command descriptor an SQL query; tickets are JSON: {"key": ...}, {"sql": ...}.
What only our own client asks for is in `flight_actions.py`, and the messages are in `eau2/served/wire.py`.

gRPC has its own threads, one a call, so handlers may wait. It knows no limit on connections, and takes messages of up
to 2 GiB before anybody is asked who sends them.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
from pyarrow import flight

from eau2.doors.flight_access import Callers, caller_of
from eau2.doors.flight_actions import Actions
from eau2.doors.flight_ending import cut_connections
from eau2.doors.flight_errors import flight_error
from eau2.doors.flight_sessions import Sessions
from eau2.doors.log import log
from eau2.doors.tokens import Role
from eau2.errors import Eau2Error, InvalidOption, InvalidValue, QueryError, StoreClosed
from eau2.served import wire
from eau2.store.nodes import Kind, Write
from eau2.values.key import check_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eau2.doors.tokens import Tokens
    from eau2.frame.frame import Frame
    from eau2.store.store import Store

CALLS_MAX = 512  # at once: each has a thread
LOOK_SECONDS = 1.0
_TURN_SECONDS = 10.0  # for which a call waits for one of CALLS_MAX to end
_PREFIX = "eau2."
_ROWS_BYTES = 4 << 20  # of a batch that is sent to other clients

Answer = TypeVar("Answer")


def _typed(call: Callable[..., Answer]) -> Callable[..., Answer]:
    """`call`, whose errors are those of Flight; one at a time of at most CALLS_MAX."""

    @functools.wraps(call)
    def typed(door: FlightDoor, *args: Any) -> Answer:
        with door.calling():
            return call(door, *args)

    return typed


class FlightDoor(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow is not typed here
    """The Flight server of `store`, which listens from its making on until `close`.

    certificate: PEM of a certificate and of its key, for TLS. OSError, ArrowException when it cannot listen.
    """

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        audit: Callable[[str, object], None],
        host: str,
        port: int,
        certificate: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._store = store
        self._sessions = Sessions(store.node, time.monotonic)
        self._actions = Actions(store, self._sessions)
        self._ending = threading.Event()
        self._calls = threading.Semaphore(CALLS_MAX)
        self._watch = Watch(store, self._ending)
        scheme = "grpc+tls" if certificate else "grpc"
        shown = f"[{host}]" if ":" in host else host
        super().__init__(
            f"{scheme}://{shown}:{port}",
            auth_handler=Callers.handshake(),
            tls_certificates=[certificate] if certificate else None,
            middleware={"caller": Callers(tokens, audit)},
        )
        self.host = host
        self._looking = threading.Thread(target=self._look, name="eau2-flight", daemon=True)
        self._looking.start()

    def close(self, seconds: float) -> None:
        """Take no more calls, give those that run `seconds`, then cut their connections. May be called again."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._watch.wake()
        ending = threading.Thread(target=self.shutdown, name="eau2-flight-end", daemon=True)
        ending.start()
        ending.join(seconds)
        if ending.is_alive():  # clients that do not read, and queries that run on
            cut_connections(self.port)
            ending.join(seconds)
        self._looking.join(seconds)
        self._sessions.close()

    def calling(self) -> _Calling:
        """Return a context for one call."""
        return _Calling(self._calls, self._ending)

    # -- what there is ------------------------------------------------------------------------------------------------

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[flight.FlightInfo]:
        """Yield the frames whose keys begin with `criteria`."""
        with self.calling():
            caller_of(context).require(Role.READ)
            for key in self._store.node.frames():
                if key.encode().startswith(criteria):
                    try:
                        frame = self._store.frame(key)
                    except Eau2Error:  # deleted meanwhile
                        continue
                    yield _info(flight.FlightDescriptor.for_path(key), frame, {"key": key})

    @_typed
    def get_flight_info(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        """Return the schema and the ticket of a frame, or of an SQL query, which is planned and not run."""
        caller_of(context).require(Role.READ)
        frame, ticket = self._described(descriptor)
        return _info(descriptor, frame, ticket)

    @_typed
    def get_schema(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.SchemaResult:
        """Return the schema, likewise."""
        caller_of(context).require(Role.READ)
        return flight.SchemaResult(self._described(descriptor)[0].schema)

    def _described(self, descriptor: flight.FlightDescriptor) -> tuple[Frame, dict[str, str]]:
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            key = _key_of(descriptor)
            return self._store.frame(key), {"key": key}
        query = _text(descriptor.command)
        return self._store.sql(query), {"sql": query}

    # -- rows out -----------------------------------------------------------------------------------------------------

    @_typed
    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        """Return rows: of a key, of a query; for our own client in pieces, see `wire`."""
        caller_of(context).require(Role.READ)
        asked = _json(ticket.ticket)
        if "key" in asked:
            return self._stream(context, self._store.frame(asked["key"]))
        if "sql" in asked:
            return self._stream(context, self._store.sql(asked["sql"]))
        return flight.GeneratorStream(wire.PIECES, self._guarded(context, self._pieces(asked)))

    def _pieces(self, asked: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        session = asked.get("session")
        if "chunk" in asked:
            source = self._sessions.frame(session, asked.get("held")).source
            index = asked["chunk"]
            if source is None or not isinstance(index, int) or not 0 <= index < len(source.buffers):
                raise InvalidOption(f"no chunk {index!r:.40}")
            source.verify([index])
            return wire.cut(source.buffers[index])
        if "query" in asked:
            frame = self._actions.query(session, asked["query"])
            if asked["query"].get("count"):
                counted = pa.record_batch({"rows": pa.array([frame.rows], pa.int64())})
                return wire.rows([counted])
            return wire.rows(frame.batches())
        if "watch" in asked:
            return self._watch.numbers()
        raise InvalidOption("a ticket has a key, or sql", hint='for example {"key": "trips"}')

    def _stream(self, context: Any, frame: Frame) -> flight.FlightDataStream:
        schema = plain_schema(frame.schema)
        return flight.GeneratorStream(schema, self._guarded(context, _plain_batches(frame, schema)))

    def _guarded(self, context: Any, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with self.calling():
            for batch in batches:
                if self._ending.is_set() or context.is_cancelled():
                    raise StoreClosed("the server ends") if self._ending.is_set() else QueryError("cancelled")
                yield batch

    # -- rows in ------------------------------------------------------------------------------------------------------

    @_typed
    def do_put(
        self,
        context: Any,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        """Put the rows under the key that the path is; the reply has the version. From our own client they are staged
        under a command."""
        caller_of(context).require(Role.WRITE)
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            version = self._put(context, _key_of(descriptor), reader)
            writer.write(pa.py_buffer(json.dumps({"version": version}).encode()))
        else:
            asked = _json(descriptor.command)
            token = self._staged(asked, reader)
            writer.write(pa.py_buffer(json.dumps({"token": token}).encode()))

    def _put(self, context: Any, key: str, reader: flight.MetadataRecordBatchReader) -> int:
        node, tables = self._store.node, self._store.tables
        manifest, staged = tables.stage_batches(node, key, reader.schema, _sent(key, reader))
        if context.is_cancelled() or self._ending.is_set():  # what broke off looks to gRPC's reader as if it had ended
            node.discard(staged)
            raise InvalidValue(f"{key!r}: the client gave up halfway")
        (outcome,) = node.write([Write(key, Kind.FRAME, manifest, staged)])
        if isinstance(outcome, Eau2Error):
            raise outcome
        tables.drop_stale(node)
        return outcome

    def _staged(self, asked: dict[str, Any], reader: flight.MetadataRecordBatchReader) -> str:
        """Stage what our client sends: rows, and a mark that this was all."""
        key, store = check_key(asked.get("stage", "")), self._store
        batches = _sent(key, reader, wire.WHOLE)
        sent = store.tables.stage_batches(store.node, key, reader.schema, batches, str(asked.get("home", "")))
        return self._sessions.stage(asked.get("session"), sent)

    # -- actions ------------------------------------------------------------------------------------------------------

    def do_action(self, context: Any, action: flight.Action) -> Iterator[flight.Result]:
        """Do what our own client asks; see `flight_actions`."""
        with self.calling():
            verb = action.type.removeprefix(_PREFIX)
            caller_of(context).require(self._actions.role(verb))
            header, payload = wire.parsed(action.body)
            for reply in self._actions.replies(verb, header, payload):
                yield flight.Result(reply)

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """Return what a client may ask."""
        return [(f"{_PREFIX}hello", "who is there; the other actions are for eau2.open('eau2://...')")]

    # -- private ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        while not self._ending.is_set():
            self._watch.look(LOOK_SECONDS)
            self._sessions.look()


class _Calling:
    """A context for one call: makes our errors Flight's, and refuses calls beyond CALLS_MAX."""

    def __init__(self, calls: threading.Semaphore, ending: threading.Event) -> None:
        self._calls, self._is_ending = calls, ending.is_set

    def __enter__(self) -> None:
        if self._is_ending():
            raise flight.FlightUnavailableError("the server ends")
        if not self._calls.acquire(timeout=_TURN_SECONDS):
            raise flight.FlightUnavailableError(f"the server does {CALLS_MAX} things at once: ask again")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._calls.release()
        if error is None or isinstance(error, (flight.FlightError, GeneratorExit)):
            return
        if isinstance(error, Eau2Error):
            raise flight_error(error) from None
        if isinstance(error, pa.ArrowException):
            raise flight_error(InvalidValue(f"Arrow does not take it: {error}")) from None
        if isinstance(error, OSError):  # of the connection: nobody is there to be told
            raise flight.FlightCancelledError(str(error)) from None
        log("failed", door="flight", error=repr(error))
        raise flight.FlightInternalError("the server has failed; its log says how") from None


class Watch:
    """Tells clients that something was written: one thread looks, for all of them."""

    def __init__(self, store: Store, ending: threading.Event) -> None:
        self._store, self._ending = store, ending
        self._changed = threading.Condition()  # guards both below
        self._number = 0
        self._watchers = 0

    def look(self, seconds: float) -> None:
        """Wait until something is written, at most `seconds`; without anybody who wants to know, just wait."""
        try:
            number = self._store.node.generation()
            if self._watchers and number == self._number:
                number = self._store.node.wait_for_write(number, seconds)
            with self._changed:
                if number != self._number:
                    self._number = number
                    self._changed.notify_all()
                elif not self._watchers:
                    self._changed.wait(seconds)
        except Eau2Error:  # the store was closed, or cannot be asked now
            self._ending.wait(seconds)

    def numbers(self) -> Iterator[pa.RecordBatch]:
        """Yield something whenever something was written, and every LOOK_SECONDS."""
        with self._changed:
            self._watchers += 1
            self._changed.notify_all()  # who waits for somebody who wants to know
        try:
            last = None
            while not self._ending.is_set():
                with self._changed:
                    if self._number == last:
                        self._changed.wait(LOOK_SECONDS)
                    last = self._number
                yield wire.piece(pa.py_buffer(b"%d" % last))
        finally:
            with self._changed:
                self._watchers -= 1

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


# -- pure --------------------------------------------------------------------------------------------------------------


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return `schema` with plain columns for dictionaries: Flight sends only the dictionary of the first batch."""
    for index, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            schema = schema.set(index, field.with_type(field.type.value_type))
    return schema


def _plain_batches(frame: Frame, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in frame.batches():
        if not batch.schema.equals(schema):
            columns = [
                column if column.type == field.type else column.cast(field.type)
                for column, field in zip(batch.columns, schema, strict=True)
            ]
            batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        step = max(1, _ROWS_BYTES * batch.num_rows // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, step):
            yield batch.slice(start, step)


def _info(descriptor: flight.FlightDescriptor, frame: Frame, ticket: dict[str, str]) -> flight.FlightInfo:
    known = frame.key is not None
    rows, size = (frame.rows, frame.bytes) if known else (-1, -1)
    endpoint = flight.FlightEndpoint(json.dumps(ticket), [])
    return flight.FlightInfo(plain_schema(frame.schema), descriptor, [endpoint], rows, size)


def _sent(key: str, reader: flight.MetadataRecordBatchReader, mark: bytes = b"") -> Iterator[pa.RecordBatch]:
    """Yield what a client sends, looked through, as it may come from anybody. InvalidValue when it is broken, or when
    the message with `mark` does not come."""
    marked = not mark
    try:
        for chunk in reader:
            marked = marked or (chunk.app_metadata is not None and chunk.app_metadata.to_pybytes() == mark)
            if chunk.data is not None and chunk.data.num_rows:
                chunk.data.validate(full=True)
                yield chunk.data
    except pa.ArrowException as error:
        raise InvalidValue(f"{key!r}: no rows in Arrow's format: {error}") from None
    if not marked:
        raise InvalidValue(f"{key!r}: the client gave up halfway")


def _key_of(descriptor: flight.FlightDescriptor) -> str:
    parts = descriptor.path or []
    if len(parts) != 1:
        raise InvalidOption(f"a path is one key, not {len(parts)} parts")
    return check_key(_text(parts[0]))


def _text(data: bytes | str) -> str:
    try:
        return data if isinstance(data, str) else bytes(data).decode()
    except UnicodeDecodeError as error:
        raise InvalidOption(f"it is no text: {error}") from None


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidOption("a ticket, or a command, is a JSON object", hint='for example {"key": "trips"}')
    return found

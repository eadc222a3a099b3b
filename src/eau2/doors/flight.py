"""Arrow Flight in front of a store: for any Flight client, for drivers of Flight SQL, and for `eau2.open("eau2://...")`.

A path descriptor of one part is a key, a command descriptor an SQL query; tickets are JSON: {"key": ...}, {"sql": ...}.
What only our own client asks for is in `flight_actions.py`, and the messages are in `eau2/served/wire.py`.

gRPC has its own threads, one a call, so calls may wait. It knows no limit on connections, and takes messages of up to
2 GiB before anybody is asked who sends them.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import flight

from eau2.doors.flight_access import Callers, Counted, caller_of
from eau2.doors.flight_actions import Actions
from eau2.doors.flight_calls import Calls
from eau2.doors.flight_ending import cut_connections
from eau2.doors.flight_errors import told_by_get_schema, unsupported
from eau2.doors.flight_fleet import PREFIX, FleetVerbs
from eau2.doors.flight_memory import ReusedMemory
from eau2.doors.flight_received import Received
from eau2.doors.flight_rows import streamed
from eau2.doors.flight_sessions import Sessions
from eau2.doors.flight_sql import FlightSql
from eau2.doors.flight_uploads import Uploaded, upload
from eau2.doors.flight_watch import Watch
from eau2.doors.log import log
from eau2.doors.tokens import Role
from eau2.errors import Eau2Error, InvalidOption, PartMissing
from eau2.served import wire
from eau2.values.key import check_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eau2.doors.counts import DoorCounts
    from eau2.doors.tokens import Tokens
    from eau2.frame.frame import Frame
    from eau2.store.store import Store

_PREFIX = "eau2."  # of our own client's actions
_ASKED_BYTES_MAX = 16 << 20  # of a ticket, or a command


class FlightDoor(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow is not typed here
    """The Flight server of `store`, which listens from its making on until `close`.

    certificate: PEM of a certificate and of its key, for TLS. OSError, ArrowException when it cannot listen. Without
    `pip install eau2[serve]` it speaks no Flight SQL.
    """

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        counts: DoorCounts,
        audit: Callable[..., None],
        host: str,
        port: int,
        certificate: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._store = store
        self._sessions = Sessions(store.node, time.monotonic)
        self._actions = Actions(store, self._sessions)
        self._calls = Calls()
        self._watch = Watch(store, self._calls.ending)
        self._fleet = FleetVerbs(store, audit, self._calls.ending)
        self._sql: FlightSql | None = None
        with contextlib.suppress(PartMissing):
            self._sql = FlightSql(store)
        scheme = "grpc+tls" if certificate else "grpc"
        shown = f"[{host}]" if ":" in host else host
        self._memory = ReusedMemory()
        try:
            super().__init__(
                f"{scheme}://{shown}:{port}",
                auth_handler=Callers.handshake(),
                tls_certificates=[certificate] if certificate else None,
                middleware={"caller": Callers(tokens, Counted(counts), audit)},
            )
        except BaseException:
            self._memory.close()
            raise
        self._looking = threading.Thread(target=self._look, name="eau2-flight", daemon=True)
        self._looking.start()

    def close(self, seconds: float) -> None:
        """Take no more calls, give those that run `seconds`, then cut their connections. May be called again."""
        if self._calls.ending.is_set():
            return
        self._calls.ending.set()
        self._watch.wake()
        ending = threading.Thread(target=self.shutdown, name="eau2-flight-end", daemon=True)
        ending.start()
        ending.join(seconds)
        if ending.is_alive():  # clients that do not read, and queries that run on
            self._calls.look()
            cut_connections(self.port)
            ending.join(seconds)
        self._looking.join(seconds)
        self._sessions.close()
        if self._sql is not None:
            self._sql.close()
        self._memory.close()

    # -- what there is ------------------------------------------------------------------------------------------------

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[flight.FlightInfo]:
        """Yield the frames whose keys begin with `criteria`."""
        with self._calls.one():
            caller_of(context).require(Role.READ)
            for key in self._store.node.frames():
                if key.encode().startswith(criteria):
                    try:
                        frame = self._store.frame(key)
                    except Eau2Error:  # deleted meanwhile
                        continue
                    yield _info(flight.FlightDescriptor.for_path(key), frame, {"key": key})

    def get_flight_info(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        """Return the schema and the ticket of a frame, or of an SQL query, which is planned and not run."""
        with self._calls.one():
            caller = caller_of(context)
            caller.require(Role.READ)
            found = self._sql.info(caller.access, descriptor) if self._sql else None
            return found if found is not None else _info(descriptor, *self._described(descriptor))

    def get_schema(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.SchemaResult:
        """Return the schema, likewise."""
        with told_by_get_schema(), self._calls.one():
            caller = caller_of(context)
            caller.require(Role.READ)
            found = self._sql.schema(caller.access, descriptor) if self._sql else None
            return found if found is not None else flight.SchemaResult(self._described(descriptor)[0].schema)

    def _described(self, descriptor: flight.FlightDescriptor) -> tuple[Frame, dict[str, str]]:
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            key = _key_of(descriptor)
            return self._store.frame(key), {"key": key}
        query = _text(descriptor.command or b"")
        return self._store.sql(query), {"sql": query}

    # -- rows out -----------------------------------------------------------------------------------------------------

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        """Return rows: of a key, of a query; for our own client in pieces, see `wire`."""
        caller = caller_of(context)
        with self._calls.one():
            caller.require(Role.READ)
            asked = _asked(ticket.ticket)
        own = asked is not None and not {"key", "sql"} & asked.keys()
        if asked is not None and own and "watch" in asked:
            return flight.GeneratorStream(wire.PIECES, self._watch.numbers())  # which holds up no other call
        with self._calls.one(own=own):
            answer = self._sql.get(caller.access, ticket) if self._sql and asked is None else None
            if answer is not None:
                schema, batches = answer
                return flight.GeneratorStream(schema, self._calls.rows(context, streamed(schema, batches)))
            if asked is None:
                raise InvalidOption("a ticket is a JSON object", hint='for example {"key": "trips"}')
            if own and "run" in asked:
                pieces = self._fleet.run(caller, context.peer(), asked, context.is_cancelled)
                return flight.GeneratorStream(wire.PIECES, self._calls.rows(context, pieces, own=True))
            if own:
                return flight.GeneratorStream(wire.PIECES, self._calls.rows(context, self._pieces(asked), own=True))
            frame = self._store.frame(asked["key"]) if "key" in asked else self._store.sql(asked["sql"])
            return flight.GeneratorStream(
                frame.schema, self._calls.rows(context, streamed(frame.schema, frame.batches))
            )

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
                return _counted(frame)
            return wire.rows(frame.batches())
        raise InvalidOption("a ticket has a key, or sql", hint='for example {"key": "trips"}')

    # -- rows in ------------------------------------------------------------------------------------------------------

    def do_put(
        self,
        context: Any,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        """Put the rows under the key that the path is; the reply has the version. From our own client they are staged
        under a command."""
        caller = caller_of(context)
        with self._calls.one():
            caller.require(Role.READ)  # at least: before anything is looked at
            asked = None if descriptor.command is None else _asked(descriptor.command)
        with self._calls.one(own=asked is not None):
            gave_up = context.is_cancelled
            if self._sql and asked is None and self._sql.put(caller.access, descriptor, reader, writer, gave_up):
                return
            caller.require(Role.WRITE)
            reply: dict[str, object]
            if asked is not None:
                reply = {"token": self._staged(asked, upload(reader, gave_up, asked))}
            elif descriptor.descriptor_type == flight.DescriptorType.PATH:
                rows = Received(reader, gave_up)
                reply = {"version": self._store.put(_key_of(descriptor), iter(rows), schema=rows.schema)}
            else:
                raise InvalidOption("rows are put under a path of one key")
            writer.write(pa.py_buffer(json.dumps(reply).encode()))

    def _staged(self, asked: dict[str, Any], rows: Received | Uploaded) -> str:
        """Stage what our client sends."""
        key, store = check_key(asked.get("stage", "")), self._store
        batches = rows.tables() if isinstance(rows, Uploaded) and store.node.here is None else rows
        sent = store.tables.stage_batches(store.node, key, rows.schema, batches, str(asked.get("home", "")))
        return self._sessions.stage(asked.get("session"), sent)

    # -- actions ------------------------------------------------------------------------------------------------------

    def do_action(self, context: Any, action: flight.Action) -> Iterator[flight.Result]:
        """Do what a driver of Flight SQL asks, and what our own client does; see `flight_actions`."""
        own = action.type.startswith(_PREFIX)
        with self._calls.one(own=own):
            caller = caller_of(context)
            if not own:
                found = self._sql.act(caller.access, action) if self._sql else None
                if found is None:
                    raise unsupported(f"there is no action {action.type!r:.80}")
                yield from found
                return
            verb = action.type.removeprefix(_PREFIX)
            if verb.startswith(PREFIX):
                for reply in self._fleet.replies(caller, context.peer(), verb, *wire.parsed(action.body)):
                    yield flight.Result(reply)
                return
            caller.require(self._actions.role(verb))
            header, payload = wire.parsed(action.body)
            for reply in self._actions.replies(verb, header, payload):
                yield flight.Result(reply)

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """Return what a client may ask."""
        ours = (f"{_PREFIX}hello", "who is there; the other actions are for eau2.open('eau2://...')")
        return [ours, *(self._sql.actions() if self._sql else ())]

    # -- private ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        while not self._calls.ending.is_set():
            try:
                self._watch.look()
                self._calls.look()
                self._sessions.look()
                if self._store.node.here is not None:  # what other processes delete is to have its room back
                    self._store.tables.drop_stale(self._store.node)
                self._memory.look(time.monotonic(), self._calls.latest)
                if self._sql is not None:
                    self._sql.look(time.monotonic())
            except Exception as error:  # our own fault; the next round may go well
                log("failed", door="flight", error=repr(error))
                self._calls.ending.wait(1.0)


# -- pure --------------------------------------------------------------------------------------------------------------


def _counted(frame: Frame) -> Iterator[pa.RecordBatch]:
    yield from wire.rows([pa.record_batch({"rows": pa.array([frame.rows], pa.int64())})])


def _asked(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object that `data` is, None when it is none, or too long."""
    if len(data) > _ASKED_BYTES_MAX:
        return None
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _info(descriptor: flight.FlightDescriptor, frame: Frame, ticket: dict[str, str]) -> flight.FlightInfo:
    known = frame.key is not None
    rows, size = (frame.rows, frame.bytes) if known else (-1, -1)
    endpoint = flight.FlightEndpoint(json.dumps(ticket), [])
    return flight.FlightInfo(frame.schema, descriptor, [endpoint], rows, size)


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

"""Flight SQL in front of a store: queries, prepared statements, what tables there are, bulk ingestion.

A part of the Flight door, which asks it first: what is not Flight SQL it leaves to that. Nothing runs before its stream
is read: tickets hold the query, or name the prepared statement, so that the server keeps nothing for those not fetched.
"""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
from pyarrow import flight

from eau2.doors import flight_sql_catalog
from eau2.doors.flight_errors import invalid, told_by_get_schema, told_to_client, unsupported
from eau2.doors.flight_received import Received
from eau2.doors.flight_sql_catalog import Answer
from eau2.doors.flight_sql_ingest import ingest
from eau2.doors.flight_sql_statements import Statements, schema_if_known
from eau2.doors.tokens import Role
from eau2.errors import PartMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eau2.doors.tokens import Access
    from eau2.store.store import Store

_NOT_CANCELLABLE = 3
_ACTIONS = {
    "CreatePreparedStatement": "Prepares a query; its parameters are `?` or `$1`.",
    "ClosePreparedStatement": "Lets a prepared query go.",
    "CancelQuery": "Answers that a query ends with its stream.",
}
_REFUSED_ACTIONS = {
    "BeginTransaction": "there are no transactions: every ingestion is one by itself",
    "EndTransaction": "there are no transactions: every ingestion is one by itself",
    "BeginSavepoint": "there are no transactions, and no savepoints",
    "EndSavepoint": "there are no transactions, and no savepoints",
    "CreatePreparedSubstraitPlan": "plans of Substrait are not taken: send SQL",
}


class FlightSql:
    """Answers what is Flight SQL of what a Flight server is asked. Thread-safe.

    Each verb returns None (`put` False) when it is not. They raise errors of Flight and Arrow. Raises PartMissing where
    protobuf is not installed.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            from eau2.doors import flight_sql_messages
        except ImportError as error:
            raise PartMissing("Flight SQL needs protobuf", hint="pip install 'eau2[serve]'") from error
        self._messages = flight_sql_messages
        self._store = store
        self._statements = Statements(clock)

    def __repr__(self) -> str:
        return f"<FlightSql: {len(self._statements)} prepared statements>"

    def info(self, access: Access, descriptor: flight.FlightDescriptor) -> flight.FlightInfo | None:
        """Return the columns of what is asked for, and the ticket that it is had for. Runs nothing."""
        with told_to_client():
            found = self._command(descriptor)
            if found is None:
                return None
            name, command = found
            schema = self._answer(access, name, command).schema
            ticket = descriptor.command
            if name == "CommandStatementQuery":
                ticket = self._messages.packed("TicketStatementQuery", statement_handle=command.query.encode())
            elif name == "CommandPreparedStatementQuery":
                self._statements.get(command.prepared_statement_handle).check_bound()
            # No location: the server that was asked.
            return flight.FlightInfo(schema, descriptor, [flight.FlightEndpoint(ticket, [])], -1, -1)

    def schema(self, access: Access, descriptor: flight.FlightDescriptor) -> flight.SchemaResult | None:
        """Return the columns of what is asked for."""
        with told_by_get_schema():
            found = self._command(descriptor)
            return None if found is None else flight.SchemaResult(self._answer(access, *found).schema)

    def get(self, access: Access, ticket: flight.Ticket) -> Answer | None:
        """Return the columns of what `ticket` stands for, and what makes its rows as they are read."""
        with told_to_client():
            found = self._messages.unpacked(ticket.ticket)
            return None if found is None else self._answer(access, *found)

    def put(
        self,
        access: Access,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
        gave_up: Callable[[], bool],
    ) -> bool:
        """Take rows in, or parameters of a prepared statement. `gave_up` tells whether the client has gone."""
        with told_to_client():
            found = self._command(descriptor)
            if found is None:
                return False
            name, command = found
            if name == "CommandStatementIngest":
                check_role(access, Role.WRITE)
                rows = ingest(self._store, command, Received(reader, gave_up))
                done = self._messages.plain("DoPutUpdateResult", record_count=rows)
            elif name == "CommandPreparedStatementQuery":
                check_role(access, Role.READ)
                handle = command.prepared_statement_handle
                received = Received(reader, None)
                self._statements.bind(handle, received.schema, iter(received))
                done = self._messages.plain("DoPutPreparedStatementResult", prepared_statement_handle=handle)
            else:
                check_role(access, Role.READ)
                raise self._refused_update(name, command)
            writer.write(pa.py_buffer(done))
            return True

    def act(self, access: Access, action: flight.Action) -> Iterator[flight.Result] | None:
        """Do what the actions of Flight SQL are."""
        if action.type not in _ACTIONS and action.type not in _REFUSED_ACTIONS:
            return None
        with told_to_client():
            check_role(access, Role.READ)
            if action.type in _REFUSED_ACTIONS:
                raise unsupported(_REFUSED_ACTIONS[action.type])
            found = self._messages.unpacked(action.body.to_pybytes())
            name, request = found if found is not None else ("", cast("Any", None))
            if action.type == "CreatePreparedStatement" and name == "ActionCreatePreparedStatementRequest":
                return iter([flight.Result(self._prepare(request))])
            if action.type == "ClosePreparedStatement" and name == "ActionClosePreparedStatementRequest":
                self._statements.drop(request.prepared_statement_handle)
                return iter(())
            if action.type == "CancelQuery" and name == "ActionCancelQueryRequest":
                return iter([flight.Result(self._messages.packed("ActionCancelQueryResult", result=_NOT_CANCELLABLE))])
            raise invalid(f"the action {action.type} needs its request, not {name or 'other bytes'}")

    def actions(self) -> list[tuple[str, str]]:
        """Return the actions that are done, and what they do."""
        return list(_ACTIONS.items())

    def look(self, now: float) -> None:
        """Let prepared statements go that were not used for ten minutes. `now` is of the clock given at first."""
        self._statements.drop_idle(now)

    def close(self) -> None:
        """Let all prepared statements go. May be called again."""
        self._statements.clear()

    # -- private ------------------------------------------------------------------------------------------------------

    def _command(self, descriptor: flight.FlightDescriptor) -> tuple[str, Any] | None:
        return None if descriptor.command is None else self._messages.unpacked(descriptor.command)

    def _answer(self, access: Access, name: str, command: Any) -> Answer:
        check_role(access, Role.READ)
        if name == "CommandStatementQuery":
            _refuse_transaction(command)
            return self._answer_query(command.query)
        if name == "TicketStatementQuery":
            return self._answer_query(_decoded(command.statement_handle))
        if name == "CommandPreparedStatementQuery":
            return self._answer_prepared(command.prepared_statement_handle)
        if name == "CommandStatementSubstraitPlan":
            raise unsupported(_REFUSED_ACTIONS["CreatePreparedSubstraitPlan"])
        found = flight_sql_catalog.answer(self._store, name, command)
        if found is None:
            raise invalid(f"{name} has no rows to be fetched")
        return found

    def _answer_query(self, query: str) -> Answer:
        frame = self._store.sql(query)
        return Answer(frame.schema, frame.batches)

    def _answer_prepared(self, handle: bytes) -> Answer:
        statement = self._statements.get(handle)
        frames = statement.frames(self._store)
        return Answer(statement.schema(self._store), lambda: chain.from_iterable(frame.batches() for frame in frames))

    def _prepare(self, request: Any) -> bytes:
        _refuse_transaction(request)
        handle, statement = self._statements.make(request.query)
        try:
            schema = schema_if_known(statement, self._store)
        except BaseException:
            self._statements.drop(handle)
            raise
        return self._messages.packed(
            "ActionCreatePreparedStatementResult",
            prepared_statement_handle=handle,
            dataset_schema=b"" if schema is None else schema.serialize().to_pybytes(),
            parameter_schema=statement.parameter_schema().serialize().to_pybytes(),
            is_update=False,
        )

    def _refused_update(self, name: str, command: Any) -> pa.ArrowException:
        if name == "CommandStatementUpdate":
            _refuse_transaction(command)
            self._store.sql(command.query)  # says what is wrong with it
        if name in ("CommandStatementUpdate", "CommandPreparedStatementUpdate"):
            return invalid("a query changes nothing: execute it as a query, and write by bulk ingestion")
        return invalid(f"{name} takes no rows")


def check_role(access: Access, wanted: Role) -> None:
    """Raise FlightUnauthenticatedError for who has not said who it is, FlightUnauthorizedError for who may not."""
    why = access.refusal(wanted, "a token is needed: send the header `authorization: Bearer TOKEN`")
    if why:
        raise (flight.FlightUnauthorizedError if access.role else flight.FlightUnauthenticatedError)(why)


def _refuse_transaction(command: Any) -> None:
    if command.HasField("transaction_id"):
        raise unsupported(_REFUSED_ACTIONS["BeginTransaction"])


def _decoded(handle: bytes) -> str:
    try:
        return handle.decode()
    except UnicodeDecodeError:
        raise invalid("the ticket is none of ours") from None

"""A Flight server that speaks only Flight SQL: what the Flight door is to it, without limits and tokens."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import flight

from eau2.doors.flight_rows import streamed
from eau2.doors.flight_sql import FlightSql
from eau2.doors.tokens import Access, Role, Tokens


class SqlServer(flight.FlightServerBase):
    """Serves `store` at any free port of loopback, all clients with `role`. A context manager."""

    def __init__(self, store, *, role=Role.ADMIN):
        super().__init__("grpc://127.0.0.1:0")
        self.sql = FlightSql(store)
        self.access = Access(Tokens(), lambda what: None)
        self.access.role = role
        self.uri = f"grpc://127.0.0.1:{self.port}"

    def __exit__(self, *error):
        self.sql.close()
        super().__exit__(*error)

    def get_flight_info(self, context, descriptor):
        return _known(self.sql.info(self.access, descriptor))

    def get_schema(self, context, descriptor):
        return _known(self.sql.schema(self.access, descriptor))

    def do_get(self, context, ticket):
        schema, batches = _known(self.sql.get(self.access, ticket))
        return flight.GeneratorStream(schema, streamed(schema, batches))

    def do_put(self, context, descriptor, reader, writer):
        _known(self.sql.put(self.access, descriptor, reader, writer, context.is_cancelled) or None)

    def do_action(self, context, action):
        return _known(self.sql.act(self.access, action))

    def list_actions(self, context):
        return self.sql.actions()


def _known(answer):
    if answer is None:
        raise pa.ArrowNotImplementedError("not Flight SQL")
    return answer

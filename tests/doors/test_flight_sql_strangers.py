"""Bytes that no driver sends: each is refused with an error of Flight or Arrow, or is none of Flight SQL's."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pytest
from google.protobuf import any_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import flight
from tests.doors.flight_sql_server import SqlServer

import eau2
from eau2.doors import flight_sql_messages
from eau2.doors.flight_sql import FlightSql
from eau2.doors.flight_sql_catalog import is_named
from eau2.doors.flight_sql_messages import PACKAGE, packed, unpacked
from eau2.doors.tokens import Access, Tokens

# A store for all examples of a test: what one leaves there the next may meet.
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

ROWS = pa.record_batch({"n": [1, 2]})
NAMES = sorted(flight_sql_messages._MESSAGES)
WORDS = [
    "select",
    "*",
    "n",
    "from",
    "t",
    "where",
    "(",
    ")",
    ",",
    "'",
    '"',
    "?",
    "$1",
    "$a",
    "--",
    "/*",
    "*/",
    ";",
    "1",
    "=",
    "\0",
    "$$",
    "union",
    "with",
    "insert",
    "\n",
    "é",
    "limit",
    "values",
    "explain",
    "describe",
    "\\",
    "{",
    "[",
    "::",
    "interval",
    "array",
    "lateral",
]
queries = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=20)
handles = st.binary(max_size=20)


def any_of(name, value):
    return any_pb2.Any(type_url=f"type.googleapis.com/{PACKAGE}.{name}", value=value).SerializeToString()


@st.composite
def messages(draw):
    """A message of ours whose fields have any values of their types."""
    name = draw(st.sampled_from(NAMES))
    message = flight_sql_messages._CLASSES[name]()
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.is_repeated:
            values = st.integers(0, 2**32 - 1) if field.type == field.TYPE_UINT32 else st.text(max_size=5)
            getattr(message, field.name).extend(draw(st.lists(values, max_size=5)))
        elif field.type == field.TYPE_STRING:
            setattr(
                message,
                field.name,
                draw(queries if field.name == "query" else st.sampled_from(["", "t", "%", "_", "public", "\0"])),
            )
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, draw(handles | queries.map(str.encode)))
        elif field.type == field.TYPE_BOOL:
            setattr(message, field.name, draw(st.booleans()))
        elif field.type == field.TYPE_MESSAGE:
            getattr(message, field.name).MergeFromString(
                bytes([8, draw(st.integers(0, 4)), 16, draw(st.integers(0, 4))])
            )
        else:
            setattr(message, field.name, draw(st.integers(-(2**31), 2**31 - 1)))
    return any_of(name, message.SerializeToString())


sent = st.one_of(
    st.binary(max_size=60),
    messages(),
    st.builds(any_of, st.sampled_from(NAMES), st.binary(max_size=30)),
    st.builds(
        lambda data, at, value: data[:at] + bytes([value]) + data[at + 1 :],
        messages(),
        st.integers(0, 80),
        st.integers(0, 255),
    ),
    st.builds(lambda data, at: data[:at], messages(), st.integers(0, 80)),
)


@pytest.fixture
def stranger(tmp_path):
    with eau2.open(tmp_path / "store") as store:
        store.put("t", ROWS)
        sql = FlightSql(store)
        yield SimpleNamespace(sql=sql, store=store, access=Access(Tokens(), lambda what: None))
        sql.close()


class Reader:
    """What a client sent, to the server."""

    def __init__(self, batches):
        self.schema, self._batches = batches[0].schema, iter(batches)

    def read_chunk(self):
        return SimpleNamespace(data=next(self._batches))


def refused(call, *arguments):
    """Return `call(*arguments)`, None where it is refused as it should be."""
    try:
        return call(*arguments)
    except pa.ArrowException as error:  # those of Flight too
        assert "failed" not in str(error) or not isinstance(error, flight.FlightInternalError), error
        return None


@pytest.mark.slow
@shared
@given(sent)
def test_whatever_is_sent_is_answered_or_refused(stranger, data):
    sql, access = stranger.sql, stranger.access
    descriptor = flight.FlightDescriptor.for_command(data)
    info = refused(sql.info, access, descriptor)
    for ticket in [flight.Ticket(data), *([] if info is None else [info.endpoints[0].ticket])]:
        refused(sql.get, access, ticket)
    refused(sql.schema, access, descriptor)
    replies = []
    writer = SimpleNamespace(write=replies.append)
    refused(sql.put, access, descriptor, Reader([ROWS, ROWS]), writer, lambda: False)
    refused(sql.put, access, descriptor, Reader([ROWS, pa.record_batch({"m": ["x"]})]), writer, lambda: False)
    for action in ("CreatePreparedStatement", "ClosePreparedStatement", "CancelQuery", "BeginTransaction", "other"):
        refused(lambda action=action: list(sql.act(access, flight.Action(action, data)) or ()))
    assert stranger.store.frame("t").schema.names == ["n"]


@shared
@given(st.binary(max_size=40))
def test_what_is_no_flight_sql_is_left_to_others(stranger, data):
    sql, access = stranger.sql, stranger.access
    if unpacked_name(data):
        return
    descriptor = flight.FlightDescriptor.for_command(data)
    assert (
        sql.info(access, descriptor) is sql.schema(access, descriptor) is sql.get(access, flight.Ticket(data)) is None
    )
    assert sql.put(access, descriptor, None, None, lambda: False) is False
    assert sql.act(access, flight.Action("other", data)) is None
    path = flight.FlightDescriptor.for_path("t")
    assert sql.info(access, path) is sql.schema(access, path) is None


def unpacked_name(data):
    try:
        return unpacked(data)
    except pa.ArrowInvalid:
        return True


@shared
@given(queries)
def test_a_query_is_read_or_refused_wherever_it_comes_in(stranger, query):
    sql, access = stranger.sql, stranger.access
    request = packed("ActionCreatePreparedStatementRequest", query=query)
    made = refused(lambda: list(sql.act(access, flight.Action("CreatePreparedStatement", request))))
    if made:
        handle = unpacked(made[0].body.to_pybytes())[1].prepared_statement_handle
        command = packed("CommandPreparedStatementQuery", prepared_statement_handle=handle)
        replies = []
        for batches in ([ROWS], [ROWS.slice(0, 0)], [pa.record_batch({"a": ["x"], "b": [None]})]):
            refused(
                sql.put,
                access,
                flight.FlightDescriptor.for_command(command),
                Reader(batches),
                SimpleNamespace(write=replies.append),
                lambda: False,
            )
            refused(sql.info, access, flight.FlightDescriptor.for_command(command))
        refused(sql.get, access, flight.Ticket(command))
        close = packed("ActionClosePreparedStatementRequest", prepared_statement_handle=handle)
        assert list(sql.act(access, flight.Action("ClosePreparedStatement", close))) == []


@pytest.mark.slow
@shared
@given(st.lists(sent, max_size=3))
def test_over_the_wire_the_server_stands(served, commands):
    for data in commands:
        for ask in (
            lambda data=data: served.get_flight_info(flight.FlightDescriptor.for_command(data)),
            lambda data=data: served.do_get(flight.Ticket(data)).read_all(),
            lambda data=data: list(served.do_action(flight.Action("CreatePreparedStatement", data))),
        ):
            refused(ask)
    ticket = packed("TicketStatementQuery", statement_handle=b"select 1 as n")
    assert served.do_get(flight.Ticket(ticket)).read_all().to_pydict() == {"n": [1]}


@pytest.fixture
def served(stranger):
    with SqlServer(stranger.store) as server, flight.connect(server.uri) as client:
        yield client


@given(st.text("ab%_\\", max_size=12), st.text("ab%_\\", max_size=12))
def test_like_is_what_it_is_in_sql(name, pattern):
    def likes(name, pattern):
        if not pattern:
            return not name
        if pattern[0] == "%":
            return likes(name, pattern[1:]) or (name != "" and likes(name[1:], pattern))
        if pattern[0] == "\\" and len(pattern) > 1:
            return name[:1] == pattern[1] and likes(name[1:], pattern[2:])
        return name != "" and pattern[0] in ("_", name[0]) and likes(name[1:], pattern[1:])

    assert is_named(name, pattern) == (name == pattern or likes(name, pattern))


def test_no_pattern_takes_long():
    assert not is_named("a" * 512, "%a" * 250 + "b")
    assert not is_named("a" * 512, "%a_" * 150 + "%b%c")

"""Flight SQL as the driver of ADBC speaks it."""

from __future__ import annotations

import datetime as dt
import sys
import threading
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import flight
from tests.contract.arrow_types import COLUMNS, difference
from tests.doors.flight_sql_server import SqlServer
from tests.until import SECONDS_MAX

import eau2
from eau2.doors import flight_sql_ingest
from eau2.doors.flight_received import Received
from eau2.doors.flight_sql import FlightSql
from eau2.doors.flight_sql_messages import packed, unpacked
from eau2.doors.flight_sql_statements import IDLE_SECONDS, STATEMENTS_MAX
from eau2.doors.tokens import Role

pytestmark = pytest.mark.slow  # each starts a server, and a driver

TRIPS = pa.table({"n": [1, 2, 3], "s": ["a", "it's", None]})
MORE = pa.table({"n": [4, 5], "s": ["x", "y"]})
# What the driver's library has not: it says so itself, and sends nothing.
NOT_OF_THE_DRIVER = {"empty fixed binary", "empty fixed list"}
CHANGED_BY_THE_DRIVER = {"ordered dictionary", "unregistered extension"}


@contextmanager
def connected(store, **options):
    with SqlServer(store, **options) as server, adbc.connect(server.uri, autocommit=True) as connection:
        connection.server = server
        yield connection


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "store") as store:
        store.put("trips", TRIPS)
        store.put("bytes", b"no frame")
        yield store


@pytest.fixture
def connection(store):
    with connected(store) as connection:
        yield connection


@pytest.fixture
def cursor(connection):
    with connection.cursor() as cursor:
        yield cursor


def rows(cursor, query, parameters=None):
    cursor.execute(query, parameters)
    return cursor.fetch_arrow_table().to_pylist()


# -- queries ----------------------------------------------------------------------------------------------------------


def test_a_query_is_answered_in_arrow(store, cursor):
    cursor.execute("select n * 2 as double, s from trips where n < 3 order by n")
    assert cursor.fetch_arrow_table().equals(store.sql("select n * 2 as double, s from trips where n < 3").to_arrow())
    assert rows(cursor, "select count(*) as count from public.trips") == [{"count": 3}]
    assert cursor.adbc_execute_schema("select n from trips").equals(pa.schema({"n": pa.int64()}))
    assert rows(cursor, "select n from trips where n > 5") == []


def test_parameters_are_values(cursor):
    assert rows(cursor, "select n from trips where s = ?", ("it's",)) == [{"n": 2}]
    assert rows(cursor, "select $2 as x, n from trips where n > $1", (2, "' or 1=1 --")) == [
        {"x": "' or 1=1 --", "n": 3}
    ]
    assert rows(cursor, "select '?' as q, ? as x", (dt.date(2026, 1, 2),)) == [{"q": "?", "x": dt.date(2026, 1, 2)}]
    assert rows(cursor, "select n from trips where n = $n", pa.record_batch({"n": [2]})) == [{"n": 2}]
    cursor.adbc_prepare("select n from trips where n in (?, ?)")
    assert rows(cursor, "select n from trips where n in (?, ?)", (1, 3)) == [{"n": 1}, {"n": 3}]


def test_several_rows_of_parameters_run_a_query_for_each(cursor):
    query = "select n, ? as x from trips where n >= ?"
    many = pa.table({"a": ["p", "q", "r"], "b": [3, 9, 2]})
    expected = [{"n": 3, "x": "p"}, {"n": 2, "x": "r"}, {"n": 3, "x": "r"}]
    assert rows(cursor, query, many) == expected
    assert rows(cursor, query, many.to_reader(max_chunksize=1)) == expected
    assert rows(cursor, query, many.slice(1, 1)) == []
    assert cursor.adbc_prepare(query).types == [pa.null(), pa.null()]


@pytest.mark.parametrize(
    ("query", "values"), [("select ?", (1, 2)), ("select 1", (1,)), ("select $a", pa.record_batch({"b": [1]}))]
)
def test_parameters_that_are_not_those_of_the_query_are_refused(cursor, query, values):
    with pytest.raises(adbc.ProgrammingError, match="parameters"):
        cursor.execute(query, values)


def test_parameters_that_are_not_bound_are_asked_for(cursor):
    with pytest.raises(adbc.ProgrammingError, match="no values were bound"):
        cursor.execute("select n from trips where n = ?")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select * from tripz", "no frame 'tripz' .did you mean trips"),
        ("select m from trips", "no column 'm'; there are n, s"),
        ("select * frm trips", "SQL"),
        ("insert into trips values (1, 'a')", "not a query.*ingest"),
        ("create table t as select 1", "not a query"),
        ("drop table trips", "not a query"),
        ("update trips set n = 1", "not a query"),
        ("begin", "not a query"),
        ("select 1; select 2", "single"),
        ("select 1 / (n - n) from trips", "(?i)divi"),
        ("select * from bytes", "no frame 'bytes'"),
        ("select ?, $1", "mixes"),
    ],
)
def test_what_cannot_be_answered_says_why_and_the_connection_goes_on(cursor, query, said):
    with pytest.raises(adbc.ProgrammingError, match=said) as caught:
        rows(cursor, query)
    assert "Traceback" not in str(caught.value)
    assert rows(cursor, "select 1 as n") == [{"n": 1}]


def test_an_update_is_refused(connection, cursor):
    with pytest.raises(adbc.ProgrammingError, match="changes nothing"):
        cursor.executemany("select ?", [(1,), (2,)])
    for query, said in (("select 1", "changes nothing"), ("delete from trips", "not a query")):
        with adbc_driver_manager.AdbcStatement(connection.adbc_connection) as statement:
            statement.set_sql_query(query)
            with pytest.raises(adbc.ProgrammingError, match=said):
                statement.execute_update()


def test_a_plan_of_substrait_is_refused(connection):
    with adbc_driver_manager.AdbcStatement(connection.adbc_connection) as statement:
        statement.set_substrait_plan(b"x")
        with pytest.raises(adbc.NotSupportedError, match="Substrait"):
            statement.execute_query()


def test_transactions_are_refused_and_autocommit_is_on(store):
    with SqlServer(store) as server:
        with pytest.warns(Warning, match="Cannot disable autocommit"), adbc.connect(server.uri) as connection:
            connection.commit()  # as the driver has it where nothing is to be done
        client = flight.connect(server.uri)
        for command in (packed("CommandStatementQuery", query="select 1", transaction_id=b"1"),):
            with pytest.raises(pa.ArrowNotImplementedError, match="no transactions"):
                client.get_flight_info(flight.FlightDescriptor.for_command(command))
        for action in ("BeginTransaction", "EndTransaction", "BeginSavepoint", "EndSavepoint"):
            with pytest.raises(pa.ArrowNotImplementedError, match="no transactions"):
                list(client.do_action(flight.Action(action, packed("ActionBeginTransactionRequest"))))
        client.close()


def test_a_stream_that_is_not_read_to_its_end_is_let_go(store, cursor):
    store.put("many", {"n": np.arange(3_000_000)})
    cursor.execute("select a.n from many a, trips")
    batches = cursor.fetch_record_batch()
    assert batches.read_next_batch().num_rows > 0
    cursor.adbc_cancel()
    batches.close()
    assert rows(cursor, "select 1 as n") == [{"n": 1}]


def test_a_reader_of_an_old_version_has_its_rows(store, cursor):
    store.put("many", {"n": np.arange(2_000_000)})
    cursor.execute("select n from many")
    batches = cursor.fetch_record_batch()
    first = batches.read_next_batch()
    store.put("many", {"other": [1]})
    rest = batches.read_all()
    assert np.array_equal(np.sort(np.concatenate([first["n"], rest["n"].to_numpy()])), np.arange(2_000_000))


def test_polars_reads_and_writes_by_the_driver(store, connection):
    frame = pl.read_database("select n, s from trips order by n", connection)
    assert frame.equals(pl.from_arrow(TRIPS))
    frame.write_database("copy", connection, engine="adbc")
    assert store.frame("copy").to_arrow().to_pylist() == TRIPS.to_pylist()


@pytest.mark.slow
def test_every_type_goes_in_and_comes_out(store, connection, subtests):
    with connection.cursor() as cursor:
        for name, column in COLUMNS.items():
            if name in NOT_OF_THE_DRIVER:
                continue
            table = pa.table({"c": column})
            with subtests.test(name):
                cursor.adbc_ingest("types", table, mode="replace")
                cursor.execute("select * from types")
                found = cursor.fetch_arrow_table()
                if name in CHANGED_BY_THE_DRIVER:
                    assert found.num_rows == table.num_rows
                    continue
                assert difference(store.frame("types").to_arrow(), table) == ""
                assert difference(found, store.sql("select * from types").to_arrow()) == ""
                assert connection.adbc_get_table_schema("types").equals(table.schema)
                assert connection.adbc_get_objects(depth="all").read_all().num_rows == 1


def test_rows_too_wide_for_one_message_are_sent_in_several(store, cursor):
    store.put("wide", {"n": ["x" * 1_000_000] * 64})
    cursor.execute("select * from wide")
    assert cursor.fetch_arrow_table().num_rows == 64


# -- what there is ----------------------------------------------------------------------------------------------------


def tables(connection, **filters):
    found = connection.adbc_get_objects(depth="tables", **filters).read_all().to_pylist()
    schemas = [schema for catalog in found for schema in catalog["catalog_db_schemas"]]
    return [table["table_name"] for schema in schemas for table in schema["db_schema_tables"]]


def test_what_tables_there_are(store, connection):
    for name in ("a_b", "axb", "a%b", "deep/name", "Größe"):
        store.put(name, MORE)
    every = ["Größe", "a%b", "a_b", "axb", "deep/name", "trips"]
    assert sorted(tables(connection)) == every
    assert sorted(tables(connection, table_name_filter="a_b")) == ["a%b", "a_b", "axb"]
    assert tables(connection, table_name_filter=r"a\_b") == ["a_b"]
    assert tables(connection, table_name_filter=r"a\%b") == ["a%b"]
    assert sorted(tables(connection, table_name_filter="%p%")) == ["deep/name", "trips"]
    assert tables(connection, table_name_filter="TRIPS") == []
    assert tables(connection, table_name_filter="bytes") == []
    assert tables(connection, table_types_filter=["VIEW"]) == []
    assert sorted(tables(connection, table_types_filter=["VIEW", "TABLE"])) == every
    assert sorted(tables(connection, db_schema_filter="pub%", catalog_filter="")) == every
    assert tables(connection, db_schema_filter="other") == []
    assert tables(connection, catalog_filter="other") == []
    assert connection.adbc_get_table_types() == ["TABLE"]


def test_the_columns_of_tables(store, connection):
    assert connection.adbc_get_table_schema("trips").equals(TRIPS.schema)
    assert connection.adbc_get_table_schema("trips", db_schema_filter="public").equals(TRIPS.schema)
    for name in ("tripz", "bytes", "TRIPS"):
        with pytest.raises(adbc.ProgrammingError, match="NOT_FOUND"):
            connection.adbc_get_table_schema(name)
    found = connection.adbc_get_objects(depth="columns", table_name_filter="trips").read_all().to_pylist()
    columns = found[0]["catalog_db_schemas"][0]["db_schema_tables"][0]["table_columns"]
    assert [(column["column_name"], column["ordinal_position"]) for column in columns] == [("n", 1), ("s", 2)]


@pytest.mark.slow
def test_a_table_is_found_among_many_that_its_name_is_a_pattern_for(store, connection):
    names = [f"t{index:04}x" for index in range(2500)]
    for name in names:
        store.put(name, MORE)
    store.put("t____x", TRIPS)  # the driver asks for what is LIKE this, and looks at the first batch
    assert connection.adbc_get_table_schema("t____x").equals(TRIPS.schema)
    assert sorted(tables(connection, table_name_filter="t%x")) == [*names, "t____x"]


def test_what_the_server_is(connection):
    info = connection.adbc_get_info()
    assert (info["vendor_name"], info["vendor_version"]) == ("eau2", eau2.__version__)
    client = flight.connect(connection.server.uri)
    told = fetched(client, packed("CommandGetSqlInfo", info=[0, 3, 8, 9999]))
    assert told.to_pylist() == [
        {"info_name": 0, "value": "eau2"},
        {"info_name": 3, "value": False},
        {"info_name": 8, "value": 0},
    ]
    assert fetched(client, packed("CommandGetSqlInfo")).num_rows > 20
    client.close()


def fetched(client, command):
    descriptor = flight.FlightDescriptor.for_command(command)
    info = client.get_flight_info(descriptor)
    table = client.do_get(info.endpoints[0].ticket).read_all()
    assert info.endpoints[0].locations == []
    assert table.schema.equals(info.schema, check_metadata=True)
    assert client.get_schema(descriptor).schema.equals(info.schema)
    return table


def test_every_question_of_the_catalog_has_an_answer_with_its_columns(connection):
    with flight.connect(connection.server.uri) as client:
        assert fetched(client, packed("CommandGetCatalogs")).to_pydict() == {"catalog_name": [""]}
        assert fetched(client, packed("CommandGetDbSchemas")).to_pylist() == [
            {"catalog_name": "", "db_schema_name": "public"}
        ]
        assert fetched(client, packed("CommandGetTables", include_schema=True)).num_rows == 1
        assert fetched(client, packed("CommandGetPrimaryKeys", table="trips")).num_rows == 0
        for name in ("ExportedKeys", "ImportedKeys"):
            assert fetched(client, packed(f"CommandGet{name}", table="trips")).num_columns == 13
        assert fetched(client, packed("CommandGetCrossReference")).num_rows == 0
        assert fetched(client, packed("CommandGetXdbcTypeInfo")).num_columns == 19
        assert fetched(client, packed("CommandStatementQuery", query="select n + 1 from trips")).num_rows == 3


# -- ingestion --------------------------------------------------------------------------------------------------------


def test_the_modes_of_ingestion(store, cursor):
    assert cursor.adbc_ingest("new", TRIPS, mode="create") == 3
    with pytest.raises(adbc.ProgrammingError, match="'new' is there already"):
        cursor.adbc_ingest("new", MORE, mode="create")
    assert cursor.adbc_ingest("new", MORE, mode="append") == 2
    assert store.frame("new").to_arrow().equals(pa.concat_tables([TRIPS, MORE]).combine_chunks())
    assert cursor.adbc_ingest("new", MORE, mode="create_append") == 2
    assert store.frame("new").rows == 7
    assert cursor.adbc_ingest("new", MORE, mode="replace") == 2
    assert store.frame("new").to_arrow().equals(MORE)
    with pytest.raises(adbc.ProgrammingError, match="no value under 'newer'"):
        cursor.adbc_ingest("newer", MORE, mode="append")
    assert cursor.adbc_ingest("newer", MORE, mode="create_append") == 2
    assert cursor.adbc_ingest("bytes", MORE, mode="replace") == 2
    assert store.frame("bytes").rows == 2


def test_what_is_appended_fits_the_frame_or_changes_nothing(store, cursor):
    cursor.adbc_ingest("trips", MORE.select(["s", "n"]), mode="append")
    small = pa.table({"n": pa.array([6], pa.int8()), "s": pa.array(["z"], pa.large_string())})
    cursor.adbc_ingest("trips", small, mode="append")
    assert store.frame("trips").to_arrow()["n"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert store.frame("trips").schema.equals(TRIPS.schema)
    for other in (pa.table({"z": [1]}), pa.table({"n": ["x"], "s": ["y"]}), MORE.append_column("m", [[1, 2]])):
        with pytest.raises(adbc.ProgrammingError):
            cursor.adbc_ingest("trips", other, mode="append")
    with pytest.raises(adbc.ProgrammingError, match="holds 8 bytes"):
        cursor.adbc_ingest("bytes", MORE, mode="append")
    assert store.version("trips") == 3
    assert store.get("bytes") == b"no frame"


def test_where_there_is_no_such_place_nothing_is_put(store, connection):
    for options, said in (
        ({"catalog_name": "c"}, "no catalog 'c'"),
        ({"db_schema_name": "d"}, "no schema 'd'"),
        ({"temporary": True}, "no temporary tables"),
    ):
        refused = pytest.raises((adbc.ProgrammingError, adbc.NotSupportedError), match=said)
        with connection.cursor() as cursor, refused:
            cursor.adbc_ingest("new", MORE, **options)
    with connection.cursor() as cursor, pytest.raises(adbc.ProgrammingError, match="control characters"):
        cursor.adbc_ingest("a\x01", MORE)
    assert store.keys() == ["bytes", "trips"]


def test_clients_that_append_at_once_lose_nothing(store, connection):
    def append(index):
        with adbc.connect(connection.server.uri, autocommit=True) as own, own.cursor() as cursor:
            for row in range(5):
                cursor.adbc_ingest("log", pa.table({"n": [index * 5 + row]}), mode="create_append")

    threads = [threading.Thread(target=append, args=[index]) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
    assert sorted(store.frame("log").to_arrow()["n"].to_pylist()) == list(range(20))


class Sent:
    """What a reader is to the server: batches come one by one, and something may happen before each."""

    def __init__(self, schema, batches):
        self.schema, self._batches = schema, iter(batches)

    def read_chunk(self):
        return SimpleNamespace(data=next(self._batches))


def ingest(store, table, batches, **options):
    command = packed("CommandStatementIngest", table=table, table_definition_options=options)
    return flight_sql_ingest.ingest(store, unpacked(command)[1], Received(Sent(MORE.schema, batches), lambda: False))


def test_an_append_is_tried_again_when_another_came_between(store):
    appended = []

    class Meddling:
        """The store, with another client that writes just when an append has read its version."""

        def __getattr__(self, name):
            return getattr(store, name)

        def update(self, *arguments, **options):
            if not appended:
                appended.append(store.put("trips", MORE))
            return store.update(*arguments, **options)

    assert ingest(Meddling(), "trips", MORE.to_batches(), if_not_exist=2, if_exists=2) == 2
    assert store.frame("trips").to_arrow().to_pylist() == [*MORE.to_pylist(), *MORE.to_pylist()]


def test_an_append_that_is_not_held_in_memory_says_that_another_came_between(store, monkeypatch):
    monkeypatch.setattr(flight_sql_ingest, "HELD_BYTES_MAX", 1)

    def batches():
        yield from MORE.to_batches()
        yield from MORE.to_batches()
        store.put("trips", MORE)
        yield from MORE.to_batches()

    with pytest.raises(eau2.VersionConflict, match="nothing was appended"):
        ingest(store, "trips", batches(), if_not_exist=2, if_exists=2)
    assert store.frame("trips").to_arrow().equals(MORE)
    assert ingest(store, "trips", MORE.to_batches() * 3, if_not_exist=2, if_exists=2) == 6
    assert store.frame("trips").rows == 8


@pytest.mark.parametrize("options", [{"if_not_exist": 1, "if_exists": choice} for choice in (1, 2, 3)])
def test_a_stream_whose_columns_change_on_the_way_changes_nothing(store, options):
    other = pa.record_batch({"n": ["text"], "s": ["x"]})
    with pytest.raises(eau2.InvalidValue, match="other columns"):
        ingest(store, "new", [*MORE.to_batches(), other], **options)
    assert store.keys() == ["bytes", "trips"]
    assert store.check().faults == ()


def test_a_stream_with_lengths_beyond_its_buffers_changes_nothing(store):
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 2, 1], np.int32)), pa.py_buffer(b"ab"))
    batch = pa.RecordBatch.from_arrays([MORE["n"].chunk(0), broken], schema=MORE.schema)
    with pytest.raises(pa.ArrowInvalid):
        ingest(store, "new", [*MORE.to_batches(), batch], if_not_exist=1, if_exists=1)
    assert store.keys() == ["bytes", "trips"]


@pytest.mark.parametrize(
    "options", [{}, {"if_not_exist": 1}, {"if_exists": 1}, {"if_not_exist": 2, "if_exists": 1}, {"if_exists": 9}]
)
def test_an_ingestion_that_does_not_say_what_to_do_is_refused(store, options):
    with pytest.raises(pa.ArrowInvalid, match="what to do"):
        ingest(store, "new", MORE.to_batches(), **options)


@pytest.mark.slow
def test_a_million_rows_go_in_and_come_out(store, cursor):
    table = pa.table({"n": np.arange(1_000_000), "s": [f"text {index}" for index in range(1_000_000)]})
    assert cursor.adbc_ingest("big", table.to_reader(100_000), mode="create") == 1_000_000
    cursor.execute("select * from big")
    assert difference(cursor.fetch_arrow_table(), table) == ""
    assert cursor.adbc_ingest("big", table.to_reader(100_000), mode="append") == 1_000_000
    assert rows(cursor, "select count(*) as c, sum(n) as s from big") == [{"c": 2_000_000, "s": 999_999_000_000}]


def own_memory():
    """The bytes of this process that are no files: mapped chunks are."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))


@pytest.mark.slow
def test_what_is_larger_than_memory_goes_through(store, cursor):
    schema, peaks = pa.schema({"n": pa.float64()}), []

    def batches():
        for index in range(160):
            peaks.append(own_memory())
            yield pa.record_batch([np.random.default_rng(index).random(1 << 20)], schema=schema)  # 8 MiB

    before = own_memory()
    cursor.adbc_ingest("big", pa.RecordBatchReader.from_batches(schema, batches()), mode="create")
    cursor.execute("select n + 1 as n from big")
    for batch in cursor.fetch_record_batch():
        peaks.append(own_memory())
        del batch
    # Of 1280 MiB. Half of this is the driver, which collects its garbage when it likes.
    assert max(peaks) - before < 640 << 20


# -- who may ----------------------------------------------------------------------------------------------------------


def test_one_who_may_read_reads_and_does_not_write(store):
    with connected(store, role=Role.READ) as connection, connection.cursor() as cursor:
        assert rows(cursor, "select count(*) as n from trips") == [{"n": 3}]
        with pytest.raises(adbc.ProgrammingError, match="the token may only read"):
            cursor.adbc_ingest("new", MORE)
    assert store.keys() == ["bytes", "trips"]


def test_one_who_has_not_said_who_it_is_does_nothing(store):
    with ExitStack() as stack:
        server = stack.enter_context(SqlServer(store, role=Role.NOTHING))
        client = stack.enter_context(flight.connect(server.uri))
        for command in (packed("CommandStatementQuery", query="select 1"), packed("CommandGetTables")):
            descriptor = flight.FlightDescriptor.for_command(command)
            with pytest.raises(flight.FlightUnauthenticatedError, match="token"):
                client.get_flight_info(descriptor)
            with pytest.raises(pa.ArrowInvalid, match="a token is needed"):
                client.get_schema(descriptor)
            with pytest.raises(flight.FlightUnauthenticatedError):
                client.do_get(flight.Ticket(command)).read_all()
        with pytest.raises(flight.FlightUnauthenticatedError):
            list(
                client.do_action(
                    flight.Action("CreatePreparedStatement", packed("ActionCreatePreparedStatementRequest"))
                )
            )


# -- prepared statements ----------------------------------------------------------------------------------------------


def prepare(client, query):
    action = flight.Action("CreatePreparedStatement", packed("ActionCreatePreparedStatementRequest", query=query))
    return unpacked(next(iter(client.do_action(action))).body.to_pybytes())[1]


def test_a_statement_ends_when_it_is_closed_or_was_not_used_for_long(connection):
    sql = connection.server.sql
    now = sql._statements._clock()
    with flight.connect(connection.server.uri) as client:
        made = prepare(client, "select n from trips")
        command = packed("CommandPreparedStatementQuery", prepared_statement_handle=made.prepared_statement_handle)
        assert pa.ipc.read_schema(pa.py_buffer(made.dataset_schema)).equals(pa.schema({"n": pa.int64()}))
        sql.look(now + IDLE_SECONDS - 1)
        assert fetched(client, command).num_rows == 3
        sql.look(now + 2 * IDLE_SECONDS)
        with pytest.raises(pa.ArrowInvalid, match="no such prepared statement"):
            fetched(client, command)
        made = prepare(client, "select n from trips")
        close = packed("ActionClosePreparedStatementRequest", prepared_statement_handle=made.prepared_statement_handle)
        for _ in range(2):
            assert list(client.do_action(flight.Action("ClosePreparedStatement", close))) == []
    assert repr(sql) == "<FlightSql: 0 prepared statements>"


@pytest.mark.slow
def test_there_is_an_end_to_statements_and_their_parameters(connection):
    with flight.connect(connection.server.uri) as client:
        for _ in range(STATEMENTS_MAX):
            prepare(client, "select 1")
        with pytest.raises(flight.FlightUnavailableError, match="close some"):
            prepare(client, "select 1")
        connection.server.sql.close()
        prepare(client, "select 1")
    with connection.cursor() as cursor:
        many = pa.table({"x": np.arange(10 << 20)})
        with pytest.raises(adbc.OperationalError, match="64 MiB"):
            cursor.execute("select ?", many.to_reader(1 << 20))
        assert rows(cursor, "select ? as x", (1,)) == [{"x": 1}]


def test_a_query_is_cancelled_by_ending_its_stream(connection):
    with flight.connect(connection.server.uri) as client:
        action = flight.Action("CancelQuery", packed("ActionCancelQueryRequest", info=b""))
        assert len(list(client.do_action(action))) == 1
        assert {each.type for each in client.list_actions()} == {
            "CreatePreparedStatement",
            "ClosePreparedStatement",
            "CancelQuery",
        }


def test_without_protobuf_there_is_no_flight_sql(store, monkeypatch):
    monkeypatch.delitem(sys.modules, "eau2.doors.flight_sql_messages")
    monkeypatch.delattr("eau2.doors.flight_sql_messages")
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(eau2.PartMissing, match=r"eau2\[serve\]"):
        FlightSql(store)

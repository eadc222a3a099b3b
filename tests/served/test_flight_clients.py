"""Any client of Arrow Flight may list, describe, get, put and query; who may what; and what is refused."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import flight
from tests.served.serving import FLIGHT_ONLY, address_of, serving
from tests.until import SECONDS_MAX

import eau2
from eau2.doors.certificates import make_pair
from eau2.doors.server import Server
from eau2.doors.tokens import Role, Tokens
from eau2.errors import ClusterUnavailable, InvalidOption, KeyMissing, ReadOnly

TABLE = pa.table({"n": [1, 2, None], "s": ["a", "b", "c"]})
READ, WRITE = "r" * 16, "w" * 16


def path(key):
    return flight.FlightDescriptor.for_path(key)


def ticket(**asked):
    return flight.Ticket(json.dumps(asked).encode())


@pytest.fixture
def served(tmp_path):
    with eau2.open(tmp_path / "store") as store, Server(store, FLIGHT_ONLY) as server:
        host, port = server.addresses["flight"]
        with flight.connect((host, port)) as client:
            yield store, client


class TestAnyClient:
    def test_frames_are_listed_with_their_size_and_bytes_are_not(self, served):
        store, client = served
        store.put_many({"b/1": TABLE, "a": TABLE, "c": b"bytes"})
        found = list(client.list_flights())
        assert [info.descriptor.path for info in found] == [[b"a"], [b"b/1"]]
        assert [info.total_records for info in found] == [3, 3]
        assert [info.descriptor.path for info in client.list_flights(b"b/")] == [[b"b/1"]]

    def test_a_frame_is_described_and_got(self, served):
        store, client = served
        store.put("trips of 2026/ü", TABLE)
        info = client.get_flight_info(path("trips of 2026/ü"))
        assert info.schema == TABLE.schema == client.get_schema(path("trips of 2026/ü")).schema
        assert client.do_get(info.endpoints[0].ticket).read_all() == TABLE
        assert client.do_get(ticket(key="trips of 2026/ü")).read_all() == TABLE

    def test_sql_is_planned_then_run(self, served):
        store, client = served
        store.put("t", TABLE)
        info = client.get_flight_info(flight.FlightDescriptor.for_command("select sum(n) as n from t"))
        assert info.schema.names == ["n"]
        assert client.do_get(info.endpoints[0].ticket).read_all().to_pydict() == {"n": [3]}
        assert client.do_get(ticket(sql="select s from t where n = 2")).read_all().to_pydict() == {"s": ["b"]}

    def test_what_is_put_is_a_frame_and_the_reply_has_its_version(self, served):
        store, client = served
        for version in (1, 2):
            writer, reader = client.do_put(path("t"), TABLE.schema)
            with writer:
                writer.write_table(TABLE, max_chunksize=1)
                writer.done_writing()
                assert json.loads(reader.read().to_pybytes()) == {"version": version}
        assert store.frame("t").to_arrow() == TABLE

    def test_a_frame_without_rows_is_put_and_got(self, served):
        store, client = served
        writer, _ = client.do_put(path("t"), TABLE.schema)
        writer.close()
        assert store.frame("t").to_arrow() == TABLE.slice(0, 0)
        assert client.do_get(ticket(key="t")).read_all() == TABLE.slice(0, 0)

    def test_dictionaries_that_differ_come_as_plain_values(self, served):
        store, client = served
        parts = [pa.array(words).dictionary_encode() for words in (["a", "b"], ["c"], ["b", "d"])]
        store.put("t", pa.table({"d": pa.chunked_array(parts)}))
        assert client.do_get(ticket(key="t")).read_all().to_pydict() == {"d": ["a", "b", "c", "b", "d"]}

    def test_what_is_missing_or_wrong_is_said(self, served):
        _, client = served
        for asked in (ticket(key="none"), ticket(sql="select 1 from none")):
            with pytest.raises(pa.ArrowKeyError, match="none"):
                client.do_get(asked).read_all()
        for asked in (ticket(), ticket(sql="select"), flight.Ticket(b"\xff"), flight.Ticket(b"[]")):
            with pytest.raises((pa.ArrowInvalid, flight.FlightServerError)):
                client.do_get(asked).read_all()
        with pytest.raises(pa.ArrowKeyError, match="'none'"):
            client.get_flight_info(path("none"))
        with pytest.raises(pa.ArrowInvalid, match="one key"):
            client.get_flight_info(flight.FlightDescriptor.for_path("a", "b"))
        with pytest.raises(flight.FlightServerError, match=r"no action 'eau2\.unheard'"):
            list(client.do_action("eau2.unheard"))
        with pytest.raises(pa.ArrowNotImplementedError, match="no action"):
            list(client.do_action("unheard"))

    def test_rows_that_are_broken_change_nothing(self, served):
        store, client = served
        ends = pa.py_buffer((0).to_bytes(4, "little") + (3).to_bytes(4, "little"))
        broken = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xff\xfe\xfd")])
        writer, _ = client.do_put(path("t"), pa.schema([("s", pa.string())]))
        with pytest.raises(pa.ArrowInvalid, match="UTF8"):
            for _ in range(1000):
                writer.write_batch(pa.RecordBatch.from_arrays([broken], ["s"]))
            writer.close()
        assert store.keys() == []

    def test_whatever_is_asked_is_answered_or_refused(self, served):
        _, client = served

        @given(data=st.binary(max_size=200) | st.dictionaries(st.text(), st.integers() | st.text()).map(json.dumps))
        def ask_all(data):
            body = data.encode() if isinstance(data, str) else data
            for ask in (
                lambda: client.do_get(flight.Ticket(body)).read_all(),
                lambda: client.get_flight_info(flight.FlightDescriptor.for_command(body)),
                *(lambda verb=verb: list(client.do_action((f"eau2.{verb}", body + b"\n"))) for verb in VERBS),
            ):
                try:
                    ask()
                except (pa.ArrowException, flight.FlightServerError, flight.FlightTimedOutError) as error:
                    assert not isinstance(error, flight.FlightInternalError), error

        ask_all()


VERBS = ("hello", "keep", "end", "entries", "keys", "frames", "hold", "write", "share", "stage_query", "discard")


class TestTokens:
    @pytest.fixture
    def address(self, tmp_path):
        tokens = Tokens([(READ, Role.READ), (WRITE, Role.WRITE)])
        with serving(tmp_path / "store", tokens=tokens) as address:
            yield address

    def test_without_a_token_or_with_a_wrong_one_nothing_is_answered(self, address):
        for token in ("", "x" * 16):
            with pytest.raises(ClusterUnavailable, match="token"):
                eau2.open(address, token=token)

    def test_the_token_of_the_environment_is_taken(self, address, monkeypatch):
        monkeypatch.setenv("EAU2_TOKEN", WRITE)
        with eau2.open(address) as store:
            assert store.put("a", b"1") == 1

    def test_who_may_read_may_not_write(self, address):
        with eau2.open(address, token=WRITE) as store:
            store.put_many({"a": b"1", "t": TABLE})
        with eau2.open(address, token=READ) as store:
            assert store.get("a") == b"1"
            assert store.sql("select sum(n) as n from t").to_arrow().to_pydict() == {"n": [3]}
            for write in (
                lambda: store.put("a", b"2"),
                lambda: store.put("t", TABLE),
                lambda: store.put("u", store.frame("t")),
                lambda: store.put("u", store.sql("select 1 as one")),
                lambda: store.delete("a"),
                lambda: store.rebalance(),
            ):
                with pytest.raises(ReadOnly, match="may only read"):
                    write()
            assert store.keys() == ["a", "t"]

    def test_nothing_that_a_stranger_sends_is_looked_at(self, address, monkeypatch):
        looked = []
        monkeypatch.setattr("eau2.doors.flight._asked", looked.append)
        host, port = address.removeprefix("eau2://").split(":")
        with flight.connect((host, int(port))) as client:
            with pytest.raises(flight.FlightUnauthenticatedError):
                client.do_get(ticket(key="t")).read_all()
            writer, _ = client.do_put(flight.FlightDescriptor.for_command(b"{}"), TABLE.schema)
            with pytest.raises(flight.FlightUnauthenticatedError):
                writer.close()
        assert looked == []

    def test_a_client_of_flight_comes_with_a_header_or_a_password(self, address):
        host, port = address.removeprefix("eau2://").split(":")
        with flight.connect((host, int(port))) as client:
            with pytest.raises(flight.FlightUnauthenticatedError):
                list(client.list_flights())
            options = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer " + READ.encode())])
            assert list(client.list_flights(options=options)) == []
            pair = client.authenticate_basic_token("anybody", READ)
            assert list(client.list_flights(options=flight.FlightCallOptions(headers=[pair]))) == []
            with pytest.raises(flight.FlightUnauthenticatedError):
                client.authenticate_basic_token("anybody", "wrong")
            writer, _ = client.do_put(path("t"), TABLE.schema, options=options)
            with pytest.raises(flight.FlightUnauthorizedError):
                writer.close()


def test_beyond_loopback_a_token_is_demanded(tmp_path):
    with eau2.open(tmp_path / "store") as store, pytest.raises(InvalidOption, match="token"):
        Server(store, eau2_doors(host="0.0.0.0"))


def eau2_doors(**options):
    from dataclasses import replace

    return replace(FLIGHT_ONLY, **options)


@pytest.mark.parametrize("address", ["eau2://", "eau2://host:1:2", "eau2://host:99999", "eau2://a b", "eau2://u@h:1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InvalidOption, match="address"):
        eau2.open(address)


def test_options_that_a_served_store_has_not_are_refused(tmp_path):
    with serving(tmp_path / "store") as address:
        for options in ({"nodes": 2}, {"replicas": 2}, {"flush": "power"}):
            with pytest.raises(InvalidOption, match="made with"):
                eau2.open(address, **options)
    with pytest.raises(InvalidOption, match="token"):
        eau2.open(tmp_path / "other", token="t" * 16)


def test_nobody_at_the_address_is_said(tmp_path):
    with serving(tmp_path / "store") as address:
        pass
    with pytest.raises(ClusterUnavailable, match="does not answer"):
        eau2.open(address)


def test_a_missing_key_names_those_that_are_near(tmp_path):
    with serving(tmp_path / "store") as address, eau2.open(address) as store:
        store.put("commits", b"")
        with pytest.raises(KeyMissing, match="did you mean 'commits'"):
            store.get("comits")


@pytest.mark.slow
def test_commands_take_the_address_and_tls_its_certificate(tmp_path, monkeypatch):
    pair = make_pair(tmp_path / "pair")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    certificate = pair.certificate.read_bytes(), pair.key.read_bytes()
    with serving(
        tmp_path / "store", tls=context, certificate=certificate, tokens=Tokens([(WRITE, Role.WRITE)])
    ) as address:
        with eau2.open(address, token=WRITE, tls=pair.certificate) as store:
            store.put("t", TABLE)
        with pytest.raises(ClusterUnavailable):
            eau2.open(address, token=WRITE)
        monkeypatch.setenv("EAU2_TOKEN", WRITE)
        monkeypatch.setenv("EAU2_TLS_CA", str(pair.certificate))
        command = [sys.executable, "-c", "from eau2.cli import main; main()", "--store", address, "get", "t"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
        assert "3 rows" in ran.stdout


def test_the_server_is_a_context_of_its_own(tmp_path):
    with eau2.open(tmp_path / "store") as store, Server(store, FLIGHT_ONLY) as server:
        assert address_of(server) in repr(server).replace("flight at ", "eau2://")

"""What a client of a served store sees when the server dies, comes back, hangs or ends; and what it costs."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight
from tests.served.serving import FLIGHT_ONLY, address_of, serving
from tests.until import SECONDS_MAX, rests, until

import eau2
from eau2.doors.flight_sql_messages import packed
from eau2.doors.server import Server
from eau2.errors import InvalidOption, NodeUnavailable, OutcomeUnknown, ReadOnly, StoreBusy, StoreClosed

pytestmark = pytest.mark.slow  # each starts servers

EAU2 = [sys.executable, "-c", "from eau2.cli import main; main()"]
TABLE = pa.table({"n": [1, 2, 3]})
MEGABYTE = 1 << 20


class Serving:
    """`eau2 serve` in a process of its own, started again at the same port."""

    def __init__(self, directory, port=0, *options):
        self.directory = directory
        others = [word for door in ("http", "crud", "redis", "udp") for word in (f"--{door}-port", "off")]
        command = [*EAU2, "serve", "--store", str(directory), "--flight-port", str(port), *others, "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        host, self.port = json.loads(self.process.stdout.readline())["doors"]["flight"]
        self.address = f"eau2://{host}:{self.port}"

    def kill(self):
        self.process.kill()
        self.process.wait(SECONDS_MAX)

    def again(self):
        return Serving(self.directory, self.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
        self.process.kill()
        self.process.wait(SECONDS_MAX)
        self.process.stdout.close()


def resident(process) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def numbered(count):
    for number in range(count):
        yield pa.record_batch({"n": np.full(MEGABYTE, number)})  # 8 MB


@pytest.mark.slow
class TestTheServerDies:
    def test_what_was_acknowledged_is_there_when_it_is_started_again_at_its_port(self, tmp_path):
        with Serving(tmp_path / "store") as server, eau2.open(server.address) as store:
            store.put("a", b"1")
            store.put("f", TABLE)
            held = store.frame("f")
            server.kill()
            with pytest.raises(NodeUnavailable, match="does not answer"):
                store.get("a")
            with pytest.raises((NodeUnavailable, OutcomeUnknown)):
                store.put("a", b"2")
            with server.again():
                assert until(lambda: _answered(store, "a") in (b"1", b"2"))
                assert held.to_arrow() == TABLE  # the server holds it anew
                assert store.sql("select sum(n) as n from f").to_arrow().to_pydict() == {"n": [6]}
                assert store.put("f", {"n": [4]}) == 2

    def test_a_frame_that_was_replaced_while_the_server_was_away_is_gone_and_said_so(self, tmp_path):
        with Serving(tmp_path / "store") as server, eau2.open(server.address) as store:
            store.put("f", TABLE)
            held = store.frame("f")
            server.kill()
            with eau2.open(tmp_path / "store") as direct:
                direct.put("f", {"n": [9]})
            with server.again():
                assert until(lambda: _answered(store, "none") is None)
                with pytest.raises(NodeUnavailable, match="'f' was replaced"):
                    held.to_arrow()
                assert store.frame("f").to_arrow().to_pydict() == {"n": [9]}

    def test_a_put_whose_server_dies_midway_changes_nothing(self, tmp_path):
        with Serving(tmp_path / "store") as server, eau2.open(server.address) as store:
            store.put("f", TABLE)

            def batches():
                yield from numbered(20)
                server.kill()
                yield from numbered(20)

            with pytest.raises(NodeUnavailable):
                store.put("f", batches())
        with eau2.open(tmp_path / "store") as direct:
            assert direct.frame("f").to_arrow() == TABLE
            assert direct.check().faults == ()
            assert direct.statistics().chunks == 1

    def test_who_waits_for_the_answer_of_a_server_that_hangs_hears_of_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr("eau2.served.connection._KEEP_SECONDS", 0.3)
        with Serving(tmp_path / "store") as server, eau2.open(server.address) as store:
            store.put("big", numbered(40))
            batches = store.sql("select n from big").batches()
            next(batches)
            server.process.send_signal(signal.SIGSTOP)
            with pytest.raises(NodeUnavailable):
                list(batches)
            server.process.send_signal(signal.SIGCONT)
            assert until(lambda: _answered(store, "none") is None)

    def test_a_waiter_hears_of_a_server_that_is_gone(self, tmp_path):
        with (
            Serving(tmp_path / "store") as server,
            eau2.open(server.address) as store,
            ThreadPoolExecutor(1) as pool,
        ):
            waiting = pool.submit(store.wait, "k", timeout_seconds=10 * SECONDS_MAX)
            time.sleep(0.3)
            server.kill()
            with pytest.raises(NodeUnavailable):
                waiting.result(SECONDS_MAX)


class TestSessions:
    """The server may forget a session: it was started again, or has not heard of the client for a minute."""

    @pytest.fixture
    def served(self, tmp_path):
        with (
            eau2.open(tmp_path / "store") as direct,
            Server(direct, FLIGHT_ONLY) as server,
            eau2.open(address_of(server)) as store,
        ):
            yield direct, store

    def forget(self, store):
        connection = store.node.connection
        connection.call("end", {"session": connection.session()})

    def test_what_is_held_and_asked_is_held_anew(self, served):
        direct, store = served
        direct.put("f", TABLE)
        held, query = store.frame("f"), store.sql("select sum(n) as n from f")
        derived = held.filter(eau2.col("n") > eau2.lit(1))
        for read in (
            lambda: query.to_arrow().to_pydict() == {"n": [6]},
            lambda: derived.rows == 2,
            lambda: held.to_arrow() == TABLE,
            lambda: store.put("copy", held) > 0,
            lambda: store.put("sum", query) > 0,
            lambda: store.put("more", TABLE) > 0,
        ):
            self.forget(store)
            assert read()
        assert direct.check().faults == ()

    def test_what_was_replaced_meanwhile_is_gone_and_that_is_said(self, served):
        direct, store = served
        direct.put("f", TABLE)
        held, query = store.frame("f"), store.sql("select sum(n) as n from f")
        direct.put("f", {"n": [9]})
        self.forget(store)
        for read in (query.to_arrow, held.to_arrow, lambda: store.put("copy", held), lambda: store.put("sum", query)):
            with pytest.raises(NodeUnavailable, match="'f' was replaced"):
                read()
        assert direct.keys() == ["f"]

    def test_threads_that_hold_anew_at_once_hold_one(self, served):
        direct, store = served
        direct.put("f", TABLE)
        query = store.sql("select sum(n) as n from f")
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                self.forget(store)
                assert [each.num_rows for each in pool.map(lambda _: query.to_arrow(), range(8))] == [1] * 8

    def test_an_answer_is_stored_with_its_columns_as_in_any_store(self, served):
        direct, store = served
        direct.put("f", {"a": [3, 1, 2], "s": ["x", "y", "x"]})
        makes = (
            lambda f: f.rename({"a": "A 1"}),
            lambda f: f.select((eau2.col("a") + eau2.lit(1)).alias("b")),
            lambda f: f.aggregate(["s"], [eau2.functions.sum(eau2.col("a")).alias("S")]).sort("s"),
            lambda f: f.with_column("c", eau2.col("a") * eau2.lit(2)).filter(eau2.col("c") > eau2.lit(2)),
        )
        for make in makes:
            direct.put("expected", make(direct.frame("f")))
            store.put("found", make(store.frame("f")))
            assert direct.frame("found").to_arrow().equals(direct.frame("expected").to_arrow(), check_metadata=True)


class TestRoom:
    def test_who_waits_takes_no_room_from_those_who_work(self, tmp_path, monkeypatch):
        monkeypatch.setattr("eau2.doors.flight_calls.CALLS_MAX", 2)
        with serving(tmp_path / "store") as address, ExitStack() as stack, ThreadPoolExecutor(6) as pool:
            stores = [stack.enter_context(eau2.open(address)) for _ in range(6)]
            waiting = [pool.submit(store.wait, "k", timeout_seconds=SECONDS_MAX) for store in stores]
            time.sleep(0.2)
            with eau2.open(address) as store:
                store.put("k", b"now")
            assert [each.result() for each in waiting] == [b"now"] * 6

    def test_a_write_that_found_no_room_was_surely_not_done(self, tmp_path, monkeypatch):
        monkeypatch.setattr("eau2.doors.flight_calls.TURN_SECONDS", 0.1)
        with (
            eau2.open(tmp_path / "store") as direct,
            Server(direct, FLIGHT_ONLY) as server,
            eau2.open(address_of(server)) as store,
        ):
            room = server._flights._calls._room
            taken = [room.acquire(blocking=False) for _ in range(600)]
            with pytest.raises(StoreBusy, match="at once"):
                store.put("k", b"1")
            for _ in filter(None, taken):
                room.release()
            assert store.put("k", b"1") == 1

    @pytest.mark.parametrize("sql_ticket", [True, False])
    def test_nobody_works_on_for_a_client_that_has_gone(self, tmp_path, sql_ticket):
        query = "with recursive t as (select 1 as n union all select n + 1 from t where n < 1000000) select * from t"
        body = json.dumps({"sql": query}).encode()
        if sql_ticket:
            body = packed("TicketStatementQuery", statement_handle=query.encode())
        with eau2.open(tmp_path / "store") as direct, Server(direct, FLIGHT_ONLY) as server:
            asking = server._flights._calls._asking
            with flight.connect(server.addresses["flight"]) as client:
                reader = client.do_get(flight.Ticket(body))
                assert until(lambda: len(asking)) == 1
                reader.cancel()
                assert until(lambda: not asking)
            assert until(rests)


def _answered(store, key):
    try:
        return store.get(key, default=None)
    except NodeUnavailable:
        return b"unavailable"


@pytest.mark.slow
class TestTheServerEnds:
    def test_it_ends_within_a_second_whatever_its_clients_do(self, tmp_path):
        with eau2.open(tmp_path / "store") as direct:
            direct.put("big", numbered(40))
        with Serving(tmp_path / "store") as server, eau2.open(server.address) as store:
            host, port = server.address.removeprefix("eau2://").split(":")
            with flight.connect((host, int(port))) as client, ThreadPoolExecutor(1) as pool:
                reader = client.do_get(flight.Ticket(b'{"key": "big"}'))
                reader.read_chunk()  # and never another
                writer, _ = client.do_put(flight.FlightDescriptor.for_path("half"), TABLE.schema)
                writer.write_table(TABLE)  # and never the end
                waiting = pool.submit(store.wait, "k", timeout_seconds=10 * SECONDS_MAX)
                time.sleep(0.3)
                start = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(SECONDS_MAX) == 0
                assert time.monotonic() - start < SECONDS_MAX / 2  # a second on a quiet machine
                with pytest.raises(NodeUnavailable):
                    waiting.result(SECONDS_MAX)
                reader.cancel()
                with contextlib.suppress(flight.FlightError, pa.ArrowException):
                    writer.close()
        with eau2.open(tmp_path / "store") as direct:
            assert direct.keys() == ["big"]

    def test_it_ends_in_its_process_too_and_leaves_nothing(self, tmp_path):
        with eau2.open(tmp_path / "store") as direct:
            direct.put("big", numbered(40))
            with Server(direct, FLIGHT_ONLY) as server:
                with flight.connect(server.addresses["flight"]) as client:
                    reader = client.do_get(flight.Ticket(b'{"key": "big"}'))
                    reader.read_chunk()
                    server.close()
                    with contextlib.suppress(flight.FlightError, pa.ArrowException):
                        while True:
                            reader.read_chunk()
                reader.cancel()

    def test_its_port_can_be_had_again_at_once(self, tmp_path):
        with eau2.open(tmp_path / "store") as direct:
            port = 0
            for number in range(3):
                doors = FLIGHT_ONLY if not port else _at(port)
                with Server(direct, doors) as server, eau2.open(address_of(server)) as store:
                    port = server.addresses["flight"][1]
                    store.put("a", b"%d" % number)
            assert direct.get("a") == b"2"

    def test_a_port_that_is_taken_is_said(self, tmp_path):
        with (
            eau2.open(tmp_path / "store") as direct,
            Server(direct, FLIGHT_ONLY) as server,
            pytest.raises(eau2.StoreUnusable, match="cannot listen"),
        ):
            Server(direct, _at(server.addresses["flight"][1]))


def _at(port):
    from dataclasses import replace

    return replace(FLIGHT_ONLY, flight_port=port)


@pytest.mark.slow
class TestClients:
    def test_a_client_that_is_killed_leaves_nothing_at_the_server(self, tmp_path, monkeypatch):
        monkeypatch.setattr("eau2.doors.flight_sessions.LEASE_SECONDS", 2.0)
        with eau2.open(tmp_path / "store") as direct, Server(direct, FLIGHT_ONLY) as server:
            direct.put("f", TABLE)
            code = (
                "import eau2, sys, time\n"
                f"store = eau2.open({address_of(server)!r})\n"
                "held = store.frame('f')\n"
                "def rows():\n"
                "    yield {'n': 1}\n"
                "    print('held', flush=True)\n"
                "    time.sleep(600)\n"
                "import pyarrow as pa\n"
                "store.put('g', rows(), schema=pa.schema([('n', pa.int64())]))\n"
            )
            with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as client:
                assert client.stdout.readline() == "held\n"
                client.kill()
            direct.delete("f")
            gc.collect()
            chunks = tmp_path / "store" / "node-0" / "chunks"
            assert until(lambda: not [name for _, _, names in os.walk(chunks) for name in names])
            assert direct.keys() == []
            assert direct.check().faults == ()

    def test_half_of_what_another_client_of_flight_sends_is_nothing(self, tmp_path):
        code = (
            "import sys, time, pyarrow as pa\n"
            "from pyarrow import flight\n"
            "client = flight.connect((sys.argv[1], int(sys.argv[2])))\n"
            "schema = pa.schema([('n', pa.int64())])\n"
            "writer, _ = client.do_put(flight.FlightDescriptor.for_path('half'), schema)\n"
            "for _ in range(100):\n"
            "    writer.write_batch(pa.record_batch({'n': pa.array(range(1000))}))\n"
            "print('sent', flush=True)\n"
            "time.sleep(600)\n"
        )
        with eau2.open(tmp_path / "store") as direct, Server(direct, FLIGHT_ONLY) as server:
            command = [sys.executable, "-c", code, *map(str, server.addresses["flight"])]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
                assert client.stdout.readline() == "sent\n"
                client.kill()
            staging = tmp_path / "store" / "node-0" / "staging"
            assert until(lambda: not [name for of, _, names in os.walk(staging) for name in names if name != "lock"])
            assert direct.keys() == []

    def test_memory_stays_bounded_on_both_sides(self, tmp_path):
        with Serving(tmp_path / "store") as server, eau2.open(server.address) as store:
            store.put("f", numbered(4))
            store.sql("select n from f").rows  # noqa: B018  # what is made once
            at_first = resident(server.process.pid), resident(os.getpid())
            store.put("big", numbered(100))  # 800 MB
            assert sum(batch.num_rows for batch in store.sql("select n from big where n >= 0").batches()) == (
                100 * MEGABYTE
            )
            assert resident(server.process.pid) - at_first[0] < 500 * MEGABYTE
            assert resident(os.getpid()) - at_first[1] < 300 * MEGABYTE

    def test_ctrl_c_ends_the_waiting_for_an_answer(self, tmp_path):
        with Serving(tmp_path / "store") as server, eau2.open(server.address) as store:
            store.put("f", {"n": np.arange(3000)})
            timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                store.sql(
                    "select count(*) from f a, f b, f c, f d where a.n + b.n + c.n + d.n = 7 and a.n * b.n <> 5"
                ).to_arrow()
            timer.join()
            assert store.get("none", default=None) is None

    def test_closing_ends_the_waiting_for_an_answer(self, tmp_path):
        with Serving(tmp_path / "store") as server, ThreadPoolExecutor(1) as pool:
            store = eau2.open(server.address)
            store.put("f", {"n": np.arange(3000)})
            query = store.sql("select count(*) from f a, f b, f c, f d where a.n + b.n + c.n + d.n = 7 and a.n <> b.n")
            asking = pool.submit(query.to_arrow)
            time.sleep(0.5)
            store.close()
            with pytest.raises(StoreClosed):
                asking.result(SECONDS_MAX)

    def test_a_forked_child_may_not_use_it(self, tmp_path):
        with serving(tmp_path / "store") as address, eau2.open(address) as store:
            store.put("a", b"1")
            store._node.abandon()  # what a fork does in the child; gRPC and fork do not go together in a test
            with pytest.raises(StoreClosed):
                store.get("a")

    def test_a_directory_that_cannot_be_written_is_said_as_such(self, tmp_path):
        directory = tmp_path / "store"
        eau2.open(directory).close()
        directory.chmod(0o500)
        try:
            if os.access(directory, os.W_OK):
                pytest.skip("the superuser may write anywhere")
            with serving(directory) as address, eau2.open(address) as store, pytest.raises(ReadOnly):
                store.put("a", b"1")
        finally:
            directory.chmod(0o700)

    def test_values_that_are_too_many_for_one_call_are_refused_before_they_are_sent(self, tmp_path, monkeypatch):
        monkeypatch.setattr("eau2.served.node.WRITE_BYTES_MAX", 1000)
        with serving(tmp_path / "store") as address, eau2.open(address) as store:
            with pytest.raises(eau2.ValueTooLarge, match="several calls"):
                store.put_many({"a": b"x" * 600, "b": b"x" * 600})
            assert store.keys() == []
            with pytest.raises(InvalidOption):
                store.put("f", TABLE, node="nobody")

"""Commands and files on every node of a cluster, through a server of it: as typed, with the token of an admin."""

import getpass
import json
import logging
import os
import re
import socket
from contextlib import ExitStack, closing

import pytest
from tests.doors.conftest import Served
from tests.fleet.runs import a_run
from tests.monitor.conftest import ADMIN, READ, TOKENS, WRITE
from tests.remote.clusters import Cluster
from tests.until import until

import eau2
from eau2.cli import main
from eau2.doors.flight_fleet import Spool
from eau2.doors.server import Doors
from eau2.errors import InvalidValue
from eau2.fleet.files import Source
from eau2.fleet.run import PART_BYTES, Command, File, Push, Script
from eau2.served.connecting import connect
from eau2.served.fleet import ServedFleet
from eau2.served.fleet_wire import run_heard, run_said

NAMES = ("n0", "n1", "n2")
FLIGHT = Doors(crud_port=None, redis_port=None, udp_port=None, flight_port=0)


@pytest.mark.parametrize(
    "work",
    [
        Command(("printf", "\udc80é")),
        Script("a.sh", b"\xff#!", ("x y",)),
        Push((File("a", 3, 0o750, "00"), File("b", 0, 0o600, "11")), "/tmp/{node}"),
    ],
)
def test_a_run_arrives_as_it_was_sent(work):
    run = a_run(work=work, deadline_seconds=1.5)
    assert run_heard(json.loads(json.dumps(run_said(run)))) == run


@pytest.mark.parametrize("change", [{"id": "../../x"}, {"work": {}}, {"work": None}, {"time": []}])
def test_what_is_no_run_is_refused(change):
    with pytest.raises((eau2.InvalidOption, InvalidValue)):
        run_heard(run_said(a_run("date")) | change)


def test_parts_come_in_any_order_and_are_waited_for(tmp_path):
    data = os.urandom(PART_BYTES + 7)
    for name, content in (("a", data), ("b", b"more")):
        (tmp_path / name).write_bytes(content)
    with Source([tmp_path / "a", tmp_path / "b"], "/to") as source:
        spool = Spool(source.push)
        for number in (2, 0, 1, 0):
            spool.take(number, source.part(number))
        assert [spool.part(number) for number in range(3)] == [data[:PART_BYTES], data[PART_BYTES:], b"more"]
        spool.close()
        late = Spool(source.push)
        with pytest.raises(InvalidValue, match="7 bytes, not 2"):
            late.take(1, b"no")
        late.close()
        assert late.part(0) is None


def address_of(served):
    return "eau2://{}:{}".format(*served.server.addresses["flight"])


@pytest.fixture
def serving(tmp_path):
    """Serve a cluster; return its address."""
    with ExitStack() as stack:

        def serve(*, allow_exec=True):
            cluster = stack.enter_context(Cluster(tmp_path / "nodes", NAMES, allow_exec=allow_exec))
            store = stack.enter_context(cluster.opener()())
            served = Served(store, stack).open(FLIGHT, tokens=TOKENS)
            return address_of(served)

        yield serve


@pytest.fixture
def typed(capfd, monkeypatch):
    """Run `eau2` in this process; return its exit code, what it printed, and what on standard error."""

    def run(address, name, *arguments, token=ADMIN):
        monkeypatch.setenv("EAU2_TOKEN", token)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([name, "--store", address, *map(str, arguments)])
        return stop.value.code, *capfd.readouterr()

    return run


@pytest.mark.slow
def test_through_a_server_every_node_runs_it_gets_files_and_shows_what_was_written(serving, typed, tmp_path, caplog):
    caplog.set_level(logging.INFO, "eau2.doors")
    address = serving()
    code, out, error = typed(address, "exec", "--", "sh", "-c", "echo I am $EAU2_NODE; test $EAU2_NODE != n1 || exit 7")
    assert (code, error) == (1, "n1 | ended with 7\n")
    assert sorted(out.splitlines()) == [f"{name} | I am {name}" for name in NAMES]
    assert typed(address, "exec", "--deadline", 0.2, "--nodes", "n0", "--", "sleep", 600)[0] == 1

    data = os.urandom(PART_BYTES + 100)
    (tmp_path / "data.bin").write_bytes(data)
    assert typed(address, "push", tmp_path / "data.bin", "--to", f"{tmp_path}/{{node}}", "--rolling") == (0, "", "")
    assert [(tmp_path / name / "data.bin").read_bytes() for name in NAMES] == [data] * 3

    for token in (READ, WRITE):
        code, out, error = typed(address, "exec", "--", "touch", tmp_path / "made", token=token)
        assert (code, out, "takes a token of an admin: the token may only" in error) == (3, "", True)
    assert not (tmp_path / "made").exists()
    found = until(
        lambda: len(listed := json.loads(typed(address, "exec", "--list", "--json", token=READ)[1])) >= 5 and listed
    )
    refused = [one for one in found if one["refused"]]
    assert [(one["user"], one["text"], one["refused"]) for one in refused] == [
        (getpass.getuser(), f"touch {tmp_path}/made", f"the token may only {role}") for role in ("write", "read")
    ]
    push, deadline, first = (one for one in found if not one["refused"])
    assert [node["state"] for node in deadline["nodes"]] == ["deadline"]
    assert (push["kind"], first["host"].partition(",")[0]) == ("push", socket.gethostname())
    code, out, error = typed(address, "exec", "--show", first["id"][-8:])
    assert (code, error) == (0, "n1 | ended with 7\n")
    assert out.splitlines() == [f"{name} | I am {name}" for name in NAMES]
    said = json.loads(typed(address, "exec", "--show", first["id"], "--nodes", "n1", "--json")[1])
    assert [(one["node"], one["out"], one["out_left_out"]) for one in said["nodes"]] == [
        ("n1", [{"start": 0, "text": "I am n1\n"}], 0)
    ]
    code, _, error = typed(address, "exec", "--show", first["id"], token=READ)
    assert "takes a token of an admin" in error
    assert typed(address, "exec", "--show", "00000000")[0] == 2
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    asked = [line for line in lines if line["event"].startswith("run ")]
    events = [line["event"] for line in asked]
    assert (events.count("run begun"), events.count("run refused")) == (3, 2)
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", line["client"]) for line in asked)


class Enough(Exception):
    pass


@pytest.mark.slow
def test_who_raises_amid_it_has_it_ended_on_every_node_and_a_server_without_tokens_runs_nothing(tmp_path, typed):
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(tmp_path / "nodes", NAMES, allow_exec=True))
        store = stack.enter_context(cluster.opener()())
        address = address_of(Served(store, stack).open(FLIGHT, tokens=TOKENS))
        connection = stack.enter_context(closing(connect(address, ADMIN)))
        fleet, heard = ServedFleet(connection), []

        def hear(said):
            heard.append(said)
            if len(heard) == 3:
                raise Enough

        with pytest.raises(Enough):
            fleet.run(a_run("sh", "-c", "echo here; exec sleep 600"), NAMES, hear)
        until(lambda: {one.state for one in fleet.audit(1)[0].on.values()} == {"cancelled"})
        assert max(one.seconds for one in fleet.audit(1)[0].on.values()) < 14  # and not because nobody waits for it

        code, _, error = typed(address_of(Served(store, stack).open(FLIGHT)), "exec", "--", "touch", tmp_path / "made")
        assert (code, "the server has no tokens" in error, (tmp_path / "made").exists()) == (3, True, False)


@pytest.mark.slow
def test_without_allow_exec_nothing_runs_and_who_tried_is_listed(serving, typed, tmp_path):
    address = serving(allow_exec=False)
    code, _, error = typed(address, "exec", "--", "touch", tmp_path / "made")
    assert (code, "does not run commands" in error) == (3, True)
    (found,) = json.loads(typed(address, "exec", "--list", "--json")[1])
    assert (found["text"], found["refused"]) == (f"touch {tmp_path}/made", "this cluster does not run commands")
    assert "127.0.0.1 by eau2:// of" in found["host"]
    assert "refused" in typed(address, "exec", "--list")[1]


@pytest.mark.slow
def test_a_store_that_is_no_cluster_says_so(tmp_path, typed):
    with ExitStack() as stack:
        store = stack.enter_context(eau2.open(tmp_path / "store"))
        served = Served(store, stack).open(FLIGHT)
        address = address_of(served)
        code, _, error = typed(address, "exec", "--", "date")
        assert (code, "is no cluster" in error) == (2, True)

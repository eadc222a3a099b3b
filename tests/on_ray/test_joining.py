"""Machines come into a cluster through any node of it, and go again: hosts of network namespaces, each with its own
address."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
from pathlib import Path

import pytest
from tests.on_ray.hosts import Hosts, why_not
from tests.until import SECONDS_MAX, until

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(1800)]

TOKEN = "admin-of-the-doors-of-all"
_PAGE = (Path(__file__).resolve().parents[2] / "docs/machines.md").read_text().partition("### Joining")[2]
_READ = """if True:
    import sys, eau2
    with eau2.open(sys.argv[1]) as store:
        print([store.get(key) for key in sys.argv[2:]], store.frame("trips").to_arrow().num_rows)"""
_PUT = """if True:
    import sys, eau2
    with eau2.open(sys.argv[1]) as store:
        store.put(sys.argv[2], sys.argv[2].encode())
        store.put("trips", {"id": list(range(1000))})"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def hosts(data, tmp_path_factory):
    """Four of them, two with a cluster; the others have nothing yet but the token."""
    if why := why_not():
        pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch, Hosts(4, started=2) as hosts:
        patch.setenv("EAU2_TOKEN", TOKEN)
        until(lambda: hosts.deployed(data))
        yield hosts


def eau2(hosts, host, *words):
    return hosts.done(host, "-m", "eau2.cli", *words, "--json")


def joined(hosts, host, *words):
    """Have `host` join; return what is said of it. Again where a busy machine takes what is slow for what is gone."""
    done = until(lambda: done if (done := eau2(hosts, host, *words, "--machine", host)).returncode == 0 else None)
    return json.loads(done.stdout)


def as_written(name, door=""):
    """Return the command `name` as the page on machines has it, with `door` as what is asked."""
    (line,) = re.findall(rf"^eau2 ({name}\b[^#\n]*?) +#", _PAGE, re.MULTILINE)
    return line.replace("eau2://HOST", door).split()


def put(hosts, host, key):
    hosts.said(host, "-c", _PUT, hosts.store, key)


def read(hosts, host, *keys):
    return hosts.said(host, "-c", _READ, hosts.store, *keys).strip()


def whole(*keys):
    return f"{[key.encode() for key in keys]} 1000"


@contextlib.contextmanager
def serving(hosts, host, folder):
    """`host` serves the cluster, which runs on it."""
    doors = ["--http-port", "off", "--redis-port", "off", "--crud-port", "off", "--udp-port", "off"]
    out = folder / f"{host}.txt"
    served = hosts.start(
        host, "-m", "eau2.cli", "serve", "--store", hosts.store, "--host", hosts.address(host), *doors, out=out
    )
    try:
        until(lambda: "7400" in out.read_text() or served.poll() is not None)
        assert served.poll() is None, out.read_text()
        yield f"eau2://{hosts.address(host)}:7400"
    finally:
        served.kill()
        served.wait()


def states(hosts):
    listed = json.loads(eau2(hosts, "host-0", "nodes", "--store", hosts.store).stdout)
    return {node["name"]: node["state"] for node in listed}


def whys(hosts):
    history = eau2(hosts, "host-0", "nodes", "--store", hosts.store, "--history").stdout
    return [epoch["why"] for epoch in json.loads(history)]


def brought(hosts, machine, through):
    """Whether the history says who brought `machine` in, and through whom."""
    said = f"@{socket.gethostname()} through {through} at 2"
    return [why for why in whys(hosts) if why.startswith(machine) and "brought in by" in why and said in why]


def test_a_join_that_is_interrupted_leaves_nothing_running(hosts, tmp_path):
    out = tmp_path / "out"  # Ctrl-C ends a command within a second, and what it has started after that
    join = hosts.start("host-3", "-m", "eau2.cli", "join", hosts.store, "--machine", "host-3", out=out)
    try:
        until(lambda: hosts.raylet("host-3") or join.poll() is not None)
        join.send_signal(signal.SIGINT)
        assert join.wait(SECONDS_MAX) == 130, out.read_text()
    finally:
        join.kill()
        join.wait()
    until(lambda: not hosts.processes("host-3"))
    assert not list(Path(hosts.own("host-3")["EAU2_HOME"]).glob("clusters/*/cluster.json"))


def test_machines_join_through_any_node_and_go_again(hosts, data, tmp_path):
    put(hosts, "host-0", "before")

    node = joined(hosts, "host-2", "join", hosts.store)
    assert (node["name"], node["state"], node["head"], node["started"]) == ("host-2", "live", hosts.head, True)
    assert not joined(hosts, "host-2", "join", hosts.store)["started"]
    put(hosts, "host-2", "between")

    with serving(hosts, "host-2", tmp_path) as door:
        refused = eau2(hosts, "host-3", "join", door, "--machine", "host-2", "--timeout", "60")
        assert (refused.returncode, json.loads(refused.stderr)["error"]) == (3, "ClusterUnavailable")
        assert "2 machines" in refused.stderr
        assert hosts.processes("host-3") == []
        assert joined(hosts, "host-3", *as_written("join", door))["through"] == "host-2"
    put(hosts, "host-3", "after")
    assert {read(hosts, host, "before", "between", "after") for host in hosts.names} == {
        whole("before", "between", "after")
    }
    until(lambda: states(hosts) == dict.fromkeys(hosts.names, "live"))
    assert brought(hosts, "host-2", "the head")
    assert brought(hosts, "host-3", "host-2")

    hosts.kill("host-2")  # it was asked, and is not needed
    until(lambda: states(hosts)["host-2"] == "dead")
    assert read(hosts, "host-3", "before", "between", "after") == whole("before", "between", "after")
    with serving(hosts, "host-3", tmp_path) as door:
        joined(hosts, "host-2", "join", door)
    assert [why for why in brought(hosts, "host-2", "host-3") if "host-2 came back" in why]

    with serving(hosts, "host-2", tmp_path) as door:
        assert eau2(hosts, "host-3", *as_written("down")).returncode == 0  # for a while
        assert hosts.processes("host-3") == []
        until(lambda: states(hosts)["host-3"] == "dead")
        joined(hosts, "host-3", "join", door)

        left = eau2(hosts, "host-3", *as_written("leave"))
        assert left.returncode == 0, left.stderr
        assert states(hosts)["host-3"] == "left"
        assert hosts.processes("host-3") == []
        assert read(hosts, "host-2", "before", "between", "after") == whole("before", "between", "after")

        hosts.kill("host-0")
        gone = eau2(hosts, "host-3", "join", door, "--machine", "host-3")
        error = json.loads(gone.stderr)
        assert (gone.returncode, error["error"]) == (3, "ClusterUnavailable")
        assert f"the head, {hosts.head}, cannot be reached" in error["message"]
        assert hosts.processes("host-3") == []

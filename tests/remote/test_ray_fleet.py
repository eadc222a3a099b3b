"""Commands and files on every node of a real Ray cluster, as typed."""

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
from tests.doors.conftest import Served
from tests.monitor.conftest import ADMIN, TOKENS, WRITE
from tests.remote.test_programs import lives
from tests.until import SECONDS_MAX, until

import eau2
from eau2.cli import main
from eau2.doors.server import Doors
from eau2.remote.deployment import Deployment

pytestmark = [pytest.mark.slow]

MACHINES = ["node-0", "node-1", "node-2"]


@pytest.fixture
def address(ray_cluster):
    """A cluster that runs commands."""
    with ray_cluster.connected("fleet") as there:
        there.deploy(Deployment("fleet", f"{ray_cluster.home}/fleet", allow_exec=True))
    return f"ray:{ray_cluster.machines.address}/fleet"


@pytest.fixture
def typed(address, capfd):
    """Run `eau2` in this process; return its exit code, what it printed, and what on standard error."""

    def run(name, *arguments, store=address):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([name, "--store", store, *map(str, arguments)])
        out, error = capfd.readouterr()
        return stop.value.code, out, error

    return run


def runs_of(listed):
    """What was run; another test has left what was refused."""
    return [one for one in json.loads(listed) if not one["refused"]]


def test_every_node_runs_it_gets_files_and_says_who_ran_it(typed, tmp_path, ray_cluster):
    code, out, error = typed("exec", "--", "sh", "-c", "echo I am $EAU2_NODE; test $EAU2_NODE != node-1 || exit 7")
    assert (code, error) == (1, "node-1 | ended with 7\n")
    assert sorted(out.splitlines()) == [f"{name} | I am {name}" for name in MACHINES]

    data = os.urandom(100_000)
    (tmp_path / "data.bin").write_bytes(data)
    assert typed("push", tmp_path / "data.bin", "--to", f"{tmp_path}/{{node}}") == (0, "", "")
    assert [(tmp_path / name / "data.bin").read_bytes() for name in MACHINES] == [data] * 3

    (tmp_path / "who.sh").write_text("#!/bin/sh\necho $1 >> " + str(tmp_path / "order") + "; echo $EAU2_NODE\n")
    script = ("--script", tmp_path / "who.sh", "--nodes", "node-2,node-0", "--rolling", "--json")
    code, out, _ = typed("exec", *script, "--", "a b")
    found = json.loads(out)
    assert (code, [(one["node"], one["state"], one["code"]) for one in found["nodes"]]) == (
        0,
        [("node-2", "ended", 0), ("node-0", "ended", 0)],
    )
    assert [one["line"] for one in found["printed"]] == ["node-2", "node-0"]
    assert (tmp_path / "order").read_text() == "a b\na b\n"

    code, out, _ = typed("exec", "--list", "--rows", 3, "--json")
    listed = runs_of(out)
    assert {(one["user"], one["host"]) for one in listed} == {(getpass.getuser(), socket.gethostname())}
    assert [(one["kind"], one["text"], one["asked"]) for one in listed] == [
        ("script", "who.sh 'a b'", 2),
        ("push", f"push data.bin --to '{tmp_path}/{{node}}'", 3),
        ("command", "sh -c 'echo I am $EAU2_NODE; test $EAU2_NODE != node-1 || exit 7'", 3),
    ]
    assert [node["code"] for node in listed[2]["nodes"]] == [0, 7, 0]
    code, out, _ = typed("exec", "--list", "--rows", 1)
    assert "2/2" in out

    ray_cluster.opener("first")
    first = f"ray:{ray_cluster.machines.address}/first"
    code, _, error = typed("exec", "--", "touch", tmp_path / "made", store=first)
    assert (code, "does not run commands" in error, (tmp_path / "made").exists()) == (3, True, False)


@pytest.mark.long
def test_through_a_server_and_its_page_it_is_run_followed_ended_and_shown_also_after_a_kill(
    typed, address, tmp_path, monkeypatch
):
    monkeypatch.setenv("EAU2_TOKEN", ADMIN)
    with ExitStack() as stack:
        served = Served(stack.enter_context(eau2.open(address)), stack).open(
            Doors(crud_port=None, redis_port=None, udp_port=None, flight_port=0, http_port=0, page=True), tokens=TOKENS
        )
        there = "eau2://{}:{}".format(*served.server.addresses["flight"])
        (tmp_path / "data").write_bytes(b"data")
        assert typed("push", tmp_path / "data", "--to", f"{tmp_path}/{{node}}", store=there) == (0, "", "")
        assert [(tmp_path / name / "data").read_bytes() for name in MACHINES] == [b"data"] * 3
        # A command's parent is the node, of which one ends here: what it had written is there when it is back.
        command = "echo I am $EAU2_NODE; test $EAU2_NODE != node-0 || { sleep 0.5; kill -9 $PPID; sleep 1; }"
        code, out, _ = typed("exec", "--json", "--", "sh", "-c", command, store=there)
        found = json.loads(out)
        assert (code, [one["state"] for one in found["nodes"]]) == (3, ["lost", "ended", "ended"])
        shown = until(
            lambda: (said := typed("exec", "--show", found["run"])[1].splitlines()) and len(said) == 3 and said
        )
        assert shown == [f"{name} | I am {name}" for name in MACHINES]

        client, may = served.http(), {"authorization": f"Bearer {ADMIN}"}
        asked = json.dumps({"script": "echo begun; exec sleep 600"})
        run = client.ask("POST", "/monitor/runs", asked, **may).json["run"]
        output = f"/monitor/runs/{run}/output?node=node-1"
        until(lambda: "begun" in json.dumps(client.get(output, **may).json))
        assert client.ask("POST", f"/monitor/runs/{run}/cancel", **may).status == 200
        until(lambda: not client.get(f"/monitor/runs/{run}", **may).json["running"])
        code, _, error = typed("exec", "--", "touch", tmp_path / "made", store=there)
        assert (code, error) == (0, "")
        monkeypatch.setenv("EAU2_TOKEN", WRITE)
        code, _, error = typed("exec", "--", "rm", tmp_path / "made", store=there)
        assert (code, "takes a token of an admin" in error, (tmp_path / "made").exists()) == (3, True, True)
        listed = until(
            lambda: (said := json.loads(typed("exec", "--list", "--json")[1])) and said[0]["refused"] and said
        )
        assert listed[0]["text"] == f"rm {tmp_path}/made"
        assert [node["state"] for node in listed[2]["nodes"]] == ["cancelled"] * 3


@pytest.mark.long
def test_nodes_die_amid_it_and_are_restarted_one_by_one_and_ctrl_c_ends_it_everywhere(typed, address, tmp_path):
    # A command's parent is the node. This one ends the first of them, and those below hear of nothing.
    command = f"echo $PPID >> {tmp_path}/$EAU2_NODE; test $EAU2_NODE != node-0 || kill -9 $PPID; sleep 1; echo done"
    code, out, error = typed("exec", "--json", "--", "sh", "-c", command)
    assert (code, error) == (3, "")
    assert [one["state"] for one in json.loads(out)["nodes"]] == ["lost", "ended", "ended"]
    assert {one["node"] for one in json.loads(out)["printed"]} >= {"node-1", "node-2"}
    assert [len((tmp_path / name).read_text().split()) for name in MACHINES] == [1] * 3

    # A rolling restart.
    code, out, _ = typed(
        "exec", "--rolling", "--json", "--", "sh", "-c", f"echo $PPID >> {tmp_path}/$EAU2_NODE; kill -9 $PPID"
    )
    assert [one["state"] for one in json.loads(out)["nodes"]] == ["lost"] * 3
    assert code == 0
    pids = {name: (tmp_path / name).read_text().split() for name in MACHINES}
    assert [len(each) for each in pids.values()] == [2] * 3
    code, out, _ = typed("exec", "--json", "--", "sh", "-c", "echo $PPID")
    now = {one["node"]: one["line"] for one in json.loads(out)["printed"]}
    assert (code, [now[name] in pids[name] for name in MACHINES]) == (0, [False] * 3)

    # Ctrl-C.
    command = ["exec", "--store", address, "--", "sh", "-c", f"sleep 600 & echo $! > {tmp_path}/sleep-$EAU2_NODE; wait"]
    with subprocess.Popen([sys.executable, "-m", "eau2.cli", *command], stderr=subprocess.PIPE) as caller:
        written = [tmp_path / f"sleep-{name}" for name in MACHINES]
        until(lambda: all(path.exists() and path.read_text().strip() for path in written))
        caller.send_signal(signal.SIGINT)
        _, said = caller.communicate(timeout=SECONDS_MAX)
    assert (caller.returncode, said) == (130, b"")
    until(lambda: not any(lives(int(path.read_text())) for path in written))
    (last,) = runs_of(typed("exec", "--list", "--rows", 1, "--json")[1])
    assert [one["state"] for one in last["nodes"]] == ["cancelled"] * 3

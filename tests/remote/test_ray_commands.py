"""The commands of a cluster, as typed: what was stored outlives processes, the head, and the whole cluster."""

import json
import os
import signal
import subprocess
import sys

import pytest
from tests.remote.listening import listened
from tests.until import until

from eau2.remote import launch

pytestmark = [pytest.mark.slow, pytest.mark.long]


def typed(*arguments):
    """Run `eau2` in a process of its own; return the document that it prints."""
    ran = subprocess.run([sys.executable, "-m", "eau2.cli", *arguments], capture_output=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EAU2_HOME", str(tmp_path))
    yield tmp_path
    launch.down()


def test_a_cluster_comes_up_loses_its_head_comes_up_and_goes(home):
    up = typed("up", "--nodes", "3", "--data-dir", str(home / "here"), "--json")
    assert (up["nodes"], up["started"], up["replicas"]) == (["node-0", "node-1", "node-2"],) * 2 + (2,)
    cluster = launch.find()
    assert {address for address, _ in listened(cluster.processes())} == {"127.0.0.1"}
    typed("put", "greeting", "hello", "--store", "ray:", "--json")
    nodes = typed("nodes", "--json")
    assert [(node["name"], node["state"], node["trouble"]) for node in nodes] == [
        (name, "live", "") for name in cluster.machines
    ]
    assert sum(node["keys"] for node in nodes) == 2  # copies

    (head,) = cluster.processes("gcs_server")
    os.kill(head, signal.SIGKILL)
    until(lambda: not cluster.runs)
    assert typed("up", "--json")["started"] == ["node-0", "node-1", "node-2"]
    assert typed("get", "greeting", "--store", "ray:", "--json")["text"] == "hello"

    assert typed("drain", "node-2", "--json") == {"node": "node-2", "state": "left"}
    assert [node["state"] for node in typed("nodes", "--json")] == ["live", "live", "left"]
    whys = [change["why"] for change in typed("nodes", "--history", "--json")]
    assert whys[0].startswith(
        "a coordinator was started anew"
    )  # on another head than the one that kept those of before
    assert "node-2 is to leave" in whys
    assert typed("up", "--json")["started"] == []
    assert typed("get", "greeting", "--store", "ray:", "--json")["text"] == "hello"

    again = launch.find()
    assert typed("down", "--json")["processes"] > 3
    assert again.processes() == []
    assert not again.folder.exists()
    assert (home / "here" / "node-0").exists()


def test_a_process_ends_though_the_cluster_is_frozen(home):
    typed("up", "--nodes", "1", "--json")
    code = """if True:
        import os, signal, eau2
        from eau2.remote import launch
        store = eau2.open("ray:")
        store.put("a", b"1")
        for process in launch.find().processes():
            os.kill(process, signal.SIGSTOP)
        try:
            store.put("b", b"2")
        except eau2.OutcomeUnknown as error:
            print(error)"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert "node-0 did not say in 10 s whether it was done" in ran.stdout
    assert (ran.returncode, ran.stderr.count("the process ends without taking leave")) == (1, 1)

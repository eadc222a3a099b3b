"""What is acknowledged is there, and nothing hangs, whichever process on Ray is killed or frozen meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tests.on_ray.processes import coordinator_process, node_process
from tests.until import until

from eau2.errors import ClusterUnavailable, Eau2Error, InvalidOption, NodeUnavailable, StoreUnusable, VersionsDiffer
from eau2.remote import launch
from eau2.remote.address import own_version

pytestmark = [pytest.mark.slow, pytest.mark.long]

KEYS = 20
LONGEST_SECONDS_MAX = 60.0  # against hangs: a write is given up after 10


class Writing:
    """A thread that puts numbers, each higher than the one before, and knows what was acknowledged."""

    def __init__(self, store):
        self._store = store
        self.acknowledged = {}
        self.errors = []
        self.longest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join(LONGEST_SECONDS_MAX)
        assert not self._thread.is_alive()

    def _run(self):
        number = 0
        while not self._ended.is_set():
            number += 1
            key, begun = f"key/{number % KEYS}", time.monotonic()
            try:
                self._store.put(key, b"%d" % number)
                self.acknowledged[key] = number
            except Exception as error:
                self.errors.append(error)
            self.longest = max(self.longest, time.monotonic() - begun)

    def more(self):
        """Return when every key was put once more."""
        seen = dict(self.acknowledged)
        until(lambda: sum(seen.get(key) != number for key, number in dict(self.acknowledged).items()) == KEYS)

    def check(self, store):
        """Everything acknowledged is there, or what was put later; whatever failed said why, in time."""
        found = {key: int(value) for key, value in store.get_many(list(self.acknowledged)).items()}
        assert {key: number for key, number in self.acknowledged.items() if found[key] < number} == {}
        assert [error for error in self.errors if not isinstance(error, Eau2Error)] == []
        assert self.longest < LONGEST_SECONDS_MAX


@pytest.fixture
def opener(ray_cluster):
    """A cluster with all its machines, whatever happened to them before."""
    launch.up("tests")
    opener = ray_cluster.deployed("lasting")
    yield opener
    launch.up("tests")
    ray_cluster.deployed("lasting")  # it is whole again


@pytest.fixture
def store(opener):
    with opener() as store:
        yield store


@pytest.fixture
def machines(ray_cluster):
    return ray_cluster.machines


def test_a_node_process_is_killed_during_puts(store, machines):
    with Writing(store) as writing:
        killed = node_process(machines, "node-1")
        os.kill(killed, signal.SIGKILL)
        writing.more()
        until(lambda: node_process(machines, "node-1") not in (None, killed))  # by Ray
        writing.more()
    writing.check(store)
    # Ray may have started it anew before its lease was over.
    whys = [epoch.why for epoch in store.epochs()]
    assert [why for why in whys if why.startswith(("node-1 died: no lease", "node-1 is to be brought up to date"))]
    until(lambda: {member.state for member in store.members()} == {"live"})


def _kept(cluster, data):
    from eau2.remote.ray import _kept  # Ray takes half a second to import

    return _kept(cluster, data)


def _told(store):
    """Return the epochs; None while there is no coordinator to tell them."""
    with contextlib.suppress(NodeUnavailable):
        return store.epochs()
    return None


def test_the_coordinator_is_killed_during_puts(store, machines):
    with Writing(store) as writing:
        before = store.epochs()
        until(lambda: str(before[-1].epoch).encode() in (_kept("lasting", None) or b""))
        killed = coordinator_process(machines)
        os.kill(killed, signal.SIGKILL)
        until(lambda: coordinator_process(machines) not in (None, killed))
        writing.more()
    writing.check(store)
    after = until(lambda: _told(store))  # what the head has kept, and since
    assert set(before) & set(after)
    assert after[-1] not in before
    assert [epoch.why for epoch in after if epoch.why.startswith("a coordinator was started anew")]


def test_a_machine_is_killed_during_puts_and_comes_back(store, machines, ray_cluster):
    with Writing(store) as writing:
        os.kill(machines.raylet("node-2"), signal.SIGKILL)
        writing.more()
        assert launch.up("tests")[1] == ["node-2"]
        writing.more()
    ray_cluster.deployed("lasting")  # whole
    writing.check(store)
    assert store.check().faults == ()


def test_a_machine_is_frozen_during_puts(store, machines, ray_cluster):
    frozen = machines.raylet("node-2")
    with ray_cluster.connected("lasting") as there, Writing(store) as writing:
        os.kill(frozen, signal.SIGSTOP)
        try:
            until(lambda: "node-2" not in there.machines())  # Ray has given it up
            writing.more()
        finally:
            os.kill(frozen, signal.SIGCONT)
        until(lambda: machines.raylet("node-2") != frozen)  # it ends itself, as it was given up
        launch.up("tests")
        writing.more()
    writing.check(store)


def test_a_driver_is_killed_during_puts(store, opener):
    code = """if True:
        import itertools, sys
        from tests.ray_cluster import open_at
        store = open_at(*sys.argv[1:])
        for number in itertools.count():
            store.put(f"driver/{number % 10}", b"%d" % number)
            print(number, flush=True)"""
    with subprocess.Popen([sys.executable, "-c", code, *opener.args], stdout=subprocess.PIPE, text=True) as driver:
        for _ in range(50):
            last = int(driver.stdout.readline())
        driver.kill()
        last = max([last, *map(int, driver.stdout.read().split("\n")[:-1])])
    assert max(int(value) for value in store.get_many(store.keys("driver/")).values()) in (last, last + 1)


def test_a_driver_that_handles_sigterm_has_the_time_that_it_needs(opener):
    code = """if True:
        import signal, sys, time
        from tests.ray_cluster import open_at
        def end(*_):
            time.sleep(5)  # Ray would abort it after three seconds
            sys.exit(7)
        signal.signal(signal.SIGTERM, end)
        with open_at(*sys.argv[1:]):
            print("open", flush=True)
            while True:
                time.sleep(0.1)"""
    command = [sys.executable, "-c", code, *opener.args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stdout.readline() == "open\n"
        driver.terminate()
        _, said = driver.communicate(timeout=LONGEST_SECONDS_MAX)
    assert (driver.returncode, said) == (7, "")


def test_what_is_not_deployed_is_said_to_be_absent(ray_cluster):
    import eau2

    ray_cluster.opener("first")
    with pytest.raises(ClusterUnavailable, match=r"has no cluster 'absent': it has .*`eau2 deploy` puts one there"):
        eau2.open(f"ray:{ray_cluster.machines.address}/absent")


def test_clusters_of_one_ray_cluster_do_not_see_each_other(ray_cluster):
    with ray_cluster.opener("first")() as first, ray_cluster.opener("second")() as second:
        first.put("a", b"1")
        assert second.keys() == []


def test_what_a_cluster_is_made_with_is_not_changed_by_opening_or_deploying_it(ray_cluster):
    import eau2
    from eau2.remote.deployment import Deployment

    address = f"ray:{ray_cluster.machines.address}/first"
    for options in ({"nodes": 2}, {"replicas": 3}, {"flush": "power"}):
        with pytest.raises(InvalidOption, match="it was made with"):
            eau2.open(address, **options)
    ray_cluster.opener("first")
    with ray_cluster.connected("first") as there, pytest.raises(InvalidOption, match="deployed with replicas=2, not 3"):
        there.deploy(Deployment("first", f"{ray_cluster.home}/first", replicas=3))


def test_what_never_came_to_be_may_be_deployed_otherwise(ray_cluster):
    from eau2.remote.deployment import Deployment

    data = f"{ray_cluster.home}/third"
    with (
        ray_cluster.connected("third") as there,
        pytest.raises(InvalidOption, match="replicas=4 is more than the machines that Ray has: node-0, node-1, node-2"),
    ):
        there.deploy(Deployment("third", data, replicas=4), timeout_seconds=0.5)
    with (
        ray_cluster.connected("third") as there,
        pytest.raises(ClusterUnavailable, match=r"not whole after 10 s: /proc/nowhere/node-0 cannot"),
    ):
        there.deploy(Deployment("third", "/proc/nowhere"), timeout_seconds=10.0)
    with ray_cluster.connected("third") as there, pytest.raises(InvalidOption, match="replicas=4 is more"):
        there.deploy(Deployment("third", data, replicas=4), timeout_seconds=0.5)
    with ray_cluster.connected("third") as there:
        there.deploy(Deployment("third", data))
        assert [node.state for node in there.nodes()] == ["live"] * 3
        with pytest.raises(InvalidOption, match="deployed with replicas=2, not 3"):
            there.deployed["third"] = Deployment("third", data).options()
            there.deploy(Deployment("third", data, replicas=3))


@pytest.mark.parametrize(
    ("placed", "said"),
    [
        ({}, {}),  # the coordinator was just started anew
        ({"a": "store"}, {}),  # and so was the node
        ({"a": ""}, {}),
        ({"a": ""}, {"node-a": "store"}),
    ],
)
def test_who_does_not_know_of_a_store_yet_is_no_sign_that_there_is_none(ray_cluster, placed, said):
    from eau2.remote.deploying import RayCluster
    from eau2.remote.deployment import Placed
    from eau2.remote.membership import NodeStatus

    cluster = RayCluster.__new__(RayCluster)
    cluster.machines = lambda: ["a"]
    answers = {
        "placed": {
            "coordinator": {machine: Placed(f"node-{machine}", "", store=has) for machine, has in placed.items()}
        },
        "status": {name: NodeStatus(name, has, 0, serves=False, refused="") for name, has in said.items()},
    }
    cluster._asked = lambda names, method: answers[method]
    assert not cluster._has_no_store()


def test_a_machine_with_another_eau2_or_another_machines_data_gets_no_node(ray_cluster):
    from eau2.remote.deployment import Placed
    from eau2.remote.ray import CoordinatorProcess

    process = CoordinatorProcess.__new__(CoordinatorProcess)
    process._placed = {"a": Placed("node-a", "/data", version="0.0.1")}
    with pytest.raises(VersionsDiffer, match=r"eau2 is 0\.0\.1 there, and "):
        process._require_own(process._placed["a"], "a", {"a": {}})
    ours = Placed("node-a", "/data", version=own_version())
    with pytest.raises(StoreUnusable, match=r"/data has the node 'node-a', as a has .*--labels=eau2-machine=NAME"):
        process._require_own(ours, "b", {"a": {}, "b": {}})
    process._require_own(ours, "a", {"a": {}})

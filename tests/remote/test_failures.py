"""Nodes and coordinators are killed, frozen and started again: nothing acknowledged is lost, and nobody waits for long.

Each node is a process of its own.
"""

import threading
import time

import numpy as np
import pytest
from tests.remote.clusters import Cluster, ProcessCluster, is_settled
from tests.until import SECONDS_MAX, until

from eau2.cluster.keys import DECISION
from eau2.cluster.peer import NotServing, Unreachable
from eau2.cluster.runtime import finish
from eau2.errors import KeyMissing, NodeUnavailable, OutcomeUnknown
from eau2.ingest.writer import FrameWriter
from eau2.remote import transport
from eau2.remote.transport import COORDINATOR, ThreadRuntime
from eau2.store.nodes import Kind, Write

pytestmark = pytest.mark.slow
NAMES = ["node-0", "node-1", "node-2"]
ANSWER_SECONDS = 5.0


@pytest.fixture
def cluster(processes, tmp_path):
    with ProcessCluster(processes, tmp_path, NAMES, grace_seconds=0.5) as cluster:
        yield cluster


@pytest.fixture
def store(cluster):
    with cluster.opener()() as store:
        yield store


def values(prefix, count=60):
    return {f"{prefix}/{number}": b"%d" % number for number in range(count)}


def put_all(store, some):
    for key, value in some.items():
        store.put(key, value)


def home(store, key):
    return store.node.view.homes(key)[0]


def is_whole(store):
    """Whether the coordinator says so, now."""
    try:
        view = ThreadRuntime(store.transport, threading.Event()).coordinator().view().__await__().send(None)
    except StopIteration as answer:
        view = answer.value
    except Unreachable:
        return False
    return view.live == view.base == tuple(NAMES) and not view.fell


class Writer:
    """Puts numbers under a few keys until it is told to stop; what was acknowledged must be there at the end."""

    def __init__(self, opener, name):
        self._opener, self._name = opener, name
        self.acknowledged, self.unsure, self.failures, self.wrong = {}, {}, 0, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        with self._opener() as store:
            number = 0
            while not self._stop.is_set():
                number += 1
                key = f"{self._name}/{number % 10}"
                try:
                    if number % 10 == 9:
                        store.put(key, {"n": np.full(1000, number)})
                    else:
                        store.put(key, b"%d" % number)
                    self.acknowledged[key] = number
                    self.unsure.pop(key, None)
                except OutcomeUnknown:
                    self.unsure[key] = number
                except NodeUnavailable:
                    self.failures += 1
                time.sleep(0.005)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(SECONDS_MAX)
        assert not self._thread.is_alive()

    def check(self, store):
        for key, number in self.acknowledged.items():
            found = store.get(key)
            found = int(found) if isinstance(found, bytes) else found.to_arrow().column("n").to_pylist()[0]
            assert found == number or found == self.unsure.get(key), key


def test_what_was_acknowledged_survives_the_death_and_return_of_each_node(cluster, store):
    with Writer(cluster.opener(), "a") as first, Writer(cluster.opener(), "b") as second:
        for name in NAMES:
            before = dict(first.acknowledged)
            cluster.kill(name)
            until(lambda: name not in store.nodes or store.get_many([]))  # noqa: B023
            until(lambda: len(first.acknowledged) and first.acknowledged != before)  # noqa: B023
            cluster.start(name)
            until(lambda: is_whole(store))
    first.check(store)
    second.check(store)
    assert store.check().faults == ()


def test_reads_and_writes_go_on_without_a_node_that_died_and_soon(cluster, store):
    some = values("k")
    put_all(store, some)
    store.put("frame", {"n": np.arange(1_000_000)})
    cluster.kill(home(store, "k/0"))
    began = time.monotonic()
    assert store.get_many(some) == some
    assert store.frame("frame").to_arrow().column("n").to_numpy().sum() == 499_999_500_000
    put_all(store, values("more"))
    assert time.monotonic() - began < SECONDS_MAX


def test_a_frozen_node_is_given_up_and_comes_back(cluster, store):
    some = values("k")
    put_all(store, some)
    frozen = home(store, "k/0")
    cluster.freeze(frozen)
    assert store.get_many(some) == some
    store.put("k/0", b"newer")
    assert frozen not in store.nodes
    cluster.thaw(frozen)
    until(lambda: is_whole(store))
    assert store.get("k/0") == b"newer"
    assert store.check().faults == ()


def test_a_frame_is_put_without_a_home_that_is_frozen_as_soon_as_the_cluster_goes_on_without_it(
    cluster, store, monkeypatch
):
    monkeypatch.setitem(transport._SECONDS, "stage", 10 * SECONDS_MAX)
    store.put("frame", {"n": [0]})
    frozen = store.node.view.homes("frame")[1]
    cluster.freeze(frozen)
    began = time.monotonic()
    store.put("frame", {"n": np.arange(100_000)})
    assert time.monotonic() - began < SECONDS_MAX
    cluster.thaw(frozen)
    until(lambda: is_whole(store))
    assert store.frame("frame").to_arrow().column("n").to_numpy().sum() == 4_999_950_000
    assert store.check().faults == ()


def test_without_copies_an_error_names_the_key_and_the_node_in_bounded_time(processes, tmp_path):
    with (
        ProcessCluster(processes, tmp_path, NAMES, replicas=1) as cluster,
        cluster.opener(answer_seconds=ANSWER_SECONDS)() as store,
    ):
        some = values("k", 20)
        put_all(store, some)
        store.put("frame", {"n": np.arange(10)})
        lost = home(store, "k/0")
        cluster.kill(lost)
        with pytest.raises(NodeUnavailable, match=f"k/0.*{lost}"):
            store.get("k/0")
        for key, value in some.items():
            if store.node.view.base_homes(key)[0] != lost:
                assert store.get(key) == value
        cluster.start(lost)
        until(lambda: is_whole(store))
        assert store.get_many(some) == some


def test_several_keys_are_put_together_or_not_at_all_also_when_one_of_them_is_in_doubt(tmp_path):
    with Cluster(tmp_path, NAMES, replicas=1) as cluster, cluster.opener(answer_seconds=ANSWER_SECONDS)() as store:
        keys = [f"k/{number}" for number in range(60)]
        here, there, lost = NAMES
        doubtful, beside = [key for key in keys if home(store, key) == here][:2]
        elsewhere = next(key for key in keys if home(store, key) == there)
        batch = next(f"batch/{number}" for number in range(60) if home(store, f"{DECISION}batch/{number}") == lost)
        runtime = ThreadRuntime(store.transport, threading.Event())
        store.put_many(dict.fromkeys(keys, b"old"))

        async def reserve():
            """As a driver does that is killed before anybody decides."""
            await runtime.peer(here).reserve(store.node.view.epoch, batch, [Write(doubtful, Kind.BYTES, b"new")])

        finish(reserve())
        cluster.stop(lost)
        until(lambda: lost not in store.nodes)
        for several in ([elsewhere, doubtful], [beside, doubtful]):
            with pytest.raises(NodeUnavailable, match=f"{doubtful}.*in a write of several keys; down: {lost}"):
                store.put_many(dict.fromkeys(several, b"new"))
        assert store.get_many([beside, elsewhere]) == {beside: b"old", elsewhere: b"old"}


def test_frames_that_are_put_together_are_put_though_a_node_could_not_just_then(tmp_path, monkeypatch):
    with Cluster(tmp_path, NAMES, grace_seconds=0.2) as cluster, cluster.opener()() as store:
        frames = {f"f/{number}": {"n": np.arange(number, 1000)} for number in range(20)}
        last = max(home(store, key) for key in frames)
        member, refused = cluster.running[last].server._membership.member, []
        reserve = member.reserve

        async def reserve_the_second_time(*arguments):
            if not refused:
                refused.append(arguments)
                raise NotServing
            return await reserve(*arguments)

        monkeypatch.setattr(member, "reserve", reserve_the_second_time)
        store.put_many(frames)
        assert refused
        for key, frame in frames.items():
            assert store.frame(key).to_arrow().column("n").to_pylist() == frame["n"].tolist()
        store.delete_many(list(frames))
        until(lambda: sum(store.node.nodes[name].statistics().chunks for name in NAMES) == 0)


def test_who_deletes_or_reads_one_key_hears_nothing_of_another_that_cannot_be_had(processes, tmp_path):
    with (
        ProcessCluster(processes, tmp_path, NAMES, replicas=1) as cluster,
        cluster.opener(answer_seconds=ANSWER_SECONDS)() as store,
    ):
        frames = [f"frame/{number}" for number in range(20)]
        lost = home(store, frames[0])
        here = [key for key in frames if home(store, key) != lost]
        for key in [frames[0], *here[:2]]:
            store.put(key, {"n": np.arange(10)}, node=home(store, key))
            assert store.frame(key).rows == 10  # it stays open
        cluster.kill(lost)
        with pytest.raises(NodeUnavailable, match=f"{frames[0]}.*{lost}"):
            store.get(frames[0])
        assert store.delete(here[0])
        assert store.frame(here[1]).to_arrow().num_rows == 10
        assert store.put(here[0], {"n": np.arange(10)}, node=home(store, here[0]))


def test_the_coordinator_may_die_and_start_again(cluster, store):
    with Writer(cluster.opener(), "a") as writer:
        for _ in range(2):
            cluster.kill(COORDINATOR)
            time.sleep(0.3)
            cluster.start(COORDINATOR)
            before = dict(writer.acknowledged)
            until(lambda: writer.acknowledged != before)  # noqa: B023
    writer.check(store)
    with cluster.opener()() as other:
        writer.check(other)


def test_a_frozen_coordinator_that_thaws_after_another_was_started_grants_no_lease(cluster, store):
    put_all(store, values("k"))
    cluster.freeze(COORDINATOR)
    old = cluster.running.pop(COORDINATOR)
    epoch = store.node.view.epoch
    cluster.start(COORDINATOR)
    try:
        until(lambda: store.put("k/0", b"newer") and store.node.view.epoch > epoch)
    finally:
        old.kill()
        old.join()
    assert store.get("k/0") == b"newer"


def test_a_cluster_that_is_stopped_and_started_has_everything(cluster):
    some = values("k")
    with cluster.opener()() as store:
        put_all(store, some)
        store.put("frame", {"n": np.arange(100_000)})
        version = store.version("frame")
    for name in list(cluster.running):
        cluster.stop(name)
    for name in [*NAMES, COORDINATOR]:
        cluster.start(name)
    with cluster.opener(answer_seconds=SECONDS_MAX)() as store:
        assert store.get_many(some) == some
        assert store.frame("frame").to_arrow().column("n").to_numpy().sum() == 4_999_950_000
        assert store.version("frame") == version
        store.put("k/0", b"newer")
        assert store.check().faults == ()


def test_a_cluster_that_is_killed_and_started_has_everything_that_was_acknowledged(cluster):
    with cluster.opener()() as store:
        some = values("k")
        put_all(store, some)
    for name in list(cluster.running):
        cluster.kill(name)
    for name in [*NAMES, COORDINATOR]:
        cluster.start(name)
    with cluster.opener(answer_seconds=SECONDS_MAX)() as store:
        assert store.get_many(some) == some


def test_a_frame_outlives_the_driver_that_put_it(cluster, processes):
    process = processes.Process(target=put_frame, args=[cluster.opener()])
    process.start()
    process.join(SECONDS_MAX)
    assert process.exitcode == 0
    with cluster.opener()() as store:
        assert store.frame("frame").to_arrow().column("n").to_pylist() == list(range(1000))


def put_frame(opener):
    with opener() as store:
        store.put("frame", {"n": np.arange(1000)})


def test_of_two_drivers_each_sees_at_once_what_the_other_wrote(cluster):
    with cluster.opener()() as one, cluster.opener()() as other:
        for number in range(50):
            one.put("k", b"%d" % number)
            assert other.get("k") == b"%d" % number
            other.put("f", {"n": [number]})
            assert one.frame("f").to_arrow().column("n").to_pylist() == [number]
        other.delete("k")
        with pytest.raises(KeyMissing):
            one.get("k")


def test_a_node_that_joins_later_gets_its_share(cluster, store):
    put_all(store, values("k"))
    store.put("frame", {"n": np.arange(1000)})
    cluster.start("node-3")
    until(lambda: is_settled(store, 4))
    some = values("more")
    put_all(store, some)
    assert any(home(store, key) == "node-3" for key in some)
    assert store.get_many(some) == some
    store.rebalance()
    assert store.check().faults == ()


def test_a_driver_that_saw_all_nodes_go_sees_them_return(cluster, store):
    store.put("before", b"kept")
    for name in NAMES:
        cluster.kill(name)
    until(lambda: store.nodes == ())
    with pytest.raises(NodeUnavailable, match="no node is live"):
        store.put("frame", {"n": np.arange(1000)})
    for name in NAMES:
        cluster.start(name)
    until(lambda: store.nodes == tuple(NAMES))
    assert store.get("before") == b"kept"
    store.put("frame", {"n": np.arange(1000)})
    assert store.frame("frame").to_arrow().column("n").to_numpy().sum() == 499_500


def test_what_a_slow_node_did_not_take_of_a_frame_it_has_within_seconds(processes, tmp_path, monkeypatch):
    """It is frozen for less than it would be dead after: no epoch begins, and surplus went long ago."""
    names = [*NAMES, "node-3"]
    with (
        ProcessCluster(processes, tmp_path, names, grace_seconds=0.2, lease_seconds=8.0) as cluster,
        cluster.opener()() as store,
    ):
        until(lambda: is_settled(store, 4))
        store.put("warm", {"n": range(1000)})
        time.sleep(5.0)  # looks are minutes apart from now on
        monkeypatch.setitem(transport._SECONDS, "stage", 0.3)  # not 20 s, which the freeze would have to take
        view = store.node.view
        key = next(f"frame {number}" for number in range(99) if "node-1" not in view.homes(f"frame {number}"))
        table = {"n": np.random.default_rng(1).random(2_000_000)}
        monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", 2 << 20)
        cluster.freeze("node-1")
        store.put(key, table)
        cluster.thaw("node-1")
        thawed = time.monotonic()
        until(lambda: store.check().faults == ())
        assert time.monotonic() - thawed < 10.0
        assert store.frame(key).chunks > 4
        assert store.node.view.epoch == view.epoch

"""What a cluster says of its nodes, while they die and return and the coordinator is started anew."""

import time

import pytest
from tests.remote.clusters import LEASE_SECONDS, Cluster, is_settled, unavailable
from tests.until import until

from eau2.cluster.repair import Repair
from eau2.errors import NodeUnavailable
from eau2.remote.transport import COORDINATOR

pytestmark = pytest.mark.slow
NAMES = ["node-0", "node-1", "node-2"]


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path, NAMES, grace_seconds=0.2) as cluster:
        yield cluster


@pytest.fixture
def store(cluster):
    with cluster.opener()() as store:
        until(lambda: is_settled(store, 3))
        yield store


def state(store, name):
    return next(member for member in store.members() if member.name == name)


def wait_for(store, name, word):
    return until(lambda: next((each for each in store.members() if (each.name, each.state) == (name, word)), None))


def test_who_is_silent_is_suspected_then_dead_and_returns(cluster, store):
    cluster.stop("node-1")
    suspected = wait_for(store, "node-1", "suspected")
    assert suspected.source.startswith("coordinator: not responding, no lease renewed for ")
    dead = wait_for(store, "node-1", "dead")
    assert dead.since - suspected.since == pytest.approx(LEASE_SECONDS, abs=0.5)
    assert dead.source.startswith("coordinator: node-1 died: no lease renewed for 1.")
    cluster.start("node-1")
    wait_for(store, "node-1", "live")
    whys = [epoch.why for epoch in store.epochs()]
    assert whys[0] == "the store was made"
    assert dead.source.removeprefix("coordinator: ") in whys
    assert "node-1 came back: it renews its lease again" in whys
    assert "node-1 is up to date, and live" in whys


@pytest.fixture
def looks(monkeypatch):
    """When repair has looked."""
    found, step = [], Repair.step

    async def noted(repair):
        found.append(time.monotonic())
        return await step(repair)

    monkeypatch.setattr(Repair, "step", noted)
    return found


def test_a_cluster_in_which_nothing_is_missing_is_not_gone_through_again_until_surplus_may_go(tmp_path, looks):
    with Cluster(tmp_path, NAMES, grace_seconds=4.0) as cluster, cluster.opener()() as store:
        until(lambda: is_settled(store, 3))
        store.put_many({f"key-{number}": b"1" for number in range(100)})
        until(lambda: time.monotonic() - looks[-1] > 1.5)  # in between they are half a second apart
        found_whole = len(looks)
        until(lambda: len(looks) >= found_whole + len(NAMES))  # what is surplus by then goes


@pytest.mark.parametrize("grace_seconds", [0.2, 1000.0])
def test_what_is_written_whole_is_not_looked_through_before_surplus_may_go_nor_after(tmp_path, looks, grace_seconds):
    with Cluster(tmp_path, NAMES, grace_seconds=grace_seconds) as cluster, cluster.opener()() as store:
        until(lambda: is_settled(store, 3) and looks and time.monotonic() - looks[-1] > 2.0)
        found_whole = len(looks)
        store.put_many({f"key-{number}": b"1" for number in range(100)})
        store.put("frame", {"n": range(1000)})
        time.sleep(2.0)
        assert len(looks) == found_whole
        assert store.check().faults == ()


def test_who_is_new_joins_and_says_so(cluster, store):
    cluster.start("node-3")
    until(lambda: len(store.members()) == 4)
    wait_for(store, "node-3", "live")
    whys = [epoch.why for epoch in store.epochs()]
    assert "node-3 was added" in whys
    assert "node-3 is up to date, and live" in whys


def test_without_the_coordinator_nobody_can_say_and_one_started_anew_says_that_it_was(cluster, store):
    cluster.stop(COORDINATOR)
    assert "coordinator does not answer" in unavailable(store.members)
    assert "coordinator does not answer" in unavailable(store.epochs)
    cluster.start(COORDINATOR)
    with cluster.opener(answer_seconds=60.0)() as again:
        until(lambda: {member.state for member in again.members()} == {"live"})
        (first, *_) = again.epochs()
        assert first.why.startswith("a coordinator was started anew, and goes on from epoch ")


class Keeping(Cluster):
    """Its coordinators hand down why the epochs came."""

    history = None

    def arguments(self, name):
        directory, options = super().arguments(name)
        return (directory, options | {"kept": self.kept}) if name == COORDINATOR else (directory, options)

    def kept(self, data):
        self.history = data or self.history
        return self.history


def test_why_the_epochs_came_outlives_the_coordinator_where_that_is_kept(tmp_path):
    with Keeping(tmp_path, NAMES[:2]) as cluster, cluster.opener(answer_seconds=60.0)() as store:
        until(lambda: is_settled(store, 2))
        before = store.epochs()
        until(lambda: cluster.history and b"the store was made" in cluster.history)
        cluster.stop(COORDINATOR)
        cluster.start(COORDINATOR)
        until(lambda: answers(store.epochs))
        after = store.epochs()
        assert after[: len(before)] == before
        assert after[len(before)].why.startswith("a coordinator was started anew, and goes on from epoch ")
        cluster.stop(COORDINATOR)
        cluster.history = b"no history"  # of another version, say
        cluster.start(COORDINATOR)
        until(lambda: answers(store.epochs))
        assert store.epochs()[0].why.startswith("a coordinator was started anew")


def answers(ask):
    try:
        return ask()
    except NodeUnavailable:
        return None


def test_a_machine_that_was_brought_in_is_seen_to_join_and_by_whom(cluster, store):
    by = "brought in by ann@dev through node-1 at 2026-11-22 21:00:00Z"
    cluster.options["brought"] = by
    cluster.start("node-3")
    wait_for(store, "node-3", "live")
    assert f"node-3 was added: {by}" in [epoch.why for epoch in store.epochs()]

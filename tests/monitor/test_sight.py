"""What is seen of a cluster while a node, or the coordinator, is frozen: who does not respond, and what others say."""

import time

import pytest
from tests.remote.clusters import ProcessCluster
from tests.until import until

from eau2.monitor import sight as seeing
from eau2.monitor.documents import overview
from eau2.monitor.history import History
from eau2.monitor.sight import Sight
from eau2.remote.transport import COORDINATOR

pytestmark = pytest.mark.slow

NAMES = ("n0", "n1", "n2")


@pytest.fixture
def cluster(processes, tmp_path):
    with ProcessCluster(processes, tmp_path, NAMES) as made:
        yield made


@pytest.fixture
def store(cluster):
    with cluster.opener()() as opened:
        opened.put_many({f"k{number}": b"value" for number in range(20)})
        yield opened


def looked(sight):
    """Look; return the time that took, the states and the troubles."""
    began = time.monotonic()
    seen = sight.look()
    return time.monotonic() - began, {member.name: member.state for member in seen.members}, seen.troubles


def test_a_node_that_is_frozen_is_seen_not_to_respond_and_hides_no_other(cluster, store):
    sight = Sight(store)
    first = until(lambda: len((seen := sight.look()).reports) == 3 and seen.totals.get("keys") == 20 and seen)
    assert first.troubles == ()
    cluster.freeze("n1")
    until(sight.changed)
    now = sight.now()
    assert {member.name: member.state for member in now.members}["n1"] in ("suspected", "dead")
    said = overview(now, History(), (0, 0, 0.0))
    assert all(node["values"] for node in said["nodes"]), "what was known of all is still shown"
    took, *_ = looked(sight)
    assert took < 5 * seeing.PATIENCE_SECONDS
    until(lambda: looked(sight)[1]["n1"] == "dead")
    assert overview(sight.now(), History(), (0, 0, 0.0))["repair"]["counting"], "not said to have all copies too early"
    until(lambda: (seen := sight.look()).totals["copies_missing"] == 0 and not seen.troubles)
    cluster.thaw("n1")
    until(lambda: set(looked(sight)[1].values()) == {"live"})


@pytest.mark.long
def test_without_the_coordinator_the_figures_go_on_and_it_is_said_what_is_old(cluster, store, monkeypatch):
    monkeypatch.setattr(seeing, "LATE_SECONDS", 0.5)
    sight = Sight(store)
    until(lambda: len(sight.look().reports) == 3)
    cluster.freeze(COORDINATOR)
    troubles = until(lambda: looked(sight)[2])
    assert any(trouble.startswith("who is a member as of ") for trouble in troubles)
    assert set(looked(sight)[1].values()) == {"live"}
    cluster.thaw(COORDINATOR)
    until(lambda: not looked(sight)[2])

"""A node that is silent is suspected, then dead; one of which messages are lost is suspected at times, and lives."""

import pytest
from tests.cluster.detection import Watched, detect

from eau2.cluster.coordinator import DRIFT, LEASE_SECONDS, SUSPECTED_SHARE

LOOK_SECONDS = 0.4  # of the coordinator and of the test, together


@pytest.mark.slow
def test_a_network_that_loses_one_message_of_twenty_costs_next_to_no_node_its_membership_in_an_hour():
    found = detect(3, nodes=3, loss=0.05, kills=6)
    assert found.false_deaths <= 1  # four renewals are lost one after the other 0.05 times an hour and node
    assert 10 <= found.false_suspicions <= 100  # two renewals are lost one after the other 18 times an hour and node
    assert max(found.suspected_seconds) <= LEASE_SECONDS * SUSPECTED_SHARE + LOOK_SECONDS
    assert max(found.dead_seconds) <= LEASE_SECONDS * (1 + DRIFT) + LOOK_SECONDS


def test_nobody_is_suspected_where_nothing_is_lost_and_who_is_killed_is_suspected_before_it_is_dead():
    found = detect(1, nodes=3, loss=0.0, seconds=120.0, kills=6)
    assert (found.false_suspicions, found.false_deaths) == (0, 0)
    for suspected, dead in zip(found.suspected_seconds, found.dead_seconds, strict=True):
        assert LEASE_SECONDS * (SUSPECTED_SHARE - 1 / 4) <= suspected < dead - LEASE_SECONDS / 4


def test_who_stands_still_for_less_than_a_lease_is_suspected_then_live_again_in_the_same_epoch():
    watched = Watched(5, nodes=3, loss=0.0)
    watched.world.processes["node-1"].freeze(LEASE_SECONDS * 3 / 4)
    watched.pass_time(10.0)
    assert [(name, state) for _, name, state in watched.said] == [("node-1", "suspected"), ("node-1", "live")]
    epochs = watched.world.processes["coordinator"].serves.epochs.changes
    assert [epoch.why for epoch in epochs] == ["the store was made"]


def test_who_stands_still_for_longer_is_suspected_then_dead_then_returning_then_live():
    watched = Watched(5, nodes=3, loss=0.0)
    watched.world.processes["node-1"].freeze(LEASE_SECONDS * 2)
    watched.pass_time(20.0)
    states = ["suspected", "dead", "returning", "live"]
    assert [(name, state) for _, name, state in watched.said] == [("node-1", state) for state in states]
    whys = [epoch.why for epoch in watched.world.processes["coordinator"].serves.epochs.changes]
    assert whys[1].startswith("node-1 died: no lease renewed for 2.")
    assert whys[-2:] == ["node-1 is up to date, and live", "everything has all its copies"]
    assert "node-1 came back: it renews its lease again" in whys

"""A node that is silent is suspected, then dead; one of which messages are lost is suspected at times, and lives."""

import pytest
from tests.cluster.detection import detect

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

"""When the coordinator takes a member for dead, and when itself for late."""

import asyncio

import pytest

from eau2.cluster.coordinator import LEASE_SECONDS, Coordinator
from eau2.cluster.view import State, first_view

NAMES = ["a", "b"]


class Clock:
    """What the coordinator needs of a `Runtime`."""

    def __init__(self):
        self.seconds = 100.0

    def now(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def coordinator(clock):
    return Coordinator(clock, first_view(NAMES, 2))


def pass_time(clock, coordinator, seconds, renewing=()):
    """Let time pass, in which the coordinator looks round as often as it should, and some members renew."""
    end = clock.seconds + seconds
    while clock.seconds < end:
        clock.seconds += LEASE_SECONDS / 8
        renew(coordinator, renewing)
        coordinator.tick()


def renew(coordinator, names):
    for name in names:
        asyncio.run(coordinator.renew(name, f"first {name}", coordinator.current.epoch, whole=True))


def test_who_is_silent_for_a_lease_is_dead(clock, coordinator):
    pass_time(clock, coordinator, LEASE_SECONDS, renewing=["a"])
    assert coordinator.current.live == ("a", "b")
    pass_time(clock, coordinator, LEASE_SECONDS / 4, renewing=["a"])
    assert coordinator.current.live == ("a",)
    assert coordinator.current.state("b") == State.DEAD


@pytest.mark.parametrize("how", ["tick", "suspect"])
def test_a_coordinator_that_was_stalled_hears_first_what_was_sent_to_it(clock, coordinator, how):
    pass_time(clock, coordinator, LEASE_SECONDS, renewing=NAMES)
    clock.seconds += 100 * LEASE_SECONDS
    if how == "suspect":  # somebody asks before anybody renews
        asyncio.run(coordinator.suspect("a"))
    coordinator.tick()
    assert coordinator.current.live == ("a", "b")
    renew(coordinator, ["a"])
    pass_time(clock, coordinator, LEASE_SECONDS / 2, renewing=["a"])
    assert coordinator.current.live == ("a",)


@pytest.mark.parametrize("knew", [True, False])
def test_who_was_started_anew_joins_in_a_later_epoch_also_if_the_coordinator_was_too(clock, coordinator, knew):
    if knew:
        renew(coordinator, NAMES)
    else:
        coordinator = Coordinator.recovered(clock, [coordinator.current])
    before = coordinator.current.epoch
    view = asyncio.run(coordinator.renew("b", "second b", 0, whole=False))
    assert (view.state("b"), view.epoch) == (State.JOINING, before + 1)
    view = asyncio.run(coordinator.renew("b", "second b", 0, whole=False))
    assert view.epoch == before + 1
    view = asyncio.run(coordinator.renew("b", "third b", 0, whole=False))
    assert (view.state("b"), view.epoch) == (State.JOINING, before + 2)

"""When the coordinator takes a member for dead, or suspects it, and when itself for late; what it tells of that."""

import asyncio
import json

import pytest

from eau2.cluster.coordinator import LEASE_SECONDS, Coordinator
from eau2.cluster.epochs import EPOCHS_MAX, NAMES_MAX, Epochs
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
    return Coordinator(clock, first_view(NAMES, 2), clock=clock.now)


def states(coordinator):
    return {member.name: member.state for member in coordinator.members()}


def whys(coordinator):
    return [change.why for change in coordinator.epochs.changes]


def pass_time(clock, coordinator, seconds, renewing=()):
    """Let time pass, in which the coordinator looks round as often as it should, and some members renew."""
    end = clock.seconds + seconds
    while clock.seconds < end:
        clock.seconds += LEASE_SECONDS / 8
        renew(coordinator, renewing)
        coordinator.tick()


def renew(coordinator, names, *, whole=True):
    for name in names:
        asyncio.run(coordinator.renew(name, f"first {name}", coordinator.current.epoch, whole=whole))


def test_who_brought_a_member_in_is_said_when_it_joins_and_once(clock, coordinator):
    by = "brought in by ann@dev through a at 2026-11-22 21:00:00Z"
    coordinator.brought("c", by)
    asyncio.run(coordinator.renew("c", "first c", 0, whole=False))
    assert whys(coordinator)[-1] == f"c was added: {by}"
    assert coordinator.members()[-1].source == f"coordinator: c was added: {by}"
    coordinator.brought("c", by)  # its process was started anew, by Ray, on the machine that was brought in
    asyncio.run(coordinator.renew("c", "second c", 0, whole=False))
    assert whys(coordinator)[-1] == "the process of c ended and was started anew"
    pass_time(clock, coordinator, 2 * LEASE_SECONDS, renewing=["a", "b"])
    again = by.replace("21:00", "22:00")
    coordinator.brought("c", again)
    asyncio.run(coordinator.renew("c", "third c", 0, whole=False))
    assert whys(coordinator)[-1] == f"c came back: it renews its lease again, {again}"


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


def test_who_leaves_waits_for_a_member_that_was_whole_and_is_short_of_copies_since(clock):
    coordinator = Coordinator(clock, first_view(["a", "b", "c"], 2), clock=clock.now)
    coordinator.drain("c")
    renew(coordinator, ["a"])
    renew(coordinator, ["a"], whole=False)
    renew(coordinator, ["b", "c"])
    coordinator.tick()
    assert coordinator.current.state("c") == State.LEAVING
    renew(coordinator, ["a"])
    coordinator.tick()
    assert coordinator.current.state("c") == State.IDLE


def test_who_is_drained_just_after_it_has_joined_leaves(clock, coordinator):
    asyncio.run(coordinator.renew("c", "first c", 0, whole=False))
    renew(coordinator, ["c"])
    assert coordinator.current.state("c") == State.LIVE
    coordinator.drain("c")  # before all have seen that everything has its copies with it
    renew(coordinator, ["a", "b", "c"])
    coordinator.tick()
    renew(coordinator, ["c"])
    assert coordinator.current.state("c") == State.LEFT


def test_who_is_started_anew_when_it_has_only_to_know_that_it_leaves_has_left(clock):
    coordinator = Coordinator(clock, first_view(["a", "b", "c"], 2), clock=clock.now)
    coordinator.drain("c")
    renew(coordinator, ["a", "b", "c"])
    coordinator.tick()
    assert coordinator.current.state("c") == State.IDLE
    for _ in range(2):  # its directory has that view already, so it will never say an epoch
        asyncio.run(coordinator.renew("c", "second c", 0, whole=False))
    assert coordinator.current.state("c") == State.LEFT


def test_who_missed_two_renewals_is_suspected_and_live_again_when_it_renews_the_next(clock, coordinator):
    pass_time(clock, coordinator, LEASE_SECONDS, renewing=NAMES)
    heard = clock.seconds
    pass_time(clock, coordinator, LEASE_SECONDS / 2, renewing=["a"])  # one is missing, and the next is due
    assert states(coordinator) == {"a": "live", "b": "live"}
    pass_time(clock, coordinator, LEASE_SECONDS / 4, renewing=["a"])
    assert states(coordinator) == {"a": "live", "b": "suspected"}
    _, suspected = coordinator.members()
    assert suspected.since == heard
    assert suspected.source == "coordinator: not responding, no lease renewed for 1.5 s"
    renew(coordinator, ["b"])
    assert states(coordinator) == {"a": "live", "b": "live"}
    assert coordinator.current.epoch == 1  # nobody has done anything about it
    assert whys(coordinator) == ["the store was made"]


def test_who_was_suspected_and_stays_silent_is_dead_and_later_returning_and_live(clock, coordinator):
    pass_time(clock, coordinator, LEASE_SECONDS * 2, renewing=["a"])
    _, dead = coordinator.members()
    assert (dead.state, dead.since) == ("dead", 100.0 + 2.25)  # at the first look after 2.1 s
    assert dead.source == "coordinator: b died: no lease renewed for 2.2 s"
    renew(coordinator, ["b"])
    assert states(coordinator) == {"a": "live", "b": "returning"}
    renew(coordinator, ["b"])
    assert states(coordinator) == {"a": "live", "b": "live"}
    assert whys(coordinator) == [
        "the store was made",
        "b died: no lease renewed for 2.2 s",
        "everything has all its copies",
        "b came back: it renews its lease again",
        "b is up to date, and live",
    ]
    assert [(change.epoch, change.members) for change in coordinator.epochs.changes] == [
        (1, ("a", "b")),
        (2, ("a",)),
        (3, ("a",)),
        (4, ("a",)),
        (5, ("a", "b")),
    ]


def test_nobody_is_suspected_by_a_coordinator_that_was_stalled_itself(clock, coordinator):
    pass_time(clock, coordinator, LEASE_SECONDS, renewing=NAMES)
    clock.seconds += 100 * LEASE_SECONDS
    assert states(coordinator) == {"a": "live", "b": "live"}
    coordinator.tick()
    assert states(coordinator) == {"a": "live", "b": "live"}
    pass_time(clock, coordinator, LEASE_SECONDS / 8, renewing=["a"])
    assert states(coordinator) == {"a": "live", "b": "live"}  # it may have been heard of, had it been listened to


def test_what_happens_to_members_is_told_in_words(clock, coordinator):
    renew(coordinator, NAMES)
    asyncio.run(coordinator.renew("c", "first c", 0, whole=False))
    assert states(coordinator) == {"a": "live", "b": "live", "c": "joining"}
    renew(coordinator, ["c"])
    asyncio.run(coordinator.renew("b", "second b", 0, whole=False))
    assert states(coordinator) == {"a": "live", "b": "returning", "c": "live"}
    renew(coordinator, ["a", "c"])
    asyncio.run(coordinator.renew("b", "second b", coordinator.current.epoch, whole=True))
    coordinator.drain("a")
    assert states(coordinator) == {"a": "leaving", "b": "live", "c": "live"}
    coordinator.advance()
    assert whys(coordinator)[1:] == [
        "c was added",
        "c is up to date, and live",
        "b is to be brought up to date: the process of b ended and was started anew",
        "b is up to date, and live",
        "a is to leave",
        "chunks are moved to where they belong now",
    ]


def test_a_coordinator_that_was_started_anew_goes_on_from_the_epochs_it_is_given(clock, coordinator):
    pass_time(clock, coordinator, LEASE_SECONDS * 2, renewing=["a"])
    kept = Epochs.of(json.loads(json.dumps(coordinator.epochs.document())))
    assert kept.changes == coordinator.epochs.changes
    assert kept.members == coordinator.epochs.members
    again = Coordinator.recovered(clock, [coordinator.current], epochs=kept, clock=clock.now)
    assert whys(again)[1:] == [
        "b died: no lease renewed for 2.2 s",
        "everything has all its copies",
        "a coordinator was started anew, and goes on from epoch 3",
    ]
    assert again.members() == coordinator.members()


def test_the_history_is_bounded_by_epochs_and_by_the_names_in_them(clock, coordinator):
    for _ in range(EPOCHS_MAX + 10):
        coordinator.advance()
    changes = coordinator.epochs.changes
    assert (len(changes), changes[-1].epoch) == (EPOCHS_MAX, coordinator.current.epoch)
    many = Coordinator(clock, first_view([f"node-{number}" for number in range(1000)], 2), clock=clock.now)
    for _ in range(50):
        many.advance()
    assert len(many.epochs.changes) == NAMES_MAX // 1000

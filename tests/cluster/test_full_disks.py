"""A member whose disk is full holds up nobody: what the others have is read, written and brought up to date."""

from __future__ import annotations

import pytest
from tests.cluster.many import Many
from tests.cluster.simulation import World

from eau2.errors import DiskFull
from eau2.store.nodes import RANK_BITS, Kind, Record, Write

NAMES = ["node-0", "node-1", "node-2"]
KEYS = [f"k{number}" for number in range(30)]


@pytest.fixture
def many():
    return Many(World(1), NAMES, replicas=2, look_seconds=1.0)  # what is erased here is to be found soon


@pytest.fixture
def client(many):
    return many.client("client")


def ask(many, client, coroutine):
    """Return what `coroutine` does in the client's process; raise what it raises."""

    async def caught():
        try:
            return await coroutine, None
        except Exception as error:
            return None, error

    world = many.world
    task = world.processes[client.name].spawn(caught(), "a question")
    world.run(world.now + 30, lambda: task.ended.done)
    assert task.ended.done, "it does not end"
    value, error = task.ended.value
    if error is not None:
        raise error
    return value


def put(many, client, keys, value):
    for key in keys:
        (outcome,) = ask(many, client, client.write([Write(key, Kind.BYTES, value)]))
        if isinstance(outcome, Exception):
            raise outcome


def values(many, client):
    return {key: entry.payload for key, entry in ask(many, client, client.get(KEYS)).items()}


def state(many, name):
    return max((each.view for each in members(many)), key=lambda view: view.epoch).state(name).name


def members(many):
    return [many.world.processes[name].serves for name in NAMES if many.world.processes[name].alive]


def test_what_the_others_have_is_served_when_a_member_has_no_room_for_its_copy(many, client):
    view = many.first
    elsewhere = [key for key in KEYS if "node-0" not in view.homes(key)]
    put(many, client, KEYS, b"1")
    many.nodes["node-0"].disk_full = True
    put(many, client, elsewhere, b"2")  # the last write of its home, which is told to the other when that is dead
    many.kill("node-1")
    many.world.run(many.world.now + 10)
    assert state(many, "node-1") == "DEAD"
    expected = dict.fromkeys(KEYS, b"1") | dict.fromkeys(elsewhere, b"2")
    assert values(many, client) == expected
    assert len(elsewhere) > 3
    many.start("node-1")
    many.world.run(many.world.now + 10)
    assert state(many, "node-1") == "LIVE"
    many.kill("node-2")
    many.world.run(many.world.now + 10)
    assert values(many, client) == expected
    with pytest.raises(DiskFull, match="node-0"):
        put(many, client, elsewhere, b"3")
    many.nodes["node-0"].disk_full = False
    put(many, client, elsewhere, b"4")
    assert values(many, client) == expected | dict.fromkeys(elsewhere, b"4")


def test_what_was_adopted_is_told_of_also_when_its_sender_has_gone_on(many, client):
    """Who had no room for it may be the first home in the next epoch."""
    put(many, client, KEYS, b"1")
    many.kill("node-2")
    many.world.run(many.world.now + 10)
    member = many.world.processes["node-1"].serves
    view = member.view
    key = next(key for key in KEYS if view.homes(key)[0] == "node-0")
    late = Record(key, (view.epoch - 1) << RANK_BITS | 7, Kind.BYTES, b"2")
    for number, records in enumerate(([late], []), 10**6):
        ask(many, client, member.replicate(view.epoch, "node-0/order", number, records, ()))
    assert late in ask(many, client, member.collect(view, "node-0")).records


def test_a_full_disk_does_not_keep_other_members_from_their_copies(many, client):
    many.kill("node-2")
    many.world.run(many.world.now + 10)
    put(many, client, KEYS, b"1")
    many.start("node-2")
    many.world.run(many.world.now + 10)
    assert state(many, "node-2") == "LIVE"
    many.nodes["node-0"].disk_full = True
    many.nodes["node-1"].erase(KEYS)  # as if lost; what is left is on the full one and on the third
    view = members(many)[0].view
    missing = [key for key in KEYS if "node-1" in view.homes(key)[1:]]
    many.nodes["node-0"].disk_full = False
    for key in (key for key in KEYS if "node-0" in view.homes(key)[1:]):
        many.nodes["node-0"].erase([key])
    many.nodes["node-0"].disk_full = True
    many.world.run(many.world.now + 10)
    there = many.nodes["node-1"].records(KEYS)
    assert missing
    assert set(missing) <= set(there)


def test_a_member_that_returns_to_a_full_disk_first_forgets_what_it_should_not_have(many, client):
    put(many, client, KEYS, b"1")
    many.kill("node-1")
    many.world.run(many.world.now + 10)
    many.nodes["node-1"].disk_full = True
    for key in KEYS:
        ask(many, client, client.write([Write(key, Kind.BYTES, b"2")]))
    many.start("node-1")
    many.world.run(many.world.now + 10)
    assert state(many, "node-1") == "JOINING"
    assert set(values(many, client).values()) == {b"2"}
    many.nodes["node-1"].disk_full = False
    many.world.run(many.world.now + 10)
    assert state(many, "node-1") == "LIVE"
    assert set(values(many, client).values()) == {b"2"}

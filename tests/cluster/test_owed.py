"""A put that a home of a chunk did not answer is acknowledged, and the copy is made at once: in the simulated world."""

from __future__ import annotations

import random

import pytest
from tests.cluster.many import Many, misplaced
from tests.cluster.simulation import World
from tests.cluster.workload import Workload

from eau2.cluster.repair import Repair
from eau2.store.nodes import Expect

NAMES = ["node-0", "node-1", "node-2", "node-3"]
KEYS = [f"frame {number}" for number in range(8)]
HOUR = 3600.0


@pytest.fixture
def looks(monkeypatch):
    """Which member's repair has looked, one after the other."""
    found, step = [], Repair.step

    async def noted(repair):
        found.append(repair._member.name)
        return await step(repair)

    monkeypatch.setattr(Repair, "step", noted)
    return found


@pytest.fixture
def many():
    """In a cluster whose surplus is gone, so that nothing is looked at for an hour."""
    many = Many(World(1), NAMES, replicas=2, look_seconds=HOUR)
    many.world.run(60.0)
    return many


def put_frames(many, keys=KEYS):
    """Put a frame under each of `keys`; return which were acknowledged."""
    work = Workload(many, random.Random(1), keys=keys, together=[], frames=keys)
    client = many.client("client")

    async def put():
        for key in keys:
            await work._write(client, [(key, Expect.ANYTHING)])

    task = many.world.processes["client"].spawn(put(), "puts")
    many.world.run(many.world.now + 60.0, lambda: task.ended.done)
    assert task.ended.done
    return [part.key for operation in work.finished() for part in operation.parts]


def faults(many):
    return misplaced(many.nodes, many.world.processes["coordinator"].serves.current)


def test_what_a_slow_node_did_not_take_it_has_within_seconds_of_its_return(many):
    many.world.processes["node-1"].freeze(1.2)  # less than it would be dead after
    assert put_frames(many) == KEYS
    assert many.world.processes["coordinator"].serves.current.epoch == 1
    many.world.run(many.world.now + 3.0)
    assert faults(many) == []


def test_it_is_tried_until_the_node_answers(many):
    """Here only the coordinator hears of it for a while: it stays live, and no epoch begins."""
    links = [(other, "node-1") for other in [*NAMES, "client"] if other != "node-1"]
    key = next(key for key in KEYS if "node-1" not in many.first.homes(key))
    many.world.cuts.update(links)
    assert put_frames(many, [key]) == [key]
    many.world.run(many.world.now + 100.0)
    assert faults(many) != []
    many.world.cuts.subtract(links)
    many.world.run(many.world.now + 3.0)
    assert faults(many) == []
    assert many.world.processes["coordinator"].serves.current.epoch == 1


def test_a_cluster_in_which_nothing_is_missing_is_not_looked_through(many, looks):
    assert put_frames(many) == KEYS
    many.world.run(many.world.now + HOUR / 2)
    assert looks == []


def test_when_it_is_whole_again_it_is_not_looked_through_either(many, looks):
    many.world.processes["node-1"].freeze(1.2)
    put_frames(many)
    many.world.run(many.world.now + 10.0)
    assert looks
    assert len(looks) < 60
    looks.clear()
    many.world.run(many.world.now + HOUR / 2)
    assert looks == []

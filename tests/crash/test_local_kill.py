"""kill -9 of a writer on several nodes: what was acknowledged is on all its homes, and nothing outlives the writer."""

from __future__ import annotations

import functools

import pytest
from tests.crash.test_kill import SEED, Crashes

import eau2
from eau2.cluster.keys import DECISION
from eau2.store.nodes import Kind
from eau2.values.key import HOLD, held_key, hold_key


def left_on(nodes) -> list[str]:
    """Holds without a frame, decisions of batches that are done, keys still noted as in flight, staged files."""
    left = []
    for name in nodes.members():
        node = nodes.at(name)
        rows = [row for row in node.listing("", 10**6) if row[2] != Kind.DELETED]
        holds = [(key, held_key(key)) for key, _, kind in rows if kind == Kind.HOLD]
        frames = {key: nodes.at(nodes.homes(key)[0]).records([key]).get(key) for _, key in holds}
        whole = {hold_key(key, frame.rank) for key, frame in frames.items() if frame and frame.kind == Kind.SPREAD}
        left += [f"{name}: {hold!r}" for hold, _ in holds if hold not in whole]
        left += [f"{name}: {key!r}" for key, _, _ in rows if key.startswith(DECISION)]
        left += [f"{lock}" for lock in node.directory.glob("*.lock") if any(lock.read_bytes()[:8])]
        left += [f"{path}" for path in (node.directory / "staging").rglob("*/*") if path.name != "lock"]
        if len(list((node.directory / "staging").iterdir())) > 1:
            left.append(f"{name}: staging of dead processes")
        assert all(key.startswith(HOLD) for key, _ in holds)
    return left


class CrashesOfSeveral(Crashes):
    def __init__(self, folder, processes, nodes, replicas):
        super().__init__(folder, processes, "process")
        self.opener = functools.partial(eau2.open, str(self.folder), nodes=nodes, replicas=replicas)

    def look(self, store, chance) -> None:
        assert left_on(store._nodes) == []  # at once: before anything is written or read
        assert self.expected.settle(store) == []
        assert store.check().faults == ()
        self._hold(store, chance)


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "replicas"), [(3, 2), (3, 1), (2, 2)])
def test_a_killed_writer_loses_nothing_acknowledged_and_leaves_nothing_on_several_nodes(
    tmp_path, processes, nodes, replicas
):
    crashes = CrashesOfSeveral(tmp_path, processes, nodes, replicas)
    for number in range(8):
        crashes.round(SEED + number)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moments", [10, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize(("nodes", "replicas"), [(3, 2), (4, 1)])
def test_a_writer_on_several_nodes_killed_at_many_moments(tmp_path, processes, nodes, replicas, moments):
    crashes = CrashesOfSeveral(tmp_path, processes, nodes, replicas)
    for number in range(moments):
        try:
            crashes.round(SEED + 1000 + number)
        except BaseException as error:
            error.add_note(f"round {number}")
            raise
    assert crashes.deeds > 5 * moments

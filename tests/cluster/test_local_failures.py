"""Nodes of one process that die and return, one or all copies at once, while threads read and write."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.crash.test_local_kill import left_on
from tests.until import SECONDS_MAX, until

import eau2
from eau2.cluster.directory import ClusterNodes
from eau2.cluster.peer import NotServing, Request
from eau2.cluster.runtime import finish
from eau2.errors import NodeUnavailable, OutcomeUnknown
from eau2.frame.tables import FrameTables
from eau2.query.engine import Engine
from eau2.store.nodes import RANK_BITS, Kind, Record, Write
from eau2.store.store import Store
from eau2.values.key import held_key

ROOT = Path(__file__).resolve().parents[2]
THREADS, KEYS_EACH = 3, 8
KEYS = [f"{thread}/{number}" for thread in range(THREADS) for number in range(KEYS_EACH)]


@pytest.fixture
def opened(tmp_path):
    """Make a store whose nodes can be taken away; surplus copies go soon."""
    stores = []

    def open_store(nodes: int, replicas: int, grace_seconds: float = 0.2) -> Store:
        cluster = ClusterNodes(tmp_path / "store", nodes=nodes, replicas=replicas, grace_seconds=grace_seconds)
        stores.append(Store(cluster, FrameTables(Engine(None)), name="store"))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def number_of(value) -> int | None:
    if value is None or isinstance(value, bytes):
        return None if value is None else int(value)
    return value.to_arrow()["n"][0].as_py()


class Load:
    """Threads that write keys of their own and know what may be under each, and readers who see versions only grow."""

    def __init__(self, store: Store):
        self.store, self.stop, self.wrong = store, threading.Event(), []
        self.done = 0
        self.known: dict[str, set[int | None]] = {key: {None} for key in KEYS}
        works = [(self._write, thread) for thread in range(THREADS)] + [(self._read, 0), (self._read, 1)]
        self.threads = [threading.Thread(target=self._run, args=work) for work in works]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(SECONDS_MAX)
            assert not thread.is_alive()

    def look(self) -> None:
        for key, possible in self.known.items():
            assert number_of(self.store.get(key, default=None)) in possible, key

    def _run(self, work, number) -> None:
        try:
            work(number)
        except Exception as error:
            self.wrong.append(error)

    def _write(self, thread: int) -> None:
        chance, own = random.Random(thread), [key for key in KEYS if key.startswith(f"{thread}/")]
        for number in range(10**9):
            if self.stop.is_set():
                return
            keys = chance.sample(own, chance.choice([1, 1, 2]))
            value = {"n": [number] * chance.choice([1, 1000])} if chance.random() < 0.3 else b"%d" % number
            try:
                if chance.random() < 0.4:
                    found = number_of(self.store.get(keys[0], default=None))
                    assert found in self.known[keys[0]], f"{keys[0]}: {found} and not {self.known[keys[0]]}"
                    self.known[keys[0]] = {found}
                    continue
                self.store.put_many(dict.fromkeys(keys, value)) if len(keys) > 1 else self.store.put(keys[0], value)
                self.known.update((key, {number}) for key in keys)
                self.done += 1
            except OutcomeUnknown:
                self.known.update((key, self.known[key] | {number}) for key in keys)
            except NodeUnavailable:
                time.sleep(0.01)

    def _read(self, seed: int) -> None:
        chance, seen = random.Random(seed), dict.fromkeys(KEYS, 0)
        while not self.stop.is_set():
            key = chance.choice(KEYS)
            try:
                entry = self.store.node.get(key)
                if chance.random() < 0.05:
                    self.store.get_many(KEYS, default=None)
                    self.store.keys()
            except NodeUnavailable:
                time.sleep(0.01)
                continue
            version = 0 if entry is None else entry.version
            assert version >= seen[key], f"{key} goes back from {seen[key]} to {version}"
            seen[key] = version


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "replicas", "away"), [(3, 2, 1), (4, 2, 2), (5, 3, 2), (3, 1, 1), (4, 3, 3)], ids=str
)
def test_nodes_die_and_return_and_nothing_acknowledged_is_lost(opened, nodes, replicas, away):
    """Also when all copies of some keys are away at once: those are refused until they are back."""
    store = opened(nodes, replicas)
    chance = random.Random(nodes * 100 + replicas * 10 + away)
    down: list[str] = []
    with Load(store) as load:
        for _ in range(30):
            time.sleep(chance.uniform(0.01, 0.15))
            if len(down) >= away or (down and chance.random() < 0.5):
                store._nodes.restore(down.pop(chance.randrange(len(down))))
            elif len(store.nodes) > 1:
                down.append(chance.choice(store.nodes))
                store._nodes.fail(down[-1])
            if load.wrong:
                break
        for name in down:
            store._nodes.restore(name)
        until(lambda: load.wrong or (store._nodes.is_whole and load.done > 20))
    assert load.wrong == []
    assert load.done > 20
    load.look()
    assert store.check().faults == ()
    until(lambda: store._nodes.local.is_tidy)
    assert left_on(store._nodes) == []
    for name in store.nodes:  # what is surplus is dropped
        assert [key for key in store._nodes.at(name).keys("") if name not in store._nodes.homes(key)] == []
    load.look()
    assert store.check().faults == ()


def test_keys_whose_homes_are_all_down_are_refused_by_name_and_come_back(opened):
    store = opened(3, 1)
    keys = [f"k{number}" for number in range(60)]
    store.put_many(dict.fromkeys(keys, b"1"))
    lost = [key for key in keys if store._nodes.homes(key) == ("node-1",)]
    kept = [key for key in keys if key not in lost]
    store._nodes.fail("node-1")
    time.sleep(0.3)  # a few rounds of repair, after which nothing may be given up
    for work in (
        lambda: store.get(lost[0]),
        lambda: store.put(lost[0], b"2"),
        lambda: store.delete(lost[0]),
        lambda: store.put_many({lost[0]: b"2", kept[0]: b"2"}),
        lambda: store.get_many(keys),
    ):
        with pytest.raises(NodeUnavailable, match="node-1"):
            work()
    assert set(store.get_many(kept).values()) == {b"1"}
    store._nodes.restore("node-1")
    until(lambda: store._nodes.is_whole)
    assert set(store.get_many(keys).values()) == {b"1"}
    assert store.check().faults == ()


def test_a_node_dies_and_its_copies_are_made_again_on_others(opened):
    store = opened(4, 2)
    store.put_many({f"k{number}": b"%d" % number for number in range(300)})
    for number in range(6):
        store.put(f"f{number}", {"n": range(number, 1000)})
    for name in ("node-0", "node-3"):  # one after the other: two copies survive only if they are made again
        store._nodes.fail(name)
        until(lambda: store._nodes.is_whole)
    assert store.nodes == ("node-1", "node-2")
    assert len(store.get_many([f"k{number}" for number in range(300)])) == 300
    assert [store.frame(f"f{number}").rows for number in range(6)] == [1000 - number for number in range(6)]
    assert store.check().faults == ()


def test_who_was_a_home_for_a_while_lets_go_of_a_frame_that_is_still_there(opened):
    store = opened(4, 2)
    keys = [f"frame {number}" for number in range(8)]
    store.put_many({key: {"n": [1]} for key in keys})
    nodes = store._nodes

    def holders():
        kept = [row[0] for name in nodes.members() for row in nodes.at(name).listing("", 100) if row[2] == Kind.HOLD]
        return [sum(held_key(hold) == key for hold in kept) for key in keys]

    until(lambda: nodes.local.is_tidy)
    assert holders() == [2] * 8
    nodes.fail("node-1")
    until(lambda: nodes.is_whole)
    assert holders() == [2] * 8, "what node-1 has is on others too"
    nodes.restore("node-1")
    until(lambda: nodes.local.is_tidy)
    assert holders() == [2] * 8
    for number, key in enumerate(keys):
        store.delete(key) if number % 2 else store.put(key, {"n": [2]})
    assert left_on(nodes) == []


def test_a_chunk_whose_home_went_while_the_frame_was_put_has_its_copies_soon(opened, monkeypatch):
    """All was looked through after the node had gone, and before there was the frame."""
    store = opened(4, 2)
    local = store._nodes.local
    until(lambda: local.is_tidy)
    write = local.client.write

    async def after_a_death(writes):
        staged = {copy.node for each in writes for copy in each.chunks}
        store._nodes.fail(min(staged - {store._nodes.homes("frame")[0]}))
        until(lambda: local.is_tidy)
        local.client.learn(local.view)
        return await write(writes)

    monkeypatch.setattr(local.client, "write", after_a_death)
    store.put("frame", {"n": range(1000)})
    until(lambda: store.check().faults == ())
    until(lambda: local.is_tidy)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 3])
def test_ctrl_c_at_any_moment_leaves_every_write_whole_and_no_lock_held(tmp_path, nodes):
    command = [sys.executable, "-m", "tests.crash.interrupted", str(tmp_path / "store"), str(nodes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX)
    assert done.stdout == "right\n", done.stderr
    with eau2.open(tmp_path / "store") as store:
        assert store.check().faults == ()
        assert nodes == 1 or left_on(store._nodes) == []


def test_what_a_killed_process_left_in_flight_on_a_node_that_returns_undoes_nothing_that_others_wrote(opened):
    """The node may have missed writes of keys that are lost until all their homes are back: it does not know."""
    store = opened(4, 3)
    local = store._nodes.local
    tending, local.tend_once = local.tend_once, lambda: 60.0  # nothing is repaired but when we say so
    key = next(key for key in KEYS if store._nodes.homes(key)[0] == "node-0")
    first, second, third = store._nodes.homes(key)
    store.put(key, b"1")
    store._nodes.fail(first)
    lock = local.order_lock(first, "order")
    finish(lock.acquire())
    lock.note([key])  # as a process leaves it that was killed while it wrote there
    lock.release()
    store._nodes.fail(second)
    store._nodes.restore(second)
    until(lambda: tending() is not None and second in store.nodes)
    store.put(key, b"2")
    for other in KEYS:  # what members remember of late is of these
        if other != key:
            store.put(other, b"1")
    store._nodes.fail(third)  # now each home has been away at some moment
    store._nodes.restore(first)
    store._nodes.restore(third)
    until(lambda: tending() is not None and store._nodes.is_whole)
    assert store.get(key) == b"2"


def test_a_thread_that_is_still_in_a_node_that_was_taken_away_writes_nothing_there(opened):
    store = opened(3, 2)
    local = store._nodes.local
    key = next(key for key in KEYS if store._nodes.homes(key)[0] == "node-0")
    store.put(key, b"1")
    gone, epoch = local.members["node-0"], local.view.epoch
    store._nodes.fail("node-0")
    with pytest.raises(NotServing):
        finish(gone.order.write(epoch, Request("late", 1, epoch), [Write(key, Kind.BYTES, b"2")]))
    with pytest.raises(NotServing):
        finish(gone.order.adopt(gone.view, [Record(key, 99 << RANK_BITS, Kind.BYTES, b"3")]))
    assert local.order_lock("node-0", "order").left_over() == ()
    store._nodes.restore("node-0")
    until(lambda: store._nodes.is_whole)
    assert store.get(key) == b"1"

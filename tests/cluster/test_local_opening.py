"""Directories of several nodes as they may be found: with more or fewer nodes asked for, parts lost, parts damaged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from tests.until import SECONDS_MAX

import eau2
from eau2.errors import Corrupt, InvalidOption, NodeUnavailable, OutcomeUnknown, StoreBusy, StoreClosed

pytestmark = pytest.mark.slow  # each opens many nodes

FRAME = pa.table({"n": np.arange(50_000)})


def fill(store, keys: int = 200) -> None:
    store.put_many({f"k{number}": b"%d" % number for number in range(keys)})
    store.put("frame", FRAME)


def is_filled(store, keys: int = 200) -> bool:
    values = store.get_many([f"k{number}" for number in range(keys)], default=None)
    return list(values.values()) == [b"%d" % number for number in range(keys)] and store.frame(
        "frame"
    ).to_arrow().equals(FRAME)


def wait_until_whole(store) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not store._nodes.is_whole:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path):
    with eau2.open(tmp_path / "store", nodes=3) as store:
        fill(store)
    return tmp_path / "store"


def test_nodes_need_not_be_named_again(folder):
    with eau2.open(folder) as store:
        assert store.nodes == ("node-0", "node-1", "node-2")
        assert is_filled(store)


def test_more_nodes_join_and_take_their_share(folder):
    with eau2.open(folder, nodes=5) as store:
        assert is_filled(store)
        wait_until_whole(store)
        assert store.nodes == tuple(f"node-{number}" for number in range(5))
        assert is_filled(store)
        assert store.check().faults == ()
        assert min(store._nodes.at(name).statistics().keys for name in store.nodes) > 0


@pytest.mark.parametrize("options", [{"nodes": 2}, {"nodes": 1}, {"replicas": 3}, {"nodes": 3, "replicas": 1}])
def test_fewer_nodes_or_other_copies_are_refused(folder, options):
    with pytest.raises(InvalidOption):
        eau2.open(folder, **options)
    with eau2.open(folder) as store:
        assert is_filled(store)


def test_a_store_of_one_node_becomes_one_of_several(tmp_path):
    with eau2.open(tmp_path / "store") as store:
        fill(store)
        with pytest.raises(StoreBusy):
            eau2.open(tmp_path / "store", nodes=4)
        assert is_filled(store)
    with eau2.open(tmp_path / "store", nodes=4) as store:
        assert is_filled(store)
        wait_until_whole(store)
        assert is_filled(store)
        assert store.check().faults == ()


def test_a_node_whose_directory_is_gone_is_made_anew_from_the_copies(folder):
    for name in ("node-1", "node-0"):
        shutil.rmtree(folder / name)
        with eau2.open(folder) as store:
            assert is_filled(store)
            wait_until_whole(store)
            assert store.nodes == ("node-0", "node-1", "node-2")
            assert is_filled(store)
            assert store.check().faults == ()


def test_what_has_no_copy_left_is_an_error_and_not_forgotten(folder, tmp_path):
    shutil.move(folder / "node-1", tmp_path / "one")
    shutil.move(folder / "node-2", tmp_path / "two")
    for _ in range(2):
        with pytest.raises(Corrupt, match="node-1 and node-2"):
            eau2.open(folder)
    for name, kept in (("node-1", "one"), ("node-2", "two")):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.move(tmp_path / kept, folder / name)
    with eau2.open(folder) as store:
        assert is_filled(store)
        assert store.check().faults == ()


def test_without_copies_a_lost_directory_is_an_error(tmp_path):
    with eau2.open(tmp_path / "store", nodes=3, replicas=1) as store:
        fill(store)
    shutil.rmtree(tmp_path / "store" / "node-2")
    with pytest.raises(Corrupt, match="node-2"):
        eau2.open(tmp_path / "store")


def test_a_lost_directory_is_not_made_anew_behind_the_back_of_another_process(folder):
    with eau2.open(folder):
        shutil.move(folder / "node-1", folder / "away")
        with pytest.raises(StoreBusy):
            eau2.open(folder)
        shutil.rmtree(folder / "node-1", ignore_errors=True)
        shutil.move(folder / "away", folder / "node-1")
    with eau2.open(folder) as store:
        assert is_filled(store)


def test_a_directory_of_another_store_is_not_taken_for_a_node(folder, tmp_path):
    with eau2.open(tmp_path / "other", nodes=3) as store:
        store.put("k1", b"of another store")
    shutil.rmtree(folder / "node-1")
    shutil.copytree(tmp_path / "other" / "node-1", folder / "node-1")
    with pytest.raises(Corrupt, match="another store"):
        eau2.open(folder)


def test_lost_members_are_an_error_and_not_a_new_store(folder):
    known = (folder / "members.json").read_bytes()
    (folder / "members.json").unlink()
    for nodes in (None, 3, 5):
        with pytest.raises(Corrupt, match="members"):
            eau2.open(folder, nodes=nodes)
    for damaged in (b"", b"{", b"[]", known[: len(known) // 2], b'{"epoch": 1}'):
        (folder / "members.json").write_bytes(damaged)
        with pytest.raises(Corrupt, match="members"):
            eau2.open(folder)
    (folder / "members.json").write_bytes(known)
    with eau2.open(folder) as store:
        assert is_filled(store)


@pytest.mark.parametrize("name", ["epoch", "batches", "batches.lock", "members.lock", "node-1/order.lock"])
def test_what_only_guides_processes_is_made_again(folder, name):
    (folder / name).unlink()
    with eau2.open(folder, nodes=4) as store:
        wait_until_whole(store)
        assert is_filled(store)
        assert store.check().faults == ()


def test_a_damaged_database_is_an_error_that_names_it_and_its_node_can_be_made_anew(folder):
    path = folder / "node-2" / "entries.db"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(Corrupt, match=r"node-2.*move .*node-2 away"):
        eau2.open(folder)
    shutil.rmtree(folder / "node-2")
    with eau2.open(folder) as store:
        wait_until_whole(store)
        assert is_filled(store)
        assert store.check().faults == ()


def test_nodes_that_were_down_when_the_store_was_closed_join_again(folder):
    with eau2.open(folder) as store:
        store._nodes.fail("node-1")
        store.put("k3", b"3")
        store.put("later", b"1")
    with eau2.open(folder) as store:
        wait_until_whole(store)
        assert store.nodes == ("node-0", "node-1", "node-2")
        assert is_filled(store)
        assert store.get("later") == b"1"
        assert store.check().faults == ()


def test_a_directory_may_be_opened_many_times_in_one_process(folder):
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as opened:
        stores = [opened.enter_context(eau2.open(folder)) for _ in range(4)]
        for number, store in enumerate(stores):
            store.put_many({f"k{key}": b"from %d" % number for key in range(20)})
            for other in stores:
                assert set(other.get_many([f"k{key}" for key in range(20)]).values()) == {b"from %d" % number}
    for _ in range(20):
        eau2.open(folder).close()
    assert len(os.listdir("/proc/self/fd")) <= before


def write_numbers(opener, pipe):
    """Write until told to stop; then say what was acknowledged."""
    acknowledged = {}
    with opener() as store:
        pipe.send("ready")
        number = 0
        while number < 50 or not pipe.poll():  # each key once at least
            number += 1
            key = f"n{number % 50}"
            if number % 7 == 0:
                other = f"n{(number + 1) % 50}"
                try:
                    store.put_many({key: b"%d" % number, other: b"%d" % number})
                except OutcomeUnknown:  # the keys had the same homes before the members changed, and others since
                    store.put_many({key: b"%d" % number, other: b"%d" % number})
                acknowledged[other] = number
            elif number % 11 == 0:
                store.put(key, {"n": [number]})
            else:
                store.put(key, b"%d" % number)
            acknowledged[key] = number
    pipe.send(acknowledged)


def number_of(value) -> int:
    return int(value) if isinstance(value, bytes) else value.to_arrow()["n"][0].as_py()


@pytest.mark.slow
def test_nodes_join_die_and_return_while_another_process_writes(folder, processes):
    mine, theirs = processes.Pipe()
    process = processes.Process(target=write_numbers, args=(Opener(folder), theirs))
    process.start()
    theirs.close()
    assert mine.poll(SECONDS_MAX)
    assert mine.recv() == "ready"
    try:
        with eau2.open(folder, nodes=5) as store:
            wait_until_whole(store)
            for name in ("node-3", "node-0", "node-1"):
                store._nodes.fail(name)
                wait_until_whole(store)
                store._nodes.restore(name)
                wait_until_whole(store)
            mine.send("stop")
            assert mine.poll(SECONDS_MAX)
            acknowledged = mine.recv()
            assert len(acknowledged) == 50
            assert {key: number_of(value) for key, value in store.get_many(acknowledged).items()} == acknowledged
            assert is_filled(store)
            assert store.check().faults == ()
    finally:
        mine.close()
        process.kill()
        process.join(SECONDS_MAX)
        process.close()


class Opener:
    """An opener that can be sent to another process."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self):
        return eau2.open(self.folder)


@pytest.mark.slow
def test_close_ends_threads_in_every_state(tmp_path):
    """They get StoreClosed, or are done, and nobody hangs."""
    store = eau2.open(tmp_path / "store", nodes=4)
    fill(store)
    ended: list[Exception] = []

    def again(work):
        try:
            while True:
                with contextlib.suppress(NodeUnavailable):  # of rebalance(), while nodes come and go
                    work()
        except Exception as error:
            ended.append(error)

    works = [
        lambda: store.put("a", b"1"),
        lambda: store.put("b", {"n": range(10_000)}),
        lambda: store.put_many({f"k{number}": b"x" for number in range(5000)}),
        lambda: store.get_many([f"k{number}" for number in range(200)], default=None),
        lambda: store.wait("never", timeout_seconds=60),
        lambda: store.keys(),
        lambda: store.frame("frame").map_chunks(lambda table: time.sleep(0.01)),
        lambda: (store._nodes.fail("node-2"), store._nodes.restore("node-2")),
        lambda: store.check(),
        lambda: store.rebalance(),
    ]
    threads = [threading.Thread(target=again, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    early = list(ended)
    begun = time.monotonic()
    store.close()
    seconds = time.monotonic() - begun
    for thread in threads:
        thread.join(SECONDS_MAX)
    print(f"closed in {seconds:.2f} s")
    assert early == []
    assert [type(error) for error in ended] == [StoreClosed] * len(works), ended
    with eau2.open(tmp_path / "store") as again_open:
        wait_until_whole(again_open)
        assert again_open.check().faults == ()


def test_what_the_members_file_says_is_plain_to_read(folder):
    known = json.loads((folder / "members.json").read_text())
    assert known["members"] == {"node-0": "live", "node-1": "live", "node-2": "live"}
    assert (known["epoch"], known["replicas"]) == (1, 2)

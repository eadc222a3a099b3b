"""Payloads that have a table of their own, and the log that they fill: what they cost, and what is left of them."""

from __future__ import annotations

import threading

import apsw
import pytest

from eau2.errors import Corrupt
from eau2.store.node import DirectoryNode
from eau2.store.nodes import Kind, Write

LIMITS = (0, 383, 384, 385, 2_000, 2_100, 50_000)


def put(node, key, payload):
    node.write([Write(key, Kind.BYTES, payload)])


def log_pages(node):
    return node._writer._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[0]


def log_bytes(directory):
    return (directory / "entries.db-wal").stat().st_size


def large(node):
    return node._reader.rows("select count(*) from large")[0][0]


def test_values_of_any_size_replace_each_other_and_leave_nothing(node, other):
    keys = [f"k{index}" for index in range(len(LIMITS))]
    for turn in range(len(LIMITS)):
        for writes in (1, len(keys), 20):  # alone, some, and all in the statements for many
            values = {
                key: bytes([turn, writes]) * (LIMITS[(turn + at) % len(LIMITS)] // 2) for at, key in enumerate(keys)
            }
            more = {f"m{at}": bytes([turn]) * LIMITS[(turn + at) % len(LIMITS)] for at in range(writes - len(keys))}
            all_of_it = [Write(key, Kind.BYTES, payload) for key, payload in (values | more).items()]
            for at in range(0, len(all_of_it), writes):
                node.write(all_of_it[at : at + writes])
            found = other.get_many(list(values | more))
            assert {key: entry.payload for key, entry in found.items()} == values | more
            assert {key: other.get(key).payload for key in values} == values
            keys_now = node.keys()
            assert large(node) == sum(len(entry.payload) > 384 for entry in other.get_many(keys_now).values())
    assert node.check().faults == ()
    node.write([Write(key, Kind.DELETED) for key in keys_now])
    assert large(node) == 0


@pytest.mark.parametrize("together", [1, 50])
def test_replacing_a_large_value_by_one_as_large_writes_two_pages(node, together):
    keys = [f"k{index:03}" for index in range(50)]
    node.write([Write(key, Kind.BYTES, bytes(1_000)) for key in keys])
    before = log_pages(node)
    for turn in range(4):
        for at in range(0, len(keys), together):
            node.write([Write(key, Kind.BYTES, bytes([turn]) * 1_000) for key in keys[at : at + together]])
    assert log_pages(node) - before <= 4 * len(keys) * 2


def test_a_large_value_that_was_lost_can_be_put_again(node):
    put(node, "a", bytes(1_000))
    put(node, "b", bytes(2_000))
    node._writer.transaction(lambda: node._writer.execute("delete from large where id = 1"))
    with pytest.raises(Corrupt, match="'a'"):
        node.get("a")
    put(node, "a", b"1" * 3_000)
    assert (node.get("a").payload, node.get("b").payload) == (b"1" * 3_000, bytes(2_000))
    assert node.check().faults == ()


def test_a_get_of_a_large_value_holds_it_twice_and_not_three_times(node):
    size = 4 << 20
    put(node, "a", bytes(size))
    node.get("a")  # its pages are in SQLite's cache
    for _ in range(3):  # each of a snapshot of its own, then of a kept one
        used, _ = apsw.status(apsw.SQLITE_STATUS_MEMORY_USED, True)
        assert len(node.get("a").payload) == size  # once ours, and once SQLite's
        _, most = apsw.status(apsw.SQLITE_STATUS_MEMORY_USED)
        assert most - used < 1.5 * size


def test_a_get_while_others_replace_the_value_by_larger_and_smaller_ones_is_of_one_moment(node, directory):
    """The row and the payload are two queries: nothing may come between them."""
    stop = threading.Event()

    def write(number):
        writer = DirectoryNode(directory)
        turn = 0
        while not stop.is_set():
            turn += 1
            kind = Kind.DELETED if turn % 5 == 0 else Kind.BYTES
            writer.write([Write(f"k{turn % 2}", kind, b"%d" % number * LIMITS[turn % len(LIMITS)])])
        writer.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        for turn in range(3_000):
            entry = node.get(f"k{turn % 2}")
            assert entry is None or (len(entry.payload) in LIMITS and len(set(entry.payload)) <= 1)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert node.check().faults == ()


def test_check_names_the_damaged_value_and_goes_on_to_the_chunks(directory, frames):
    with_frame = DirectoryNode(directory)
    for index in range(10):
        put(with_frame, f"k{index}", bytes([index + 1]) * 50_000)
    chunks = frames.some_chunks(1)
    frames.put(with_frame, "frame", chunks)
    with_frame.close()
    database = directory / "entries.db"
    content = bytearray(database.read_bytes())
    content[content.index(bytes([4]) * 1_500) + 700] ^= 1
    database.write_bytes(content)
    (path,) = (directory / "chunks").rglob("*.arrow")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    damaged = DirectoryNode(directory)
    faults = [fault for fault in damaged.check().faults if not fault.what.startswith("the database is damaged")]
    damaged.close()
    assert [(fault.key, fault.chunk) for fault in faults] == [("k3", ""), ("frame", chunks[0].id)]


def test_the_log_begins_anew_after_a_long_snapshot_and_gives_its_disk_space_back(node, directory):
    long = apsw.Connection(str(directory / "entries.db"), apsw.SQLITE_OPEN_READONLY, vfs="cksmvfs")
    long.execute("begin")
    assert long.execute("select count(*) from entry").get == 0
    for index in range(45):
        put(node, f"k{index % 5}", bytes(1 << 20))
    assert log_bytes(directory) > 43 << 20
    long.execute("rollback")
    for index in range(45):
        put(node, f"k{index % 5}", bytes(1 << 20))
    assert log_bytes(directory) < 41 << 20
    long.close()


def test_a_long_log_is_not_copied_back_after_each_put(node, directory):
    """Copying flushes. A reader that is always one put behind would let each put be copied, and no log begin anew."""
    reader = apsw.Connection(str(directory / "entries.db"), apsw.SQLITE_OPEN_READONLY, vfs="cksmvfs")
    copied = set()  # how much of the log was, as its index counts it: https://sqlite.org/walformat.html
    for index in range(334):
        if index:
            reader.execute("rollback")
        reader.execute("begin")
        assert reader.execute("select count(*) from entry").get == min(index, 5)
        put(node, f"k{index % 5}", bytes(1 << 20 if index < 34 else 10))
        copied.add((directory / "entries.db-shm").read_bytes()[96:100])
    reader.close()
    assert log_bytes(directory) > 33 << 20
    assert len(copied) <= 4

"""A node keeps bytes under keys: versions, conditions, order, one snapshot."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest
from tests.until import SECONDS_MAX, until

from eau2.errors import Corrupt, DiskFull, InvalidOption, KeyExists, KeyMissing, StoreBusy, StoreClosed, VersionConflict
from eau2.store import changes, generation, reading
from eau2.store.node import DirectoryNode
from eau2.store.nodes import RANK_BITS, Expect, Kind, Record, Write


def put(node, key, payload, expect=Expect.ANYTHING):
    return node.write([Write(key, Kind.BYTES, payload, expect=expect)])[0]


def delete(node, key, expect=Expect.ANYTHING):
    return node.write([Write(key, Kind.DELETED, expect=expect)])[0]


def test_what_is_put_is_read_back_with_its_version(node):
    assert node.get("a") is None
    assert put(node, "a", b"one") == 1
    assert put(node, "a", b"two") == 2
    assert node.get("a") == (2, Kind.BYTES, b"two")


def test_another_connection_sees_a_write_at_once_and_never_an_older_value_again(node, other):
    for version in range(1, 200):
        put(node, "a", b"%d" % version)
        for reader in (other, node, other, other, other):  # one-shot, then a kept snapshot
            assert reader.get("a").version == version


def test_a_kept_snapshot_is_ended_when_nobody_reads_so_that_the_log_can_be_reset(node):
    put(node, "a", b"x")
    idle = until(lambda: node.get("a") and node._reader._idle)
    idle.join(SECONDS_MAX)
    assert not idle.is_alive()
    assert not node._reader._connection.in_transaction
    assert node.get("a").payload == b"x"


def test_closing_does_not_wait_until_the_idle_thread_looks_again(directory, monkeypatch):
    monkeypatch.setattr(reading, "_IDLE_SECONDS", SECONDS_MAX)
    node = DirectoryNode(directory)
    put(node, "a", b"x")
    idle = until(lambda: node.get("a") and node._reader._idle)
    node.close()
    assert not idle.is_alive()  # it is waited for, a second at most


def test_a_kept_snapshot_does_not_let_the_log_grow_while_another_process_writes(node, other, directory):
    payload = bytes(200_000)
    for index in range(300):
        put(other, f"k{index % 7}", payload)
        for _ in range(3):
            assert node.get(f"k{index % 7}").payload == payload
    assert (directory / "entries.db-wal").stat().st_size < 40 << 20


def test_what_was_read_is_remembered_until_somebody_writes(node, other):
    keys = [f"k{index}" for index in range(50)]
    node.write([Write(key, Kind.BYTES, b"old") for key in keys])
    for _ in range(3):  # the transaction is kept from the second quiet look on
        assert {entry.payload for entry in node.get_many(keys[:30]).values()} == {b"old"}
        assert node.get("k40").payload == b"old"
    reader = node._reader
    before = reader._connection.total_changes(), reader._remembered.at
    assert sorted(reader._remembered.entries) == sorted([*keys[:30], "k40"])
    assert [*node.get_many(["k35", "k3", "never", "k40", "k3"])] == ["k35", "k3", "k40"]
    assert "k35" in reader._remembered.entries
    assert before == (reader._connection.total_changes(), reader._remembered.at)
    other.write([Write("k3", Kind.BYTES, b"new"), Write("k40", Kind.DELETED)])
    assert node.get("k3").payload == b"new"
    assert node.get("k40") is None
    assert [entry.payload for entry in node.get_many(["k3", "k40", "k4"]).values()] == [b"new", b"old"]


def test_what_is_remembered_is_of_the_same_moment_as_what_is_read_with_it(node, other, monkeypatch):
    keys = [f"k{index}" for index in range(20)]
    node.write([Write(key, Kind.BYTES, b"old") for key in keys])
    for _ in range(3):
        node.get_many(keys[:10])
    assert len(node._reader._remembered.entries) == 10
    read_many = node._reader._read_many

    def read_after_a_write(asked):
        monkeypatch.setattr(node._reader, "_read_many", read_many)
        other.write([Write(key, Kind.BYTES, b"new") for key in keys])
        return read_many(asked)

    monkeypatch.setattr(node._reader, "_read_many", read_after_a_write)
    assert {entry.payload for entry in node.get_many(keys).values()} == {b"new"}
    assert {entry.payload for entry in node.get_many(keys).values()} == {b"new"}


def test_what_is_remembered_has_an_end(node, monkeypatch):
    monkeypatch.setattr("eau2.store.remembered._BYTES", 10_000)
    keys = [f"k{index}" for index in range(200)]
    node.write([Write(key, Kind.BYTES, bytes(100)) for key in keys])
    node.write([Write("large", Kind.BYTES, bytes(100_000))])
    for key in ["large", *keys, "large", *keys]:
        node.get(key)
    node.get_many(["large", "k1"])
    assert 1 <= len(node._reader._remembered.entries) < 50
    assert "large" not in node._reader._remembered.entries


def test_versions_grow_across_a_deletion(node):
    put(node, "a", b"one")
    assert delete(node, "a") == 2
    assert node.get("a") is None
    assert delete(node, "a") == 0
    assert put(node, "a", b"again") == 3


def test_only_so_many_versions_of_deleted_keys_are_kept_and_still_none_comes_twice(node, monkeypatch):
    monkeypatch.setattr(changes, "GONE_MAX", 20)
    monkeypatch.setattr(changes, "_GONE_STEP", 10)
    last = {}
    for index in range(200):
        key = f"k{index % 90}"
        first = put(node, key, b"x")
        assert first > last.get(key, 0)
        last[key] = delete(node, key)
        assert last[key] > first
    ((kept,),) = node._reader.rows("select count(*) from gone")
    assert kept <= 21
    assert put(node, "never seen", b"x") > 1  # above the highest version that was forgotten


def test_on_a_full_disk_what_was_deleted_before_is_forgotten_but_never_what_tells_other_copies(node):
    for index in range(5):
        put(node, f"k{index}", b"x")
    delete(node, "k0")
    node._spare.is_lent = True
    for index in range(1, 5):
        assert delete(node, f"k{index}") == 2
    assert node._reader.rows("select key from gone") == [("k4",)]
    for index in range(5):
        assert put(node, f"k{index}", b"again") == 3
    told = [Record(f"of many nodes {index}", 7 << RANK_BITS | 3, Kind.DELETED) for index in range(5)]
    node.store(told)
    assert node._reader.rows("select count(*) from gone where version > 100") == [(5,)]


@pytest.mark.parametrize(
    ("expect", "there", "error"),
    [
        (Expect.ABSENT, True, KeyExists),
        (Expect.PRESENT, False, KeyMissing),
        (7, True, VersionConflict),
        (7, False, KeyMissing),
    ],
)
def test_a_refused_write_changes_nothing_and_the_others_of_its_call_happen(node, expect, there, error):
    if there:
        put(node, "a", b"there")
    before = node.get("a")
    refused, version = node.write([Write("a", Kind.BYTES, b"new", expect=expect), Write("b", Kind.BYTES, b"other")])
    assert isinstance(refused, error)
    assert version == 1
    assert node.get("a") == before
    assert node.get("b").payload == b"other"


def test_conditions_that_hold_let_the_write_through(node):
    assert put(node, "a", b"1", Expect.ABSENT) == 1
    assert put(node, "a", b"2", Expect.PRESENT) == 2
    assert put(node, "a", b"3", 2) == 3
    assert delete(node, "a", 3) == 4
    assert isinstance(delete(node, "a", Expect.PRESENT), KeyMissing)


def test_writes_of_one_call_are_seen_together_and_in_order(node):
    versions = node.write([Write("a", Kind.BYTES, b"1"), Write("a", Kind.BYTES, b"2"), Write("a", Kind.DELETED)])
    assert versions == [1, 2, 3]
    assert node.get("a") is None
    assert node.write([]) == []


def test_keys_are_sorted_by_code_point_and_cut_by_prefix_and_limit(node):
    names = ["a", "a/b", "a/\uffff", "a/\U0001f600", "aé", "b", "%", "a_b"]
    node.write([Write(name, Kind.BYTES) for name in names])
    assert node.keys() == sorted(names)
    assert node.keys("a/") == ["a/b", "a/\uffff", "a/\U0001f600"]
    assert node.keys("a", limit=2) == ["a", "a/b"]
    assert node.keys("\U0010ffff") == []


def test_many_keys_are_read_in_one_snapshot(node, other):
    node.write([Write(f"k{index}", Kind.BYTES, b"0") for index in range(50)])
    stop = threading.Event()

    def write():
        for number in range(10_000):
            if stop.is_set():
                return
            other.write([Write(f"k{index}", Kind.BYTES, b"%d" % number) for index in range(50)])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(100):
            found = node.get_many([f"k{index}" for index in range(50)] + ["absent"])
            assert len(found) == 50
            assert len({entry.payload for entry in found.values()}) == 1
    finally:
        stop.set()
        thread.join(SECONDS_MAX)


@pytest.mark.parametrize("size", [0, 1, 4000, 1 << 20, 64 << 20])
def test_values_of_every_size_come_back(node, other, size):
    payload = bytes([size % 251]) * size
    put(node, "a", payload)
    assert other.get("a").payload == payload


def test_what_is_near_a_large_value_is_read_and_written_without_reading_it(node):
    def pages(connection):
        kinds = (apsw.SQLITE_DBSTATUS_CACHE_HIT, apsw.SQLITE_DBSTATUS_CACHE_MISS, apsw.SQLITE_DBSTATUS_CACHE_WRITE)
        return sum(connection.status(kind)[0] for kind in kinds)

    keys = [f"k{index:03}" for index in range(200)]
    node.write([Write(key, Kind.BYTES, bytes(4 << 20 if index % 50 == 25 else 10)) for index, key in enumerate(keys)])
    near = [key for index, key in enumerate(keys) if index % 50 != 25]
    before = pages(node._reader._connection)
    assert set(node.get_many(near)) == set(near)
    assert all(node.get(key).payload == bytes(10) for key in near)
    assert pages(node._reader._connection) - before < 20 * len(near)  # one large value has 2,000
    before = pages(node._writer._connection)
    node.write([Write(key, Kind.BYTES, b"new") for key in near])
    for key in near:
        put(node, key, b"newer")
    assert pages(node._writer._connection) - before < 50 * len(near)


def test_a_large_value_that_is_replaced_or_deleted_is_not_kept(node):
    def kept():
        return node._reader.rows("select count(*), coalesce(sum(length(payload)), 0) from large")[0]

    for payload in (bytes(5000), bytes(6000), b"small", bytes(7000)):
        put(node, "a", payload)
        node.write([Write(f"k{index}", Kind.BYTES, payload) for index in range(20)])
        large = 21 if len(payload) > 1000 else 0
        assert kept() == (large, large * len(payload))
        assert node.get("a").payload == payload
        assert {entry.payload for entry in node.get_many([f"k{index}" for index in range(20)]).values()} == {payload}
    delete(node, "a")
    assert kept() == (20, 20 * 7000)
    assert node.check().faults == ()


def test_a_query_that_was_interrupted_stands_in_nobodys_way(node, other):
    """It would keep its snapshot, and SQLite refuses at once to write from one that others have written after."""

    def interrupted():
        node._writer.changes.run("select key from entry")  # Ctrl-C comes before its rows are fetched
        raise KeyboardInterrupt

    put(node, "a", b"1")
    put(node, "b", b"1")
    with pytest.raises(KeyboardInterrupt):
        node._writer.transaction(interrupted)
    put(other, "a", b"2")
    assert put(node, "a", b"3") == 3


def test_threads_that_write_at_once_share_transactions_and_lose_nothing(directory):
    with ThreadPoolExecutor(8) as threads:
        node = DirectoryNode(directory, flush="power")
        versions = list(threads.map(lambda index: put(node, "counter", b"%d" % index), range(400)))
        counts = node.statistics()
        node.close()
    assert sorted(versions) == list(range(1, 401))
    assert counts.writes == 400
    assert counts.commits < 400


def at_once(node, write):
    """Write "a", "b" and "c" in threads that all wait for the lock; return what became of each, or "interrupted"."""
    ends = {}

    def call(key):
        try:
            ends[key] = write(key)
        except KeyboardInterrupt:
            ends[key] = "interrupted"

    threads = [threading.Thread(target=call, args=(key,)) for key in "abc"]
    with node._writer._lock:
        for thread in threads:
            thread.start()
        while len(node._writer._queue) < 3:
            pass
    for thread in threads:
        thread.join(SECONDS_MAX)
    return ends


def test_ctrl_c_in_the_thread_that_commits_for_others_is_not_theirs(node, monkeypatch):
    commit, interrupted = node._writer._commit, []

    def interrupt_once(change, **options):
        if not interrupted:
            interrupted.append(threading.current_thread())
            raise KeyboardInterrupt
        return commit(change, **options)

    monkeypatch.setattr(node._writer, "_commit", interrupt_once)
    ends = at_once(node, lambda key: put(node, key, b"x"))
    assert sorted(map(str, ends.values())) == ["1", "1", "interrupted"]
    assert node.keys() == sorted(key for key, end in ends.items() if end == 1)


@pytest.mark.parametrize("chunks", [0, 2])
def test_ctrl_c_right_after_a_commit_writes_nothing_twice(node, frames, monkeypatch, chunks):
    run, interrupted = node._writer._run, []

    def interrupt_once(query, bindings=()):
        result = run(query, bindings)
        if query == "commit" and not interrupted:
            interrupted.append(query)
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(node._writer, "_run", interrupt_once)

        def write(key):
            if chunks and key == "a":
                frames.put(node, key, frames.some_chunks(chunks))
            else:
                put(node, key, b"x")
            return "written"

        ends = at_once(node, write)
    assert sorted(ends.values()) == ["interrupted", "written", "written"]
    for key, end in ends.items():  # one that is interrupted may have been written, once
        entry = node.get(key)
        assert (entry is None and end == "interrupted") or entry.version == 1
    assert node._generation.settled
    assert put(node, "later", b"1") == 1
    assert node.check().faults == ()


def test_many_bytes_put_at_once_replace_frames_and_follow_deletions(node, frames):
    frames.put(node, "k3", frames.some_chunks(2))
    put(node, "k4", b"gone soon")
    delete(node, "k4")
    put(node, "k5", b"old")
    writes = [Write(f"k{number}", Kind.BYTES, b"%d" % number) for number in range(20)]
    versions = node.write(writes)
    assert versions == [2 if number in (3, 5) else 3 if number == 4 else 1 for number in range(20)]
    assert node.get_many([write.key for write in writes]) == {
        write.key: (version, Kind.BYTES, write.payload) for write, version in zip(writes, versions, strict=True)
    }
    assert node.statistics().chunks == 0
    assert node.check().faults == ()


def test_a_write_interrupted_while_it_waits_is_not_written_later_and_leaves_no_files(node, frames, monkeypatch):
    class Held:
        def acquire(self, timeout):
            raise KeyboardInterrupt

        def release(self):
            raise RuntimeError("cannot release un-acquired lock")

        def _is_owned(self):
            return False

    chunks = frames.some_chunks(2)
    with monkeypatch.context() as patch:
        patch.setattr(node._writer, "_lock", Held())
        with pytest.raises(KeyboardInterrupt):
            frames.put(node, "interrupted", chunks)
    assert not frames.staged(node.directory)
    node.write([Write("later", Kind.BYTES, b"1")])
    assert node.keys() == ["later"]


def test_one_write_too_large_for_the_disk_does_not_fail_those_that_would_share_its_transaction(node, monkeypatch):
    apply = node._writer.changes._apply

    def full(write):
        if write.key == "b":
            raise DiskFull("full")
        return apply(write)

    monkeypatch.setattr(node._writer.changes, "_apply", full)
    with ThreadPoolExecutor(3) as threads:
        with node._writer._lock:
            ends = {key: threads.submit(put, node, key, b"x") for key in "abc"}
            while len(node._writer._queue) < 3:
                pass
        assert (ends["a"].result(SECONDS_MAX), ends["c"].result(SECONDS_MAX)) == (1, 1)
        with pytest.raises(DiskFull):
            ends["b"].result(SECONDS_MAX)
    assert node.keys() == ["a", "c"]


def test_of_many_threads_that_create_one_succeeds(node, other):
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(
            threads.map(lambda index: put((node, other)[index % 2], "a", b"%d" % index, Expect.ABSENT), range(40))
        )
    assert outcomes.count(1) == 1
    assert sum(isinstance(outcome, KeyExists) for outcome in outcomes) == 39


def test_a_counter_raised_by_compare_and_set_from_threads_over_two_connections_loses_no_step(node, other):
    put(node, "counter", b"0")

    def raise_it(index):
        mine = (node, other)[index % 2]
        for _ in range(50):
            while True:
                entry = mine.get("counter")
                if isinstance(put(mine, "counter", b"%d" % (int(entry.payload) + 1), entry.version), int):
                    break

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(raise_it, range(4)))
    assert int(node.get("counter").payload) == 200


def test_waiting_ends_with_a_write_of_this_process_or_another_or_with_the_time(node, other):
    assert node.wait_for_write(node.generation(), 0.01) == node.generation()
    for writer in (node, other):
        since = node.generation()
        timer = threading.Timer(0.05, put, (writer, "a", b"x"))
        timer.start()
        assert node.wait_for_write(since, SECONDS_MAX) != since
        timer.join()
    since = node.generation()
    put(node, "a", b"y")
    assert node.wait_for_write(since, SECONDS_MAX) != since  # not slept through


def test_a_write_of_this_process_wakes_a_waiter_without_the_thread_that_looks_for_writes_of_others(node, monkeypatch):
    waits, looks = node.statistics().waits, threading.Event()

    def sleep(seconds):
        looks.set()
        done.wait(SECONDS_MAX)  # it has looked once, and looks no more

    done = threading.Event()
    monkeypatch.setattr(generation, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    since = node.generation()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(node.wait_for_write, since, 2 * SECONDS_MAX)
        try:
            assert looks.wait(SECONDS_MAX)
            assert node.statistics().waits == waits + 1
            put(node, "a", b"x")
            assert waiting.result(SECONDS_MAX) != since
        finally:
            done.set()


def test_a_waiter_is_woken_when_the_writer_died_between_commit_and_its_last_step(node, other):
    started = other._generation.start()  # as if killed before COMMIT or right after it
    since = node.generation()
    assert node.wait_for_write(since, SECONDS_MAX) != since
    assert node._generation.settled
    assert started > 0
    put(other, "a", b"x")
    assert node.get("a").payload == b"x"


def test_closing_wakes_waiters_ends_threads_and_may_be_repeated(directory):
    node = DirectoryNode(directory)
    put(node, "a", b"x")
    for _ in range(4):
        node.get("a")
    raised = []

    def wait():
        try:
            node.wait_for_write(node.generation(), 2 * SECONDS_MAX)
        except StoreClosed as error:
            raised.append(error)

    waiters = [threading.Thread(target=wait) for _ in range(5)]
    for waiter in waiters:
        waiter.start()
    while node.statistics().waits < 5:
        pass
    node.close()
    node.close()
    for waiter in waiters:
        waiter.join(SECONDS_MAX)
    assert len(raised) == 5
    until(lambda: not {thread.name for thread in threading.enumerate()} & {"eau2-wait", "eau2-idle"})
    for use in (
        lambda: node.get("a"),
        lambda: node.get_many(["a"]),
        node.keys,
        lambda: put(node, "a", b""),
        node.generation,
        lambda: node.map([]),
        node.check,
        node.statistics,
    ):
        with pytest.raises(StoreClosed):
            use()
    assert sorted(path.name for path in directory.iterdir()) == [
        "chunks",
        "entries.db",
        "generation",
        "spare",
        "staging",
    ]
    assert list((directory / "staging").iterdir()) == []


def test_an_unknown_flush_level_is_refused(directory):
    with pytest.raises(InvalidOption):
        DirectoryNode(directory, flush="sometimes")


def test_statistics_count_what_was_done(node, frames):
    put(node, "a", b"x")
    frames.put(node, "f", frames.some_chunks(3))
    node.get("a")
    counts = node.statistics()
    assert (counts.keys, counts.frames, counts.chunks, counts.writes, counts.commits) == (2, 1, 3, 2, 2)
    assert (counts.gets, counts.chunks_written) == (1, 3)
    assert counts.chunk_bytes == sum(chunk.size for chunk in frames.some_chunks(3))


def test_a_write_that_comes_once_the_writer_is_closed_is_refused_as_closed(node):
    node.write([Write("k", Kind.BYTES, b"1")])  # a transaction went through before, and is not to be asked about
    node._writer.close(1)
    with pytest.raises(StoreClosed):
        node._writer.write([Write("k", Kind.BYTES, b"2")])


def test_a_write_that_takes_longer_than_closing_waits_for_it_ends_as_it_would_have(directory, frames, monkeypatch):
    monkeypatch.setattr("eau2.store.node._CLOSE_SECONDS", 0.01)
    node = DirectoryNode(directory)
    apply, begun, go = node._writer.changes._apply, threading.Event(), threading.Event()

    def apply_late(write):
        begun.set()
        assert go.wait(SECONDS_MAX)
        return apply(write)

    monkeypatch.setattr(node._writer.changes, "_apply", apply_late)
    with ThreadPoolExecutor(1) as threads:
        written = threads.submit(frames.put, node, "f", frames.some_chunks(2))
        assert begun.wait(SECONDS_MAX)
        node.close()
        go.set()
        assert written.result(SECONDS_MAX) == 1
    again = DirectoryNode(directory)
    assert again.keys() == ["f"]
    assert again.check().faults == ()
    assert frames.staged(directory) == []
    again.close()


def test_a_chunk_whose_staging_a_close_overtakes_is_refused_as_closed(directory, frames):
    node = DirectoryNode(directory)
    (chunk,) = frames.some_chunks(1)
    node.close()
    with pytest.raises(StoreClosed):
        node._files.stage(chunk.id, chunk.pieces, chunk.size)  # the node was open when it was asked


def test_a_node_that_another_process_makes_between_two_looks_is_not_damaged(directory, monkeypatch):
    exists = Path.exists

    def too_early(path, **options):
        found = exists(path, **options)
        if path.name == "entries.db" and not found:
            monkeypatch.undo()
            DirectoryNode(directory).close()
        return found

    monkeypatch.setattr(Path, "exists", too_early)
    node = DirectoryNode(directory)
    assert put(node, "a", b"1") == 1
    node.close()


def test_closed_by_the_handler_of_a_signal_a_write_ends_as_it_does_when_another_thread_closes(directory, monkeypatch):
    node = DirectoryNode(directory)
    apply = node._writer.changes._apply

    def close_amid(write):
        node.close()
        return apply(write)

    monkeypatch.setattr(node._writer.changes, "_apply", close_amid)
    assert put(node, "a", b"1") == 1
    with pytest.raises(StoreClosed):
        put(node, "a", b"2")


def test_who_interrupts_its_own_read_or_write_is_told_so_and_breaks_neither(node):
    refused, done, number = [], [], 0

    def beat(*_):
        for use in (lambda: put(node, "heart", b"x"), lambda: node.get("heart"), lambda: node.keys()):
            try:
                done.append(use())
            except StoreBusy as error:
                refused.append(str(error))

    before = signal.signal(signal.SIGALRM, beat)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    try:
        end = time.monotonic() + SECONDS_MAX
        while (not refused or len(done) < 100) and time.monotonic() < end:
            number += 1
            payload = b"%d" % number
            assert len(node.write([Write(f"k{each}", Kind.BYTES, payload) for each in range(6)])) == 6
            for _ in range(20):
                assert node.get("k5").payload == payload
            assert {entry.payload for entry in node.get_many([f"k{each}" for each in range(6)]).values()} == {payload}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert refused
    assert "amid a read or a write" in refused[0]
    assert node.check().faults == ()


def test_a_signals_handler_may_close_amid_a_read(node):
    put(node, "a", b"x")

    def close(*_):
        node.close()

    before = signal.signal(signal.SIGALRM, close)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(StoreClosed):
            while True:
                node.get("a")
    finally:
        signal.signal(signal.SIGALRM, before)


def test_damage_is_told_of_while_others_are_remembered(node, monkeypatch):
    keys = [f"k{index}" for index in range(10)]
    node.write([Write(key, Kind.BYTES, b"old") for key in keys])
    for _ in range(3):
        node.get_many(keys[:5])
    assert len(node._reader._remembered.entries) == 5

    def damaged(*_):
        raise apsw.CorruptError("of a test")

    monkeypatch.setattr(node._reader, "_read_many", damaged)
    with pytest.raises(Corrupt, match="of a test"):
        node.get_many(keys)
    assert node.get_many(keys[:5]).keys() == set(keys[:5])

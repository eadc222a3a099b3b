"""Locks end with their process, waiting costs next to nothing, and what one process does another sees at once."""

import functools
import os
import time

import pytest
from tests.until import SECONDS_MAX

import eau2
from eau2.store.database import BUSY_SECONDS_MAX


def put_many_for_ever(opener, ready):
    store = opener()
    values = {f"k{number}": b"x" * 200 for number in range(50_000)}
    ready.put(os.getpid())
    while True:
        store.put_many(values)


def wait_and_count(opener, seconds, used):
    with opener() as store:
        store.get("a", default=None)
        start, cpu = time.monotonic(), time.process_time()
        with pytest.raises(eau2.WaitTimeout):
            store.wait("never", timeout_seconds=seconds)
        used.put((time.process_time() - cpu) / (time.monotonic() - start))


def hold_and_check(opener, ready, go, answer):
    store = opener()
    frame = store.frame("f")
    ready.put(True)
    go.wait(SECONDS_MAX)
    answer.put(frame.to_arrow().column("n").to_pylist() == list(range(10_000)))


@pytest.mark.slow
def test_a_killed_writer_keeps_no_lock(tmp_path, processes):
    opener = functools.partial(eau2.open, str(tmp_path / "store"))
    slowest = 0.0
    with opener() as store:
        store.put("a", b"0")
        for number in range(5):
            ready = processes.Queue()
            process = processes.Process(target=put_many_for_ever, args=(opener, ready))
            process.start()
            ready.get(timeout=SECONDS_MAX)
            time.sleep(0.15 + number * 0.05)
            process.kill()
            start = time.monotonic()
            store.put("a", b"%d" % number)
            slowest = max(slowest, time.monotonic() - start)
            process.join()
            assert len(store.keys("k")) in (0, 50_000)
            assert store.get("a") == b"%d" % number
        assert store.check().faults == ()
    print(f"the slowest put after a kill took {slowest * 1e3:.0f} ms")
    assert slowest < BUSY_SECONDS_MAX / 2  # after which a lock that nobody lets go of is an error


@pytest.mark.slow
def test_waiting_burns_next_to_nothing(tmp_path, processes):
    opener = functools.partial(eau2.open, str(tmp_path / "store"))
    used, share = processes.Queue(), 1.0
    for _ in range(3):  # the least counts: where others work there are moments when everything takes longer
        process = processes.Process(target=wait_and_count, args=(opener, 2.0, used))
        process.start()
        share = min(share, used.get(timeout=SECONDS_MAX))
        process.join()
        if share < 0.05:
            break
    print(f"waiting burns {share:.2%} of a core")
    assert share < 0.05


@pytest.mark.slow
def test_a_frame_held_in_a_third_process_survives_the_kill_of_its_writer_and_its_deletion(tmp_path, processes):
    opener = functools.partial(eau2.open, str(tmp_path / "store"))
    ready, answer, go = processes.Queue(), processes.Queue(), processes.Event()
    with opener() as store:
        store.put("f", {"n": range(10_000)})
        process = processes.Process(target=hold_and_check, args=(opener, ready, go, answer))
        process.start()
        ready.get(timeout=SECONDS_MAX)
        store.put("f", {"n": [0]})
        store.delete("f")
        assert store.statistics().chunks == 0
    with opener() as store:
        store.put("other", {"n": range(10_001)})
        go.set()
        assert answer.get(timeout=SECONDS_MAX) is True
        process.join(SECONDS_MAX)
        assert process.exitcode == 0

"""What every store promises when several threads and processes use it. Inherited by `StoreContract`."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from tests.until import SECONDS_MAX

from eau2.errors import KeyExists, KeyMissing, StoreClosed, VersionConflict, WaitTimeout, WrongKind

THREADS = 4
SEVERAL = 1000  # keys written and read at once: more than any store asks for in one piece


def increment(store, key: str, times: int) -> int:
    """Add 1 to the number under `key`, `times` times, and never lose one. Return how often another was first."""
    conflicts = 0
    for _ in range(times):
        while True:
            version = store.version(key)
            try:
                store.update(key, b"%d" % (int(store.get(key)) + 1), if_version=version)
                break
            except VersionConflict:
                conflicts += 1
    return conflicts


def increment_elsewhere(opener, key, times):
    with opener() as store:
        increment(store, key, times)


def create_elsewhere(opener, gate, won, name):
    with opener() as store:
        gate.wait(SECONDS_MAX)
        for number in range(100):
            with contextlib.suppress(KeyExists):
                store.create(f"lock/{number}", name)
                won.put((number, name))


def wait_elsewhere(opener, ready, times):
    with opener() as store:
        for number in range(5):
            ready.put(number)
            sent = float(store.wait(f"go/{number}", timeout_seconds=SECONDS_MAX))
            times.put(time.time() - sent)


def put_many_elsewhere(opener, stop):
    with opener() as store:
        number = 0
        while not stop.is_set():
            number += 1
            store.put_many({f"k{place}": b"%d" % number for place in range(SEVERAL)})


def put_frames_elsewhere(opener, stop):
    with opener() as store:
        number = 0
        while not stop.is_set():
            number += 1
            store.put("frame", {"n": np.full(10_000, number)})
            if number % 5 == 0:
                store.delete("frame")


def read_elsewhere(opener, key, found):
    with opener() as store:
        found.put(store.frame(key).to_arrow().column("n").to_pylist())


@contextlib.contextmanager
def running(processes, count, function, *args):
    started = [processes.Process(target=function, args=args) for _ in range(count)]
    for process in started:
        process.start()
    try:
        yield started
        for process in started:
            process.join(SECONDS_MAX)
            assert process.exitcode == 0
    finally:
        for process in started:
            if process.is_alive():
                process.kill()
                process.join()


class SharingContract:
    often = 100  # each thread and process does a thing so often: less where a call goes to other processes

    # -- threads ------------------------------------------------------------------------------------------------------

    def test_threads_never_lose_an_increment(self, store):
        store.put("counter", b"0")
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda _: increment(store, "counter", self.often), range(THREADS)))
        assert store.get("counter") == b"%d" % (self.often * THREADS)
        assert store.version("counter") == self.often * THREADS + 1

    def test_of_many_threads_that_create_one_succeeds(self, store):
        def creates(number):
            try:
                return store.create(f"lock/{number // THREADS}", b"%d" % number)
            except KeyExists:
                return 0

        with ThreadPoolExecutor(THREADS) as pool:
            versions = list(pool.map(creates, range(50 * THREADS)))
        assert sum(version > 0 for version in versions) == 50
        assert len(store.keys("lock/")) == 50

    @pytest.mark.slow
    def test_threads_put_and_get_everything_at_once(self, store):
        def work(name):
            for number in range(rounds):
                key = f"{name}/{number}"
                store.put(key, b"%d" % number)
                store.put(f"{name}/frame", {"n": [number]})
                assert store.get(key) == b"%d" % number
                assert store.frame(f"{name}/frame").to_arrow().column("n").to_pylist() == [number]
                store.put("shared", {"n": [number] * 3})
                with contextlib.suppress(KeyMissing):
                    assert len(set(store.frame("shared").to_arrow().column("n").to_pylist())) == 1
                store.delete("shared")
                if number % 2 == 0:
                    assert store.delete(key)
            return len(store.keys(f"{name}/"))

        rounds = 2 * self.often // 5
        with ThreadPoolExecutor(THREADS) as pool:
            assert list(pool.map(work, "abcd")) == [rounds // 2 + 1] * THREADS
        assert store.check().faults == ()

    def test_a_write_seen_by_get_many_is_seen_whole(self, store):
        stop = threading.Event()

        def write():
            number = 0
            while not stop.is_set():
                number += 1
                store.put_many({"x": b"%d" % number, "y": b"%d" % number, "f": {"n": [number]}})
            return number

        store.put_many({"x": b"0", "y": b"0", "f": {"n": [0]}})
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(write)
            try:
                seen = [store.get_many(["x", "y"]) for _ in range(3 * self.often)]
            finally:
                stop.set()
            assert written.result() > 0
        assert all(pair["x"] == pair["y"] for pair in seen)
        order = [int(pair["x"]) for pair in seen]
        assert order == sorted(order)

    def test_a_put_in_this_process_wakes_a_waiter_long_before_its_time(self, store):
        with ThreadPoolExecutor(1) as pool:
            for number in range(20):
                waiting = pool.submit(store.wait, f"go/{number}", timeout_seconds=20 * SECONDS_MAX)
                time.sleep(0.01)
                store.put(f"go/{number}", b"now")
                assert waiting.result(SECONDS_MAX) == b"now"

    def test_every_waiter_is_woken_and_by_its_own_key_only(self, store):
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(store.wait, f"key/{number % 4}", timeout_seconds=SECONDS_MAX) for number in range(8)]
            time.sleep(0.05)
            store.put("other", b"noise")
            time.sleep(0.05)
            assert not any(future.done() for future in waiting)
            store.put_many({f"key/{number}": b"%d" % number for number in range(4)})
            assert [future.result() for future in waiting] == [b"%d" % (number % 4) for number in range(8)]

    def test_closing_ends_every_wait(self, store):
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(store.wait, "never", timeout_seconds=20 * SECONDS_MAX) for _ in range(2)]
            time.sleep(0.1)
            store.close()
            for future in waiting:
                with pytest.raises(StoreClosed):
                    future.result(SECONDS_MAX)

    def test_closing_while_threads_work_ends_them_with_store_closed(self, store):
        started = threading.Barrier(THREADS + 1)

        def work(name):
            started.wait(SECONDS_MAX)
            for number in range(10**9):
                store.put(f"{name}/{number % 10}", b"%d" % number)
                store.put(f"{name}/frame", {"n": [number]})
                store.frame(f"{name}/frame").to_arrow()
                store.keys(name)

        with ThreadPoolExecutor(THREADS) as pool:
            working = [pool.submit(work, name) for name in "abcd"]
            started.wait(SECONDS_MAX)
            time.sleep(0.1)
            store.close()
            for future in working:
                with pytest.raises(StoreClosed):
                    future.result(SECONDS_MAX)

    # -- processes ----------------------------------------------------------------------------------------------------

    @pytest.mark.slow
    def test_processes_never_lose_an_increment(self, store, opener, processes):
        store.put("counter", b"0")
        with running(processes, 3, increment_elsewhere, opener, "counter", self.often):
            increment(store, "counter", self.often)
        assert store.get("counter") == b"%d" % (4 * self.often)

    @pytest.mark.slow
    def test_of_many_processes_that_create_one_succeeds(self, store, opener, processes):
        gate, won = processes.Barrier(3), processes.Queue()
        started = [
            processes.Process(target=create_elsewhere, args=(opener, gate, won, name)) for name in (b"a", b"b", b"c")
        ]
        for process in started:
            process.start()
        winners = dict(won.get(timeout=SECONDS_MAX) for _ in range(100))
        for process in started:
            process.join(SECONDS_MAX)
            assert process.exitcode == 0
        assert won.empty()
        assert {int(key.removeprefix("lock/")): store.get(key) for key in store.keys("lock/")} == winners

    @pytest.mark.slow
    def test_a_put_wakes_a_waiter_in_another_process(self, store, opener, processes, record_property):
        ready, times = processes.Queue(), processes.Queue()
        with running(processes, 1, wait_elsewhere, opener, ready, times):
            delays = []
            for _ in range(5):
                number = ready.get(timeout=SECONDS_MAX)
                time.sleep(0.1)
                store.put(f"go/{number}", str(time.time()).encode())
                delays.append(times.get(timeout=SECONDS_MAX))
        record_property("wake_ms", [round(delay * 1e3, 1) for delay in delays])
        print(f"a waiter in another process woke after {sorted(delays)[2] * 1e3:.1f} ms (median of 5)")
        assert sorted(delays)[2] < SECONDS_MAX / 2  # the target of 20 ms is measured by benchmarks/, on a quiet machine

    @pytest.mark.slow
    def test_another_process_never_sees_a_part_of_put_many(self, store, opener, processes):
        stop = processes.Event()
        store.put_many({f"k{place}": b"0" for place in range(SEVERAL)})
        with running(processes, 1, put_many_elsewhere, opener, stop):
            seen = [0]
            end = time.monotonic() + 1.5
            while time.monotonic() < end or len(set(seen)) < 10:  # however late the other begins
                values = set(store.get_many([f"k{place}" for place in range(SEVERAL)]).values())
                assert len(values) == 1
                seen.append(int(values.pop()))
            stop.set()
        assert seen == sorted(seen)

    @pytest.mark.slow
    def test_another_process_never_sees_a_part_of_a_frame(self, store, opener, processes):
        stop = processes.Event()
        held = []
        with running(processes, 1, put_frames_elsewhere, opener, stop):
            end = time.monotonic() + 1.5
            while time.monotonic() < end or len({number for _, number in held}) < 6:  # however late the other begins
                with contextlib.suppress(KeyMissing):
                    frame = store.frame("frame")
                    values = frame.to_arrow().column("n").to_numpy()
                    assert len(values) == 10_000
                    assert (values == values[0]).all()
                    held.append((frame, values[0]))
            stop.set()
        numbers = [number for _, number in held]
        assert numbers == sorted(numbers)
        for frame, number in held[:: max(1, len(held) // 20)]:
            assert set(frame.to_arrow().column("n").to_pylist()) == {number}

    @pytest.mark.slow
    def test_another_process_reads_what_this_one_puts(self, store, opener, processes):
        store.put("f", {"n": [1, None, 3]})
        found = processes.Queue()
        with running(processes, 1, read_elsewhere, opener, "f", found):
            assert found.get(timeout=SECONDS_MAX) == [1, None, 3]

    def test_a_wait_for_bytes_and_frames_alike(self, store):
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(store.wait, "f", timeout_seconds=SECONDS_MAX)
            time.sleep(0.02)
            store.put("f", {"n": [1]})
            assert waiting.result().to_arrow().equals(pa.table({"n": [1]}))
        with pytest.raises(WaitTimeout):
            store.wait("g", timeout_seconds=0)

    def test_a_frame_replaced_while_it_is_opened_is_the_new_one(self, store, opener):
        stop = threading.Event()

        def replace():
            with opener() as other:
                number = 0
                while not stop.is_set():
                    number += 1
                    other.put("f", {"n": [number] * 100})

        store.put("f", {"n": [0] * 100})
        with ThreadPoolExecutor(1) as pool:
            replacing = pool.submit(replace)
            try:
                with contextlib.suppress(WrongKind):
                    seen = [store.frame("f").to_arrow().column("n").to_numpy() for _ in range(2 * self.often)]
            finally:
                stop.set()
            replacing.result()
        assert all((values == values[0]).all() for values in seen)
        order = [values[0] for values in seen]
        assert order == sorted(order)

"""Memory that is used again: bounded, never while anybody holds what is in it."""

import gc
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest
from tests.until import until

from eau2.errors import Corrupt
from eau2.remote import memory as remote_memory
from eau2.remote.chunks import ChunkCache
from eau2.remote.memory import IDLE_SECONDS, Memory
from eau2.values.chunk import identify

MB = 1 << 20


def pieces_of(data: bytes, step: int = 1000):
    for start in range(0, len(data), step):
        yield pa.py_buffer(data[start : start + step])


@pytest.mark.parametrize("size", [MB, MB + 1, 4 * MB, 5 * MB + 3])
def test_what_is_kept_is_what_came_and_cannot_be_changed(size):
    data = bytes(range(256)) * (size // 256 + 1)
    kept = Memory(16 * MB).keep(pieces_of(data[:size], 100_000), size).buffer()
    assert kept.to_pybytes() == data[:size]
    assert not kept.is_mutable


def test_a_region_is_used_again_only_when_nobody_holds_any_part_of_it():
    memory = Memory(8 * MB)
    buffer = memory.keep(pieces_of(b"a" * MB), MB).buffer()
    part = pa.Array.from_buffers(pa.uint8(), 5, [None, buffer.slice(5)])
    del buffer
    second = memory.keep(pieces_of(b"b" * MB), MB)
    assert second is not None
    assert memory.keep(pieces_of(b"c" * MB), MB) is None  # both are held
    assert part.to_pylist() == [97] * 5
    del part
    gc.collect()
    third = memory.keep(pieces_of(b"c" * MB), MB)
    assert third.buffer().to_pybytes() == b"c" * MB
    assert second.buffer().to_pybytes() == b"b" * MB
    assert memory.bytes == 8 * MB


def test_what_waits_makes_room_for_what_is_larger_and_for_nothing_that_never_fits():
    memory = Memory(12 * MB)
    for size in (MB, MB, 5 * MB, 9 * MB, MB):
        kept = memory.keep(pieces_of(bytes(size), MB), size)
        assert kept is not None
        assert memory.bytes <= 12 * MB
        del kept
        gc.collect()
    before = memory.bytes
    assert memory.keep(iter(()), 13 * MB) is None
    assert memory.bytes == before


def test_what_is_small_takes_no_region():
    memory = Memory(12 * MB)
    for size in (0, 1, MB - 1):
        assert memory.keep(iter(()), size) is None
    assert memory.bytes == 0


@pytest.fixture
def offered(monkeypatch):
    found = []
    monkeypatch.setattr(remote_memory, "_offer", found.append)
    return found


def test_what_waits_is_offered_to_the_kernel_after_a_while_and_once(offered):
    memory, now = Memory(12 * MB), time.monotonic()
    assert not memory.look(now)  # nothing to see to
    held, waits = (memory.keep(pieces_of(bytes(MB), MB), MB) for _ in range(2))
    del waits
    gc.collect()
    assert memory.look(now)  # from when it waits
    assert memory.look(now + IDLE_SECONDS - 0.001)
    assert not offered
    assert memory.look(now + IDLE_SECONDS)  # one is held
    assert len(offered) == 1
    assert memory.look(now + 2 * IDLE_SECONDS)
    assert len(offered) == 1
    again = memory.keep(pieces_of(b"a" * MB, MB), MB)
    assert memory.bytes == 8 * MB
    assert again.buffer().to_pybytes() == b"a" * MB
    del held, again
    gc.collect()
    assert memory.look(now)  # they wait, and are not offered
    assert not memory.look(now + IDLE_SECONDS)
    assert len(offered) == 3
    assert memory.bytes == 8 * MB


def test_a_thread_sees_to_it_while_there_is_anything_to_see_to(offered, monkeypatch):
    monkeypatch.setattr(remote_memory, "IDLE_SECONDS", 0.05)

    def threads():
        return {thread for thread in threading.enumerate() if thread.name == "eau2-memory"} - others

    others = {thread for thread in threading.enumerate() if thread.name == "eau2-memory"}
    memory = Memory(12 * MB)
    for turn in range(2):
        kept = [memory.keep(pieces_of(bytes(MB), MB), MB) for _ in range(2)]
        assert len(threads()) == 1
        time.sleep(0.2)
        assert len(threads()) == 1
        kept.clear()
        gc.collect()
        until(lambda: not threads())
        assert len(offered) == 2 * (turn + 1)


def test_memory_is_used_where_there_is_no_thread_for_it_and_the_next_has_one(monkeypatch):
    monkeypatch.setattr(remote_memory, "IDLE_SECONDS", 0.05)
    memory, started = Memory(12 * MB), []

    def start(thread, start=threading.Thread.start):
        started.append(thread)
        if len(started) == 1:
            raise RuntimeError("can't start new thread")
        if len(started) == 2:
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    kept = memory.keep(pieces_of(b"a" * MB, MB), MB)
    assert kept.buffer().to_pybytes() == b"a" * MB
    with pytest.raises(KeyboardInterrupt):
        memory.keep(pieces_of(b"b" * MB, MB), MB)
    assert memory.keep(pieces_of(b"c" * MB, MB), MB).buffer().to_pybytes() == b"c" * MB
    assert memory.bytes == 8 * MB  # what was interrupted holds nothing
    assert len(started) == 3
    del kept
    gc.collect()
    until(lambda: not started[-1].is_alive())


def test_a_thread_that_fails_is_followed_by_another(monkeypatch):
    offered, failed = [], []
    monkeypatch.setattr(remote_memory, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(threading, "excepthook", failed.append)

    def fail(region):
        offered.append(region)
        if len(offered) == 1:
            raise MemoryError

    monkeypatch.setattr(remote_memory, "_offer", fail)
    memory = Memory(4 * MB)
    for _ in range(2):
        memory.keep(pieces_of(bytes(MB), MB), MB)
        gc.collect()
        until(lambda: not memory._is_looking)
    assert len(offered) == 2
    assert [each.exc_type for each in failed] == [MemoryError]


AT_THE_END = """
import builtins, weakref
from eau2.remote.memory import Memory
import pyarrow as pa

class Late:
    def __init__(self):
        self.memory, self.piece = Memory(8 << 20), pa.py_buffer(b"x" * (1 << 20))

    def __del__(self, print=print):
        print(self.memory.keep([self.piece], 1 << 20).buffer().size, flush=True)

weakref.finalize(Late, id, 0).atexit = False  # as whoever holds a frame has done before: the first imports something
builtins.late = Late()  # goes when the interpreter's own modules do: no thread can begin then
"""


@pytest.mark.slow
def test_memory_is_used_at_the_end_of_the_interpreter():
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (f"{MB}\n", "")


def test_a_forked_child_waits_for_no_lock_and_has_none_of_the_regions_that_wait():
    memory = Memory(12 * MB)
    memory.keep(pieces_of(bytes(MB)), MB)
    gc.collect()
    with memory._lock:  # as another thread may have it at the moment of the fork
        memory.abandon()
        kept = memory.keep(pieces_of(b"x" * MB), MB)
    assert kept.buffer().to_pybytes() == b"x" * MB


def test_more_than_was_announced_is_damage_and_keeps_nothing():
    memory = Memory(4 * MB)
    for _ in range(3):
        with pytest.raises(Corrupt, match="more than the 1,500,000 bytes"):
            memory.keep(pieces_of(bytes(2_000_000)), 1_500_000)
    assert memory.keep(pieces_of(bytes(1_500_000)), 1_500_000) is not None


@pytest.mark.parametrize("memory_bytes", [0, 4 * MB, 64 * MB])
def test_a_cache_keeps_in_memory_what_fits_and_the_rest_in_files(memory_bytes):
    chunks = [bytes([number]) * (2 * MB) for number in range(6)]
    names = [identify(pa.py_buffer(data)) for data in chunks]
    memory = Memory(memory_bytes)
    cache = ChunkCache(100 * MB, memory)
    named = zip(names, chunks, strict=True)
    found = [cache.get(name, lambda data=data: pieces_of(data, MB), 2 * MB) for name, data in named]
    assert [buffer.to_pybytes() for buffer in found] == chunks
    assert memory.bytes == min(memory_bytes, 24 * MB)
    for size in (2 * MB, 3 * MB):  # fewer come than were announced
        with pytest.raises(Corrupt, match="damaged on its way"):
            cache.get("0" * 32, lambda: pieces_of(b"x" * MB, MB), size)


def test_threads_that_keep_and_let_go_never_share_a_region():
    memory, wrong = Memory(64 * MB), []

    def work(number):
        for turn in range(200):
            data = bytes([number * 50 + turn % 50]) * (MB + turn)
            kept = memory.keep(pieces_of(data, 500_000), len(data))
            if kept is None or kept.buffer().to_pybytes() != data:
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memory.bytes <= 64 * MB

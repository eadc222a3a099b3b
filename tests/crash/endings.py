"""Programs that are ended from outside: `python -m tests.crash.endings WHAT DIRECTORY` prints "ready" and goes on."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

import eau2
from eau2.errors import StoreClosed

LONG_SECONDS = 600  # what has to be ended would go on for so long


def ready() -> None:
    print("ready", flush=True)


def wait(store) -> None:
    ready()
    store.wait("never", timeout_seconds=LONG_SECONDS)


def wait_in_threads(store) -> None:
    def wait_until_closed() -> None:
        # Said, it might be cut off by the end of the process, which Python then aborts.
        with contextlib.suppress(StoreClosed):
            store.wait("never", timeout_seconds=LONG_SECONDS)

    threads = [threading.Thread(target=wait_until_closed, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready()
    time.sleep(LONG_SECONDS)


def query(store) -> None:
    """A join of 25 times 10^8 pairs, which takes minutes."""
    store.sql("select count(*) from f").to_arrow()  # imports the engine
    ready()
    print(store.sql("select count(*) from f a join f b on a.n % 7 <> b.n % 11 where a.n * b.n % 13 = 5").to_arrow())


def slowly(table) -> int:
    ready()
    time.sleep(LONG_SECONDS)
    return table.num_rows


def map_in_processes(store) -> None:
    store.frame("f").map_chunks(slowly, workers="processes")


def map_in_threads(store) -> None:
    store.frame("f").map_chunks(slowly, workers="threads")


def write(store) -> None:
    # pyarrow imports pandas for the first dict, and numpy.random loses a Ctrl-C that comes while it is imported
    store.put("g", {"n": [0]})
    ready()
    for number in range(10**9):
        store.put(f"k{number % 10}", b"%d" % number)
        store.put("g", {"n": [number]})


def put_stream(store) -> None:
    def batches():
        while True:
            yield from store.frame("f").batches()

    store.put("stream", store.frame("f").batches())  # imports what a stream takes
    ready()
    store.put("stream", batches())


def idle(store) -> None:
    ready()
    time.sleep(LONG_SECONDS)


if __name__ == "__main__":
    with eau2.open(sys.argv[2]) as opened:
        globals()[sys.argv[1]](opened)

"""How long close() takes while threads put, get, wait, map and ask: at most a second, on one node and on four."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from typing import TYPE_CHECKING

import eau2
from benchmarks.measure import scratch, sized, target
from eau2.errors import Eau2Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.store.store import Store

THREADS = 4
ROWS = 2_000_000
SECONDS_MAX = 1.0


def _putting(store: Store, name: str) -> None:
    for number in range(10**9):
        store.put(f"{name}/{number % 100}", b"%d" % number)


def _putting_many(store: Store, name: str) -> None:
    for number in range(10**9):
        store.put_many({f"{name}/{each}": b"%d" % number for each in range(1000)})


def _getting(store: Store, name: str) -> None:
    while True:
        store.get("a")


def _waiting(store: Store, name: str) -> None:
    store.wait(f"never/{name}", timeout_seconds=60)


def _framing(store: Store, name: str) -> None:
    for number in range(10**9):
        store.put(f"{name}/frame", {"n": range(number % 7, ROWS // 10)})


def _asking(store: Store, name: str) -> None:
    store.sql("select sum(a.n * b.n) from f a, f b where a.n + b.n > 10").to_arrow()


def _mapping(store: Store, name: str) -> None:
    store.frame("f").map_chunks(lambda table: time.sleep(3))  # a thread cannot be ended: it is left


def _mapping_in_processes(store: Store, name: str) -> None:
    store.frame("f").map_chunks(lambda table: time.sleep(60), workers="processes")


STATES: dict[str, Callable[[Store, str], None] | None] = {
    "nothing": None,
    "put": _putting,
    "put_many": _putting_many,
    "get": _getting,
    "wait": _waiting,
    "put of frames": _framing,
    "sql": _asking,
    "map_chunks in threads": _mapping,
    "map_chunks in processes": _mapping_in_processes,
}


def run() -> dict[str, object]:
    """Return the seconds of close() in each state, on one and on four nodes."""
    seconds: dict[str, dict[str, list[float]]] = {state: {"1": [], "4": []} for state in STATES}
    for _ in range(sized(2, 1)):
        for state, work in STATES.items():
            for nodes in ("1", "4"):
                seconds[state][nodes].append(_close(work, int(nodes)))
    worst = max(each for found in seconds.values() for times in found.values() for each in times)
    return {
        "figures": {"threads": THREADS, "seconds": seconds},
        "targets": [
            target("close() from any state, the longest of all", worst * 1e3, at_most=SECONDS_MAX * 1e3, unit="ms")
        ],
        "tables": [
            {
                "title": f"Milliseconds of close() while {THREADS} threads do this: median, longest",
                "columns": ["", "1 node", "longest", "4 nodes", "longest"],
                "rows": [
                    [state, *(1e3 * one(found[nodes]) for nodes in ("1", "4") for one in (statistics.median, max))]
                    for state, found in seconds.items()
                ],
            }
        ],
    }


def _close(work: Callable[[Store, str], None] | None, nodes: int) -> float:
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        store = eau2.open(f"{folder}/store", nodes=nodes)
        store.put("a", b"1")
        store.put("f", {"n": range(ROWS)})
        threads = [
            threading.Thread(target=_until_closed, args=(work, store, str(number)), daemon=True)
            for number in range(THREADS if work else 0)
        ]
        for thread in threads:
            thread.start()
        time.sleep(1.0 if work is _mapping_in_processes else 0.3)
        start = time.perf_counter()
        store.close()
        seconds = time.perf_counter() - start
        for thread in threads:
            thread.join(20)
        return seconds


def _until_closed(work: Callable[[Store, str], None], store: Store, name: str) -> None:
    try:
        work(store, name)
    except Eau2Error:
        return


if __name__ == "__main__":
    print(run())

"""What the other process does in frames.py: `python -m benchmarks.frame_children NAME STORE [...]`, prints JSON.

Imports nothing that eau2 does not itself, so that its memory is that of a plain user of eau2.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from typing import TYPE_CHECKING

import pyarrow.compute as pc

import eau2

if TYPE_CHECKING:
    from collections.abc import Callable


def milliseconds(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1e3, result


def resident() -> dict[str, float]:
    """Resident MB of this process: its own ("anonymous"), and pages of files, which processes share."""
    kinds = {"RssAnon": "anonymous", "RssFile": "file"}
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {name: int(lines[kind].split()[0]) / 1024 for kind, name in kinds.items()}


def read(path: str, *keys: str) -> dict:
    """Get each frame twice (first and again), then touch every page of the last one's columns."""
    opened, store = milliseconds(lambda: eau2.open(path))
    empty = resident()
    first, again, tables = {}, {}, {}
    for key in keys:
        first[key], tables[key] = milliseconds(lambda: store.frame(key).to_arrow())  # noqa: B023  # called at once
    for key in keys:
        again[key] = milliseconds(lambda: store.frame(key).to_arrow())[0]  # noqa: B023
    got = resident()
    touched, _ = milliseconds(lambda: sum(float(pc.sum(column).as_py()) for column in tables[keys[-1]].columns))
    return {
        "open": opened,
        "first": first,
        "again": again,
        "touch": touched,
        "memory": {"opened": empty, "got": got, "touched": resident()},
        "verified": store.statistics().chunks_verified,
    }


def first_read(path: str, key: str) -> dict:
    """Map the frame and read all of it once: what a first reader pays."""
    store = eau2.open(path)
    mapped, table = milliseconds(lambda: store.frame(key).to_arrow())
    summed, _ = milliseconds(lambda: sum(float(pc.sum(column).as_py()) for column in table.columns))
    return {"map": mapped, "sum": summed, "verified": store.statistics().chunks_verified}


def waiter(path: str, rounds: str) -> dict:
    """Wait for key after key; the value is the clock's reading just before the put. Late by how much?"""
    store = eau2.open(path)
    late = []
    for index in range(int(rounds)):
        print("ready", flush=True)
        put_at = float(store.wait(f"go/{index}", timeout_seconds=30))
        late.append((time.monotonic() - put_at) * 1e3)  # this clock is the machine's, not the process's
    return {"late": late}


def idle(path: str, seconds: str) -> dict:
    """Wait for what nobody puts; how much processor time does that take?"""
    store = eau2.open(path)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    with contextlib.suppress(eau2.WaitTimeout):
        store.wait("never", timeout_seconds=float(seconds))
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - start
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cores": used / wall, "late": (wall - float(seconds)) * 1e3}


def opening(path: str) -> dict:
    """Open a store that is there, get a key, close."""
    opened, store = milliseconds(lambda: eau2.open(path))
    got, _ = milliseconds(lambda: store.get("hello"))
    closed, _ = milliseconds(store.close)
    return {"open": opened, "first_get": got, "close": closed}


if __name__ == "__main__":
    programs = {program.__name__: program for program in (read, first_read, waiter, idle, opening)}
    print(json.dumps(programs[sys.argv[1]](*sys.argv[2:])))

"""put, get, read and delete of one frame, again and again: memory, disk, open files and threads stay what they were."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

import eau2
from benchmarks.measure import scratch, sized

COLUMNS = 5


def run(rounds: int | None = None, frame_bytes: int | None = None) -> dict[str, object]:
    """Return what the process holds at the start (after a tenth of the rounds), in the middle and at the end."""
    rounds = rounds or sized(1000, 20)
    frame_bytes = frame_bytes or sized(50_000_000, 2_000_000)
    source = {
        f"c{number}": np.random.default_rng(number).random(frame_bytes // 8 // COLUMNS) for number in range(COLUMNS)
    }
    held: dict[str, dict[str, int]] = {}
    moments = {max(1, rounds // 10): "start", rounds // 2: "middle", rounds: "end"}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=scratch()) as folder, eau2.open(folder + "/store") as store:
        store.put("kept", b"kept")
        for number in range(1, rounds + 1):
            source["c0"][0] = number  # each round's chunk is a new one
            store.put("frame", source)
            table = store.frame("frame").to_arrow()
            if table.column("c0")[0].as_py() != number or pa.compute.sum(table.column("c1")).as_py() <= 0:
                raise AssertionError(f"round {number} read something else")
            store.delete("frame")
            if number in moments:
                del table
                held[moments[number]] = _held(folder)
    names = list(held["end"])
    return {
        "figures": {"rounds": rounds, "frame_bytes": frame_bytes, "seconds": time.perf_counter() - start, "held": held},
        "targets": [],
        "tables": [
            {
                "title": f"{rounds:,} rounds of a frame of {frame_bytes:,} bytes",
                "columns": ["after", *(name.replace("_bytes", ", MB").replace("_", " ") for name in names)],
                "rows": [
                    [moment, *(size / 1e6 if name.endswith("_bytes") else size for name, size in sizes.items())]
                    for moment, sizes in held.items()
                ],
            }
        ],
    }


def _held(folder: str) -> dict[str, int]:
    deadline = time.monotonic() + 5.0  # threads that end when nothing has been asked for a while
    while any(thread.name == "eau2-idle" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    gc.collect()
    process = psutil.Process()
    sizes = {
        f"{at}/{name}": os.stat(f"{at}/{name}").st_blocks * 512 for at, _, names in os.walk(folder) for name in names
    }
    log = sum(
        size for path, size in sizes.items() if path.endswith("-wal")
    )  # grows to 33 MB and is used again from there
    return {
        "resident_bytes": process.memory_info().rss,
        "disk_bytes": sum(sizes.values()) - log,
        "log_bytes": log,
        "files": len(sizes),
        "descriptors": process.num_fds(),
        "threads": threading.active_count(),
        "mappings": Path("/proc/self/maps").read_text().count("\n"),
    }


if __name__ == "__main__":
    print(run())

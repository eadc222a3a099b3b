"""Frames: the cost of putting one, of getting it in another process, of waiting for it, of opening and importing."""

from __future__ import annotations

import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

import eau2
from benchmarks.measure import QUICK_RUNS, RUNS, child, interleaved, percentile, scratch, sized, target

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = 10
SMALL_BYTES, BIG_BYTES = 100_000_000, 1_000_000_000
WAKES, SLOW_WAKES = 50, 10
IDLE_SECONDS = 5
RESTS = (0.02, 0.06)  # seconds before a put that wakes a waiter: it has gone to sleep by then
LONG_REST = 1.0
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def table_of(size: int) -> pa.Table:
    """A table of `size` bytes: ten columns of float64."""
    rows = size // (8 * COLUMNS)
    return pa.table({f"c{index}": np.random.default_rng(index).random(rows) for index in range(COLUMNS)})


def run() -> dict:
    big = sized(BIG_BYTES, BIG_BYTES // 10)
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="frames") as folder:
        table = table_of(big)
        figures = {"put": {flush: _put(table, folder, flush) for flush in ("process", "power")}}
        path = os.path.join(folder, "store")
        with eau2.open(path) as store:
            store.put("hello", b"world")
            store.put("tiny", table.slice(0, 1000))
            store.put("small", table.slice(0, table.num_rows * SMALL_BYTES // BIG_BYTES))
            store.put("big", table)
            figures["chunks"] = {key: store.frame(key).chunks for key in ("tiny", "small", "big")}
            figures["bytes"] = {key: store.frame(key).bytes for key in ("tiny", "small", "big")}
        del table
        figures["get"] = _get(path)
        figures["first_read"] = _first_read(path)
        figures["wake"] = _wake(path)
        figures["idle"] = json.loads(child("benchmarks.frame_children", "idle", path, IDLE_SECONDS))
        figures["start"] = _start(path)
    return {"figures": figures, "targets": _targets(figures), "tables": _tables(figures)}


def _put(table: pa.Table, folder: str, flush: str) -> dict:
    """Rates of writing `table`: as a frame, and with pyarrow to one file."""
    path = os.path.join(folder, f"put-{flush}")
    file_path = os.path.join(folder, "one.arrow")

    def plain() -> None:
        with pa.OSFile(file_path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        if flush == "power":
            descriptor = os.open(file_path, os.O_RDWR)
            os.fsync(descriptor)
            os.close(descriptor)

    with eau2.open(path, flush=flush) as store:  # type: ignore[arg-type]

        def clean(_: str) -> None:
            """Nothing of the runs before is left on the disk, in the page cache or on its way to the disk."""
            store.delete("big")
            pathlib.Path(file_path).unlink(missing_ok=True)
            os.sync()

        timings = interleaved({"eau2": lambda: store.put("big", table), "pyarrow": plain}, before=clean)
        clean("")
        left = store.statistics().chunks
    assert left == 0, f"{left} chunks are left after the frame was deleted"
    return {name: {"bytes_per_second": table.nbytes / one.median, **one.figures()} for name, one in timings.items()}


def _runs() -> int:
    return sized(RUNS, QUICK_RUNS)


def _get(path: str) -> dict:
    """Medians over fresh processes."""
    seen = [
        json.loads(child("benchmarks.frame_children", "read", path, "tiny", "small", "big")) for _ in range(_runs() + 1)
    ][1:]
    keys = ("tiny", "small", "big")
    return {
        "first_ms": {key: statistics.median(one["first"][key] for one in seen) for key in keys},
        "again_ms": {key: statistics.median(one["again"][key] for one in seen) for key in keys},
        "touch_ms": statistics.median(one["touch"] for one in seen),
        "memory_mb": seen[-1]["memory"],
        "chunks_verified": seen[-1]["verified"],
    }


def _first_read(path: str) -> dict:
    """Mapping and reading "big" whole: chunks known to be untouched, and chunks that must be hashed."""
    return {
        name: {kind: statistics.median(one[kind] for one in seen) for kind in ("map", "sum", "verified")}
        for name, seen in {
            "trusted": [_one_first_read(path, touch=False) for _ in range(_runs())],
            "hashed": [_one_first_read(path, touch=True) for _ in range(_runs())],
        }.items()
    }


def _one_first_read(path: str, *, touch: bool) -> dict:
    if touch:  # what another program may have changed is hashed
        for file in pathlib.Path(path).rglob("*"):
            if file.is_file() and file.stat().st_size > 1 << 20 and "chunk" in str(file.relative_to(path)):
                os.utime(file)
    return json.loads(child("benchmarks.frame_children", "first_read", path, "big"))


def _wake(path: str) -> dict:
    rounds = sized(WAKES, 10)
    late = _late(path, rounds, lambda random_: random_.uniform(*RESTS))
    after_a_rest = _late(path, SLOW_WAKES, lambda _: LONG_REST) if rounds == WAKES else late
    return {
        "rounds": rounds,
        "late_ms": {f"p{percent}": percentile(late, percent) for percent in (50, 90, 99, 100)},
        "late_after_a_second_ms": {f"p{percent}": percentile(after_a_rest, percent) for percent in (50, 100)},
    }


def _late(path: str, rounds: int, rest: Callable[[random.Random], float]) -> list[float]:
    random_ = random.Random(7)
    command = [sys.executable, "-m", "benchmarks.frame_children", "waiter", path, str(rounds)]
    with eau2.open(path) as store, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        store.delete_many([f"go/{index}" for index in range(rounds)])
        for index in range(rounds):
            assert process.stdout.readline() == "ready\n"
            time.sleep(rest(random_))
            store.put(f"go/{index}", repr(time.monotonic()).encode())
        return json.loads(process.stdout.read())["late"]


def _start(path: str) -> dict:
    """Medians over fresh processes, in milliseconds."""
    opened = [json.loads(child("benchmarks.frame_children", "opening", path)) for _ in range(_runs() + 1)][1:]
    runs = interleaved(
        {
            **{name: lambda name=name: float(_python(IMPORT.format(name))) for name in ("eau2", "pyarrow")},
            "python": lambda: _python("pass"),
        }
    )
    return {
        "import_ms": runs["eau2"].median * 1e3,
        "import_pyarrow_ms": runs["pyarrow"].median * 1e3,
        "python_ms": runs["python"].median * 1e3,
        **{f"{name}_ms": statistics.median(one[name] for one in opened) for name in ("open", "first_get", "close")},
    }


def _python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def _targets(figures: dict) -> list[dict]:
    put = {
        flush: rates["eau2"]["bytes_per_second"] / rates["pyarrow"]["bytes_per_second"]
        for flush, rates in figures["put"].items()
    }
    get, start = figures["get"], figures["start"]
    return [
        target("put of a 1 GB table, of pyarrow's rate to one file", put["process"], at_least=0.7),
        target("the same, both flushed to the medium", put["power"], at_least=0.7),
        target("first get of a 1 GB frame in another process", get["first_ms"]["big"], at_most=5, unit="ms"),
        target(
            "a waiter in another process wakes, 99th percentile",
            figures["wake"]["late_ms"]["p99"],
            at_most=20,
            unit="ms",
        ),
        target("processors used by a waiter", figures["idle"]["cores"], at_most=0.02, unit="cores"),
        target("eau2.open", start["open_ms"], at_most=50, unit="ms"),
        target("import eau2", start["import_ms"], at_most=300, unit="ms"),
    ]


def _tables(figures: dict) -> list[dict]:
    get, start, memory = figures["get"], figures["start"], figures["get"]["memory_mb"]
    chunks, sizes = figures["chunks"], figures["bytes"]
    return [
        {
            "title": "Writing a table of ten float columns, GB/s",
            "columns": ["", "eau2 put", "pyarrow IPC, one file", "ratio"],
            "rows": [
                [
                    {"process": "handed to the operating system", "power": "flushed to the medium"}[flush],
                    *(rates[name]["bytes_per_second"] / 1e9 for name in ("eau2", "pyarrow")),
                    rates["eau2"]["bytes_per_second"] / rates["pyarrow"]["bytes_per_second"],
                ]
                for flush, rates in figures["put"].items()
            ],
        },
        {
            "title": "Getting a frame in another process, ms",
            "columns": ["frame, MB", "chunks", "first get", "again"],
            "rows": [
                [sizes[key] / 1e6, chunks[key], get["first_ms"][key], get["again_ms"][key]]
                for key in ("tiny", "small", "big")
            ],
        },
        {
            "title": "Memory of that process, MB",
            "columns": ["", "its own", "of files (shared)"],
            "rows": [
                [words, memory[when]["anonymous"], memory[when]["file"]]
                for when, words in (
                    ("opened", "store open"),
                    ("got", "all frames got"),
                    ("touched", "every value of the largest read"),
                )
            ],
        },
        {
            "title": "First read of the largest frame, ms",
            "columns": ["", "get", "read every value", "chunks hashed", "hashed at, GB/s"],
            "rows": [
                [
                    {"trusted": "chunks known to be untouched", "hashed": "chunks that may have been changed"}[name],
                    one["map"],
                    one["sum"],
                    one["verified"],
                    sizes["big"] / 1e6 / one["map"] if one["verified"] else None,
                ]
                for name, one in figures["first_read"].items()
            ],
        },
        {
            "title": "Waiting and starting",
            "columns": ["", "ms"],
            "rows": [
                *(
                    [f"waiter in another process wakes, {name}", value]
                    for name, value in figures["wake"]["late_ms"].items()
                ),
                ["the same after a second of nothing, p50", figures["wake"]["late_after_a_second_ms"]["p50"]],
                ["processor time a second of waiting", figures["idle"]["cores"] * 1e3],
                ["import eau2", start["import_ms"]],
                ["of that, import pyarrow", start["import_pyarrow_ms"]],
                ["python -c pass", start["python_ms"]],
                ["eau2.open of a store that is there", start["open_ms"]],
                ["first get of bytes after that", start["first_get_ms"]],
                ["close", start["close_ms"]],
            ],
        },
    ]

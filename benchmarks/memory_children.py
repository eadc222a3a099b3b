"""What larger_than_memory.py runs in processes of their own, so that their memory is that of this alone.

`python -m benchmarks.memory_children NAME STORE [...]` prints JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

import eau2

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH_ROWS = 65_536
COLUMNS = 8


def stream(size: int) -> Iterator[pa.RecordBatch]:
    """Batches of random floats, of `size` bytes together, none kept."""
    random = np.random.default_rng(3)
    for _ in range(size // (BATCH_ROWS * 8 * COLUMNS)):
        yield pa.record_batch({f"c{column}": random.random(BATCH_ROWS) for column in range(COLUMNS)})


def put_stream(path: str, size: str) -> dict:
    with eau2.open(path) as store:
        store.put("stream", stream(int(size)))
        frame = store.frame("stream")
        return {"rows": frame.rows, "bytes": frame.bytes, "chunks": frame.chunks}


def load(path: str, file: str) -> dict:
    with eau2.open(path) as store:
        report = store.load("loaded", file, progress=False)
        return {"rows": report.rows, "bad": report.bad}


def query(path: str, memory_bytes: str, text: str) -> dict:
    with eau2.open(path, memory_bytes=int(memory_bytes)) as store:
        return {"answer": store.sql(text).to_arrow().to_pylist()}


if __name__ == "__main__":
    programs = {program.__name__: program for program in (put_stream, load, query)}
    start = time.perf_counter()
    result = programs[sys.argv[1]](*sys.argv[2:])
    result["seconds"] = time.perf_counter() - start
    result["maxrss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))

"""A driver that asks a machine of Ray over ray:// to put a table and to get it back. ADDRESS BYTES."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import ray

from benchmarks.peers import serve

COLUMNS = 10


def main() -> None:
    address, size = sys.argv[1], int(sys.argv[2])
    rows = size // (8 * COLUMNS)
    table = pa.table({f"c{index}": np.random.default_rng(index).random(rows) for index in range(COLUMNS)})
    ray.init(address, logging_level="ERROR")
    kept = [ray.put(table)]

    def answer(name: str) -> pa.Table:
        if name == "put":
            kept[0] = None  # its memory is free for the next
            kept[0] = ray.put(table)
            return table.slice(0, 0)
        return ray.get(kept[0]).slice(0, 0)

    serve(answer)
    ray.shutdown()


if __name__ == "__main__":
    main()

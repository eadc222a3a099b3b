"""Ray's own object store, asked to put a table and to get it back: see `peers`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import ray

from benchmarks.frames import table_of
from benchmarks.peers import serve

if TYPE_CHECKING:
    import pyarrow as pa


def main() -> None:
    size = int(sys.argv[1])
    table = table_of(size)
    ray.init(num_cpus=1, object_store_memory=3 * size, include_dashboard=False, log_to_driver=False)
    kept = [ray.put(table)]

    def answer(name: str) -> pa.Table:
        if name == "put":
            kept[0] = None  # its memory is free for the next
            kept[0] = ray.put(table)
            return table.slice(0, 0)
        return ray.get(kept[0])

    serve(answer)
    ray.shutdown()


if __name__ == "__main__":
    main()

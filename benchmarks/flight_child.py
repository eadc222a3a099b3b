"""Processes for flight.py: a Flight server of nothing but pyarrow, which keeps what it is given in memory; and a driver
that asks Ray over ray:// to put and get a table."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa
from pyarrow import flight

from benchmarks.frames import table_of
from benchmarks.peers import serve


class Bare(flight.FlightServerBase):
    """Keeps one table."""

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self.table = reader.read_all()

    def do_get(self, context: Any, ticket: Any) -> flight.RecordBatchStream:
        return flight.RecordBatchStream(self.table)


def bare() -> None:
    with Bare(("127.0.0.1", 0)) as server:
        print(server.port, flush=True)
        sys.stdin.read()


def ray_client(address: str, size: int) -> None:
    import ray

    table = table_of(size)
    ray.init(address, logging_level="ERROR")
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
    bare() if sys.argv[1] == "bare" else ray_client(sys.argv[2], int(sys.argv[3]))

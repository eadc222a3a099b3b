"""eau2 on Ray with 1, 2, 4 and 8 nodes of this machine: time and bytes moved; and a gigabyte put and got back.

More nodes are no faster here than the machine has processors: what is seen is what they cost.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

from benchmarks.distributed import Asked
from benchmarks.frames import BIG_BYTES, table_of
from benchmarks.local_cluster import cluster
from benchmarks.measure import interleaved, scratch, sized
from benchmarks.peers import NODES
from benchmarks.questions import QUERIES, buyers, sales

if TYPE_CHECKING:
    import eau2

COUNTS = (1, 2, 4, 8)
ROWS, ROWS_PER_NODE = 8_000_000, 2_000_000
MOVES = {  # how the rows of each move
    "filter": "scan",
    "group by 100 integers": "partial and final",
    "join with a small table": "broadcast",
    "join with itself": "exchange",
}


def run() -> dict:
    figures = {
        "fixed": {str(nodes): _measured(nodes, sized(ROWS, ROWS // 20)) for nodes in COUNTS},
        "growing": {
            str(nodes): _measured(nodes, nodes * sized(ROWS_PER_NODE, ROWS_PER_NODE // 20)) for nodes in COUNTS
        },
        "large": _large(sized(BIG_BYTES, BIG_BYTES // 20)),
    }
    return {"figures": figures, "targets": [], "tables": _tables(figures)}


def _measured(nodes: int, rows: int) -> dict:
    with cluster(nodes) as store:
        store.put("buyers", buyers())
        store.put("sales", sales(rows))
        timings = interleaved({name: lambda name=name: _ask(store, name) for name in MOVES})
        moved = {name: _moved_by(store, name) for name in MOVES}
    return {
        "rows": rows,
        "questions": {name: {"bytes_moved": moved[name], **timing.figures()} for name, timing in timings.items()},
    }


def _ask(store: eau2.Store, name: str) -> None:
    store.sql(QUERIES[name]).to_arrow()


def _moved_by(store: eau2.Store, name: str) -> int:
    before = store.statistics().bytes_moved
    _ask(store, name)
    return store.statistics().bytes_moved - before


def _large(size: int) -> dict:
    """Put and get a table on four nodes, two copies on disk; and in Ray's object store, one copy in memory."""
    table = table_of(size)
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="scaling") as folder, cluster(NODES) as store:
        other = Asked("ray", [sys.executable, "-m", "benchmarks.object_store_child", str(size)], f"{folder}/ray.log")
        try:
            other.ready()
            puts = interleaved(
                {"eau2": lambda: store.put("big", table), "ray": lambda: other.ask("put")}, before=lambda _: os.sync()
            )
            gets = interleaved({"eau2": lambda: _read(store), "ray": lambda: other.ask("get")})
        finally:
            other.end()
    return {
        "bytes": table.nbytes,
        "put": {name: timing.figures() for name, timing in puts.items()},
        "get": {name: timing.figures() for name, timing in gets.items()},
    }


def _read(store: eau2.Store) -> None:
    store.frame("big").to_arrow()


def _tables(figures: dict) -> list[dict]:
    tables = [
        {
            "title": title,
            "columns": [
                "",
                "moves",
                *(f"{nodes} nodes, ms" for nodes in COUNTS),
                *(f"{nodes}, MB moved" for nodes in COUNTS),
            ],
            "rows": [
                [
                    name,
                    how,
                    *(figures[kind][str(nodes)]["questions"][name]["seconds"] * 1e3 for nodes in COUNTS),
                    *(figures[kind][str(nodes)]["questions"][name]["bytes_moved"] / 1e6 for nodes in COUNTS),
                ]
                for name, how in MOVES.items()
            ],
        }
        for kind, title in (
            ("fixed", f"{figures['fixed']['1']['rows']:,} rows"),
            ("growing", f"{figures['growing']['1']['rows']:,} rows a node"),
        )
    ]
    large = figures["large"]
    return [
        *tables,
        {
            "title": f"{large['bytes'] / 1e9:.3g} GB on {NODES} nodes, milliseconds",
            "columns": ["", "eau2: 2 copies, on disk", "Ray's object store: 1 copy, in memory"],
            "rows": [
                [what, *(large[what][name]["seconds"] * 1e3 for name in ("eau2", "ray"))] for what in ("put", "get")
            ],
        },
    ]

"""The 22 queries of TPC-H at scale 1: on four nodes of Ray, in one directory, by DataFusion and by DuckDB.

Every answer is compared with the others'. Four nodes of one machine with as many processors as one engine takes are no
faster than that engine: what is seen is what sending a query costs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import datafusion
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from tests.distributed.comparing import difference
from tests.distributed.tpch import QUERIES, TABLES

import eau2
from benchmarks.local_cluster import cluster
from benchmarks.measure import geometric_mean, interleaved, quick, scratch, target
from benchmarks.peers import NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ON_NODES, ONE = f"eau2, {NODES} nodes", "eau2, a directory"


def run() -> dict:
    scale = "0.05" if quick() else "1"
    with (
        tempfile.TemporaryDirectory(dir=scratch(), prefix="tpch") as folder,
        cluster(NODES) as several,
        eau2.open(f"{folder}/one") as one,
    ):
        for name, table in _generated(folder, scale):
            one.put(name, table)
            several.put(name, table)
        engines = _engines(one, several)
        seconds = {f"Q{number}": _one_query(engines, query) for number, query in QUERIES.items()}
        uncut = [number for number, query in QUERIES.items() if "not cut" in str(several.sql(query).explain())]
    figures = {"scale": scale, "nodes": NODES, "uncut": uncut, "seconds": seconds}
    return {"figures": figures, "targets": _targets(seconds), "tables": [_table(figures)]}


def _generated(folder: str, scale: str) -> list[tuple[str, pa.Table]]:
    program = Path(sys.executable).with_name("tpchgen-cli")
    command = [str(program), "parquet", "--scale-factor", scale, "--output-dir", folder]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return [(name, pq.read_table(f"{folder}/{name}.parquet", memory_map=True)) for name in TABLES]


def _engines(one: eau2.Store, several: eau2.Store) -> dict[str, Callable[[str], pa.Table]]:
    cores = os.cpu_count() or 1
    raw = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(cores))
    duck = duckdb.connect()
    for name in TABLES:
        table = one.frame(name).to_arrow()
        batches = table.to_batches()
        raw.register_record_batches(name, [batches[part::cores] for part in range(min(cores, len(batches)))])
        duck.register(name, table)
    return {
        ON_NODES: lambda query: several.sql(query).to_arrow(),
        ONE: lambda query: one.sql(query).to_arrow(),
        "datafusion": lambda query: pa.Table.from_batches(raw.sql(query).collect()),
        "duckdb": lambda query: duck.sql(query).to_arrow_table(),
    }


def _one_query(engines: Mapping[str, Callable[[str], pa.Table]], query: str) -> dict:
    answers: dict[str, pa.Table] = {}

    def asking(engine: str) -> Callable[[], None]:
        def ask() -> None:
            answers[engine] = engines[engine](query)

        return ask

    timings = interleaved({engine: asking(engine) for engine in engines})
    equal = all(difference(answers[ON_NODES], other, in_order=True) == "" for other in answers.values())
    return {"equal": equal, "rows": answers[ON_NODES].num_rows} | {
        engine: timing.figures() for engine, timing in timings.items()
    }


def _targets(seconds: dict) -> list[dict]:
    equal = sum(row["equal"] for row in seconds.values())
    return [target(f"queries of {len(seconds)} with the answer of one node, DataFusion and DuckDB", equal, at_least=22)]


def _table(figures: dict) -> dict:
    seconds = figures["seconds"]
    engines = (ON_NODES, ONE, "datafusion", "duckdb")
    means = [
        geometric_mean([row[engine]["seconds"] / row[ONE]["seconds"] for row in seconds.values()]) for engine in engines
    ]
    return {
        "title": f"TPC-H at scale {figures['scale']}, milliseconds",
        "columns": ["", "rows", *engines],
        "rows": [
            *(
                [name, row["rows"], *(row[engine]["seconds"] * 1e3 for engine in engines)]
                for name, row in seconds.items()
            ),
            ["time over one directory's, geometric mean", None, *means],
        ],
    }

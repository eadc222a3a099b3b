"""Ten questions to 20 million rows: eau2, its own engine used bare, DuckDB and Polars, on the same stored files."""

from __future__ import annotations

import math
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING

import datafusion
import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc

import eau2
from benchmarks.measure import geometric_mean, interleaved, scratch, sized, target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUYERS, KINDS, LABELS, REGIONS = 100_000, 100, 10_000, 50
ROWS_PER_PART = 1_000_000
RAW_RATIO_MAX, RAW_SECONDS_MIN = 1.10, 0.020  # shorter queries are planning, and noise
TOLERANCE = 1e-9  # sums of floats depend on their order

QUERIES = {
    "count, small table": "select count(*) as n from buyers where weight < 0.5",
    "group by 100,000 integers": "select buyer, sum(amount) as total, avg(amount) as mean from sales group by buyer",
    "group by 100 integers": "select kind, sum(amount) as total, avg(amount) as mean from sales group by kind",
    "group by 10,000 strings": "select label, sum(amount) as total, count(*) as n from sales group by label",
    "filter": "select buyer, amount from sales where amount < 0.01 and kind < 50",
    "needle": "select buyer, amount, label from sales where buyer = 31415",
    "top 100": "select buyer, amount from sales order by amount desc limit 100",
    "join with a small table": "select b.region, sum(s.amount * b.weight) as total"
    " from sales s join buyers b on s.buyer = b.buyer group by b.region",
    "count distinct": "select count(distinct buyer) as buyers, count(distinct label) as labels from sales",
    "join with itself": "select count(*) as n, sum(a.amount * b.amount) as total"
    " from sales a join sales b on a.id = b.id where a.kind < 20",
}


def rows() -> int:
    return int(float(os.environ.get("ROWS", sized(20_000_000, 1_000_000))))


def buyers() -> pa.Table:
    """buyer 0..99,999, weight in [0, 1), region of 50."""
    random = np.random.default_rng(11)
    regions = [f"region {index % REGIONS}" for index in range(BUYERS)]
    return pa.table({"buyer": np.arange(BUYERS), "weight": random.random(BUYERS), "region": pa.array(regions)})


def sales(count: int) -> Iterator[pa.RecordBatch]:
    """id (the row's number), buyer of 100,000, kind of 100, amount in [0, 1), label of 10,000; always the same."""
    random = np.random.default_rng(12)
    labels = pa.array([f"label {index:05d}" for index in range(LABELS)])
    for first in range(0, count, ROWS_PER_PART):
        size = min(ROWS_PER_PART, count - first)
        yield pa.record_batch(
            {
                "id": pa.array(np.arange(first, first + size)),
                "buyer": pa.array(random.integers(0, BUYERS, size)),
                "kind": pa.array(random.integers(0, KINDS, size)),
                "amount": pa.array(random.random(size)),
                "label": labels.take(pa.array(random.integers(0, LABELS, size))),
            }
        )


def run() -> dict:
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="queries") as folder, eau2.open(folder) as store:
        store.put("buyers", buyers())
        store.put("sales", sales(rows()))
        seconds = {name: _one_query(_engines(store, folder), name, query) for name, query in QUERIES.items()}
        figures = {"rows": rows(), "bytes": store.frame("sales").bytes, "seconds": seconds}
    return {"figures": figures, "targets": _targets(figures), "tables": _tables(figures)}


def _engines(store: eau2.Store, folder: str) -> dict[str, Callable[[str], object]]:
    """One function an engine, from a query to its answer, in the form that engine gives it in."""
    cores = os.cpu_count() or 1
    frames = {name: store.frame(name) for name in ("buyers", "sales")}

    raw = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(cores))
    duck = duckdb.connect()
    for name, frame in frames.items():
        batches = frame.to_arrow().to_batches()
        raw.register_record_batches(name, [batches[part::cores] for part in range(min(cores, len(batches)))])
        duck.register(name, frame.to_arrow())
    polar = polars.SQLContext({name: polars.scan_ipc(files) for name, files in _chunk_files(folder).items()})
    return {
        "eau2": lambda query: store.sql(query).to_arrow(),
        "datafusion": lambda query: raw.sql(query).collect(),
        "duckdb": lambda query: duck.sql(query).to_arrow_table(),
        "polars": lambda query: polar.execute(query).collect(engine="streaming"),
    }


def _chunk_files(folder: str) -> dict[str, list[pathlib.Path]]:
    """The chunks of both frames: every one is an Arrow IPC file that any reader of those can scan."""
    found: dict[str, list[pathlib.Path]] = {"buyers": [], "sales": []}
    for path in sorted(pathlib.Path(folder).glob("node-0/chunks/*/*.arrow")):
        with pa.OSFile(str(path)) as file:
            found["buyers" if "region" in pa.ipc.open_file(file).schema.names else "sales"].append(path)
    assert all(found.values()), found
    return found


def _one_query(engines: dict[str, Callable[[str], object]], name: str, query: str) -> dict:
    answers: dict[str, object] = {}

    def asking(engine: str) -> Callable[[], None]:
        def ask() -> None:
            answers[engine] = engines[engine](query)

        return ask

    # Not counted: each first answers a short question. Whichever ran first after Polars was up to 10 % slower, also
    # DataFusion; without this it would always be eau2, and DataFusion would find the threads that both share awake.
    timings = interleaved(
        {engine: asking(engine) for engine in engines}, before=lambda engine: engines[engine](QUERIES["needle"])
    )
    for engine, answer in answers.items():
        if not alike(answer, answers["eau2"]):
            raise RuntimeError(f"{name}: {engine} answers {_fingerprint(answer)}, eau2 {_fingerprint(answers['eau2'])}")
    return {engine: timing.figures() for engine, timing in timings.items()}


def alike(answer: object, other: object) -> bool:
    """Whether both have as many rows, and columns of equal sums (but for the order in which floats were added)."""
    one, two = _fingerprint(answer), _fingerprint(other)
    return len(one) == len(two) and all(
        math.isclose(found, wanted, rel_tol=TOLERANCE) for found, wanted in zip(one, two, strict=True)
    )


def _fingerprint(answer: object) -> list[float]:
    """The number of rows, then a column's sum where it is of numbers, or the length of its text together."""
    table = _table(answer)
    found = [float(table.num_rows)]
    for column in table.columns:
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            found.append(float(pc.sum(column).as_py()))
        else:
            found.append(float(pc.sum(pc.utf8_length(column.cast(pa.string()))).as_py()))
    return found


def _table(answer: object) -> pa.Table:
    if isinstance(answer, list):
        return pa.Table.from_batches(answer)
    return answer.to_arrow() if isinstance(answer, polars.DataFrame) else answer


def _speed_over(peer: str, seconds: dict) -> float:
    """Geometric mean of the peer's time over eau2's: above 1, eau2 is faster."""
    return geometric_mean([row[peer]["seconds"] / row["eau2"]["seconds"] for row in seconds.values()])


def _targets(figures: dict) -> list[dict]:
    seconds = figures["seconds"]
    long = {name: row for name, row in seconds.items() if row["datafusion"]["seconds"] > RAW_SECONDS_MIN}
    targets = [
        target(f"speed over {peer}, geometric mean", _speed_over(peer, seconds), at_least=1.0)
        for peer in ("duckdb", "polars")
    ]
    if long:
        worst, name = max((row["eau2"]["seconds"] / row["datafusion"]["seconds"], name) for name, row in long.items())
        what = f"time over bare DataFusion, of queries over 20 ms, at worst: {name}"
        targets.append(target(what, worst, at_most=RAW_RATIO_MAX))
    return targets


def _tables(figures: dict) -> list[dict]:
    seconds = figures["seconds"]
    peers = ["eau2", "datafusion", "duckdb", "polars"]
    means = [_speed_over(peer, seconds) for peer in peers]
    return [
        {
            "title": f"{figures['rows']:,} rows, {figures['bytes'] / 1e6:,.0f} MB, milliseconds",
            "columns": ["", *peers, "of datafusion's time"],
            "rows": [
                *(
                    [
                        name,
                        *(row[peer]["seconds"] * 1e3 for peer in peers),
                        row["eau2"]["seconds"] / row["datafusion"]["seconds"],
                    ]
                    for name, row in seconds.items()
                ),
                ["time over eau2's, geometric mean", *means, None],
            ],
        }
    ]

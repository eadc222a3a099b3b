"""Ten questions to 20 million rows: eau2, its own engine used bare, DuckDB and Polars, on the same stored files."""

from __future__ import annotations

import itertools
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING

import datafusion
import duckdb
import polars
import pyarrow as pa

import eau2
from benchmarks import questions
from benchmarks.measure import geometric_mean, interleaved, scratch, sized, target
from benchmarks.questions import QUERIES, buyers, sales

if TYPE_CHECKING:
    from collections.abc import Callable

RAW_RATIO_MAX, RAW_SECONDS_MIN = 1.10, 0.020  # shorter queries are planning, and noise
_asked = itertools.count()  # in the text of each query, or eau2 would plan it the first time only
AGAIN = "datafusion again"  # a second bare session over the same batches: how far this machine tells equals apart


def rows() -> int:
    return int(float(os.environ.get("ROWS", sized(20_000_000, 1_000_000))))


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

    raw, again = (datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(cores)) for _ in range(2))
    duck = duckdb.connect()
    for name, frame in frames.items():
        batches = frame.to_arrow().to_batches()
        for session in (raw, again):
            session.register_record_batches(name, [batches[part::cores] for part in range(min(cores, len(batches)))])
        duck.register(name, frame.to_arrow())
    polar = polars.SQLContext({name: polars.scan_ipc(files) for name, files in _chunk_files(folder).items()})
    return {
        "eau2": lambda query: store.sql(query).to_arrow(),
        "datafusion": lambda query: raw.sql(query).collect(),
        "duckdb": lambda query: duck.sql(query).to_arrow_table(),
        "polars": lambda query: polar.execute(query).collect(engine="streaming"),
        AGAIN: lambda query: again.sql(query).collect(),
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
            answers[engine] = engines[engine](f"{query} -- {next(_asked)}")

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
    return questions.alike(_fingerprint(answer), _fingerprint(other))


def _fingerprint(answer: object) -> list[float]:
    return questions.fingerprint(_table(answer))


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
            "columns": ["", *peers, "of datafusion's time", "its own, once more"],
            "rows": [
                *(
                    [
                        name,
                        *(row[peer]["seconds"] * 1e3 for peer in peers),
                        *(row[engine]["seconds"] / row["datafusion"]["seconds"] for engine in ("eau2", AGAIN)),
                    ]
                    for name, row in seconds.items()
                ),
                ["time over eau2's, geometric mean", *means, None, None],
            ],
        }
    ]

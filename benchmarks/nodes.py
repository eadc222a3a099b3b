"""Four nodes in one process against one: queries and a program over frames, small values, a large frame."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

import eau2
from benchmarks import kv, queries
from benchmarks.frames import BIG_BYTES, table_of
from benchmarks.kv_engines import Engine
from benchmarks.measure import QUICK_RUNS, RUNS, child, geometric_mean, interleaved, scratch, sized, target
from eau2.programs.linus import Degrees, linus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measure import Timing

NODES = 4
RATIO_MAX, SECONDS_MIN = 1.15, 0.020  # shorter queries are planning, and noise
USERS, PROJECTS, COMMITS = 1_000_000, 2_000_000, 20_000_000
COMMITS_PER_PART = 1_000_000
USER, DEGREES = 4967, 4
OPERATIONS = {  # name: operations in one run, when quick
    "get": (10_000, 1_000),
    "get_many": (20_000, 2_000),
    "put": (2_000, 200),
    "put_many": (10_000, 2_000),
}
WORDS = {
    "get": "gets one by one",
    "put": "puts one by one",
    "get_many": "gets, 1,000 random keys at a time",
    "put_many": "puts, 1,000 random keys at a time",
}
ONE, FOUR, FOUR_ALONE = "1 node", f"{NODES} nodes", f"{NODES} nodes, 1 copy"


def run() -> dict:
    figures = {"frames": _frames(), "keys": _keys(), "large": _large()}
    return {"figures": figures, "targets": _targets(figures), "tables": _tables(figures)}


def _open(stack: ExitStack, folder: str, name: str) -> eau2.Store:
    path = os.path.join(folder, name.replace(" ", "-"))
    options = {ONE: {}, FOUR: {"nodes": NODES}, FOUR_ALONE: {"nodes": NODES, "replicas": 1}}[name]
    return stack.enter_context(eau2.open(path, **options))


# --- queries and Linus


def commits(count: int) -> Iterator[pa.RecordBatch]:
    """project, author, committer: few projects and authors have most of the commits; always the same."""
    order = np.random.default_rng(21)
    for first in range(0, count, COMMITS_PER_PART):
        size = min(COMMITS_PER_PART, count - first)
        project, author, committer = (
            (limit * order.random(size) ** 3).astype(np.int64) for limit in (PROJECTS, USERS, USERS)
        )
        yield pa.record_batch({"project": project, "author": author, "committer": committer})


def _numbered(count: int) -> pa.Table:
    return pa.table({"id": np.arange(count), "name": np.arange(count)})


def _frames() -> dict:
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="nodes") as folder, ExitStack() as stack:
        stores = {name: _open(stack, folder, name) for name in (ONE, FOUR)}
        for store in stores.values():
            store.put("buyers", queries.buyers())
            store.put("sales", queries.sales(queries.rows()))
            store.put("users", _numbered(USERS))
            store.put("projects", _numbered(PROJECTS))
            store.put("commits", commits(sized(COMMITS, COMMITS // 20)))
        seconds = {name: _compared(stores, _asking(query)) for name, query in queries.QUERIES.items()}
        seconds["linus"] = _compared(stores, _linus)
        return {"rows": queries.rows(), "commits": stores[ONE].frame("commits").rows, "seconds": seconds}


def _asking(query: str) -> Callable[[eau2.Store], object]:
    return lambda store: store.sql(query).to_arrow()


def _linus(store: eau2.Store) -> object:
    users, projects, links = (store.frame(key) for key in ("users", "projects", "commits"))
    return linus(users, projects, links, user=USER, degrees=DEGREES)


def _compared(stores: dict[str, eau2.Store], work: Callable[[eau2.Store], object]) -> dict:
    """Time `work` on each store; the answers must be the same."""
    answers: dict[str, object] = {}

    def on(name: str) -> Callable[[], None]:
        def once() -> None:
            answers[name] = work(stores[name])

        return once

    needle = queries.QUERIES["needle"]
    timings = interleaved({name: on(name) for name in stores}, before=lambda name: stores[name].sql(needle).to_arrow())
    one, four = answers.values()
    if not (one == four if isinstance(one, Degrees) else queries.alike(one, four)):
        raise RuntimeError(f"{NODES} nodes answer {four}, one {one}")
    return _figures(timings)


def _figures(timings: dict[str, Timing]) -> dict:
    return {name: timing.figures() for name, timing in timings.items()}


# --- small values


def _keys() -> dict:
    found = {}
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="nodes") as folder, ExitStack() as stack:
        stores = {name: _engine(_open(stack, folder, name)) for name in (ONE, FOUR, FOUR_ALONE)}
        for store in stores.values():
            kv.fill(store)
        for operation, counts in OPERATIONS.items():
            count = sized(*counts)
            timings = interleaved({name: kv.work(store, operation, count, 1) for name, store in stores.items()})
            found[operation] = {
                name: {"per_second": count / timing.median, **timing.figures()} for name, timing in timings.items()
            }
    return found


def _engine(store: eau2.Store) -> Engine:
    return Engine(store.get, store.put, store.get_many, store.put_many, store.close)


# --- a large frame


def _large() -> dict:
    table = table_of(sized(BIG_BYTES, BIG_BYTES // 10))
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="nodes") as folder:
        with ExitStack() as stack:
            stores = {name: _open(stack, folder, name) for name in (ONE, FOUR, FOUR_ALONE)}

            def clean(_: str) -> None:
                for store in stores.values():
                    store.delete("big")
                os.sync()

            timings = interleaved(
                {name: lambda store=store: store.put("big", table) for name, store in stores.items()}, before=clean
            )
            clean("")
            for store in stores.values():
                store.put("big", table)
        puts = {name: {"bytes_per_second": table.nbytes / one.median, **one.figures()} for name, one in timings.items()}
        return {"bytes": table.nbytes, "put": puts, "get": _gets(folder, list(stores))}


def _gets(folder: str, names: list[str]) -> dict:
    """Medians over fresh processes, in turn: milliseconds to open, to get, and to read every value."""
    seen: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(sized(RUNS, QUICK_RUNS) + 1):
        for name in names:
            path = os.path.join(folder, name.replace(" ", "-"))
            seen[name].append(json.loads(child("benchmarks.frame_children", "read", path, "big")))
    return {
        name: {
            "open_ms": statistics.median(one["open"] for one in some[1:]),
            "first_ms": statistics.median(one["first"]["big"] for one in some[1:]),
            "again_ms": statistics.median(one["again"]["big"] for one in some[1:]),
            "touch_ms": statistics.median(one["touch"] for one in some[1:]),
        }
        for name, some in seen.items()
    }


# --- what was aimed at, and the tables


def _ratio(row: dict) -> float:
    return row[FOUR]["seconds"] / row[ONE]["seconds"]


def _targets(figures: dict) -> list[dict]:
    seconds = figures["frames"]["seconds"]
    long = {name: row for name, row in seconds.items() if name != "linus" and row[ONE]["seconds"] > SECONDS_MIN}
    targets = []
    if long:
        worst, name = max((_ratio(row), name) for name, row in long.items())
        what = f"time on {NODES} nodes over that on one, of queries over 20 ms, at worst: {name}"
        targets.append(target(what, worst, at_most=RATIO_MAX))
    return [*targets, target("the same, Linus", _ratio(seconds["linus"]), at_most=RATIO_MAX)]


def _tables(figures: dict) -> list[dict]:
    frames, keys, large = figures["frames"], figures["keys"], figures["large"]
    names = [ONE, FOUR, FOUR_ALONE]
    mean = geometric_mean([_ratio(row) for row in frames["seconds"].values()])
    return [
        {
            "title": f"Queries over {frames['rows']:,} rows, Linus over {frames['commits']:,} commits, milliseconds",
            "columns": ["", ONE, FOUR, "ratio"],
            "rows": [
                *(
                    [name, row[ONE]["seconds"] * 1e3, row[FOUR]["seconds"] * 1e3, _ratio(row)]
                    for name, row in frames["seconds"].items()
                ),
                ["geometric mean", None, None, mean],
            ],
        },
        {
            "title": "Small values, operations a second",
            "columns": ["", *names],
            "rows": [
                [WORDS[operation], *(row[name]["per_second"] for name in names)] for operation, row in keys.items()
            ],
        },
        {
            "title": f"A frame of {large['bytes'] / 1e6:,.0f} MB",
            "columns": ["", *names],
            "rows": [
                ["put, GB/s", *(large["put"][name]["bytes_per_second"] / 1e9 for name in names)],
                *(
                    [words, *(large["get"][name][field] for name in names)]
                    for field, words in (
                        ("open_ms", "open in another process, ms"),
                        ("first_ms", "first get there, ms"),
                        ("again_ms", "again, ms"),
                        ("touch_ms", "read every value, ms"),
                    )
                ),
            ],
        },
    ]

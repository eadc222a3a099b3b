"""Bytes under keys: gets and puts, one by one and many at once, from one thread, several, and four processes."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from benchmarks.kv_engines import Engine, connect, names, serving
from benchmarks.measure import interleaved, scratch, sized, target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEYS = 100_000
VALUE_BYTES = 100
BATCH = 1000
FILLS = 3
THREADS = 4
PROCESSES = 4
OPERATIONS = {  # name: operations in one run, when quick
    "get": (20_000, 2_000),
    "get_many": (100_000, 10_000),
    "put": (10_000, 1_000),
    "put_many": (100_000, 10_000),
    "get_many in order": (100_000, 10_000),
    "put_many in order": (100_000, 10_000),
}
FLUSHED_OPERATIONS = {
    **OPERATIONS,
    "put": (1_000, 100),
    "put_many": (20_000, 5_000),
    "put_many in order": (20_000, 5_000),
}
# One by one, these do fewer operations in a run, so that a run takes about as long as the others'.
FEWER = {"redis": 10, "diskcache": 4}
FASTER_PEERS = ("redis", "diskcache")  # eau2 is to be ahead of these in all


def key_of(index: int) -> str:
    return f"key/{index:08d}"


def value_of(index: int) -> bytes:
    return (b"%012d" % index) * (VALUE_BYTES // 12) + b"." * (VALUE_BYTES % 12)


def inputs(operation: str, count: int, order: random.Random) -> list:
    """What `DO[operation]` is given for `count` operations on keys in random order, or on neighbours in theirs."""
    indices = [order.randrange(KEYS) for _ in range(count)]
    if operation.endswith("in order"):
        indices = [(indices[0] + place) % KEYS for place in range(count)]
    if operation == "get":
        return [key_of(index) for index in indices]
    if operation == "put":
        return [(key_of(index), value_of(index)) for index in indices]
    batches = [indices[at : at + BATCH] for at in range(0, count, BATCH)]
    if operation.startswith("get_many"):
        return [[key_of(index) for index in batch] for batch in batches]
    return [{key_of(index): value_of(index) for index in batch} for batch in batches]


def _get(engine: Engine, keys: list[str]) -> None:
    get = engine.get
    for key in keys:
        get(key)


def _put(engine: Engine, pairs: list[tuple[str, bytes]]) -> None:
    put = engine.put
    for key, value in pairs:
        put(key, value)


def _get_many(engine: Engine, batches: list[list[str]]) -> None:
    for batch in batches:
        engine.get_many(batch)


def _put_many(engine: Engine, batches: list[dict[str, bytes]]) -> None:
    for batch in batches:
        engine.put_many(batch)


DO: dict[str, Callable] = {"get": _get, "put": _put, "get_many": _get_many, "put_many": _put_many}
DO |= {f"{name} in order": DO[name] for name in ("get_many", "put_many")}


def work(engine: Engine, operation: str, count: int, seed: int) -> Callable[[], float]:
    """Return a function that does `count` operations, each time on other keys, and returns the seconds they took."""
    order = random.Random(seed)

    def run() -> float:
        given = inputs(operation, count, order)
        start = time.perf_counter()
        DO[operation](engine, given)
        return time.perf_counter() - start

    return run


def fill(engine: Engine) -> None:
    """Put all keys, in their order, several times: then logs have the size that they keep. While one grows, each flush
    has to write down its new size too, which costs a third of the flushed puts."""
    for at in [*range(0, KEYS, 10_000)] * FILLS:
        engine.put_many({key_of(index): value_of(index) for index in range(at, at + 10_000)})
    got = engine.get(key_of(4242))
    assert got == value_of(4242), f"put and got {got!r:.80}"


def run() -> dict:
    """Operations a second: figures[flush][operation][engine]."""
    figures: dict[str, dict] = {}
    for flush in ("process", "power"):
        with tempfile.TemporaryDirectory(dir=scratch(), prefix="kv") as folder, contextlib.ExitStack() as stack:
            folders = {name: os.path.join(folder, name) for name in names()}
            for name in folders:
                stack.enter_context(serving(name, folders[name], flush))
            engines = {name: connect(name, folders[name], flush) for name in folders}
            for engine in engines.values():
                stack.callback(engine.close)
                fill(engine)
            figures[flush] = _alone(engines, flush)
            figures[flush].update(_threads(engines, flush))
            figures[flush].update(_processes(folders, flush))
    return {"figures": figures, "targets": _targets(figures), "tables": _tables(figures)}


def _count(name: str, operation: str, flush: str) -> int:
    """How many operations engine `name` does in one run, at least 100."""
    full = sized(*(OPERATIONS if flush == "process" else FLUSHED_OPERATIONS)[operation])
    bound_by_disk = operation == "put" and flush == "power"
    fewer = 1 if bound_by_disk or operation not in ("get", "put") else FEWER.get(name, 1)
    return max(100, full // fewer)


def _rates(operation: str, flush: str, works: dict[str, Callable[[], float]]) -> dict[str, dict]:
    """Operations a second of each engine. All threads and processes of a run together do `_count` of them."""
    timings = interleaved(works)
    counts = {name: _count(name, operation, flush) for name in works}
    return {
        name: {"per_second": counts[name] / timing.median, "operations": counts[name], **timing.figures()}
        for name, timing in timings.items()
    }


def _alone(engines: dict[str, Engine], flush: str) -> dict[str, dict]:
    def works(operation: str) -> dict[str, Callable[[], float]]:
        return {
            name: work(engine, operation, _count(name, operation, flush), seed=1) for name, engine in engines.items()
        }

    return {operation: _rates(operation, flush, works(operation)) for operation in OPERATIONS}


def _threads(engines: dict[str, Engine], flush: str) -> dict[str, dict]:
    order = random.Random(2)

    def together(name: str, engine: Engine, operation: str) -> Callable[[], float]:
        count = _count(name, operation, flush) // THREADS

        def all_at_once() -> float:
            given = [inputs(operation, count, order) for _ in range(THREADS)]
            start = time.perf_counter()
            list(pool.map(lambda mine: DO[operation](engine, mine), given))
            return time.perf_counter() - start

        return all_at_once

    with ThreadPoolExecutor(THREADS) as pool:
        return {
            f"{operation}, {THREADS} threads": _rates(
                operation, flush, {name: together(name, engine, operation) for name, engine in engines.items()}
            )
            for operation in ("get", "put")
        }


def _processes(folders: dict[str, str], flush: str) -> dict[str, dict]:
    rates: dict[str, dict] = {}
    for operation in ("get", "put"):
        with contextlib.ExitStack() as stack:
            works = {
                name: stack.enter_context(_in_processes(name, folder, flush, operation))
                for name, folder in folders.items()
            }
            rates[f"{operation}, {PROCESSES} processes"] = _rates(operation, flush, works)
    return rates


@contextlib.contextmanager
def _in_processes(name: str, folder: str, flush: str, operation: str) -> Iterator[Callable[[], float]]:
    """Yield a function that lets all processes work once, at the same time, and returns the seconds of the slowest."""
    command = [sys.executable, "-m", "benchmarks.kv", name, folder, flush, operation]
    children = [
        subprocess.Popen([*command, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for seed in range(PROCESSES)
    ]

    def all_at_once() -> float:
        for process in children:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return max(float(_line(process)) for process in children)

    try:
        for process in children:
            assert _line(process) == "ready"
        yield all_at_once
    finally:
        for process in children:
            assert process.stdin is not None
            process.stdin.close()
        for process in children:
            process.wait(timeout=60)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"a child process of the benchmark ended with {process.wait(timeout=60)}")
    return line


def one_of_the_processes(name: str, folder: str, flush: str, operation: str, seed: str) -> None:
    engine = connect(name, folder, flush)
    once = work(engine, operation, _count(name, operation, flush) // PROCESSES, int(seed) + 100)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(once(), flush=True)
    engine.close()


def _targets(figures: dict) -> list[dict]:
    process = figures["process"]
    aims = {"get": 200_000, "put": 30_000, "get_many": 500_000, "put_many": 150_000}
    aims |= {f"{name} in order": aims[name] for name in ("get_many", "put_many")}
    targets = [
        target(f"{_WORDS[name]}, a second", process[name]["eau2"]["per_second"], at_least=aim)
        for name, aim in aims.items()
    ]
    for peer in FASTER_PEERS:
        if peer not in process["get"]:
            continue
        ratio, where = min(
            (rates["eau2"]["per_second"] / rates[peer]["per_second"], f"{_words(operation)}, flush={flush!r}")
            for flush, operations in figures.items()
            for operation, rates in operations.items()
        )
        targets.append(target(f"speed over {peer}, at its best: {where}", ratio, at_least=1.0))
    return targets


_WORDS = {
    "get": "gets one by one",
    "put": "puts one by one",
    "get_many": f"gets, {BATCH:,} at a time",
    "put_many": f"puts, {BATCH:,} at a time",
    "get_many in order": f"gets, {BATCH:,} neighbours at a time",
    "put_many in order": f"puts, {BATCH:,} neighbours at a time",
}


def _words(operation: str) -> str:
    name, _, among = operation.partition(", ")
    return _WORDS[name] + (f", {among}" if among else "")


def _tables(figures: dict) -> list[dict]:
    peers = list(figures["process"]["get"])
    return [
        {
            "title": f'flush="{flush}", operations a second',
            "columns": ["", *peers],
            "rows": [
                [_words(operation), *(rates[peer]["per_second"] for peer in peers)]
                for operation, rates in figures[flush].items()
            ],
        }
        for flush in figures
    ]


if __name__ == "__main__":
    one_of_the_processes(*sys.argv[1:])

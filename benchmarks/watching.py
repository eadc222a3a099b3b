"""What it costs that a store is watched: processor time while nothing is asked, and throughput while much is."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING

import psutil

from benchmarks import doors
from benchmarks.measure import QUICK_RUNS, quick, scratch, sized, target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import eau2

IDLE_SECONDS = 60
SETTLE_SECONDS = 12  # after a start, and after the page was opened: what happens once is not counted
RUN_SECONDS = 3.0
ROUNDS = 9
KEYS = 10_000
NODES = 4
CORES_MAX, LOSS_MAX = 0.02, 3.0  # of a node that is idle; percent
WATCHED, PLAIN = "watched", "plain"
REQUESTS = tuple(itertools.product(("get", "set"), (1, 16)))


class Child:
    """A process of `watching_child` with a store."""

    def __init__(self, process: subprocess.Popen[str], addresses: dict[str, list]) -> None:
        self.process, self.addresses = process, addresses

    def rate(self, what: str, seconds: float) -> float:
        """How many a second it does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what} {seconds}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def processor_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def storing(path: str, how: str) -> Iterator[Child]:
    command = [sys.executable, "-m", "benchmarks.watching_child", "store", path, how, str(KEYS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Child(process, json.loads(process.stdout.readline()))
        process.stdin.close()
        process.wait(timeout=60)


@contextlib.contextmanager
def watching(child: Child) -> Iterator[None]:
    """Have the page of `child` open."""
    host, port = child.addresses["http"]
    command = [sys.executable, "-m", "benchmarks.watching_child", "watch", str(host), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "event: overview\n"
        yield
        process.terminate()


# --- while nothing is asked


def _idle_seconds() -> float:
    return sized(IDLE_SECONDS, 4)


def _cores(read: Callable[[], dict[str, tuple[float, float]]]) -> dict[str, float]:
    """Processors used on average, by name. `read` returns of each a time, and the processor seconds by then."""
    time.sleep(sized(SETTLE_SECONDS, 2))
    before = read()
    time.sleep(_idle_seconds())
    after = read()
    return {name: (after[name][1] - before[name][1]) / (after[name][0] - before[name][0]) for name in before}


def idle_embedded() -> dict[str, float]:
    """Of a directory's server, with nobody watching, and with the page open."""
    with (
        tempfile.TemporaryDirectory(dir=scratch(), prefix="watching") as folder,
        storing(os.path.join(folder, "a"), PLAIN) as plain,
        storing(os.path.join(folder, "b"), WATCHED) as closed,
        storing(os.path.join(folder, "c"), WATCHED) as opened,
        watching(opened),
    ):
        children = {"no page, no figures": plain, "nobody watches": closed, "the page is open": opened}
        return _cores(lambda: {name: (time.monotonic(), one.processor_seconds()) for name, one in children.items()})


def idle_cluster() -> dict[str, dict[str, float]]:
    """Of each node of a cluster, as it says itself, and of the server of its page."""
    from benchmarks.local_cluster import cluster

    found = {}
    with cluster(NODES) as store:
        store.put_many({f"key-{number:06}": bytes(100) for number in range(sized(KEYS, 100))})
        with storing(store.name, WATCHED) as child:
            found["nobody watches"] = _cores(lambda: _of_nodes(store, child))
            with watching(child):
                found["the page is open"] = _cores(lambda: _of_nodes(store, child))
    return found


def _of_nodes(store: eau2.Store, server: Child) -> dict[str, tuple[float, float]]:
    found = {"the server": (time.monotonic(), server.processor_seconds())}
    for report in store.reports():
        (seconds,) = (metric.value for metric in report.metrics if metric.name == "processor_seconds")
        found[report.node] = time.monotonic() - report.age_seconds, seconds
    return found


# --- while much is asked


def rates() -> dict[str, dict[str, float]]:
    """Requests, gets, puts and queries a second of a store that is watched and of one that is not, in turn."""
    with (
        tempfile.TemporaryDirectory(dir=scratch(), prefix="watching") as folder,
        storing(os.path.join(folder, PLAIN), PLAIN) as plain,
        storing(os.path.join(folder, WATCHED), WATCHED) as watched,
        watching(watched),
    ):
        children = {PLAIN: plain, WATCHED: watched}
        found = {}
        for child in children.values():
            doors.asked(child.addresses["redis"][1], "set", 16, sized(doors.FILL, 2_000), *doors.RANDOM)
        for what, pipeline in REQUESTS:
            name = f"{what.upper()} at the RESP door, {pipeline} at a time"
            found[name] = _in_turn(children, partial(_requests, what=what, pipeline=pipeline))
        seconds = 0.3 if quick() else RUN_SECONDS
        for what in ("gets", "puts", "queries"):
            found[f"{what} in the process"] = _in_turn(children, partial(Child.rate, what=what, seconds=seconds))
        return found


_counts: dict[tuple[str, int], int] = {}  # of requests that take RUN_SECONDS, as the first run has shown


def _requests(child: Child, what: str, pipeline: int) -> float:
    count = sized(_counts.get((what, pipeline), 50_000), 2_000)
    rate = doors.asked(child.addresses["redis"][1], what, pipeline, count, *doors.RANDOM)
    _counts.setdefault((what, pipeline), int(rate * RUN_SECONDS))
    return rate


def _in_turn(children: dict[str, Child], measure: Callable[[Child], float]) -> dict[str, float]:
    """Medians, each round in the other order, without the first; and of the loss in each round, in percent."""
    runs: dict[str, list[float]] = {name: [] for name in children}
    for turn in range(sized(ROUNDS, QUICK_RUNS) + 1):
        for name, child in list(children.items())[:: -1 if turn % 2 else 1]:
            runs[name].append(measure(child))
    losses = [100 * (1 - watched / plain) for plain, watched in zip(runs[PLAIN][1:], runs[WATCHED][1:], strict=True)]
    return {name: statistics.median(each[1:]) for name, each in runs.items()} | {"loss": statistics.median(losses)}


def run() -> dict:
    """Return the tables and targets."""
    if shutil.which("redis-benchmark") is None:
        raise RuntimeError("needs redis-benchmark: benchmarks/install_peers.sh")
    figures = {"embedded": idle_embedded(), "cluster": idle_cluster(), "rates": rates()}
    return {"figures": figures, "tables": _tables(figures), "targets": _targets(figures)}


def _targets(figures: dict) -> list[dict]:
    opened = figures["cluster"]["the page is open"]
    most = max(cores for name, cores in opened.items() if name != "the server")
    return [
        target(
            "an idle directory's server with the page open",
            figures["embedded"]["the page is open"],
            at_most=CORES_MAX,
            unit="cores",
        ),
        target(f"an idle node of {NODES} on Ray with the page open, at most", most, at_most=CORES_MAX, unit="cores"),
        target("the server of the page of that cluster", opened["the server"], at_most=CORES_MAX, unit="cores"),
        *(
            target(f"less while watched: {name}", each["loss"], at_most=LOSS_MAX, unit="%")
            for name, each in figures["rates"].items()
        ),
    ]


def _tables(figures: dict) -> list[dict]:
    cluster = figures["cluster"]
    idle = [[f"a directory's server: {name}", cores] for name, cores in figures["embedded"].items()]
    for name in cluster["nobody watches"]:
        for how, cores in cluster.items():
            idle.append([f"{name}{'' if name == 'the server' else f' of {NODES} on Ray'}: {how}", cores[name]])
    return [
        {"title": f"Idle, {KEYS:,} keys: processors used", "columns": ["", "cores"], "rows": idle},
        {
            "title": "Under load: a second, not watched and watched",
            "columns": ["", "not watched", "watched", "less, %"],
            "rows": [[name, each[PLAIN], each[WATCHED], each["loss"]] for name, each in figures["rates"].items()],
        },
    ]

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
from typing import TYPE_CHECKING, Self

import psutil

from benchmarks import doors
from benchmarks.measure import QUICK_RUNS, of_our_clusters, quick, scratch, sized, target

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_SECONDS = 60
SETTLE_SECONDS = 12  # after a start, and after the page was opened: what happens once is not counted
PAUSE_SECONDS = 0.5  # before each run: what the page asks for once, when it is opened, is not counted
RUN_SECONDS = 2.0  # the page's server looks at its store every two: each run has one look
ROUNDS = 9
KEYS = 10_000
NODES = 4
CORES_MAX, LOSS_MAX = 0.02, 3.0  # of a node that is idle; percent
WATCHED, PLAIN = "watched", "plain"
REQUESTS = tuple(itertools.product(("get", "set"), (1, 16)))
BARE = "an actor of Ray that does nothing"
COORDINATOR = "the coordinator"
PROCESSES = {"ray::Bare": BARE, "ray::CoordinatorProcess": COORDINATOR, "ray::NodeProcess": "a node"}  # by their titles
PROCESSES |= {"/raylet": "a raylet", "/gcs_server": "the head of Ray"}


class Child:
    """A process of `watching_child`."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, "-m", "benchmarks.watching_child", *map(str, words)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def heard(self) -> str:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def told(self, line: str) -> str:
        """Return what it answers to `line`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.heard()

    def processor_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)


class Storing(Child):
    """One that has a store, with neither page nor figures until `page`."""

    def __init__(self, path: str) -> None:
        super().__init__("store", path, KEYS)
        self.addresses = json.loads(self.heard())

    def page(self, *, opened: bool) -> None:
        self.addresses = json.loads(self.told("page" if opened else "no page"))

    def watched_by(self, watcher: Child) -> None:
        """Have `watcher` do what the page does when it is open, and Prometheus."""
        self.page(opened=True)
        assert watcher.told("{} {}".format(*self.addresses["http"])) == "watches\n"

    def left_by(self, watcher: Child) -> None:
        watcher.told("leave")
        self.page(opened=False)


# --- while nothing is asked


def _cores(read: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Processors used on average, by name. `read` returns the processor seconds of each by now."""
    time.sleep(sized(SETTLE_SECONDS, 2))
    before, began = read(), time.monotonic()
    time.sleep(sized(IDLE_SECONDS, 4))
    after, seconds = read(), time.monotonic() - began
    return {name: (after[name] - before[name]) / seconds for name in before if name in after}


def idle_embedded() -> dict[str, float]:
    """Of a directory's server, with nobody watching, and with the page open."""
    with (
        tempfile.TemporaryDirectory(dir=scratch(), prefix="watching") as folder,
        Storing(os.path.join(folder, "a")) as plain,
        Storing(os.path.join(folder, "b")) as closed,
        Storing(os.path.join(folder, "c")) as opened,
        Child("watch") as watcher,
    ):
        closed.page(opened=True)
        opened.watched_by(watcher)
        children = {"no page, no figures": plain, "nobody watches": closed, "the page is open": opened}
        return _cores(lambda: {name: one.processor_seconds() for name, one in children.items()})


def idle_cluster() -> dict[str, dict[str, float]]:
    """Of the processes of a cluster, on average of each kind, and of the server of its page."""
    from benchmarks.local_cluster import cluster, idle_actor

    found = {}
    with cluster(NODES) as store, idle_actor():
        store.put_many({f"key-{number:06}": bytes(100) for number in range(sized(KEYS, 100))})
        with Storing(store.name) as child, Child("watch") as watcher:
            child.page(opened=True)
            for how in ("nobody watches", "the page is open"):
                if how == "the page is open":
                    child.watched_by(watcher)
                each: dict[str, list[float]] = {}
                for name, used in _cores(lambda: _of_cluster(child)).items():
                    each.setdefault(name.partition(":")[0], []).append(used)
                found[how] = {kind: statistics.fmean(used) for kind, used in each.items()}
                found[how]["the node that uses most"] = max(each["a node"])
    return found


def _of_cluster(server: Storing) -> dict[str, float]:
    """Return the processor seconds by now of `server` and of each process of our cluster: what it is, and its id."""
    found = {"the server of the page": server.processor_seconds()}
    for process in of_our_clusters():
        with contextlib.suppress(psutil.Error):
            title = process.cmdline()[0].rstrip("\0 ")
            times = process.cpu_times()
            for ending, kind in PROCESSES.items():
                if title.startswith(ending) or title.endswith(ending):
                    found[f"{kind}:{process.pid}"] = times.user + times.system
    return found


# --- while much is asked


def rates() -> dict[str, dict[str, float]]:
    """Requests, gets, puts and queries a second of a store that is watched, and that is not, in turn."""
    with (
        tempfile.TemporaryDirectory(dir=scratch(), prefix="watching") as folder,
        Storing(os.path.join(folder, "a")) as child,
        Child("watch") as watcher,
    ):
        doors.asked(child.addresses["redis"][1], "set", 16, sized(doors.FILL, 2_000), *doors.RANDOM)
        works: dict[str, Callable[[], float]] = {
            f"{what.upper()} at the RESP door, {pipeline} at a time": partial(_requests, child, what, pipeline)
            for what, pipeline in REQUESTS
        }
        for what in ("gets", "puts", "queries"):
            works[f"{what} in the process"] = partial(_done, child, what)
        # One after the other: what was read since the last write is remembered, and of two runs after some writes the
        # first would find less of it.
        turns = range(sized(ROUNDS, QUICK_RUNS) + 1)
        return {
            name: _compared([_pair(child, watcher, work, watched_first=turn % 2 == 1) for turn in turns][1:])
            for name, work in works.items()
        }


def _requests(child: Storing, what: str, pipeline: int) -> float:
    count = sized(_counts.get((what, pipeline), 50_000), 2_000)
    rate = doors.asked(child.addresses["redis"][1], what, pipeline, count, *doors.RANDOM)
    _counts[what, pipeline] = int(rate * RUN_SECONDS)
    return rate


_counts: dict[tuple[str, int], int] = {}  # of requests that take RUN_SECONDS, as the last run has shown


def _done(child: Storing, what: str) -> float:
    return float(child.told(f"{what} {0.3 if quick() else RUN_SECONDS}"))


def _pair(
    child: Storing, watcher: Child, work: Callable[[], float], *, watched_first: bool
) -> dict[str, tuple[float, float]]:
    """Return the rate of `work` and the processor seconds of one of it, watched and not. By the same process, a
    moment apart: of two processes that do the same one may be slower all its life."""
    found = {}
    for how in (WATCHED, PLAIN) if watched_first else (PLAIN, WATCHED):
        if how == WATCHED:
            child.watched_by(watcher)
        time.sleep(PAUSE_SECONDS)
        used, began = child.processor_seconds(), time.monotonic()
        rate = work()
        found[how] = rate, (child.processor_seconds() - used) / (rate * (time.monotonic() - began))
        if how == WATCHED:
            child.left_by(watcher)
    return found


def _compared(pairs: list[dict[str, tuple[float, float]]]) -> dict[str, float]:
    """Medians of rates, of the loss in each pair with its quartiles, and of the processor time that one took more; in
    percent."""
    losses = [100 * (1 - pair[WATCHED][0] / pair[PLAIN][0]) for pair in pairs]
    quarter, median, three_quarters = statistics.quantiles(losses, n=4, method="inclusive")
    return {how: statistics.median(pair[how][0] for pair in pairs) for how in (PLAIN, WATCHED)} | {
        "loss": median,
        "loss_quarter": quarter,
        "loss_three_quarters": three_quarters,
        "processor": statistics.median(100 * (pair[WATCHED][1] / pair[PLAIN][1] - 1) for pair in pairs),
    }


def run() -> dict:
    """Return the tables and targets."""
    if shutil.which("redis-benchmark") is None:
        raise RuntimeError("needs redis-benchmark: benchmarks/install_peers.sh")
    figures = {"embedded": idle_embedded(), "cluster": idle_cluster(), "rates": rates()}
    return {"figures": figures, "tables": _tables(figures), "targets": _targets(figures)}


def _targets(figures: dict) -> list[dict]:
    opened = figures["cluster"]["the page is open"]
    return [
        target(
            "an idle directory's server with the page open",
            figures["embedded"]["the page is open"],
            at_most=CORES_MAX,
            unit="cores",
        ),
        target(
            f"an idle node of {NODES} on Ray with the page open, at most",
            opened["the node that uses most"],
            at_most=CORES_MAX,
            unit="cores",
        ),
        target(
            "the server of the page of that cluster", opened["the server of the page"], at_most=CORES_MAX, unit="cores"
        ),
        *(
            target(f"less while watched: {name}", each["loss"], at_most=LOSS_MAX, unit="%")
            for name, each in figures["rates"].items()
        ),
    ]


def _tables(figures: dict) -> list[dict]:
    closed, opened = (figures["cluster"][how] for how in ("nobody watches", "the page is open"))
    loads = [
        [name, *(each[what] for what in (PLAIN, WATCHED, "loss", "loss_quarter", "loss_three_quarters", "processor"))]
        for name, each in figures["rates"].items()
    ]
    return [
        {
            "title": f"A server of a directory that is idle, {KEYS:,} keys: processors used",
            "columns": ["", "cores"],
            "rows": [list(each) for each in figures["embedded"].items()],
        },
        {
            "title": f"{NODES} nodes on Ray that are idle, {KEYS:,} keys: processors used by each process of a kind",
            "columns": ["", "cores, nobody watches", "cores, the page is open"],
            "rows": [[name, cores, opened[name]] for name, cores in closed.items() if name in opened]
            + [["a node, more than such an actor", *(each["a node"] - each[BARE] for each in (closed, opened))]],
        },
        {
            "title": "Under load: a second, not watched and watched",
            "columns": ["", "not watched", "watched", "less, %", "a quarter under", "over", "processor time more, %"],
            "rows": loads,
        },
    ]

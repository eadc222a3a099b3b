"""`eau2 serve` beside redis-server, asked by redis-benchmark; and how many lines and datagrams a second it answers."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import redis

from benchmarks.measure import child, quick, scratch, sized, target

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 50
VALUE_BYTES = 100
KEYS = 100_000
RANDOM = ("-r", str(KEYS), "-d", str(VALUE_BYTES))
LOADS: dict[str, tuple[str, ...]] = {"as it comes": (), "random keys": RANDOM}  # options of redis-benchmark
FILL = 400_000  # puts of random keys before all: logs have the size that they keep
RUNS = 5
RATIO_MIN = {"process": 0.7, "power": 1.0}  # of redis-server's rate
SMALL_MIN = 10_000  # lines or datagrams a second
PIPELINES = (1, 16)


@contextlib.contextmanager
def serving_eau2(folder: str, flush: str) -> Iterator[dict[str, list]]:
    """A server in a process of its own; yield its doors."""
    serve = "import sys; from benchmarks.doors import serve; serve(*sys.argv[1:])"
    command = [sys.executable, "-c", serve, os.path.join(folder, "store"), flush]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())
        server.stdin.close()
        server.wait(timeout=30)


def serve(path: str, flush: str) -> None:
    """Serve the store at `path` until standard input ends."""
    import eau2
    from eau2.doors.server import Doors, Server

    with eau2.open(path, flush=flush) as store, Server(store, Doors()) as server:  # type: ignore[arg-type]
        print(json.dumps(server.addresses), flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def serving_redis(folder: str, flush: str) -> Iterator[int]:
    """redis-server on a free port; yield that."""
    port = _free_port()
    durable = ["--appendonly", "yes", "--appendfsync", "always"] if flush == "power" else ["--appendonly", "no"]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", *durable]
    with open(os.path.join(folder, "log"), "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                with contextlib.suppress(redis.ConnectionError):
                    redis.Redis(port=port).ping()
                    break
                time.sleep(0.02)
            yield port
        finally:
            server.terminate()
            server.wait(timeout=30)


def _free_port() -> int:
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def asked(port: int, what: str, pipeline: int, count: int, *options: str) -> float:
    """Requests a second that redis-benchmark counts."""
    command = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-c", str(CLIENTS), "-n", str(count), "--csv"]
    command += ["-t", what, "-P", str(pipeline), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    rows = [row for row in csv.reader(io.StringIO(done.stdout)) if row and row[0].lower() == what]
    return float(rows[0][1])


def redis_rates(flush: str) -> dict[str, dict[str, float]]:
    """For each load and kind of request: medians of requests a second of both servers, interleaved."""
    rates: dict[str, dict[str, list[float]]] = {}
    with (
        tempfile.TemporaryDirectory(dir=scratch()) as ours,
        tempfile.TemporaryDirectory(dir=scratch()) as theirs,
        serving_eau2(ours, flush) as doors,
        serving_redis(theirs, flush) as port,
    ):
        servers = {"eau2": doors["redis"][1], "redis": port}
        for where in servers.values():
            asked(where, "set", 16, sized(FILL, 2_000), *RANDOM)
        for (load, options), what, pipeline in itertools.product(LOADS.items(), ("set", "get"), PIPELINES):
            name = f"{what.upper()}, {pipeline} at a time" if pipeline > 1 else what.upper()
            slow = what == "set" and load != "as it comes"
            count = sized((30_000 if slow else 100_000) * (4 if pipeline > 1 else 1), 2_000)
            each = rates[f"{name}, {load}"] = {server: [] for server in servers}
            for _ in range(sized(RUNS + 1, 2)):
                for server, where in servers.items():
                    each[server].append(asked(where, what, pipeline, count, *options))
    return {name: {who: statistics.median(each[1:]) for who, each in by.items()} for name, by in rates.items()}


def small_rates() -> dict[str, float]:
    """Lines and datagrams a second, with one client and with many."""
    found = {}
    with tempfile.TemporaryDirectory(dir=scratch()) as folder, serving_eau2(folder, "process") as doors:
        for door in ("crud", "udp"):
            for clients in (1, CLIENTS):
                runs = [
                    float(child("benchmarks.doors_child", door, doors[door][1], clients, sized(20_000, 1_000)))
                    for _ in range(sized(RUNS + 1, 2))
                ]
                found[f"{door}, {clients} client{'s' if clients > 1 else ''}"] = statistics.median(runs[1:])
    return found


def run() -> dict:
    """Ask both servers the same; return tables and targets."""
    if shutil.which("redis-benchmark") is None:
        raise RuntimeError("needs redis-server: benchmarks/install_peers.sh")
    rows, targets, figures = [], [], {}
    for flush in ("process", "power"):
        figures[flush] = redis_rates(flush)
        for name, rates in figures[flush].items():
            ratio = rates["eau2"] / rates["redis"]
            rows.append([f"{name}, flush={flush!r}", rates["eau2"], rates["redis"], ratio])
            least = RATIO_MIN[flush]
            targets.append(target(f"rate over redis-server's: {name}, flush={flush!r}", ratio, at_least=least))
    figures["small"] = small_rates()
    small = [[name, rate] for name, rate in figures["small"].items()]
    for name, rate in figures["small"].items():
        if not quick() and f"{CLIENTS}" in name:
            targets.append(target(f"requests a second: {name}", rate, at_least=SMALL_MIN))
    return {
        "figures": figures,
        "tables": [
            {
                "title": f"redis-benchmark, {CLIENTS} clients: requests a second",
                "columns": ["", "eau2 serve", "redis-server", "ratio"],
                "rows": rows,
            },
            {"title": "A put and a get in turn: requests a second", "columns": ["", "eau2 serve"], "rows": small},
        ],
        "targets": targets,
    }

"""Ten questions to 20 million rows on four nodes of this machine: eau2 on Ray, Dask, Daft on Ray, Sail's local cluster.

Each engine has its data where it likes it best: eau2 in its store, Dask and Daft in the memory of their workers, Sail
in files. Each runs in a process and an environment of its own, is asked in turn, and answers with an Arrow table.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import geometric_mean, interleaved, scratch, target
from benchmarks.peers import NODES
from benchmarks.queries import rows
from benchmarks.questions import QUERIES, alike, buyers, sales

if TYPE_CHECKING:
    from collections.abc import Iterator

PEERS = ("dask", "daft", "sail")
PEERS_PYTHON = Path(__file__).parent.parent / ".venv" / "peers" / "bin" / "python"  # made by `make bench`
ANSWER_SECONDS_MAX, READY_SECONDS_MAX = 300, 180
SPEED_MIN = {"dask": 3.0, "daft": 3.0, "sail": 1 / 1.2}
TRIVIAL, TRIVIAL_MS_MAX = "count, small table", 30.0


class Asked:
    """An engine in a process of its own."""

    def __init__(self, name: str, command: list[str], log: str) -> None:
        self.name = name
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
            )
        self.fingerprints: dict[str, list[float]] = {}

    def ready(self) -> None:
        self._line(READY_SECONDS_MAX)

    def ask(self, question: str) -> float:
        """Return the seconds it took to answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        answer = self._line(ANSWER_SECONDS_MAX)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {question}: {answer['error']}")
        self.fingerprints[question] = answer["fingerprint"]
        return float(answer["seconds"])

    def _line(self, seconds: float) -> dict:
        assert self._process.stdout is not None
        while True:
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                raise RuntimeError(f"{self.name} has not answered in {seconds} seconds")
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"{self.name} has ended, with {self._process.wait(10)}")
            if line.startswith("{"):  # what else it prints is not for us
                return json.loads(line)

    def end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()


def run() -> dict:
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="distributed") as folder:
        _write(folder)
        with _engines(folder) as engines:
            seconds = {question: _asked(engines, question) for question in QUERIES}
    figures = {"rows": rows(), "nodes": NODES, "seconds": seconds}
    return {"figures": figures, "targets": _targets(seconds), "tables": _tables(figures)}


def _write(folder: str) -> None:
    for name, batches in (("buyers", buyers().to_batches()), ("sales", sales(rows()))):
        os.makedirs(f"{folder}/{name}")
        for number, batch in enumerate(batches):
            pq.write_table(pa.Table.from_batches([batch]), f"{folder}/{name}/{number:03d}.parquet")


@contextlib.contextmanager
def _engines(folder: str) -> Iterator[dict[str, Asked]]:
    commands = {"eau2": [sys.executable, "-m", "benchmarks.cluster_child", folder]}
    for peer in PEERS if PEERS_PYTHON.exists() else ():
        commands[peer] = [str(PEERS_PYTHON), "-m", f"benchmarks.peers.{peer}", folder]
    engines = {}
    try:
        for name, command in commands.items():
            engines[name] = Asked(name, command, f"{folder}/{name}.log")
            engines[name].ready()
        yield engines
    finally:
        for engine in engines.values():
            engine.end()


def _asked(engines: dict[str, Asked], question: str) -> dict:
    timings = interleaved({name: lambda engine=engine: engine.ask(question) for name, engine in engines.items()})
    wanted = engines["eau2"].fingerprints[question]
    for name, engine in engines.items():
        if not alike(engine.fingerprints[question], wanted):
            raise RuntimeError(f"{question}: {name} answers {engine.fingerprints[question]}, eau2 {wanted}")
    return {name: timing.figures() for name, timing in timings.items()}


def _speed_over(peer: str, seconds: dict) -> float:
    return geometric_mean([row[peer]["seconds"] / row["eau2"]["seconds"] for row in seconds.values()])


def _peers_in(seconds: dict) -> list[str]:
    return [peer for peer in PEERS if all(peer in row for row in seconds.values())]


def _targets(seconds: dict) -> list[dict]:
    trivial = seconds[TRIVIAL]["eau2"]["seconds"] * 1e3
    return [
        *(
            target(f"on {NODES} nodes, speed over {peer}, geometric mean", _speed_over(peer, seconds), at_least=least)
            for peer, least in SPEED_MIN.items()
            if peer in _peers_in(seconds)
        ),
        target(f"on {NODES} nodes, a count of a small table", trivial, at_most=TRIVIAL_MS_MAX, unit="ms"),
    ]


def _tables(figures: dict) -> list[dict]:
    seconds = figures["seconds"]
    engines = ["eau2", *_peers_in(seconds)]
    means = [_speed_over(engine, seconds) for engine in engines]
    return [
        {
            "title": f"{figures['rows']:,} rows on {figures['nodes']} nodes of this machine, milliseconds",
            "columns": ["", *engines],
            "rows": [
                *([name, *(row[engine]["seconds"] * 1e3 for engine in engines)] for name, row in seconds.items()),
                ["time over eau2's, geometric mean", *means],
            ],
        }
    ]

"""How soon a node that fails is noticed, and others take over, on a real Ray cluster: killed, frozen, or cut off.

With the health checks that `eau2 up` gives Ray, and with those Ray has by itself. What fails is a machine without the
head; the driver is on that. Cut links are of hosts made of network namespaces: for root only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.on_ray.hosts import Hosts, why_not
from tests.on_ray.processes import node_process

from benchmarks.measure import RUNS, scratch, sized
from eau2.errors import Eau2Error
from eau2.remote import launch, raylets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MACHINES = 3
CHECKS = {"tuned": dict(raylets._HEALTH_CHECKS), "Ray's own": {}}
TIMES = {"tuned": RUNS, "Ray's own": 3}  # a minute each
WAIT_SECONDS = 150.0
LOOK_SECONDS = 0.02
UP = [sys.executable, "-m", "eau2.cli", "up"]
STEADY_SECONDS = 1.0
FIGURES = ("suspected", "dead", "put", "ray", "started", "live")


class Watch:
    """What the child process has said."""

    def __init__(self, child: subprocess.Popen[str]):
        self._child = child
        self._changed = threading.Condition()  # guards what is below
        self._said: list[tuple[float, str, object]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._child.stdout or ():
            with self._changed:
                self._said.append(tuple(json.loads(line)))
                self._changed.notify_all()

    def first(self, what: str, since: float, is_it: Callable[[object], bool]) -> float:
        """Wait until `what` was said after `since` with what `is_it`; return when."""
        deadline = time.monotonic() + WAIT_SECONDS
        with self._changed:
            while True:
                for at, word, more in self._said:
                    if at >= since and word == what and is_it(more):
                        return at
                if time.monotonic() > deadline or self._child.poll() is not None:
                    raise TimeoutError(f"{what} was not said; at last {self._said[-3:]}")
                self._changed.wait(1.0)

    def said_by(self, end: float, what: str, since: float) -> float:
        """Return when `what` was first said after `since`, or `end` if it was not by then. Does not wait."""
        with self._changed:
            return next((at for at, word, _ in self._said if word == what and since <= at <= end), end)

    def is_now(self, what: str) -> object:
        with self._changed:
            return next((more for _, word, more in reversed(self._said) if word == what), None)

    def wait_until_steady(self) -> None:
        _until(lambda: self.is_now("whole") and self.is_now("ray"))
        time.sleep(STEADY_SECONDS)
        self.first("put", time.monotonic(), lambda _: True)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster did not come to what was waited for")
        time.sleep(LOOK_SECONDS)


def run() -> dict[str, object]:
    """Return the seconds from each failure until it is noticed."""
    figures: dict[str, dict[str, dict[str, list[float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="eau2-bench-", dir=scratch()) as folder:
        for checks in CHECKS:
            found = figures[checks] = _tried(lambda name: _of_processes(Path(folder) / name, checks))  # noqa: B023
            if not why_not():
                found |= _tried(lambda name: _of_links(Path(folder) / name, checks))  # noqa: B023
    titles = (
        *("a call got no answer", "dead in the view", "a put is done elsewhere"),
        *("Ray says that it is gone", "its process is there again", "live again"),
    )
    rows = [
        [f"{what}, {checks} checks", *(_median(seconds.get(name)) for name in FIGURES)]
        for checks, faults in figures.items()
        for what, seconds in faults.items()
    ]
    return {
        "figures": {"runs": TIMES, "seconds": figures},
        "targets": [],
        "tables": [
            {"title": "Seconds from the failure of a node until, medians", "columns": ["", *titles], "rows": rows}
        ],
    }


def _median(seconds: list[float] | None) -> float | None:
    return statistics.median(seconds) if seconds else None


def _of_processes(folder: Path, checks: str) -> dict[str, dict[str, list[float]]]:
    os.environ["EAU2_HOME"] = str(folder)
    tuned = dict(raylets._HEALTH_CHECKS)
    raylets._HEALTH_CHECKS.clear()
    raylets._HEALTH_CHECKS.update(CHECKS[checks])
    try:
        launch.up(machines=MACHINES)
        _until(lambda: subprocess.run(UP, check=False, stdout=subprocess.DEVNULL).returncode == 0)  # it is whole
        machines, victim = launch.find(), "node-1"
        command = [sys.executable, "-m", "benchmarks.detection_watch", "ray:", victim]
        with _watched(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as watch:
            found = {
                "its process is killed": _repeated(checks, lambda: _kill_process(watch, machines, victim)),
                "its raylet is killed": _repeated(checks, lambda: _kill_raylet(watch, machines, victim)),
            }
            if checks == "tuned":  # Ray does not look whether processes stand still
                found["its process is frozen"] = _repeated(checks, lambda: _freeze(watch, machines, victim))
            return found
    finally:
        launch.down()
        raylets._HEALTH_CHECKS.update(tuned)


def _tried(part: Callable[[str], dict[str, dict[str, list[float]]]]) -> dict[str, dict[str, list[float]]]:
    """Take a part of the figures, and once more when the machine was too busy for Ray to start."""
    try:
        return part(f"{time.monotonic_ns()}")
    except (TimeoutError, AssertionError, Eau2Error) as error:
        print(f"once more: {error}", file=sys.stderr)
        return part(f"{time.monotonic_ns()}")


def _of_links(folder: Path, checks: str) -> dict[str, dict[str, list[float]]]:
    victim = "host-1"
    with Hosts(MACHINES, CHECKS[checks]) as hosts:
        _until(lambda: hosts.deployed(folder))
        command = hosts.command("host-0", sys.executable, "-m", "benchmarks.detection_watch", hosts.store, victim)
        child = subprocess.Popen(command, env=hosts.environment(), stdout=subprocess.PIPE, text=True)
        with _watched(child) as watch:
            return {"its link is cut": _repeated(checks, lambda: _cut(watch, hosts, victim))}


@contextlib.contextmanager
def _watched(child: subprocess.Popen[str]) -> Iterator[Watch]:
    try:
        yield Watch(child)
    finally:
        child.kill()
        child.communicate()


def _repeated(checks: str, measure: Callable[[], dict[str, float]]) -> dict[str, list[float]]:
    runs = [measure() for _ in range(sized(TIMES[checks], 1))]
    return {name: [run[name] for run in runs] for name in runs[0]}


def _noticed(watch: Watch, began: float) -> dict[str, float]:
    """Return the seconds until eau2 has noticed what began then, and goes on."""
    dead = watch.first("state", began, lambda state: state != "LIVE")
    done = watch.first("put", dead, lambda _: True)  # before, a node whose raylet is gone does some yet
    # A driver that hears of the view first has no call that is not answered.
    return {"suspected": watch.said_by(done, "suspected", began) - began, "dead": dead - began, "put": done - began}


def _returned(watch: Watch, began: float) -> dict[str, float]:
    dead = watch.first("state", began, lambda state: state != "LIVE")
    return {"live": watch.first("state", dead, lambda state: state == "LIVE") - began}


def _kill_process(watch: Watch, machines, victim: str) -> dict[str, float]:
    watch.wait_until_steady()
    killed, began = node_process(machines, victim), time.monotonic()
    os.kill(killed, signal.SIGKILL)
    _until(lambda: node_process(machines, victim) not in (None, killed))
    started = time.monotonic() - began
    return _noticed(watch, began) | {"started": started} | _returned(watch, began)


def _kill_raylet(watch: Watch, machines, victim: str) -> dict[str, float]:
    watch.wait_until_steady()
    began = time.monotonic()
    os.kill(machines.raylet(victim), signal.SIGKILL)
    found = _noticed(watch, began) | {"ray": watch.first("ray", began, lambda alive: not alive) - began}
    launch.up()
    return found


def _freeze(watch: Watch, machines, victim: str) -> dict[str, float]:
    watch.wait_until_steady()
    frozen, began = node_process(machines, victim), time.monotonic()
    os.kill(frozen, signal.SIGSTOP)
    try:
        return _noticed(watch, began)
    finally:
        os.kill(frozen, signal.SIGCONT)


def _cut(watch: Watch, hosts: Hosts, victim: str) -> dict[str, float]:
    watch.wait_until_steady()
    raylet, began = hosts.raylet(victim), time.monotonic()
    with hosts.shaped([victim], loss=1.0):
        found = _noticed(watch, began) | {"ray": watch.first("ray", began, lambda alive: not alive) - began}
    _until(lambda: hosts.raylet(victim) != raylet)  # it ends when it hears that it was given up
    hosts.start_raylets([victim])
    return found


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))

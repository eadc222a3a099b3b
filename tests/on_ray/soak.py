"""Processes of a cluster on this machine are killed and frozen at random while drivers do everything to it.

python -m tests.on_ray.soak [--minutes 10] [--kills 50] [--seed N] [--folder FOLDER]

What the drivers did is written down and checked: nothing acknowledged is lost, one order explains what everybody saw,
frames are whole, every operation ends in time, all copies are there at the end. Then `eau2 down`: nothing is left.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.on_ray.log import LONGEST_SECONDS_MAX, Told
from tests.on_ray.processes import coordinator_process, node_process

import eau2
from eau2.remote import launch

MACHINES, DRIVERS = 4, 3
FROZEN_SECONDS = (0.5, 2.0, 4.0, 8.0)  # Ray gives a raylet up after nine


class Drivers:
    """Processes that do everything, each with a log of its own. Those that are killed are replaced."""

    def __init__(self, folder: Path, seconds: float, seed: int):
        self.folder, self.ends, self.seed = folder, time.monotonic() + seconds, seed
        self._numbers = itertools.count()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: list[str] = []
        self.failed: list[str] = []

    def start(self, *options: str) -> None:
        name = f"d{self.seed}-{next(self._numbers)}"
        left = max(1.0, self.ends - time.monotonic())
        command = [sys.executable, "-m", "tests.on_ray.load", "ray:", f"{self.folder}/{name}.log", name, str(left)]
        with (self.folder / f"{name}.txt").open("wb") as out:
            self.running[name] = subprocess.Popen(
                [*command, *options], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def kill(self, name: str) -> None:
        driver = self.running.pop(name)
        driver.kill()
        driver.wait()
        self.killed.append(name)

    def end(self) -> None:
        """Have all end what they do."""
        for driver in self.running.values():
            driver.terminate()
        for name, driver in self.running.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(2 * LONGEST_SECONDS_MAX)
            if driver.returncode != 0:
                said = (self.folder / f"{name}.txt").read_text(errors="replace")[-2000:]
                self.failed.append(f"driver {name} came to {driver.returncode}: {said}")

    def close(self) -> None:
        for driver in self.running.values():
            driver.kill()
            driver.wait()


class Killing:
    """`kills` of something, spread over `seconds`."""

    def __init__(self, machines, drivers: Drivers, chance: random.Random, say):
        self.machines, self.drivers, self.chance, self.say = machines, drivers, chance, say
        self.counts: Counter[str] = Counter()
        self.seen = set(machines.processes())  # processes of the cluster, those that are gone too
        self._later: list[threading.Timer] = []

    def run(self, kills: int, seconds: float) -> None:
        times = sorted(self.chance.uniform(0, seconds) for _ in range(kills))
        kinds = [
            (self.kill_node, 5), (self.kill_raylet, 5), (self.kill_coordinator, 2), (self.kill_driver, 3),
            (self.freeze_node, 3), (self.freeze_raylet, 2), (self.freeze_coordinator, 1), (self.freeze_driver, 1),
        ]  # fmt: skip
        began = time.monotonic()
        for at in times:
            time.sleep(max(0.0, began + at - time.monotonic()))
            while True:  # until one of the kind is there
                (kind,) = self.chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
                if kind():
                    break
                time.sleep(0.1)
            self.seen.update(self.machines.processes())
        time.sleep(max(0.0, began + seconds - time.monotonic()))

    def _other(self) -> str:
        return self.chance.choice(self.machines.machines[1:])  # the first has the head

    def _signal(self, what: str, pid: int | None, number: signal.Signals) -> bool:
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        self.counts[f"{number.name} {what.split()[0]}"] += 1
        self.say(f"{number.name} {what} {pid}")
        return True

    def _freeze(self, what: str, pid: int | None) -> bool:
        if not self._signal(what, pid, signal.SIGSTOP):
            return False
        self._do_later(self.chance.choice(FROZEN_SECONDS), self._thaw, pid)
        return True

    def _do_later(self, seconds, deed, *arguments) -> None:
        timer = threading.Timer(seconds, deed, arguments)
        self._later.append(timer)
        timer.start()

    def _thaw(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def kill_node(self):
        machine = self.chance.choice(self.machines.machines)
        return self._signal(f"node of {machine}", node_process(self.machines, machine), signal.SIGKILL)

    def freeze_node(self):
        machine = self.chance.choice(self.machines.machines)
        return self._freeze(f"node of {machine}", node_process(self.machines, machine))

    def kill_raylet(self):
        machine = self._other()
        if not self._signal(f"raylet of {machine}", self.machines.raylet(machine), signal.SIGKILL):
            return False
        self._do_later(self.chance.uniform(0.5, 8.0), self.up)
        return True

    def freeze_raylet(self):
        machine = self._other()
        if not self._freeze(f"raylet of {machine}", self.machines.raylet(machine)):
            return False
        self._do_later(12.0, self.up)  # it may have ended itself, because it was given up
        return True

    def kill_coordinator(self):
        return self._signal("coordinator", coordinator_process(self.machines), signal.SIGKILL)

    def freeze_coordinator(self):
        return self._freeze("coordinator", coordinator_process(self.machines))

    def kill_driver(self):
        name = self.chance.choice(sorted(self.drivers.running))
        if name.endswith("-0"):  # it walks
            return False
        self.counts["SIGKILL driver"] += 1
        self.say(f"SIGKILL driver {name}")
        self.drivers.kill(name)
        self.drivers.start()
        return True

    def freeze_driver(self):
        name = self.chance.choice(sorted(self.drivers.running))
        return self._freeze("driver", self.drivers.running[name].pid)

    def up(self) -> None:
        """Start the raylets that are not there."""
        try:
            self.say(f"up: {' '.join(launch.up()[1])}")
        except (eau2.StoreBusy, eau2.ClusterUnavailable) as error:  # another does it; Ray gives up when it takes long
            self.say(f"up: {error}")
            self._do_later(1.0, self.up)

    def end(self) -> None:
        """Have all running again."""
        self.up()
        while self._later:
            self._later.pop().join()


class Soak:
    """One run. `wrong` says what is, when it is over."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        self.wrong: list[str] = []
        self._began = time.monotonic()
        self._events = (folder / "events.txt").open("a", buffering=1)

    def say(self, text: str) -> None:
        print(f"{time.monotonic():.3f} +{time.monotonic() - self._began:.1f} {text}", file=self._events)

    def run(self, seconds: float, kills: int) -> None:
        try:
            typed("up", "--nodes", str(MACHINES), "--data-dir", str(self.folder / "data"))
            machines = launch.find()
            python("tests.on_ray.settle", "ray:", "begin")
            self._load(machines, seconds, kills)
            typed("up")  # returns when the cluster is whole
            self.wrong += json.loads(python("tests.on_ray.settle", "ray:", "end", str(self.folder)).splitlines()[-1])
            told = Told.of(self.folder.glob("*.log"))
            self.wrong += told.verdict(self.killed)
            self.say(str(told))
        finally:
            self.say(f"down ended {typed('down')}")
            self._events.close()
        self.wrong += [f"left: {what}" for what in self._left(machines)]

    def _load(self, machines, seconds: float, kills: int) -> None:
        drivers = Drivers(self.folder, seconds, self.seed)
        killing = Killing(machines, drivers, random.Random(self.seed), self.say)
        try:
            drivers.start("--linus")
            for _ in range(DRIVERS):
                drivers.start()
            killing.run(kills, seconds)
            killing.end()
            drivers.end()
        finally:
            killing.end()
            drivers.close()
        self.wrong += drivers.failed
        self.killed, self.seen = drivers.killed, killing.seen
        self.say(f"did {dict(killing.counts)}")

    def _left(self, machines) -> list[str]:
        left = [f"process {pid}" for pid in machines.processes()]
        left += [f"files {machines.folder}"] * machines.folder.exists()
        for name in [*os.listdir("/dev/shm"), *os.listdir(tempfile.gettempdir())]:  # of others, too
            found = re.match(r"(?:sem\.loky|eau2-spill)-(\d+)-", name)
            if "plasma" in name or (found and int(found[1]) in self.seen):
                left.append(name)
        return left


def typed(*arguments: str) -> str:
    """Run a command, again as long as the cluster does not answer in time: where much else runs it may not."""
    deadline = time.monotonic() + 5 * LONGEST_SECONDS_MAX
    while True:
        try:
            return python("eau2.cli", *arguments, "--json").strip()
        except AssertionError as error:
            if "ClusterUnavailable" not in str(error) or time.monotonic() > deadline:
                raise


def python(*arguments: str) -> str:
    """Run a module in a process of its own; return what it prints."""
    command = [sys.executable, "-m", *arguments]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=300, text=True)
    if ran.returncode != 0:
        raise AssertionError(f"{' '.join(arguments)} came to {ran.returncode}: {ran.stderr}")
    return ran.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.on_ray.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--folder", type=Path, required=True, help="for data and logs; a new one")
    asked = parser.parse_args()
    asked.folder.mkdir()
    os.environ["EAU2_HOME"] = str(asked.folder / "home")
    soak = Soak(asked.folder, asked.seed)
    soak.run(asked.minutes * 60, asked.kills)
    print((asked.folder / "events.txt").read_text())
    for wrong in soak.wrong:
        print(f"WRONG {wrong}")
    print(f"seed {asked.seed}: {len(soak.wrong)} wrong")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

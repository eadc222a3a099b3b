"""A server under many connections: some ask, and check every reply; some idle; some do what harm they can.

python -m tests.doors.soak [--idle 1000] [--busy 200] [--minutes 10] [--seed N] [--folder FOLDER]

In the end no reply was wrong, lost or mixed up, the counters that all share have what all added, the server needs no
more memory than in the second minute (within GROWTH_MAX), has no more files open than before the first client, and ends
within a second of SIGTERM by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.until import SECONDS_MAX, until

import eau2

GROWTH_MAX = 1.05  # of memory from the second minute to the end
STEADY_MINUTES = 2  # after which memory should not grow any more
END_SECONDS_MAX = 1.0
PROCESSES = 2
LARGE_BYTES = 1 << 20
LIMITED = "import sys; from eau2.doors import connection; connection.IDLE_SECONDS = float(sys.argv.pop(1)); "
SERVE = LIMITED + "from eau2.cli import main; main()"


@dataclass(frozen=True)
class Sample:
    """What the server's process has."""

    seconds: float  # since the clients began
    own_bytes: int  # of memory that no file is behind
    bytes: int  # proportional set size
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int, seconds: float) -> Sample:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
        files, threads = (len(os.listdir(f"/proc/{pid}/{each}")) for each in ("fd", "task"))
        return cls(seconds, sizes["Pss_Anon"], sizes["Pss"], files, threads)


@contextmanager
def serving(folder: Path, idle_seconds: float, *options: str):
    """Yield a server in a process of its own, and its doors."""
    ports = [word for door in ("flight", "http", "crud", "redis", "udp") for word in (f"--{door}-port", "0")]
    command = [sys.executable, "-c", SERVE, str(idle_seconds), "serve", "--store", str(folder / "store"), *ports]
    with (folder / "log.txt").open("wb") as log:
        server = subprocess.Popen([*command, *options, "--json"], stdout=subprocess.PIPE, stderr=log)
    try:
        said = server.stdout.readline()
        assert said, (folder / "log.txt").read_text()
        yield server, json.loads(said)["doors"]
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def shares(idle: int, busy: int) -> dict[str, int]:
    """Return how many clients there are of each kind."""
    kinds = {"sleeper": -(-idle // 20), "datagrams": busy // 5, "http": busy // 10, "frames": -(-busy // 50)}
    kinds |= dict.fromkeys(("garbage", "cutter", "unread"), -(-busy // 20))
    return kinds | {"idle": idle - kinds["sleeper"], "worker": busy - sum(kinds.values()) + kinds["sleeper"]}


class Soak:
    """One run. `wrong` says what is, when it is over; `figures` what was measured."""

    def __init__(self, folder: Path, idle: int, busy: int, seconds: float, seed: int, idle_seconds: float = 300.0):
        self.folder, self.seconds, self.seed, self.idle_seconds = folder, seconds, seed, idle_seconds
        self.kinds = shares(idle, busy)
        self.wrong: list[str] = []
        self.figures: dict[str, object] = {"clients": self.kinds, "seed": seed}
        self.samples: list[Sample] = []

    def run(self) -> None:
        with serving(self.folder, self.idle_seconds) as (server, doors):
            set_large(doors)
            begin_engine(doors)
            before = until(lambda: self._settled(server.pid))
            counts, added = self._load(server.pid, doors)
            self.figures |= {"counts": dict(counts), "samples": len(self.samples)}
            self._compare(doors, added)
            self._memory()
            after = until(lambda: (now := Sample.of(server.pid, 0.0)).files <= before.files and now)
            self.figures |= {"files": [before.files, max(each.files for each in self.samples), after.files]}
            self.figures |= {"threads": [before.threads, max(each.threads for each in self.samples), after.threads]}
            self._end(server, doors)

    def _settled(self, pid: int) -> Sample | None:
        first = Sample.of(pid, 0.0)
        time.sleep(0.5)
        return first if Sample.of(pid, 0.0).files == first.files else None

    def _load(self, pid: int, doors) -> tuple[Counter[str], Counter[str]]:
        """Have the clients at work, and look at the server each second."""
        began = time.monotonic()
        running = [self._clients(number, doors) for number in range(PROCESSES)]
        said: dict[int, str] = {}
        readers = [
            threading.Thread(target=lambda number=number: said.update({number: running[number].communicate()[0]}))
            for number in range(PROCESSES)
        ]
        for reader in readers:
            reader.start()
        try:
            while any(client.poll() is None for client in running):
                self.samples.append(Sample.of(pid, time.monotonic() - began))
                time.sleep(1.0)
        finally:
            for client in running:
                client.kill()
            for reader in readers:
                reader.join()
        counts: Counter[str] = Counter()
        added: Counter[str] = Counter()
        for number, client in enumerate(running):
            if client.returncode != 0:
                self.wrong.append(f"clients {number} came to {client.returncode}")
                continue
            told = json.loads(said[number])
            counts.update(told["counts"])
            added.update(told["added"])
            self.wrong += told["wrong"]
        return counts, added

    def _clients(self, number: int, doors) -> subprocess.Popen[str]:
        of_ours = {kind: many // PROCESSES + (number < many % PROCESSES) for kind, many in self.kinds.items()}
        plan = {"doors": doors, "seconds": self.seconds, "idle_seconds": self.idle_seconds, **of_ours}
        plan |= {"seed": f"{self.seed}-{number}"}
        command = [sys.executable, "-m", "tests.doors.soak_clients", json.dumps(plan)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def _compare(self, doors, added: Counter[str]) -> None:
        """See that the counters have what was added, and that what was cut off was not done."""
        with socket.create_connection(doors["crud"], SECONDS_MAX) as client, client.makefile("rb") as replies:
            for counter, count in added.items():
                client.sendall(f"R {counter}\n".encode())
                replies.readline()
                if (found := int(replies.readline())) != count:
                    self.wrong.append(f"{counter} is {found:,}, and {count:,} were added")
            client.sendall(b"R cut\n")
            if replies.readline() != b"MISSING\n":
                self.wrong.append("what was cut off was done")

    def _memory(self) -> None:
        """See that memory does not grow from the second minute on."""
        minutes: dict[int, list[int]] = {}
        for each in self.samples:
            minutes.setdefault(int(min(each.seconds, self.seconds - 1) // 60), []).append(each.own_bytes)
        medians = [statistics.median(sizes) / 2**20 for sizes in minutes.values()]
        self.figures |= {"own MiB by minute": [round(each, 1) for each in medians]}
        self.figures |= {"greatest MiB, with files": round(max(each.bytes for each in self.samples) / 2**20, 1)}
        if len(medians) > STEADY_MINUTES + 1 and medians[-1] > medians[STEADY_MINUTES - 1] * GROWTH_MAX:
            self.wrong.append(f"memory grew by {medians[-1] / medians[STEADY_MINUTES - 1] - 1:.1%}")

    def _end(self, server: subprocess.Popen[bytes], doors) -> None:
        left = [socket.create_connection(doors[door], SECONDS_MAX) for door in ("crud", "redis") for _ in range(50)]
        try:
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            if (code := server.wait(SECONDS_MAX)) != 0:
                self.wrong.append(f"the server came to {code}")
            self.figures |= {"seconds to end": round(time.monotonic() - began, 2)}
        finally:
            for each in left:
                each.close()
        for line in (self.folder / "log.txt").read_text().splitlines():
            if not line.startswith("{") or json.loads(line)["event"] in ("failed", "warned"):
                self.wrong.append(line)


def set_large(doors) -> None:
    with socket.create_connection(doors["crud"], SECONDS_MAX) as client:
        client.sendall(b"C large #%d\n%b\n" % (LARGE_BYTES, bytes(LARGE_BYTES)))
        assert client.recv(100) == b"OK\n"


def begin_engine(doors) -> None:
    """Have the server begin what it has for queries, and keeps."""
    host, port = doors["flight"]
    with eau2.open(f"eau2://{host}:{port}") as store:
        store.put("frame", {"n": [1]})
        assert store.sql("select count(*) as n from frame").to_arrow()["n"].to_pylist() == [1]
        store.delete("frame")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.doors.soak")
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--busy", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--folder", type=Path, help="for the store and what the server logs; else a temporary one")
    asked = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="eau2-soak-") as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        soak = Soak(folder, asked.idle, asked.busy, asked.minutes * 60, asked.seed)
        soak.run()
    for name, figure in soak.figures.items():
        print(f"{name}: {figure}")
    if soak.figures["seconds to end"] > END_SECONDS_MAX:
        soak.wrong.append("the server took too long to end")
    for wrong in soak.wrong:
        print(f"WRONG {wrong}")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

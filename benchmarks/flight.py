"""A table of a gigabyte put to a served store and got from it, beside a bare Flight server, and beside Ray over ray://."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from pyarrow import flight

import eau2
from benchmarks.distributed import PEERS_PYTHON, Asked
from benchmarks.doors import _free_port
from benchmarks.frames import table_of
from benchmarks.measure import interleaved, scratch, sized, target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BYTES = 1 << 30
ROWS_AT_ONCE = 1 << 19  # 40 MB a message, for all who cut
RATIO_MIN = 0.8
WARM_UPS = 2  # rounds of puts: the servers come to the memory that they need


def _settle(size: int) -> None:
    """Begin each run alike: all is written, and there is memory that the host of a virtual machine has given.

    What a run has freed such a host takes back within seconds, and gives again piece by piece: the copy of a gigabyte
    into the page cache took 0.3 s then, or 1.2. So a process has as much before each run, and ends.
    """
    os.sync()
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    script = "import mmap, sys; mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_POPULATE)"
    subprocess.run([sys.executable, "-c", script, str(min(3 * size, free // 2))], check=True)


@contextlib.contextmanager
def _printing(*command: str) -> Iterator[str]:
    """A process that prints a line when it is ready, and ends with its input; yield the line."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
        process.wait(timeout=30)


@contextlib.contextmanager
def _served(path: str) -> Iterator[int]:
    """`eau2 serve` of the store at `path`; yield the port of its door for Flight."""
    command = [sys.executable, "-m", "eau2.cli", "serve", "--store", path, "--json", "--flight-port=0"]
    command += [f"--{door}-port=off" for door in ("crud", "redis", "http", "udp")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["doors"]["flight"][1]
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise RuntimeError("Ray's server for ray:// does not listen")


@contextlib.contextmanager
def _ray(folder: str, size: int) -> Iterator[Asked]:
    """A machine of Ray with a server for ray://, and a driver that asks it."""
    port = _free_port()
    ray = [str(PEERS_PYTHON.with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    ray += [f"--port={_free_port()}", f"--ray-client-server-port={port}", "--include-dashboard=false"]
    ray += [f"--object-store-memory={4 * size}", f"--temp-dir={folder}/r"]
    with open(f"{folder}/ray.log", "wb") as log, subprocess.Popen(ray, stdout=log, stderr=log) as head:
        driver = [str(PEERS_PYTHON), "-m", "benchmarks.peers.ray_client", f"ray://127.0.0.1:{port}", str(size)]
        try:
            _wait_for(port)
            asked = Asked("ray", driver, f"{folder}/driver.log")
            try:
                asked.ready()
                yield asked
            finally:
                asked.end()
        finally:
            head.terminate()
            head.wait(timeout=60)


def run() -> dict:
    """Put and get the same table everywhere, in turn; return a table and targets."""
    size = sized(BYTES, BYTES // 20)
    table = table_of(size)
    names = table.column_names
    # Each put has other rows than the one before: chunks that are there already need not be published.
    other = table.select([*names[1:], names[0]]).rename_columns(names)
    with (
        tempfile.TemporaryDirectory(dir=scratch(), prefix="flight") as folder,
        tempfile.TemporaryDirectory(prefix="ray") as short,  # sockets have short names
        _printing(sys.executable, "-m", "benchmarks.flight_child") as bare_port,
        _served(folder) as port,
        eau2.open(f"eau2://127.0.0.1:{port}") as store,
        flight.connect(("127.0.0.1", port)) as plain,
        flight.connect(("127.0.0.1", int(bare_port))) as bare,
        _ray(short, size) as ray,
    ):

        def put(client: flight.FlightClient) -> Callable[[], None]:
            tables = itertools.cycle((table, other))

            def work() -> None:
                writer, _ = client.do_put(flight.FlightDescriptor.for_path("plain"), table.schema)
                writer.write_table(next(tables), max_chunksize=ROWS_AT_ONCE)
                writer.close()

            return work

        ours = itertools.cycle((table, other))

        def got() -> object:
            with eau2.open(f"eau2://127.0.0.1:{port}") as fresh:  # what was brought once is not brought again
                return fresh.frame("table").to_arrow()

        def get(client: flight.FlightClient) -> Callable[[], object]:
            return lambda: client.do_get(flight.Ticket(b'{"key": "plain"}')).read_all()

        putting = {
            "bare Flight server": put(bare),
            "eau2.open('eau2://')": lambda: store.put("table", next(ours)),
            "eau2, a Flight client": put(plain),
        }
        for _ in range(sized(WARM_UPS, 0)):
            for work in putting.values():
                _settle(size)
                work()
        puts = interleaved(putting, before=lambda _: _settle(size))
        gets = interleaved(
            {"bare Flight server": get(bare), "eau2.open('eau2://')": got, "eau2, a Flight client": get(plain)}
        )
        # Not in turn with the others: while it takes its ten seconds, a host may take back what they have freed.
        puts |= interleaved({"ray://": lambda: ray.ask("put")})
        gets |= interleaved({"ray://": lambda: ray.ask("get")})
    figures = {
        "put": {name: timing.figures() for name, timing in puts.items()},
        "get": {name: timing.figures() for name, timing in gets.items()},
    }
    names = list(puts)
    bare_put, bare_get = puts[names[0]].median, gets[names[0]].median
    rows, targets = [], []
    for name in names:
        put_seconds, get_seconds = puts[name].median, gets[name].median
        ratios = bare_put / put_seconds, bare_get / get_seconds
        rows.append([name, put_seconds, get_seconds, *ratios])
        if name.startswith("eau2"):
            for what, ratio in zip(("put", "get"), ratios, strict=True):
                targets.append(target(f"{what} by {name}: rate over the bare server's", ratio, at_least=RATIO_MIN))
    return {
        "figures": {"bytes": table.nbytes, **figures},
        "tables": [
            {
                "title": f"{table.nbytes / 1e9:.2f} GB over loopback, seconds",
                "columns": ["", "put", "get", "put, rate over the bare server's", "get, likewise"],
                "rows": rows,
            }
        ],
        "targets": targets,
    }

"""Processes for `watching`: a store that is served or embedded, watched or not; and who watches, as the page does.

`python -m benchmarks.watching_child store PATH watched|plain KEYS` prints the addresses of its doors, and then, for
each line `WHAT SECONDS` that it reads, how many of WHAT it did a second. `... watch HOST PORT` watches until it is
ended.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

import eau2
from eau2.doors.server import Doors, Server

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 1_000_000
QUERY = "select vendor, count(*) as n, avg(fare) as fare from trips group by vendor"
SPARKS_SECONDS, METRICS_SECONDS = 20.0, 15.0  # how often the page asks for the hour, and Prometheus for all
VALUE = bytes(100)


def store(path: str, how: str, keys: int) -> None:
    """Have a store at `path` with a server: with its page and figures, or without both."""
    doors = Doors(crud_port=None, udp_port=None, http_port=0 if how == "watched" else None, page=how == "watched")
    with eau2.open(path) as opened:
        if not path.startswith("ray:"):
            opened.put_many({f"key-{number:06}": VALUE for number in range(keys)})
            numbers = np.arange(ROWS)
            opened.put("trips", pa.table({"vendor": numbers % 100, "fare": numbers / 7}))
        with Server(opened, doors) as server:
            if how != "watched":
                server._publishing._refused = True  # no figures are published: the thread ends within a second
            print(json.dumps(server.addresses), flush=True)
            works = {"gets": _gets(opened, keys), "puts": _puts(opened, keys), "queries": _queries(opened)}
            for line in sys.stdin:
                what, seconds = line.split()
                print(_rate(works[what], float(seconds)), flush=True)


def _gets(opened: eau2.Store, keys: int) -> Callable[[], int]:
    names = [f"key-{random.randrange(keys):06}" for _ in range(1000)]

    def work() -> int:
        for name in names:
            opened.get(name)
        return len(names)

    return work


def _puts(opened: eau2.Store, keys: int) -> Callable[[], int]:
    names = [f"key-{random.randrange(keys):06}" for _ in range(100)]

    def work() -> int:
        for name in names:
            opened.put(name, VALUE)
        return len(names)

    return work


def _queries(opened: eau2.Store) -> Callable[[], int]:
    def work() -> int:
        opened.sql(QUERY).to_arrow()
        return 1

    return work


def _rate(work: Callable[[], int], seconds: float) -> float:
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        count += work()
    return count / passed


def watch(host: str, port: int) -> None:
    """Do what a browser does that shows the nodes, and what Prometheus does."""
    for path, every in (("/monitor/sparks", SPARKS_SECONDS), ("/metrics", METRICS_SECONDS)):
        threading.Thread(target=_ask_for_ever, args=(host, port, path, every), daemon=True).start()
    connection = http.client.HTTPConnection(host, port)
    connection.request("GET", "/monitor/events")
    answer = connection.getresponse()
    print(answer.readline().decode().strip(), flush=True)
    while answer.readline():
        pass


def _ask_for_ever(host: str, port: int, path: str, every: float) -> None:
    while True:
        connection = http.client.HTTPConnection(host, port)
        connection.request("GET", path)
        connection.getresponse().read()
        connection.close()
        time.sleep(every)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "watch":
        watch(rest[0], int(rest[1]))
    else:
        store(rest[0], rest[1], int(rest[2]))

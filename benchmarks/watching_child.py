"""Processes for `watching`: a store that is served or embedded, watched or not; and who watches, as the page does.

`python -m benchmarks.watching_child store PATH KEYS` prints the addresses of its doors, with neither page nor figures.
Then it reads lines: `page` opens another server of the store with its page, and publishes figures; `no page` ends both;
each prints the addresses. For `WHAT SECONDS` it prints how many of WHAT it did a second.
`... watch` reads lines too: `HOST PORT` has the page there watched, once `watches` is printed, until `leave`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
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
_ASKED = {"/monitor/sparks": 20.0, "/metrics": 15.0}  # every so many seconds, by the page and by Prometheus
VALUE = bytes(100)


class Served:
    """`store` with a server, whose figures are published, and whose page can be seen, between `page` and `no_page`."""

    def __init__(self, store: eau2.Store) -> None:
        self._store = store
        self._server = Server(store, Doors(crud_port=None, udp_port=None))
        self._page: Server | None = None
        self.no_page()

    def page(self) -> None:
        if self._page is not None:
            return
        del self._server._publishing.publish
        self._page = Server(self._store, Doors(crud_port=None, udp_port=None, redis_port=None, http_port=0, page=True))

    def no_page(self) -> None:
        self._server._publishing.publish = lambda: None
        if self._page is not None:
            self._page.close()
            self._page = None

    def addresses(self) -> dict[str, tuple[str, int]]:
        return self._server.addresses | ({} if self._page is None else self._page.addresses)

    def close(self) -> None:
        self.no_page()
        self._server.close()


def store(path: str, keys: int) -> None:
    """Have a store at `path` with a server, and do what is asked."""
    with eau2.open(path) as opened:
        if not path.startswith("ray:"):
            opened.put_many({f"key-{number:06}": VALUE for number in range(keys)})
            numbers = np.arange(ROWS)
            opened.put("trips", pa.table({"vendor": numbers % 100, "fare": numbers / 7}))
        with contextlib.closing(Served(opened)) as served:
            print(json.dumps(served.addresses()), flush=True)
            works = {"gets": _gets(opened, keys), "puts": _puts(opened, keys), "queries": _queries(opened)}
            for line in sys.stdin:
                what = line.split()
                if what[-1] == "page":
                    (served.no_page if what[0] == "no" else served.page)()
                    print(json.dumps(served.addresses()), flush=True)
                else:
                    print(_rate(works[what[0]], float(what[1])), flush=True)


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


class Watching:
    """Does what a browser does that shows the nodes, and what Prometheus does, until `leave`."""

    def __init__(self, host: str, port: int) -> None:
        self._where = host, port
        self._left = threading.Event()
        self._events = http.client.HTTPConnection(host, port)
        self._events.request("GET", "/monitor/events")
        answer = self._events.getresponse()
        assert answer.readline() == b"event: overview\n"
        threads = [(self._listen, (answer,))]
        threads += [(self._ask_for_ever, each) for each in _ASKED.items()]
        for work, arguments in threads:
            threading.Thread(target=work, args=arguments, daemon=True).start()

    def _listen(self, answer: http.client.HTTPResponse) -> None:
        with contextlib.suppress(OSError, ValueError):  # it was left just now
            while answer.readline():
                pass

    def _ask_for_ever(self, path: str, every_seconds: float) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # likewise
            while not self._left.is_set():
                connection = http.client.HTTPConnection(*self._where)
                connection.request("GET", path)
                connection.getresponse().read()
                connection.close()
                self._left.wait(every_seconds)

    def leave(self) -> None:
        self._left.set()
        if self._events.sock is not None:
            self._events.sock.shutdown(socket.SHUT_RDWR)


def watch() -> None:
    """Watch the pages that are asked for."""
    watching: Watching | None = None
    for line in sys.stdin:
        if watching is not None:
            watching.leave()
        watching = None
        if line != "leave\n":
            host, port = line.split()
            watching = Watching(host, int(port))
        print("watches", flush=True)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "watch":
        watch()
    else:
        store(rest[0], int(rest[1]))

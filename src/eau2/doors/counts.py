"""What the doors of a server count, and how that comes into the reports of the store that they serve."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error, ReadOnly
from eau2.metrics.report import counter, gauge, metrics_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eau2.metrics.report import Metric
    from eau2.store.store import Store

TIMED_ONE_IN = 256  # requests, and one a second: to time one costs as much as a tenth of answering it
_TIMES_KEPT = 512  # of which the percentiles are
_PUBLISH_SECONDS = 1.0
_SAME_SECONDS = 5.0  # what has not changed is published less often: a node that was started anew has lost it
_END_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class DoorStatistics:
    """One door since the server began. None is not counted there."""

    requests: int = field(metadata=counter("Requests that came to the door.", "requests"))
    errors: int = field(metadata=counter("Replies of the door that say an error.", "replies"))
    connections: int | None = field(metadata=gauge("Clients that are connected to the door.", "connections"))
    received_bytes: int | None = field(metadata=counter("Bytes that came to the door.", "bytes"))
    latency_p50_seconds: float | None = field(
        metadata=gauge("Median time from a request's coming to its reply, of the last few hundred timed.", "seconds")
    )
    latency_p99_seconds: float | None = field(
        metadata=gauge("99th percentile of the time from a request's coming to its reply.", "seconds")
    )


class DoorCounts:
    """What one door counts. Changed in one thread, or by who holds a lock; any may read `statistics`."""

    __slots__ = ("_connects", "_timed", "_times", "connections", "errors", "received", "requests", "time_at")

    def __init__(self, *, connects: bool = True) -> None:
        self._connects = connects
        self.requests = self.errors = self.connections = self.received = 0
        self.time_at = 0  # so many requests: the next is timed
        self._times: list[float] = []
        self._timed = 0

    def connected(self, more: int) -> None:
        """So many `more` clients are connected."""
        self.connections += more

    def begin(self) -> float:
        """Return the moment at which a request that is timed came."""
        self.time_at = self.requests + TIMED_ONE_IN
        return time.perf_counter()

    def end(self, began: float) -> None:
        """The request that came then has its reply."""
        seconds = time.perf_counter() - began
        if self._timed < _TIMES_KEPT:
            self._times.append(seconds)
        else:
            self._times[self._timed % _TIMES_KEPT] = seconds
        self._timed += 1

    def statistics(self) -> DoorStatistics:
        times = sorted(self._times)
        return DoorStatistics(
            requests=self.requests,
            errors=self.errors,
            connections=self.connections if self._connects else None,
            received_bytes=self.received if self._connects else None,
            latency_p50_seconds=times[len(times) // 2] if times else None,
            latency_p99_seconds=times[len(times) * 99 // 100] if times else None,
        )


class Publishing:
    """Publishes what doors count in the reports of `store`, each second in which that has changed, in a thread that
    ends with `close`.

    A store that is served elsewhere to who may only read does not take it: that is tried once.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._source = secrets.token_hex(8)  # others may serve the same node
        self._lock = threading.Lock()  # guards the line below
        self._doors: dict[str, DoorCounts] = {}
        self._refused = False
        self._latest: list[Metric] = []  # that were published
        self._published = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish_for_ever, name="eau2-figures", daemon=True)
        self._thread.start()

    def door(self, name: str, *, connects: bool = True) -> DoorCounts:
        """Return what the door `name` is to count with. connects: whether it knows of connections and their bytes."""
        counts = DoorCounts(connects=connects)
        with self._lock:
            self._doors[name] = counts
        return counts

    def metrics(self) -> Iterable[Metric]:
        """Yield the figures of all doors: `door_redis_requests` and so on."""
        with self._lock:
            doors = dict(self._doors)
        for name, counts in doors.items():
            yield from metrics_of(counts.statistics(), prefix=f"door_{name}_")
            counts.time_at = 0  # where little is asked, the next is timed

    def publish(self) -> None:
        now, metrics = time.monotonic(), list(self.metrics())
        if metrics == self._latest and now - self._published < _SAME_SECONDS:
            return
        try:
            self._store.node.publish(metrics, source=self._source)
            self._latest, self._published = metrics, now
        except ReadOnly:  # each time would be a line in the audit log of the server that refuses it
            self._refused = True
        except Eau2Error:  # the store is closed, or no node answers: the next second is soon
            return

    def close(self) -> None:
        """Publish for the last time, and end; not waited for longer than a moment."""
        self._ended.set()
        self._thread.join(_END_SECONDS)

    def _publish_for_ever(self) -> None:
        while not self._refused and not self._ended.wait(_PUBLISH_SECONDS):
            self.publish()
        if not self._refused:
            self.publish()

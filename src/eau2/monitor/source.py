"""Where the page has its figures from: what nodes say of themselves, and who they are.

`observed` is the only place that knows; it is called once every few seconds, in a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eau2.machine import memory_of_machine
from eau2.metrics.report import COUNTER, GAUGE, Metric, Report

if TYPE_CHECKING:
    from eau2.store.nodes import NodeStatistics
    from eau2.store.store import Store

LIVE, DEAD = "live", "dead"
CHANGES_MAX = 100
_ABSENT_KEY = "eau2 looks how soon it is answered"

# Fields of NodeStatistics: name, unit, kind, what it is.
_FIELDS = (
    ("keys", "keys", GAUGE, "Keys with a value now."),
    ("frames", "keys", GAUGE, "Keys that hold frames."),
    ("chunks", "chunks", GAUGE, "Chunk files that a frame names."),
    ("chunk_bytes", "bytes", GAUGE, "Size of the chunk files."),
    ("value_bytes", "bytes", GAUGE, "Size of the database file and its log."),
    ("gets", "operations", COUNTER, "Look-ups of keys."),
    ("writes", "operations", COUNTER, "Writes of keys."),
    ("commits", "transactions", COUNTER, "Transactions; fewer than writes when writers shared one."),
    ("waits", "operations", COUNTER, "Waits for a key."),
    ("chunks_written", "chunks", COUNTER, "Chunks written."),
    ("chunks_mapped", "chunks", COUNTER, "Chunks mapped into memory."),
    ("chunks_verified", "chunks", COUNTER, "Chunks hashed, as they were not known to be untouched."),
    ("chunks_removed", "chunks", COUNTER, "Chunks removed."),
    ("tasks", "tasks", COUNTER, "Calls of functions for a chunk, done on the node."),
    ("chunks_read", "chunks", COUNTER, "Chunks read by such calls and by queries."),
    ("rows_read", "rows", COUNTER, "Rows of the chunks read."),
    ("bytes_read", "bytes", COUNTER, "Bytes of the chunks read."),
    ("rows_moved", "rows", COUNTER, "Rows that came from another node, or went to a caller."),
    ("bytes_moved", "bytes", COUNTER, "Bytes that came from another node, or went to a caller."),
    ("chunks_mended", "chunks", COUNTER, "Damaged or missing chunks replaced by another node's copy."),
    ("copies_missing", "copies", GAUGE, "Copies of keys and chunks that the last look of the repair found short."),
    ("copied", "copies", COUNTER, "Copies that repair has made."),
    ("copied_bytes", "bytes", COUNTER, "Bytes of copies that repair has made."),
)


@dataclass(frozen=True, slots=True)
class Member:
    """A node, and what is known of its state."""

    name: str
    state: str  # "joining", "live", "suspected", "dead", "returning", "leaving", "left"
    since: float  # Unix time
    source: str  # who says so, and why


@dataclass(frozen=True, slots=True)
class Change:
    """A change of who is a member."""

    time: float  # Unix time
    why: str  # which node, and what was seen


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a store at one moment."""

    time: float  # Unix time
    took_seconds: float  # to look
    members: tuple[Member, ...]  # in the order of the store, those that have gone last
    changes: tuple[Change, ...]  # of members, oldest first
    reports: tuple[Report, ...]
    totals: dict[str, float]  # of all nodes: keys, frames and chunks are counted once each, not each copy
    server: Report  # of the process that serves the page, and of its machine


class Source:
    """Looks at one store, time and again. For one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._members: dict[str, Member] = {}
        self._changes: deque[Change] = deque(maxlen=CHANGES_MAX)

    def observed(self) -> Observation:
        """Return what the store says now. 1 ms and more by keys and nodes; raises what `Store.statistics` does."""
        began, now = time.perf_counter(), time.time()
        statistics = self._store.statistics()
        reports = tuple(Report(each.name, 0.0, _metrics_of(each)) for each in statistics.nodes)
        totals = {metric.name: metric.value for metric in _metrics_of(statistics)}
        members = self._looked(self._store.nodes, now)
        server = Report("", 0.0, (*_of_machine(self._store.name), self._probed()))
        changes = tuple(self._changes)
        return Observation(now, time.perf_counter() - began, members, changes, reports, totals, server)

    def _looked(self, live: tuple[str, ...], now: float) -> tuple[Member, ...]:
        is_first = not self._members
        for name in live:
            known = self._members.get(name)
            if known is None or known.state != LIVE:
                self._members[name] = Member(name, LIVE, now, "this server: it is a member of the store")
                if not is_first:
                    self._changes.append(Change(now, f"{name} is {'new' if known is None else 'back'}"))
        for name, known in self._members.items():
            if name not in live and known.state == LIVE:
                self._members[name] = Member(name, DEAD, now, "this server: it is no member of the store any more")
                self._changes.append(Change(now, f"{name} is no member any more"))
        gone = [member for name, member in self._members.items() if name not in live]
        return (*(self._members[name] for name in live), *gone)

    def _probed(self) -> Metric:
        began = time.perf_counter()
        self._store.exists(_ABSENT_KEY)
        seconds = time.perf_counter() - began
        return Metric("answer_seconds", seconds, "seconds", "Time until the store said that a key is absent.", GAUGE)


def _metrics_of(statistics: NodeStatistics) -> tuple[Metric, ...]:
    return tuple(
        Metric(name, float(getattr(statistics, name)), unit, help_, kind) for name, unit, kind, help_ in _FIELDS
    )


def _of_machine(path: str) -> tuple[Metric, ...]:
    found = [
        Metric("processor_seconds", time.process_time(), "seconds", "Processor time of this server.", COUNTER),
        Metric("memory_bytes", memory_of_machine(), "bytes", "Memory of the machine, or of its container.", GAUGE),
    ]
    with contextlib.suppress(OSError):
        load = os.getloadavg()[0]
        found.append(Metric("load", load, "", "Processes that ran or waited, over the last minute.", GAUGE))
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo", "rb") as file:
        free = next(int(line.split()[1]) << 10 for line in file if line.startswith(b"MemAvailable:"))
        found.append(Metric("memory_free_bytes", free, "bytes", "Memory that can be had at once.", GAUGE))
    with contextlib.suppress(OSError, ValueError):  # what is no path is a store elsewhere
        disk = os.statvfs(path)
        found += [
            Metric("disk_bytes", disk.f_blocks * disk.f_frsize, "bytes", "Size of the store's disk.", GAUGE),
            Metric("disk_free_bytes", disk.f_bavail * disk.f_frsize, "bytes", "Free room on it.", GAUGE),
        ]
    return tuple(found)

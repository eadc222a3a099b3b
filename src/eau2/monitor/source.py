"""Where the page has its figures from: what nodes say of themselves, and who they are.

`observed` is the only place that knows; it is called once every few seconds, in a thread of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eau2.metrics.process import process_statistics
from eau2.metrics.report import GAUGE, Metric, Report, metrics_of

if TYPE_CHECKING:
    from eau2.store.membership import EpochChange, Member
    from eau2.store.store import Store

_ABSENT_KEY = "eau2 looks how soon it is answered"


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a store at one moment."""

    time: float  # Unix time
    took_seconds: float  # to look
    members: tuple[Member, ...]  # in the order of the store, those that are not live last
    changes: tuple[EpochChange, ...]  # of members, oldest first
    reports: tuple[Report, ...]
    totals: dict[str, float]  # of all nodes: keys, frames and chunks are counted once each, not each copy
    server: Report  # of the process that serves the page, and of its machine


def observed(store: Store) -> Observation:
    """Return what `store` says now. 1 ms and more by keys and nodes; raises what `Store.statistics` does."""
    began, now = time.perf_counter(), time.time()
    totals = {metric.name: metric.value for metric in metrics_of(store.statistics())}
    members = sorted(store.members(), key=lambda member: member.state != "live")
    reports = store.reports()
    server = Report("", 0.0, (*metrics_of(process_statistics(store.name)), _probed(store)))
    took = time.perf_counter() - began
    return Observation(now, took, tuple(members), store.epochs(), reports, totals, server)


def _probed(store: Store) -> Metric:
    began = time.perf_counter()
    store.exists(_ABSENT_KEY)
    seconds = time.perf_counter() - began
    return Metric("answer_seconds", seconds, "seconds", "Time until the store said that a key is absent.", GAUGE)

"""Where the page has its figures from: what nodes say of themselves, and who they are. `Sight` asks for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eau2.metrics.report import GAUGE, Metric, metrics_of
from eau2.remote.address import SCHEME as CLUSTER
from eau2.served.address import SCHEME as SERVED

if TYPE_CHECKING:
    from eau2.metrics.report import Report
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
    counted_here: bool  # counts are of this process alone: others that have the directory open count for themselves
    troubles: tuple[str, ...] = ()  # what is not as of now, since when and why


def who(store: Store) -> tuple[tuple[Member, ...], tuple[EpochChange, ...]]:
    """Return who is a member, those that are not live last, and why that has changed."""
    return tuple(sorted(store.members(), key=lambda member: member.state != "live")), store.epochs()


def is_counted_here(store: Store) -> bool:
    """Whether the nodes of `store` are in this process, and others that have them open too count for themselves."""
    return not store.name.startswith((CLUSTER, SERVED))


def in_all(store: Store) -> dict[str, float]:
    """Return the sums of all nodes. 1 ms and more by keys; raises what `Store.statistics` does."""
    return {metric.name: metric.value for metric in metrics_of(store.statistics())}


def answered(store: Store) -> Metric:
    """Return how soon the store answers."""
    began = time.perf_counter()
    store.exists(_ABSENT_KEY)
    seconds = time.perf_counter() - began
    return Metric("answer_seconds", seconds, "seconds", "Time until the store said that a key is absent.", GAUGE)

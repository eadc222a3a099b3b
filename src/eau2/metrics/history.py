"""An hour of what nodes have said, in bounded memory: each second of the last five minutes, and each tenth of the hour.

Whoever shows curves feeds a `History` with reports, and asks it for points, and for rates of counters.
"""

from __future__ import annotations

import math
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from eau2.errors import InvalidOption
from eau2.metrics.report import COUNTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eau2.metrics.report import Metric, Report

FINE_SECONDS, FINE_POINTS = 1.0, 300
COARSE_SECONDS, COARSE_POINTS = 10.0, 360
SERIES_MAX = 20_000  # of all nodes together, of 5.3 KB each once they are full; later ones are left out
_GROWN = 32  # points for which room is made at first, as many series end soon


class Point(NamedTuple):
    """A value, or a rate in units a second, at a time in seconds of the clock that the history is fed by."""

    time: float
    value: float


class _Ring:
    """The last reports of one node, one in each `step` of time: their times, and of each figure the values."""

    def __init__(self, step: float, size: int) -> None:
        self._step, self._size = step, size
        self._times = array("d")
        self._values: dict[str, array[float]] = {}
        self._end = 0  # how many there have been: the next is at this, modulo the size

    def names(self) -> Iterable[str]:
        return self._values

    @property
    def latest(self) -> float:
        """When the latest was said; -inf before there is one."""
        return self._times[(self._end - 1) % self._size] if self._end else -math.inf

    def add(self, time: float, metrics: Iterable[Metric]) -> None:
        if time <= self.latest:
            return
        same = self._end > 0 and math.floor(time / self._step) == math.floor(self.latest / self._step)
        place = (self._end - same) % self._size  # the last of a step stands for it
        _set(self._times, place, time, self._size)
        for values in self._values.values():
            _set(values, place, math.nan, self._size)
        for metric in metrics:
            _set(self._values.setdefault(metric.name, array("d")), place, metric.value, self._size)
        self._end += not same

    def points(self, name: str, since: float) -> Iterator[Point]:
        """Yield what is known of `name` after `since`, oldest first."""
        values = self._values.get(name)
        if values is None:
            return
        for number in range(max(0, self._end - self._size), self._end):
            place = number % self._size
            # A series that came late is shorter than the times, until it has gone round.
            if self._times[place] > since and place < len(values) and not math.isnan(values[place]):
                yield Point(self._times[place], values[place])

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._values.pop(name, None)

    def silent(self, since: float) -> list[str]:
        """Return the names of which nothing is known after `since`."""
        return [name for name in self._values if next(self.points(name, since), None) is None]


def _set(values: array[float], place: int, value: float, size: int) -> None:
    if place >= len(values):
        grown = min(size, max(_GROWN, place + 1, 2 * len(values)))
        values.extend([math.nan] * (grown - len(values)))
    values[place] = value


class _Node:
    def __init__(self) -> None:
        self.fine = _Ring(FINE_SECONDS, FINE_POINTS)
        self.coarse = _Ring(COARSE_SECONDS, COARSE_POINTS)
        self.metrics: dict[str, Metric] = {}  # as they were said last


class History:
    """What nodes have said in the last hour. Not thread-safe. Times are those of one clock, which only grows.

    series_max: pairs of a node and a figure that are kept. A node, or a figure, of which nothing was heard for an hour
    is forgotten, and makes room for others.
    """

    def __init__(self, *, series_max: int = SERIES_MAX) -> None:
        self._series_max = series_max
        self._series = 0
        self._nodes: dict[str, _Node] = {}
        self._forgot = -math.inf
        self.left_out = 0  # figures that came when there was no room for another series

    def __repr__(self) -> str:
        return f"<History: {self._series} series of {len(self._nodes)} nodes>"

    def feed(self, reports: Iterable[Report], now: float) -> None:
        """Have `reports`, as they are known at `now`: each is of the moment in which its node said it. One that is
        known already changes nothing. 0.3 us a figure."""
        if now - self._forgot >= COARSE_SECONDS * COARSE_POINTS / 10:
            self._forget(now - COARSE_SECONDS * COARSE_POINTS)
            self._forgot = now
        for report in reports:
            node = self._nodes.get(report.node) or self._nodes.setdefault(report.node, _Node())
            said = now - report.age_seconds
            if said <= node.fine.latest:
                continue
            metrics = [metric for metric in report.metrics if self._has_room(node, metric)]
            node.fine.add(said, metrics)
            node.coarse.add(said, metrics)

    def nodes(self) -> list[str]:
        """Return the nodes of which something is known, in natural order."""
        return sorted(self._nodes, key=lambda name: (len(name), name))

    def metrics(self, node: str) -> tuple[Metric, ...]:
        """Return the figures of `node`, as they were said last; () where nothing is known."""
        return tuple(self._nodes[node].metrics.values()) if node in self._nodes else ()

    def points(self, node: str, metric: str, *, since: float) -> list[Point]:
        """Return the values of a figure after `since`, oldest first: of each second where these are still known, else
        of each tenth. [] where nothing is known."""
        found = self._nodes.get(node)
        if found is None:
            return []
        fine = list(found.fine.points(metric, since))
        begins = fine[0].time if fine else math.inf
        return [*(point for point in found.coarse.points(metric, since) if point.time < begins), *fine]

    def rates(self, node: str, metric: str, *, since: float) -> list[Point]:
        """Return how much a counter grew, a second, up to each of its points but the first. One that fell has begun
        anew from 0. InvalidOption for a gauge."""
        known = self._nodes.get(node)
        if known is not None and metric in known.metrics and known.metrics[metric].kind != COUNTER:
            raise InvalidOption(f"{metric} is a {known.metrics[metric].kind}", hint="points() has its values")
        points = self.points(node, metric, since=since)
        return [
            Point(after.time, (after.value - (before.value if after.value >= before.value else 0.0)) / seconds)
            for before, after in pairwise(points)
            if (seconds := after.time - before.time) > 0
        ]

    # -- private ------------------------------------------------------------------------------------------------------

    def _has_room(self, node: _Node, metric: Metric) -> bool:
        if metric.name not in node.metrics:
            if self._series >= self._series_max:
                self.left_out += 1
                return False
            self._series += 1
        node.metrics[metric.name] = metric
        return True

    def _forget(self, since: float) -> None:
        for name, node in list(self._nodes.items()):
            silent = node.coarse.silent(since)
            for gone in silent:
                node.metrics.pop(gone, None)
            for ring in (node.fine, node.coarse):
                ring.drop(silent)
            self._series -= len(silent)
            if not node.metrics:
                del self._nodes[name]

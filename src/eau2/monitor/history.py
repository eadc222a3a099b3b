"""An hour of figures, in bounded memory: a value every ten seconds of each figure of each node."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

from eau2.metrics.report import COUNTER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eau2.metrics.report import Report

STEP_SECONDS = 10
STEPS = 360
SERIES_MAX = 20_000  # of 1.4 kB each
BRIDGED_STEPS = 6  # between two looks that may be so far apart and still be one line: looks that cost much are fewer
SILENT_SECONDS = 10.0  # after which what a node said is not taken for how it is
APART_SECONDS = 0.2  # what nodes said is of another moment, however well its age is known
SUMMED = ("copied", "copied_bytes")  # counters of which a sum is shown that is not to fall when a node begins again
SUMMED_MAX = 20_000  # of all nodes that ever were
_NOTHING = math.nan

Name = tuple[str, str]  # node, figure


class History:
    """Of gauges the values, of counters how fast they grow, in units a second. Not thread-safe."""

    def __init__(self) -> None:
        self._series: dict[Name, array[float]] = {}
        self._noted: dict[Name, int] = {}  # the step of the last value of each
        self._counts: dict[Name, tuple[float, float]] = {}  # of counters: time and count of the last look
        self._latest: dict[Name, float] = {}
        self._before: dict[Name, float] = {}  # at the last look
        self._counted: dict[Name, float] = {}  # of SUMMED, as nodes said last
        self._sums = dict.fromkeys(SUMMED, 0.0)
        self._now = 0  # the step of the last look

    def note(self, time: float, reports: Iterable[Report]) -> None:
        """Add what nodes say at `time` (Unix). A later value of the same ten seconds replaces an earlier one."""
        self._now = int(time // STEP_SECONDS)
        self._before, self._latest = self._latest, {}
        seen: set[Name] = set()
        for report in reports:
            if report.age_seconds > SILENT_SECONDS:
                continue  # it is not as it was: a gap
            for metric in report.metrics:
                name = report.node, metric.name
                seen.add(name)
                at = time - report.age_seconds
                value = self._rate(name, at, metric.value) if metric.kind == COUNTER else metric.value
                if metric.name in self._sums:
                    self._sum(name, metric.value)
                if value is not None:
                    self._latest[name] = value
                    self._put(name, value)
        self._forget(seen)

    def latest(self, node: str, figure: str) -> float | None:
        """Return the value of the last look, of counters how fast it grew before; None where that is not known."""
        return self._latest.get((node, figure))

    def summed(self, figure: str) -> float:
        """Return how much all nodes have counted of a figure of SUMMED, also before one was started anew or went, as
        far as that was looked at. It never falls."""
        return self._sums[figure]

    def figures(self, node: str) -> list[str]:
        """Return the names of what is known of `node`."""
        return [figure for of, figure in self._series if of == node]

    def series(self, node: str, figure: str) -> list[float | None]:
        """Return the values of the last hour, oldest first, one a step; None where nothing was noted."""
        name = node, figure
        values, noted = self._series.get(name), self._noted.get(name, 0)
        if values is None:
            return [None] * STEPS
        found: list[float | None] = []
        for step in range(self._now - STEPS + 1, self._now + 1):
            value = values[step % STEPS] if step <= noted else _NOTHING
            found.append(None if math.isnan(value) else value)
        return found

    # -- private ------------------------------------------------------------------------------------------------------

    def _rate(self, name: Name, time: float, count: float) -> float | None:
        before = self._counts.get(name)
        if before is not None and time < before[0] + APART_SECONDS and count == before[1]:
            return self._before.get(name)  # it has said nothing since
        self._counts[name] = time, count
        if before is None or time <= before[0]:
            return None
        grown = count - before[1]
        return (grown if grown >= 0 else count) / (time - before[0])  # less than before: it began again from 0

    def _sum(self, name: Name, count: float) -> None:
        before = self._counted.pop(name, 0.0)
        self._counted[name] = count  # the last of all: those that were not heard of for long go first
        self._sums[name[1]] += count - before if count >= before else count
        if len(self._counted) > SUMMED_MAX:
            del self._counted[next(iter(self._counted))]

    def _put(self, name: Name, value: float) -> None:
        values = self._series.get(name)
        if values is None:
            if len(self._series) >= SERIES_MAX:
                return
            values = self._series[name] = array("f", [_NOTHING]) * STEPS
            self._noted[name] = self._now
        between = value if self._now - self._noted[name] <= BRIDGED_STEPS else _NOTHING
        for step in range(max(self._noted[name] + 1, self._now - STEPS + 1), self._now):  # what was not looked at
            values[step % STEPS] = between
        values[self._now % STEPS] = value
        self._noted[name] = self._now

    def _forget(self, seen: set[Name]) -> None:
        old = [name for name, step in self._noted.items() if step <= self._now - STEPS]
        for name in old:
            del self._series[name], self._noted[name]
            self._counts.pop(name, None)
        for name in [name for name in self._counts if name not in seen and name not in self._series]:
            del self._counts[name]

"""The figures of a node that others than the node count: its users, and the doors in front of it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from eau2.errors import InvalidOption
from eau2.metrics.report import COUNTER, checked_metric

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Set

    from eau2.metrics.report import Metric

PUBLISHED_MAX = 500  # a node has at most so many: all of them travel to all nodes
SOURCES_MAX = 64  # that publish on one node
SOURCE_LENGTH_MAX = 40
SILENT_SECONDS = 10.0  # after which a source, which publishes at least every five, has ended


class _Source(NamedTuple):
    """What one source has published, and when last."""

    at: float
    latest: Mapping[str, Metric]


class Published:
    """The latest figure of each name, of several sources together. Thread-safe. own: names that the node itself has.

    Several servers may be in front of one node, each with figures of the same names: counters and sizes are added, of
    times the greatest is told. A source that is silent has ended, and its sizes with it. What it had counted stays in
    the sum as long as another counts the same, for a counter that fell would be taken for one that began again.
    """

    def __init__(self, own: Set[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._own, self._clock = own, clock
        self._lock = threading.Lock()  # guards the two below
        self._lasting: dict[str, Metric] = {}  # of users: until this process ends
        self._sources: dict[str, _Source] = {}

    def publish(self, metrics: Sequence[Metric], *, source: str = "") -> None:
        """Have `metrics` from now on, in place of those of the same names. All or nothing: InvalidOption for a name
        that the node has, or when there are too many; and what `checked_metric` raises.

        source: who publishes all that it counts, at least every five seconds, and is forgotten when it does not.
        """
        if len(source) > SOURCE_LENGTH_MAX:
            raise InvalidOption(f"a source's name has at most {SOURCE_LENGTH_MAX} characters, not {len(source)}")
        new = {}
        for metric in metrics:  # they may come from another process
            checked = checked_metric(metric.name, metric.value, unit=metric.unit, help=metric.help, kind=metric.kind)
            if checked.name in self._own:
                raise InvalidOption(f"{checked.name} is a figure of eau2's own", hint="publish it by another name")
            new[checked.name] = checked
        with self._lock:
            sources = self._needed() | ({source: _Source(self._clock(), new)} if source else {})
            lasting = self._lasting if source else self._lasting | new
            if len(sources) > SOURCES_MAX:
                raise InvalidOption(f"{len(sources)} servers would publish on one node, of at most {SOURCES_MAX}")
            count = len(lasting.keys() | {name for each in sources.values() for name in each.latest})
            if count > PUBLISHED_MAX:
                raise InvalidOption(
                    f"{count} figures would be published on one node, of at most {PUBLISHED_MAX}",
                    hint="a name is for a quantity, not for each thing that has it",
                )
            self._lasting, self._sources = lasting, sources

    def all(self) -> tuple[Metric, ...]:
        """Return them, in the order in which their names came."""
        with self._lock:
            live, ended = self._parted()
            found = dict(self._lasting)
        for source in live.values():
            for name, metric in source.latest.items():
                found[name] = _together(found[name], metric) if name in found else metric
        for source in ended.values():
            for name, metric in source.latest.items():
                if metric.kind == COUNTER and name in found:
                    found[name] = _together(found[name], metric)
        return tuple(found.values())

    # -- private, with the lock held ----------------------------------------------------------------------------------

    def _parted(self) -> tuple[dict[str, _Source], dict[str, _Source]]:
        """Return the sources that publish, and those that have ended."""
        since = self._clock() - SILENT_SECONDS
        live = {name: each for name, each in self._sources.items() if each.at >= since}
        return live, {name: each for name, each in self._sources.items() if name not in live}

    def _needed(self) -> dict[str, _Source]:
        """Return the sources without those that have ended and whose counts nobody goes on with; the last of these
        where there are many."""
        live, ended = self._parted()
        counted = {name for each in live.values() for name in each.latest}
        kept = [(name, each) for name, each in ended.items() if counted & each.latest.keys()]
        room = max(0, SOURCES_MAX // 2 - len(live))
        return dict(sorted(kept, key=lambda each: each[1].at)[len(kept) - min(room, len(kept)) :]) | live


def _together(one: Metric, other: Metric) -> Metric:
    if one.kind != other.kind:  # of two meanings: the other is the later
        return other
    is_time = one.kind != COUNTER and one.unit == "seconds"  # there is no sum of how long things took
    return replace(one, value=max(one.value, other.value) if is_time else one.value + other.value)

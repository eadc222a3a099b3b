"""The figures of a node that others than the node count: its users, and the doors in front of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from eau2.errors import InvalidOption
from eau2.metrics.report import checked_metric

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from eau2.metrics.report import Metric

PUBLISHED_MAX = 500  # a node has at most so many: all of them travel to all nodes


class Published:
    """The latest figure of each name. Thread-safe. own: names that the node itself has."""

    def __init__(self, own: Set[str]) -> None:
        self._own = own
        self._lock = threading.Lock()  # guards the line below
        self._latest: dict[str, Metric] = {}

    def publish(self, metrics: Sequence[Metric]) -> None:
        """Have `metrics` from now on, in place of those of the same names. All or nothing: InvalidOption for a name
        that the node has, or when there are too many; and what `checked_metric` raises."""
        new = {}
        for metric in metrics:  # they may come from another process
            checked = checked_metric(metric.name, metric.value, unit=metric.unit, help=metric.help, kind=metric.kind)
            if checked.name in self._own:
                raise InvalidOption(f"{checked.name} is a figure of eau2's own", hint="publish it by another name")
            new[checked.name] = checked
        with self._lock:
            latest = self._latest | new
            if len(latest) > PUBLISHED_MAX:
                raise InvalidOption(
                    f"{len(latest)} figures would be published on one node, of at most {PUBLISHED_MAX}",
                    hint="a name is for a quantity, not for each thing that has it",
                )
            self._latest = latest

    def all(self) -> tuple[Metric, ...]:
        """Return them, in the order in which their names came."""
        return tuple(self._latest.values())

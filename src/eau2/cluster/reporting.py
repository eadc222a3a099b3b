"""What the nodes of one process say of themselves: they share its memory, so that nobody need ask anybody."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error
from eau2.metrics.gossip import Gossip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eau2.metrics.report import Report
    from eau2.store.node import DirectoryNode
    from eau2.store.nodes import NodeStatistics


class Reporting:
    """The newest reports of nodes of this process. Thread-safe.

    They are made when somebody asks. A node that is gone, or cannot be read, says nothing, and what it said last ages
    until it is forgotten, as it does on a cluster of processes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the line below
        self._gossip = Gossip("")

    def reports(
        self, nodes: Iterable[DirectoryNode], statistics: Callable[[DirectoryNode], NodeStatistics]
    ) -> tuple[Report, ...]:
        """Return the reports of `nodes`, made now of their `statistics`, and of those that there were lately."""
        with self._lock:
            for node in nodes:
                try:
                    metrics = node.figures.metrics(statistics(node))
                except (Eau2Error, OSError):
                    continue
                self._gossip.say(metrics, time.monotonic(), node=node.name)
            now = time.monotonic()
            self._gossip.forget(now)
            return self._gossip.reports(now)

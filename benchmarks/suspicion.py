"""How soon a node that is killed is suspected and dead, and how often one that is not is, where messages are lost.

In the tests' simulated world, so that an hour takes seconds and is the same each time: what is measured is the rules,
not this machine.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict

from tests.cluster.detection import detect

from benchmarks.measure import sized, target

LOSSES = (0.0, 0.01, 0.05, 0.1)
NODES = 10
SEED = 1
FALSE_DEATHS_MAX = 1  # an hour and node, where one message of twenty is lost


def run() -> dict[str, object]:
    """Return what was seen at each share of messages that are lost, in an hour."""
    nodes, seconds = sized(NODES, 3), sized(3600, 60)
    found = [detect(SEED, nodes=nodes, loss=loss, seconds=seconds, kills=sized(40, 4)) for loss in LOSSES]
    hours = nodes * seconds / 3600
    rows = [
        [
            f"{one.loss:.0%} of messages lost",
            one.false_suspicions / hours,
            one.false_deaths / hours,
            statistics.median(one.suspected_seconds),
            max(one.suspected_seconds),
            statistics.median(one.dead_seconds),
            max(one.dead_seconds),
        ]
        for one in found
    ]
    columns = [
        *("", "false suspicions an hour and node", "false deaths an hour and node"),
        *("suspected, median", "at most", "dead, median", "at most"),
    ]
    worst = next(one.false_deaths / hours for one in found if one.loss == 0.05)
    what = "false deaths an hour and node, 5 % of messages lost"
    return {
        "figures": [asdict(one) for one in found],
        "targets": [target(what, worst, at_most=FALSE_DEATHS_MAX)],
        "tables": [
            {"title": f"{nodes} nodes, one simulated hour; seconds from a kill", "columns": columns, "rows": rows}
        ],
    }

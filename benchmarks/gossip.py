"""How soon all nodes know what one says of itself, and what that costs, by simulation: clusters of 4 to 1,000 nodes.

Each node runs `eau2.metrics.gossip` as on a cluster, in rounds of a second, and messages are pickled as they are there.
"""

from __future__ import annotations

import pickle
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from benchmarks.measure import percentile, quick, sized, target
from eau2.metrics.gossip import PARTNERS, ROUND_SECONDS, Gossip
from eau2.metrics.process import process_statistics
from eau2.metrics.report import Metric, metrics_of
from eau2.store.nodes import NodeStatistics

if TYPE_CHECKING:
    from collections.abc import Mapping

NODES = (4, 16, 64, 250, 1000)
LOSSES = (0.0, 0.05)  # of messages
SETTLING_ROUNDS = 20  # by then nodes of 1,000, which say something each ten seconds, do so at different moments
STEADY_ROUNDS = 14
WATCHED = 32  # reports whose way is followed
ROUNDS_MAX = 100


@dataclass
class Simulated:
    """A cluster of `nodes` whose messages are lost with probability `loss`. All is decided by `seed`."""

    nodes: int
    loss: float
    seed: int
    now: float = 0.0
    sent: Counter = field(default_factory=Counter)  # bytes, by node
    messages: int = 0
    seconds: float = 0.0  # of processor time, in the gossip alone

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.names = [f"node-{number}" for number in range(self.nodes)]
        self.gossips = {name: Gossip(name, chance=self.chance) for name in self.names}
        self._figures = _figures()

    def round(self) -> None:
        """Have each node say what it is to say, then ask its partners, one after the other in any order."""
        self.now += ROUND_SECONDS
        for gossip in self.gossips.values():
            gossip.forget(self.now)
            if gossip.is_due(self.now):
                gossip.say([replace(one, value=self.chance.random() * 1e9) for one in self._figures], self.now)
        for name in self.chance.sample(self.names, self.nodes):
            for other in self.gossips[name].partners(self.names):
                self._ask(name, other)

    def _ask(self, name: str, other: str) -> None:
        asking, asked = self.gossips[name], self.gossips[other]
        began = time.process_time()
        question = self._carried(name, asking.question(self.now))
        answer = None if question is None else self._carried(other, asked.asked(question, self.now))
        if answer is not None:
            asking.hear(answer.news, self.now)
            lacking = self._carried(name, asking.lacking(answer.wanted, self.now)) if asking.wants(answer) else None
            if lacking is not None:
                asked.hear(lacking, self.now)
        self.seconds += time.process_time() - began

    def _carried(self, sender: str, message):
        """Return `message` as it arrives, None where it is lost."""
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        self.sent[sender] += len(data)
        self.messages += 1
        return None if self.chance.random() < self.loss else pickle.loads(data)

    def known(self) -> list[Mapping[str, int]]:
        """Return for each node how new what it has is, by node."""
        return [gossip.digest().numbers for gossip in self.gossips.values()]


def _figures() -> list[Metric]:
    """What a node says: that is, its descriptions; the values do not matter."""
    counts = NodeStatistics(*[0] * 13)
    return [*metrics_of(counts), *metrics_of(process_statistics("."))]


def run() -> dict[str, object]:
    """Return rounds and bytes for each number of nodes, with and without loss."""
    figures = {
        f"{loss:g}": {str(nodes): _measured(nodes, loss) for nodes in (NODES[:3] if quick() else NODES)}
        for loss in LOSSES
    }
    rows = [
        [
            f"{int(nodes):,}" + (f", {float(loss):.0%} lost" if float(loss) else ""),
            found["first_rounds"],
            *(found["rounds"][which] for which in ("median", "most")),
            *(found["age_seconds"][which] for which in ("median", "most")),
            found["bytes_per_second"]["mean"] / 1e3,
            found["bytes_per_second"]["most"] / 1e3,
            found["processor_ms"],
        ]
        for loss, several in figures.items()
        for nodes, found in several.items()
    ]
    largest = max(figures["0"], key=int)
    found = figures["0"][largest]
    return {
        "figures": {"partners": PARTNERS, "metrics": len(_figures()), "by_loss": figures},
        "targets": [
            target(f"rounds until {int(largest):,} nodes know of a report", found["rounds"]["most"], at_most=10),
            target(
                f"kB that each of {int(largest):,} nodes sends a second",
                found["bytes_per_second"]["mean"] / 1e3,
                at_most=100,
                unit="kB",
            ),
        ],
        "tables": [
            {
                "title": f"Gossip of {len(_figures())} figures a node, {PARTNERS} partners a round of a second",
                "columns": [
                    "nodes",
                    "rounds until all know all, at first",
                    *("rounds until all know a report, median", "most"),
                    *("age of what a node knows, s, median", "most"),
                    *("kB a node sends a second", "most"),
                    "processor ms a node and second",
                ],
                "rows": rows,
            }
        ],
    }


def _measured(nodes: int, loss: float) -> dict[str, object]:
    cluster = Simulated(nodes, loss, seed=nodes)
    first = 0
    while any(len(known) < nodes for known in cluster.known()):
        cluster.round()
        first += 1
        if first > ROUNDS_MAX:
            raise AssertionError(f"{nodes} nodes do not know of each other after {ROUNDS_MAX} rounds")
    for _ in range(SETTLING_ROUNDS):
        cluster.round()
    cluster.sent.clear()
    cluster.seconds, began = 0.0, cluster.now
    rounds, ages = _followed(cluster)
    seconds = cluster.now - began
    sent = [cluster.sent[name] / seconds for name in cluster.names]
    return {
        "first_rounds": first,
        "rounds": {"median": statistics.median(rounds), "most": max(rounds), "reports": len(rounds)},
        "age_seconds": {"median": statistics.median(ages), "p99": percentile(ages, 99), "most": max(ages)},
        "bytes_per_second": {"mean": statistics.fmean(sent), "most": max(sent)},
        "processor_ms": cluster.seconds / nodes / seconds * 1e3,
    }


def _followed(cluster: Simulated) -> tuple[list[int], list[float]]:
    """Return for each report of the watched nodes, of the next rounds, in how many rounds all knew of it; and how old
    what the first of them knew was."""
    watched = cluster.names[:WATCHED]
    latest = {name: cluster.gossips[name].digest().numbers[name] for name in watched}
    spreading: dict[tuple[str, int], int] = {}  # a report, and in which round it was said
    took: list[int] = []
    ages: list[float] = []
    round_ = 0
    while round_ < sized(STEADY_ROUNDS, 8) or spreading:
        round_ += 1
        cluster.round()
        known = cluster.known()
        ages += [report.age_seconds for report in cluster.gossips[watched[0]].reports(cluster.now)]
        for name in watched:
            number = cluster.gossips[name].digest().numbers[name]
            if number != latest[name] and round_ <= sized(STEADY_ROUNDS, 8):
                spreading[name, number] = round_
            latest[name] = number
        for (name, number), said in list(spreading.items()):
            if all(numbers[name] >= number for numbers in known):
                took.append(round_ - said + 1)
                del spreading[name, number]
        if round_ > ROUNDS_MAX:
            raise AssertionError(f"not all know of {spreading} after {ROUNDS_MAX} rounds")
    return took, ages

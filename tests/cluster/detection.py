"""How soon a node that is silent is suspected and dead, and how often one that is not is, on a network that loses
messages: in the simulated world, whose clock is a number, and where one seed decides what is lost.

python -m tests.cluster.detection     tells it of an hour, at several shares of messages that are lost
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import asdict, dataclass

from tests.cluster.many import Many
from tests.cluster.simulation import World

from eau2.cluster.coordinator import Coordinator

LOOK_SECONDS = 0.05  # between two looks at what the coordinator says
HOUR_SECONDS = 3600.0
SETTLED_SECONDS = 10.0


@dataclass(frozen=True)
class Detection:
    """What was seen of `nodes` nodes in `seconds` in which nothing was wrong but the network, and then of kills."""

    loss: float
    nodes: int
    seconds: float
    false_suspicions: int
    false_deaths: int
    suspected_seconds: tuple[float, ...]  # from each kill until the node was suspected
    dead_seconds: tuple[float, ...]  # and until it was dead

    def __str__(self):
        middle, most = statistics.median(self.suspected_seconds), max(self.suspected_seconds)
        return (
            f"{self.loss:.0%} lost, {self.nodes} nodes, {self.seconds:g} s: {self.false_suspicions} false suspicions, "
            f"{self.false_deaths} false deaths; killed ones suspected after {middle:.2f} s ({most:.2f} at most), "
            f"dead after {statistics.median(self.dead_seconds):.2f} s"
        )


class Watched:
    """Nodes that store nothing, and what the coordinator says of each, whenever that changes."""

    def __init__(self, seed: int, nodes: int, loss: float):
        self.world = World(seed)
        self.names = [f"node-{index}" for index in range(nodes)]
        self.many = Many(self.world, self.names, replicas=2)
        self.said: list[tuple[float, str, str]] = []  # when, of whom, what
        self._states = dict.fromkeys(self.names, "live")
        self.world.run(SETTLED_SECONDS)
        self.world.loss = loss
        self._look()

    def _look(self, _=None):
        coordinator = self.world.processes["coordinator"].serves
        assert isinstance(coordinator, Coordinator)
        for member in coordinator.members():
            if member.state != self._states[member.name]:
                self._states[member.name] = member.state
                self.said.append((self.world.now, member.name, member.state))
        self.world.after(LOOK_SECONDS, self._look)

    def pass_time(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    def killed(self, name: str) -> tuple[float, float]:
        """Kill `name`; return after how many seconds it was suspected, and dead. It is back, and live, then."""
        at = self.world.now
        self.many.kill(name)
        self.world.run(at + 60.0, lambda: self._states[name] == "dead")
        seen = {state: time - at for time, who, state in reversed(self.said) if who == name and time >= at}
        self.many.start(name)
        self.world.run(self.world.now + 60.0, lambda: self._states[name] == "live")
        return seen.get("suspected", 0.0), seen["dead"]  # it may have been suspected just before


def detect(seed: int, *, nodes: int, loss: float, seconds: float = HOUR_SECONDS, kills: int = 20) -> Detection:
    """Return what comes of `seconds` on a network that loses that share of messages, and of `kills` after that."""
    watched = Watched(seed, nodes, loss)
    watched.pass_time(seconds)
    states = [state for _, _, state in watched.said]
    quiet = states.count("suspected"), states.count("dead")
    chance = watched.world.random
    times = []
    for number in range(kills):
        watched.pass_time(chance.uniform(5.0, 6.0))
        times.append(watched.killed(watched.names[number % nodes]))
    suspected, dead = zip(*times, strict=True)
    return Detection(loss, nodes, seconds, *quiet, tuple(suspected), tuple(dead))


if __name__ == "__main__":
    for share in (0.0, 0.01, 0.05, 0.1):
        found = detect(1, nodes=5, loss=share)
        print(json.dumps(asdict(found)) if "--json" in sys.argv else found, flush=True)

"""What goes wrong when, and one run of a cluster under it, of which the seed decides everything.

python -m tests.cluster.faults SEED            tells every event of one run, and the verdict
python -m tests.cluster.faults FIRST COUNT     runs many, and tells those that failed
"""

from __future__ import annotations

import contextlib
import gc
import random
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cluster.history import explain
from tests.cluster.many import Many, misplaced
from tests.cluster.simulation import World
from tests.cluster.workload import Workload

from eau2.cluster.coordinator import Coordinator
from eau2.cluster.view import State
from eau2.errors import Eau2Error, InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable

FAULT_SECONDS = 10.0  # in which things go wrong
END_SECONDS = 60.0  # by which every operation must have ended, once nothing goes wrong any more
SETTLE_SECONDS = 60.0  # by which everything must be where it belongs, once nothing is asked any more
REQUEST_SECONDS = 30.0  # that a member may be busy with a request


@dataclass(frozen=True)
class Verdict:
    """What came of one run. `wrong` is empty when nothing is."""

    seed: int
    wrong: str
    operations: int = 0
    unknown: int = 0
    refused: tuple[tuple[str, int], ...] = ()
    messages: int = 0
    epoch: int = 0
    seconds: float = 0.0  # of the world

    def __str__(self):
        refused = ", ".join(f"{count} {name}" for name, count in self.refused) or "none refused"
        return (
            f"seed {self.seed}: {self.wrong or 'right'}\n"
            f"{self.operations} operations, {self.unknown} of unknown outcome, {refused}; {self.messages} messages, "
            f"epoch {self.epoch}, {self.seconds:.1f} s"
        )


class Faults:
    """Lets things go wrong in a cluster, until they are `lifted`."""

    def __init__(self, many: Many, chance: random.Random, later: list[str]):
        self.many, self.world, self.chance, self.later = many, many.world, chance, later
        self.over = False
        self._members = [name for name in many.nodes if name not in later]
        kinds = [
            (self.kill, 5), (self.kill_at_commit, 4), (self.freeze, 4), (self.slow, 3), (self.cut_off, 3),
            (self.cut_link, 3), (self.cut_coordinator, 3), (self.bad_network, 4), (self.kill_coordinator, 2),
            (self.freeze_coordinator, 1), (self.fill_disk, 2), (self.restart_all, 0.5),
            (self.drain, 3),
        ]  # fmt: skip
        for _ in range(chance.randint(2, 7)):
            (fault,) = chance.choices([fault for fault, _ in kinds], [weight for _, weight in kinds])
            self.world.after(chance.uniform(0.2, FAULT_SECONDS), self._begin, fault)
        for name in later:
            self.world.after(chance.uniform(0.5, FAULT_SECONDS), self._join, name)

    def _begin(self, fault: Callable[[], None]) -> None:
        if not self.over:
            fault()

    def _join(self, name: str) -> None:
        self.many.start(name)

    def _tell(self, text: str) -> None:
        if self.world.trace:
            self.world.trace(f"-- {text}")

    def _later(self, seconds: float, undo: Callable[[object], None], argument: object = None) -> None:
        self.world.after(seconds, lambda _: None if self.over else undo(argument))

    def _member(self) -> str:
        return self.chance.choice(self._members)

    def _duration(self) -> float:
        return self.chance.choice([0.05, 0.5, 1.0, 2.0, 4.0]) * self.chance.uniform(0.5, 1.5)

    # -- faults -------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        name = self._member()
        self.many.kill(name)
        self._later(self._duration(), self.many.start, name)

    def kill_at_commit(self) -> None:
        """It dies before or after a commit soon, with what is on its disk as that left it."""
        name = self._member()
        self._tell(f"{name} is to die at a commit")
        self.world.processes[name].commits_to_live = self.chance.randint(1, 12)
        self._later(3.0 + self._duration(), self.many.start, name)

    def freeze(self) -> None:
        name, seconds = self._member(), self._duration()
        self._tell(f"{name} stands still for {seconds:.2f} s")
        self.world.processes[name].freeze(seconds)

    def slow(self) -> None:
        name = self._member()
        self._tell(f"{name} has a slow disk")
        self.world.processes[name].slow = self.chance.choice([0.01, 0.05])
        self._later(self._duration(), self._quick, name)

    def _quick(self, name) -> None:
        self.world.processes[name].slow = 0.0

    def cut_off(self) -> None:
        name = self._member()
        self._cut([(name, other) for other in self.world.processes if other != name], both=True)

    def cut_link(self) -> None:
        """Two members do not hear each other, or one of them not the other."""
        one, other = self.chance.sample(self._members, 2)
        self._cut([(one, other)], both=self.chance.random() < 0.5)

    def cut_coordinator(self) -> None:
        name, chance = self._member(), self.chance.random()
        self._cut([(name, "coordinator") if chance < 0.8 else ("coordinator", name)], both=chance < 0.5)

    def _cut(self, links, *, both) -> None:
        links = links + [(target, source) for source, target in links] if both else links
        self._tell(f"cut: {', '.join(f'{source} to {target}' for source, target in links)}")
        self.world.cuts.update(links)
        self._later(self._duration(), self._heal, links)

    def _heal(self, links) -> None:
        self._tell(f"healed: {', '.join(f'{source} to {target}' for source, target in links)}")
        self.world.cuts.subtract(links)

    def bad_network(self) -> None:
        world, chance = self.world, self.chance
        world.loss, world.repeats, world.delays = (chance.choice([0.0, 0.02, 0.1, 0.3]) for _ in range(3))
        self._tell(f"of messages {world.loss} are lost, {world.repeats} repeated, {world.delays} late")
        self._later(self._duration() * 2, self._good_network)

    def _good_network(self, _=None) -> None:
        self.world.loss, self.world.repeats, self.world.delays = 0.0, 0.0, 0.0

    def kill_coordinator(self) -> None:
        self.many.kill("coordinator")
        self._later(self._duration(), self.many.start, "coordinator")

    def freeze_coordinator(self) -> None:
        self._tell("the coordinator stands still")
        self.world.processes["coordinator"].freeze(self._duration())

    def fill_disk(self) -> None:
        name = self._member()
        self._tell(f"the disk of {name} is full")
        self.many.nodes[name].disk_full = True
        self._later(self._duration(), self._empty_disk, name)

    def _empty_disk(self, name) -> None:
        self.many.nodes[name].disk_full = False

    def restart_all(self) -> None:
        for name in [*self._members, "coordinator"]:
            self.many.kill(name)
            self._later(self._duration(), self.many.start, name)

    def drain(self) -> None:
        """A member is to leave for good, if the others are enough. It is no member when the others have all it had."""
        name, process = self._member(), self.world.processes["coordinator"]
        if isinstance(process.serves, Coordinator) and process.serves.current.state(name) == State.LIVE:
            with contextlib.suppress(InvalidOption):
                process.serves.drain(name)
                self._tell(f"{name} is to leave")

    def lift(self, _=None) -> None:
        """From now on nothing goes wrong, and all are back."""
        self._tell("nothing goes wrong any more")
        self.over = True
        self.world.cuts.clear()
        self._good_network()
        for name in [*self.many.nodes, "coordinator"]:
            process = self.world.processes[name]
            process.slow, process.commits_to_live = 0.0, 0
            process.go_on()
            self.many.start(name)
            if name in self.many.nodes:
                self._empty_disk(name)


class Run:
    """One seed: a cluster of some size, clients, and what goes wrong meanwhile."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None):
        self.seed = seed
        self.world = World(seed, trace)
        chance = random.Random(f"run {seed}")
        size = chance.choice([2, 3, 3, 3, 4, 5])
        names = [f"node-{index}" for index in range(size)]
        later = [f"node-{size}"] if chance.random() < 0.2 else []
        self.many = Many(self.world, names, replicas=min(size, chance.choice([1, 2, 2, 2, 3])), later=later)
        keys = [f"{seed}/{name}" for name in ("a", "b", "c", "d", "frame", "other frame")[: chance.randint(3, 6)]]
        self.work = Workload(
            self.many, chance, keys=keys, together=keys[: chance.randint(2, 3)], frames=keys[max(3, len(keys) - 2) :]
        )
        self.faults = Faults(self.many, random.Random(f"faults {seed}"), later)
        clients, operations = 3, chance.randint(20, 50)
        self.tasks = []
        for index in range(clients):
            client = self.many.client(f"client-{index}")
            process = self.world.processes[client.name]
            pause = FAULT_SECONDS / operations * chance.uniform(0.2, 1.0)
            self.tasks.append(process.spawn(self.work.act(client, operations, pause), "its deeds"))

    def verdict(self) -> Verdict:
        try:
            wrong = self._run()
        except Exception as error:
            if self.world.trace:
                raise
            cause = error.__cause__ or error
            wrong = f"{type(error).__name__}: {error}; {type(cause).__name__}: {cause}"
        finally:
            epoch = max((process.serves.view.epoch for process in self._members()), default=0)
            for name in list(self.world.processes):
                self.many.kill(name)
        history = self.work.finished()
        unknown = sum(operation.end == float("inf") for operation in history)
        refused = tuple(sorted(self.work.refused.items()))
        return Verdict(self.seed, wrong, len(history), unknown, refused, self.world.messages, epoch, self.world.now)

    def _members(self):
        return [self.world.processes[name] for name in self.many.nodes if self.world.processes[name].alive]

    def _run(self) -> str:
        world = self.world
        world.after(FAULT_SECONDS, self.faults.lift)
        world.run(FAULT_SECONDS + END_SECONDS, lambda: self.faults.over and all(task.ended.done for task in self.tasks))
        hanging = [repr(task) for task in self.tasks if not task.ended.done]
        return ("an operation did not end: " + "; ".join(hanging)) if hanging else self._settle() or self._look()

    def _settle(self) -> str:
        world, end = self.world, self.world.now + SETTLE_SECONDS
        while True:
            world.run(world.now + 0.5)
            wrong = self._unsettled()
            if not wrong or world.now >= end:
                return "not settled: " + "\n  ".join(wrong) if wrong else ""

    def _unsettled(self) -> list[str]:
        processes = self._members()
        view = max((process.serves.view for process in processes), key=lambda view: view.epoch)
        processes = [process for process in processes if view.state(process.name) != State.LEFT]
        views = [process.serves.view for process in processes]
        wrong = [f"{name} has not left" for name, state in view.members if state in (State.LEAVING, State.IDLE)]
        wrong += [
            f"{process.name} is not live, or in an older epoch: {process.serves}"
            for process, its in zip(processes, views, strict=True)
            if its.epoch != view.epoch or process.name not in view.live or not process.serves.serves
        ]
        wrong += [f"fell: {view.fell}, base: {view.base}, live: {view.live}"] if view.fell else []
        wrong += [
            f"{task} has not ended" for process in processes for task in process.tasks
            if task.call is not None and self.world.now - task.since > REQUEST_SECONDS
        ]  # fmt: skip
        return wrong or misplaced(self.many.nodes, view)

    def _look(self) -> str:
        """Read everything through a client of its own, and find an order for all that was seen."""
        client = self.many.client("client-last")
        last = self.world.processes["client-last"].spawn(self._read_all(client), "a last look")
        self.world.run(self.world.now + END_SECONDS, lambda: last.ended.done)
        if not last.ended.done:
            return "a last look did not end"
        return last.ended.value or explain(self.work.finished())

    async def _read_all(self, client) -> str:
        work = self.work
        refused = sum(work.refused.values())
        await work.read(client, work.together)
        for key in work.keys:
            await work._get_frame(client, key) if key in work.frames else await work.read(client, [key])
        if sum(work.refused.values()) != refused:
            return f"a last look was refused: {work.refused}"
        there = {part.key for operation in work.history[-len(work.keys) :] for part in operation.parts if part.value}
        try:
            names = await client.names(f"{self.seed}/")
        except Eau2Error as error:
            return f"the names were refused: {error}"
        return "" if set(names) == there else f"{sorted(there)} are there, and these are listed: {names}"


def run(seed: int, trace: Callable[[str], None] | None = None) -> Verdict:
    """Return what comes of `seed`."""
    return Run(seed, trace).verdict()


def main(arguments: list[str]) -> int:
    first = int(arguments[0])
    if len(arguments) == 1:
        verdict = run(first, print)
        print(verdict)
        return bool(verdict.wrong)
    gc.disable()  # what a run leaves behind is looked through once, at its end
    started, failed = time.perf_counter(), 0
    for seed in range(first, first + int(arguments[1])):
        verdict = run(seed)
        gc.collect(1)
        if verdict.wrong:
            failed += 1
            if failed <= 12:
                print(f"{verdict}\n  python -m tests.cluster.faults {seed}\n", flush=True)
    print(f"{arguments[1]} seeds from {first}: {failed} failed, {time.perf_counter() - started:.1f} s")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A cluster in the simulated world: members over disks that outlive them, a coordinator, and what is asked of it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.cluster.memory_node import MemoryNode
from tests.cluster.simulation import MUTE, Killed, World

from eau2.cluster.client import Client
from eau2.cluster.coordinator import LEASE_SECONDS, Coordinator
from eau2.cluster.keys import DECISION, VIEW
from eau2.cluster.member import Member
from eau2.cluster.peer import Unreachable, WrongEpoch
from eau2.cluster.repair import Repair
from eau2.cluster.view import View, first_view
from eau2.store.nodes import RANK_BITS, Kind, Record
from eau2.values.key import MARK, held_key, hold_key
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from tests.cluster.simulation import Process, SimRuntime

ANSWER_SECONDS = 6.0
GRACE_SECONDS = 1.0
LOOK_SECONDS = 20.0  # the last looks fall into the time in which all is to settle
_OVERDUE_SECONDS = 0.5
_TICK_SECONDS = 0.3
_WRITING = ("write", "store", "erase", "stage", "stage_again", "discard")
_READING = ("get", "get_many", "keys", "frames", "records", "version_floor", "listing", "has_chunks", "map")


class Disk:
    """A node as one incarnation of a process has it: slow at times, and out of reach once the process is dead."""

    def __init__(self, node: MemoryNode, process: Process):
        self._process, self._incarnation = process, process.incarnation
        self.figures = node.figures
        for name in _READING + _WRITING:
            setattr(self, name, self._method(getattr(node, name), writing=name in _WRITING))

    def _method(self, method, *, writing):
        process = self._process

        def call(*arguments, **named):
            if process.incarnation != self._incarnation:
                raise Killed
            if process.slow and process.world.random.random() < process.slow:
                process.lag += process.world.random.uniform(0.01, 4.0)
            if not writing or not process.commits_to_live:
                return method(*arguments, **named)
            process.commits_to_live -= 1
            if process.commits_to_live == 0:
                if process.world.random.random() < 0.5:
                    method(*arguments, **named)
                raise Killed
            return method(*arguments, **named)

        return call


class Served(Member):
    """A member, and the staging of chunks, which is no matter of membership."""

    async def stage(self, chunk):
        return replace(self.node.stage(chunk), node=self.name)


class Many:
    """All of a cluster: `names` are members from the beginning, `later` are nodes that may join. look_seconds: between
    looks of the repair when nothing is missing."""

    def __init__(
        self,
        world: World,
        names: list[str],
        replicas: int,
        later: list[str] = (),
        *,
        look_seconds: float = LOOK_SECONDS,
    ):
        self.world, self.first = world, first_view(names, replicas)
        self.nodes = {name: MemoryNode(name) for name in [*names, *later]}
        self.repairs: dict[str, Repair] = {}
        self.look_seconds = look_seconds
        for name in self.nodes:
            self._process(name)
        self._process("coordinator")
        for name in names:
            self.start(name)
        world.processes["coordinator"].start(self._coordinator)

    def _process(self, name: str) -> Process:
        chance = self.world.random
        return self.world.process(name, offset=chance.uniform(0, 1000), rate=chance.uniform(0.99, 1.01))

    # -- members ------------------------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        self.world.processes[name].kill()
        if name in self.nodes:
            self.nodes[name].crash()

    def start(self, name: str) -> None:
        """Have it live, if it does not."""
        process = self.world.processes[name]
        if process.alive:
            return
        if name == "coordinator":
            process.start(self._coordinator_again)
        else:
            self.nodes[name].crash()  # it may have died at a commit
            process.start(self._member)

    def _member(self, runtime: SimRuntime) -> Member:
        process = runtime.process
        node = self.nodes[process.name]
        known = node.records([VIEW]).get(VIEW)
        view = self.first if known is None else View.decode(known.payload)
        member = Served(
            process.name,
            Disk(node, process),
            runtime,
            view,
            incarnation=str(process.incarnation),
            since=0 if process.incarnation == 1 else view.epoch,
        )
        repair = Repair(member, grace_seconds=GRACE_SECONDS, look_seconds=self.look_seconds)
        self.repairs[process.name] = repair
        process.spawn(_renewing(member), "renewing")
        process.spawn(repair.tend(), "tending")
        process.spawn(_ending_overdue(member), "ending what is overdue")
        return member

    # -- the coordinator ----------------------------------------------------------------------------------------------

    def _coordinator(self, runtime: SimRuntime) -> Coordinator:
        coordinator = Coordinator(runtime, self.first, clock=self._seconds)
        runtime.process.spawn(_ticking(coordinator, runtime), "ticking")
        return coordinator

    def _coordinator_again(self, runtime: SimRuntime) -> object:
        runtime.process.spawn(self._learning(runtime), "learning")
        return MUTE

    async def _learning(self, runtime: SimRuntime) -> None:
        """Ask the members for their views, until all that are live in the latest of them have answered."""
        views: dict[str, View] = {}
        while not views or not set(max(views.values(), key=lambda view: view.epoch).live) <= views.keys():
            names = list(self.nodes)
            answers = await runtime.together([runtime.peer(name).records(0, []) for name in names])
            views |= {
                name: answer.view for name, answer in zip(names, answers, strict=True) if type(answer) is WrongEpoch
            }
            await runtime.sleep(_TICK_SECONDS)
        coordinator = Coordinator.recovered(runtime, views.values(), clock=self._seconds)
        runtime.process.serves = coordinator
        await _ticking(coordinator, runtime)

    def _seconds(self) -> float:
        return self.world.now

    # -- clients ------------------------------------------------------------------------------------------------------

    def client(self, name: str) -> Client:
        """Return a client that is a new process."""
        process = self._process(name)
        return process.start(lambda runtime: Client(name, runtime, self.first, answer_seconds=ANSWER_SECONDS))


async def _renewing(member: Member) -> None:
    """Ask again whether or not it was answered, as remote/membership.py does."""
    while True:
        member.runtime.process.spawn(_renew(member), "a renewal")
        await member.runtime.sleep(LEASE_SECONDS / 4)


async def _renew(member: Member) -> None:
    with contextlib.suppress(Unreachable):
        await member.renew(LEASE_SECONDS)


async def _ending_overdue(member: Member) -> None:
    """By itself: repair may wait for what is overdue."""
    while True:
        await member.end_overdue()
        await member.runtime.sleep(_OVERDUE_SECONDS)


async def _ticking(coordinator: Coordinator, runtime: SimRuntime) -> None:
    while True:
        coordinator.tick()
        await runtime.sleep(_TICK_SECONDS)


# -- what must be where -------------------------------------------------------------------------------------------


def misplaced(nodes: dict[str, MemoryNode], view: View) -> list[str]:
    """Return what is not where `view` says, on nodes that nothing is written to: missing, different or surplus."""
    found = []
    records = {name: {key: _record(node, key) for key, _, _ in _rows(node)} for name, node in nodes.items()}
    for name in view.live:
        found += [f"{name}: {fault}" for fault in nodes[name].check().faults]
    for key in sorted({key for name in view.live for key in records[name] if not key.startswith(MARK)}):
        homes = view.homes(key)
        first = records[homes[0]].get(key)
        for name in view.live:
            here = records[name].get(key)
            if name in homes and here != first:
                found.append(f"{key}: {homes[0]} has {first}, {name} has {here}")
            elif name not in homes and here is not None:
                found.append(f"{key}: {name} has a surplus copy {here}")
    for name in view.live:
        found += [f"{name}: {one}" for one in _misplaced_holds(name, records, view)]
        found += [
            f"{name}: {key} is left"
            for key, record in records[name].items()
            if key.startswith(DECISION) and record.kind != Kind.DELETED and record.rank >> RANK_BITS < view.epoch
        ]
    return found


def _misplaced_holds(name: str, records: dict[str, dict[str, Record]], view: View) -> list[str]:
    """Compare what `name` holds of chunks with what it should."""
    should: dict[str, set[str]] = {}
    for key in {key for each in records.values() for key in each if not key.startswith(MARK)}:
        frame = records[view.homes(key)[0]].get(key)
        if frame is not None and frame.kind == Kind.SPREAD:
            manifest = Manifest.decode(frame.payload)
            homes = manifest.table.column("homes").to_pylist()
            for chunk_id, assigned in zip(manifest.chunk_ids, homes, strict=True):
                if name in view.chunk_homes(chunk_id, assigned):
                    should.setdefault(hold_key(key, frame.rank), set()).add(chunk_id)
    holds = {key: record for key, record in records[name].items() if record.kind == Kind.HOLD}
    found = [
        f"{held_key(key)!r}: chunk {chunk_id} is missing"
        for key, chunk_ids in should.items()
        for chunk_id in chunk_ids - set(holds[key].payload.decode().split("\n") if key in holds else ())
    ]
    current = {
        hold_key(key, record.rank)
        for each in records.values()
        for key, record in each.items()
        if record.kind == Kind.SPREAD
    }
    return found + [
        f"{held_key(key)!r}: a hold of a frame that is gone: {key!r}" for key in holds if key not in current
    ]


def _rows(node: MemoryNode) -> list[tuple[str, int, int]]:
    return node.listing("", 1_000_000)


def _record(node: MemoryNode, key: str) -> Record:
    return node.records([key])[key]

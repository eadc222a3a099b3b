"""A load of small values on a store of many nodes, measured: how fast, how even, and that nothing acknowledged is lost.

Each client is a thread that creates, reads, updates and deletes keys of its own, one at a time, and keeps in mind what
was acknowledged: a read that finds anything else is a loss, at once or when everything is read again in the end. Nodes
may die at random meanwhile and come back, so many at once as there are copies to spare.
"""

from __future__ import annotations

import math
import random
import tempfile
import threading
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from eau2.cluster.directory import NODES_MAX, ClusterNodes
from eau2.errors import InvalidOption, KeyExists, KeyMissing, NodeUnavailable, OutcomeUnknown, StoreBusy
from eau2.frame.tables import FrameTables
from eau2.query.engine import Engine
from eau2.store.local import LocalNodes
from eau2.store.store import VALUE_BYTES_MAX, Store

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("create", "read", "update", "delete")
CLIENTS_MAX = 1000
LOSSES_MAX = 100  # that are named; after so many a client stops
_DELETES = 0.2  # of the writes of keys that are there
_AT_ONCE = 1000  # keys in one put, to begin with
_AWAY_SECONDS = (1.0, 2.0)  # how long a node is dead
_LOOK_SECONDS = 0.02
_WHOLE_SECONDS_MAX = 60.0  # for the repair, in the end


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a store. InvalidOption when it makes no sense."""

    nodes: int = 1
    clients: int = 1
    seconds: float = 5.0
    replicas: int = 2  # as many as there are nodes, when those are fewer
    keys: int = 10_000  # of all clients together
    value_bytes: int = 100  # at least 16: what tells values apart
    reads: float = 0.5  # share of the operations
    fail: float = 0.0  # each second each node dies with this probability

    def __post_init__(self) -> None:
        limits = (
            ("nodes", self.nodes, 1, NODES_MAX),
            ("clients", self.clients, 1, CLIENTS_MAX),
            ("seconds", self.seconds, 0.1, 86400),
            ("replicas", self.replicas, 1, NODES_MAX),
            ("keys", self.keys, self.clients, 100_000_000),
            ("value_bytes", self.value_bytes, 16, VALUE_BYTES_MAX),
            ("reads", self.reads, 0, 1),
            ("fail", self.fail, 0, 1),
        )
        for name, given, least, most in limits:
            if not least <= given <= most:
                raise InvalidOption(f"{name} is {least:,} to {most:,}, not {given:,}")


@dataclass(frozen=True, slots=True)
class Latency:
    """How long operations of one kind took, in seconds: so many percent of them at most."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float


class Loss(NamedTuple):
    """A key under which something else was found than what was acknowledged, and its homes then."""

    key: str
    nodes: tuple[str, ...]
    what: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of a load."""

    load: Load
    seconds: float
    latency: dict[str, Latency]  # by kind, of the operations that were answered
    keys: dict[str, int]  # by node, in the end: copies count
    requests: dict[str, int]  # by node: gets, and writes of any copy
    deaths: int
    unknown: int  # writes of which nobody said whether they were done
    refused: int  # operations that no node would do
    copied: dict[str, int]  # by repair: keys, chunks, bytes
    repair_seconds: float  # from the end of the load until all copies were back
    keys_read: int  # in the end
    losses: tuple[Loss, ...]
    faults: tuple[str, ...]  # what `store.check()` found

    @property
    def operations(self) -> int:
        return sum(each.count for each in self.latency.values())


def measure(load: Load) -> Measured:
    """Put `load` on a store that is made for it, in a temporary directory, and removed.

    Raises what the store raises, but for StoreBusy, NodeUnavailable and OutcomeUnknown, which are counted.
    """
    with tempfile.TemporaryDirectory(prefix="eau2-bench-") as folder:
        nodes = _Nodes(folder, load)
        with Store(nodes.all, FrameTables(Engine(None)), name=folder) as store:
            return _measure(load, store, nodes)


def _measure(load: Load, store: Store, nodes: _Nodes) -> Measured:
    clients = [_Client(number, load, store, nodes.homes) for number in range(load.clients)]
    for client in clients:
        client.fill()
    before = nodes.requests()
    deaths = _Deaths(load, nodes.many, random.Random()) if load.fail and nodes.many is not None else None
    seconds = _run(load, clients, deaths)
    requests = {name: count - before[name] for name, count in nodes.requests().items()}
    begun = time.monotonic()
    whole = deaths is None or deaths.end()
    faults = [] if whole else [f"copies are still missing after {_WHOLE_SECONDS_MAX:g} seconds"]
    repaired = time.monotonic() - begun
    keys = nodes.keys()
    keys_read = sum(client.read_again() for client in clients)
    faults += [fault.what for fault in store.check().faults]
    return Measured(
        load=load,
        seconds=seconds,
        latency=_latency(clients),
        keys=keys,
        requests=requests,
        deaths=0 if deaths is None else deaths.count,
        unknown=sum(client.unknown for client in clients),
        refused=sum(client.refused for client in clients),
        copied=nodes.copied(),
        repair_seconds=repaired,
        keys_read=keys_read,
        losses=tuple(loss for client in clients for loss in client.losses),
        faults=tuple(faults),
    )


def _run(load: Load, clients: list[_Client], deaths: _Deaths | None) -> float:
    """Run all clients for the time of the load; return how long they really ran."""
    stop = threading.Event()
    begun = time.monotonic()
    with ThreadPoolExecutor(len(clients), thread_name_prefix="eau2-client") as pool:
        running = [pool.submit(client.run, stop) for client in clients]
        try:
            while (left := begun + load.seconds - time.monotonic()) > 0 and not any(one.done() for one in running):
                time.sleep(min(_LOOK_SECONDS, left))
                if deaths is not None:
                    deaths.look(time.monotonic() - begun)
        finally:
            stop.set()
        for one in running:
            one.result()
    return time.monotonic() - begun


def _latency(clients: list[_Client]) -> dict[str, Latency]:
    found = {}
    for kind in KINDS:
        took = sorted(seconds for client in clients for seconds in client.took[kind])
        if took:
            p50, p95, p99 = (took[math.ceil(len(took) * percent / 100) - 1] for percent in (50, 95, 99))
            found[kind] = Latency(len(took), p50, p95, p99, took[-1])
    return found


class _Nodes:
    """The nodes of the store: a bare one, or a cluster."""

    def __init__(self, folder: str, load: Load) -> None:
        self.many: ClusterNodes | None = None
        self.all: ClusterNodes | LocalNodes
        if load.nodes == 1:
            self.all = LocalNodes(folder)
        else:
            self.all = self.many = ClusterNodes(folder, nodes=load.nodes, replicas=min(load.replicas, load.nodes))
        self._names = self.all.members()

    def homes(self, key: str) -> tuple[str, ...]:
        return self._names if self.many is None else self.many.homes(key)

    def requests(self) -> dict[str, int]:
        counts = {name: self.all.at(name).statistics() for name in self._names}
        return {name: count.gets + count.writes for name, count in counts.items()}

    def keys(self) -> dict[str, int]:
        return {name: self.all.at(name).statistics().keys for name in self._names}

    def copied(self) -> dict[str, int]:
        return {"keys": 0, "chunks": 0, "bytes": 0} if self.many is None else self.many.copied()


class Known:
    """What one client knows of its keys: the values that may be under each, None for nothing.

    After an acknowledged write it is one value. A write of which nobody said whether it was done adds another, and as
    it may yet be done, both may be found until the next acknowledged write.
    """

    def __init__(self) -> None:
        self._possible: dict[str, tuple[bytes | None, ...]] = {}

    def possible(self, key: str) -> tuple[bytes | None, ...]:
        return self._possible.get(key, (None,))

    def acknowledged(self, key: str, value: bytes | None) -> None:
        self._possible[key] = (value,)

    def uncertain(self, key: str, value: bytes | None) -> None:
        self._possible[key] = (*self.possible(key), value)


class _Client:
    """One that reads and writes keys of its own. Used by one thread at a time."""

    def __init__(self, number: int, load: Load, store: Store, homes: Callable[[str], tuple[str, ...]]) -> None:
        self._store = store
        self._homes = homes
        self._load = load
        self._chance = random.Random(number)
        self._names = [f"client-{number}/{place:08d}" for place in range(number, load.keys, load.clients)]
        self._known = Known()
        self._written = 0
        self.took = {kind: array("d") for kind in KINDS}
        self.losses: list[Loss] = []
        self.unknown = self.refused = 0

    def fill(self) -> None:
        for start in range(0, len(self._names), _AT_ONCE):
            values = {key: self._value() for key in self._names[start : start + _AT_ONCE]}
            self._store.put_many(values)
            for key, value in values.items():
                self._known.acknowledged(key, value)

    def run(self, stop: threading.Event) -> None:
        """Do one operation after the other until `stop`."""
        while not stop.is_set() and len(self.losses) < LOSSES_MAX:
            key = self._chance.choice(self._names)
            kind = self._kind(self._known.possible(key))
            begun = time.perf_counter()
            if self._did(kind, key):
                self.took[kind].append(time.perf_counter() - begun)

    def read_again(self) -> int:
        """Read all keys, and note what was lost; return how many there are."""
        found = self._store.get_many(self._names, default=None)
        for key in self._names:
            self._compare(key, found[key])
        return len(self._names)

    def _kind(self, possible: tuple[bytes | None, ...]) -> str:
        chance = self._chance.random()
        if chance < self._load.reads:
            return "read"
        if possible == (None,):
            return "create"
        return "delete" if chance > 1 - _DELETES * (1 - self._load.reads) else "update"

    def _did(self, kind: str, key: str) -> bool:
        """Do it, and note what came of it; return whether it was answered."""
        value = self._value() if kind in ("create", "update") else None
        try:
            if kind == "read":
                self._compare(key, self._store.get(key, default=None))
            else:
                self._write(kind, key, value)
                self._known.acknowledged(key, value)
        except OutcomeUnknown:
            self._known.uncertain(key, value)
            self.unknown += 1
        except (NodeUnavailable, StoreBusy):  # nothing was changed
            self.refused += 1
        else:
            return True
        return False

    def _write(self, kind: str, key: str, value: bytes | None) -> None:
        """Write under a condition that holds, if it is known what is there."""
        possible = self._known.possible(key)
        try:
            if value is None:
                if not self._store.delete(key) and None not in possible:
                    self._lost(key, "nothing was there to delete")
            elif len(possible) > 1:
                self._store.put(key, value)
            elif kind == "create":
                self._store.create(key, value)
            else:
                self._store.update(key, value)
        except (KeyExists, KeyMissing) as error:
            self._lost(key, error.message)

    def _compare(self, key: str, found: object) -> None:
        possible = self._known.possible(key)
        if found not in possible:
            self._lost(key, f"{_shown(found)} is there, and not {' or '.join(map(_shown, possible))}")

    def _lost(self, key: str, what: str) -> None:
        if all(loss.key != key for loss in self.losses):
            self.losses.append(Loss(key, self._homes(key), what))

    def _value(self) -> bytes:
        self._written += 1
        return b"%016d" % self._written + b"." * (self._load.value_bytes - 16)


def _shown(value: object) -> str:
    return f"value {int(value[:16])}" if isinstance(value, bytes) else "nothing"


class _Deaths:
    """Nodes that die at random and come back: no more at once than there are copies to spare, and one whose copies are
    not all back yet counts as dead."""

    def __init__(self, load: Load, nodes: ClusterNodes, chance: random.Random) -> None:
        self._probability = load.fail
        self._spare = min(load.replicas, load.nodes) - 1
        self._nodes = nodes
        self._names = list(nodes.members())
        self._chance = chance
        self._next = min(1.0, load.seconds / 3)
        self._away: dict[str, float] = {}  # until when
        self.count = 0

    def look(self, now: float) -> None:
        """Do what is due `now`, in seconds since the load began."""
        for name in [name for name, until in self._away.items() if until <= now]:
            self._restore(name)
        if now < self._next:
            return
        self._next = now + 1.0
        self._chance.shuffle(self._names)
        for name in self._names:
            if self._chance.random() < self._probability and len(self._nodes.failed()) < self._spare:
                self._nodes.fail(name)
                self._away[name] = now + self._chance.uniform(*_AWAY_SECONDS)
                self.count += 1

    def end(self) -> bool:
        """Bring all back, and wait for the repair; return whether it came to its end."""
        for name in list(self._away):
            self._restore(name)
        deadline = time.monotonic() + _WHOLE_SECONDS_MAX
        while not self._nodes.is_whole and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return self._nodes.is_whole

    def _restore(self, name: str) -> None:
        del self._away[name]
        self._nodes.restore(name)

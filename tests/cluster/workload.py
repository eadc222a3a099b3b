"""What clients do to a simulated cluster, and how it goes into the history."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pyarrow as pa
from tests.cluster.history import UNKNOWN, Conflict, Operation, Refused, Saw, Wrote

from eau2.cluster.peer import Unreachable, WrongEpoch
from eau2.errors import Eau2Error, KeyExists, KeyMissing, NodeUnavailable, OutcomeUnknown, VersionConflict
from eau2.store.nodes import Expect, Kind, Staged, Write
from eau2.values.chunk import Chunk, identify
from eau2.values.manifest import ChunkEntry, Manifest

if TYPE_CHECKING:
    import random

    from tests.cluster.many import Many

    from eau2.cluster.client import Client
    from eau2.store.nodes import Entry

_NO_COLUMNS = pa.schema([])
_READS_MAX = 5  # of a frame that is replaced while it is read
_REFUSALS = ((KeyExists, Refused.EXISTS), (KeyMissing, Refused.MISSING))


class NotWhole(Exception):
    """A frame was found, and not all of its chunks."""


class Workload:
    """`clients` of them, each doing `operations` one after the other on `keys`; `frames` of these hold frames only."""

    def __init__(self, many: Many, chance: random.Random, *, keys: list[str], together: list[str], frames: list[str]):
        self.many, self.chance = many, chance
        self.keys, self.together, self.frames = keys, together, frames
        self.history: list[Operation] = []
        self._running: dict[int, Operation] = {}  # what is under way, as it is when nobody hears of its end
        self._labels: dict[bytes, str] = {}  # manifests
        self._written = 0
        self._versions: dict[str, int] = {}  # seen last
        self.refused: dict[str, int] = {}

    def finished(self) -> list[Operation]:
        """Return the history; what was cut short in it is of unknown outcome."""
        return self.history + list(self._running.values())

    async def act(self, client: Client, count: int, pause_seconds: float) -> None:
        chance, runtime = self.chance, client._runtime
        deeds = (self._put, self._get, self._change, self._delete, self._put_several, self._get_several)
        weights = (25, 30, 25, 8, 7, 7)
        for _ in range(count):
            await runtime.sleep(chance.expovariate(1 / pause_seconds))
            (deed,) = chance.choices(deeds, weights)
            await deed(client)

    # -- deeds --------------------------------------------------------------------------------------------------------

    async def _put(self, client):
        await self._write(client, [(self.chance.choice(self.keys), Expect.ANYTHING)])

    async def _change(self, client):
        key = self.chance.choice(self.keys)
        expect = self.chance.choice([Expect.ABSENT, Expect.PRESENT, 0, 0, 0]) or self._versions.get(key, 1)
        await self._write(client, [(key, expect)])

    async def _delete(self, client):
        key = self.chance.choice(self.keys)
        expect = self.chance.choice([Expect.ANYTHING, Expect.PRESENT, self._versions.get(key, 1)])
        await self._write(client, [(key, expect)], delete=True)

    async def _put_several(self, client):
        keys = self.chance.sample(self.together, self.chance.randint(2, len(self.together)))
        await self._write(client, [(key, self.chance.choice([0, 0, 0, Expect.ABSENT])) for key in keys])

    async def _get(self, client):
        key = self.chance.choice(self.keys)
        await (self._get_frame(client, key) if key in self.frames else self.read(client, [key]))

    async def _get_several(self, client):
        await self.read(client, self.together)

    async def _get_frame(self, client, key):
        """Read all chunks; when they cannot be had now, there was no such operation."""
        start = self.many.world.now
        try:
            entry = await self.frame(client, key)
        except (Eau2Error, NotWhole) as error:
            self._count(error)
            return
        self._note(client, start, [self._saw(key, entry)])

    # -- reading ------------------------------------------------------------------------------------------------------

    async def read(self, client: Client, keys: list[str]) -> None:
        start = self.many.world.now
        try:
            found = await client.get(keys)
        except Eau2Error as error:
            self._count(error)
            return
        self._note(client, start, [self._saw(key, found.get(key)) for key in keys])

    def _saw(self, key: str, entry: Entry | None) -> Saw:
        if entry is None:
            return Saw(key)
        self._versions[key] = entry.version
        return Saw(key, self._labels.get(entry.payload, entry.payload), entry.version)

    async def frame(self, client: Client, key: str) -> Entry | None:
        """Return what is under `key` once all its chunks have been read. NotWhole when they are not to be found."""
        missing = ""
        for _ in range(_READS_MAX):
            entry = (await client.get([key])).get(key)
            if entry is None:
                return None
            missing = await self._missing(client, entry)
            if not missing:
                return entry
        raise NotWhole(f"{key!r} {self._labels[entry.payload]} version {entry.version}: {missing}")

    async def _missing(self, client: Client, entry: Entry) -> str:
        manifest = Manifest.decode(entry.payload)
        label = self._labels[entry.payload]
        for index, chunk_id in enumerate(manifest.chunk_ids):
            data = await self._chunk(client, chunk_id)
            if data is None:
                return f"chunk {index} {chunk_id}"
            assert data == f"{label}/{index}".encode(), f"{label} has {data!r} for its chunk {index}"
        return ""

    async def _chunk(self, client: Client, chunk_id: str) -> bytes | None:
        view = client.view
        for name in view.live:
            try:
                return await client._runtime.peer(name).chunk(view.epoch, chunk_id)
            except (Unreachable, FileNotFoundError):
                pass
            except WrongEpoch as error:
                if error.view.epoch > client.view.epoch:
                    client.view = error.view
        return None

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _write(self, client: Client, whats: list[tuple[str, int]], *, delete: bool = False) -> None:
        start, world = self.many.world.now, self.many.world
        labels, writes = [], []
        for key, expect in whats:
            self._written += 1
            label = None if delete else f"{client.name}/{self._written}"
            made = await self._made(client, key, label, expect)
            if made is None:
                return
            labels.append(made[0])
            writes.append(made[1])
        unknown = [Wrote(write.key, label, UNKNOWN, write.expect) for label, write in zip(labels, writes, strict=True)]
        self._running[id(writes)] = Operation(client.name, start, math.inf, tuple(unknown))
        if world.trace:
            world.trace(f"{client.name} begins {unknown}")
        try:
            outcomes = await client.write(writes)
        except OutcomeUnknown as error:
            self._count(error)
            self._note(client, start, unknown, end=math.inf)
        except Eau2Error as error:
            self._count(error)
        else:
            lost = [outcome for outcome in outcomes if isinstance(outcome, NodeUnavailable)]
            for error in lost[:1]:  # nothing of it is done
                self._count(error)
            if not lost:
                self._note(client, start, self._came_to(unknown, outcomes))
        del self._running[id(writes)]

    async def _made(self, client, key, label, expect):
        """Return the value as the history knows it and the write, or None when its chunks could not be staged."""
        if label is None:
            return None, Write(key, Kind.DELETED, expect=expect)
        if key not in self.frames:
            return label.encode(), Write(key, Kind.BYTES, label.encode(), expect=expect)
        entries, copies = [], []  # a home that does not answer is left to repair, as by `Whole.stage`
        for index in range(self.chance.randint(1, 4)):
            data = f"{label}/{index}".encode()
            chunk = Chunk(identify(data), 1, len(data), (pa.py_buffer(data),))
            homes = client.view.assigned(key, index)
            staged = await client._runtime.together([client._runtime.peer(home).stage(chunk) for home in homes])
            there = [copy for copy in staged if isinstance(copy, Staged)]
            if not there or not all(isinstance(copy, (Staged, Unreachable)) for copy in staged):
                await client._refresh()
                return None
            copies += there
            entries.append(ChunkEntry(chunk.id, 1, chunk.size, homes, ()))
        payload = Manifest.of(_NO_COLUMNS, entries).encode()
        self._labels[payload] = label
        return label, Write(key, Kind.SPREAD, payload, tuple(copies), expect)

    def _came_to(self, unknown: list[Wrote], outcomes: list) -> list[Wrote]:
        parts = []
        for part, outcome in zip(unknown, outcomes, strict=True):
            if isinstance(outcome, VersionConflict):
                self._versions[part.key] = outcome.found
                parts.append(part._replace(outcome=Conflict(outcome.found)))
            elif isinstance(outcome, Eau2Error):
                known = [refused for error, refused in _REFUSALS if isinstance(outcome, error)]
                self._count(outcome)
                parts += [part._replace(outcome=refused) for refused in known]  # else it changed and tells nothing
            else:
                if outcome:
                    self._versions[part.key] = outcome
                parts.append(part._replace(outcome=outcome))
        return parts

    def _note(self, client, start, parts, end=None):
        world = self.many.world
        operation = Operation(client.name, start, world.now if end is None else end, tuple(parts))
        self.history.append(operation)
        if world.trace:
            world.trace(f"{client.name} ends {operation}")

    def _count(self, error):
        name = type(error).__name__
        self.refused[name] = self.refused.get(name, 0) + 1
        if self.many.world.trace:
            self.many.world.trace(f"fails: {error!r}")

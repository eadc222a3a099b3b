"""A driver that does everything at random to a store, and writes down what came of it.

python -m tests.on_ray.load ADDRESS LOG NAME SECONDS [--linus]

Keys are used for ROUND_SECONDS each, so that the history of each is short; then they are only read. Every value is one
of its own and says how many rows it has as a frame, so that what is read is known to be whole.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
import time
import traceback

import numpy as np
import pyarrow as pa
from tests.cluster.history import DONE as DID
from tests.cluster.history import UNKNOWN, Conflict, Refused, Saw, Wrote
from tests.on_ray import linus
from tests.on_ray.log import DONE, MAYBE, NOTHING, WRONG, Log
from tests.until import SECONDS_MAX

import eau2
from eau2.errors import (
    ClusterUnavailable,
    Eau2Error,
    KeyExists,
    KeyMissing,
    NodeUnavailable,
    OutcomeUnknown,
    ProgramFailed,
    VersionConflict,
)
from eau2.ingest.writer import FrameWriter
from eau2.store.nodes import Expect

THREADS = 2
ROUND_SECONDS = 15.0
PAUSE_SECONDS = 0.04
BYTES, FRAMES, TOGETHER = ("b0", "b1", "b2", "b3", "b4", "b5"), ("f0", "f1"), ("t0", "t1", "t2")
CHUNK_BYTES = 8192  # so that frames have several
ROWS_MAX = 4000


class NotWhole(Exception):
    """What was read is nothing that anybody wrote."""


def table(label: str) -> pa.Table:
    """The frame that is the value `label`."""
    rows = int(label.rpartition(".")[2])
    return pa.table({"who": [label] * rows, "n": np.arange(rows)})


def sums(found: pa.Table) -> tuple[str, int, int]:
    """The label, the rows, and the sum of their numbers, of any part of a frame."""
    labels = found["who"].unique().to_pylist()
    if len(labels) != 1:
        raise NotWhole(f"a frame of {labels}")
    return labels[0], found.num_rows, int(found["n"].to_numpy().sum())


def whole(label: str, rows: int, total: int) -> str:
    """Return the label of a frame that has so many rows and that sum of numbers, if that is all of it."""
    wanted = int(label.rpartition(".")[2])
    if (rows, total) != (wanted, wanted * (wanted - 1) // 2):
        raise NotWhole(f"{label}: {rows} rows with the sum {total}")
    return label


def outcome(error: Eau2Error) -> object:
    """What a refusal is in the history."""
    if isinstance(error, KeyExists):
        return Refused.EXISTS
    return Conflict(error.found) if isinstance(error, VersionConflict) else Refused.MISSING


class Client:
    """One thread of a driver."""

    def __init__(self, store: eau2.Store, log: Log, name: str) -> None:
        self.store, self.log, self.name = store, log, name
        self.chance = random.Random(name)
        self._written = 0
        self._versions: dict[str, int] = {}

    def run(self, ended: threading.Event) -> None:
        deeds = {
            self.put: 25, self.get: 30, self.change: 15, self.delete: 8, self.put_many: 6, self.get_many: 6,
            self.map: 5, self.sql: 5,
        }  # fmt: skip
        while not ended.wait(self.chance.expovariate(1 / PAUSE_SECONDS)):
            (deed,) = self.chance.choices(list(deeds), list(deeds.values()))
            deed()

    def _key(self, names: tuple[str, ...], rounds_ago: int = 0) -> str:
        return f"r{int(time.monotonic() // ROUND_SECONDS) - rounds_ago}/{self.chance.choice(names)}"

    def _label(self) -> str:
        self._written += 1
        return f"{self.name}.{self._written}.{self.chance.randint(1, ROWS_MAX)}"

    @contextlib.contextmanager
    def _noting(self, verb, parts=()):
        """Write down what is done within; it puts the parts that were done into the list it gets."""
        number = self.log.begin(self.name, verb, parts)
        came_to: list = []
        try:
            yield came_to
        except (KeyExists, VersionConflict, KeyMissing) as error:
            if not parts:
                raise
            self.log.end(number, DONE, [part._replace(outcome=outcome(error)) for part in parts], type(error).__name__)
        except OutcomeUnknown as error:
            self.log.end(number, MAYBE, text=f"OutcomeUnknown: {error}")
        except (NodeUnavailable, ClusterUnavailable) as error:
            self.log.end(number, NOTHING, text=f"{type(error).__name__}: {error}")
        except ProgramFailed as error:
            lost = isinstance(error.__cause__, (NodeUnavailable, OutcomeUnknown))
            self.log.end(number, NOTHING if lost else WRONG, text=f"ProgramFailed: {error}")
        except Exception:
            self.log.end(number, WRONG, text=traceback.format_exc())
        else:
            self.log.end(number, DONE, came_to)

    # -- writes -------------------------------------------------------------------------------------------------------

    def put(self):
        self._write("put", self._key(BYTES + FRAMES), Expect.ANYTHING)

    def change(self):
        key = self._key(BYTES)
        expect = self.chance.choice([Expect.ABSENT, Expect.PRESENT, 0, 0, 0]) or self._versions.get(key, 1)
        self._write("change", key, expect)

    def _write(self, verb, key, expect):
        label = self._label()
        value = table(label) if key.rpartition("/")[2] in FRAMES else label.encode()
        part = Wrote(key, label, UNKNOWN, int(expect))
        with self._noting(f"{verb} {'frame' if isinstance(value, pa.Table) else 'bytes'}", [part]) as came_to:
            if expect == Expect.ANYTHING:
                version = self.store.put(key, value)
            elif expect == Expect.ABSENT:
                version = self.store.create(key, value)
            else:
                version = self.store.update(key, value, if_version=None if expect == Expect.PRESENT else expect)
            self._versions[key] = version
            came_to.append(part._replace(outcome=version))

    def delete(self):
        part = Wrote(self._key(BYTES + FRAMES), None, UNKNOWN)
        with self._noting("delete", [part]) as came_to:
            came_to.append(part._replace(outcome=DID if self.store.delete(part.key) else 0))

    def put_many(self):
        some = self.chance.sample(TOGETHER, self.chance.randint(2, len(TOGETHER)))
        folder = self._key(TOGETHER).partition("/")[0]
        parts = [Wrote(f"{folder}/{name}", self._label(), UNKNOWN) for name in some]
        with self._noting("put_many", parts) as came_to:
            versions = self.store.put_many({part.key: part.value.encode() for part in parts})
            came_to += [part._replace(outcome=versions[part.key]) for part in parts]

    # -- reads --------------------------------------------------------------------------------------------------------

    def get(self):
        self.read(self._key(BYTES + FRAMES, rounds_ago=self.chance.choice([0, 0, 0, 0, 1, 4])))

    def read(self, key):
        with self._noting("get") as came_to:
            came_to.append(self._saw(key, self.store.get(key, default=None)))

    def _saw(self, key, found):
        if found is None:
            return Saw(key)
        if isinstance(found, bytes):
            return Saw(key, found.decode(), UNKNOWN)
        return Saw(key, whole(*sums(found.to_arrow())), found.version)

    def get_many(self):
        folder = self._key(TOGETHER).partition("/")[0]
        with self._noting("get_many") as came_to:
            found = self.store.get_many([f"{folder}/{name}" for name in TOGETHER], default=None)
            came_to += [self._saw(key, value) for key, value in found.items()]

    def map(self):
        key = self._key(FRAMES)
        with self._noting("map") as came_to:
            frame = self.store.get(key, default=None)
            if frame is None:
                came_to.append(Saw(key))
                return
            labels, rows, totals = zip(*frame.map_chunks(sums), strict=True)
            if len(set(labels)) != 1:
                raise NotWhole(f"{key}: chunks of {set(labels)}")
            came_to.append(Saw(key, whole(labels[0], sum(rows), sum(totals)), frame.version))

    def sql(self):
        key = self._key(FRAMES)
        with self._noting("sql") as came_to:
            try:
                asked = f'select who, count(*) as rows, sum(n) as total from "{key}" group by who'
                (found,) = self.store.sql(asked).to_arrow().to_pylist()
            except eau2.UnknownTable:
                came_to.append(Saw(key))
            else:
                came_to.append(Saw(key, whole(found["who"], found["rows"], found["total"]), UNKNOWN))

    def linus(self):
        """The walk over the frames that are there for it, here and as a program on all nodes, has its known answer."""
        with self._noting("linus"):
            linus.check_frames(self.store)
        with self._noting("linus program"):
            linus.check_program(self.store)


def main() -> None:
    address, path, name, seconds, *linus_only = sys.argv[1:]
    FrameWriter.__init__.__kwdefaults__["chunk_bytes"] = CHUNK_BYTES
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with opened(address, ended) as store:
        log = Log(path)
        clients = [Client(store, log, f"{name}.{number}") for number in range(1 if linus_only else THREADS)]
        threads = [
            threading.Thread(target=_again, args=(one.linus, ended)) if linus_only else
            threading.Thread(target=one.run, args=(ended,))
            for one in clients
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        ended.wait(float(seconds))
        ended.set()
        for thread in threads:
            thread.join()
    log.close()


def opened(address: str, ended: threading.Event | None = None) -> eau2.Store:
    """Open a store, also where a look at the head takes long as the machine is overloaded; or end, if told."""
    deadline = time.monotonic() + 5 * SECONDS_MAX
    while True:
        try:
            return eau2.open(address)
        except (ClusterUnavailable, NodeUnavailable):
            if ended is not None and ended.is_set():
                sys.exit()
            if time.monotonic() > deadline:
                raise


def _again(deed, ended):
    while not ended.wait(1.0):
        deed()


if __name__ == "__main__":
    main()

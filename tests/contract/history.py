"""What several processes did to a few keys at once, and whether one order of it explains all they saw.

Each write has its own value, so that a read says which write it saw. Times are of the machine's one monotonic clock.
The rules are those that a linearizable store cannot break, each simple enough to be seen as right; together they are
necessary, not sufficient.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from eau2.errors import KeyExists, KeyMissing, VersionConflict

KEYS = ("x", "y", "z")
EACH_MIN = 3  # of a kind that each thread has done, however slow the machine


@dataclass(frozen=True)
class Deed:
    """One call: what, on which key, when it began and ended."""

    what: str  # "write", "delete" (of something), "read"
    key: str
    start: int
    end: int
    value: str = ""  # of a read: "" when nothing was there
    version: int = 0  # of a write: the one it made; of a read, when known
    replaces: int = 0  # the version that a write with if_version replaced


def act(opener, seed: int, threads: int, seconds: float, out) -> None:
    """Do random things in `threads` threads of this process, and put the list of deeds on `out`.

    For `seconds`, and on a slow machine until each thread has done a few of each kind.
    """
    deeds = []
    try:
        with opener() as store, ThreadPoolExecutor(threads) as pool:
            deadline = time.monotonic() + seconds
            parts = list(pool.map(lambda thread: _act(store, f"{seed}.{thread}", deadline), range(threads)))
        deeds = list(itertools.chain.from_iterable(parts))
    finally:
        out.put(deeds)  # also when it failed, which the exit code says


def _act(store, name: str, deadline: float) -> list[Deed]:
    chance = random.Random(name)
    deeds: list[Deed] = []
    for number in itertools.count():
        if time.monotonic() > deadline and _enough(deeds):
            return deeds
        key, value = chance.choice(KEYS), f"{name}.{number}"
        verb = chance.choices([_put, _update, _create, _delete, _get, _get_many], [3, 3, 1, 1, 8, 2])[0]
        deeds.extend(verb(store, key, value, chance))
    return None


def _enough(deeds: list[Deed]) -> bool:
    kinds = [deed.what for deed in deeds]
    return min(kinds.count(what) for what in ("write", "read", "delete")) >= EACH_MIN


def _stored(value, chance):
    return value.encode() if chance.random() < 0.7 else pa.table({"value": [value]})


def _read(found) -> tuple[str, int]:
    if found is None:
        return "", 0
    return (found.decode(), 0) if isinstance(found, bytes) else (found.to_arrow()["value"][0].as_py(), found.version)


def _put(store, key, value, chance):
    start = time.monotonic_ns()
    version = store.put(key, _stored(value, chance))
    return [Deed("write", key, start, time.monotonic_ns(), value, version)]


def _update(store, key, value, chance):
    try:
        before = store.version(key)
        start = time.monotonic_ns()
        version = store.update(key, _stored(value, chance), if_version=before)
    except (KeyMissing, VersionConflict):
        return []
    return [Deed("write", key, start, time.monotonic_ns(), value, version, before)]


def _create(store, key, value, chance):
    start = time.monotonic_ns()
    try:
        version = store.create(key, _stored(value, chance))
    except KeyExists:
        return []
    return [Deed("write", key, start, time.monotonic_ns(), value, version)]


def _delete(store, key, value, chance):
    start = time.monotonic_ns()
    return [Deed("delete", key, start, time.monotonic_ns())] if store.delete(key) else []


def _get(store, key, value, chance):
    start = time.monotonic_ns()
    found = store.get(key, default=None)
    end = time.monotonic_ns()
    return [Deed("read", key, start, end, *_read(found))]


def _get_many(store, key, value, chance):
    start = time.monotonic_ns()
    found = store.get_many(KEYS, default=None)
    end = time.monotonic_ns()
    return [Deed("read", name, start, end, *_read(seen)) for name, seen in found.items()]


def contradictions(deeds: list[Deed]) -> list[str]:
    """Return what no order of the deeds explains."""
    by_key = defaultdict(list)
    for deed in deeds:
        by_key[deed.key].append(deed)
    return [sentence for of_key in by_key.values() for sentence in _of_one_key(of_key)]


def _of_one_key(deeds: list[Deed]) -> list[str]:
    writes = sorted((deed for deed in deeds if deed.what == "write"), key=lambda deed: deed.version)
    deletions = [deed for deed in deeds if deed.what == "delete"]
    reads = [deed for deed in deeds if deed.what == "read"]
    return [*_versions(writes), *_reads(reads, writes, deletions)]


def _versions(writes: list[Deed]) -> list[str]:
    found = []
    latest_start = 0  # among the writes of lower version
    for before, write in itertools.pairwise([None, *writes]):
        if before is not None and before.version == write.version:
            found.append(f"{before} and {write} made one version")
        if before is not None and write.replaces and before.version != write.replaces:
            found.append(f"{write} replaced version {write.replaces}, but {before} is between")
        if write.end < latest_start:
            found.append(f"{write} ended before a write of a lower version began")
        latest_start = max(latest_start, write.start)
    return found


def _reads(reads: list[Deed], writes: list[Deed], deletions: list[Deed]) -> list[str]:
    by_value = {write.value: write for write in writes}
    found = []
    for read in reads:
        if not read.value:
            kept = [
                write
                for write in writes
                if write.end < read.start
                and not any(deed.end >= write.start and deed.start <= read.end for deed in deletions)
            ]
            found += [f"{read} saw nothing, but {write} was not deleted" for write in kept]
            continue
        write = by_value.get(read.value)
        if write is None or write.start > read.end:
            found.append(f"{read} saw what nobody had written")
            continue
        if read.version and read.version != write.version:
            found.append(f"{read} saw another version than {write} made")
        newer = [other for other in writes if other.version > write.version and other.end < read.start]
        gone = [deed for deed in deletions if write.end < deed.start and deed.end < read.start]
        found += [f"{read} saw {write}, which {other} had ended" for other in (*newer, *gone)]
    return found

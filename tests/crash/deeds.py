"""A writer that is killed, and what must be found after it.

The writer tells over a pipe what it is about to do, and when it is acknowledged. Each of its threads has keys of its
own, so the order of what was done to a key is known: after a kill a key holds what its last acknowledged deed left, or
what the one deed that was under way leaves, whole.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from eau2.store import recent

THREADS = 3
KEYS_EACH = 6
ABSENT, BYTES, FRAME, FILE, LOADED = "absent", "bytes", "frame", "file", "loaded"
Value = tuple[str, int]  # a kind, and a number from which its content follows
TEXTS = 5


def content(number: int) -> bytes:
    """Between nothing and 200 kB, the same for the same number."""
    return random.Random(number).randbytes(random.Random(number).choice([0, 10, 1000, 200_000]))


def table(number: int) -> pa.Table:
    rows = random.Random(number).choice([0, 1, 1000, 1000, 300_000])
    return pa.table(
        {
            "n": np.arange(rows) + number,
            "text": pa.array([f"{number}"] * min(rows, 10) + [None] * (rows - min(rows, 10)), pa.string()),
        }
    )


def text_rows(number: int) -> list[int]:
    return list(range(number * 10, number * 10 + 200 * number))


def write_texts(folder) -> None:
    for number in range(1, TEXTS + 1):
        (folder / f"{number}.csv").write_text("n\n" + "".join(f"{row}\n" for row in text_rows(number)))
        (folder / f"{number}.bin").write_bytes(content(number))


@dataclass
class Expected:
    """What the keys hold, as far as the writer has told."""

    acknowledged: dict[str, Value] = field(default_factory=dict)
    under_way: dict[int, dict[str, Value]] = field(default_factory=dict)  # by thread: all or nothing of it

    def told(self, message: tuple[str, int, dict[str, Value]]) -> None:
        what, thread, values = message
        if what == "begin":
            self.under_way[thread] = values
        else:
            assert self.under_way.pop(thread) == values
            self.acknowledged.update(values)

    def settle(self, store) -> list[str]:
        """Compare with `store`, take what is there as acknowledged, and return what is wrong."""
        wrong = []
        for values in self.under_way.values():
            if all(holds(store, key, value) for key, value in values.items()):
                self.acknowledged.update(values)
        self.under_way.clear()
        for key, value in self.acknowledged.items():
            if not holds(store, key, value):
                wrong.append(f"{key} does not hold {value}")
        known = {key for key, value in self.acknowledged.items() if value[0] != ABSENT}
        wrong += [f"{key} is there and was never put, or only in part" for key in set(store.keys()) - known]
        return wrong


def holds(store, key: str, value: Value) -> bool:
    kind, number = value
    found = store.get(key, default=None)
    if kind == ABSENT:
        return found is None
    if kind == BYTES:
        return isinstance(found, bytes) and found == content(number)
    if found is None or isinstance(found, bytes):
        return False
    found = found.to_arrow()
    if kind == FILE:
        return found.schema.names == ["data"] and b"".join(found["data"].to_pylist()) == content(number)
    if kind == LOADED:
        return found.schema.names == ["n"] and found["n"].to_pylist() == text_rows(number)
    return bool(found.equals(table(number)))


def write_until_killed(opener, folder: str, seed: int, pipe) -> None:
    """Open the store and change it from several threads, telling `pipe`, until killed."""
    telling = threading.Lock()

    def tell(*message) -> None:
        with telling:
            pipe.send(message)

    tell("opening")
    recent.BATCH_MIN, recent._BYTES_MAX = 2, 3_000  # so that batches wait in front of the tree, and are merged
    store = opener()
    threads = [threading.Thread(target=_write, args=(store, folder, seed, thread, tell)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raise AssertionError("a writer ended by itself")


def _write(store, folder, seed, thread, tell) -> None:
    chance = random.Random(f"{seed}.{thread}")
    keys = [f"{thread}/{number}" for number in range(KEYS_EACH)]
    own: dict[str, Value] = {key: (kind, 0) for key in keys for kind in [ABSENT] if not store.exists(key)}
    while True:
        number = chance.randrange(10**9)
        key, other = chance.sample(keys, 2)
        kind = chance.choices(
            ["put", "frame", "delete", "batch", "many", "delete many", "file", "load", "again", "update"],
            [8, 6, 3, 8, 3, 1, 2, 1, 1, 2],
        )[0]
        values, act = _deed(store, folder, kind, key, other, number, own)
        tell("begin", thread, values)
        act()
        own.update(values)
        tell("done", thread, values)


def _deed(store, folder, kind, key, other, number, own):
    """Return what the keys will hold, and the function that makes it so."""
    text = 1 + number % TEXTS
    if kind == "frame":
        return {key: (FRAME, number)}, lambda: store.put(key, table(number))
    if kind == "delete":
        return {key: (ABSENT, 0)}, lambda: store.delete(key)
    if kind == "delete many":
        return {key: (ABSENT, 0), other: (ABSENT, 0)}, lambda: store.delete_many([key, other])
    if kind == "many":
        return (
            {key: (BYTES, number), other: (FRAME, number)},
            lambda: store.put_many({key: content(number), other: table(number)}),
        )
    if kind == "batch":
        return dict.fromkeys([key, other], (BYTES, number)), lambda: store.put_many(
            dict.fromkeys([key, other], content(number))
        )
    if kind == "file":
        return {key: (FILE, text)}, lambda: store.put_file(key, f"{folder}/{text}.bin")
    if kind == "load":
        return {key: (LOADED, text)}, lambda: store.load(key, f"{folder}/{text}.csv", progress=False)
    if kind == "again" and own.get(other, ("", 0))[0] == FRAME:
        return {key: own[other]}, lambda: store.put(key, store.frame(other))
    if kind == "update" and own.get(key, (ABSENT, 0))[0] != ABSENT:
        return {key: (BYTES, number)}, lambda: store.update(key, content(number), if_version=store.version(key))
    return {key: (BYTES, number)}, lambda: store.put(key, content(number))

"""Writes that are interrupted: `python -m tests.crash.interrupted DIRECTORY NODES` sends itself Ctrl-C all the time.

Prints "right" when every write was whole or not there, and none waited for a lock that an interrupted one had kept.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time

import eau2
from eau2.store import recent

SECONDS = 4.0
KEYS = [str(number) for number in range(8)]


def number_of(value) -> int | None:
    if value is None or isinstance(value, bytes):
        return None if value is None else int(value)
    return value.to_arrow()["n"][0].as_py()


class Interrupted:
    """Writes, and knows what may be under each key."""

    def __init__(self, store):
        self.store, self.known = store, {key: {None} for key in KEYS}
        self.chance = random.Random(5)
        self.number = self.hits = 0
        self.longest = 0.0

    def once(self) -> None:
        begun = time.monotonic()
        keys: list[str] = []
        try:
            self.number += 1
            keys = self.chance.sample(KEYS, self.chance.choice([1, 2]))
            value = {"n": [self.number]} if self.chance.random() < 0.3 else b"%d" % self.number
            self.store.put_many(dict.fromkeys(keys, value))
            self.known.update((key, {self.number}) for key in keys)
            self.store.get_many(KEYS, default=None)
        except KeyboardInterrupt:
            self.hits += 1
            self.known.update((key, self.known[key] | {self.number}) for key in keys)
        self.longest = max(self.longest, time.monotonic() - begun)

    def look(self) -> None:
        assert self.hits > 20, self.hits
        assert self.longest < 10.0, self.longest
        for key, possible in self.known.items():
            found = number_of(self.store.get(key, default=None))
            assert found in possible, f"{key}: {found} and not {possible}"
        self.store.put_many(dict.fromkeys(KEYS, b"1"))
        assert self.store.check().faults == ()


def main(folder: str, nodes: int) -> None:
    recent.BATCH_MIN, recent._BYTES_MAX = 1, 1_000  # on one node batches wait in front of the tree, and are merged
    stop = threading.Event()

    def shoot() -> None:
        chance = random.Random(6)
        while not stop.wait(chance.uniform(0.002, 0.02)):
            os.kill(os.getpid(), signal.SIGINT)

    with eau2.open(folder, nodes=nodes) as store:
        store.put("warm", {"n": [1]})  # what the first frame needs is imported
        writing, shooting = Interrupted(store), threading.Thread(target=shoot)
        shooting.start()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                writing.once()
            except KeyboardInterrupt:
                writing.known = {key: possible | {writing.number} for key, possible in writing.known.items()}
        while shooting.is_alive():
            try:
                stop.set()
                shooting.join()
            except KeyboardInterrupt:
                continue
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        writing.look()
    print("right")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

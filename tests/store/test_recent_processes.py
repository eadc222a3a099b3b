"""Processes that put batches into one node and are killed: nobody sees half a batch, nor an old one, nor none."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time

import pytest

from eau2.store.node import DirectoryNode

pytestmark = pytest.mark.slow

ROUNDS = 8
SECONDS_MAX = 60.0

# A batch has one value for all keys of its name: whoever sees two has seen half of one. A twentieth of the commits are
# no batches, and the limit is low, so that both kinds of merges happen all the time.
WRITER = """
import itertools, random, sys
from eau2.store import database, recent
from eau2.store.node import DirectoryNode
from eau2.store.nodes import Kind, Write
from eau2.store.puts import Puts

directory, name, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
recent._BYTES_MAX, recent.BATCH_MIN, database._PLENTY_BYTES = 100_000, 8, 0
node, order = DirectoryNode(directory), random.Random(first)
keys = [f"{name}{number:02}" for number in range(40)]
for count in itertools.count(first):
    value = b"%09d" % count
    node.write(Puts(dict.fromkeys(keys, value)))
    if order.random() < 0.05:
        node.write([Write(f"{name}-alone", Kind.BYTES, value)])
    print(count, flush=True)
"""


def keys_of(name):
    return [f"{name}{number:02}" for number in range(40)]


class Writer:
    """A process that says which batch it has put, and is killed and started again."""

    def __init__(self, directory, name):
        self.directory, self.name, self.kills = directory, name, 0
        self.start(1)

    def start(self, first):
        command = [sys.executable, "-c", WRITER, self.directory, self.name, str(first)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.done = first - 1
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.done = int(line)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()
        self.kills += 1


def value_in(node, name, keys):
    """The value that all have, as a number; 0 where nothing is."""
    found = {entry.payload for entry in node.get_many(keys).values()}
    assert len(found) <= 1, f"half a batch of {name}: {found}"
    return int(found.pop()) if found else 0


def test_whoever_is_killed_leaves_whole_batches(directory):
    DirectoryNode(directory).close()
    writers = [Writer(directory, name) for name in "ab"]
    wrong, looks, stop = [], [0], threading.Event()

    def watch(seed):
        node, order, last = DirectoryNode(directory), random.Random(seed), dict.fromkeys("ab", 0)
        try:
            while not stop.is_set():
                for writer in writers:
                    keys, done, before = keys_of(writer.name), writer.done, writer.kills
                    order.shuffle(keys)
                    seen = value_in(node, writer.name, keys[: order.choice([1, 5, 40])])
                    one = node.get(keys[0])
                    assert (int(one.payload) if one else 0) >= seen >= last[writer.name]
                    assert seen >= done or writer.kills != before
                    last[writer.name] = seen
                    if order.random() < 0.02 and seen:
                        assert len(node.keys(writer.name)) >= 40
                    looks[0] += 1
        except AssertionError as error:
            wrong.append(error)
        finally:
            node.close()

    watchers = [threading.Thread(target=watch, args=(seed,)) for seed in range(2)]
    for watcher in watchers:
        watcher.start()
    order, deadline = random.Random(3), time.monotonic() + SECONDS_MAX
    try:
        for number in range(ROUNDS):
            writer = writers[number % 2]
            while writer.done < 20 * (number + 1) and time.monotonic() < deadline and not wrong:
                time.sleep(0.01)
            time.sleep(order.uniform(0.0, 0.2))
            writer.kill()
            again = DirectoryNode(directory)
            there = value_in(again, writer.name, keys_of(writer.name))
            again.close()
            assert writer.done <= there <= writer.done + 1
            writer.start(there + 1)
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()
        for writer in writers:
            writer.kill()
    assert wrong == []
    assert looks[0] > 100
    node = DirectoryNode(directory)
    try:
        assert node.check().faults == ()
    finally:
        node.close()

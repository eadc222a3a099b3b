"""A process that writes until it is killed."""

import itertools
import random

from tests.store.conftest import put_frame, some_chunks

from eau2.store.node import DirectoryNode
from eau2.store.nodes import Kind, Write


def write_until_killed(directory, seed, told):
    """Tell what was done once it is acknowledged: "bytes" and the number written, "frame" or "deleted"."""
    node = DirectoryNode(directory)
    chance = random.Random(seed)
    pool = some_chunks(8, rows=20_000)
    told.send(("ready", 0))
    for number in itertools.count(1):
        what = chance.randrange(4)
        if what == 0:
            node.write([Write("bytes", Kind.BYTES, b"%d" % number)])
            told.send(("bytes", number))
        elif what == 3:
            node.write([Write("frame", Kind.DELETED)])
            told.send(("deleted", number))
        else:
            start = chance.randrange(6)
            put_frame(node, "frame", pool[start : start + 2])
            told.send(("frame", number))

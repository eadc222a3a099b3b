"""Whatever is stored, erased and written in whatever order, a directory has what dictionaries have."""

from __future__ import annotations

import tempfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.cluster.memory_node import MemoryNode

from eau2.store.node import DirectoryNode
from eau2.store.nodes import RANK_BITS, Expect, Kind, Record, Write
from eau2.values.chunk import encode
from eau2.values.key import hold_key
from eau2.values.manifest import ChunkEntry, ColumnRange, Manifest

pytestmark = pytest.mark.slow  # many runs

CHUNKS = [encode(pa.table({"a": np.arange(10) + 10 * number})) for number in range(4)]
USERS = ["a", "b", "a/é"]
KEYS = [*USERS, "\x00v", hold_key("a", 1), hold_key("a", 2), hold_key("b", 1)]
HOLDS = KEYS[-3:]
RANKS = [1, 2, 3, (1 << RANK_BITS) + 1, (2 << RANK_BITS)]


def manifest_of(numbers):
    chunks = [CHUNKS[number] for number in numbers]
    entries = [ChunkEntry(chunk.id, chunk.rows, chunk.size, (), (ColumnRange(0),)) for chunk in chunks]
    return Manifest.of(pa.schema({"a": pa.int64()}), entries).encode()


numbers = st.lists(st.integers(0, 3), max_size=3, unique=True)
holds = st.tuples(
    st.sampled_from(HOLDS),
    st.sampled_from(RANKS),
    st.sampled_from([Kind.HOLD, Kind.HOLD, Kind.DELETED]),
    numbers,
    st.sets(st.integers(0, 3)),
)
values = st.tuples(
    st.sampled_from(KEYS[:4]),
    st.sampled_from(RANKS),
    st.sampled_from([Kind.BYTES, Kind.SPREAD, Kind.DELETED]),
    numbers,
    st.just(set()),
)
looks = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(RANKS), max_size=2)


class AsDictionaries(RuleBasedStateMachine):
    """A directory and dictionaries, given the same."""

    def __init__(self):
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.disk, self.memory = DirectoryNode(self.place.name + "/n"), MemoryNode()

    def both(self, act):
        outcomes = []
        for node in (self.disk, self.memory):
            try:
                outcomes.append(act(node))
            except FileNotFoundError:
                outcomes.append(FileNotFoundError)
        assert outcomes[0] == outcomes[1]

    @rule(given=st.lists(holds | values, min_size=1, max_size=4), force=st.booleans(), seen=looks)
    def store(self, given, force, seen):
        def record(node, key, rank, kind, listed, staged):
            if kind == Kind.SPREAD:
                return Record(key, rank, kind, manifest_of(listed))
            if kind == Kind.HOLD:
                chunks = tuple(node.stage(CHUNKS[number]) for number in listed if number in staged)
                return Record(key, rank, kind, "\n".join(CHUNKS[number].id for number in listed).encode(), chunks)
            return Record(key, rank, kind, b"" if kind == Kind.DELETED else repr(listed).encode())

        self.both(lambda node: node.store([record(node, *fields) for fields in given], force=force, seen=seen))

    @rule(key=st.sampled_from(USERS), kind=st.sampled_from([Kind.DELETED, Kind.BYTES, Kind.FRAME]), listed=numbers)
    def write(self, key, kind, listed):
        def act(node):
            if kind == Kind.FRAME:
                staged = tuple(node.stage(CHUNKS[number]) for number in listed)
                return node.write([Write(key, kind, manifest_of(listed), staged)])
            return node.write([Write(key, kind, b"")])

        self.both(act)

    @rule(key=st.sampled_from(USERS), listed=numbers)
    def create(self, key, listed):
        def act(node):
            staged = tuple(node.stage(CHUNKS[number]) for number in listed)
            (outcome,) = node.write([Write(key, Kind.FRAME, manifest_of(listed), staged, Expect.ABSENT)])
            return outcome if isinstance(outcome, int) else type(outcome)

        self.both(act)

    @rule(keys=st.lists(st.sampled_from(KEYS), max_size=3), seen=looks)
    def erase(self, keys, seen):
        self.both(lambda node: node.erase(keys, seen=seen))

    @rule()
    def adopt(self):
        self.both(lambda node: node.adopt())

    @rule()
    def end_and_be_there_again(self):
        self.disk.close()
        self.disk = DirectoryNode(self.place.name + "/n")
        self.memory.crash()

    @rule(after=st.sampled_from(["", *KEYS]), limit=st.integers(0, 4))
    def page(self, after, limit):
        self.both(lambda node: node.listing(after, limit))

    @invariant()
    def the_same(self):
        self.both(lambda node: node.listing("", 1000))
        self.both(lambda node: node.records(KEYS))
        self.both(lambda node: [node.get(key) for key in KEYS])
        self.both(lambda node: (node.keys(), node.keys("a"), node.keys("a/", limit=1), node.frames()))
        self.both(lambda node: node.has_chunks([chunk.id for chunk in CHUNKS]))
        self.both(lambda node: node.statistics().chunks)

    def teardown(self):
        for node in (self.disk, self.memory):
            assert node.check().faults == ()
            node.close()
        self.place.cleanup()


TestAsDictionaries = AsDictionaries.TestCase
TestAsDictionaries.settings = settings(max_examples=15, stateful_step_count=25)

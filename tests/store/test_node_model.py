"""A node, open twice, is a dict with versions."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from tests.store.two_nodes import TwoNodes

from eau2.errors import KeyExists, KeyMissing, VersionConflict
from eau2.store.node import DirectoryNode
from eau2.store.nodes import Expect, Kind, Write

pytestmark = pytest.mark.slow  # many runs


def put(node, key, payload, expect=Expect.ANYTHING):
    return node.write([Write(key, Kind.BYTES, payload, expect=expect)])[0]


class AsADict(TwoNodes):
    """Two connections to one directory against a dict and the last version of each key."""

    keys = st.sampled_from(["a", "b", "a/b", "é"])
    payloads = st.binary(max_size=20) | st.integers(3000, 9000).map(bytes)
    which = st.integers(0, 1)

    def _expected(self, key, expect):
        there = key in self.model
        if expect == Expect.ABSENT:
            return KeyExists if there else None
        if expect == Expect.PRESENT:
            return None if there else KeyMissing
        return None if expect == Expect.ANYTHING else ... if there else KeyMissing

    @rule(which=which, key=keys, payload=payloads, expect=st.sampled_from(Expect))
    def put(self, which, key, payload, expect):
        outcome = put(self.nodes[which], key, payload, expect)
        error = self._expected(key, expect)
        if error:
            assert type(outcome) is error
        else:
            assert outcome == self.last.get(key, 0) + 1
            self.model[key], self.last[key] = payload, outcome

    @rule(which=which, key=keys, version=st.integers(1, 6))
    def update(self, which, key, version):
        outcome = put(self.nodes[which], key, b"updated", version)
        if key not in self.model:
            assert type(outcome) is KeyMissing
        elif self.last[key] != version:
            assert type(outcome) is VersionConflict
            assert outcome.found == self.last[key]
        else:
            assert outcome == version + 1
            self.model[key], self.last[key] = b"updated", outcome

    @rule(which=which, key=keys)
    def delete(self, which, key):
        outcome = self.nodes[which].write([Write(key, Kind.DELETED)])[0]
        if self.model.pop(key, None) is None:
            assert outcome == 0
        else:
            self.last[key] += 1
            assert outcome == self.last[key]

    @rule(which=which)
    def reopen(self, which):
        self.nodes[which].close()
        self.nodes[which] = DirectoryNode(self.place.name + "/n")

    @invariant()
    def the_same(self):
        if not hasattr(self, "nodes"):
            return
        for node in self.nodes:
            assert node.keys() == sorted(self.model)
            found = node.get_many(["a", "b", "a/b", "é"])
            assert {key: entry.payload for key, entry in found.items()} == self.model
            for key in ("a", "b"):
                entry = node.get(key)
                assert (None if entry is None else (entry.version, entry.payload)) == (
                    (self.last[key], self.model[key]) if key in self.model else None
                )


TestAsADict = AsADict.TestCase
TestAsADict.settings = settings(max_examples=15, stateful_step_count=20)

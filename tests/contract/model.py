"""A store and a dict that must agree: the dict is the specification."""

from __future__ import annotations

import contextlib
import gc
import tempfile

import pyarrow as pa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.folders import fast_folder

from eau2.errors import KeyExists, KeyMissing, VersionConflict, WrongKind

NAMES = ["a", "a/", "a/b", "a\U0010ffff", "b", "\ud7ff", "\ue000", "\U00010000", "é"]
KEYS = st.sampled_from(NAMES)
PREFIXES = st.sampled_from(["", "a", "a/", "\ud7ff", "c", "\U0010ffff"])
BYTES = st.binary(max_size=12)
FRAMES = st.lists(st.none() | st.integers(-5, 5), max_size=5).map(
    lambda cells: pa.table({"n": pa.array(cells, pa.int64())})
)
VALUES = BYTES | FRAMES
VERSIONS = st.integers(1, 12)


class StoreModel(RuleBasedStateMachine):
    """Every verb on one of two handles of one store, against `self.values` (key -> value) and `self.versions`.

    Inherit and give `make_opener` as for `StoreContract`.
    """

    def make_opener(self, folder):
        raise NotImplementedError

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="eau2-model-", dir=fast_folder())
        self.opener = self.make_opener(self.folder.name + "/store")
        self.handles = [self.opener(), self.opener()]
        self.values = {}  # what is there
        self.versions = {}  # the highest version ever given to a key, deleted or not
        self.held = []  # frames, with what they must hold for ever

    def teardown(self):
        faults = self.handles[0].check().faults
        for handle in self.handles:
            handle.close()
        self.check_held()
        self.held.clear()
        gc.collect()
        self.folder.cleanup()
        assert faults == ()

    # -- single keys --------------------------------------------------------------------------------------------------

    def wrote(self, key, value, version):
        assert version > self.versions.get(key, 0)
        if key not in self.versions:
            assert version == 1
        self.values[key], self.versions[key] = value, version

    @rule(key=KEYS, value=VALUES, which=st.booleans())
    def put(self, key, value, which):
        self.wrote(key, value, self.handles[which].put(key, value))

    @rule(key=KEYS, value=VALUES, which=st.booleans())
    def create(self, key, value, which):
        try:
            version = self.handles[which].create(key, value)
        except KeyExists:
            assert key in self.values
        else:
            assert key not in self.values
            self.wrote(key, value, version)

    @rule(key=KEYS, value=VALUES, if_version=st.none() | VERSIONS, which=st.booleans())
    def update(self, key, value, if_version, which):
        try:
            version = self.handles[which].update(key, value, if_version=if_version)
        except KeyMissing:
            assert key not in self.values
        except VersionConflict as conflict:
            assert if_version != conflict.found == self.versions[key]
        else:
            assert key in self.values
            assert if_version in (None, self.versions[key])
            self.wrote(key, value, version)

    @rule(key=KEYS, which=st.booleans())
    def update_the_version_there(self, key, which):
        if key in self.values:
            version = self.handles[which].version(key)
            self.wrote(key, b"updated", self.handles[not which].update(key, b"updated", if_version=version))

    @rule(key=KEYS, if_version=st.none() | VERSIONS, which=st.booleans())
    def delete(self, key, if_version, which):
        try:
            was_there = self.handles[which].delete(key, if_version=if_version)
        except KeyMissing:
            assert if_version is not None
            assert key not in self.values
        except VersionConflict as conflict:
            assert if_version != conflict.found == self.versions[key]
        else:
            assert was_there == (key in self.values)
            self.values.pop(key, None)

    # -- many ---------------------------------------------------------------------------------------------------------

    @rule(values=st.dictionaries(KEYS, VALUES, max_size=4), which=st.booleans())
    def put_many(self, values, which):
        versions = self.handles[which].put_many(values)
        assert list(versions) == list(values)
        for key, value in values.items():
            self.wrote(key, value, versions[key])

    @rule(values=st.lists(BYTES, min_size=len(NAMES), max_size=len(NAMES)), which=st.booleans())
    def put_bytes_under_all(self, values, which):
        self.put_many.__wrapped__(self, dict(zip(NAMES, values, strict=True)), which)

    @rule(keys=st.lists(KEYS, max_size=4), which=st.booleans())
    def delete_many(self, keys, which):
        assert self.handles[which].delete_many(keys) == len({*keys} & {*self.values})
        for key in keys:
            self.values.pop(key, None)

    @rule(keys=st.lists(KEYS, max_size=5), which=st.booleans())
    def get_many(self, keys, which):
        found = self.handles[which].get_many(keys, default=None)
        assert list(found) == list(dict.fromkeys(keys))
        for key, value in found.items():
            self.same(value, self.values.get(key))

    # -- frames -------------------------------------------------------------------------------------------------------

    @rule(origin=KEYS, key=KEYS, which=st.booleans())
    def put_a_stored_frame(self, origin, key, which):
        try:
            frame = self.handles[which].frame(origin)
        except KeyMissing:
            assert origin not in self.values
        except WrongKind:
            assert isinstance(self.values[origin], bytes)
        else:
            self.wrote(key, self.values[origin], self.handles[not which].put(key, frame))

    @precondition(lambda self: self.held)
    @rule(key=KEYS, data=st.data(), which=st.booleans())
    def put_a_held_frame(self, key, data, which):
        frame, expected = data.draw(st.sampled_from(self.held))
        self.wrote(key, expected, self.handles[which].put(key, frame))

    @rule(key=KEYS, which=st.booleans())
    def hold(self, key, which):
        if isinstance(self.values.get(key), pa.Table) and len(self.held) < 5:
            self.held.append((self.handles[which].frame(key), self.values[key]))

    @rule()
    def let_go(self):
        self.check_held()
        self.held.clear()
        gc.collect()

    def check_held(self):
        for frame, expected in self.held:
            assert frame.to_arrow().equals(expected)

    # -- the store ----------------------------------------------------------------------------------------------------

    @rule(which=st.booleans())
    def reopen(self, which):
        self.handles[which].close()
        self.handles[which] = self.opener()

    @rule()
    def reopen_both(self):
        for handle in self.handles:
            handle.close()
        self.check_held()
        self.handles = [self.opener(), self.opener()]

    @rule(prefix=PREFIXES, which=st.booleans())
    def keys(self, prefix, which):
        assert self.handles[which].keys(prefix) == sorted(key for key in self.values if key.startswith(prefix))

    @rule(which=st.booleans())
    def count(self, which):
        counts = self.handles[which].statistics()
        frames = [value for value in self.values.values() if isinstance(value, pa.Table)]
        assert (counts.keys, counts.frames) == (len(self.values), len(frames))
        assert counts.chunks == len({tuple(table["n"].to_pylist()) for table in frames if table.num_rows})

    @rule(which=st.booleans())
    def check_all(self, which):
        assert self.handles[which].check().faults == ()

    @invariant()
    def both_handles_see_what_the_dict_has(self):
        for handle in self.handles:
            for key in NAMES:
                value = handle.get(key, default=None)
                self.same(value, self.values.get(key))
                assert handle.exists(key) == (key in self.values)
                with contextlib.suppress(KeyMissing):
                    assert handle.version(key) == self.versions[key]

    def same(self, found, expected):
        if expected is None or isinstance(expected, bytes):
            assert found == expected
        else:
            assert found.to_arrow().equals(expected)

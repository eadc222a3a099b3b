"""What was put lately in batches is there for whoever looks, and is merged before the tree changes by itself."""

from __future__ import annotations

import shutil
import signal
import threading
from struct import error as StructError
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from tests.store.two_nodes import TwoNodes

from eau2.errors import Corrupt, KeyExists, StoreBusy, StoreClosed
from eau2.store import changes, database, recent
from eau2.store.node import DirectoryNode
from eau2.store.nodes import Expect, Kind, Write
from eau2.store.puts import Puts
from eau2.values.key import check_key

KEYS = [f"k{number:02}" for number in range(30)]


def values_of(text, keys=KEYS):
    return {key: f"{key} {text}".encode() for key in keys}


def put(node, values):
    return node.write(Puts(dict(values)))


def in_tree(node):
    """The keys that have a row of their own."""
    return [key for (key,) in node._reader.rows("select key from main.entry order by key")]


def batches(node):
    return node._reader.rows("select count(*) from recent where length(body) > 0")[0][0]


def payloads(node, keys=KEYS):
    return {key: entry.payload for key, entry in node.get_many(keys).items()}


@pytest.fixture(autouse=True)
def few_make_a_batch(monkeypatch):
    monkeypatch.setattr(recent, "BATCH_MIN", 8)
    monkeypatch.setattr(database, "_PLENTY_BYTES", 0)  # whatever disk this is


@pytest.fixture
def never_merged(node):
    """A node that cannot merge what was put: as where the directory cannot be written."""
    node._reader.merge = None
    return node


def is_a_key(text):
    try:
        return bool(check_key(text))
    except Exception:  # whatever it is that is wrong with it
        return False


keys = st.text(min_size=1, max_size=20).filter(is_a_key)
contents = st.dictionaries(keys, st.binary(max_size=40), min_size=1, max_size=20)


@given(contents, st.data())
def test_a_batch_is_read_as_it_was_written(values, data):
    versions = np.array([data.draw(st.integers(1, 2**62)) for _ in values])
    made = recent.encoded(values, versions)
    read = recent.decoded(recent.unpacked(recent.packed(made.body)))
    assert list(read.keys) == list(values)
    assert read.versions.tolist() == versions.tolist()
    ends = zip(read.ends.tolist(), read.sizes.tolist(), strict=True)
    assert [read.body[end - size : end] for end, size in ends] == list(values.values())
    assert made.ends.tolist() == read.ends.tolist()


@given(contents, st.data())
def test_a_batch_that_was_cut_is_never_read(values, data):
    body = recent.encoded(values, np.ones(len(values), np.int64)).body
    with pytest.raises((StructError, ValueError)):
        recent.decoded(body[: data.draw(st.integers(0, len(body) - 1))])
    row = recent.packed(body)
    with pytest.raises((StructError, ValueError, OSError)):
        recent.decoded(recent.unpacked(row[: data.draw(st.integers(0, len(row) - 1))]))


@given(st.binary(max_size=200), st.booleans())
def test_what_is_no_batch_is_an_error_or_consistent(body, is_packed):
    try:
        read = recent.decoded(recent.unpacked(body) if is_packed else body)
    except (StructError, ValueError, OSError):
        return
    assert len(read.keys) == len(read.versions) == len(read.ends) > 0


def test_batches_wait_in_front_of_the_tree_and_are_seen(node, other):
    assert put(node, values_of(1)) == [1] * 30
    assert put(other, values_of(2, KEYS[10:])) == [2] * 20
    assert in_tree(node) == []
    assert batches(node) == 2
    expected = {**values_of(1), **values_of(2, KEYS[10:])}
    for reader in (node, other):
        for _ in range(4):  # by a snapshot of its own, by a kept one, and remembered
            assert payloads(reader) == expected
            assert reader.get("k05") == (1, Kind.BYTES, b"k05 1")
            assert reader.get("k15") == (2, Kind.BYTES, b"k15 2")
            assert reader.get("absent") is None
            assert list(reader.get_many(["absent", "k29", "k00"])) == ["k29", "k00"]
    assert batches(node) == 2


@pytest.mark.parametrize(
    "write",
    [
        Write("k03", Kind.BYTES, b"new"),
        Write("k03", Kind.BYTES, b"new", expect=1),
        Write("k03", Kind.DELETED),
        Write("other", Kind.BYTES, b"new", expect=Expect.ABSENT),
        Write("k03", Kind.BYTES, bytes(5000)),
    ],
)
def test_whatever_else_is_written_finds_the_tree_whole(node, other, write):
    put(node, values_of(1))
    (outcome,) = other.write([write])
    assert outcome == (1 if write.key == "other" else 2)
    assert batches(node) == 0
    expected = values_of(1)
    expected[write.key] = write.payload
    if write.kind == Kind.DELETED:
        del expected["k03"]
    assert payloads(node, [*KEYS, "other"]) == expected
    again = put(node, values_of(2))
    assert again == [3 if key == write.key else 2 for key in KEYS]
    assert type(node.write([Write("k03", Kind.BYTES, b"", expect=Expect.ABSENT)])[0]) is KeyExists


@pytest.mark.parametrize("before", [bytes(5000), b"end"])
def test_over_what_is_not_plain_a_batch_goes_to_the_tree(node, other, frames, before):
    if before == b"end":
        node.write([Write("k03", Kind.EXPIRING, bytes(8) + before)])
    else:
        node.write([Write("k03", Kind.BYTES, before)])
    frames.put(node, "k04", frames.some_chunks(2))
    assert put(other, values_of(1)) == [2 if key in ("k03", "k04") else 1 for key in KEYS]
    assert payloads(node) == values_of(1)
    assert in_tree(node) == KEYS
    assert node.here.expiring() == []
    assert node.check().faults == ()
    assert frames.files(node.directory) == set()


def test_large_values_go_to_the_tree(node):
    put(node, values_of(1))
    put(node, {**values_of(2), "k07": bytes(database.SMALL_MAX + 1)})
    assert in_tree(node) == KEYS
    assert payloads(node) == {**values_of(2), "k07": bytes(database.SMALL_MAX + 1)}


def test_who_asks_for_more_than_keys_has_them_merged(node, other):
    put(node, values_of(1))
    assert other.keys("k1") == KEYS[10:20]
    assert batches(node) == 0
    put(node, values_of(2))
    assert other.statistics().keys == 30
    put(node, values_of(3))
    assert [key for key, _, _ in other.listing("", 100)] == KEYS
    put(node, values_of(4))
    assert {record.payload for record in other.records(["k01", "k02"]).values()} == {b"k01 4", b"k02 4"}
    put(node, values_of(5))
    assert other.frames() == []
    assert node.check().keys == 30


def test_where_that_cannot_be_all_is_seen_all_the_same(never_merged, other):
    put(other, values_of(1, KEYS[:20]))
    other.keys()
    put(other, values_of(2, KEYS[10:]))
    assert never_merged.keys() == KEYS
    assert never_merged.keys("k1", limit=3) == KEYS[10:13]
    assert never_merged.statistics().keys == 30
    assert [version for _, version, _ in never_merged.listing("", 100)] == [1] * 10 + [2] * 10 + [1] * 10
    assert never_merged.records(["k15"])["k15"].payload == b"k15 2"
    assert payloads(never_merged) == {**values_of(1, KEYS[:10]), **values_of(2, KEYS[10:])}
    check = never_merged.check()
    assert (check.keys, check.faults) == (30, ())
    assert batches(other) == 1
    assert in_tree(other) == KEYS[:20]  # the view has gone with its transaction


def test_a_writer_that_holds_the_lock_does_not_keep_a_reader_from_listing(node, other):
    put(node, values_of(1))
    began, end = threading.Event(), threading.Event()

    def hold():
        other._writing().transaction(lambda: began.set() or end.wait(30), in_front=True)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert began.wait(10)
        assert node.keys() == KEYS
        assert payloads(node) == values_of(1)
    finally:
        end.set()
        holder.join()


@pytest.mark.parametrize(
    ("where", "what", "limit"),
    [(recent, "_KEYS_MAX", 29), (recent, "_BYTES_MAX", 2000), (changes, "_MERGE_SECONDS", 1e-9)],
)
def test_when_there_are_many_they_are_merged(node, monkeypatch, where, what, limit):
    monkeypatch.setattr(where, what, limit)
    seen = []
    for number in range(1, 11):
        assert put(node, values_of(number)) == [number] * 30
        assert payloads(node) == values_of(number)
        seen.append(batches(node))
    assert 1 in seen[1:]
    assert max(seen) < 5
    assert node.check().faults == ()


def test_what_has_been_merged_does_not_count_again(node, monkeypatch):
    monkeypatch.setattr(recent, "_KEYS_MAX", 19)
    seen = []
    for number in range(12):
        put(node, values_of(number, KEYS[number % 3 * 10 :][:10]))
        seen.append(batches(node))
    assert seen == [1, 2] * 6
    assert payloads(node) == {**values_of(9, KEYS[:10]), **values_of(10, KEYS[10:20]), **values_of(11, KEYS[20:])}


def test_a_door_does_not_wait_until_many_are_merged(node, monkeypatch):
    put(node, values_of(1))
    monkeypatch.setattr(changes, "_QUICK_SECONDS", 1e-9)
    for keys in (KEYS, KEYS[:1]):
        node.here.generation()
        with pytest.raises(StoreBusy):
            node.here.put(values_of(2, keys))
    assert payloads(node) == values_of(1)
    monkeypatch.setattr(changes, "_QUICK_SECONDS", 0.1)
    node.here.put(values_of(2))
    assert batches(node) == 2
    node.here.put(values_of(3, KEYS[:1]))
    assert batches(node) == 0
    assert payloads(node) == {**values_of(2), **values_of(3, KEYS[:1])}


def test_a_batch_that_is_large_by_itself_goes_to_the_tree(node, monkeypatch):
    monkeypatch.setattr(recent, "BATCH_BYTES_MAX", 100)
    put(node, values_of(1))
    assert in_tree(node) == KEYS
    put(node, values_of(2, KEYS[:9]))
    assert batches(node) == 1


def test_ctrl_c_while_batches_of_others_are_read_leaves_nothing_half_known(node, other, monkeypatch):
    put(node, values_of(1, KEYS[:10]))
    assert payloads(node) == payloads(other) == values_of(1, KEYS[:10])
    put(other, values_of(2))
    know = recent.Recent.know

    def interrupted(self, versions, in_tree):
        know(self, versions, in_tree)
        self._keys.pop()
        raise KeyboardInterrupt

    for cut_short in (lambda: put(node, values_of(3)), lambda: node.get_many(KEYS)):
        with monkeypatch.context() as cut:
            cut.setattr(recent.Recent, "know", interrupted)
            with pytest.raises(KeyboardInterrupt):
                cut_short()
    assert payloads(node) == values_of(2)
    assert node.keys() == KEYS
    assert put(node, values_of(3)) == [3 if key in KEYS[:10] else 2 for key in KEYS]
    assert payloads(other) == values_of(3)


def test_ctrl_c_while_closing_merges_closes_all_the_same(directory, monkeypatch):
    node = DirectoryNode(directory)
    put(node, values_of(1))
    monkeypatch.setattr(node._writing().changes, "merge_if_quick", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        node.close()
    with pytest.raises(StoreClosed):
        node.get("k01")
    again = DirectoryNode(directory)
    try:
        assert payloads(again) == values_of(1)
    finally:
        again.close()


def test_counters_that_make_no_sense_hide_no_batch(node, other):
    put(node, values_of(1))
    counters = node._generation.counters
    counters[4] = counters[0] + 3
    for number in range(2, 8):
        put(node, values_of(number))
        assert payloads(other) == payloads(node) == values_of(number)


def test_where_there_is_little_room_nothing_waits(node, other, monkeypatch):
    put(node, values_of(1))
    assert batches(node) == 1
    monkeypatch.setattr(database, "_PLENTY_BYTES", 1 << 62)
    put(other, values_of(2, KEYS[:9]))
    assert batches(node) == 0
    assert payloads(node) == {**values_of(1), **values_of(2, KEYS[:9])}


def test_closing_merges(directory):
    first = DirectoryNode(directory)
    put(first, values_of(1))
    first.close()
    second = DirectoryNode(directory)
    try:
        assert batches(second) == 0
        assert payloads(second) == values_of(1)
    finally:
        second.close()


def test_a_merge_that_fails_changes_nothing(node, other, monkeypatch):
    put(node, values_of(1))

    def fail(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(recent, "_PUT", "insert into nothing values(?, ?, ?, ?)")
        with pytest.raises(Exception, match="nothing"):
            node.write([Write("k03", Kind.DELETED)])
    with monkeypatch.context() as broken:
        broken.setattr(node._writing().changes, "_apply", fail)
        with pytest.raises(ZeroDivisionError):
            node.write([Write("k03", Kind.DELETED)])
    assert batches(other) == 1
    for each in (node, other):
        assert payloads(each) == values_of(1)
    assert put(node, values_of(2)) == [2] * 30
    assert other.write([Write("k03", Kind.DELETED)]) == [3]
    assert sorted(payloads(node)) == sorted({*KEYS} - {"k03"})


def test_a_batch_that_fails_is_not_remembered(node, other):
    put(node, values_of(1))
    made = node._writing()

    def fail():
        made.changes.put_all(values_of(9))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made.transaction(fail, in_front=True)
    assert payloads(node) == payloads(other) == values_of(1)
    assert put(node, values_of(2)) == [2] * 30
    assert payloads(node) == payloads(other) == values_of(2)


@pytest.mark.parametrize("counters", ["lost", "of before"])
def test_batches_are_found_where_the_counters_do_not_say_so(directory, tmp_path, counters):
    node = DirectoryNode(directory)
    before = (directory / "generation").read_bytes()
    put(node, values_of(1))
    copied = tmp_path / "copied"  # as a kill, or the loss of power, leaves it
    shutil.copytree(directory, copied)
    node.close()
    (copied / "generation").write_bytes(bytes(len(before)) if counters == "lost" else before)
    again, other = DirectoryNode(copied), DirectoryNode(copied)
    try:
        for each in (again, other):
            assert each.get("k01").payload == b"k01 1"
            assert payloads(each) == values_of(1)
        assert again.keys() == KEYS
        assert batches(other) == 0
        put(again, values_of(2))
        assert payloads(other) == values_of(2)
    finally:
        again.close()
        other.close()


def test_a_batch_that_makes_no_sense_is_an_error(node, other):
    put(node, values_of(1))
    damage = "update recent set body = x'0102'"
    other._writing().transaction(lambda: other._writing().execute(damage), in_front=True)
    for read in (lambda: node.get("k01"), lambda: node.get_many(KEYS)):
        with pytest.raises(Corrupt, match="batch"):
            read()
    assert node.check().faults


def test_a_frame_is_not_replaced_by_a_door(node, frames):
    frames.put(node, "k04", frames.some_chunks(1))
    put(node, values_of(1, KEYS[10:]))
    node.here.generation()
    with pytest.raises(StoreBusy):
        node.here.put(values_of(2))
    assert payloads(node, KEYS[10:]) == values_of(1, KEYS[10:])
    node.here.put(values_of(2, KEYS[10:]))
    assert payloads(node, KEYS[10:]) == values_of(2, KEYS[10:])


class InFront(TwoNodes):
    """Batches and whatever else over two connections, against a dict with versions."""

    some_keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=30, unique=True)
    sizes = st.sampled_from([0, 5, 100, database.SMALL_MAX, database.SMALL_MAX + 1, 5000])
    which = st.integers(0, 1)

    def __init__(self):
        super().__init__()
        limits = {"_BYTES_MAX": 20_000, "_KEYS_MAX": 28, "BATCH_MIN": 8}
        self.patched = [patch.object(recent, name, limit) for name, limit in limits.items()]
        self.patched.append(patch.object(database, "_PLENTY_BYTES", 0))
        for each in self.patched:
            each.start()

    def teardown(self):
        super().teardown()
        for each in self.patched:
            each.stop()

    @rule(which=which, keys=some_keys, size=sizes)
    def put_many(self, which, keys, size):
        values = {key: bytes([number]) * size for number, key in enumerate(keys)}
        outcomes = put(self.nodes[which], values)
        assert outcomes == [self.last.get(key, 0) + 1 for key in keys]
        self.model.update(values)
        self.last.update(zip(keys, outcomes, strict=True))

    @rule(which=which, keys=some_keys)
    def put_by_a_door(self, which, keys):
        here = self.nodes[which].here
        here.generation()
        here.put(values_of("door", keys))
        self.model.update(values_of("door", keys))
        self.last.update({key: self.last.get(key, 0) + 1 for key in keys})

    @rule(which=which, key=st.sampled_from(KEYS), size=sizes)
    def put(self, which, key, size):
        assert self.nodes[which].write([Write(key, Kind.BYTES, bytes(size))]) == [self.last.get(key, 0) + 1]
        self.model[key], self.last[key] = bytes(size), self.last.get(key, 0) + 1

    @rule(which=which, key=st.sampled_from(KEYS))
    def delete(self, which, key):
        (outcome,) = self.nodes[which].write([Write(key, Kind.DELETED)])
        assert outcome == (self.last[key] + 1 if key in self.model else 0)
        if self.model.pop(key, None) is not None:
            self.last[key] = outcome

    @rule(which=which, keys=some_keys)
    def fail(self, which, keys):
        writer = self.nodes[which]._writing()

        def change():
            writer.changes.put_all(values_of("never", keys))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            writer.transaction(change, in_front=len(keys) >= recent.BATCH_MIN)

    @rule(which=which)
    def list_keys(self, which):
        assert self.nodes[which].keys() == sorted(self.model)

    @rule(which=which)
    def list_keys_without_merging(self, which):
        reader = self.nodes[which]._reader
        with patch.object(reader, "merge", None):
            assert reader.keys("", None) == sorted(self.model)

    @rule(which=which)
    def reopen(self, which):
        self.nodes[which].close()
        self.nodes[which] = DirectoryNode(self.place.name + "/n")

    @rule(loses_counters=st.booleans())
    def lose_power(self, loses_counters):
        with TemporaryDirectory() as folder:
            copied = shutil.copytree(self.place.name + "/n", folder + "/n")
            if loses_counters:
                with open(copied + "/generation", "r+b") as file:
                    file.write(bytes(40))
            node = DirectoryNode(copied)
            try:
                self._same(node)
                assert node.check().faults == ()
                assert node.keys() == sorted(self.model)
            finally:
                node.close()

    @invariant()
    def the_same(self):
        for node in getattr(self, "nodes", ()):
            self._same(node)

    def _same(self, node):
        found = {key: (entry.version, entry.payload) for key, entry in node.get_many(KEYS).items()}
        assert found == {key: (self.last[key], payload) for key, payload in self.model.items()}
        for key in KEYS[::7]:
            entry = node.get(key)
            assert (None if entry is None else (entry.version, entry.payload)) == found.get(key)


TestInFront = pytest.mark.slow(InFront.TestCase)
TestInFront.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

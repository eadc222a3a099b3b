"""A node keeps copies of what others have: as they are, by their ranks, with the chunks it holds for them."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.cluster.memory_node import MemoryNode
from tests.crash.damage import flip
from tests.until import SECONDS_MAX

from eau2.errors import Corrupt, StoreClosed
from eau2.store import changes
from eau2.store.node import DirectoryNode
from eau2.store.nodes import RANK_BITS, Kind, Record, Write
from eau2.values.chunk import identify
from eau2.values.key import held_key, hold_key

EPOCH = 1 << RANK_BITS


@pytest.fixture(params=["directory", "memory"])
def node(request, directory):
    opened = DirectoryNode(directory) if request.param == "directory" else MemoryNode()
    yield opened
    with contextlib.suppress(StoreClosed):  # by the test
        assert opened.check().faults == ()
    opened.close()


@pytest.fixture
def on_disk(directory):
    with_files = DirectoryNode(directory)
    yield with_files
    with_files.close()


def ids(chunks):
    return [chunk.id for chunk in chunks]


def hold(key, rank, chunks, staged=()):
    return Record(hold_key(key, rank), rank, Kind.HOLD, "\n".join(ids(chunks)).encode(), tuple(staged))


def held(node, key, rank, chunks):
    """Stage `chunks` and hold them for the frame `key` of `rank`."""
    node.store([hold(key, rank, chunks, map(node.stage, chunks))])


def known(node, *keys):
    return {key: (record.rank, record.kind, record.payload) for key, record in node.records(keys).items()}


def left_staged(node):
    if isinstance(node, MemoryNode):
        return list(node.staged)
    return [path for path in (node.directory / "staging").rglob("*") if path.is_file() and path.name != "lock"]


# -- records -----------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_there_as_it_is(node, frames):
    records = [
        Record("a", 2 * EPOCH + 7, Kind.BYTES, b"one"),
        Record("b", 3, Kind.DELETED),
        Record("c", EPOCH, Kind.SPREAD, frames.manifest_of([])),
        Record("\x00v", 1, Kind.BYTES, b"a view"),
    ]
    node.store(records)
    assert node.records(["c", "b", "never", "\x00v", "a"]) == {record.key: record for record in records}
    assert node.get("a") == (2 * EPOCH + 7, Kind.BYTES, b"one")
    assert node.get("b") is None
    assert node.records([]) == {}


def test_what_was_written_here_is_known_by_its_version(node):
    node.write([Write("a", Kind.BYTES, b"1"), Write("b", Kind.BYTES, b"1"), Write("b", Kind.DELETED)])
    assert known(node, "a", "b") == {"a": (1, Kind.BYTES, b"1"), "b": (2, Kind.DELETED, b"")}


@pytest.mark.parametrize("kind", [Kind.BYTES, Kind.DELETED])
def test_a_record_is_passed_over_when_the_key_is_known_at_its_rank_or_above(node, kind):
    node.store([Record("a", EPOCH + 2, kind, b"" if kind == Kind.DELETED else b"known")])
    before = known(node, "a")
    for rank in (1, EPOCH + 1, EPOCH + 2):
        node.store([Record("a", rank, Kind.BYTES, b"late")])
        node.store([Record("a", rank, Kind.DELETED)])
        assert known(node, "a") == before
    node.store([Record("a", EPOCH + 3, Kind.BYTES, b"new")])
    assert known(node, "a") == {"a": (EPOCH + 3, Kind.BYTES, b"new")}


def test_force_takes_a_key_back_to_what_it_was(node):
    was = [Record("a", 1, Kind.BYTES, b"was"), Record("b", 1, Kind.DELETED)]
    node.store(was)
    node.store([Record("a", 2, Kind.DELETED), Record("b", 2, Kind.BYTES, b"is")])
    node.store(was, force=True)
    assert node.records(["a", "b"]) == {record.key: record for record in was}
    assert node.keys() == ["a"]
    assert node.listing("", 10) == [("a", 1, Kind.BYTES), ("b", 1, Kind.DELETED)]
    node.store([Record("a", 2, Kind.BYTES, b"again")])
    assert known(node, "a") == {"a": (2, Kind.BYTES, b"again")}


def test_what_was_seen_is_replaced_or_erased_only_as_long_as_it_is_that(node):
    node.store([Record(key, 9, Kind.BYTES, b"seen") for key in ("a", "b", "c", "d")])
    node.store([Record("b", 10, Kind.BYTES, b"newer"), Record("d", 10, Kind.DELETED)])
    seen = dict.fromkeys("abcd", 9)
    node.store([Record(key, 5, Kind.BYTES, b"right") for key in "ab"], seen=seen)
    node.erase(["c", "d", "unseen"], seen=seen)
    assert known(node, *"abcd") == {
        "a": (5, Kind.BYTES, b"right"),
        "b": (10, Kind.BYTES, b"newer"),
        "d": (10, Kind.DELETED, b""),
    }
    node.erase(["a"], seen={})
    assert known(node, "a") == {}


def test_of_several_records_of_a_key_in_one_call_each_meets_what_those_before_it_left(node):
    ranks = [1, 3, 2]
    node.store([Record("a", rank, Kind.BYTES, b"%d" % rank) for rank in ranks] + [Record("b", 1, Kind.BYTES, b"b")])
    assert known(node, "a", "b") == {"a": (3, Kind.BYTES, b"3"), "b": (1, Kind.BYTES, b"b")}


def test_many_records_are_one_transaction(node):
    before = node.statistics().commits
    node.store([Record(f"k{index:04}", index + 1, Kind.BYTES, b"%d" % index) for index in range(1000)])
    assert node.statistics().commits == before + 1
    assert node.get("k0999") == (1000, Kind.BYTES, b"999")
    assert len(node.keys()) == 1000


def test_what_is_stored_or_erased_wakes_those_who_wait(node):
    for change in (
        lambda: node.store([Record("a", 1, Kind.BYTES, b"")]),
        lambda: node.erase(["a"]),
    ):
        since = node.generation()
        timer = threading.Timer(0.02, change)
        timer.start()
        assert node.wait_for_write(since, SECONDS_MAX) != since
        timer.join()


def test_a_plain_write_goes_on_from_what_was_stored(node):
    node.store([Record("a", 6, Kind.BYTES, b""), Record("b", 6, Kind.DELETED)])
    assert node.write([Write("a", Kind.BYTES, b""), Write("b", Kind.BYTES, b"")]) == [7, 7]


def test_nothing_is_done_once_the_node_is_closed(node):
    node.close()
    for use in (
        lambda: node.records(["a"]),
        node.version_floor,
        lambda: node.listing("", 1),
        lambda: node.has_chunks(["0"]),
        lambda: node.store([Record("a", 1, Kind.BYTES)]),
        lambda: node.erase(["a"]),
        node.adopt,
    ):
        with pytest.raises(StoreClosed):
            use()


# -- names -------------------------------------------------------------------------------------------------------------


def test_internal_keys_are_no_keys_of_users(node, frames):
    held(node, "f", 1, frames.some_chunks(2))
    node.store([Record("\x00v", 1, Kind.BYTES, b"v"), Record("a", 1, Kind.BYTES)])
    node.store([Record("f", 1, Kind.SPREAD, frames.manifest_of([]))])
    assert node.keys() == ["a", "f"]
    assert node.keys(limit=1) == ["a"]
    assert node.keys("\x00") == node.keys(hold_key("f", 1)) == []
    assert node.frames() == ["f"]
    counts = node.statistics()
    assert (counts.keys, counts.frames, counts.chunks) == (2, 1, 2)


def test_listing_pages_through_all_keys_in_order_deleted_and_internal_ones_too(node):
    names = ["\x00v", "\x00h\x00z", "a", "a/b", "é", "\U0001f600", "￿", "gone", "back"]
    node.store([Record(name, place + 1, Kind.BYTES) for place, name in enumerate(names)])
    node.store([Record("gone", 50, Kind.DELETED), Record("back", 50, Kind.DELETED)])
    node.store([Record("back", 51, Kind.BYTES)])
    pages, after = [], ""
    while page := node.listing(after, 2):
        pages += page
        after = page[-1][0]
    assert pages == node.listing("", 100)
    assert [name for name, _, _ in pages] == sorted(names)
    assert {name: (rank, kind) for name, rank, kind in pages if rank >= 50} == {
        "gone": (50, Kind.DELETED),
        "back": (51, Kind.BYTES),
    }


def test_erasing_leaves_no_trace(node, frames):
    (chunk,) = frames.some_chunks(1)
    held(node, "f", 9, [chunk])
    node.store([Record("a", 9, Kind.BYTES), Record("b", 9, Kind.BYTES)])
    node.store([Record("a", 10, Kind.DELETED)])
    node.erase(["a", "b", hold_key("f", 9), "never"])
    node.erase([])
    assert node.listing("", 10) == []
    with pytest.raises(FileNotFoundError):
        node.map([chunk.id])
    node.store([Record("a", 1, Kind.BYTES, b"older than what was erased")])
    assert node.get("a").version == 1


def test_the_floor_is_the_highest_version_that_was_forgotten_whatever_its_epoch(node, monkeypatch):
    monkeypatch.setattr(changes, "GONE_MAX", 20)
    monkeypatch.setattr(changes, "_GONE_STEP", 10)
    assert node.version_floor() == 0
    node.store([Record(f"k{index}", 9 * EPOCH + 100 - index, Kind.DELETED) for index in range(20)])
    assert node.version_floor() == 0
    node.store([Record("last", EPOCH, Kind.DELETED)])
    assert node.version_floor() == 100
    assert known(node, "k9", "k10") == {"k10": (9 * EPOCH + 90, Kind.DELETED, b"")}


# -- holds -------------------------------------------------------------------------------------------------------------


def test_the_name_of_a_hold_tells_whose_it_is():
    assert hold_key("a/é", 5 * EPOCH + 1) == "\x00ha/é\x000000000500000001"
    assert held_key(hold_key("a/é", 5 * EPOCH + 1)) == "a/é"


def test_a_hold_gives_staged_chunks_their_names_and_they_go_with_it(node, frames):
    chunks = frames.some_chunks(3)
    assert node.has_chunks([*ids(chunks), "0" * 32]) == [False] * 4
    held(node, "f", EPOCH + 1, chunks)
    assert node.has_chunks([*ids(chunks), "0" * 32]) == [True, True, True, False]
    assert node.has_chunks([]) == []
    assert node.chunk_sizes() == {chunk.id: chunk.size for chunk in chunks}
    assert [identify(data) for data in node.map(ids(chunks))] == ids(chunks)
    assert left_staged(node) == []
    node.erase([hold_key("f", EPOCH + 1)])
    assert node.has_chunks(ids(chunks)) == [False] * 3
    assert node.chunk_sizes() == {}
    assert node.statistics().chunks_removed == 3


def test_a_hold_counts_chunks_that_are_here_already_and_the_last_to_name_them_removes_them(node, frames):
    chunks = frames.some_chunks(3)
    held(node, "f", 1, chunks[:2])
    node.store([hold("g", 1, chunks, [node.stage(chunks[2])])])
    node.erase([hold_key("f", 1)])
    assert node.has_chunks(ids(chunks)) == [True] * 3
    node.store([Record(hold_key("g", 1), 2, Kind.DELETED)])
    assert node.has_chunks(ids(chunks)) == [False] * 3
    assert node.statistics().chunks == 0


def test_a_damaged_or_missing_chunk_is_mended_by_a_staged_copy(on_disk, frames):
    chunks = frames.some_chunks(3)
    held(on_disk, "f", 1, chunks)
    flip(Path(on_disk._files.path(chunks[0].id)), 100)
    os.unlink(on_disk._files.path(chunks[1].id))
    for chunk in chunks:
        on_disk.mend(on_disk.stage(chunk))
    assert left_staged(on_disk) == []
    assert [identify(data) for data in on_disk.map(ids(chunks))] == ids(chunks)
    assert on_disk.statistics().chunks_verified == 0  # what was published is trusted
    assert on_disk.check().faults == ()
    on_disk.erase([hold_key("f", 1)])
    assert on_disk.statistics().chunks_removed == 3


def test_a_chunk_that_is_named_by_nothing_is_not_mended(node, frames):
    (chunk,) = frames.some_chunks(1)
    staged = node.stage(chunk)
    with pytest.raises(FileNotFoundError):
        node.mend(staged)
    node.discard([staged])
    assert node.has_chunks([chunk.id]) == [False]


def test_a_hold_of_a_chunk_that_is_nowhere_fails_with_all_that_came_with_it(node, frames):
    here, there = frames.some_chunks(2)
    staged = node.stage(here)
    with pytest.raises(FileNotFoundError):
        node.store([Record("a", 1, Kind.BYTES), hold("f", 1, [here, there], [staged])])
    assert node.listing("", 10) == []
    assert node.has_chunks([here.id]) == [False]
    assert left_staged(node) == []
    with pytest.raises(FileNotFoundError):
        node.map([here.id])


def test_what_was_staged_and_swept_since_is_looked_for_among_the_chunks_that_are_here(node, frames):
    chunks = frames.some_chunks(2)
    staged = [node.stage(chunk) for chunk in chunks]
    node.discard(staged)
    held(node, "f", 1, chunks[:1])
    node.store([hold("g", 1, chunks[:1], staged[:1])])
    assert node.records([hold_key("g", 1)]) != {}
    with pytest.raises(FileNotFoundError):
        node.store([hold("h", 1, chunks, staged)])


def test_a_hold_that_is_there_already_drops_what_was_staged_for_it_again(node, frames):
    chunks = frames.some_chunks(2)
    for _ in range(2):
        held(node, "f", 1, chunks)
    assert left_staged(node) == []
    node.erase([hold_key("f", 1)])
    assert node.has_chunks(ids(chunks)) == [False, False]


def test_the_same_again_by_force_changes_nothing(node, frames):
    chunks = frames.some_chunks(2)
    for force in (False, True, True):
        node.store([hold("f", 1, chunks, map(node.stage, chunks)), Record("a", 1, Kind.BYTES, b"a")], force=force)
        node.store([hold("f", 1, chunks)], force=force)
        assert node.listing("", 10) == [(hold_key("f", 1), 1, Kind.HOLD), ("a", 1, Kind.BYTES)]
        assert [identify(data) for data in node.map(ids(chunks))] == ids(chunks)
        assert node.check().faults == ()
        assert left_staged(node) == []


def test_a_hold_by_force_replaces_a_damaged_chunk(node, frames):
    (chunk,) = frames.some_chunks(1)
    held(node, "f", 1, [chunk])
    if isinstance(node, MemoryNode):
        node.files[chunk.id] = b"damaged"
    else:
        flip(node.directory / "chunks" / chunk.id[:2] / f"{chunk.id}.arrow", 100)
    with pytest.raises(Corrupt):
        node.map([chunk.id])
    node.store([hold("f", 1, [chunk], [node.stage(chunk)])], force=True)
    assert identify(node.map([chunk.id])[0]) == chunk.id


def test_replacing_a_hold_lets_go_of_what_the_new_one_does_not_list(node, frames):
    first, second, third = frames.some_chunks(3)
    held(node, "f", 1, [first, second])
    name = hold_key("f", 1)
    node.store([Record(name, 2, Kind.HOLD, f"{second.id}\n{third.id}".encode(), (node.stage(third),))])
    assert node.has_chunks(ids([first, second, third])) == [False, True, True]
    node.store([Record(name, 3, Kind.HOLD, b"")])
    assert node.has_chunks(ids([first, second, third])) == [False, False, False]


def test_a_spread_frame_counts_no_chunks(node, frames):
    chunks = frames.some_chunks(2)
    held(node, "f", 1, chunks)
    node.store([Record("f", 1, Kind.SPREAD, frames.manifest_of(chunks))])
    node.store([Record("f", 2, Kind.SPREAD, frames.manifest_of(chunks[:1]))])
    node.store([Record("f", 3, Kind.DELETED)])
    assert node.has_chunks(ids(chunks)) == [True, True]
    node.erase([hold_key("f", 1)])
    assert node.has_chunks(ids(chunks)) == [False, False]


def test_adopting_makes_every_frame_spread_with_a_hold_of_its_chunks_here(node, frames):
    chunks = frames.some_chunks(3)
    frames.put(node, "f", [chunks[0], chunks[1], chunks[0]])
    frames.put(node, "g", chunks[1:])
    frames.put(node, "g", chunks[1:])
    frames.put(node, "empty", [])
    node.write([Write("a", Kind.BYTES, b"a"), Write("deleted", Kind.BYTES), Write("deleted", Kind.DELETED)])
    manifests = {key: node.get(key).payload for key in node.frames()}
    for _ in range(2):
        node.adopt()
        assert node.frames() == ["empty", "f", "g"]
        assert known(node, "a", "deleted", "f", "g") == {
            "a": (1, Kind.BYTES, b"a"),
            "deleted": (2, Kind.DELETED, b""),
            "f": (1, Kind.SPREAD, manifests["f"]),
            "g": (2, Kind.SPREAD, manifests["g"]),
        }
        assert node.records([hold_key("f", 1), hold_key("g", 2), hold_key("empty", 1)]) == {
            record.key: record for record in (hold("f", 1, chunks[:2]), hold("g", 2, chunks[1:]), hold("empty", 1, []))
        }
        assert node.check().faults == ()
    assert [identify(data) for data in node.map(ids(chunks))] == ids(chunks)
    node.erase([hold_key("f", 1)])
    assert node.has_chunks(ids(chunks)) == [False, True, True]


def test_adopting_takes_the_place_of_a_hold_that_was_left_of_an_unfinished_write(node, frames):
    mine, left = frames.some_chunks(2)
    held(node, "f", 1, [mine, left])
    frames.put(node, "f", [mine])
    node.adopt()
    assert node.records([hold_key("f", 1)])[hold_key("f", 1)] == hold("f", 1, [mine])
    assert node.has_chunks(ids([mine, left])) == [True, False]


# -- a directory's own -------------------------------------------------------------------------------------------------


def test_records_share_a_transaction_with_writes_and_what_names_chunks_fails_alone(on_disk, frames):
    node, (chunk,) = on_disk, frames.some_chunks(1)
    before = node.statistics().commits
    with ThreadPoolExecutor(4) as threads:
        with node._writer._lock:
            ends = []
            for number, change in enumerate(
                (
                    lambda: node.write([Write("a", Kind.BYTES, b"")]),
                    lambda: node.store([Record("b", 1, Kind.BYTES)]),
                    lambda: node.store([hold("f", 1, [chunk])]),
                    lambda: node.store([Record("c", 1, Kind.SPREAD)]),
                )
            ):
                ends.append(threads.submit(change))
                while len(node._writer._queue) <= number:
                    pass
        assert [type(end.exception(SECONDS_MAX)) for end in ends[:2] + ends[3:]] == [type(None)] * 3
        assert isinstance(ends[2].exception(SECONDS_MAX), FileNotFoundError)
    assert node.keys() == ["a", "b", "c"]
    assert node.statistics().commits == before + 2


def test_a_chunk_whose_file_is_gone_is_not_here(on_disk, frames):
    (chunk,) = frames.some_chunks(1)
    held(on_disk, "f", 1, [chunk])
    (on_disk.directory / "chunks" / chunk.id[:2] / f"{chunk.id}.arrow").unlink()
    with pytest.raises(FileNotFoundError):
        on_disk.store([hold("g", 1, [chunk])])
    on_disk.store([hold("g", 1, [chunk], [on_disk.stage(chunk)])])
    assert on_disk.check().faults == ()


def test_another_process_sees_what_is_stored_and_held(on_disk, directory, frames):
    other = DirectoryNode(directory)
    (chunk,) = frames.some_chunks(1)
    held(on_disk, "f", 1, [chunk])
    on_disk.store([Record("a", EPOCH, Kind.BYTES, b"a")])
    assert other.get("a").payload == b"a"
    assert identify(other.map([chunk.id])[0]) == chunk.id
    other.store([Record("a", EPOCH + 1, Kind.DELETED)])
    assert on_disk.get("a") is None
    other.close()


def test_check_compares_references_with_holds_and_reads_manifests(on_disk, frames):
    node, chunks = on_disk, frames.some_chunks(2)
    held(node, "f", 1, chunks)
    node.store([Record("f", 1, Kind.SPREAD, frames.manifest_of(chunks)), Record("a", 1, Kind.BYTES)])
    assert (node.check().keys, node.check().faults) == (2, ())
    node._writer.transaction(lambda: node._writer.execute("update chunk set refs = 2 where id = ?", (chunks[0].id,)))
    node.store([Record("f", 2, Kind.SPREAD, b"no manifest")])
    faults = node.check().faults
    assert [(fault.key, fault.chunk) for fault in faults] == [("f", ""), (hold_key("f", 1), chunks[0].id)]


def test_a_frame_whose_manifest_makes_no_sense_stops_adopting_and_nothing_has_changed(on_disk, frames):
    frames.put(on_disk, "f", frames.some_chunks(1))
    on_disk.write([Write("g", Kind.FRAME, b"no manifest")])
    before = on_disk.listing("", 10)
    with pytest.raises(Corrupt, match="'g'"):
        on_disk.adopt()
    assert on_disk.listing("", 10) == before

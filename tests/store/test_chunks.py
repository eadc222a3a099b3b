"""Chunks are seen whole or not at all, shared, kept while mapped, removed when nothing names them, and verified."""

from __future__ import annotations

import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import given
from hypothesis import strategies as some

from eau2.errors import Corrupt, KeyExists
from eau2.store import chunks
from eau2.store.node import DirectoryNode
from eau2.store.nodes import Expect, Kind, Write
from eau2.values.chunk import decode, identify


def bytes_of(chunk):
    return b"".join(piece.to_pybytes() for piece in chunk.pieces)


def file_of(directory, chunk):
    return directory / "chunks" / chunk.id[:2] / f"{chunk.id}.arrow"


def flip(path, position=-100, *, keep_times=False):
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    with path.open("r+b") as file:
        file.write(data)
    if keep_times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def ids(chunks):
    return [chunk.id for chunk in chunks]


def test_a_staged_chunk_is_seen_by_nobody_until_its_manifest_is_written(node, other, directory, frames):
    (chunk,) = frames.some_chunks(1)
    staged = node.stage(chunk)
    assert frames.files(directory) == set()
    with pytest.raises(FileNotFoundError):
        other.map([chunk.id])
    node.write([Write("f", Kind.FRAME, frames.manifest_of([chunk]), (staged,))])
    (data,) = other.map([chunk.id])
    assert data.to_pybytes() == bytes_of(chunk)
    assert decode(data).column("a").to_pylist() == list(range(1000))
    assert frames.staged(directory) == []


def test_a_buffer_stays_readable_after_delete_sweep_and_close(node, other, directory, frames):
    chunks = frames.some_chunks(3)
    frames.put(node, "f", chunks)
    buffers = other.map(ids(chunks))
    node.write([Write("f", Kind.DELETED)])
    assert frames.files(directory) == set()
    other.verify(ids(chunks), buffers, key="f")
    with pytest.raises(FileNotFoundError):
        other.map(ids(chunks))
    node.close()
    other.close()
    assert [identify(data) for data in buffers] == ids(chunks)


def test_buffers_are_read_only_and_need_no_descriptor_and_no_memory(node, directory, frames):
    chunks = frames.some_chunks(8, rows=1_000_000)
    frames.put(node, "f", chunks)
    descriptors, before = len(os.listdir("/proc/self/fd")), resident_bytes(str(directory))
    buffers = node.map(ids(chunks))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert resident_bytes(str(directory)) == before == 0
    assert identify(buffers[0]) == chunks[0].id
    assert resident_bytes(str(directory)) >= chunks[0].size  # the count does count
    assert not buffers[0].is_mutable
    assert buffers[0].size == chunks[0].size
    del buffers
    assert str(directory / "chunks") not in Path("/proc/self/maps").read_text()


def resident_bytes(path):
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            inside = path in line and ".arrow" in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


def test_mappings_are_shared_in_a_process(node, frames):
    chunks = frames.some_chunks(2)
    frames.put(node, "f", chunks)
    first, second = node.map(ids(chunks)), node.map([chunks[1].id, chunks[0].id, chunks[1].id])
    assert [data.address for data in second] == [first[1].address, first[0].address, first[1].address]
    assert node.statistics().chunks_mapped == 2


def test_a_chunk_that_several_frames_share_is_stored_once_and_goes_with_the_last(node, other, directory, frames):
    shared, mine, yours = frames.some_chunks(3)
    frames.put(node, "mine", [shared, mine, shared])
    frames.put(other, "yours", [yours, shared])
    assert frames.files(directory) == {shared.id, mine.id, yours.id}
    node.write([Write("mine", Kind.DELETED)])
    assert frames.files(directory) == {shared.id, yours.id}
    frames.put(node, "yours", [mine])
    assert frames.files(directory) == {mine.id}
    node.write([Write("yours", Kind.BYTES, b"")])
    assert frames.files(directory) == set()
    assert node.check().faults == ()


def test_replacing_a_frame_by_itself_keeps_its_chunks(node, directory, frames):
    chunks = frames.some_chunks(3)
    assert [frames.put(node, "f", chunks) for _ in range(3)] == [1, 2, 3]
    assert frames.files(directory) == set(ids(chunks))
    assert node.check().faults == ()


def test_a_refused_write_and_a_discarded_chunk_leave_no_file(node, directory, frames):
    kept, refused, discarded = frames.some_chunks(3)
    frames.put(node, "f", [kept])
    assert isinstance(frames.put(node, "f", [refused, kept], Expect.ABSENT), KeyExists)
    node.discard([node.stage(discarded)])
    assert frames.staged(directory) == []
    assert frames.files(directory) == {kept.id}


def test_a_chunk_that_is_mapped_is_staged_again_without_a_copy(node, directory, frames):
    chunks = frames.some_chunks(2)
    frames.put(node, "f", chunks)
    buffers = node.map(ids(chunks))
    inode = file_of(directory, chunks[0]).stat().st_ino
    staged = tuple(node.stage_again(chunk.id, data) for chunk, data in zip(chunks, buffers, strict=True))
    assert os.stat(staged[0].path).st_ino == inode
    node.write([Write("g", Kind.FRAME, frames.manifest_of(chunks), staged)])
    node.write([Write("f", Kind.DELETED)])
    assert frames.files(directory) == set(ids(chunks))
    assert frames.staged(directory) == []
    with DirectoryNodes(directory) as fresh:
        fresh.map(ids(chunks))
        assert fresh.statistics().chunks_verified == 0  # the stamps were renewed
    assert node.check().faults == ()


def test_a_chunk_whose_file_is_gone_is_staged_again_from_memory(node, other, directory, frames):
    chunks = frames.some_chunks(2)
    frames.put(node, "f", chunks)
    buffers = node.map(ids(chunks))
    linked = node.stage_again(chunks[0].id, buffers[0])
    other.write([Write("f", Kind.DELETED)])
    copied = node.stage_again(chunks[1].id, buffers[1])
    node.write([Write("g", Kind.FRAME, frames.manifest_of(chunks), (linked, copied))])
    assert frames.files(directory) == set(ids(chunks))
    assert node.check().faults == ()


class DirectoryNodes:
    def __init__(self, directory):
        self.directory = directory

    def __enter__(self):
        self.node = DirectoryNode(self.directory)
        return self.node

    def __exit__(self, *_):
        self.node.close()


def test_what_was_stored_in_this_boot_is_mapped_without_being_hashed(node, other, frames):
    chunks = frames.some_chunks(4)
    frames.put(node, "f", chunks)
    kept = other.map(ids(chunks))
    other.verify(ids(chunks), kept)
    assert len(kept) == 4
    assert other.statistics().chunks_verified == 0


@pytest.mark.parametrize("keep_times", [False, True])
@pytest.mark.parametrize("position", [0, 40, -1, -100])
def test_a_flipped_bit_is_found_at_once_before_the_chunk_is_used(node, other, directory, frames, position, keep_times):
    chunks = frames.some_chunks(2)
    frames.put(node, "f", chunks)
    mapped = node.map(ids(chunks))
    flip(file_of(directory, chunks[1]), position, keep_times=keep_times)
    node.verify([chunks[0].id], mapped[:1], key="f")
    for use in (lambda: other.map(ids(chunks), key="f"), lambda: node.verify(ids(chunks), mapped, key="f")):
        with pytest.raises(Corrupt) as caught:
            use()
        assert "'f'" in str(caught.value)
        assert str(file_of(directory, chunks[1])) in str(caught.value)
    with pytest.raises(Corrupt):  # again, not once
        other.map(ids(chunks), key="f")
    assert len(mapped) == 2
    (fault,) = node.check().faults
    assert (fault.key, fault.chunk, fault.file) == ("f", chunks[1].id, str(file_of(directory, chunks[1])))


def test_a_flip_in_the_same_tick_as_the_write_is_found(node, other, directory, frames):
    for seed in range(30):
        (chunk,) = frames.some_chunks(1, seed=seed)
        frames.put(node, f"f{seed}", [chunk])
        flip(file_of(directory, chunk))  # within microseconds: clocks of files tick every 4 ms
        with pytest.raises(Corrupt):
            other.map([chunk.id])


def test_a_file_that_was_touched_but_not_changed_is_hashed_once_and_used(node, other, directory, frames):
    (chunk,) = frames.some_chunks(1)
    frames.put(node, "f", [chunk])
    mapped = node.map([chunk.id])
    os.utime(file_of(directory, chunk))
    for _ in range(3):
        node.verify([chunk.id], mapped)
    assert node.statistics().chunks_verified == 1
    again = other.map([chunk.id])
    assert other.statistics().chunks_verified == 1
    with DirectoryNodes(directory) as fresh:
        fresh.map([chunk.id])
        assert fresh.statistics().chunks_verified == 0  # the other has written down what it found
    assert len(mapped) == len(again)


def test_a_link_that_comes_and_goes_makes_nobody_hash_the_chunk_again(node, other, directory, frames):
    chunks = frames.some_chunks(3)
    frames.put(node, "f", chunks)
    mapped, of_other = node.map(ids(chunks)), other.map(ids(chunks))
    staged = [node.stage_again(chunk.id, data) for chunk, data in zip(chunks, mapped, strict=True)]
    assert all(Path(each.path).samefile(file_of(directory, chunk)) for each, chunk in zip(staged, chunks, strict=True))
    node.verify(ids(chunks), mapped)
    node.discard(staged)
    node.verify(ids(chunks), mapped)
    other.verify(ids(chunks), of_other)
    with DirectoryNodes(directory) as fresh:
        fresh.map(ids(chunks))
        assert [each.statistics().chunks_verified for each in (node, other, fresh)] == [0, 0, 0]


def test_a_frame_put_under_another_key_makes_nobody_hash_its_chunks_again(node, other, frames):
    chunks = frames.some_chunks(3)
    frames.put(node, "f", chunks)
    mapped, of_other = node.map(ids(chunks)), other.map(ids(chunks))
    staged = tuple(node.stage_again(chunk.id, data) for chunk, data in zip(chunks, mapped, strict=True))
    assert node.write([Write("g", Kind.FRAME, frames.manifest_of(chunks), staged)]) == [1]
    node.verify(ids(chunks), mapped)
    other.verify(ids(chunks), of_other)
    assert [each.statistics().chunks_verified for each in (node, other)] == [0, 0]


@pytest.mark.parametrize("keep_times", [False, True])
@pytest.mark.parametrize("when", ["before the link", "between", "after"])
def test_a_flipped_bit_is_found_also_when_the_file_is_linked_meanwhile(
    node, other, directory, frames, when, keep_times
):
    (chunk,) = frames.some_chunks(1)
    frames.put(node, "f", [chunk])
    (mapped,), (of_other,) = node.map([chunk.id]), other.map([chunk.id])
    for moment in ("before the link", "between", "after"):
        if moment == when:
            time.sleep(0.02)  # the clock of files ticks every 4 ms, and the times are kept
            flip(file_of(directory, chunk), keep_times=keep_times)
        if moment == "before the link":
            staged = node.stage_again(chunk.id, mapped)
        elif moment == "between":
            node.discard([staged])
    for each, data in ((node, mapped), (other, of_other)):
        with pytest.raises(Corrupt):
            each.verify([chunk.id], [data])
    with DirectoryNodes(directory) as fresh, pytest.raises(Corrupt):
        fresh.map([chunk.id])


def test_after_a_restart_of_the_machine_chunks_are_hashed_before_their_first_use(directory, frames, monkeypatch):
    chunks = frames.some_chunks(3)
    with DirectoryNodes(directory) as node:
        frames.put(node, "f", chunks)
    monkeypatch.setattr("eau2.store.chunks.boot_id", lambda: "another boot")
    for hashed in (3, 0):
        with DirectoryNodes(directory) as node:
            node.map(ids(chunks))
            assert node.statistics().chunks_verified == hashed


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_shortened_file_is_found(node, other, directory, frames, size):
    (chunk,) = frames.some_chunks(1)
    frames.put(node, "f", [chunk])
    mapped = node.map([chunk.id])
    os.truncate(file_of(directory, chunk), size % chunk.size)
    with pytest.raises(Corrupt, match=r"'f'.* bytes, not"):
        other.map([chunk.id], key="f")
    with pytest.raises(Corrupt, match=r"'f'.* bytes, not"):
        node.verify([chunk.id], mapped, key="f")
    assert len(node.check().faults) == 1
    assert len(mapped) == 1


def test_what_is_held_of_a_damaged_file_is_damaged_for_ever_and_what_took_its_place_is_not(
    node, other, directory, frames
):
    (chunk,) = frames.some_chunks(1)
    frames.put(node, "f", [chunk])
    held = node.map([chunk.id])
    flip(file_of(directory, chunk))
    for _ in range(2):  # again, not once, and also after somebody else has found it
        with pytest.raises(Corrupt):
            node.map([chunk.id])
        with pytest.raises(Corrupt):
            node.verify([chunk.id], held)
    frames.put(other, "f", [chunk])
    new = node.map([chunk.id])
    node.verify([chunk.id], new)
    with pytest.raises(Corrupt):
        node.verify([chunk.id], held)
    node.verify([chunk.id], new)


def test_what_is_held_of_a_file_that_was_shortened_and_then_replaced_is_not_touched(node, other, directory, frames):
    (chunk,) = frames.some_chunks(1, rows=100_000)
    frames.put(node, "f", [chunk])
    held = node.map([chunk.id])
    os.truncate(file_of(directory, chunk), 100)
    frames.put(other, "f", [chunk])
    with pytest.raises(Corrupt):  # and no SIGBUS
        node.verify([chunk.id], held)
    assert identify(node.map([chunk.id])[0]) == chunk.id


def test_a_missing_file_is_reported_and_putting_the_frame_again_mends_it(node, directory, frames):
    (chunk,) = frames.some_chunks(1)
    frames.put(node, "f", [chunk])
    file_of(directory, chunk).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        node.map([chunk.id])
    assert caught.value.filename == str(file_of(directory, chunk))
    assert [fault.what for fault in node.check().faults] == ["the chunk file is missing"]
    frames.put(node, "f", [chunk])
    assert node.check().faults == ()
    assert node.map([chunk.id])[0].size == chunk.size


def test_putting_a_frame_again_replaces_a_damaged_chunk_for_everybody(node, other, directory, frames):
    (chunk,) = frames.some_chunks(1)
    frames.put(node, "f", [chunk])
    flip(file_of(directory, chunk))
    frames.put(other, "f", [chunk])
    assert identify(node.map([chunk.id])[0]) == chunk.id
    assert node.check().faults == ()


def test_the_next_open_sweeps_what_a_dead_process_left(directory, frames):
    staged, orphan, dropped, kept = frames.some_chunks(4)
    with DirectoryNodes(directory) as node:
        frames.put(node, "f", [kept])
        frames.put(node, "g", [dropped])
        # the three things that a kill can leave, made by hand
        node._writer.transaction(lambda: node._writer.execute("update chunk set refs = 0 where id = ?", (dropped.id,)))
        node._writer.transaction(lambda: node._writer.execute("delete from entry where key = 'g'"))
        node._writer.transaction(lambda: node._writer.execute("delete from large where id = 2"))
    dead = directory / "staging" / "12345-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / f"{staged.id}.0").write_bytes(b"half")
    file_of(directory, orphan).parent.mkdir(exist_ok=True)
    file_of(directory, orphan).write_bytes(bytes_of(orphan))
    with DirectoryNodes(directory) as node:
        assert frames.files(directory) == {kept.id}
        assert [path.name for path in (directory / "staging").iterdir()] == [node._files.holder.directory.name]
        assert node.check().faults == ()
        assert node.statistics().chunks == 1


def test_the_staging_of_a_living_process_is_left_alone(node, directory, frames):
    (chunk,) = frames.some_chunks(1)
    staged = node.stage(chunk)
    with DirectoryNodes(directory):
        assert os.path.exists(staged.path)
    node.write([Write("f", Kind.FRAME, frames.manifest_of([chunk]), (staged,))])
    assert node.get("f").kind == Kind.FRAME


def test_check_says_all_that_is_wrong(node, directory, frames):
    first, second, third, orphan = frames.some_chunks(4)
    frames.put(node, "a", [first])
    frames.put(node, "b", [second])
    frames.put(node, "c", [third])
    flip(file_of(directory, first))
    file_of(directory, second).unlink()
    node._writer.transaction(lambda: node._writer.execute("update chunk set refs = 5 where id = ?", (third.id,)))
    file_of(directory, orphan).parent.mkdir(exist_ok=True)
    file_of(directory, orphan).write_bytes(bytes_of(orphan))
    report = node.check()
    assert {(fault.key, fault.chunk) for fault in report.faults} == {
        ("a", first.id),
        ("b", second.id),
        ("c", third.id),
        ("", orphan.id),
    }
    assert (report.keys, report.chunks) == (3, 3)


def test_frames_put_and_deleted_by_threads_over_shared_chunks_end_clean(node, other, directory, frames):
    pool = frames.some_chunks(6)

    def work(index):
        mine = (node, other)[index % 2]
        for step in range(25):
            key = f"k{(index + step) % 3}"
            if step % 3 == 2:
                mine.write([Write(key, Kind.DELETED)])
            else:
                start = (index * 7 + step) % 5
                frames.put(mine, key, pool[start : start + 2])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert node.check().faults == ()
    node.write([Write(f"k{index}", Kind.DELETED) for index in range(3)])
    assert node.keys() == []
    assert frames.files(directory) == set()


def test_what_is_not_chunk_shaped_is_still_mapped_as_it_is(node, frames):
    chunks = frames.some_chunks(1, rows=0)
    frames.put(node, "empty", chunks)
    assert decode(node.map(ids(chunks))[0]).num_rows == 0


def test_opening_locks_and_leaving_frees(directory):
    with DirectoryNodes(directory) as node:
        lock = os.open(node._files.holder.directory / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


@pytest.mark.slow
def test_a_thousand_rounds_of_a_frame_leave_disk_and_memory_flat(node, directory, frames):
    def sizes():
        found = {path: path.stat().st_size for path in directory.rglob("*") if path.is_file()}
        log = found[directory / "entries.db-wal"]  # grows to 33 MB, and is used again from there
        return (
            sum(found.values()) - log,
            log,
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        )

    def rounds(count, seed):
        for index in range(count):
            chunks = frames.some_chunks(2, seed=seed + index, rows=100_000)
            frames.put(node, "f", chunks)
            for data in node.map(ids(chunks)):
                assert pa.compute.sum(decode(data)["a"]).as_py() > 0
            node.write([Write("f", Kind.DELETED)])

    rounds(100, 0)
    disk, _, memory = sizes()
    rounds(900, 1000)
    disk_after, log, memory_after = sizes()
    assert disk_after < disk + (4 << 20)
    assert log < 36 << 20
    assert memory_after < memory + (64 << 20)
    assert frames.files(directory) == set()


@pytest.mark.slow
def test_a_gigabyte_is_mapped_in_a_small_part_of_the_time_that_reading_it_takes(node, other, frames):
    chunks = frames.some_chunks(16, rows=8 << 20)
    frames.put(node, "f", chunks)
    ratios = []  # one after the other, so that whatever else runs here slows both
    for _ in range(5):
        start = time.perf_counter()
        buffers = other.map(ids(chunks))
        mapped = time.perf_counter()
        assert [identify(data) for data in buffers] == ids(chunks)
        ratios.append((mapped - start) / (time.perf_counter() - mapped))
        del buffers
    assert sorted(ratios)[2] < 0.1


@given(
    some.lists(some.integers(0, 300), max_size=40).map(lambda sizes: [os.urandom(size) for size in sizes]),
    some.integers(1, 400),
    some.integers(1, 100),
    some.integers(1, 4),
    some.booleans(),
)
def test_pieces_are_written_whole_however_the_system_takes_them(pieces, most, taken_max, views_max, slow):
    written, calls, times = bytearray(), [], iter(range(1_000_000))

    def writev(file, views):
        assert 0 < len(views) <= views_max
        data = b"".join(views)
        calls.append(len(data))
        written.extend(data[:taken_max])
        return min(len(data), taken_max)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks.os, "writev", writev)
        patch.setattr(chunks.time, "thread_time", lambda: next(times) * slow)
        patch.setattr(chunks, "_WRITE_BYTES_MAX", most)
        patch.setattr(chunks, "_WRITE_BYTES_MIN", 1 + most // 4)
        patch.setattr(chunks, "_PIECES_MAX", views_max)
        chunks.write_all(0, [pa.py_buffer(piece) for piece in pieces], 0)
    whole = b"".join(pieces)
    assert bytes(written) == whole
    assert max(calls, default=0) <= most
    rest = len(whole) - most  # all after the first call is written in small ones, where that took long
    later = [size for size in calls if size > 1 + most // 4]
    assert not slow or rest <= 0 or sum(calls) == 0 or len(later) <= 1 + most // taken_max

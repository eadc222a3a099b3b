"""At the flush level "power" a commit is on the medium before anybody is told, and processes flush for each other."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from eau2.errors import OutcomeUnknown
from eau2.store import database
from eau2.store.node import DirectoryNode
from eau2.store.nodes import Kind, Write


@pytest.fixture
def flushed(monkeypatch):
    """The files that were flushed, by name; each flush fails with what `flushed.error` is, if it is set."""

    class Flushed(list):
        error = None

    found = Flushed()
    real = os.fdatasync

    def fdatasync(file):
        if found.error is not None:
            raise found.error
        real(file)
        found.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return found


def put(node, key, payload=b"x"):
    return node.write([Write(key, Kind.BYTES, payload)])[0]


def test_each_commit_is_flushed_with_the_log_it_is_in(directory, flushed):
    node = DirectoryNode(directory, flush="power")
    for number in range(5):
        put(node, "a")
        assert flushed == ["entries.db-wal"] * (number + 1)
    node.write([Write(f"k{number}", Kind.BYTES, b"y") for number in range(1000)])
    assert len(flushed) == 6
    node.close()


def test_where_only_the_end_of_the_process_is_to_be_survived_nothing_is_flushed(node, flushed):
    put(node, "a")
    assert flushed == []


def test_what_another_has_flushed_is_not_flushed_again(directory, flushed):
    first, second = DirectoryNode(directory, flush="power"), DirectoryNode(directory, flush="power")
    put(first, "a")
    log = os.open(directory / "entries.db-wal", os.O_RDONLY)
    counters = first._generation.counters
    first._generation.flush(counters[0], log)
    second._generation.flush(counters[0], log)
    assert len(flushed) == 1
    put(second, "a")
    assert len(flushed) == 2
    counters[2] = counters[0] + 1000  # a flipped bit must not say that all that comes is on the medium
    put(first, "a")
    put(second, "a")
    assert len(flushed) == 4
    os.close(log)
    first.close()
    second.close()


def test_a_disk_that_does_not_say_that_it_has_a_write_leaves_its_outcome_unknown(directory, flushed):
    node = DirectoryNode(directory, flush="power")
    put(node, "a", b"1")
    flushed.error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(OutcomeUnknown, match=r"entries\.db.*Input/output error"):
        put(node, "a", b"2")
    with pytest.raises(OutcomeUnknown):
        node.write([Write("a", Kind.DELETED)])
    flushed.error = None
    assert put(node, "a", b"3") == 4
    assert node.get("a").payload == b"3"
    assert node.check().faults == ()
    node.close()


def test_ctrl_c_while_a_commit_is_flushed_has_written_it_once(directory, flushed):
    node = DirectoryNode(directory, flush="power")
    flushed.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        put(node, "a")
    flushed.error = None
    assert node.get("a").version == 1
    assert put(node, "a") == 2
    node.close()


@pytest.mark.parametrize("again", ["written", "linked"])
def test_a_chunk_that_another_wrote_and_did_not_flush_is_flushed_for_who_asks_for_it(
    directory, frames, monkeypatch, again
):
    (chunk,) = frames.some_chunks(1)
    quick, careful = DirectoryNode(directory), DirectoryNode(directory, flush="power")
    frames.put(quick, "a", [chunk])
    (path,) = directory.rglob("*.arrow")
    flushed, fsync = [], os.fsync

    def noted(file):
        flushed.append(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    if again == "written":
        frames.put(careful, "b", [chunk])
    else:
        (data,) = careful.map([chunk.id])
        manifest = careful.get("a").payload
        careful.write([Write("b", Kind.FRAME, manifest, chunks=(careful.stage_again(chunk.id, data),))])
    assert {path.stat().st_ino, path.parent.stat().st_ino} <= set(flushed)
    quick.close()
    careful.close()


def test_what_is_put_here_is_on_the_medium_once_it_is_flushed(directory, flushed):
    node = DirectoryNode(directory, flush="power")
    here = node.here
    assert here.flushes
    for number in range(2):
        here.put({"a": b"%d" % number})
        here.put({"b": b"%d" % number})
        assert len(flushed) == number  # nobody was told of these yet
        here.flush()
        here.flush()
        assert len(flushed) == number + 1
    here.put({"a": b"x"})
    put(node, "c")  # a later commit is flushed with all before it
    here.flush()
    assert len(flushed) == 3
    flushed.error = OSError(errno.EIO, "Input/output error")
    here.put({"a": b"y"})
    with pytest.raises(OutcomeUnknown, match=r"entries\.db.*Input/output error"):
        here.flush()
    flushed.error = None
    here.put({"a": b"z"})
    node.close()
    with pytest.raises(OutcomeUnknown, match="closed before the disk had it"):
        here.flush()
    again = DirectoryNode(directory)
    assert again.get("a").payload == b"z"
    assert not again.here.flushes
    again.here.put({"a": b"1"})
    again.here.flush()
    again.close()
    assert len(flushed) == 3


def test_the_log_is_longer_than_what_is_in_it_so_that_a_flush_need_not_say_how_long(directory, monkeypatch):
    monkeypatch.setattr(database, "_PLENTY_BYTES", 0)
    first, second = DirectoryNode(directory, flush="power"), DirectoryNode(directory, flush="power")
    log = directory / "entries.db-wal"
    sizes = []
    try:
        for number in range(200):
            node = (first, second)[number % 3 == 0]
            node.write([Write(f"k{number * 7 % 100}", Kind.BYTES, b"%d" % number * 50)])
            sizes.append(log.stat().st_size)
        assert len(set(sizes)) < 10
        copied = directory.with_name("copied")  # as a kill leaves it
        shutil.copytree(directory, copied)
        again = DirectoryNode(copied)
        try:
            assert again.check().faults == ()
            assert again.get_many(again.keys()) == first.get_many(first.keys())
        finally:
            again.close()
    finally:
        first.close()
        second.close()

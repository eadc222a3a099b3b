"""Files that a put has replaced are gone by name at once; their room comes back aside, where there is enough."""

from __future__ import annotations

import os
import threading

import pyarrow as pa
import pytest
from tests.left import files
from tests.until import until

import eau2
from eau2.store import freeing

LARGE = freeing._BYTES_MIN


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(LARGE))
    return path


@pytest.fixture
def kept(monkeypatch):
    """One whose thread never comes to do anything."""
    idle = freeing._Freeing()
    idle._is_running = True
    monkeypatch.setattr(freeing, "_freeing", idle)
    yield idle
    idle.abandon()


def open_files(folder):
    return [name for name in files(folder) if folder in name]  # not those of other stores


def running():
    return [thread for thread in threading.enumerate() if thread.name == "eau2-freeing"]


def test_a_large_file_goes_by_name_at_once_and_then_as_a_whole(large, tmp_path):
    assert freeing.unlink(str(large), aside=True)
    assert not large.exists()
    until(lambda: not open_files(str(tmp_path)))
    until(lambda: not running())
    large.write_bytes(bytes(LARGE))
    assert freeing.unlink(str(large), aside=True)  # by another thread
    until(lambda: not open_files(str(tmp_path)) and not running())


def test_its_room_is_waited_for_where_that_was_asked(large, kept, tmp_path):
    assert freeing.unlink(str(large))
    assert not open_files(str(tmp_path))


@pytest.mark.parametrize("aside", [False, True])
def test_what_is_not_there_is_told(tmp_path, aside):
    assert not freeing.unlink(str(tmp_path / "nothing"), aside=aside)


def test_small_files_and_those_of_a_disk_that_is_nearly_full_end_at_once(large, kept, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.write_bytes(bytes(LARGE - 1))
    assert freeing.unlink(str(small), aside=True)
    monkeypatch.setattr(freeing, "_ROOM_BYTES_MIN", 1 << 60)
    assert freeing.unlink(str(large), aside=True)
    assert not open_files(str(tmp_path))


def test_only_so_many_wait_and_a_forked_child_lets_go_of_them(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(freeing, "_WAITING_MAX", 3)
    for number in range(5):
        path = tmp_path / str(number)
        path.write_bytes(bytes(LARGE))
        assert freeing.unlink(str(path), aside=True)
        assert not path.exists()
    assert len(open_files(str(tmp_path))) == 3
    kept.abandon()
    assert not open_files(str(tmp_path))
    assert kept.waiting == 0


def test_without_descriptors_or_threads_it_ends_at_once(large, tmp_path, monkeypatch):
    def no_thread(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(freeing, "_freeing", freeing._Freeing())
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        assert freeing.unlink(str(large), aside=True)
    assert not open_files(str(tmp_path))
    large.write_bytes(bytes(LARGE))

    def no_descriptor(*_, **__):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", no_descriptor)
        assert freeing.unlink(str(large), aside=True)
    assert not large.exists()


def test_ctrl_c_as_the_thread_starts_loses_no_file(large, tmp_path, monkeypatch):
    monkeypatch.setattr(freeing, "_freeing", freeing._Freeing())
    started = []

    def interrupted(self, start=threading.Thread.start):
        if started:
            start(self)
        started.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        freeing.unlink(str(large), aside=True)
    assert not large.exists()
    assert len(open_files(str(tmp_path))) == 1
    large.write_bytes(bytes(LARGE))
    with pytest.raises(KeyboardInterrupt):
        freeing.unlink(str(large), aside=True)
    until(lambda: not open_files(str(tmp_path)) and not running())


def test_a_disk_that_cannot_be_asked_ends_files_at_once(large, kept, tmp_path, monkeypatch):
    def unknown(path):
        raise OSError(38, "Function not implemented")

    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", unknown)
        assert freeing.unlink(str(large), aside=True)
    assert not large.exists()
    assert not open_files(str(tmp_path))


def test_what_waits_is_not_counted_as_room(kept, tmp_path, monkeypatch):
    disk = os.statvfs(tmp_path)
    monkeypatch.setattr(freeing, "_ROOM_BYTES_MIN", disk.f_bavail * disk.f_frsize - 64 * LARGE)
    for number, size in enumerate((8, 1, 63)):
        path = tmp_path / str(number)
        with path.open("wb") as file:
            file.truncate(size * LARGE)  # takes no room
        assert freeing.unlink(str(path), aside=True)
    assert kept.waiting == 2


def table(first):
    return pa.table({"n": pa.array(range(first, first + LARGE // 4), pa.int64())})


def test_what_a_put_replaces_goes_aside_and_what_is_deleted_at_once(tmp_path, kept):
    folder = str(tmp_path / "store")
    with eau2.open(folder) as store:

        def left():
            return sorted(
                os.path.join(where, name) for where, _, names in os.walk(f"{folder}/node-0") for name in names
            )

        store.put("t", table(0))
        before = [name for name in left() if name.endswith(".arrow")]
        store.put("t", table(1))
        assert [name for name in left() if name in before] == []
        assert [name for name in open_files(folder) if "deleted" in name and ".arrow" in name]
        assert store.frame("t").to_arrow().equals(table(1))
        kept.abandon()
        kept._is_running = True
        store.put("t", table(1))  # nothing changes but the version: what was staged is dropped
        assert [name for name in open_files(folder) if "deleted" in name]
        kept.abandon()
        kept._is_running = True
        store.delete("t")
        assert [name for name in left() if ".arrow" in name] == []
        assert not [name for name in open_files(folder) if "deleted" in name]

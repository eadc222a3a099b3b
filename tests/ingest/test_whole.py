"""Files that appear whole or not at all."""

import os
import stat
import threading

import pytest

import eau2
from eau2.ingest.whole import WholeFile, unfinished


def test_a_file_appears_when_it_is_whole_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "out"
    with WholeFile(target) as file:
        file.write(b"new")
        assert not target.exists()
        assert len(unfinished) == 1
    assert (target.read_bytes(), os.listdir(tmp_path), unfinished) == (b"new", ["out"], set())


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), WholeFile(target) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (target.read_bytes(), os.listdir(tmp_path), unfinished) == (b"old", ["out"], set())


def test_a_new_file_has_the_rights_of_any_other_new_file(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    with WholeFile(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "store") as store:
        yield store


def test_what_a_link_points_to_is_replaced_and_the_link_stays(store, tmp_path):
    store.put("note", b"new")
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert store.get_file("note", tmp_path / "link") == 3
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("verb", ["get_file", "rejects"])
def test_a_pipe_is_written_and_stays_a_pipe(store, tmp_path, verb):
    store.put("note", b"new")
    (tmp_path / "bad.sor").write_bytes(b"<1>\n<\n")
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    if verb == "get_file":
        store.get_file("note", pipe)
    else:
        store.load("bad", tmp_path / "bad.sor", rejects=pipe)
    reader.join(60)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert read == [b"new"] if verb == "get_file" else b'"line": 2' in read[0]


def test_a_load_whose_rejects_cannot_be_put_in_their_place_leaves_no_chunks_behind(store, tmp_path, monkeypatch):
    (tmp_path / "bad.sor").write_bytes(b"<1>\n<\n")

    def refused(self, target):
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr("pathlib.Path.replace", refused)
    with pytest.raises(eau2.LoadError, match="Permission denied"):
        store.load("bad", tmp_path / "bad.sor", rejects=tmp_path / "rejects")
    assert not [path for path in (tmp_path / "store/node-0/staging").rglob("*.*") if path.is_file()]
    assert not store.exists("bad")
    assert sorted(os.listdir(tmp_path)) == ["bad.sor", "store"]

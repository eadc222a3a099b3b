"""A directory becomes a store once, whole, however many try at once; and nothing else is taken for one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from eau2.errors import Corrupt, FormatTooNew, NotAStore, StoreUnusable
from eau2.store.local import MARKER, LocalNodes
from eau2.store.nodes import Kind, Write


def test_a_store_is_made_with_its_parents_and_found_again(tmp_path):
    path = tmp_path / "a b" / "c"
    nodes = LocalNodes(str(path))
    assert nodes.members() == ("node-0",)
    nodes.at("node-0").write([Write("k", Kind.BYTES, b"v")])
    nodes.close()
    again = LocalNodes(path)
    assert again.id == nodes.id
    assert again.at("node-0").get("k").payload == b"v"
    again.close()
    again.close()
    assert json.loads((path / MARKER).read_text()) == {"format": 1, "id": nodes.id}
    assert sorted(entry.name for entry in path.iterdir()) == [MARKER, "filled", "node-0"]
    with pytest.raises(StoreUnusable):
        again.at("node-1")


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(NotAStore, match="precious"):
        LocalNodes(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotAStore):
            LocalNodes(path)


def test_a_later_format_is_refused(tmp_path):
    LocalNodes(tmp_path).close()
    (tmp_path / MARKER).write_text('{"format": 2, "id": "x"}')
    with pytest.raises(FormatTooNew, match="format 2"):
        LocalNodes(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "1", "id": "x"}', '{"format": 1}', '{"format": 0, "id": "x"}']
)
def test_a_damaged_marker_is_corrupt(tmp_path, text):
    LocalNodes(tmp_path).close()
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(Corrupt, match=MARKER):
        LocalNodes(tmp_path)


@pytest.mark.parametrize("left", [(), ("node-0",), ("node-0/chunks",), ("node-0/chunks", "node-0/staging")])
@pytest.mark.parametrize("marked", [True, False])
def test_a_store_whose_creator_was_killed_is_completed(tmp_path, left, marked):
    (tmp_path / ".eau2.json.0123").write_text('{"form')
    if marked:
        (tmp_path / MARKER).write_text('{"format": 1, "id": "x"}')
        for name in left:
            (tmp_path / name).mkdir(parents=True)
    nodes = LocalNodes(tmp_path)
    nodes.at("node-0").write([Write("k", Kind.BYTES, b"v")])
    nodes.close()
    assert nodes.at("node-0").name == "node-0"
    assert sorted(os.listdir(tmp_path)) == [MARKER, "filled", "node-0"]


def test_what_a_creator_left_that_came_second_and_was_killed_is_removed(tmp_path):
    LocalNodes(tmp_path).close()
    (tmp_path / ".eau2.json.0123").write_text('{"format": 1, "id": "y"}')
    LocalNodes(tmp_path).close()
    assert sorted(os.listdir(tmp_path)) == [MARKER, "filled", "node-0"]


CREATE = """
import sys
from eau2.store.local import LocalNodes
from eau2.store.nodes import Kind, Write
print("ready", flush=True)
sys.stdin.readline()
for number in range(8):
    nodes = LocalNodes(f"{sys.argv[1]}/{number}")
    nodes.at("node-0").write([Write(sys.argv[2], Kind.BYTES, b"v")])
    nodes.close()
print("done", flush=True)
"""


@pytest.mark.slow
def test_processes_that_create_one_store_at_once_all_succeed(tmp_path, frames):
    running = [frames.run_python(CREATE, tmp_path, f"k{index}") for index in range(3)]
    try:
        assert [one.stdout.readline() for one in running] == ["ready\n"] * 3
        for one in running:
            one.stdin.write("\n")
            one.stdin.flush()
        ends = [one.communicate(timeout=60) for one in running]
    finally:
        for one in running:
            one.kill()
    assert [out for out, _ in ends] == ["done\n"] * 3, ends
    for number in range(8):
        nodes = LocalNodes(tmp_path / str(number))
        assert nodes.at("node-0").keys() == ["k0", "k1", "k2"]
        nodes.close()


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_node_that_is_gone_is_no_new_one(tmp_path, how):
    nodes = LocalNodes(tmp_path)
    nodes.at("node-0").write([Write("k", Kind.BYTES, b"v")])
    nodes.close()
    (tmp_path / "node-0").rename(tmp_path.with_name("elsewhere"))
    if how == "empty":
        (tmp_path / "node-0").mkdir()
    with pytest.raises(Corrupt, match=r"node-0 is missing, or empty.*is its disk mounted"):
        LocalNodes(tmp_path)
    if how == "empty":
        (tmp_path / "node-0").rmdir()
    tmp_path.with_name("elsewhere").rename(tmp_path / "node-0")
    again = LocalNodes(tmp_path)
    assert again.at("node-0").get("k").payload == b"v"
    again.close()


@pytest.mark.parametrize("looks", range(1, 7))
def test_a_store_that_another_process_makes_between_two_looks_is_found(tmp_path, monkeypatch, looks):
    """Whatever is looked at first: the store of another, who was a moment earlier, is not a damaged one."""
    path, exists, seen = tmp_path / "store", Path.exists, []

    def look(self, **options):
        found = exists(self, **options)
        seen.append(self.name)
        if len(seen) == looks:
            monkeypatch.setattr(Path, "exists", exists)
            other = LocalNodes(path)
            other.at("node-0").write([Write("k", Kind.BYTES, b"v")])
            other.close()
        return found

    monkeypatch.setattr(Path, "exists", look)
    nodes = LocalNodes(path)
    assert (nodes.at("node-0").get("k") is not None) == (len(seen) >= looks)  # else nobody looked as often
    nodes.close()

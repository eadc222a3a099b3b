"""Full disks, directories that cannot be written, and directories that hold something else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import eau2
from eau2.errors import Corrupt, FormatTooNew, InvalidOption, NotAStore, StoreUnusable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def namespace():
    """The words before a command that runs it as root of a private mount namespace."""
    if shutil.which("unshare"):
        for words in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
            tried = subprocess.run([*words, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, timeout=20)
            if tried.returncode == 0:
                return words
    pytest.skip("private mounts are not allowed here")
    return []


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        *("full", "full_node", "room", "room_of_three", "small_values", "new_on_full", "read_only"),
        *(pytest.param(case, marks=pytest.mark.long) for case in ("small_values_of_three", "tiny_values")),
    ],
)
def test_a_place_that_resists(tmp_path, namespace, case):
    place = tmp_path / "place"
    place.mkdir()
    command = [*namespace, sys.executable, "-W", "error", "-m", "tests.crash.places", case, str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "right\n", done.stderr


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(NotAStore, match=re.escape(str(tmp_path))):
        eau2.open(tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_a_file_is_no_store(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    for place in (path, path / "below"):
        with pytest.raises((NotAStore, StoreUnusable), match=re.escape(str(path))):
            eau2.open(place)
    assert path.read_text() == "x"


def test_an_empty_directory_becomes_a_store_and_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        with eau2.open(place) as store:
            store.put("k", b"1")
        with eau2.open(str(place) + "/") as store:
            assert store.get("k") == b"1"


def test_a_later_format_is_refused_and_left_as_it_is(tmp_path):
    eau2.open(tmp_path).close()
    marker = tmp_path / "eau2.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "format": 2}))
    with pytest.raises(FormatTooNew, match="2"):
        eau2.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "1"}', '{"format": 0, "id": "x"}', "\x00"])
def test_a_marker_that_makes_no_sense_is_corrupt(tmp_path, text):
    eau2.open(tmp_path).close()
    (tmp_path / "eau2.json").write_text(text)
    with pytest.raises(Corrupt, match=re.escape(str(tmp_path / "eau2.json"))):
        eau2.open(tmp_path)


@pytest.mark.parametrize("path", ["", b"bytes", None, 3, "ray:a b", "eau2://host:x"], ids=repr)
def test_what_is_no_path_is_refused(path):
    with pytest.raises((InvalidOption, TypeError)):
        eau2.open(path)


@pytest.mark.parametrize("options", [{"flush": "never"}, {"memory_bytes": 1}, {"memory_bytes": -1}])
def test_options_outside_their_range_are_refused(tmp_path, options):
    with pytest.raises(InvalidOption):
        eau2.open(tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_a_path_with_odd_characters(tmp_path):
    place = tmp_path / "a b'c\"%?#é\U0001f600"
    with eau2.open(place) as store:
        store.put("f", {"x": [1]})
    with eau2.open(place) as store:
        assert store.sql("select x from f").to_arrow()["x"].to_pylist() == [1]


def test_a_relative_path_stays_the_same_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with eau2.open("store") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.put("f", {"x": [1]})
        assert store.frame("f").rows == 1
    assert os.listdir(tmp_path / "elsewhere") == []

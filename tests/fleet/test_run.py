"""What a run may be, and how files are cut."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fleet.runs import a_run

from eau2.errors import InvalidOption, StoreUnusable, ValueTooLarge
from eau2.fleet.files import Source
from eau2.fleet.run import ARGUMENTS_BYTES_MAX, PART_BYTES, SCRIPT_BYTES_MAX, Command, File, Push, Script


@given(st.lists(st.integers(0, 3 * PART_BYTES), min_size=1, max_size=5))
def test_parts_tile_the_files(sizes):
    push = Push(tuple(File(f"f{index}", size, 0o644, "") for index, size in enumerate(sizes)), "/x")
    parts = [push.part(number) for number in range(push.parts)]
    for index, size in enumerate(sizes):
        mine = [(start, length) for at, start, length in parts if at == index]
        assert sum(length for _, length in mine) == size
        assert [start for start, _ in mine] == list(range(0, size, PART_BYTES))
    assert all(0 < length <= PART_BYTES for _, _, length in parts)
    with pytest.raises(IndexError):
        push.part(push.parts)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0"])
def test_a_pushed_file_has_a_name_without_a_folder(name):
    with pytest.raises(InvalidOption):
        Push((File(name, 0, 0o644, ""),), "/x")


REFUSED = {
    "no command": (lambda: Command(()), InvalidOption),
    "an empty one": (lambda: Command(("",)), InvalidOption),
    "NUL": (lambda: Command(("a\0",)), InvalidOption),
    "a long one": (lambda: Command(("a" * (ARGUMENTS_BYTES_MAX + 1),)), ValueTooLarge),
    "a long script": (lambda: Script("s", bytes(SCRIPT_BYTES_MAX + 1)), ValueTooLarge),
    "no files": (lambda: Push((), "/x"), InvalidOption),
    "a folder of ours": (lambda: Push((File("a", 0, 0, ""),), "x"), InvalidOption),
    "a name twice": (lambda: Push((File("a", 0, 0, ""),) * 2, "/x"), InvalidOption),
    "a large file": (lambda: Push((File("a", 1 << 50, 0, ""),), "/x"), ValueTooLarge),
    "no time": (lambda: a_run("x", deadline_seconds=0.0), InvalidOption),
    "no number": (lambda: a_run("x", deadline_seconds=float("nan")), InvalidOption),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_node_could_do_is_refused_before_any_is_asked(what):
    make, error = REFUSED[what]
    with pytest.raises(error):
        make()


def test_only_files_are_pushed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InvalidOption):
            Source([path], "/x")
    with pytest.raises(StoreUnusable):
        Source([tmp_path / "absent"], "/x")

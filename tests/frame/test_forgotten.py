"""A store that nobody closes: it ends with the last who holds it, or anything that needs it, and with the process."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.until import until

import eau2
from eau2.query.spill import SpillFolder

pytestmark = pytest.mark.slow  # collects everything that nobody holds, again and again


@pytest.fixture
def path(tmp_path):
    with eau2.open(tmp_path / "store") as store:
        store.put("t", {"a": [1, 2, 3]})
        store.put("b", b"x")
    return tmp_path / "store"


@pytest.fixture
def without_collector():
    """What goes, goes with the last reference: nothing is left for the collector to find."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def staging(path):
    return os.listdir(path / "node-0" / "staging")


def descriptors(path):
    """Open files of this process below `path`."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(each)
        except FileNotFoundError:
            continue
        if target.startswith(str(path)):
            found.append(target)
    return found


@pytest.mark.usefixtures("without_collector")
def test_a_store_that_nobody_holds_leaves_no_file_open_and_nothing_staged(path):
    store = eau2.open(path)
    store.put("u", {"a": [1]})
    for _ in range(4):
        store.get("b")
    with pytest.raises(eau2.WaitTimeout):
        store.wait("none", timeout_seconds=0.01)
    assert len(staging(path)) == 1
    del store
    until(lambda: not staging(path) and not descriptors(path))  # the threads that looked for writes of others end


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize(
    "made",
    [
        lambda store: store.frame("t"),
        lambda store: store.get_many(["t"])["t"],
        lambda store: store.sql("select a from t"),
        lambda store: store.frame("t").filter(eau2.col("a") > eau2.lit(0)),
        lambda store: store.sql("select a from t").sort("a").limit(3),
        lambda store: store.frame("t")[["a"]],
    ],
    ids=["frame", "get_many", "sql", "filter", "sort", "columns"],
)
def test_what_came_of_a_store_goes_on_working_when_nobody_holds_it(path, made):
    frame = made(eau2.open(path))
    assert frame.to_arrow()["a"].to_pylist() == [1, 2, 3]
    assert frame.filter(frame["a"] > 1).rows == 2
    assert frame.map_chunks(lambda table: table.num_rows, workers="processes") == [3]
    assert [batch.num_rows for batch in frame.batches()] == [3]
    assert len(staging(path)) == 1
    with eau2.open(path) as other:
        other.put("copy", frame)
        other.delete("t")
        assert other.frame("copy").rows == frame.rows == 3
    column, held = frame["a"], frame.to_arrow()
    del frame
    assert column.to_pylist() == [1, 2, 3]
    del column
    until(lambda: not staging(path))  # the thread that ran the query lets go of it
    assert held["a"].to_pylist() == [1, 2, 3]
    until(lambda: not descriptors(path))


@pytest.mark.usefixtures("without_collector")
def test_a_spill_folder_goes_with_the_last_who_holds_it(tmp_path):
    spill = SpillFolder(str(tmp_path))
    assert Path(spill.path()).is_dir()
    del spill
    assert list(tmp_path.iterdir()) == []


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


def test_the_end_of_the_interpreter_closes_what_is_open_and_says_nothing(path, tmp_path):
    code = """
import sys, tempfile
tempfile.tempdir = sys.argv[2]
import eau2
store = eau2.open(sys.argv[1])
store.put("c", b"y")
answer = eau2.open(sys.argv[1]).sql("select sum(a) as a from t")
assert answer["a"].to_pylist() == [6]
assert eau2.open(sys.argv[1]).frame("t").map_chunks(len, workers="processes") == [3]
"""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    assert run(code, path, temporary) == (0, "", "")
    assert staging(path) == []
    assert sorted(os.listdir(path / "node-0")) == ["chunks", "entries.db", "generation", "spare", "staging"]
    assert list(temporary.iterdir()) == []
    with eau2.open(path) as store:
        assert store.get("c") == b"y"


@pytest.mark.parametrize("end", ["store.close()", "del store, frame", "sys.exit()"])
def test_a_forked_child_that_ends_leaves_the_parents_files_alone(path, tmp_path, end):
    code = f"""
import os, sys, tempfile
tempfile.tempdir = sys.argv[2]
import eau2
store = eau2.open(sys.argv[1])
frame = store.sql("select a from t")
frame.to_arrow()
before = [os.listdir(sys.argv[1] + "/node-0/staging"), os.listdir(sys.argv[2])]
assert list(map(len, before)) == [1, 1]
child = os.fork()
if child == 0:
    {end}
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert before == [os.listdir(sys.argv[1] + "/node-0/staging"), os.listdir(sys.argv[2])]
store.put("t", {{"a": [7]}})
assert store.frame("t")["a"].to_pylist() == [7]
"""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    assert run(code, path, temporary) == (0, "", "")
    assert staging(path) == os.listdir(temporary) == []


@pytest.mark.usefixtures("without_collector")
def test_a_store_in_which_files_had_to_be_left_leaves_the_next_a_reason_to_look(path):
    store = eau2.open(path)
    store.node._writer.left_over = True  # as after a rollback that met a full disk
    del store
    assert len(staging(path)) == 1
    eau2.open(path).close()
    assert staging(path) == []

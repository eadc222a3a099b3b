"""A node begins a run once, whatever happens to it, and can say what it has run."""

import contextlib
import dataclasses
import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fleet.runs import a_run

from eau2.errors import DiskFull
from eau2.fleet.journal import Journal
from eau2.fleet.run import Ended, Script


@pytest.fixture
def again(tmp_path):
    """Return the journal as the next process of the node finds it: the one before was killed."""
    with contextlib.ExitStack() as stack:

        def opened(**options):
            found = Journal(tmp_path, "node-0", **options)
            stack.callback(found.close)
            return found

        yield opened


@pytest.fixture
def journal(again):
    return again()


def test_a_run_begins_once_also_after_a_kill(journal, again, tmp_path):
    run = a_run("date")
    assert [journal.begin(run), journal.begin(run)] == [True, False]
    later = again()
    assert later.begin(run) is False
    assert later.outcome(run.id) == Ended("node-0", "lost", why="the node was started anew while it ran")


def test_it_says_who_ran_what_and_what_came_of_it(journal, again, tmp_path):
    first, second = a_run("date", "-u", run_time=1.0), a_run(work=Script("a.sh", b"exit 3"), run_time=2.0)
    for run in (first, second):
        journal.begin(run)
    journal.end(second.id, Ended("node-0", "ended", 3, 0.25))
    for found in (journal.newest(10), again().newest(10)):
        assert [(one.user, one.host, one.kind, one.text, one.state, one.code) for one in found] == [
            ("ann", "desk", "script", "a.sh", "ended", 3),
            ("ann", "desk", "command", "date -u", None, None),
        ]
        assert found[0].sha256 == hashlib.sha256(b"exit 3").hexdigest()
    assert journal.newest(1)[0].id == second.id
    assert journal.outcome(second.id) == Ended("node-0", "ended", 3, 0.25)


def test_a_line_that_a_kill_cut_short_is_as_if_it_was_never_written(journal, again, tmp_path):
    done, cut = a_run("one", run_time=1.0), a_run("two", run_time=2.0)
    journal.begin(done)
    whole = (tmp_path / "runs.ndjson").stat().st_size
    journal.begin(cut)
    os.truncate(tmp_path / "runs.ndjson", whole + 20)
    later = again()
    assert [later.begin(done), later.begin(cut), later.begin(cut)] == [False, True, False]
    assert [one.text for one in again().newest(9)] == ["two", "one"]


def test_where_a_line_is_damaged_nothing_up_to_then_begins(journal, again, tmp_path):
    runs = [a_run(name, run_time=float(at)) for at, name in enumerate(["a", "b", "c"], 1)]
    for run in runs:
        journal.begin(run)
    path = tmp_path / "runs.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"x" + lines[1] + lines[2])
    later = again()
    assert [later.begin(run) for run in runs] == [False] * 3
    assert later.outcome(runs[1].id).state == "refused"
    assert later.begin(a_run("d", run_time=4.0))


def test_the_oldest_are_forgotten_and_do_not_begin_again(again, tmp_path):
    journal = again(runs_max=10)
    runs = [a_run(str(number), run_time=float(number)) for number in range(50)]
    assert all(journal.begin(run) for run in runs)
    size = (tmp_path / "runs.ndjson").stat().st_size
    assert not any(journal.begin(run) for run in runs)
    assert 10 <= len(journal.newest(100)) <= 20
    assert journal.newest(100)[0].text == "49"
    journal.close()
    later = again(runs_max=10)
    assert not any(later.begin(run) for run in runs)
    assert (tmp_path / "runs.ndjson").stat().st_size == size < 20 * 400


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=60))
def test_no_order_of_runs_and_restarts_has_one_begin_twice(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("journal")
    runs = {number: dataclasses.replace(a_run(str(number)), id=f"{number:013d}-0") for number in range(31)}
    begun = set()
    journal = Journal(folder, "node-0", runs_max=3)
    for number, is_restart in steps:
        if is_restart:
            journal.close()
            journal = Journal(folder, "node-0", runs_max=3)
        if journal.begin(runs[number]):
            assert number not in begun
            begun.add(number)
    journal.close()


def test_a_full_disk_is_said_and_nothing_begins(journal, again, tmp_path, monkeypatch):
    journal.begin(a_run("one"))
    run = a_run("two")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(DiskFull):
            journal.begin(run)
    later = again()
    assert [one.text for one in later.newest(9)] == ["one"]
    assert later.begin(run)

"""Threads that take turns."""

import threading

import pytest
from tests.until import SECONDS_MAX, until

import eau2.remote.turns
from eau2.errors import StoreBusy
from eau2.remote.turns import Turns


@pytest.fixture
def make_turns():
    made = []

    def make(count, share):
        made.append(Turns("eau2-turns", count, share=share))
        return made[-1]

    yield make
    for turns in made:
        turns.close()


def test_work_of_several_is_done_in_turn(make_turns):
    turns, done, begin = make_turns(1, 1), [], threading.Event()
    turns.add("first", [lambda: begin.wait(SECONDS_MAX)])
    turns.add("a", [lambda number=number: done.append(f"a{number}") for number in range(4)])
    turns.add("b", [lambda number=number: done.append(f"b{number}") for number in range(2)])
    begin.set()
    until(lambda: len(done) == 6)
    assert done == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_nobody_has_more_threads_than_his_share(make_turns):
    turns, begun, go_on = make_turns(3, 2), [], threading.Event()

    def work(whose):
        begun.append(whose)
        go_on.wait(SECONDS_MAX)

    turns.add("a", [lambda: work("a")] * 5)
    until(lambda: len(begun) == 2)
    turns.add("b", [lambda: work("b")])
    until(lambda: len(begun) == 3)
    assert sorted(begun) == ["a", "a", "b"]
    go_on.set()
    until(lambda: len(begun) == 6)


def test_idle_threads_are_enough_for_no_more_than_they_are(make_turns):
    """Also where work of another comes before they have woken."""
    turns, begun, go_on = make_turns(4, 2), [], threading.Event()
    turns.add("first", [lambda: begun.append("first")])
    until(lambda: begun)
    for whose in ("a", "b", "c"):
        turns.add(whose, [lambda whose=whose: (begun.append(whose), go_on.wait(SECONDS_MAX))])
    until(lambda: len(begun) == 4)
    go_on.set()


def test_what_is_dropped_is_not_begun(make_turns):
    turns, done, begun, go_on = make_turns(1, 1), [], threading.Event(), threading.Event()
    turns.add("a", [lambda: (begun.set(), go_on.wait(SECONDS_MAX)), lambda: done.append("a")])
    assert begun.wait(SECONDS_MAX)
    turns.add("b", [lambda: done.append("b")])
    turns.drop("a")
    go_on.set()
    until(lambda: done)
    assert done == ["b"]


def test_too_much_work_is_refused(make_turns, monkeypatch):
    monkeypatch.setattr(eau2.remote.turns, "WAITING_MAX", 3)
    turns, done = make_turns(1, 1), []
    with pytest.raises(StoreBusy):
        turns.add("a", [lambda: done.append(1)] * 4)
    turns.add("a", [lambda: done.append(1)] * 3)
    until(lambda: len(done) == 3)


def test_a_thread_goes_on_after_work_that_failed(make_turns, caplog):
    turns, done = make_turns(1, 1), []
    turns.add("a", [lambda: 1 / 0, lambda: done.append("after")])
    until(lambda: done == ["after"])
    assert "ZeroDivisionError" in caplog.text

"""One node after the other: what happens next depends on how the one before is."""

import pytest

from eau2.fleet.rolling import rolled
from eau2.fleet.run import Ended


def rolling(outcomes, sick=()):
    """Roll over a, b and c; return what came of each, and what was asked in which order."""
    asked, sick = [], list(sick)

    def run(name):
        asked.append(f"run {name}")
        return outcomes.get(name, Ended(name, "ended", 0))

    def why_unwell(name):
        asked.append(f"look {name}")
        return "it is dead" if asked.count(f"look {name}") > 1 and name in sick else ""

    return list(rolled(["a", "b", "c"], run, why_unwell)), asked


def test_each_is_run_when_the_one_before_it_is_well():
    found, asked = rolling({})
    assert [is_well for _, is_well in found] == [True] * 3
    assert asked == [f"{what} {name}" for name in "abc" for what in ("look", "run", "look")]


@pytest.mark.parametrize("outcome", [Ended("b", "ended", 1), Ended("b", "deadline"), Ended("b", "failed", why="no")])
def test_after_one_that_failed_the_others_are_skipped(outcome):
    found, asked = rolling({"b": outcome})
    assert [(ended.node, ended.state, is_well) for ended, is_well in found] == [
        ("a", "ended", True),
        ("b", outcome.state, False),
        ("c", "skipped", False),
    ]
    assert found[2][0].why.startswith("b: ")
    assert "look c" not in asked


def test_one_that_is_not_well_afterwards_stops_it():
    found, _ = rolling({}, sick=["a"])
    assert [(ended.state, is_well) for ended, is_well in found] == [
        ("ended", False),
        ("skipped", False),
        ("skipped", False),
    ]
    assert found[1][0].why == "a is not well: it is dead"


def test_one_that_ended_its_own_node_is_well_when_the_node_is_back():
    assert [is_well for _, is_well in rolling({"b": Ended("b", "lost")})[0]] == [True, True, True]
    assert [is_well for _, is_well in rolling({"b": Ended("b", "lost")}, sick=["b"])[0]] == [True, False, False]

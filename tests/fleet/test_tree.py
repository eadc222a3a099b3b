"""A run reaches every node that lives, once, in few steps, whatever dies on the way."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fleet.simulated import CALLER, NOTICED_STEPS, Simulation

from eau2.fleet.tree import FAN_OUT, Relay, spread


@given(st.lists(st.integers(), unique=True, max_size=200), st.integers(1, 8))
def test_branches_have_all_names_once_and_nearly_the_same_size(names, fan_out):
    branches = spread(names, fan_out)
    assert [name for branch in branches for name in (branch.name, *branch.below)] == names
    sizes = [len(branch.below) for branch in branches]
    assert len(branches) == min(fan_out, len(names))
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_what_came_of_a_node_is_news_once():
    relay = Relay(["a", "b"])
    assert [branch.name for branch in relay.begin()] == ["a", "b"]
    assert [relay.heard("a"), relay.heard("a"), relay.heard("stranger")] == [True, False, False]
    assert not relay.is_done
    assert relay.heard("b")
    assert relay.is_done


def test_those_below_a_lost_node_of_which_nothing_is_known_are_asked():
    relay = Relay("abcdef", 1)
    assert relay.begin() == [("a", tuple("bcdef"))]
    for name in "acd":
        relay.heard(name)
    assert relay.lost("a") == [("b", ("e", "f"))]
    assert relay.lost("a") == []
    assert not relay.is_asked("a")
    assert relay.is_asked("b")


def test_a_thousand_nodes_are_reached_in_five_steps_and_nobody_sends_much():
    run = Simulation(1000).run()
    assert set(run.runs.values()) == {1}
    assert len(run.runs) == 1000
    assert run.heard == dict.fromkeys(run.names, "ended")
    assert max(run.begun_at.values()) == math.ceil(math.log(1000, FAN_OUT)) == 5
    # To at most four others, and up: of itself and of each below it what came of it, and that this is all.
    assert run.sent[CALLER] == FAN_OUT
    assert max(run.sent.values()) == FAN_OUT + 250 + 1


@pytest.mark.parametrize("seed", range(20))
def test_all_that_live_run_it_once_though_nodes_die_return_and_messages_come_twice(seed):
    run = Simulation(1000, seed=seed, deaths=0.1, returns=0.5, repeats=0.05).run()
    assert max(run.runs.values()) == 1  # also those that have died and returned
    lived = {name for name, place in run.places.items() if place.life == 0 and place.alive} - {CALLER}
    assert len(lived) < 950
    assert all(run.runs[name] == 1 for name in lived)
    assert set(run.heard) == set(run.names)  # the caller knows of each, and no more is under way
    assert all(run.heard[name] == "ended" for name in lived)
    levels = math.ceil(math.log(1000, FAN_OUT)) + 1
    assert max(run.begun_at[name] for name in lived) <= levels * (NOTICED_STEPS + 2)
    assert run.asked[CALLER] <= 5 * FAN_OUT
    assert max(run.asked.values()) <= 10 * FAN_OUT
    assert max(run.sent.values()) <= 3 * 250


@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 2**32), st.floats(0, 0.7))
def test_so_it_is_with_any_number_of_nodes_and_deaths(count, fan_out, seed, deaths):
    run = Simulation(count, seed=seed, fan_out=fan_out, deaths=deaths, returns=0.5, repeats=0.2).run()
    assert set(run.heard) == set(run.names)
    assert all(times == 1 for times in run.runs.values())
    lived = {name for name, place in run.places.items() if place.life == 0 and place.alive} - {CALLER}
    assert all(run.heard[name] == "ended" and run.runs[name] == 1 for name in lived)

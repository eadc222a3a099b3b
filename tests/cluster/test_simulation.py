"""The simulated world does to messages, clocks and processes what it says."""

from __future__ import annotations

import pytest
from tests.cluster.simulation import CALL_TIMEOUT, Killed, World

from eau2.cluster.peer import NotServing, Unreachable


class Echo:
    """Answers after a while, and keeps what it was asked."""

    def __init__(self, runtime):
        self.runtime, self.heard, self.lock = runtime, [], runtime.lock("only")

    async def echo(self, value, seconds=0.0):
        self.heard.append(value)
        await self.runtime.sleep(seconds)
        return value

    async def refuse(self):
        raise NotServing("not now")

    async def in_turn(self, value):
        await self.lock.acquire()
        try:
            self.heard.append(value)
            await self.runtime.sleep(0.01)
        finally:
            self.lock.release()

    async def break_down(self):
        raise ZeroDivisionError


@pytest.fixture
def world():
    world = World(1)
    for name in ("one", "other"):
        world.process(name).start(Echo)
    return world


def ask(world, coroutine, until=10.0):
    """Run `coroutine` in process "one"; return its value, or raise what it raised."""

    async def caught():
        try:
            return await coroutine, None
        except Exception as error:
            return None, error

    task = world.processes["one"].spawn(caught(), "a question")
    world.run(until, lambda: task.ended.done)
    assert task.ended.done, "it has not ended"
    value, error = task.ended.value
    if error is not None:
        raise error
    return value


def peer(world, name="other"):
    return world.processes["one"].serves.runtime.peer(name)


async def awaited(call):
    return await call


def test_an_answer_comes_back_as_a_copy(world):
    value = ["a", b"b"]
    assert ask(world, awaited(peer(world).echo(value))) == value
    assert world.processes["other"].serves.heard[0] is not value
    assert 0 < world.now < 0.02


def test_what_is_refused_is_raised_at_the_caller(world):
    with pytest.raises(NotServing, match="not now"):
        ask(world, awaited(peer(world).refuse()))


def test_a_bug_at_the_callee_ends_the_run(world):
    with pytest.raises(ZeroDivisionError):
        ask(world, awaited(peer(world).break_down()))


def test_no_answer_within_the_time_limit_is_unreachable_though_it_was_done(world):
    with pytest.raises(Unreachable, match="other"):
        ask(world, awaited(peer(world).echo("a", CALL_TIMEOUT + 0.1)))
    assert world.now == pytest.approx(CALL_TIMEOUT)
    assert world.processes["other"].serves.heard == ["a"]


def test_a_cut_link_carries_nothing_and_only_in_its_direction(world):
    world.cuts["one", "other"] += 1
    with pytest.raises(Unreachable):
        ask(world, awaited(peer(world).echo("a")))
    assert world.processes["other"].serves.heard == []
    world.cuts.clear()
    world.cuts["other", "one"] += 1
    with pytest.raises(Unreachable):
        ask(world, awaited(peer(world).echo("b")))
    assert world.processes["other"].serves.heard == ["b"]


def test_messages_are_lost_repeated_and_overtaken(world):
    async def many():
        await world.processes["one"].serves.runtime.together([peer(world).echo(number) for number in range(200)])

    world.loss, world.repeats, world.delays = 0.2, 0.2, 0.2
    ask(world, many())
    heard = world.processes["other"].serves.heard
    assert 120 < len(set(heard)) < 190
    assert len(heard) > len(set(heard)) + 15
    assert heard != sorted(heard)


def test_together_gives_answers_and_errors_in_order(world):
    runtime = world.processes["one"].serves.runtime

    async def own():
        await runtime.sleep(0.1)
        return "own"

    def calls():
        return [peer(world).echo("a", 0.2), own(), peer(world).refuse(), peer(world).echo("b")]

    async def all_of_them():
        return await runtime.together(calls())

    first, second, third, fourth = ask(world, all_of_them())
    assert (first, second, fourth) == ("a", "own", "b")
    assert isinstance(third, NotServing)
    assert world.now == pytest.approx(0.2, abs=0.02)


def test_a_lock_is_given_in_the_order_they_came(world):
    async def three():
        runtime = world.processes["one"].serves.runtime
        for number in range(3):
            world.processes["one"].spawn(awaited(peer(world).in_turn(number)), "in turn")
            await runtime.sleep(0.006)
        await runtime.sleep(0.1)

    ask(world, three())
    assert world.processes["other"].serves.heard == [0, 1, 2]


def test_a_killed_process_forgets_everything_and_starts_anew(world):
    other = world.processes["other"]
    world.after(0.05, lambda _: other.kill())
    with pytest.raises(Unreachable):
        ask(world, awaited(peer(world).echo("a", 0.1)))
    assert not other.alive
    assert other.tasks == {}
    other.start(Echo)
    assert ask(world, awaited(peer(world).echo("b"))) == "b"
    assert other.serves.heard == ["b"]


def test_a_frozen_process_does_late_what_came_meanwhile(world):
    other = world.processes["other"]
    other.freeze(2.0)
    with pytest.raises(Unreachable):
        ask(world, awaited(peer(world).echo("a")))
    assert other.serves.heard == []
    world.run(3.0)
    assert other.serves.heard == ["a"]


def test_a_step_that_takes_long_answers_late_and_its_clock_shows_it(world):
    other = world.processes["other"]
    times = []

    class Slow(Echo):
        async def echo(self, value, seconds=0.0):
            times.append(self.runtime.now())
            other.lag += 0.3
            times.append(self.runtime.now())
            return value

    other.start(Slow)
    assert ask(world, awaited(peer(world).echo("a"))) == "a"
    assert times[1] - times[0] == pytest.approx(0.3)
    assert world.now > 0.3


def test_a_process_that_dies_in_a_step_goes_no_further(world):
    class Dying(Echo):
        async def echo(self, value, seconds=0.0):
            raise Killed

    world.processes["other"].start(Dying)
    with pytest.raises(Unreachable):
        ask(world, awaited(peer(world).echo("a")))
    assert not world.processes["other"].alive


def test_clocks_differ_in_what_they_show_and_how_fast_they_go():
    world = World(1)
    fast = world.process("fast", offset=100.0, rate=1.01)
    fast.start(Echo)
    ended = fast.spawn(fast.serves.runtime.sleep(10.1), "a nap").ended
    assert fast.now() == 100.0
    world.run(100.0, lambda: ended.done)
    assert world.now == pytest.approx(10.0)
    assert fast.now() == pytest.approx(110.1)

"""An hour of figures in bounded memory."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2.errors import InvalidOption
from eau2.metrics.history import COARSE_POINTS, FINE_POINTS, History, Point
from eau2.metrics.report import Metric, Report


def report(value, *, node="a", age=0.0, name="gets", kind="counter"):
    return Report(node, age, (Metric(name, value, "", "", kind),))


def fed(pairs, **options):
    history = History(**options)
    for time, value in pairs:
        history.feed([report(value)], time)
    return history


def test_five_minutes_have_every_second_and_the_hour_every_tenth():
    history = fed([(float(second), float(second)) for second in range(2 * 3600)])
    points = history.points("a", "gets", since=0.0)
    now = 2 * 3600 - 1
    assert points[-FINE_POINTS:] == [Point(t, t) for t in range(now - FINE_POINTS + 1, now + 1)]
    before = [point.time for point in points[:-FINE_POINTS]]
    assert {later - earlier for earlier, later in itertools.pairwise(before)} == {10.0}
    assert points[0].time == pytest.approx(now - 3600, abs=10)
    assert len(points) == FINE_POINTS + COARSE_POINTS - FINE_POINTS // 10
    assert [point.time for point in history.points("a", "gets", since=now - 3.0)] == [now - 2, now - 1, now]


@given(st.lists(st.tuples(st.floats(0.01, 500), st.floats(-1e9, 1e9)), min_size=1, max_size=80))
def test_points_are_of_what_was_fed_in_its_order_and_end_with_the_latest(steps):
    now, pairs = 0.0, []
    for pause, value in steps:
        now += pause
        pairs.append((now, value))
    history = History()
    for time, value in pairs:
        history.feed([report(value, kind="gauge")], time)
    points = history.points("a", "gets", since=-1.0)
    assert points[-1] == pairs[-1]
    assert [point.time for point in points] == sorted({point.time for point in points})
    assert set(points) <= {Point(*pair) for pair in pairs}
    for time, value in pairs:  # in each second of the last minutes there is one
        if time > now - FINE_POINTS + 1:
            assert any(int(point.time) == int(time) for point in points), (time, value)


def test_a_report_that_is_fed_again_changes_nothing_and_an_older_one_neither():
    history = History()
    history.feed([report(5)], 10.0)
    history.feed([report(5, age=3.0)], 13.0)
    history.feed([report(4, age=9.0)], 14.0)
    assert history.points("a", "gets", since=0.0) == [(10.0, 5.0)]


def test_rates_are_of_the_times_at_which_nodes_said_it_and_begin_again_with_a_counter():
    history = fed([(0.0, 100.0), (1.5, 130.0), (2.5, 130.0), (4.5, 10.0)])
    assert history.rates("a", "gets", since=-1.0) == [(1.5, 20.0), (2.5, 0.0), (4.5, 5.0)]
    assert history.rates("b", "gets", since=0.0) == []


def test_a_gauge_has_no_rate():
    history = History()
    history.feed([report(1, kind="gauge")], 0.0)
    with pytest.raises(InvalidOption, match="gauge"):
        history.rates("a", "gets", since=0.0)


def test_figures_that_come_later_and_that_go_have_their_own_times():
    history = History()
    for second in range(400):
        metrics = [Metric("always", second, "", "", "gauge")]
        if second >= 350:
            metrics.append(Metric("late", second, "", "", "gauge"))
        if second < 380:
            metrics.append(Metric("gone", second, "", "", "gauge"))
        history.feed([Report("a", 0.0, tuple(metrics))], float(second))
    assert [point.time for point in history.points("a", "late", since=0.0)] == list(range(350, 400))
    assert history.points("a", "gone", since=0.0)[-1].time == 379.0
    assert history.points("a", "never", since=0.0) == []


def test_what_is_silent_for_an_hour_is_forgotten_and_makes_room():
    history = History(series_max=2)
    history.feed([report(1, node="a"), report(1, node="b"), report(1, node="c")], 0.0)
    assert history.nodes() == ["a", "b", "c"]
    assert history.metrics("c") == ()
    assert history.left_out == 1
    for second in range(0, 5000, 5):
        history.feed([report(second, node="a"), report(second, node="c")], float(second))
    assert history.nodes() == ["a", "c"]
    assert history.points("b", "gets", since=-1.0) == []
    assert history.points("c", "gets", since=4990.0) == [(4995.0, 4995.0)]


def test_memory_is_bounded_however_long_it_is_fed(monkeypatch):
    history = fed([(second / 2, 1.0) for second in range(20_000)])
    (node,) = history._nodes.values()
    for ring, most in ((node.fine, FINE_POINTS), (node.coarse, COARSE_POINTS)):
        assert [len(ring._times), *map(len, ring._values.values())] == [most, most]

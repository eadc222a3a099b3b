"""An hour of figures: gauges as they are, counters as what they grow a second, gaps as gaps, in bounded memory."""

from dataclasses import replace

from eau2.metrics.report import COUNTER, GAUGE, Metric, Report
from eau2.monitor import history as module
from eau2.monitor.history import STEP_SECONDS, STEPS, History

START = 1_000_000.0


def report(node="node-1", **figures):
    metrics = [
        Metric(name, value, "", "", COUNTER if name.endswith("_count") else GAUGE) for name, value in figures.items()
    ]
    return Report(node, 0.0, tuple(metrics))


def test_a_gauge_is_its_value_and_a_counter_what_it_grew_a_second():
    history = History()
    history.note(START, [report(size=5.0, get_count=100.0)])
    assert history.latest("node-1", "size") == 5.0
    assert history.latest("node-1", "get_count") is None  # of one look nothing is known of that
    history.note(START + 10, [report(size=6.0, get_count=150.0)])
    assert history.latest("node-1", "get_count") == 5.0
    assert history.series("node-1", "size")[-2:] == [5.0, 6.0]
    assert history.series("node-1", "get_count")[-2:] == [None, 5.0]
    assert history.latest("node-2", "size") is None
    assert history.series("node-2", "size") == [None] * STEPS


def test_a_counter_that_began_again_has_not_gone_backwards():
    history = History()
    for second, count in ((0, 1000.0), (10, 20.0)):
        history.note(START + second, [report(get_count=count)])
    assert history.latest("node-1", "get_count") == 2.0


def copied(node, count):
    return Report(node, 0.0, (Metric("copied", count, "copies", "", COUNTER),))


def test_what_was_repaired_does_not_fall_when_a_node_is_started_anew_or_goes(monkeypatch):
    history = History()
    sums = []
    for second, reports in enumerate(
        (
            [copied("node-1", 10.0), copied("node-2", 5.0)],  # of before this was looked at too
            [copied("node-1", 12.0), copied("node-2", 5.0)],
            [copied("node-2", 6.0)],
            [copied("node-1", 0.0), copied("node-2", 6.0)],
            [copied("node-1", 3.0)],
        )
    ):
        history.note(START + 2 * second, reports)
        sums.append(history.summed("copied"))
    assert sums == [15.0, 17.0, 18.0, 18.0, 21.0]
    assert history.summed("copied_bytes") == 0.0
    monkeypatch.setattr(module, "SUMMED_MAX", 100)
    for number in range(300):
        history.note(START + 2 * number, [copied(f"other-{number}", 1.0)])
    assert len(history._counted) == 100
    assert history.summed("copied") == 321.0


def test_what_a_node_has_not_said_anew_is_no_standstill_and_what_it_said_long_ago_is_not_how_it_is():
    history = History()

    def note(second, count, age):
        history.note(START + second, [replace(report(get_count=count), age_seconds=age)])
        return history.latest("node-1", "get_count")

    assert note(2, 100.0, 0.5) is None
    assert note(4, 130.0, 1.0) == 20.0  # in the 1.5 seconds between the two that it said
    assert note(5, 130.0, 2.0) == 20.0
    assert note(6, 160.0, 1.5) == 20.0
    assert note(8, 160.0, 1.5) == 0.0
    assert note(30, 160.0, 23.5) is None


def test_what_was_not_looked_at_for_long_is_a_gap_and_an_hour_is_all_that_is_kept():
    history = History()
    for second in (0, 20, 100, 105):
        history.note(START + second, [report(size=float(second))])
    gap = [None] * 7
    assert history.series("node-1", "size")[-11:] == [0.0, 20.0, 20.0, *gap, 105.0]
    for step in range(1, STEPS + 1):
        history.note(START + 100 + step * STEP_SECONDS, [report(size=float(step))])
    assert history.series("node-1", "size") == [float(step) for step in range(1, STEPS + 1)]
    history.note(START + 100 + 3 * STEPS * STEP_SECONDS, [report(size=7.0)])
    assert history.series("node-1", "size") == [None] * (STEPS - 1) + [7.0]


def test_nodes_that_are_long_gone_are_forgotten_and_there_are_never_too_many(monkeypatch):
    history = History()
    history.note(START, [report("node-1", size=1.0, get_count=1.0)])
    history.note(START + STEPS * STEP_SECONDS, [report("node-2", size=1.0)])
    assert history.figures("node-1") == []
    assert history._counts == {}
    monkeypatch.setattr(module, "SERIES_MAX", 10)
    history.note(START + 4000, [report(f"node-{number}", size=1.0) for number in range(2, 100)])
    assert len(history._series) == 10
    assert history.latest("node-99", "size") == 1.0

"""What is seen of a store: figures, members, and who came and went."""

from dataclasses import replace

import pytest

import eau2
from eau2.metrics.report import COUNTER, GAUGE, Metric, Report
from eau2.monitor import sight
from eau2.monitor.documents import FIGURES, overview, sparks
from eau2.monitor.history import STEP_SECONDS, History
from eau2.monitor.sight import Sight
from eau2.monitor.source import in_all


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "store", nodes=3) as opened:
        opened.put("trips", {"id": [1, 2, 3]})
        yield opened


def test_a_node_that_goes_comes_last_and_why_it_went_is_told(store):
    sight = Sight(store)
    first = sight.look()
    assert [(member.name, member.state) for member in first.members] == [(name, "live") for name in store.nodes]
    store.node._members.fail(lost := store.nodes[0])
    gone = sight.look()
    assert (gone.members[-1].name, gone.members[-1].state) == (lost, "dead")
    assert len(gone.changes) == len(first.changes) + 1
    said = overview(gone, History(), (0, 0, 0.0))
    assert lost in said["changes"][-1]["why"]
    assert [node["state"] for node in said["nodes"]] == ["live", "live", "dead"]


def test_totals_count_a_key_once_and_reports_each_copy(store):
    seen = Sight(store).look()
    per_node = [{metric.name: metric.value for metric in report.metrics} for report in seen.reports]
    assert sum(figures["keys"] for figures in per_node) == 2
    assert (seen.totals["keys"], seen.totals["chunks"]) == (1, 1)
    assert {"load", "memory_bytes", "disk_free_bytes", "answer_seconds"} <= {each.name for each in seen.server.metrics}


def of_door(name, requests, p50, p99):
    return (
        Metric(f"door_{name}_requests", requests, "requests", "", COUNTER),
        Metric(f"door_{name}_latency_p50_seconds", p50, "seconds", "", GAUGE),
        Metric(f"door_{name}_latency_p99_seconds", p99, "seconds", "", GAUGE),
    )


def test_latencies_are_of_the_slowest_door_with_their_hour_while_somebody_asks(store):
    seen, history = Sight(store).look(), History()
    first, *others = seen.reports
    for step, requests in enumerate((0, 100, 200, 200, 200, 300)):
        doors = (*of_door("redis", requests, 0.001, 0.002 + step), *of_door("http", 0, 0.5, 99.0))
        reports = Report(first.node, 0.0, first.metrics + doors), *others
        seen = replace(seen, time=1e6 + step * STEP_SECONDS, reports=reports)
        history.note(seen.time, seen.reports)
    said = overview(seen, history, (0, 0, 0.0))
    at = [FIGURES.index(name) for name in ("latency_p50", "latency_p99")]
    assert [said["nodes"][0]["values"][index] for index in at] == [0.5, 99.0]
    assert [said["nodes"][1]["values"][index] for index in at] == [None, None]
    assert (said["totals"]["latency_p50"], said["totals"]["latency_p99"]) == (0.5, 99.0)
    total = sparks(seen, history)["total"]
    assert total["latency_p50"][-6:] == pytest.approx([None, 0.001, 0.001, None, None, 0.001])
    assert total["latency_p99"][-6:] == pytest.approx([None, 1.002, 2.002, None, None, 5.002])


def test_a_store_that_rests_is_not_counted_again_for_who_watches(store, monkeypatch):
    counted = []
    monkeypatch.setattr(sight, "in_all", lambda store: counted.append(store) or in_all(store))
    watching = Sight(store)
    for _ in range(5):
        before = watching.look().totals["keys"]
    assert 1 <= len(counted) <= 2
    store.put("one more", b"x")
    seen = [watching.look().totals["keys"] for _ in range(4)]
    assert seen[-1] == before + 1
    assert len(counted) <= 4

"""What is seen of a store: figures, members, and who came and went."""

import json
from dataclasses import replace

import pytest
from tests.until import until

import eau2
from eau2.errors import StoreUnusable
from eau2.metrics.report import COUNTER, GAUGE, Metric, Report
from eau2.monitor import sight
from eau2.monitor.documents import FIGURES, overview, sparks
from eau2.monitor.history import STEP_SECONDS, History
from eau2.monitor.sight import Sight
from eau2.monitor.source import in_all
from eau2.monitor.watch import Watch


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


def test_of_a_directory_counts_are_said_to_be_of_this_process_alone_and_what_was_repaired_does_not_fall(store):
    seen, history = Sight(store).look(), History()
    for second, copied in enumerate((7.0, 0.0)):  # the second time the node was started anew
        reports = (Report("node-0", 0.0, (Metric("copied", copied, "copies", "", COUNTER),)),)
        history.note(seen.time + 2 * second, reports)
        said = overview(replace(seen, reports=reports), history, (0, 0, 0.0))
        assert (said["repair"]["copied"], said["counted_here"]) == (7.0, True)


def test_of_a_directory_that_was_moved_away_it_is_said_that_it_is_not_there(tmp_path):
    path = tmp_path / "store"
    with eau2.open(path) as store:
        watching = Sight(store)
        assert watching.look().troubles == ()
        path.rename(tmp_path / "elsewhere")
        (trouble,) = watching.look().troubles
        assert "eau2.json cannot be read" in trouble
        with pytest.raises(StoreUnusable, match=r"eau2\.json"):
            store.epochs()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_a_fault_of_its_own_it_is_looked_at_again_when_somebody_asks(store, monkeypatch):
    watch = Watch(store)
    with monkeypatch.context() as patch:
        patch.setattr(sight.Sight, "look", lambda _: 1 // 0)
        watch.seen()
        until(lambda: watch._thread is None)
    assert json.loads(watch.document())["totals"]["keys"] == 1
    watch.close()


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

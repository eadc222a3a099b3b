"""What is seen of a store: figures, members, and who came and went."""

import pytest

import eau2
from eau2.monitor.documents import overview
from eau2.monitor.history import History
from eau2.monitor.source import Source


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "store", nodes=3) as opened:
        opened.put("trips", {"id": [1, 2, 3]})
        yield opened


def test_a_node_that_goes_is_dead_since_then_and_one_that_comes_back_is_live(store, monkeypatch):
    source = Source(store)
    first = source.observed()
    assert [(member.name, member.state) for member in first.members] == [(name, "live") for name in store.nodes]
    assert first.changes == ()
    lost, *others = store.nodes
    monkeypatch.setattr(store._nodes, "members", lambda: tuple(others))
    gone = source.observed()
    assert (gone.members[-1].name, gone.members[-1].state, gone.members[-1].since) == (lost, "dead", gone.time)
    assert [change.why for change in gone.changes] == [f"{lost} is no member any more"]
    assert source.observed().members[-1].since == gone.time
    monkeypatch.undo()
    back = source.observed()
    assert [member.state for member in back.members] == ["live"] * 3
    assert [change.why for change in back.changes] == [f"{lost} is no member any more", f"{lost} is back"]
    said = overview(back, History(), (0, 0, 0.0))
    assert said["changes"][-1] == {"time": back.time, "why": f"{lost} is back"}


def test_totals_count_a_key_once_and_reports_each_copy(store):
    seen = Source(store).observed()
    per_node = [{metric.name: metric.value for metric in report.metrics} for report in seen.reports]
    assert sum(figures["keys"] for figures in per_node) == 2
    assert (seen.totals["keys"], seen.totals["chunks"]) == (1, 1)
    assert {"load", "memory_bytes", "disk_free_bytes", "answer_seconds"} <= {each.name for each in seen.server.metrics}

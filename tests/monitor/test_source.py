"""What is seen of a store: figures, members, and who came and went."""

import pytest

import eau2
from eau2.monitor.documents import overview
from eau2.monitor.history import History
from eau2.monitor.sight import Sight


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

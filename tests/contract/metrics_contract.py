"""What every store says of its nodes."""

from __future__ import annotations

import pytest
from tests.until import until

from eau2.errors import InvalidOption, InvalidValue
from eau2.metrics.process import ProcessStatistics
from eau2.metrics.report import names_of
from eau2.store.nodes import NodeStatistics


class MetricsContract:
    def test_each_node_says_all_that_it_counts_and_what_its_process_takes(self, store):
        before = {node.name: node.writes for node in store.statistics().nodes}

        def counted():
            """The figures of each node, once all say something of after the put."""
            found = {report.node: {one.name: one.value for one in report.metrics} for report in store.reports()}
            grown = [name for name in before if found.get(name, {}).get("writes", 0) > before[name]]
            return found if grown and found.keys() >= before.keys() else None

        store.put("a", b"1")
        for figures in until(counted).values():
            assert figures.keys() >= names_of(NodeStatistics) | names_of(ProcessStatistics)
            assert figures["resident_bytes"] > 1 << 20
            assert 0 < figures["disk_free_bytes"] <= figures["disk_bytes"]
        assert all(0 <= report.age_seconds < 60 for report in store.reports())

    def test_a_published_figure_is_in_the_reports_as_it_was_described(self, store):
        store.publish_metric("rows_loaded", 7, unit="rows", help="Rows that were loaded.", kind="counter")
        store.publish_metric("rows_loaded", 9, unit="rows", help="Rows that were loaded.", kind="counter")

        def found():
            metrics = [metric for report in store.reports() for metric in report.metrics]
            return [(one.value, one.unit, one.help, one.kind) for one in metrics if one.name == "rows_loaded"]

        until(lambda: (9.0, "rows", "Rows that were loaded.", "counter") in found())
        assert len(found()) == 1

    def test_what_is_no_figure_or_one_of_the_nodes_own_is_refused(self, store):
        for name, value, more, error in (
            ("Rows", 1, {}, InvalidOption),
            ("rows", "many", {}, InvalidValue),
            ("rows", float("inf"), {}, InvalidValue),
            ("rows", 1, {"kind": "sum"}, InvalidOption),
            ("keys", 1, {}, InvalidOption),
            ("threads", 1, {}, InvalidOption),
        ):
            with pytest.raises(error):
                store.publish_metric(name, value, **more)

"""`Store.reports` and `Store.publish_metric`, whatever the store stands on."""

import asyncio
import contextlib
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from tests.remote.clusters import Cluster
from tests.served.serving import serving
from tests.until import until

import eau2
from eau2.cluster.peer import Unreachable
from eau2.distributed.engine import DistributedEngine
from eau2.errors import InvalidOption, InvalidValue, NodeUnavailable, StoreClosed
from eau2.metrics.gossip import FORGET_SECONDS, Gossip
from eau2.metrics.process import ProcessStatistics
from eau2.metrics.prometheus import exposition
from eau2.metrics.published import PUBLISHED_MAX
from eau2.metrics.report import counter, gauge, names_of
from eau2.query.engine import EngineStatistics
from eau2.remote.gossiping import Gossiping
from eau2.remote.transport import Arriving
from eau2.store.nodes import NodeStatistics

OWN = names_of(NodeStatistics) | names_of(ProcessStatistics)
OWN |= {f"engine_{name}" for name in names_of(EngineStatistics)}


def values(report):
    return {metric.name: metric.value for metric in report.metrics}


def by_node(store):
    return {report.node: values(report) for report in store.reports()}


# -- one node ---------------------------------------------------------------------------------------------------------


def test_one_node_says_now_what_it_counts_and_what_its_process_takes(tmp_path):
    with eau2.open(tmp_path / "data") as store:
        store.put_many({"a": b"1", "b": b"2"})
        store.put("f", {"x": [1, 2, 3]})
        store.get("a")
        (report,) = store.reports()
        assert (report.node, report.age_seconds) == ("node-0", 0.0)
        found, counted = values(report), store.statistics()
        assert found.keys() == OWN
        for name in ("keys", "frames", "chunks", "chunk_bytes", "value_bytes", "writes", "commits", "chunks_written"):
            assert found[name] == getattr(counted, name), name
        assert (found["keys"], found["frames"], found["writes"]) == (3, 1, 3)
        assert found["resident_bytes"] > 1 << 20


def test_a_figure_of_ones_own_is_there_as_described_and_its_latest_value(tmp_path):
    with eau2.open(tmp_path / "data") as store:
        store.publish_metric("rows_loaded", 5, unit="rows", help="Rows that were loaded.", kind="counter")
        store.publish_metric("queue_length", 2.5)
        store.publish_metric("rows_loaded", 8, unit="rows", help="Rows that were loaded.", kind="counter")
        own = [metric for metric in store.reports()[0].metrics if metric.name not in OWN]
        assert [(one.name, one.value, one.unit, one.help, one.kind) for one in own] == [
            ("rows_loaded", 8.0, "rows", "Rows that were loaded.", "counter"),
            ("queue_length", 2.5, "", "", "gauge"),
        ]


def test_what_the_engine_counts_is_said_too(tmp_path):
    with eau2.open(tmp_path / "data") as store:
        store.put("f", {"x": [1, 2, 3]})
        assert store.sql("select sum(x) as s from f").to_arrow().to_pydict() == {"s": [6]}
        figures = by_node(store)["node-0"]
        assert (figures["engine_queries"], figures["engine_chunks_read"]) == (1.0, 1.0)


def test_another_object_that_counts_is_in_reports_and_for_prometheus_without_more(tmp_path):
    @dataclass(frozen=True, slots=True)
    class Kettle:
        degrees: float = field(metadata=gauge("How warm it is.", "celsius"))
        cups: int = field(metadata=counter("Cups made.", "cups"))

    with eau2.open(tmp_path / "data") as store:
        store.node.figures.also("kettle_", lambda: Kettle(97.5, 3))
        assert by_node(store)["node-0"]["kettle_degrees"] == 97.5
        text = exposition(store.reports())
        assert "# HELP eau2_kettle_cups_total Cups made.\n# TYPE eau2_kettle_cups_total counter\n" in text
        assert 'eau2_kettle_cups_total{node="node-0"} 3\n' in text


def test_what_is_no_figure_is_refused_and_so_is_one_too_many(tmp_path):
    with eau2.open(tmp_path / "data") as store:
        for name, more in (("Rows", {}), ("keys", {}), ("engine_x", {}), ("rows", {"kind": "sum"})):
            with pytest.raises(InvalidOption):
                store.publish_metric(name, 1, **more)
        with pytest.raises(InvalidValue):
            store.publish_metric("rows", float("nan"))
        assert by_node(store)["node-0"].keys() == OWN
        for number in range(PUBLISHED_MAX):
            store.publish_metric(f"rows_{number}", number)
        with pytest.raises(InvalidOption, match="at most"):
            store.publish_metric("rows", 1)
    for use in (store.reports, lambda: store.publish_metric("rows", 1)):
        with pytest.raises(StoreClosed):
            use()


def test_sizes_that_take_long_to_count_are_not_counted_each_time_but_those_of_writes_are(tmp_path, monkeypatch):
    with eau2.open(tmp_path / "data") as store:
        sizing, counted = store.node._sizing, []
        clock = [0.0]
        count = sizing.count

        def slow():
            counted.append(clock[0])
            clock[0] += 1.0
            return count()

        monkeypatch.setattr(sizing, "count", slow)
        monkeypatch.setattr("eau2.store.statistics.time.monotonic", lambda: clock[0])
        store.put("a", b"1")
        for _ in range(3):
            assert by_node(store)["node-0"]["keys"] == 1
        store.put("b", b"2")
        assert by_node(store)["node-0"]["keys"] == 1  # a second was taken: not again so soon
        assert by_node(store)["node-0"]["writes"] == 2  # which is not counted, but known
        clock[0] += 201.0
        assert by_node(store)["node-0"]["keys"] == 2
        assert len(counted) == 2
        assert store.statistics().keys == 2


# -- several nodes of one process -------------------------------------------------------------------------------------


def test_each_of_several_nodes_reports_and_the_counts_are_its_own(tmp_path):
    with eau2.open(tmp_path / "data", nodes=3) as store:
        for number in range(20):
            store.put(f"key-{number}", b"x")
        found = by_node(store)
        assert list(found) == ["node-0", "node-1", "node-2"]
        counted = {one.name: one for one in store.statistics().nodes}
        for name, figures in found.items():
            assert figures["keys"] == counted[name].keys
            assert figures["copies_missing"] == 0
        assert sum(figures["keys"] for figures in found.values()) >= 40  # two copies each
        store.publish_metric("rows_loaded", 1)
        assert ["rows_loaded" in figures for figures in by_node(store).values()] == [True, False, False]


def test_what_a_dead_node_said_last_grows_old_and_is_forgotten(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("eau2.cluster.reporting.time.monotonic", lambda: clock[0])
    with eau2.open(tmp_path / "data", nodes=3) as store:
        assert {report.age_seconds for report in store.reports()} == {0.0}
        store._nodes.fail("node-1")
        clock[0] += 30.0
        assert [(one.node, one.age_seconds) for one in store.reports()] == [
            ("node-0", 0.0),
            ("node-1", 30.0),
            ("node-2", 0.0),
        ]
        clock[0] += FORGET_SECONDS
        assert list(by_node(store)) == ["node-0", "node-2"]


# -- nodes that are processes, or could be ----------------------------------------------------------------------------


@pytest.mark.slow
def test_any_node_answers_for_all_and_a_dead_one_ages(tmp_path, monkeypatch):
    monkeypatch.setitem(DistributedEngine.__init__.__kwdefaults__, "here_bytes_max", 0)  # queries run on the nodes
    names = ["node-0", "node-1", "node-2"]
    with Cluster(tmp_path, names) as cluster, cluster.opener()() as store, cluster.opener()() as other:
        store.put("a", b"1")
        store.put("f", {"x": [1, 2, 3]})
        assert store.sql("select sum(x) as s from f").to_arrow().to_pydict() == {"s": [6]}
        store.publish_metric("rows_loaded", 7, unit="rows", help="Rows.", kind="counter")
        for asking in (store, other):  # whichever process asks
            until(lambda: [report.node for report in asking.reports()] == names)  # noqa: B023
            until(lambda: by_node(asking)["node-0"].get("rows_loaded") == 7.0)  # noqa: B023
            until(lambda: sum(figures["keys"] for figures in by_node(asking).values()) == 4)  # noqa: B023
            until(lambda: sum(figures["engine_queries"] for figures in by_node(asking).values()) == 1)  # noqa: B023
        for name in names:  # whichever node is asked
            place = store.node.nodes[name]
            answer = until(lambda: len((found := place.gossip(Gossip("").digest())).news.reports) == 3 and found)  # noqa: B023
            assert {said.node for said in answer.news.reports} == set(names)
        with pytest.raises(InvalidOption):
            store.publish_metric("keys", 1)
        cluster.stop("node-2")
        until(lambda: {one.node: one.age_seconds for one in store.reports()}["node-2"] > 3)
        ages = {one.node: one.age_seconds for one in store.reports()}
        assert max(ages["node-0"], ages["node-1"]) < ages["node-2"]
        cluster.start("node-2")
        until(lambda: {one.node: one.age_seconds for one in store.reports()}["node-2"] < 2)


@pytest.mark.slow
def test_nobody_who_answers_is_an_error(tmp_path):
    with Cluster(tmp_path, ["node-0"], replicas=1) as cluster, cluster.opener()() as store:
        until(lambda: by_node(store))
        cluster.stop("node-0")
        for use in (store.reports, lambda: store.publish_metric("rows", 1)):
            with pytest.raises(NodeUnavailable):
                use()


# -- a served store, and its doors ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_served_store_reports_what_its_server_does_and_takes_figures(tmp_path):
    with serving(tmp_path / "data") as address, eau2.open(address) as served:
        served.put("a", b"1")
        served.publish_metric("rows_loaded", 7, unit="rows", help="Rows.", kind="counter")
        with pytest.raises(InvalidOption):
            served.publish_metric("keys", 1)
        (report,) = served.reports()
        found = {metric.name: metric for metric in report.metrics}
        assert report.node == "node-0"
        assert found["keys"].value == 1
        assert (found["rows_loaded"].value, found["rows_loaded"].unit, found["rows_loaded"].kind) == (
            7.0,
            "rows",
            "counter",
        )
        assert until(lambda: by_node(served)["node-0"].get("door_flight_requests", 0) >= 5)
        assert until(lambda: by_node(served)["node-0"]["door_flight_errors"] == 1)
        assert 0 < by_node(served)["node-0"]["door_flight_latency_p50_seconds"] < 60


def test_a_partner_that_fails_is_logged_once_and_others_are_asked_all_the_same(caplog):
    asked = []

    class Broken:
        """A transport to partners of which one has a fault."""

        def call(self, name, method, arguments, timeout_seconds):
            asked.append(name)
            future = Future()
            future.set_result((None, AttributeError("no gossip") if name == "b" else Unreachable(name)))
            return Arriving(name, future, timeout_seconds)

    async def some_rounds():
        gossiping = Gossiping("a", Broken(), lambda: ("a", "b", "c"), None)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gossiping.asking(), 0.3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eau2.remote.gossiping.ROUND_SECONDS", 0.01)
        asyncio.run(some_rounds())
    assert asked.count("b") >= 2
    assert asked.count("c") >= 2
    assert [record.message for record in caplog.records] == ["gossip has failed"]

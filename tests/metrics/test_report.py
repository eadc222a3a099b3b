"""What a figure is: described fields, and those that users publish."""

from dataclasses import dataclass, field, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2.errors import InvalidOption, InvalidValue
from eau2.metrics.process import ProcessStatistics, process_statistics
from eau2.metrics.published import PUBLISHED_MAX, SILENT_SECONDS, SOURCES_MAX, Published
from eau2.metrics.report import Metric, checked_metric, counter, gauge, metrics_of
from eau2.store.nodes import NodeStatistics


@dataclass(frozen=True, slots=True)
class Queue:
    waiting: int = field(metadata=gauge("Jobs that wait now.", "jobs"))
    done: int = field(metadata=counter("Jobs done.", "jobs"))
    oldest_seconds: float | None = field(default=None, metadata=gauge("Age of the oldest.", "seconds"))
    name: str = ""


def test_described_fields_are_figures_and_others_are_not():
    assert metrics_of(Queue(3, 8, 1.5, "a")) == (
        Metric("waiting", 3.0, "jobs", "Jobs that wait now.", "gauge"),
        Metric("done", 8.0, "jobs", "Jobs done.", "counter"),
        Metric("oldest_seconds", 1.5, "seconds", "Age of the oldest.", "gauge"),
    )


def test_what_is_not_known_is_no_figure_and_a_prefix_begins_each_name():
    assert [metric.name for metric in metrics_of(Queue(3, 8), prefix="door_")] == ["door_waiting", "door_done"]


@pytest.mark.parametrize("kind", [NodeStatistics, ProcessStatistics])
def test_every_number_of_the_nodes_is_described_by_a_sentence_that_may_be_published(kind):
    described = {metric.name: metric for metric in metrics_of(kind(*[0] * (13 if kind is NodeStatistics else 10)))}
    numbers = {one.name for one in fields(kind) if one.name not in ("name", "nodes")}
    assert described.keys() == numbers
    for metric in described.values():
        assert metric.help[0].isupper()
        assert metric.help.endswith(".")
        assert checked_metric(metric.name, 0, unit=metric.unit, help=metric.help, kind=metric.kind) == metric


def test_statistics_are_made_and_compared_as_before_they_were_described():
    found = NodeStatistics(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, copied=5, name="node-0")
    assert (found.keys, found.chunks_removed, found.tasks, found.copied, found.nodes) == (1, 13, 0, 5, ())
    assert found == NodeStatistics(*range(1, 14), copied=5, name="node-0")


@pytest.mark.parametrize(
    "name", ["", "Rows", "rows-loaded", "_rows", "rows_", "rows__loaded", "1rows", "é", "a" * 101, 7, None, "rows\n"]
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(InvalidOption):
        checked_metric(name, 1)


@pytest.mark.parametrize("value", ["1", b"2", None, float("nan"), float("inf"), object(), [1]])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(InvalidValue):
        checked_metric("rows", value)


@pytest.mark.parametrize(
    "described", [{"kind": "histogram"}, {"kind": None}, {"unit": "per second"}, {"help": "a\nb"}, {"help": "x" * 301}]
)
def test_what_describes_no_figure_is_refused(described):
    with pytest.raises(InvalidOption):
        checked_metric("rows", 1, **described)


def test_a_number_that_no_float_holds_is_refused():
    with pytest.raises(InvalidValue):
        checked_metric("rows", 10**400)


def test_a_counter_is_never_below_zero_and_a_gauge_may_be():
    with pytest.raises(InvalidValue):
        checked_metric("rows", -1, kind="counter")
    assert checked_metric("degrees", -1.5).value == -1.5
    assert checked_metric("on", True).value == 1.0


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(allow_nan=False, allow_infinity=False))))
def test_of_what_is_published_the_latest_of_each_name_is_kept(pairs):
    published = Published(own=frozenset())
    for name, value in pairs:
        published.publish([Metric(name, value, "", "", "gauge")])
    assert {metric.name: metric.value for metric in published.all()} == dict(pairs)


def test_names_of_the_node_itself_are_taken_and_the_number_of_others_is_bounded():
    published = Published(own=frozenset({"keys"}))
    with pytest.raises(InvalidOption, match="keys"):
        published.publish([Metric("rows", 1, "", "", "gauge"), Metric("keys", 1, "", "", "gauge")])
    assert published.all() == ()
    published.publish([Metric(f"rows_{number}", 1, "", "", "gauge") for number in range(PUBLISHED_MAX)])
    with pytest.raises(InvalidOption, match=f"{PUBLISHED_MAX + 1}"):
        published.publish([Metric("one_more", 1, "", "", "gauge")])
    published.publish([Metric("rows_0", 2, "", "", "gauge")])  # one that there is has its place
    assert len(published.all()) == PUBLISHED_MAX
    assert published.all()[0].value == 2


def door(requests, connections, p99):
    return [
        Metric("door_http_requests", requests, "requests", "", "counter"),
        Metric("door_http_connections", connections, "connections", "", "gauge"),
        Metric("door_http_latency_p99_seconds", p99, "seconds", "", "gauge"),
    ]


def test_servers_of_one_node_are_counted_together_and_one_that_has_ended_no_more():
    clock = [0.0]
    published = Published(frozenset(), lambda: clock[0])

    def told():
        return [metric.value for metric in published.all()]

    published.publish(door(1000, 3, 0.5), source="a")
    published.publish(door(10, 2, 0.1), source="b")
    assert told() == [1010, 5, 0.5]
    clock[0] = SILENT_SECONDS
    published.publish(door(30, 1, 0.2), source="b")
    assert told() == [1030, 4, 0.5]
    clock[0] += 1  # `a` has ended: what it had counted is no count that begins again
    assert told() == [1030, 1, 0.2]
    published.publish(door(40, 1, 0.2), source="b")
    assert told() == [1040, 1, 0.2]
    published.publish(door(1001, 2, 0.1), source="a")  # it was only frozen
    assert told() == [1041, 3, 0.2]
    clock[0] += SILENT_SECONDS + 1
    assert told() == []
    published.publish(door(5, 1, 0.1), source="c")
    assert told() == [5, 1, 0.1]
    published.publish([Metric("rows", 7, "", "", "gauge")])
    clock[0] += SILENT_SECONDS + 1
    assert told() == [7]  # of a user, who says so once


def test_servers_that_come_and_go_are_forgotten_and_their_number_is_bounded():
    clock = [0.0]
    published = Published(frozenset(), lambda: clock[0])
    for number in range(1000):
        published.publish(door(1, 1, 0.1), source="lasting")
        published.publish(door(1, 1, 0.1), source=f"{number}")
        clock[0] += SILENT_SECONDS / 2
    assert len(published._sources) <= SOURCES_MAX
    with pytest.raises(InvalidOption, match="servers would publish"):
        for number in range(SOURCES_MAX + 1):
            published.publish(door(1, 1, 0.1), source=f"at once {number}")
    with pytest.raises(InvalidOption, match="at most 40 characters"):
        published.publish([], source="x" * 41)


def test_the_process_says_what_the_system_knows_of_it(tmp_path):
    psutil = pytest.importorskip("psutil")
    me, found = psutil.Process(), process_statistics(tmp_path)
    assert found.threads == me.num_threads()
    assert abs(found.open_files - me.num_fds()) <= 1  # psutil has one open while it counts
    assert abs(found.resident_bytes - me.memory_info().rss) < 64 << 20
    assert 0 < found.processor_seconds <= sum(me.cpu_times()[:2]) + 1
    assert 0 < found.memory_free_bytes <= psutil.virtual_memory().total
    assert 0 < found.memory_bytes <= psutil.virtual_memory().total
    disk = psutil.disk_usage(str(tmp_path))
    assert found.disk_bytes == disk.total
    assert 0 < found.disk_free_bytes <= disk.total


def test_where_there_is_no_proc_what_python_knows_is_said(tmp_path, monkeypatch):
    real = open

    def without_proc(path, *rest, **more):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return real(path, *rest, **more)

    monkeypatch.setattr("builtins.open", without_proc)
    monkeypatch.setattr("eau2.metrics.process._FILES", str(tmp_path / "absent"))
    found = process_statistics(tmp_path / "absent")
    assert found.threads >= 1
    assert found.resident_bytes > 1 << 20
    assert (found.open_files, found.disk_bytes, found.disk_free_bytes) == (None, None, None)
    names = {metric.name for metric in metrics_of(found)}
    assert "disk_bytes" not in names
    assert "threads" in names

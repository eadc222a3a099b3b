"""Rules are looked at, found again, acted upon and over; by one server of a store, and the next goes on from there."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest
from tests.until import until

import eau2
from eau2.cluster.directory import ClusterNodes
from eau2.errors import NodeUnavailable
from eau2.frame.tables import FrameTables
from eau2.monitor.alerts import Alerts, alerts_of
from eau2.monitor.readings import COARSE_SECONDS, FINE_SECONDS, SCHEMA, Reading, Readings
from eau2.monitor.rules import Action, Rule, Rules
from eau2.query.engine import Engine
from eau2.store import statistics
from eau2.store.store import Store

MANY = Rule("many keys", "select node, value from metrics where name = 'keys' and value > 3", Action())
AWAY = Rule("away", "select node, value from metrics where name = 'live' and value < 1", Action(), for_seconds=10.0)


class Server:
    """What looks for alerts in `store`, by a clock of its own."""

    def __init__(self, store, *rules, **given):
        self.seconds, self.logged = 1_000_000.0, []
        self.alerts = Alerts(store, Rules(rules, **given), log=self.log, clock=lambda: self.seconds, runs=False)

    def log(self, event, **facts):
        self.logged.append((event, facts))

    def look(self, after=0.0):
        self.seconds += after
        self.alerts.look()
        return self.alerts.now()

    def told(self, count):
        """Return the states of `count` alerts of the log, when there are so many."""
        until(lambda: len(self.logged) >= count)
        return [facts["state"] for event, facts in self.logged if event == "alert"]


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def server(store):
    made = []

    def make(*rules, of=store, **given):
        made.append(Server(of, *rules, **given))
        return made[-1]

    yield make
    for each in made:
        each.alerts.close()


@pytest.fixture(autouse=True)
def _counted(monkeypatch):
    """Keys are counted at each look, however soon it follows: the clock of these tests is not real."""
    monkeypatch.setattr(statistics, "_COUNT_SHARE", 0.0)


def fill(store, count=5):
    store.put_many({f"k/{number}": b"" for number in range(count)})


def test_a_row_is_an_alert_as_long_as_it_is_found_and_its_end_is_told(store, server):
    watch = server(MANY)
    assert watch.look() == ()
    fill(store)
    (alert,) = watch.look(5)
    assert (alert.rule, alert.labels, alert.state) == ("many keys", (("node", "node-0"),), "firing")
    assert alert.value == float(len(store.keys()))
    assert (alert.since, alert.acted, alert.error) == (1_000_005.0, 1_000_005.0, "")
    assert watch.told(1) == ["firing"]
    (event, facts), *_ = watch.logged
    assert (event, facts["rule"], facts["labels"]) == ("alert", "many keys", {"node": "node-0"})
    until(lambda: watch.alerts.now()[0].outcome == "logged")
    watch.look(5)
    store.delete_many(store.keys())
    assert watch.look(5) == ()
    assert watch.told(2) == ["firing", "over"]


def test_it_fires_when_it_has_held_long_enough_and_not_when_it_was_over_before(store, server):
    watch = server(Rule("many keys", MANY.when, Action(), for_seconds=10.0))
    fill(store)
    assert [alert.state for alert in watch.look()] == ["pending"]
    assert [alert.state for alert in watch.look(9.9)] == ["pending"]
    store.delete_many(store.keys("k/"))
    assert watch.look(5) == ()
    fill(store)
    assert [alert.state for alert in watch.look(5)] == ["pending"]
    assert watch.logged == []
    assert [alert.state for alert in watch.look(10)] == ["firing"]
    assert watch.told(1) == ["firing"]


@pytest.mark.parametrize(("repeat", "times"), [(math.inf, 1), (60.0, 3)])
def test_while_it_holds_the_action_is_done_again_after_the_time_the_rule_says(store, server, repeat, times):
    watch = server(Rule("many keys", MANY.when, Action(), repeat_seconds=repeat))
    fill(store)
    for _ in range(13):
        watch.look(10)
    assert watch.told(times) == ["firing"] * times


def test_a_rule_whose_query_fails_is_an_alert_and_the_others_are_looked_at(store, server):
    failing = Rule("division", "select node, 1 / cast(value - value as bigint) as value from metrics", Action())
    watch = server(failing, MANY)
    fill(store)
    division, many = watch.look()
    assert (division.rule, division.labels, division.error) == ("division", (), "Divide by zero error")
    assert division.state == many.state == "firing"
    until(lambda: len(watch.logged) == 2)
    assert {facts["problem"] for _, facts in watch.logged} == {"", "Divide by zero error"}


def test_a_rule_that_fails_for_a_while_leaves_its_alerts_as_they_were(store, server):
    rule = Rule(
        "one by one", "select node, 1 / cast(5 - value as int) as value from metrics where name = 'gets'", Action()
    )
    watch = server(rule)
    watch.alerts._readings.add = lambda now, readings: setattr(watch.alerts._readings, "_rounds", [(now, batch(gets))])

    def batch(value):
        row = {"time": None, "node": "node-0", "name": "gets", "value": value, "unit": ""}
        return pa.RecordBatch.from_pylist([row], SCHEMA)

    gets = 1.0
    (before,) = watch.look()
    gets = 5.0
    failed, kept = watch.look(5)
    assert (failed.error, kept.labels, kept.since) == ("Divide by zero error", before.labels, before.since)
    gets = 2.0
    assert [(alert.error, alert.since) for alert in watch.look(5)] == [("", before.since)]


def test_a_node_that_is_away_is_found_after_its_time(tmp_path, server):
    nodes = ClusterNodes(tmp_path / "many", nodes=3, replicas=2)
    with Store(nodes, FrameTables(Engine(None)), name="many") as store:
        watch = server(AWAY, of=store)
        assert watch.look() == ()
        nodes.fail("node-1")
        assert [(alert.labels, alert.state) for alert in watch.look(5)] == [((("node", "node-1"),), "pending")]
        assert [alert.state for alert in watch.look(10)] == ["firing"]
        nodes.restore("node-1")
        until(lambda: all(member.state == "live" for member in store.members()))
        assert watch.look(5) == ()
        assert watch.told(2) == ["firing", "over"]
        watch.alerts.close()


def test_what_cannot_be_seen_is_an_alert_and_the_rest_is_seen(store, server, monkeypatch):
    def away():
        raise NodeUnavailable("no node says how it is")

    watch = server(MANY)
    monkeypatch.setattr(store, "reports", away)
    (alert,) = watch.look()
    assert (alert.rule, alert.error) == ("eau2 cannot see everything", "no node says how it is")
    assert store.sql("""select name from "eau2/metrics" """).to_arrow().to_pydict() == {"name": ["live"]}


def test_figures_are_an_ordinary_frame_and_old_ones_are_dropped(store, server):
    watch = server(keep_seconds=600.0)
    for _ in range(70):
        watch.look(10)
    frame = store.frame("eau2/metrics")
    assert frame.schema.equals(SCHEMA)
    times = sorted({time.timestamp() for time in frame.to_arrow().column("time").to_pylist()})
    assert times[-1] == watch.seconds
    assert watch.seconds - 600.0 <= times[0] <= watch.seconds - 600.0 + COARSE_SECONDS
    fine = [time for time in times if time >= watch.seconds - FINE_SECONDS]
    assert len(fine) == FINE_SECONDS / 10 + 1
    assert len(times) - len(fine) == (600.0 - FINE_SECONDS) / COARSE_SECONDS
    asked = store.sql("select max(value) as live from \"eau2/metrics\" where name = 'live' and node = 'node-0'")
    assert asked.to_arrow().to_pydict() == {"live": [1.0]}


def test_one_server_does_it_and_the_next_goes_on_when_it_ends_or_is_silent(store, server):
    first, second = server(MANY), server(MANY)
    fill(store)
    first.look()
    until(lambda: first.alerts.now()[0].outcome == "logged")
    first.look(4)
    second.look(5)
    assert second.alerts.now() == first.alerts.now() == alerts_of(store)
    second.look(19)  # the first would have asked again by now
    assert second.alerts.now()[0].since == 1_000_000.0
    first.look(20)
    first.look(5)  # another has it
    second.alerts.close()
    first.look(5)
    assert [alert.since for alert in first.look(5)] == [1_000_000.0]
    assert (first.told(1), second.told(0)) == (["firing"], [])  # once, whoever has it
    rounds = {time.timestamp() for time in store.frame("eau2/metrics").to_arrow().column("time").to_pylist()}
    assert rounds == {1_000_000.0, 1_000_004.0, 1_000_024.0, 1_000_034.0, 1_000_039.0}


def test_a_server_that_runs_looks_by_itself_and_ends(store):
    fill(store)
    told = []
    rules = Rules((MANY,), every_seconds=0.01)
    with Alerts(store, rules, log=lambda event, **facts: told.append(event)) as alerts:
        until(lambda: told)
        assert "1 rules, 1 alerts" in repr(alerts)
    assert store.exists("eau2/metrics")
    assert not store.exists("eau2/metrics/server")


def test_what_others_put_in_the_place_of_alerts_is_no_alert(store, server):
    for value in (b"", b"{}", b"[3]", b'[{"rule": 1}]', {"a": [1]}):
        store.put("eau2/alerts", value)
        assert alerts_of(store) == ()
    store.put("eau2/metrics", {"a": [1]})
    store.put("eau2/metrics/server", b"\xff")
    fill(store)
    (alert,) = server(MANY).look()
    assert [replace(each, outcome="") for each in alerts_of(store)] == [replace(alert, outcome="")]


def test_readings_that_another_kept_are_the_same_again():
    readings, again = Readings(100.0), Readings(100.0)
    for second in range(3):
        readings.add(1000.5 + second, [Reading("a", "keys", second, ""), Reading("b", "value_bytes", 2.0, "bytes")])
    again.restore(readings.kept)
    assert again.kept.equals(readings.kept)
    again.add(1100.6, [])
    assert again.kept.num_rows == 4
    assert again.latest.num_rows == 0

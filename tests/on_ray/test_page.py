"""The page in a browser, over four nodes on Ray that work all the while: what an operator sees when a node is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import urllib.request

import pytest
from tests.monitor.browser import CHROMIUM
from tests.on_ray.processes import coordinator_process
from tests.on_ray.soak import typed
from tests.on_ray.watched import ADMIN, LONG, NODES, READ, Tab, watching
from tests.until import SECONDS_MAX, until

import eau2
from eau2.errors import QueryError

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here"),
]

OPERATIONS = re.compile(r"([0-9.]+)( k)?/s")
ALL_LIVE = dict.fromkeys(NODES, "live")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    home = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EAU2_HOME", str(home / "home"))
        with watching(home) as there:
            yield there


@pytest.fixture
def tab(watched, tmp_path):
    with Tab(watched, tmp_path / "profile") as made:
        made.enter()
        until(lambda: made.states() == ALL_LIVE)
        yield made
        made.text()  # hears what is left to be told
        assert made.strangers() == set()
        # Before the token was entered; by a cluster that is not whole; a run that no node knows yet.
        refused = re.compile("status of (401|503)|status of 404 .*/monitor/runs/")
        assert [fault for fault in made.faults if not refused.search(fault)] == []


def is_whole(tab):
    return tab.states() == ALL_LIVE and tab.facts()["Copies"] == "all there"


def test_each_node_is_live_and_works(watched, tab):
    def rates():
        script = "[...document.querySelectorAll('td[data-title=Operations]')].map(each => each.innerText)"
        return [float(found[1]) for text in tab.run(script) if (found := OPERATIONS.fullmatch(text))]

    assert until(lambda: len(found := rates()) == 4 and min(found) > 0)
    assert tab.facts()["Nodes"] == "4 live"
    until(lambda: tab.run("document.querySelector('.top .line')?.getAttribute('d')"))
    tab.click("table.nodes a", "node-2")
    until(lambda: tab.run("document.querySelectorAll('figure.chart').length") > 5)


@pytest.mark.parametrize("which", ["node-2", "node-0"])  # the server is on the machine of node-0
def test_a_node_that_hangs_is_not_responding_and_when_it_is_killed_repaired_and_back(watched, tab, which):
    os.kill(pid := watched.process(which), signal.SIGSTOP)
    until(lambda: any("not responding" in said and "since" in said for said in tab.shown(which)))
    watched.kill(pid)
    until(lambda: watched.process(which) != pid and is_whole(tab))
    assert {said.partition(":")[0] for said in tab.shown(which)} >= {"live", "returning"}
    assert {said.partition(":")[0] for name in NODES if name != which for said in tab.shown(name)} == {"live"}


def test_a_node_whose_process_is_killed_is_back_at_once_and_the_page_says_why_it_was_gone(watched, tab):
    watched.kill(pid := watched.process("node-1"))
    why = "the process of node-1 ended", "node-1 died"  # it is back before it is missed, or after
    until(lambda: any(each in tab.run("document.querySelector('.changes').innerText") for each in why))
    until(lambda: watched.process("node-1") != pid and is_whole(tab))
    assert {said.partition(":")[0] for name in NODES if name != "node-1" for said in tab.shown(name)} == {"live"}


def test_a_machine_that_is_lost_is_dead_its_copies_are_made_anew_and_it_returns(watched, tab):
    tab.run("document.querySelector('.bar input').focus()")
    watched.kill(watched.machines.raylet("node-3"))
    until(lambda: tab.states() == {**ALL_LIVE, "node-3": "dead"})
    assert any("not responding since" in said for said in tab.shown("node-3"))
    until(lambda: tab.facts()["Nodes"] == "3 live" and tab.facts()["Copies"] == "all there")
    until(lambda: "everything has all its copies" in tab.run("document.querySelector('.changes li').innerText"))
    assert "node-3 died" in tab.run("document.querySelector('.changes').innerText")
    assert json.loads(typed("up"))["started"] == ["node-3"]
    until(lambda: is_whole(tab))
    assert any(said.startswith("returning:") for said in tab.shown("node-3"))


@pytest.mark.parametrize("which", ["node-1", "coordinator"])
def test_what_is_frozen_hides_nothing_else(watched, tab, which):
    pid = coordinator_process(watched.machines) if which == "coordinator" else watched.process(which)
    os.kill(pid, signal.SIGSTOP)
    try:
        if which == "coordinator":
            until(lambda: "who is a member as of" in tab.text())
        else:
            until(lambda: tab.states() == {**ALL_LIVE, which: "dead"})
        tab.go("node", "node-0")
        until(lambda: tab.run("document.querySelectorAll('figure.chart').length") > 5)
        tab.go("keys", "")
        if which == "coordinator":  # without it no node serves what it has
            until(lambda: "It is asked again" in tab.text())
        else:
            until(lambda: "sessions/" in tab.text())
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: "sessions/" in tab.text())
    tab.go("")
    until(lambda: is_whole(tab) and not tab.run("document.getElementById('trouble').innerText"))


def test_a_frame_is_followed_from_its_key_to_the_nodes_that_have_its_chunks(watched, tab):
    tab.go("keys", "")
    tab.click("button.open", "trips/")
    tab.click(".keys a", "2026-11")
    until(lambda: "Where its chunks are" in tab.text())
    text = tab.text()
    assert "400,000 rows · 8 columns · " in text
    assert "2 copies" in text
    heads = tab.run("[...document.querySelectorAll('.rows thead th')].map(each => each.innerText)")
    assert [each.split() for each in heads[:4]] == [
        ["id", "int64"], ["began", "timestamp[s]"], ["vendor", "string"], ["zone", "string"]
    ]  # fmt: skip
    assert tab.run("document.querySelectorAll('.rows tbody tr').length") == 20
    assert tab.run("[...document.querySelectorAll('.map th')].map(each => each.innerText)") == NODES
    kept = tab.run("[...document.querySelectorAll('.chunks tbody tr')].map(row => row.children[6].innerText)")
    read = tab.run("[...document.querySelectorAll('.chunks tbody tr')].map(row => row.children[7].innerText)")
    assert len(kept) > 20
    assert all(len(set(each.split(", ")) & set(NODES)) == 2 for each in kept), "each chunk has two live homes"
    assert all(one in each for one, each in zip(read, kept, strict=True))


def test_a_query_is_cancelled_by_its_button_and_its_client_is_told(watched, tab):
    raised = []

    def ask():
        with eau2.open(watched.store, token=ADMIN) as store:
            try:
                store.sql(LONG).to_arrow()
            except QueryError as error:
                raised.append(error)

    client = threading.Thread(target=ask)
    client.start()
    tab.go("queries")
    until(lambda: "with recursive" in tab.text())
    tab.click("button.cancel", "Cancel")
    client.join(SECONDS_MAX)
    assert len(raised) == 1
    until(lambda: "cancelled" in tab.run("document.querySelector('.recent tbody').innerText"))


def test_a_script_runs_on_every_node_and_what_each_wrote_is_shown(watched, tab):
    tab.go("runs")
    tab.script("echo I am $EAU2_NODE; echo careful >&2; test $EAU2_NODE != node-1 || exit 7")
    until(lambda: all(f"I am {name}\n" in tab.text() for name in NODES))
    until(lambda: tab.run("document.querySelectorAll('details.output').length") == 4)
    outputs = "Object.fromEntries([...document.querySelectorAll('details.output')].map(one => "
    outputs += "[one.querySelector('h3').innerText, one.innerText]))"
    until(lambda: all("careful" in text and "ended with" in text for text in tab.run(outputs).values()))
    came = {name: re.search("ended with ([0-9]+)", text)[1] for name, text in tab.run(outputs).items()}
    assert came == {name: "7" if name == "node-1" else "0" for name in NODES}
    tab.go("runs")
    until(lambda: "ended with 7" in tab.run("document.querySelector('table.runs tbody').innerText"))


def test_who_only_reads_has_no_button(watched, tmp_path):
    with Tab(watched, tmp_path / "profile", READ) as tab:
        tab.enter()
        until(lambda: tab.states() == ALL_LIVE)
        tab.go("queries")
        until(lambda: "Running now" in tab.text())
        assert tab.run("document.querySelectorAll('main button').length") == 0


def test_fifty_pages_cost_the_server_no_more_looks_and_are_all_told(watched):
    asked = urllib.request.Request(f"{watched.page}events", headers={"Authorization": f"Bearer {ADMIN}"})
    before = memory(watched.server)
    streams = [urllib.request.urlopen(asked, timeout=SECONDS_MAX) for _ in range(50)]
    try:
        for _ in range(3):
            times = {told(stream)["time"] for stream in streams}
            assert len(times) <= 3, "they are told of the same looks"
        assert memory(watched.server) - before < 100e6
    finally:
        for stream in streams:
            stream.close()


def test_a_cluster_that_ends_is_said_and_what_was_known_stays(watched, tab):
    typed("down")
    until(lambda: "The store cannot be looked at" in tab.text())
    assert "What is shown is of " in tab.text()
    assert list(tab.states()) == NODES


def told(stream):
    """Return the next overview."""
    while stream.readline() != b"event: overview\n":
        pass
    return json.loads(stream.readline().removeprefix(b"data: "))


def memory(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

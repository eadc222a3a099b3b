"""Runs on the page: who may begin them, what is seen of them and by whom, and what is written down."""

import json
import logging
import re
from contextlib import ExitStack

import pytest
from tests.doors.conftest import Served
from tests.monitor.conftest import ADMIN, PAGE, READ, TOKENS, WRITE
from tests.remote.clusters import Cluster
from tests.until import until

from eau2.doors.tokens import Tokens
from eau2.fleet.any_fleet import Audited, Written
from eau2.fleet.journal import Record
from eau2.fleet.kept import Piece
from eau2.fleet.run import Ended
from eau2.monitor.runs import one_run, output, run_list

NAMES = ("n0", "n1", "n2")
BYTE = "é".encode()


def a_record(**more):
    return Record("0000000000001-aa", 1.0, "ann", "desk", "command", "date", "00", 3, **more)


def test_a_list_says_how_many_nodes_came_to_what():
    on = {name: a_record(state="ended", code=int(name == "n1")) for name in NAMES} | {"n3": a_record()}
    (run,) = run_list([Audited(a_record(), on)], [])["runs"]
    assert run["outcomes"] == [
        {"state": "ended", "code": 0, "count": 2, "nodes": ["n0", "n2"]},
        {"state": "ended", "code": 1, "count": 1, "nodes": ["n1"]},
        {"state": None, "code": None, "count": 1, "nodes": ["n3"]},
    ]
    assert (run["running"], run["begun"], run["asked"]) == (True, 4, 3)


def test_a_run_has_what_only_who_began_it_heard():
    found = Audited(a_record(), {"n0": a_record(state="ended", code=0)})
    heard = {"n0": Ended("n0", "lost"), "n1": Ended("n1", "unreached", why="it is dead")}
    said = one_run(found, (heard, "", False))
    assert [(one["node"], one["state"]) for one in said["nodes"]] == [("n0", "ended"), ("n1", "unreached")]
    assert (said["missing"], said["running"]) == (1, False)
    assert one_run(None, (heard, "", False)) is None


@pytest.mark.parametrize(("state", "text", "end"), [(None, "a", 1), ("ended", "a\\xc3", 2)])
def test_a_character_of_which_half_is_written_is_not_shown_before_the_run_is_over(state, text, end):
    said = output(Written(a_record(state=state, out_bytes=2), [Piece(0, b"a" + BYTE[:1])], []))
    assert said["out"]["pieces"] == [{"start": 0, "end": end, "text": text}]
    assert said["err"] == {"pieces": [], "total": None if state is None else 0}


@pytest.fixture
def open_cluster(tmp_path):
    with Cluster(tmp_path / "nodes", NAMES, allow_exec=True) as found:
        yield found


@pytest.fixture
def page_of():
    """Open a server of a cluster's store, with a page and tokens."""
    with ExitStack() as stack:

        def opened(cluster, **options):
            store = stack.enter_context(cluster.opener()())
            return Served(store, stack).open(PAGE, **{"tokens": TOKENS, **options})

        yield opened


def may(token):
    return {"authorization": f"Bearer {token}"}


def begin(client, script, token=ADMIN, **more):
    return client.ask("POST", "/monitor/runs", json.dumps({"script": script, **more}), **may(token))


def over(client, run_id):
    return until(
        lambda: not (said := client.get(f"/monitor/runs/{run_id}", **may(ADMIN)).json).get("running", True) and said
    )


def written(client, run_id, node, out=0, token=ADMIN):
    return client.get(f"/monitor/runs/{run_id}/output?node={node}&out={out}", **may(token))


@pytest.mark.slow
def test_an_admin_runs_a_script_follows_it_and_sees_what_each_node_wrote(open_cluster, page_of, tmp_path):
    client = page_of(open_cluster).http()
    wait = f"until test -e {tmp_path}/go; do sleep 0.02; done"
    script = f"echo I am $EAU2_NODE; echo oh >&2; {wait}; echo é; test $EAU2_NODE != n1"
    run_id = begin(client, script).json["run"]
    until(
        lambda: (
            [one["state"] for one in client.get(f"/monitor/runs/{run_id}", **may(ADMIN)).json.get("nodes", [])]
            == [None] * 3
        )
    )
    first = until(lambda: (said := written(client, run_id, "n0").json)["out"]["pieces"] and said)
    assert (first["state"], first["out"]["pieces"][0]["text"]) == (None, "I am n0\n")
    (run,) = client.get("/monitor/runs", **may(READ)).json["runs"][:1]
    assert (run["id"], run["running"]) == (run_id, True)
    (tmp_path / "go").touch()
    said = over(client, run_id)
    assert [(one["node"], one["state"], one["code"]) for one in said["nodes"]] == [
        (name, "ended", int(name == "n1")) for name in NAMES
    ]
    assert (said["user"], said["kind"], said["asked"]) == ("admin", "command", 3)
    assert "by the page of" in said["host"]
    rest = written(client, run_id, "n0", out=first["out"]["pieces"][-1]["end"]).json
    assert [piece["text"] for piece in rest["out"]["pieces"]] == ["é\n"]
    assert rest["err"] == {"pieces": [{"start": 0, "end": 3, "text": "oh\n"}], "total": 3}
    assert written(client, run_id, "n9").status == 400
    assert written(client, "0000000000001-aa", "n0").status == 404
    assert client.get("/monitor/runs/none", **may(READ)).status == 404


@pytest.mark.slow
def test_others_see_runs_and_neither_begin_nor_end_them_nor_see_what_they_write(open_cluster, page_of, caplog):
    caplog.set_level(logging.INFO, "eau2.doors")
    served = page_of(open_cluster)
    client = served.http()
    run_id = begin(client, "sleep 600").json["run"]
    for token in (READ, WRITE):
        refused = begin(client, "touch /tmp/never", token)
        assert (refused.status, refused.json["error"]) == (403, "Forbidden")
        assert client.ask("POST", f"/monitor/runs/{run_id}/cancel", **may(token)).status == 403
        assert written(client, run_id, "n0", token=token).status == 403
        assert client.get("/monitor/runs", **may(token)).json["why"] == "only a token of an admin starts runs"
    assert client.ask("POST", "/monitor/runs", "{}").status == 401
    until(
        lambda: {"read", "write"} <= {one["user"] for one in client.get("/monitor/runs", **may(READ)).json["refused"]}
    )
    assert client.ask("POST", f"/monitor/runs/{run_id}/cancel", **may(ADMIN)).json == {"cancelled": run_id}
    assert {one["state"] for one in over(client, run_id)["nodes"]} == {"cancelled"}
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    events = [line["event"] for line in lines if line.get("audit")]
    assert [events.count(each) for each in ("run begun", "run refused", "run cancelled")] == [1, 4, 1]
    assert "run refused: no token" in events
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", line["client"]) for line in lines if line.get("audit"))


@pytest.mark.slow
def test_what_is_no_run_is_refused_and_a_server_without_tokens_runs_nothing_and_shows_no_output(open_cluster, page_of):
    client = page_of(open_cluster).http()
    for asked in (
        "{",
        "[]",
        "{}",
        '{"script": " "}',
        '{"script": "a", "nodes": "n0"}',
        '{"script": "a", "nodes": ["n9"]}',
    ):
        assert client.ask("POST", "/monitor/runs", asked, **may(ADMIN)).status == 400, asked
    assert begin(client, "a", deadline_seconds=-1).status == begin(client, "a", deadline_seconds="1").status == 400
    assert begin(client, "a", rolling=1).status == 400
    assert begin(client, "a" * (1 << 20) + "a").status == begin(client, "a" * (3 << 20)).status == 413

    client = page_of(open_cluster, tokens=Tokens()).http()
    refused = client.ask("POST", "/monitor/runs", '{"script": "date"}')
    assert (refused.status, refused.json["error"]) == (403, "NotAllowed")
    assert "no tokens" in client.get("/monitor/runs").json["why"]
    assert client.get("/monitor/runs/0000000000001-aa/output?node=n0").status == 403


@pytest.mark.slow
def test_nodes_of_a_list_one_after_the_other_until_a_deadline(open_cluster, page_of):
    client = page_of(open_cluster).http()
    asked = {"nodes": ["n2", "n0"], "rolling": True, "deadline_seconds": 0.2}
    said = over(client, begin(client, "#!/bin/sh\nsleep 600", **asked).json["run"])
    assert [(one["node"], one["state"]) for one in said["nodes"]] == [("n0", "skipped"), ("n2", "deadline")]
    assert (said["kind"], said["text"]) == ("script", "script")


@pytest.mark.slow
def test_a_cluster_that_was_started_without_it_says_so_and_remembers_who_tried(tmp_path, page_of):
    with Cluster(tmp_path, ("n0",)) as cluster:
        client = page_of(cluster).http()
        refused = begin(client, "touch /tmp/never")
        assert (refused.status, refused.json["error"]) == (403, "NotAllowed")
        said = client.get("/monitor/runs", **may(ADMIN)).json
        assert "--allow-exec" in said["why"]
        (one,) = said["refused"]
        assert (one["user"], one["kind"], one["text"]) == ("admin", "command", "/bin/sh -c 'touch /tmp/never'")
        assert said["runs"] == []


@pytest.mark.slow
def test_a_store_that_is_no_cluster_says_so(guarded):
    client = guarded.http()
    said = client.get("/monitor/runs", **may(READ)).json
    assert (said["cluster"], said["runs"]) == (False, [])
    assert "no cluster" in said["why"]
    assert begin(client, "date").json["error"] == "NotAllowed"
    assert client.get("/monitor/runs/0000000000001-aa", **may(ADMIN)).status == 400

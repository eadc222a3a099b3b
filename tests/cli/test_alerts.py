"""`eau2 serve --alerts`: rules that are wrong are refused before anything is opened, and what others find is told."""

import json
import signal
import threading

import pytest
from tests.cli.test_doors import serving
from tests.until import SECONDS_MAX, until

import eau2 as library
from eau2.monitor.alerts import alerts_of

RULE = """
every_seconds = 1
[[rule]]
name = "there are keys"
when = "select node, value from metrics where name = 'live'"
action = { command = ["sh", "-c", "cat > told; mv told alert"] }
[[rule]]
name = "a line"
when = "select node from metrics where name = 'live'"
action = "log"
"""


def test_rules_that_are_wrong_are_refused_with_their_line_and_no_store_is_made(eau2, tmp_path):
    (tmp_path / "rules.toml").write_text(RULE.replace("select node from metrics", "select nodes from metrics"))
    ran = eau2("serve", "--alerts", "rules.toml", "--store", "none")
    assert ran.code == 2
    assert "rules.toml:9: rule 'a line': no column 'nodes'" in ran.error
    assert not (tmp_path / "none").exists()
    absent = eau2("serve", "--alerts", "absent.toml")
    assert absent.code == 3
    assert "absent.toml" in absent.error


@pytest.mark.slow
def test_a_server_with_rules_tells_and_keeps_what_they_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.toml").write_text(RULE)
    lines = []
    with serving(tmp_path / "store", "--alerts", "rules.toml") as (server, _):
        reading = threading.Thread(target=lambda: lines.extend(map(json.loads, server.stderr)))
        reading.start()
        until((tmp_path / "alert").exists)
        with library.open(tmp_path / "store") as store:
            until(lambda: [alert.outcome for alert in alerts_of(store)] == ["logged", "exit 0"])
            assert store.sql("""select distinct node from "eau2/metrics" """).to_arrow().to_pydict() == {
                "node": ["node-0"]
            }
        server.send_signal(signal.SIGTERM)
        assert server.wait(SECONDS_MAX) == 0
        reading.join()
    told = json.loads((tmp_path / "alert").read_text())
    assert (told["rule"], told["state"], told["labels"], told["value"]) == (
        *("there are keys", "firing"),
        *({"node": "node-0"}, 1.0),
    )
    assert [line["labels"] for line in lines if line["event"] == "alert"] == [{"node": "node-0"}]
    assert not [line for line in lines if line["event"] == "failed"]

"""top: the nodes in a terminal, and once in a pipe."""

import os
import pty
import signal
import subprocess
import sys

import pytest
from tests.until import SECONDS_MAX

import eau2 as library

pytestmark = pytest.mark.slow  # the command is run


@pytest.fixture
def store(tmp_path):
    with library.open(tmp_path / "data", nodes=3) as opened:
        opened.put("trips", {"id": [1, 2, 3]})
    return "data"


def test_in_a_pipe_the_nodes_are_shown_once(eau2, store):
    ran = eau2("--store", store, "top", "--interval", "0.2")
    assert ran.code == 0
    head, _, titles, *rows, whose = ran.text.splitlines()
    assert head.startswith("data: 3 of 3 nodes live, 1 key, ")
    assert head.endswith(", all copies there")
    assert titles.split()[:2] == ["node", "state"]
    assert whose.startswith("ops/s are those of this command")
    assert [row.split()[:2] for row in rows] == [[f"node-{number}", "live"] for number in range(3)]


def test_a_narrow_terminal_has_fewer_columns_and_none_that_is_squeezed(eau2, store, monkeypatch):
    for width in (30, 46, 70, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = eau2("--store", store, "top", "--interval", "0.2").text.splitlines()
        first = next(number for number, line in enumerate(lines) if line.startswith("node "))
        titles, *rows = lines[first : first + 4]
        assert all(len(line) <= width for line in (titles, *rows))
        assert [row.split()[:2] for row in rows] == [[f"node-{number}", "live"] for number in range(3)]
        assert ("missing" in titles, "keys" in titles, "disk free" in titles) == (True, width > 30, width == 200), width


def test_the_document_is_that_of_the_page(eau2, store):
    said = eau2("--store", store, "--json", "top", "--interval", "0.2").json
    assert said["totals"]["keys"] == 1
    assert said["repair"]["missing"] == 0
    assert len(said["nodes"]) == 3
    assert said["nodes"][0]["values"][said["figures"].index("operations")] is not None  # there were two looks


def test_a_wrong_interval_and_a_store_that_is_not_there_are_refused(eau2, store):
    assert eau2("--store", store, "top", "--interval", "0").code == 2
    assert eau2("--store", "none", "top").code == 1


@pytest.mark.slow
def test_on_a_terminal_it_goes_on_until_ctrl_c(tmp_path, store):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "eau2.cli", "--store", store, "top", "--interval", "0.2"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"nodes live") < 3:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end was closed
            break
    os.close(ours)
    assert process.wait(SECONDS_MAX) == 130
    assert shown.endswith(b"\x1b[?25h") or b"\x1b[?1049l" in shown  # the screen is as it was
    assert b"Traceback" not in shown

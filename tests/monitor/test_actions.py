"""What is done about alerts: what comes of each is told, and nobody waits for it."""

import http.server
import json
import socket
import sys
import threading

import pytest
from tests.until import SECONDS_MAX, until

from eau2.monitor.actions import WAITING_MAX, Actions
from eau2.monitor.rules import Action

DOCUMENT = {"rule": "full", "state": "firing", "labels": {"node": "node-1"}, "value": 3.0}


@pytest.fixture
def logged():
    return []


@pytest.fixture
def actions(logged):
    actions = Actions(lambda event, **facts: logged.append((event, facts)))
    yield actions
    actions.close()


@pytest.fixture
def hook():
    """A server that keeps what is posted to it, and answers by what the path says."""
    received = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(int(self.path.rpartition("/")[2][:3]))
            self.end_headers()

        def log_message(self, *_):
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", received
    server.shutdown()
    thread.join()
    server.server_close()


def done(actions, action):
    """Have `action` done; return what came of it."""
    outcomes = []
    assert actions.begin(action, DOCUMENT, outcomes.append)
    return until(lambda: outcomes)[0]


def test_a_line_of_the_log_has_the_alert(actions, logged):
    assert done(actions, Action()) == "logged"
    assert logged == [("alert", DOCUMENT)]


def test_a_webhook_gets_the_alert_as_json(actions, hook):
    url, received = hook
    assert done(actions, Action(webhook=f"{url}/to/204?key=1")) == "answered 204"
    assert received == [("/to/204?key=1", "application/json", DOCUMENT)]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_webhook_that_does_not_take_it_is_a_failure(actions, hook, status):
    url, received = hook
    assert done(actions, Action(webhook=f"{url}/{status}")) == f"failed: answered {status}"
    assert len(received) == 1


def test_a_webhook_that_does_not_answer_is_given_up(actions):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert done(actions, Action(webhook=url, timeout_seconds=0.1)).startswith("failed: no answer")
    assert done(actions, Action(webhook=url)) == "failed: no answer: [Errno 111] Connection refused"


def test_a_command_reads_the_alert_from_standard_input(actions, tmp_path):
    code = f"import sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read())"
    assert done(actions, Action(command=(sys.executable, "-c", code))) == "exit 0"
    assert json.loads((tmp_path / "got").read_text()) == DOCUMENT


def test_a_command_that_fails_says_why(actions):
    assert done(actions, Action(command=("sh", "-c", "echo no disk >&2; exit 3"))) == "failed: exit 3 no disk"
    assert done(actions, Action(command=("/no/such/program",))).startswith("failed: /no/such/program: No such file")


def test_a_command_that_takes_too_long_is_killed_with_what_it_has_started(actions):
    command = ("sh", "-c", "sleep 600 & sleep 600")
    assert done(actions, Action(command=command, timeout_seconds=0.1)) == "failed: 0.1 s were over"


def test_what_is_under_way_ends_at_close_and_what_is_too_much_is_left_out(actions, tmp_path):
    outcomes = []
    started = tmp_path / "started"
    endless = Action(command=("sh", "-c", f"touch {started}; sleep 600"), timeout_seconds=SECONDS_MAX)
    assert actions.begin(endless, DOCUMENT, outcomes.append)
    until(started.exists)
    assert all(actions.begin(Action(), DOCUMENT, outcomes.append) for _ in range(WAITING_MAX))
    assert not actions.begin(Action(), DOCUMENT, outcomes.append)
    actions.close()
    assert outcomes == ["failed: the server ended"]

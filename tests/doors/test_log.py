"""What a server writes to standard error: JSON, a line each, and nothing that steers a terminal."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from eau2.doors.log import log, logged_to_standard_error

HOSTILE = '\n{"event": "stopped"}\r\x1b[2J\x00\x7f\x85\x9b31m\u2028\u202e\U000e0041 é"\\'
HALF = "\ud800"  # of a character


def test_what_is_logged_is_one_line_of_json(capfd):
    with logged_to_standard_error():
        log("failed", error=HOSTILE + HALF, **{HOSTILE: 1})
    (line,) = capfd.readouterr().err.splitlines()
    assert line.isprintable()
    told = json.loads(line)
    assert (told["event"], told["error"], told[HOSTILE]) == ("failed", HOSTILE + HALF, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.text(some.characters(), max_size=30))
def test_any_text_comes_back(capfd, text):
    with logged_to_standard_error():
        log("failed", error=text)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.isprintable()
    assert json.loads(line)["error"] == text


def test_what_asyncio_has_to_say_is_json_too(capfd):
    with logged_to_standard_error():
        logging.getLogger("asyncio").warning("socket.send() raised %s", HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logging.getLogger("asyncio").exception("a task")
    warned, failed = map(json.loads, capfd.readouterr().err.splitlines())
    assert (warned["event"], warned["by"], warned["error"]) == ("warned", "asyncio", f"socket.send() raised {HOSTILE}")
    assert (failed["event"], failed["error"]) == ("failed", "a task")
    assert "ValueError" in failed["trace"]


def test_nothing_is_logged_when_nobody_asked_for_it(capfd):
    with logged_to_standard_error():
        pass
    log("failed")
    assert capfd.readouterr().err == ""
    assert not logging.getLogger("asyncio").handlers


@pytest.mark.parametrize("word", ["\x1b]0;title\x07", "\x9b31m", "a\u2028b"])
def test_an_error_of_redis_repeats_nothing_that_steers_a_terminal(served, word):
    client = served.redis()
    for asked in ((word, "x"), ("NOSUCH", word), ("HELLO", "3", word), ("SET", word, "x"), ("CLIENT", word)):
        said = str(client.ask(*asked))
        assert said.isprintable(), asked

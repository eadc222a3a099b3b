"""What programs print: whole lines that say on which node."""

import contextlib
import io
import sys
import threading

import pytest
from tests.until import SECONDS_MAX

import eau2
from eau2.programs import printing
from eau2.programs.printing import Lines
from eau2.programs.running import Run

pytestmark = pytest.mark.usefixtures("nothing_left")


class Talk(eau2.Application):
    lines: int = 200

    def run(self):
        for number in range(self.lines):
            print("line", number, "of", end=" ")
            print(self.node_name)
        print("no end", end="")


def test_lines_are_whole_and_labelled_and_each_nodes_are_in_order(opened, capsys):
    eau2.run(Talk, on=opened(4))
    lines = capsys.readouterr().out.splitlines()
    for node in range(4):
        own = [line for line in lines if line.startswith(f"node-{node} | ")]
        expected = [f"node-{node} | line {number} of node-{node}" for number in range(200)]
        assert own == [*expected, f"node-{node} | no end"]
    assert len(lines) == 4 * 201


def test_the_only_node_prints_as_if_there_were_none(opened, capsys):
    eau2.run(Talk, on=opened(1), lines=1)
    assert capsys.readouterr().out == "line 0 of node-0\nno end"


def test_whoever_shows_the_lines_gets_them_with_the_node_and_nothing_else_is_printed(opened, capsys):
    shown = []
    Run(Talk, opened(1), {"lines": 1}, show=lambda *line: shown.append(line)).results()
    assert shown == [("node-0", "line 0 of node-0"), ("node-0", "no end")]
    assert capsys.readouterr().out == ""


def test_threads_of_the_program_and_of_others_print_as_ever_meanwhile(opened, capsys):
    class Other(eau2.Application):
        def run(self):
            if self.this_node == 0:
                # One write, which no other can come between: the end would be another.
                thread = threading.Thread(target=print, args=("from elsewhere\n",), kwargs={"end": ""})
                thread.start()
                thread.join(SECONDS_MAX)
            print("here", file=sys.stdout, flush=True)

    eau2.run(Other, on=opened(2))
    assert sorted(capsys.readouterr().out.splitlines()) == ["from elsewhere", "node-0 | here", "node-1 | here"]


def test_where_standard_output_was_redirected_to_the_lines_go(opened):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        eau2.run(Talk, on=opened(2), lines=0)
    assert sorted(text.getvalue().splitlines()) == ["node-0 | no end", "node-1 | no end"]


def test_runs_at_the_same_time_label_their_own_lines_and_the_last_puts_standard_output_back(opened, capsys):
    stores, met = [opened(2), opened(2)], threading.Barrier(4)

    class Both(eau2.Application):
        name: str = ""

        def run(self):
            met.wait(SECONDS_MAX)
            print(self.name)

    runs = [threading.Thread(target=eau2.run, args=(Both,), kwargs={"on": stores[i], "name": "ab"[i]}) for i in (0, 1)]
    before = sys.stdout
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert sys.stdout is before
    assert sorted(capsys.readouterr().out.split("\n")) == ["", *(f"node-{n} | {name}" for n in (0, 1) for name in "ab")]


def test_text_is_cut_into_lines_wherever_it_was_cut_before(monkeypatch):
    monkeypatch.setattr(printing, "LINE_CHARACTERS_MAX", 5)
    shown = []
    lines = Lines(shown.append)
    for text in ("a", "b\n", "", "\nc\nd", "\n", "123456", "7\n"):
        assert lines.write(text) == len(text)
    lines.end()
    lines.end()
    assert shown == ["ab", "", "c", "d", "123456", "7"]

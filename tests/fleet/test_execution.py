"""A run on one node: what it writes is heard by all who ask, and it ends when it is to."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.fleet.runs import Heard, a_run
from tests.until import until

from eau2.fleet.execution import KEPT_BYTES, Execution
from eau2.fleet.files import Source
from eau2.fleet.journal import Journal
from eau2.fleet.kept import KeptOutput, Piece
from eau2.fleet.run import PART_BYTES, Ended, Output, Script

pytestmark = pytest.mark.slow  # processes are started, and waited for


@pytest.fixture
def execute(tmp_path):
    """Begin a run on node-0; it is ended after the test."""
    journal, begun = Journal(tmp_path, "node-0"), []

    def begin(*command, orphan_seconds=60.0, **options):
        run = a_run(*command, **options)
        assert journal.begin(run)
        keeping = KeptOutput(tmp_path).begin(run.id)
        begun.append(Execution("node-0", run, journal, keeping=keeping, orphan_seconds=orphan_seconds))
        begun[-1].journal = journal
        return begun[-1]

    yield begin
    for one in begun:
        one.close()
    journal.close()


def listening(execution):
    heard = Heard()
    execution.listen(heard)
    return heard


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_it_writes_its_code_and_its_time_are_heard_and_kept(execute, tmp_path):
    one = execute("sh", "-c", "echo out; echo err >&2; echo $EAU2_NODE $EAU2_RUN; exit 3")
    heard = listening(one)
    ended = heard.ended()
    assert ended == Ended("node-0", "ended", 3, ended.seconds)
    assert 0 < ended.seconds < 60
    assert heard.written() == f"out\nnode-0 {one.run.id}\n".encode()
    assert heard.written("err") == b"err\n"
    until(one.has_ended.is_set)
    late = listening(one)
    assert late.said == heard.said
    assert one.journal.outcome(one.run.id) == ended._replace(seconds=round(ended.seconds, 3))
    assert KeptOutput(tmp_path).read(one.run.id) == ([Piece(0, heard.written())], [Piece(0, b"err\n")])
    record = one.journal.one(one.run.id)
    assert (record.out_bytes, record.err_bytes) == (len(heard.written()), 4)


def test_no_shell_reads_the_arguments_and_no_terminal_is_there(execute):
    code = "import sys, os; print(sys.argv[1:], sys.stdin.read(), os.getsid(0) == os.getpid())"
    heard = listening(execute(sys.executable, "-c", code, "a b", "$HOME", ";"))
    assert heard.ended().code == 0
    assert heard.written() == b"['a b', '$HOME', ';']  True\n"


@pytest.mark.parametrize("command", ["/no/such/program", "/etc/passwd", "/"])
def test_what_cannot_be_begun_has_failed_and_says_why(execute, command):
    ended = listening(execute(command)).ended()
    assert (ended.state, ended.code) == ("failed", None)
    assert command in ended.why


def test_at_its_deadline_it_is_ended_with_all_its_processes(execute):
    one = execute("sh", "-c", "sleep 600 & echo $!; wait", deadline_seconds=0.2)
    heard = listening(one)
    assert heard.ended().state == "deadline"
    assert 0.2 <= heard.ended().seconds < 30
    until(lambda: not lives(int(heard.written())))


def test_who_cancels_ends_it_also_when_it_heeds_no_signal(execute):
    one = execute("sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait; wait")
    heard = listening(one)
    until(heard.written)
    one.cancel()
    one.cancel()
    assert heard.ended().state == "cancelled"
    until(lambda: not lives(int(heard.written())))


def test_it_ends_when_nobody_waits_for_it_and_goes_on_when_somebody_comes(execute):
    one = execute("sleep", "600", orphan_seconds=0.1)
    first, second = Heard(), Heard()
    one.hold()
    one.listen(first)
    one.hold()
    one.let_go(first)
    time.sleep(0.3)
    assert not one.has_ended.is_set()
    one.listen(second)
    one.let_go(second)
    until(one.has_ended.is_set)
    assert one.journal.outcome(one.run.id).state == "cancelled"
    assert first.said == second.said == []


NODE = """if True:
    import os, sys
    from eau2.fleet.process import CommandProcess
    command, orphan_seconds, deadline = sys.argv[1:]
    ended = CommandProcess(float(orphan_seconds)).run(
        ("sh", "-c", command), os.environ, lambda _, data: os.write(1, data), float(deadline)
    )
    print(*ended, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def node():
    """Have a process of its own run a command; return it, and the ids that the command writes first."""
    with ExitStack() as stack:

        def run(command, orphan_seconds, deadline_seconds):
            arguments = [sys.executable, "-c", NODE, command, str(orphan_seconds), str(deadline_seconds)]
            process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process, [int(pid) for pid in process.stdout.readline().split()]

        yield run


def guards(pid):
    """The processes that mind the command `pid`."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"/fleet/guard.py") for word in words) and b"%d" % pid in words:
                found.append(int(name))
    return found


@pytest.mark.parametrize(("orphan_seconds", "deadline_seconds"), [(0.5, 600.0), (600.0, 2.0)])
def test_of_a_node_that_is_killed_it_is_ended_soon_or_at_its_deadline_with_all_its_processes(
    node, orphan_seconds, deadline_seconds
):
    begun = time.monotonic()
    process, pids = node("trap '' TERM; sleep 600 & echo $$ $!; wait; wait", orphan_seconds, deadline_seconds)
    until(lambda: guards(pids[0]))
    process.kill()
    process.wait()
    killed = time.monotonic()
    until(lambda: not any(map(lives, pids)))
    assert time.monotonic() >= min(killed + orphan_seconds, begun + deadline_seconds)
    until(lambda: not guards(pids[0]))


def test_of_a_node_that_is_killed_what_ends_in_time_leaves_what_it_has_in_the_background(node, tmp_path):
    process, (pid, background) = node(f"sleep 600 & echo $$ $!; sleep 1; touch {tmp_path}/made", 30.0, 600.0)
    until(lambda: guards(pid))
    process.kill()
    until((tmp_path / "made").exists)
    until(lambda: not lives(pid))
    until(lambda: not guards(pid))
    assert lives(background)
    os.kill(background, signal.SIGKILL)


def test_what_minds_it_is_gone_when_it_has_ended(node):
    process, (pid,) = node("echo $$; sleep 0.5; exit 3", 30.0, 600.0)
    assert process.stdout.readline() == b"ended 3\n"
    assert guards(pid) == []
    process.stdin.close()
    assert process.wait() == 0


def test_what_it_has_left_in_the_background_is_not_waited_for(execute):
    begun = time.monotonic()
    heard = listening(execute("sh", "-c", "sleep 60 & echo $!"))
    assert heard.ended().code == 0
    assert time.monotonic() - begun < 30
    background = int(heard.written())
    assert lives(background)
    os.kill(background, signal.SIGKILL)


def test_who_asks_late_hears_the_last_of_what_was_written_and_where_it_begins(execute):
    one = execute(sys.executable, "-c", f"import sys; sys.stdout.write('x' * {2 * KEPT_BYTES} + 'end')")
    first = listening(one)
    first.ended()
    assert len(first.written()) == 2 * KEPT_BYTES + 3
    late = listening(one)
    pieces = [said for said in late.said if isinstance(said, Output)]
    assert pieces[0].start + sum(len(piece.data) for piece in pieces) == 2 * KEPT_BYTES + 3
    assert KEPT_BYTES / 2 < len(late.written()) <= KEPT_BYTES


@pytest.mark.parametrize(
    ("content", "written"),
    [(b"echo $1 $0", b"a b /"), (f"#!{sys.executable} -s\nimport sys; print(sys.argv[1])".encode(), b"a b\n")],
)
def test_a_script_is_run_by_what_its_first_line_says(execute, content, written):
    heard = listening(execute(work=Script("do.it", content, ("a b",))))
    assert heard.ended().code == 0
    assert heard.written().startswith(written)
    path = heard.written().split()[-1]
    until(lambda: not os.path.exists(path))


class TestFiles:
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "from").mkdir()
        files = {"empty": b"", "binary": os.urandom(PART_BYTES + 1000), "run.sh": b"#!/bin/sh\n"}
        for name, data in files.items():
            (tmp_path / "from" / name).write_bytes(data)
        (tmp_path / "from" / "run.sh").chmod(0o755)
        with Source([tmp_path / "from" / name for name in files], f"{tmp_path}/to/{{node}}") as found:
            found.data = files
            yield found

    def test_files_appear_whole_with_their_modes_when_all_parts_came_in_any_order_and_twice(
        self, execute, source, tmp_path
    ):
        one = execute(work=source.push)
        heard = listening(one)
        to = tmp_path / "to" / "node-0"
        for number in [2, 1, 1, 2]:
            one.take(number, source.part(number))
        assert [path for path in to.iterdir() if not path.name.startswith(".")] == []
        one.take(0, source.part(0))
        assert heard.ended().code == 0
        assert {path.name: path.read_bytes() for path in to.iterdir()} == source.data
        assert (to / "run.sh").stat().st_mode & 0o777 == 0o755
        assert [one.parts.part(number) for number in range(3)] == [source.part(number) for number in range(3)]

    def test_what_changed_on_the_way_is_not_put_in_its_place(self, execute, source, tmp_path):
        one = execute(work=source.push)
        for number in range(3):
            one.take(number, bytes(len(source.part(number))))
        ended = listening(one).ended()
        assert (ended.state, "changed on the way" in ended.why) == ("failed", True)
        one.close()
        assert list((tmp_path / "to" / "node-0").iterdir()) == []

    def test_one_that_is_ended_midway_leaves_nothing(self, execute, source, tmp_path):
        one = execute(work=source.push, deadline_seconds=0.1)
        one.take(0, source.part(0))
        assert listening(one).ended().state == "deadline"
        until(lambda: list((tmp_path / "to" / "node-0").iterdir()) == [])
        assert one.parts.part(1) is None

    def test_who_cancels_ends_it(self, execute, source, tmp_path):
        one = execute(work=source.push)
        one.take(0, source.part(0))
        one.cancel()
        assert listening(one).ended().state == "cancelled"
        assert list((tmp_path / "to" / "node-0").iterdir()) == []

    def test_a_folder_that_cannot_be_made_is_said(self, execute, source, tmp_path):
        (tmp_path / "to").write_bytes(b"a file")
        ended = listening(execute(work=source.push)).ended()
        assert (ended.state, str(tmp_path / "to") in ended.why) == ("failed", True)

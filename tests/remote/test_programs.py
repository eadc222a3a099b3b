"""Programs on nodes that are processes of their own: an instance each, and all of them end, however the run does."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.remote.clusters import Cluster, ProcessCluster
from tests.until import SECONDS_MAX, until

import eau2
from eau2.cluster.peer import Unreachable
from eau2.errors import InvalidOption, KeyMissing, ProgramFailed, StoreClosed, WaitTimeout
from eau2.ingest.writer import FrameWriter
from eau2.programs import running
from eau2.programs.application import Ended
from eau2.programs.running import Run
from eau2.remote import hosting, jobs, work

pytestmark = pytest.mark.slow  # each instance is a process
NODES = ["node-0", "node-1", "node-2"]
LONG = 2 * SECONDS_MAX


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path / "nodes", NODES) as found:
        yield found


@pytest.fixture
def store(cluster):
    with cluster.opener()() as found:
        yield found


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", 4096)


class Noted(eau2.Application):
    """Leaves a file named for its process in `folder`, and another when it is ended by Ended."""

    folder: Path

    def run(self):
        (self.folder / f"begun-{os.getpid()}").touch()
        self.barrier("begun")
        try:
            return self.go_on()
        except Ended:
            (self.folder / f"ended-{self.this_node}").touch()
            raise


def begun(folder):
    return [int(path.name.removeprefix("begun-")) for path in folder.glob("begun-*")]


def all_ended(folder):
    return len(begun(folder)) >= 3 and not any(map(lives, begun(folder)))


def lives(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the second: it ended while it was read
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# -- what they do -----------------------------------------------------------------------------------------------------


class Who(eau2.Application):
    factor: int = 1

    def run(self):
        self.store.put(f"from-{self.this_node}", str(os.getpid()).encode())
        self.barrier("put")
        self.barrier("put")
        return self.this_node * self.factor, self.node_count, self.node_name, os.getpid(), self.store.keys("from-")


def test_each_instance_is_a_process_with_a_store_of_its_own_and_answers_in_the_order_of_the_nodes(store):
    answers = Run(Who, store, {"factor": "3"}).results(order=[2, 0, 1])
    keys = ["from-0", "from-1", "from-2"]
    assert [(*answer[:3], answer[4]) for answer in answers] == [(3 * i, 3, f"node-{i}", keys) for i in range(3)]
    pids = [answer[3] for answer in answers]
    assert len({*pids, os.getpid()}) == 4
    assert [int(store.get(key)) for key in keys] == pids
    until(lambda: not any(map(lives, pids)))


class Long(eau2.Application):
    text: str = ""

    def run(self):
        return len(self.text)


def test_a_process_that_takes_long_to_start_is_waited_for(store, monkeypatch):
    monkeypatch.setattr(hosting, "_MAIN", f"import time; time.sleep(3); {hosting._MAIN}")
    monkeypatch.setattr(jobs, "GONE_SECONDS", 0.5)
    text = "more than goes into a pipe" * 100_000
    assert eau2.run(Long, on=store, text=text) == [len(text)] * 3


@pytest.mark.parametrize("text", ["", "more than goes into a pipe" * 100_000])
def test_a_process_that_never_starts_is_ended_when_time_is_over(store, monkeypatch, text):
    monkeypatch.setattr(hosting, "_MAIN", f"import time; time.sleep({LONG}); {hosting._MAIN}")
    began = time.monotonic()
    with pytest.raises(WaitTimeout, match="Long did not end within 1 seconds"):
        eau2.run(Long, on=store, text=text, timeout_seconds=1)
    assert time.monotonic() - began < SECONDS_MAX / 2


class Local(eau2.Application):
    def run(self):
        frame = self.store.frame("numbers")
        return [batch["n"].to_pylist() for batch in self.local(frame)]


@pytest.mark.usefixtures("small_chunks")
def test_every_row_of_a_frame_is_local_to_one_node_and_no_chunk_moves(store):
    store.put("numbers", (pa.record_batch({"n": np.arange(i, i + 500)}) for i in range(0, 10_000, 500)))
    answers = eau2.run(Local, on=store)
    assert sorted(chain.from_iterable(chain.from_iterable(answers))) == list(range(10_000))
    assert max(map(len, answers)) - min(map(len, answers)) <= 1
    assert store.statistics().bytes_read == store.frame("numbers").bytes
    assert store.statistics().bytes_moved == 0


def test_programs_and_their_modules_travel(store, tmp_path, monkeypatch):
    (tmp_path / "travelling_program.py").write_text(
        "import threading\nimport eau2\nLOCK = threading.Lock()\n"
        "class Odd(Exception): pass\n"
        "class Program(eau2.Application):\n    word: str = 'a'\n    def run(self):\n"
        "        import travelling_words\n"
        "        if self.word == 'odd': raise Odd(self.word)\n"
        "        return travelling_words.doubled(self.word)\n"
    )
    (tmp_path / "travelling_words.py").write_text("def doubled(word):\n    return 2 * word\n")
    monkeypatch.syspath_prepend(tmp_path)
    import travelling_program  # and not travelling_words, which it imports when it runs

    try:
        assert eau2.run(travelling_program.Program, on=store, word="xy") == ["xyxy"] * 3
        with pytest.raises(ProgramFailed, match=r"node-\d, line 9 of travelling_program.py: Odd: odd") as failed:
            eau2.run(travelling_program.Program, on=store, word="odd")
        assert type(failed.value.__cause__) is travelling_program.Odd
    finally:
        del sys.modules["travelling_program"]


def test_files_are_found_where_the_caller_is(store, tmp_path, monkeypatch):
    class Reading(eau2.Application):
        file: Path

        def run(self):
            return self.file.read_text()

    (tmp_path / "text").write_text("some words")
    monkeypatch.chdir(tmp_path)
    assert eau2.run(Reading, on=store, file="text") == ["some words"] * 3


def test_a_program_that_cannot_be_sent_is_refused_before_anything_runs(store):
    lock = threading.Lock()

    class Locked(eau2.Application):
        def run(self):
            return lock.locked()

    with pytest.raises(InvalidOption, match="Locked cannot be sent to the nodes: TypeError: cannot pickle"):
        eau2.run(Locked, on=store)


class Counting(eau2.Application):
    lines: int = 3

    def run(self):
        for number in range(self.lines):
            print("line", number)
            print("and", end=" ")
            print("more", flush=True)
        print("no end", end="")


def test_printed_lines_are_labelled_and_come_in_their_order(store, capsys):
    eau2.run(Counting, on=store)
    lines = capsys.readouterr().out.splitlines()
    for node in NODES:
        mine = [line.removeprefix(f"{node} | ") for line in lines if line.startswith(f"{node} | ")]
        assert mine == ["line 0", "and more", "line 1", "and more", "line 2", "and more", "no end"]
    assert len(lines) == 21


def test_on_one_node_lines_have_no_label(tmp_path, capsys):
    with Cluster(tmp_path, ["only"]) as cluster, cluster.opener()() as store:
        eau2.run(Counting, on=store, lines=1)
    assert capsys.readouterr().out == "line 0\nand more\nno end\n"


def test_lines_come_while_the_program_runs(store):
    class Asking(eau2.Application):
        def run(self):
            print("ready")
            self.store.wait("go", timeout_seconds=LONG)

    ready = set()

    def show(node, line):
        ready.add((node, line))
        if len(ready) == 3:
            store.put("go", b"")

    assert Run(Asking, store, {}, show=show).results() == [None] * 3
    assert ready == {(node, "ready") for node in NODES}


def test_a_program_that_prints_faster_than_is_read_waits_for_the_reader(store, monkeypatch):
    monkeypatch.setattr("eau2.programs.far._HEARD_MAX", 50)
    monkeypatch.setattr(work, "_UNHEARD_MAX", 50)
    monkeypatch.setattr(work, "SILENT_SECONDS", 3.0)
    shown = []

    def show(node, line):
        if not shown:
            time.sleep(4.0)  # longer than a caller may be silent
        shown.append(line)

    Run(Counting, store, {"lines": 500}, show=show).results()
    assert len(shown) == 3 * (2 * 500 + 1)


def test_lost_calls_and_lost_answers_change_nothing(store, capsys):
    chance = random.Random(1)
    transport = store.node.jobs._transport

    class Lossy:
        def call(self, name, method, arguments, timeout_seconds):
            loss = chance.choice(["", "", "before", "after"]) if method.endswith("_job") else ""
            pending = None if loss == "before" else transport.call(name, method, arguments, timeout_seconds)

            class Pending:
                def arrives(self, seconds):
                    return pending is None or pending.arrives(seconds)

                def result(self):
                    if loss == "after":
                        pending.result()
                    if loss:
                        raise Unreachable(name)
                    return pending.result()

            return Pending()

    store.node.jobs._transport = Lossy()
    eau2.run(Counting, on=store)
    assert len(capsys.readouterr().out.splitlines()) == 21


# -- barriers ---------------------------------------------------------------------------------------------------------


def test_nobody_passes_a_barrier_before_all_are_there(store):
    class Rounds(eau2.Application):
        def run(self):
            for turn in range(20):
                self.store.put(f"{turn}-{self.this_node}", b"")
                self.barrier("ab"[turn % 2])
                assert len(self.store.keys(f"{turn}-")) == self.node_count

    assert eau2.run(Rounds, on=store) == [None] * 3


def test_a_barrier_that_nodes_do_not_reach_in_time_fails_the_run_and_names_them(store):
    class Late(eau2.Application):
        def run(self):
            self.barrier("all are here")
            if self.this_node != 1:
                self.store.wait("never")
            self.barrier("counted", timeout_seconds=0.2)

    with pytest.raises(ProgramFailed, match=r"'counted': node-0 and node-2 did not come within 0\.2 s") as failed:
        eau2.run(Late, on=store)
    assert isinstance(failed.value.__cause__, WaitTimeout)
    assert failed.value.node == "node-1"


def test_a_barrier_that_a_node_cannot_reach_any_more_fails_the_run(store):
    class Gone(eau2.Application):
        def run(self):
            if self.this_node != 2:
                self.barrier("counted")

    with pytest.raises(ProgramFailed, match="'counted' cannot open: node-2 ended without reaching it"):
        eau2.run(Gone, on=store)


# -- failures ---------------------------------------------------------------------------------------------------------


class Failing(Noted):
    what: str

    def go_on(self):
        if self.this_node == 1:
            time.sleep(0.3)  # the others are in the midst of it
            self.fail()
        if self.this_node == 2:
            self.barrier("never", timeout_seconds=LONG)
        while True:
            pass

    def fail(self):
        if self.what == "get":
            self.store.get("tripz")
        exec(self.what)


@pytest.mark.parametrize(
    ("what", "said", "cause"),
    [
        ("raise ValueError('wrong')", "ValueError: wrong", ValueError),
        ("import sys; sys.exit(3)", "SystemExit: 3", SystemExit),
        ("get", "no value under 'tripz' .*did you mean 'trips'", KeyMissing),
        ("self.store.close(); self.store.keys()", "the store is closed", StoreClosed),
    ],
)
def test_a_failure_names_node_and_line_and_ends_the_others(store, tmp_path, monkeypatch, what, said, cause):
    for module, name in ((running, "GRACE_SECONDS"), (hosting, "ENDING_SECONDS")):
        monkeypatch.setattr(module, name, SECONDS_MAX)  # the machine may be slow
    store.put("trips", b"")
    line = Failing.fail.__code__.co_firstlineno + (2 if what == "get" else 3)
    with pytest.raises(
        ProgramFailed, match=rf"Failing failed on node-1, line {line} of test_programs.py: {said}"
    ) as failed:
        eau2.run(Failing, on=store, folder=tmp_path, what=what)
    assert (failed.value.node, failed.value.line) == ("node-1", line)
    assert isinstance(failed.value.__cause__, cause)
    assert {path.name for path in tmp_path.glob("ended-*")} == {"ended-0", "ended-2"}
    until(lambda: all_ended(tmp_path))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("os._exit(7)", "its process ended with exit code 7"),
        ("os.kill(os.getpid(), 9)", "its process was killed by signal 9"),
        ("import ctypes; ctypes.string_at(0)", "its process was killed by signal 11"),
    ],
)
def test_an_instance_whose_process_ends_fails_the_run(store, tmp_path, what, said):
    with pytest.raises(ProgramFailed, match=f"Failing failed on node-1: {said}") as failed:
        eau2.run(Failing, on=store, folder=tmp_path, what=what)
    assert failed.value.node == "node-1"
    until(lambda: all_ended(tmp_path))


class Sleeping(Noted):
    def go_on(self):
        if self.this_node == 0:
            self.store.wait("never", timeout_seconds=LONG)
        if self.this_node == 1:
            child = subprocess.Popen(["sleep", str(LONG)])  # ends with it
            (self.folder / f"begun-{child.pid}").touch()
        time.sleep(LONG)  # native code: it does not come back to Python


def test_a_run_that_takes_too_long_is_ended_also_where_native_code_holds_it(store, tmp_path):
    with pytest.raises(WaitTimeout, match=r"Sleeping did not end within 8 seconds"):
        eau2.run(Sleeping, on=store, folder=tmp_path, timeout_seconds=8)
    until(lambda: not any(map(lives, begun(tmp_path))))


def test_ctrl_c_ends_all_instances(store, tmp_path):
    interrupter = threading.Thread(
        target=lambda: (until(lambda: len(begun(tmp_path)) == 4), time.sleep(0.2), os.kill(os.getpid(), signal.SIGINT))
    )
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        eau2.run(Sleeping, on=store, folder=tmp_path)
    interrupter.join(SECONDS_MAX)
    until(lambda: all_ended(tmp_path))


def test_closing_the_store_ends_all_instances(store, tmp_path):
    closer = threading.Thread(target=lambda: (until(lambda: len(begun(tmp_path)) == 4), store.node.jobs.close()))
    closer.start()
    with pytest.raises(ProgramFailed, match="the store is closed"):
        eau2.run(Sleeping, on=store, folder=tmp_path)
    closer.join(SECONDS_MAX)
    until(lambda: all_ended(tmp_path))


def run_sleeping(opener, folder):
    with opener() as store:
        eau2.run(Sleeping, on=store, folder=folder)


def test_instances_end_when_their_caller_has_died(cluster, tmp_path, processes, monkeypatch):
    monkeypatch.setattr(work, "SILENT_SECONDS", 4.0)
    caller = processes.Process(target=run_sleeping, args=(cluster.opener(), tmp_path))
    caller.start()
    until(lambda: len(begun(tmp_path)) == 4)
    caller.kill()
    caller.join(SECONDS_MAX)
    until(lambda: all_ended(tmp_path))


@pytest.mark.parametrize("how", ["kill", "freeze", pytest.param("stop", marks=pytest.mark.long)])
def test_a_node_that_dies_fails_the_run_by_name_and_ends_all_instances(tmp_path, processes, how):
    folder = tmp_path / "noted"
    folder.mkdir()
    with ProcessCluster(processes, tmp_path / "nodes", NODES) as cluster, cluster.opener()() as store:
        breaker = threading.Thread(
            target=lambda: (until(lambda: len(begun(folder)) == 4), time.sleep(0.2), getattr(cluster, how)("node-1"))
        )
        breaker.start()
        with pytest.raises(ProgramFailed, match="Sleeping failed on node-1: node-1 does not answer") as failed:
            eau2.run(Sleeping, on=store, folder=folder)
        assert failed.value.node == "node-1"
        breaker.join(SECONDS_MAX)
        if how == "freeze":
            cluster.thaw("node-1")
        until(lambda: all_ended(folder))

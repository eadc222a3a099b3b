"""How a run ends when a node fails, the caller gives up, or time is over. Each would take minutes otherwise."""

import operator
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from tests.until import SECONDS_MAX, until

import eau2
from eau2.errors import KeyMissing, ProgramFailed, StoreClosed, WaitTimeout
from eau2.programs import running
from eau2.programs.application import Ended
from eau2.programs.meeting import Meeting

pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(SECONDS_MAX)]
LONG = 2 * SECONDS_MAX


def compute(program):
    while True:
        pass


def compute_in_many_steps(program):
    sum(number for _ in iter(int, 1) for number in range(1000))


def get_and_get(program):
    while True:
        program.store.get("absent", default=None)


def read_and_read(program):
    while True:
        for _ in program.local(program.store.frame("numbers")):
            pass


def swallow(program):
    while True:
        try:
            program.store.wait("never", timeout_seconds=LONG)
        except Exception:
            program.swallowed = True


WAITING = {
    "a barrier": lambda program: program.barrier("never", timeout_seconds=LONG),
    "a wait": lambda program: program.store.wait("never", timeout_seconds=LONG),
    "computing": compute,
    "a generator": compute_in_many_steps,
    "getting": get_and_get,
    "reading": read_and_read,
    "catching every Exception": swallow,
}


@pytest.mark.parametrize("what", WAITING)
def test_a_failure_on_one_node_ends_the_others_whatever_they_do(opened, what):
    ended, ready = [], threading.Barrier(3)

    class Failing(eau2.Application):
        def run(self):
            ready.wait(SECONDS_MAX)
            if self.this_node == 1:
                time.sleep(0.05)  # the others are in the midst of it
                raise ValueError("what went wrong")
            try:
                WAITING[what](self)
            except Ended:
                ended.append(self.this_node)
                raise

    store = opened(3)
    store.put("numbers", {"n": [1, 2, 3]})
    with pytest.raises(ProgramFailed) as failed:
        eau2.run(Failing, on=store)
    assert sorted(ended) == [0, 2]
    assert not failed.value.hint  # nobody was left behind


def test_the_error_names_the_program_the_node_the_line_and_what_was_raised(opened):
    class Failing(eau2.Application):
        def run(self):
            if self.this_node == 2:
                int("no number")

    line = Failing.run.__code__.co_firstlineno + 2
    with pytest.raises(ProgramFailed) as failed:
        eau2.run(Failing, on=opened(3))
    error = failed.value
    said = "invalid literal for int() with base 10: 'no number'"
    assert str(error) == f"Failing failed on node-2, line {line} of test_endings.py: ValueError: {said}"
    assert (error.node, error.line) == ("node-2", line)
    assert isinstance(error.__cause__, ValueError)


def test_an_error_of_eau2_keeps_its_sentence_and_its_hint(opened):
    class Failing(eau2.Application):
        def run(self):
            self.store.get("trip")

    store = opened(1)
    store.put("trips", b"")
    with pytest.raises(ProgramFailed, match="no value under 'trip'") as failed:
        eau2.run(Failing, on=store)
    assert isinstance(failed.value.__cause__, KeyMissing)
    assert failed.value.hint == "did you mean 'trips'?"


def test_sys_exit_in_a_program_is_a_failure(opened):
    class Leaving(eau2.Application):
        def run(self):
            sys.exit(3)

    with pytest.raises(ProgramFailed, match="SystemExit: 3"):
        eau2.run(Leaving, on=opened(2))


def test_the_first_failure_is_raised_and_not_what_came_of_it(opened):
    class Failing(eau2.Application):
        def run(self):
            if self.this_node == 0:
                raise ValueError("first")
            try:
                self.store.wait("never", timeout_seconds=LONG)
            finally:
                raise KeyError("second")

    with pytest.raises(ProgramFailed, match=r"node-0.*first"):
        eau2.run(Failing, on=opened(4))


def test_a_store_that_is_closed_meanwhile_is_a_failure(opened):
    class Closing(eau2.Application):
        def run(self):
            if self.this_node == 0:
                self.store.close()
            self.store.wait("never", timeout_seconds=LONG)

    with pytest.raises(ProgramFailed) as failed:
        eau2.run(Closing, on=opened(2))
    assert isinstance(failed.value.__cause__, StoreClosed)


def test_a_call_of_the_store_comes_to_its_end_before_the_node_is_ended(opened):
    begun, went_on = threading.Event(), []

    class Writing(eau2.Application):
        def run(self):
            if self.this_node == 0:
                begun.wait(SECONDS_MAX)
                raise ValueError
            self.store.put("whole", self.rows())
            went_on.append(self.this_node)

        def rows(self):
            for number in range(100):
                begun.set()
                time.sleep(0.005)  # in Python all the time: this is where it would be interrupted
                yield pa.record_batch({"n": np.full(10, number)})

    store = opened(2)
    with pytest.raises(ProgramFailed):
        eau2.run(Writing, on=store)
    assert store.frame("whole").rows == 1000
    assert not went_on
    assert not store.check().faults


def test_what_native_code_holds_is_left_after_the_grace_and_named(opened, monkeypatch):
    monkeypatch.setattr(running, "GRACE_SECONDS", 0.1)
    asleep, awake, sleeping, after = threading.Lock(), threading.Lock(), [], []

    class Sleeping(eau2.Application):
        def run(self):
            if self.this_node == 1:
                sleeping.append(threading.current_thread())
                list(map(operator.call, [asleep.release, awake.acquire]))  # native code till the run is over
                after.append(self.this_node)
            asleep.acquire(timeout=SECONDS_MAX)
            raise ValueError

    with asleep, awake, pytest.raises(ProgramFailed, match="node-0") as failed:
        eau2.run(Sleeping, on=opened(2))
    assert failed.value.hint.endswith(": node-1")
    sleeping[0].join(SECONDS_MAX)
    assert not after


def test_a_run_that_takes_too_long_is_ended(opened):
    with pytest.raises(WaitTimeout, match=r"Waiting did not end within 0\.1 seconds"):
        eau2.run(Waiting, on=opened(3), timeout_seconds=0.1)


def test_a_wait_in_a_program_times_out_as_ever(opened):
    class Impatient(eau2.Application):
        def run(self):
            with pytest.raises(WaitTimeout, match=r"nothing was put under 'never' within 0\.25 seconds"):
                self.store.wait("never", timeout_seconds=0.25)
            with pytest.raises(WaitTimeout):
                self.store.wait("never", timeout_seconds=0)
            return "went on"

    assert eau2.run(Impatient, on=opened(2)) == ["went on"] * 2


class Waiting(eau2.Application):
    def run(self):
        if self.this_node == 0:
            self.barrier("never", timeout_seconds=LONG)
        if self.this_node == 1:
            self.store.wait("never", timeout_seconds=LONG)
        while True:
            pass


def test_ctrl_c_ends_all_nodes_and_is_raised_at_the_caller(opened):
    store = opened(3)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        eau2.run(Waiting, on=store)


PROGRAM = f"""
import os, time, eau2
class Waiting(eau2.Application):
    def run(self):
        self.barrier("begun")
        if self.this_node == 0:
            print("begun", flush=True)
            open("begun", "w").close()
            self.barrier("never", timeout_seconds={LONG})
        if self.this_node == 1:
            self.store.wait("never")
        while True:
            time.sleep({LONG}) if self.this_node == 3 else None
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_eau2_run_and_removes_its_store(tmp_path, number, code):
    patient = "from eau2.cli import interrupts, main; interrupts.GRACE_SECONDS = 60; main()"  # the machine may be slow
    (tmp_path / "waiting.py").write_text(PROGRAM)
    (tmp_path / "temporary").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "EAU2_STORE"}
    process = subprocess.Popen(
        [sys.executable, "-c", patient, "run", "waiting.py", "--nodes", "4"],
        cwd=tmp_path,
        env=environment | {"TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: (tmp_path / "begun").exists() or process.poll() is not None)
    assert process.poll() is None
    assert list((tmp_path / "temporary").iterdir())
    process.send_signal(number)
    _, errors = process.communicate(timeout=SECONDS_MAX)
    assert (process.returncode, errors) == (code, b"")
    assert not list((tmp_path / "temporary").iterdir())


def test_after_a_program_was_interrupted_threads_can_be_traced():
    guard = running.Guard(Meeting(["node-0"]))

    def interrupted():
        guard.interrupt()
        while True:
            pass

    with pytest.raises(Ended):
        guard.run(interrupted)
    threading.setprofile(lambda *_: None)
    try:
        thread = threading.Thread(target=int, daemon=True)
        thread.start()
    finally:
        threading.setprofile(None)
    thread.join(SECONDS_MAX)
    assert not thread.is_alive()

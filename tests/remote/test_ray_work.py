"""Maps, programs and the demos on a real Ray cluster of three machines."""

import contextlib
import json
import os
import signal
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from tests.demo.test_demos import (  # noqa: F401  # fixtures
    DEMOS,
    Demo,
    Linus,
    Trivial,
    WordCount,
    answer,
    expected,
    files,
    in_small_chunks,
    small_chunks,
)
from tests.remote.test_programs import Failing, Sleeping, Who, all_ended, begun, lives
from tests.until import SECONDS_MAX, run_patiently, until

import eau2
from eau2.errors import FunctionFailed, ProgramFailed, WaitTimeout

pytestmark = [pytest.mark.slow]


@pytest.fixture
def opener(ray_cluster):
    return ray_cluster.opener("first")


@pytest.fixture
def store(opener):
    with opener() as found:
        yield found


@pytest.fixture
def frame(store, small_chunks):  # noqa: F811
    store.put("t", (pa.record_batch({"id": np.arange(i, i + 500)}) for i in range(0, 10_000, 500)))
    return store.frame("t")


def first_ids(frame):
    return [frame.source.chunk(index)["id"][0].as_py() for index in range(frame.chunks)]


@contextlib.contextmanager
def meanwhile(condition, action):
    """Within this, do `action` as soon as `condition`."""
    thread = threading.Thread(target=lambda: (until(condition), action()))
    thread.start()
    yield
    thread.join(SECONDS_MAX)


def test_a_function_goes_to_the_chunks_and_no_byte_of_them_moves(store, frame):
    found = frame.map_chunks(lambda table: (os.getpid(), table["id"][0].as_py()))
    assert [first for _, first in found] == first_ids(frame)
    assert os.getpid() not in {pid for pid, _ in found}
    kept = frame.filter_rows(lambda row: row["id"] % 1000 == 1)
    assert kept.to_arrow()["id"].to_pylist() == list(range(1, 10_000, 1000))
    counts = store.statistics()
    assert (counts.bytes_read, counts.bytes_moved) == (2 * frame.bytes, 0)
    assert max(node.tasks for node in counts.nodes) - min(node.tasks for node in counts.nodes) <= 2


def test_functions_that_fail_or_never_return_are_the_errors_of_any_store(frame, tmp_path):
    with pytest.raises(FunctionFailed, match=r"chunk \d+ of t v1 on .*ZeroDivisionError"):
        frame.map_chunks(lambda table: 1 / 0)
    with pytest.raises(FunctionFailed, match="a worker process ended while the function ran on chunk"):
        frame.map_chunks(lambda table: os._exit(3))

    def sleep(table):
        (tmp_path / f"begun-{os.getpid()}").touch()
        time.sleep(2 * SECONDS_MAX)

    frame.map_chunks(len)  # the worker processes have started then

    def some_began():
        with pytest.raises(WaitTimeout):
            frame.map_chunks(sleep, timeout_seconds=3)
        return begun(tmp_path)

    until(some_began)
    until(lambda: not any(map(lives, begun(tmp_path))))


def test_the_chunks_of_an_actor_that_is_killed_are_done_by_others(frame, tmp_path):
    actors = sorted(set(frame.map_chunks(lambda table: os.getppid())))
    assert len(actors) == 3

    def slow(table):
        (tmp_path / "begun").touch()
        time.sleep(0.2)
        return table["id"][0].as_py()

    with meanwhile((tmp_path / "begun").exists, lambda: os.kill(actors[1], signal.SIGKILL)):
        assert frame.map_chunks(slow, timeout_seconds=SECONDS_MAX) == first_ids(frame)


def test_a_program_runs_in_processes_of_its_own(store):
    answers = eau2.run(Who, on=store, factor=3)
    assert [answer[:2] for answer in answers] == [(0, 3), (3, 3), (6, 3)]
    assert len({answer[3] for answer in answers} | {os.getpid()}) == 4
    assert [answer[2] for answer in answers] == list(store.nodes)


def test_a_program_that_fails_on_one_node_ends_everywhere(store, tmp_path):
    names = store.nodes
    store.put("trips", b"")
    with pytest.raises(ProgramFailed, match="no value under 'tripz'") as failed:
        eau2.run(Failing, on=store, folder=tmp_path, what="get")
    assert failed.value.node == names[1]
    until(lambda: all_ended(tmp_path))


def test_a_program_ends_with_the_actor_of_one_of_its_nodes(store, tmp_path):
    names = store.nodes

    class Telling(Sleeping):
        def go_on(self):
            self.store.put(f"actor-{self.this_node}", str(os.getppid()).encode())
            super().go_on()

    def kill():
        actors = [int(store.wait(f"actor-{number}")) for number in range(3)]  # the others are in no call that it fails
        os.kill(actors[1], signal.SIGKILL)

    with (
        meanwhile(lambda: len(begun(tmp_path)) == 4, kill),
        pytest.raises(ProgramFailed) as failed,
    ):
        eau2.run(Telling, on=store, folder=tmp_path)
    assert failed.value.node == names[1]
    until(lambda: all_ended(tmp_path))


def run_sleeping(opener, folder):
    with opener() as store:
        eau2.run(Sleeping, on=store, folder=folder)


@pytest.mark.long
def test_a_program_ends_with_its_caller(opener, tmp_path, processes):
    caller = processes.Process(target=run_sleeping, args=(opener, tmp_path))
    caller.start()
    until(lambda: len(begun(tmp_path)) == 4)
    caller.kill()
    caller.join(SECONDS_MAX)
    until(lambda: all_ended(tmp_path))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("program", [Trivial, Demo, WordCount, Linus], ids=lambda program: program.__name__)
def test_the_demos_answer_as_ever(program, store, files, expected):  # noqa: F811
    assert answer(program, store, files[program], run=in_small_chunks(program)) == expected[program]


def test_eau2_run_takes_a_cluster(opener):
    home, address = opener.args
    command = [sys.executable, "-m", "eau2.cli", "run", str(DEMOS / "wordcount.py"), "--store", address, "--json"]
    done = run_patiently(command, env=os.environ | {"EAU2_HOME": home})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["results"] == [49, None, None]
    assert [printed["line"] for printed in said["printed"]] == ["Different words: 49"]

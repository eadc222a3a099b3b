"""Maps on nodes that are processes of their own: where the data is, in order, and whatever breaks."""

import errno
import gc
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from loky.backend.process import LokyProcess
from tests.remote.clusters import Cluster, ProcessCluster
from tests.remote.jobs_in_process import Processes
from tests.until import SECONDS_MAX, until

import eau2
from eau2.errors import FunctionFailed, NodeUnavailable, QueryError, StoreClosed, WaitTimeout
from eau2.ingest.writer import FrameWriter
from eau2.query import mapping
from eau2.query.shipping import Rows, Task
from eau2.remote import crew, jobs, work
from eau2.store.nodes import closed

pytestmark = pytest.mark.slow  # each starts worker processes


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", 4096)


@pytest.fixture
def workers():
    """How many a node has: each is a process, which takes a second to start."""
    return 1


@pytest.fixture
def nodes(tmp_path, small_chunks, workers):
    """Three nodes, and a frame of many chunks on two of them each."""
    found = Processes(eau2.open(tmp_path / "store", nodes=3), workers)
    found.store.put("t", (pa.record_batch({"id": np.arange(i, i + 500)}) for i in range(0, 10_000, 500)))
    yield found
    found.close()


def firsts(frame):
    return [chunk["id"][0].as_py() for chunk in (frame.source.chunk(i) for i in range(frame.chunks))]


def test_results_come_in_chunk_order_and_no_byte_of_a_chunk_moves(nodes):
    frame = nodes.store.frame("t")
    before = nodes.store.statistics()
    found = frame.map_chunks(lambda table: (os.getpid(), table["id"][0].as_py(), pc.sum(table["id"]).as_py()))
    assert [first for _, first, _ in found] == firsts(frame)
    assert sum(total for _, _, total in found) == sum(range(10_000))
    assert os.getpid() not in {pid for pid, _, _ in found}
    after = nodes.store.statistics()
    assert (after.tasks - before.tasks, after.chunks_read - before.chunks_read) == (frame.chunks, frame.chunks)
    assert after.bytes_read - before.bytes_read == frame.bytes
    assert after.bytes_moved == after.rows_moved == 0
    tasks = [node.tasks for node in after.nodes]
    assert max(tasks) - min(tasks) <= 1


def test_rows_are_mapped_and_filtered_in_order_where_they_are(nodes):
    frame = nodes.store.frame("t")
    offset = 7
    assert frame.map_rows(lambda row: row["id"] + offset) == list(range(7, 10_007))
    kept = frame.filter_rows(lambda row: row["id"] % 3 == 1)
    assert kept.to_arrow()["id"].to_pylist() == list(range(1, 10_000, 3))
    assert kept.schema == frame.schema
    assert nodes.store.statistics().rows_moved == 0


def test_of_a_slice_of_a_chunk_only_its_own_rows_come_back(nodes):
    frame = nodes.store.frame("t")
    said = []
    begin = nodes.store.node.jobs.begin

    def begin_and_listen(node, kind, order, ear):
        hear = type(ear).hear

        class Listening(type(ear)):
            def hear(self, outcome):
                said.append(len(outcome.found))
                hear(self, outcome)

        return begin(node, kind, order, Listening(ear.scattered, ear.node))

    nodes.store.node.jobs.begin = begin_and_listen
    heads = frame.map_chunks(lambda table: table.slice(0, 1), pa.concat_tables)
    assert heads["id"].to_pylist() == firsts(frame)
    assert len(said) == frame.chunks
    assert max(said) < 1500 < frame.bytes / frame.chunks


def test_the_answer_of_a_query_is_mapped_here(nodes):
    answer = nodes.store.sql("select id from t where id >= 9990")
    assert answer.map_rows(lambda row: row["id"]) == list(range(9990, 10_000))
    assert nodes.store.frame("t").filter("id < 0").map_chunks(len) == []


MODULE = """
import threading
LOCK = threading.Lock()
FACTOR = {factor}
class Odd(Exception):
    pass
def scaled(row):
    from travelling.deeper import offset
    with LOCK:
        return row["id"] * FACTOR + offset()
def refuse(table):
    raise Odd("no")
"""


def test_the_callers_own_modules_travel_as_they_are_when_the_map_starts(nodes, tmp_path, monkeypatch):
    folder = tmp_path / "mine" / "travelling"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(MODULE.format(factor=3))
    (folder / "deeper.py").write_text("def offset():\n    return 5\n")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    import travelling

    try:
        frame = nodes.store.frame("t")
        assert frame.map_rows(travelling.scaled) == [3 * i + 5 for i in range(10_000)]
        assert frame.map_rows(lambda row: travelling.scaled(row))[:3] == [5, 8, 11]
        with pytest.raises(FunctionFailed, match=r"chunk \d+ of t v1 on node-\d: Odd: no") as failed:
            frame.map_chunks(travelling.refuse)
        assert type(failed.value.__cause__) is travelling.Odd
        (folder / "__init__.py").write_text(MODULE.format(factor=4))
        assert frame.map_rows(travelling.scaled)[:3] == [5, 9, 13]
    finally:
        del sys.modules["travelling"]


def test_what_cannot_be_sent_is_refused_before_anything_runs(nodes):
    lock = threading.Lock()
    with pytest.raises(QueryError, match="cannot be sent to another process"):
        nodes.store.frame("t").map_chunks(lambda table: lock.locked())
    assert nodes.transport.calls == []


def test_a_failure_names_key_chunk_and_node_and_stops_the_others(nodes):
    frame = nodes.store.frame("t")
    last = firsts(frame)[-1]

    def fail(table):
        if table["id"][0].as_py() == last:
            raise LookupError("no such thing")
        return table.num_rows

    place = frame.source.places[-1]
    with pytest.raises(FunctionFailed) as failed:
        frame.map_chunks(fail)
    said = f"the function failed on chunk {frame.chunks - 1} of t v1 on {place}: LookupError: no such thing"
    assert (str(failed.value), failed.value.chunk) == (said, frame.chunks - 1)
    assert isinstance(failed.value.__cause__, LookupError)
    assert sum(frame.map_chunks(len)) == 10_000


@pytest.mark.parametrize("ending", ["os._exit(3)", "os.kill(os.getpid(), 9)", "sys.exit(3)"])
def test_a_function_that_ends_its_process_is_a_failure_of_its_chunk(nodes, ending):
    frame = nodes.store.frame("t")
    third = firsts(frame)[3]

    def die(table):
        if table["id"][0].as_py() == third:
            exec("import os, sys; " + ending)
        return table.num_rows

    with pytest.raises(FunctionFailed, match=rf"on chunk 3 of t v1 on {frame.source.places[3]}") as failed:
        frame.map_chunks(die, timeout_seconds=SECONDS_MAX)
    assert failed.value.chunk == 3
    assert sum(frame.map_chunks(len)) == 10_000


def test_what_ends_with_one_map_is_nothing_to_the_next(nodes):
    frame = nodes.store.frame("t")
    for _ in range(6):
        with pytest.raises(FunctionFailed, match="ZeroDivisionError"):
            frame.map_chunks(lambda table: 1 / 0)
        assert sum(frame.map_chunks(len)) == 10_000


def test_results_that_cannot_be_sent_or_made_again_are_failures(nodes):
    class Once:
        def __reduce__(self):
            return exec, ("raise ValueError('only once')",)

    frame = nodes.store.frame("t")
    with pytest.raises(FunctionFailed, match="pickle"):
        frame.map_chunks(lambda table: threading.Lock())
    with pytest.raises(FunctionFailed, match="cannot be made again"):
        frame.map_chunks(lambda table: Once())


def test_an_error_that_only_the_node_can_make_again_is_a_failure_that_says_what_it_said(nodes):
    here = os.getpid()

    class Odd(Exception):
        def __reduce__(self):
            return made_again, self.args

    def made_again(said):
        if os.getpid() == here:
            raise ImportError("no such module here")
        return Odd(said)

    def fail(table):
        raise Odd("not so")

    frame = nodes.store.frame("t")
    with pytest.raises(FunctionFailed, match=r"chunk \d+ of t v1 on node-\d: RuntimeError: Odd: not so$") as failed:
        frame.map_chunks(fail, timeout_seconds=SECONDS_MAX)
    assert isinstance(failed.value.__cause__.__cause__, ImportError)
    with pytest.raises(FunctionFailed, match="Odd: not so"):
        frame.map_rows(fail, timeout_seconds=SECONDS_MAX)
    nodes.store.delete("t")  # it is mapped here then
    with pytest.raises(FunctionFailed, match="cannot be made again in this process: ImportError: no such module here"):
        frame.map_chunks(fail, timeout_seconds=SECONDS_MAX)


def sleep_long(tmp_path):
    folder = tmp_path / "asleep"
    folder.mkdir(exist_ok=True)

    def sleep(table):
        (folder / str(os.getpid())).touch()
        time.sleep(2 * SECONDS_MAX)

    return folder, sleep


def all_ended(folder):
    pids = [path.name for path in folder.iterdir()]
    return pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_function_that_never_returns_is_ended_on_the_nodes_when_time_is_over(nodes, tmp_path):
    folder, sleep = sleep_long(tmp_path)
    frame = nodes.store.frame("t")
    frame.map_chunks(len)  # the worker processes have started then

    def some_began():
        with pytest.raises(WaitTimeout, match="chunk 0 of t v1 in time"):
            frame.map_chunks(sleep, timeout_seconds=3)
        return list(folder.iterdir())

    until(some_began)
    until(lambda: all_ended(folder))


@pytest.mark.parametrize("workers", [2])
def test_a_failure_does_not_wait_for_what_never_returns(nodes, tmp_path):
    folder, sleep = sleep_long(tmp_path)
    frame = nodes.store.frame("t")
    fifth = firsts(frame)[5]

    def fail_or_sleep(table):
        if table["id"][0].as_py() != fifth:
            sleep(table)
        raise LookupError

    with pytest.raises(FunctionFailed, match="chunk 5 of t v1") as failed:
        frame.map_chunks(fail_or_sleep)
    assert failed.value.chunk == 5
    until(lambda: all_ended(folder))


def test_ctrl_c_ends_the_work_on_the_nodes(nodes, tmp_path):
    folder, sleep = sleep_long(tmp_path)
    folder_has_some = threading.Thread(
        target=lambda: (until(lambda: list(folder.iterdir())), os.kill(os.getpid(), signal.SIGINT))
    )
    folder_has_some.start()
    with pytest.raises(KeyboardInterrupt):
        nodes.store.frame("t").map_chunks(sleep)
    folder_has_some.join(SECONDS_MAX)
    until(lambda: all_ended(folder))


def test_closing_ends_the_work_on_the_nodes(nodes, tmp_path):
    folder, sleep = sleep_long(tmp_path)
    closer = threading.Thread(target=lambda: (until(lambda: list(folder.iterdir())), nodes.store.node.jobs.close()))
    closer.start()
    with pytest.raises(StoreClosed):
        nodes.store.frame("t").map_chunks(sleep)
    closer.join(SECONDS_MAX)
    until(lambda: all_ended(folder))
    with pytest.raises(StoreClosed):
        nodes.store.frame("t").map_chunks(len)


def test_the_work_of_a_caller_that_is_not_heard_of_any_more_is_ended(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SILENT_SECONDS", 1.0)
    folder, sleep = sleep_long(tmp_path)
    frame = nodes.store.frame("t")
    frame.map_chunks(len)  # the worker processes have started then

    def fall_silent():
        until(lambda: list(folder.iterdir()))
        nodes.transport.dead.update(nodes.store.nodes)

    silencer = threading.Thread(target=fall_silent)
    silencer.start()
    monkeypatch.setattr(jobs, "GONE_SECONDS", 9.0)
    with pytest.raises(WaitTimeout):
        frame.map_chunks(sleep, timeout_seconds=8)
    silencer.join(SECONDS_MAX)
    until(lambda: all_ended(folder))


# -- what breaks ------------------------------------------------------------------------------------------------------


def test_the_chunks_of_a_node_that_dies_are_done_by_others_that_have_them(nodes, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "GONE_SECONDS", 0.3)
    frame = nodes.store.frame("t")
    begun = tmp_path / "begun"

    def slow(table):
        begun.touch()
        time.sleep(0.1)
        return table["id"][0].as_py()

    killer = threading.Thread(target=lambda: (until(begun.exists), nodes.kill("node-1")))
    killer.start()
    assert frame.map_chunks(slow, timeout_seconds=SECONDS_MAX) == firsts(frame)
    killer.join(SECONDS_MAX)
    after = {node.name: node for node in nodes.store.statistics().nodes}
    assert after["node-0"].tasks + after["node-2"].tasks + after["node-1"].tasks >= frame.chunks
    assert after["node-0"].bytes_moved == after["node-2"].bytes_moved == 0


def test_a_node_that_is_dead_from_the_start_is_passed_over(nodes, monkeypatch):
    monkeypatch.setattr(jobs, "GONE_SECONDS", 0.1)
    nodes.transport.dead.add("node-2")
    frame = nodes.store.frame("t")
    assert "node-2" in frame.source.places
    assert sum(frame.map_chunks(len)) == 10_000
    with pytest.raises(FunctionFailed, match=r"chunk \d+ of t v1 on node-[01]: ZeroDivisionError"):
        frame.map_chunks(lambda table: 1 / 0)


def test_a_node_whose_words_cannot_be_taken_in_is_passed_over(nodes, monkeypatch):
    def say_nonsense(*_):
        said = Future()
        said.set_result((((b"nonsense", True),), None))
        return said

    monkeypatch.setattr(nodes.transport.works["node-1"], "hear_job", say_nonsense)
    assert sum(nodes.store.frame("t").map_chunks(len, timeout_seconds=SECONDS_MAX)) == 10_000


def test_a_store_that_is_closed_while_a_node_is_lost_ends_the_map(nodes, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "GONE_SECONDS", 0.3)
    _, sleep = sleep_long(tmp_path)
    nodes.store.put("few", {"id": [1, 2, 3]})  # one chunk: it is sent when the node is lost
    frame = nodes.store.frame("few")
    node = frame.source.places[0]

    def refuse():
        raise closed()

    def lose():
        until(lambda: list((tmp_path / "asleep").iterdir()))
        monkeypatch.setattr(nodes.store.node, "live", refuse)
        nodes.transport.dead.add(node)

    loser = threading.Thread(target=lose)
    loser.start()
    with pytest.raises(StoreClosed):
        frame.map_chunks(sleep, timeout_seconds=SECONDS_MAX)
    loser.join(SECONDS_MAX)


def too_many_open_files(*_):
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("what", ["pool", "process"])
def test_a_worker_process_that_cannot_be_started_is_no_loss(nodes, monkeypatch, what):
    frame = nodes.store.frame("t")
    where, name = (crew, "worker_pool") if what == "pool" else (LokyProcess, "start")
    start, tries = getattr(where, name), []

    def fail_twice(*arguments):
        tries.append(1)
        return (start if len(tries) > 2 else too_many_open_files)(*arguments)

    monkeypatch.setattr(where, name, fail_twice)
    assert sum(frame.map_chunks(len, timeout_seconds=SECONDS_MAX)) == 10_000
    pids = frame.map_chunks(lambda table: (time.sleep(0.05), os.getpid())[1], timeout_seconds=SECONDS_MAX)
    assert len(set(pids)) == 3  # each node has a worker again
    assert os.getpid() not in pids


def test_when_no_worker_process_can_be_started_anywhere_the_error_says_so(nodes, monkeypatch):
    frame = nodes.store.frame("t")
    with monkeypatch.context() as failing:
        failing.setattr(LokyProcess, "start", too_many_open_files)
        with pytest.raises(
            NodeUnavailable, match=r"chunk \d+ of t v1 .*node-\d cannot run it: OSError: .*Too many open"
        ):
            frame.map_chunks(len, timeout_seconds=SECONDS_MAX)
    assert sum(frame.map_chunks(len, timeout_seconds=SECONDS_MAX)) == 10_000
    nodes.store.delete("t")
    assert sum(frame.map_chunks(len, timeout_seconds=SECONDS_MAX)) == 10_000


def test_what_no_node_has_any_more_is_mapped_here_as_long_as_it_is_held(nodes):
    frame = nodes.store.frame("t")
    nodes.store.delete("t")
    assert sum(frame.map_chunks(len)) == 10_000
    with pytest.raises(FunctionFailed, match=r"chunk \d+ of t v1: ZeroDivisionError"):
        frame.map_chunks(lambda table: 1 / 0)


def test_a_damaged_copy_is_passed_over_for_another(nodes):
    frame = nodes.store.frame("t")
    name, chunk = frame.source.places[0], frame.source.manifest.chunk_ids[0]
    path = Path(nodes.store.node.at(name)._files.path(chunk))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-3] + b"abc")
    assert sum(frame.map_chunks(len)) == 10_000


@pytest.mark.parametrize("seed", range(2))
def test_lost_calls_and_lost_answers_change_nothing(nodes, seed):
    chance = random.Random(seed)
    nodes.transport.losses = lambda method: chance.choice(["", "", "before", "after"])
    frame = nodes.store.frame("t")
    assert frame.map_chunks(lambda table: table["id"][0].as_py()) == firsts(frame)
    assert nodes.store.statistics().tasks == frame.chunks


NODES = ["node-0", "node-1", "node-2"]


@pytest.mark.parametrize(
    "when",
    [
        "killed meanwhile",
        "frozen meanwhile",
        *(pytest.param(f"{how} before", marks=pytest.mark.long) for how in ("killed", "frozen")),
    ],
)
def test_the_process_of_a_node_is_killed_or_frozen(tmp_path, processes, small_chunks, monkeypatch, when):
    monkeypatch.setattr(jobs, "GONE_SECONDS", 10 * SECONDS_MAX)  # not waited for: the cluster goes on without the node
    begun = tmp_path / "begun"

    def slow(table):
        begun.touch()
        time.sleep(0.1)
        return table["id"][0].as_py(), os.getppid()

    with ProcessCluster(processes, tmp_path / "nodes", NODES) as cluster, cluster.opener()() as store:
        store.put("t", (pa.record_batch({"id": np.arange(i, i + 500)}) for i in range(0, 10_000, 500)))
        frame = store.frame("t")
        nodes = {process.pid for process in cluster.running.values()}
        assert {parent for _, parent in frame.map_chunks(slow)} <= nodes
        begun.unlink()
        how, when = when.split()
        end = cluster.freeze if how == "frozen" else cluster.kill
        breaker = threading.Thread(target=lambda: (when == "before" or until(begun.exists), end("node-1")))
        breaker.start()
        if when == "before":
            breaker.join(SECONDS_MAX)
        assert [first for first, _ in frame.map_chunks(slow, timeout_seconds=SECONDS_MAX)] == firsts(frame)
        breaker.join(SECONDS_MAX)
        with pytest.raises(FunctionFailed, match=r"chunk \d+ of t v1 on node-[02]: ZeroDivisionError"):
            frame.map_chunks(lambda table: 1 / 0)


def test_closing_the_store_ends_a_map_within_a_second_or_so(tmp_path):
    folder, sleep = sleep_long(tmp_path)
    with Cluster(tmp_path / "nodes", NODES) as cluster:
        store = cluster.opener()()
        store.put("t", {"id": [1, 2, 3]})
        frame = store.frame("t")
        closer = threading.Thread(target=lambda: (until(lambda: list(folder.iterdir())), store.close()))
        closer.start()
        with pytest.raises(StoreClosed):
            frame.map_chunks(sleep)
        closer.join(SECONDS_MAX)
        until(lambda: all_ended(folder))
        with pytest.raises(StoreClosed):
            frame.map_chunks(len)


def test_chunks_of_which_no_copy_lives_are_named_with_their_nodes(tmp_path, processes, small_chunks):
    with ProcessCluster(processes, tmp_path / "nodes", NODES, replicas=1) as cluster, cluster.opener()() as store:
        store.put("t", (pa.record_batch({"id": np.arange(i, i + 500)}) for i in range(0, 10_000, 500)))
        frame = store.frame("t")
        lost = frame.source.places.index("node-1")
        cluster.kill("node-1")
        assert sum(frame.map_chunks(len)) == 10_000  # held here: the driver is on the machine, and has mapped them
        del frame
        gc.collect()
        with pytest.raises(NodeUnavailable, match="node-1"):
            store.frame("t").map_chunks(len)
        assert lost >= 0


# -- sharing ----------------------------------------------------------------------------------------------------------


def test_a_node_does_as_many_tasks_at_once_as_it_has_workers(tmp_path, small_chunks):
    one = Processes(eau2.open(tmp_path / "store"))
    try:
        one.store.put("t", (pa.record_batch({"id": np.arange(i, i + 500)}) for i in range(0, 1_500, 500)))
        frame = one.store.frame("t")
        first = firsts(frame)[:2]

        def meet(table):
            (tmp_path / f"here-{table['id'][0]}").touch()
            deadline = time.monotonic() + SECONDS_MAX
            while not all((tmp_path / f"here-{number}").exists() for number in first):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
            return True

        assert frame.map_chunks(meet) == [True] * frame.chunks
        assert frame.chunks in (2, 3)
    finally:
        one.close()


@pytest.mark.parametrize("workers", [2])
def test_maps_that_run_at_the_same_time_share_the_nodes(nodes):
    frame = nodes.store.frame("t")
    began = threading.Event()

    def slow(table):
        time.sleep(0.5)
        return table.num_rows

    done = []

    def long_map():
        began.set()
        frame.map_chunks(slow)
        done.append("long")

    thread = threading.Thread(target=long_map)
    thread.start()
    began.wait(SECONDS_MAX)
    time.sleep(0.5)
    assert sum(frame.map_chunks(len)) == 10_000
    done.append("short")
    thread.join(SECONDS_MAX)
    assert done == ["short", "long"]
    assert max(len(crew._workers) for crew in nodes.crews.values()) <= 2


@pytest.mark.parametrize("workers", [2])
def test_no_more_is_done_ahead_than_is_soon_asked_for(nodes):
    frame = nodes.store.frame("t")
    parts = [Rows(chunk, 0, rows) for chunk, rows in enumerate(frame.source.manifest.chunk_rows)]
    task = Task("chunk", lambda table: bytes(20 << 20))  # cut in pieces on its way
    results = mapping._run(frame._engine, frame.source, parts, task, "threads", None)
    ahead = len(nodes.crews) * 3
    assert len(next(results)) == 20 << 20
    until(lambda: nodes.store.statistics().tasks == ahead < frame.chunks)
    time.sleep(0.3)
    assert nodes.store.statistics().tasks == ahead
    assert [len(result) for result in results] == [20 << 20] * (frame.chunks - 1)

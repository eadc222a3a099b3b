"""The caller's functions over chunks and rows: order, failures by name, nothing left behind."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.until import SECONDS_MAX, until

from eau2.errors import FunctionFailed, InvalidOption, QueryError, StoreClosed, WaitTimeout
from eau2.frame.frame import Frame
from eau2.query import mapping
from eau2.query.shipping import ChunkFiles, Rows
from eau2.query.source import Source

pytestmark = pytest.mark.slow  # processes are started

BOTH = pytest.mark.parametrize("workers", ["threads", "processes"])


def numbers(rows=1000):
    return pa.table({"id": np.arange(rows), "name": [f"n{i}" for i in range(rows)]})


@pytest.fixture
def frame(tables):
    return tables.hold("t", numbers(), rows_per_chunk=100)


@pytest.mark.slow
@BOTH
def test_results_come_in_chunk_order(frame, workers):
    def slow_first(table):
        time.sleep(0.05 if table["id"][0].as_py() == 0 else 0)
        return pc.sum(table["id"]).as_py()

    expected = [sum(range(start, start + 100)) for start in range(0, 1000, 100)]
    assert frame.map_chunks(slow_first, workers=workers) == expected
    assert frame.map_chunks(slow_first, sum, workers=workers) == sum(range(1000))


def test_combine_is_called_once_with_all_results(frame):
    assert frame.map_chunks(lambda table: table.slice(0, 1), pa.concat_tables)["id"].to_pylist() == list(
        range(0, 1000, 100)
    )
    pairwise = functools.partial(functools.reduce, lambda one, other: max(one, other))
    assert frame.map_chunks(lambda table: table.num_rows, pairwise) == 100


def test_chunks_are_mapped_at_the_same_time(make_tables):
    frame = make_tables(threads=2).hold("t", numbers(), rows_per_chunk=100)
    meeting = threading.Barrier(2, timeout=SECONDS_MAX)

    def meet(table):
        if table["id"][0].as_py() < 200:
            meeting.wait()
        return True

    assert all(frame.map_chunks(meet))


@BOTH
def test_rows_are_mapped_in_order(frame, workers):
    offset = 7
    assert frame.map_rows(lambda row: (row["id"] + offset, row["name"]), workers=workers) == [
        (i + 7, f"n{i}") for i in range(1000)
    ]


@BOTH
def test_rows_are_filtered_into_a_frame_that_can_be_queried(tables, frame, workers):
    kept = frame.filter_rows(lambda row: row["id"] % 7 == 3, workers=workers)
    expected = list(range(3, 1000, 7))
    assert kept.to_arrow()["id"].to_pylist() == expected
    assert (kept.key, kept.version, kept.rows, kept.schema) == (None, None, len(expected), frame.schema)
    assert kept.filter("id > 990").to_arrow()["id"].to_pylist() == [i for i in expected if i > 990]
    assert kept.join(frame, on="id").rows == len(expected)
    assert not any(path.is_file() and path.name != "lock" for path in Path(tables.engine.spill.path()).rglob("*"))


def test_the_truth_of_the_result_decides(frame):
    assert frame.filter_rows(lambda row: row["name"].count("9")).rows == 271
    assert frame.filter_rows(lambda row: None).rows == 0


@BOTH
def test_a_derived_frame_is_mapped_over_its_answer(frame, workers):
    answer = frame.filter("id >= 990").select("id")
    assert answer.map_rows(lambda row: row["id"], workers=workers) == list(range(990, 1000))
    assert sum(answer.map_chunks(len, workers=workers)) == 10
    assert frame.filter("id < 0").map_chunks(len, workers=workers) == []
    assert frame.filter("id < 0").map_rows(len, workers=workers) == []


@pytest.mark.slow
def test_a_large_answer_is_mapped_in_pieces(tables):
    large = tables.hold("t", pa.table({"x": np.arange(6_000_000)}))
    pieces = large.filter("x >= 0").map_chunks(lambda table: (table["x"][0].as_py(), table.num_rows))
    assert len(pieces) == 3
    assert sum(rows for _, rows in pieces) == 6_000_000
    assert [first for first, _ in pieces] == [0, *np.cumsum([rows for _, rows in pieces])[:-1].tolist()]


@BOTH
def test_a_failure_names_the_chunk_and_stops_the_others(tables, workers):
    frame = tables.hold("t", numbers(100), rows_per_chunk=2)
    started = []

    def fail(table):
        started.append(1)
        if table["id"][0].as_py() == 6:
            raise LookupError("no such thing")
        time.sleep(0.02)

    with pytest.raises(FunctionFailed, match=r"chunk 3 of t v1: LookupError: no such thing") as caught:
        frame.map_chunks(fail, workers=workers)
    assert caught.value.chunk == 3
    assert isinstance(caught.value.__cause__, LookupError)
    assert len(started) <= 4 + tables.engine.threads
    assert frame.map_chunks(len, workers=workers) == [2] * 50


def test_the_node_is_named_where_there_is_one(tables):
    class Named:
        name = "node-7"
        jobs = None

        def verify(self, chunk_ids, data, *, key="", places=()):
            pass

    held = tables.hold("t", numbers()).source
    source = Source("t", 1, held.manifest, held.mapped, Named())
    with pytest.raises(FunctionFailed, match="chunk 0 of t v1 on node-7"):
        Frame.stored(source, tables.engine).map_rows(lambda row: row["nope"])


def test_a_failure_does_not_wait_for_what_runs_beside_it(make_tables):
    frame = make_tables(threads=2).hold("t", numbers(), rows_per_chunk=100)
    left = threading.Event()

    def fail_or_wait(table):
        if table["id"][0].as_py() == 100:
            raise LookupError
        left.wait(2 * SECONDS_MAX)

    with pytest.raises(FunctionFailed, match="chunk 1 of t v1"):
        frame.map_chunks(fail_or_wait)
    left.set()


@pytest.mark.slow
def test_a_worker_process_that_dies_is_a_failure_and_no_hang(frame):
    def die(table):
        if table["id"][0].as_py() == 300:
            os._exit(3)
        return 1

    with pytest.raises(FunctionFailed, match="a worker process ended while the function ran on chunk") as caught:
        frame.map_chunks(die, workers="processes", timeout_seconds=60)
    assert caught.value.chunk in range(10)
    with pytest.raises(FunctionFailed, match="ended"):
        frame.map_rows(lambda row: os.kill(os.getpid(), signal.SIGSEGV), workers="processes", timeout_seconds=60)
    assert sum(frame.map_chunks(len, workers="processes")) == 1000


@pytest.mark.slow
def test_a_worker_that_died_before_the_next_part_was_sent_is_a_failure_too(frame):
    with pytest.raises(BrokenExecutor), frame._engine.workers.lease() as pool:
        with pytest.raises(BrokenExecutor):
            pool.submit(os._exit, 3).result(60)
        with ChunkFiles(frame.source, frame._engine.spill) as files:
            mapping._Processes(pool, files, b"", 1).submit(Rows(0, 0, 1)).result(10)
    assert sum(frame.map_chunks(len, workers="processes")) == 1000


@pytest.mark.slow
def test_what_cannot_be_sent_to_a_process_is_refused_before_it_starts(frame):
    lock = threading.Lock()
    with pytest.raises(QueryError, match="cannot be sent to another process"):
        frame.map_chunks(lambda table: lock.locked(), workers="processes")
    with pytest.raises(FunctionFailed) as caught:
        frame.map_chunks(lambda table: threading.Lock(), workers="processes")
    assert "pickle" in str(caught.value)
    assert frame.map_chunks(lambda table: lock.locked()) == [False] * 10


@BOTH
def test_a_function_that_takes_too_long_is_left(frame, workers):
    left = threading.Event()
    start = time.monotonic()
    with pytest.raises(WaitTimeout, match="chunk 0 of t v1"):
        if workers == "threads":
            frame.map_chunks(lambda table: left.wait(2 * SECONDS_MAX), workers=workers, timeout_seconds=0.3)
        else:
            frame.map_chunks(lambda table: time.sleep(2 * SECONDS_MAX), workers=workers, timeout_seconds=0.3)
    assert time.monotonic() - start < SECONDS_MAX
    left.set()  # or the thread would go on beside other tests


@pytest.mark.parametrize("options", [{"workers": "fibres"}, {"timeout_seconds": 0}, {"timeout_seconds": -1}])
def test_options_out_of_range_are_refused(frame, options):
    with pytest.raises(InvalidOption):
        frame.map_chunks(len, **options)


def test_what_is_no_function_is_refused(frame):
    with pytest.raises(QueryError, match="a function is expected, not int"):
        frame.map_chunks(5)


def test_rows_in_worker_processes_come_from_the_file_and_not_through_a_pipe(tables):
    sent = []
    frame = tables.hold("t", pa.table({"x": np.zeros(1 << 20)}), rows_per_chunk=1 << 18)
    workers = tables.engine.workers
    with workers.lease() as pool:
        submit = pool.submit
        pool.submit = lambda function, path, rows, shipped: (
            sent.append(len(shipped)) or submit(function, path, rows, shipped)
        )
    assert frame.map_chunks(lambda table: table.num_rows, workers="processes") == [1 << 18] * 4
    assert len(sent) == 4
    assert max(sent) < 10_000


@pytest.mark.slow
def test_two_maps_in_processes_at_once_do_not_end_each_other(frame):
    failed = []

    def fail():
        try:
            frame.map_chunks(lambda table: 1 / 0, workers="processes")
        except FunctionFailed as error:
            failed.append(error)

    def patient(table):
        time.sleep(0.1)
        return table.num_rows

    thread = threading.Thread(target=fail)
    thread.start()
    assert sum(frame.map_chunks(patient, workers="processes")) == 1000
    thread.join(60)
    assert len(failed) == 1


@pytest.mark.slow
def test_a_closed_engine_has_no_processes_left(make_tables):
    own = make_tables()
    frame = own.hold("t", numbers(), rows_per_chunk=100)
    pids = set(frame.map_chunks(lambda table: os.getpid(), workers="processes"))
    assert os.getpid() not in pids
    own.engine.close()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    with pytest.raises(StoreClosed):
        frame.map_chunks(len, workers="processes")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.02, 0.5])  # while the processes start, and while they run
def test_closing_during_a_map_in_processes_is_that_and_no_failure_of_the_function(make_tables, seconds, monkeypatch):
    own = make_tables()
    frame = own.hold("t", numbers(), rows_per_chunk=100)
    closer = threading.Timer(seconds, own.engine.close)
    take = own.engine.workers._take

    def take_and_close():  # from here on it counts as run; what comes before may take longer than the timer
        pool = take()
        closer.start()
        return pool

    monkeypatch.setattr(own.engine.workers, "_take", take_and_close)
    with pytest.raises(StoreClosed, match="was closed while the function ran"):
        frame.map_chunks(lambda table: time.sleep(2 * SECONDS_MAX), workers="processes")
    closer.join(SECONDS_MAX)


def test_a_pool_that_a_map_and_a_close_end_at_once_is_shut_down_by_one_after_the_other(make_tables):
    class Pool:
        inside = most = 0

        def shutdown(self, **_):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.05)
            self.inside -= 1

    workers, pool = make_tables().engine.workers, Pool()
    threads = [threading.Thread(target=workers._end, args=(pool,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
    assert pool.most == 1


SCRIPT = """
    import os, sys, time
    import numpy as np, pyarrow as pa
    from eau2.query.engine import Engine
    from eau2.frame.frame import Frame
    from eau2.query.source import Source, unnamed
    engine = Engine()
    table = pa.table({"id": np.arange(400_000)})
    made = unnamed(table.schema, [table.slice(i, 100_000) for i in range(0, 400_000, 100_000)])
    source = Source("t", 0, made.manifest, made.mapped, None)
    frame = Frame.stored(source, engine)
    def of_main(row):
        return row["id"] * FACTOR
    FACTOR = 3
"""


def run_script(code):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT + code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_functions_of_main_work_and_nothing_is_said_at_the_end():
    code = """
    assert sum(frame.map_rows(of_main)) == 3 * sum(range(400_000))
    assert frame.filter_rows(lambda row: of_main(row) < 30).rows == 10
    engine.close()
    """
    with run_script(code) as process:
        out, error = process.communicate(timeout=5 * SECONDS_MAX)
    assert (process.returncode, out, error) == (0, "", "")


@pytest.mark.slow
def test_without_close_the_end_is_as_quiet():
    with run_script("    assert len(frame.map_rows(of_main)) == 400_000\n") as process:
        out, error = process.communicate(timeout=5 * SECONDS_MAX)
    assert (process.returncode, out, error) == (0, "", "")


@pytest.mark.slow
@BOTH
def test_ctrl_c_ends_a_map_and_its_processes(workers):
    code = f"""
    def wait(table):
        os.write(1, f"at {{os.getpid()}}\\n".encode())  # at once: others write too
        time.sleep({2 * SECONDS_MAX})
    try:
        frame.map_chunks(wait, workers="{workers}")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        os._exit(0 if "{workers}" == "threads" else engine.close() or 0)
    """
    with run_script(code) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline().split()[1])]
        time.sleep(0.3)
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        assert "interrupted" in rest
        assert process.wait(SECONDS_MAX) == 0
        assert time.monotonic() - start < SECONDS_MAX
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.mark.slow
def test_what_filter_rows_keeps_is_not_held_in_memory(make_tables):
    own = make_tables()
    part = pa.table({"x": np.arange(1_000_000), "y": np.zeros(1_000_000)})
    own.hold("t", pa.concat_tables([part] * 4), rows_per_chunk=1_000_000)
    frame = Frame.stored(own.sources["t"], own.engine)
    before = pa.total_allocated_bytes()
    kept = frame.filter_rows(lambda row: True, workers="processes")
    assert kept.rows == 4_000_000
    assert kept.bytes > 64_000_000
    assert pa.total_allocated_bytes() - before < 30_000_000
    assert [path.name for path in Path(own.engine.spill.path()).iterdir()] == ["lock"]

"""Queries: what names mean, what is refused and how that is said, memory, Ctrl-C, forks."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.until import SECONDS_MAX, until

import eau2
from eau2.errors import (
    DiskFull,
    QueryError,
    QueryOutOfMemory,
    StoreClosed,
    StoreUnusable,
    UnknownColumn,
    UnknownTable,
)
from eau2.machine import memory_of_machine
from eau2.query.engine import Engine
from eau2.query.engine_errors import readable
from eau2.query.spill import SpillFolder


def numbers(rows=1000):
    return pa.table({"id": np.arange(rows), "v": np.arange(rows) / 4})


def column(frame, name):
    return frame.to_arrow()[name].to_pylist()


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_key_is_a_table_name_and_is_quoted_where_it_is_no_plain_word(tables):
    for key in ("trips", "a/b c", "2026", "x.y", 'say "hi"', "é"):
        tables.hold(key, pa.table({"key": [key]}))
        quoted = key.replace('"', '""')
        assert column(tables.sql(f'select key from "{quoted}"'), "key") == [key]
    assert column(tables.sql("select key from TRIPS"), "key") == ["trips"]


def test_names_with_capitals_are_found_as_they_are_written(tables):
    tables.hold("Trips", pa.table({"Fare": [2.0, 1.0], "vendor": ["a", "b"]}))
    answer = tables.sql("select vendor, SUM(Fare) as Total from Trips group by vendor order by Total")
    assert answer.to_arrow().to_pydict() == {"vendor": ["b", "a"], "Total": [1.0, 2.0]}
    assert answer.filter(answer["Total"] > 1).rows == 1


def test_a_key_in_lower_case_comes_before_one_as_written(tables):
    tables.hold("Trips", pa.table({"a": [1]}))
    tables.hold("trips", pa.table({"a": [2]}))
    assert column(tables.sql("select a from Trips"), "a") == [2]
    assert column(tables.sql('select a from "Trips"'), "a") == [1]


def test_an_unknown_table_names_those_near_it(tables):
    tables.hold("trips", numbers())
    tables.hold("Small/x", numbers())
    with pytest.raises(UnknownTable, match=r"^no frame 'tripz' \(did you mean trips\?\)$"):
        tables.sql("select * from tripz")
    with pytest.raises(UnknownTable, match='did you mean "Small/x"'):
        tables.sql('select * from "small/X"')
    with pytest.raises(UnknownTable, match="the store has"):
        tables.sql("select * from entirely_else")


def test_a_key_with_a_dot_says_that_it_is_to_be_quoted(tables):
    tables.hold("a.b", numbers())
    with pytest.raises(UnknownTable, match=r'names with dots are quoted: "a\.b"'):
        tables.sql("select * from a.b")


def test_an_unknown_column_names_those_near_it_and_how_to_write_them(tables):
    tables.hold("t", pa.table({"Fare": [1.0], "vendor": ["x"]}))
    with pytest.raises(UnknownColumn, match=r"no column 'vendr'; there are Fare, vendor \(did you mean vendor\?\)"):
        tables.sql("select vendr from t")
    with pytest.raises(UnknownColumn, match='did you mean "Fare"'):
        tables.sql("select fares from t")


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "create table x as select 1",
        "create view x as select 1",
        "create external table x stored as csv location '/etc/passwd'",
        "drop table t",
        "insert into t select * from t",
        "delete from t",
        "update t set id = 1",
        "copy t to '/tmp/out.csv'",
        "set datafusion.execution.batch_size = 1",
        "prepare p as select 1",
        "begin",
        "select 1; select 2",
        "",
        "selec 1",
        "select * from t where",
        "select * from '/etc/passwd'",
        "select * from read_csv('/etc/passwd')",
        "select * from information_schema.tables",
        "select nonsense(1)",
        "select id + v.x from t",
    ],
)
def test_what_is_no_query_is_refused_at_once(tables, query):
    tables.hold("t", numbers())
    with pytest.raises(QueryError) as caught:
        tables.sql(query)
    assert "DataFusion" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tables.sql("select count(*) as n from t").to_arrow()["n"][0].as_py() == 1000


def test_what_only_running_finds_is_a_query_error_too(tables):
    tables.hold("t", numbers())
    with pytest.raises(QueryError, match="Divide by zero"):
        tables.sql("select 1 / (id - 5) from t").to_arrow()
    with pytest.raises(QueryError, match="Divide by zero"):
        list(tables.sql("select 1 / (id - 5) from t").batches())


def test_columns_of_one_name_cannot_be_queried_but_read(tables):
    frame = tables.hold("t", pa.table([[1], [2]], names=["a", "a"]))
    with pytest.raises(QueryError, match="two columns named 'a'"):
        tables.sql("select * from t")
    with pytest.raises(QueryError, match="two columns named 'a'"):
        frame.filter("a > 1")
    assert frame.to_arrow().num_columns == 2


def test_messages_of_the_engine_lose_its_labels():
    assert readable('SQL error: ParserError("Expected: x, found: y")') == "SQL: Expected: x, found: y"
    assert readable("DataFusion error: Error during planning: no\n  way") == "no way"


def test_an_error_while_a_name_is_looked_up_comes_through(shared_engine: Engine):
    def closed(name):
        raise StoreClosed(f"closed, {name}")

    with pytest.raises(StoreClosed, match="closed, t"):
        shared_engine.sql("select * from t", closed)


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_query_sees_the_frames_of_the_moment_it_was_made(tables):
    tables.hold("t", numbers(10))
    query = tables.sql("select count(*) as n from t")
    tables.hold("t", numbers(20))
    assert column(query, "n") == [10]
    assert column(tables.sql("select count(*) as n from t"), "n") == [20]


def test_results_keep_plain_types(tables):
    tables.hold("t", pa.table({"s": ["b", "a"], "n": [1, 2]}))
    columns = "s, upper(s) as u, substr(s, 1, 1) as c, min(s) as m, 'x' as x, cast(n as varchar) as k"
    assert set(tables.sql(f"select {columns} from t group by s, n").to_arrow().schema.types) == {pa.string()}


@pytest.mark.parametrize("rows", [0, 1, 70_000, 300_000])
def test_filters_and_selections_keep_the_order_of_the_rows(tables, rows):
    tables.hold("t", numbers(rows), rows_per_chunk=100_000)
    answer = tables.sql("select id, v + 1 as w from t where id % 3 = 1")
    expected = list(range(1, rows, 3))
    assert column(answer, "id") == expected
    streamed = tables.sql("select id, v + 1 as w from t where id % 3 = 1").batches()
    assert [value for batch in streamed for value in batch.column(0).to_pylist()] == expected
    assert column(tables.sql("select id from t where id > 5").head(3), "id") == [i for i in (6, 7, 8) if i < rows]


def test_frames_without_rows_or_columns_can_be_queried(tables):
    tables.hold("none", numbers(0))
    tables.hold("bare", numbers(9).select([]), rows_per_chunk=3)
    assert tables.sql("select * from none").to_arrow().schema.names == ["id", "v"]
    assert column(tables.sql("select count(*) as n from bare"), "n") == [9]


def test_a_stream_may_be_left_early(tables):
    tables.hold("t", numbers(1_000_000))
    batches = tables.sql("select a.id from t a join t b on a.id = b.id").batches()
    assert next(batches).num_rows > 0
    batches.close()
    assert tables.sql("select count(*) as n from t").rows == 1


def test_several_threads_query_at_once(tables):
    for number in range(4):
        tables.hold(f"t{number}", numbers(1000 + number))
    answers = {}

    def ask(number):
        for _ in range(20):
            answers[number] = column(tables.sql(f"select count(*) as n from t{number}"), "n")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
    assert answers == {number: [1000 + number] for number in range(4)}


def test_the_engine_lets_go_of_a_frame_that_nobody_holds(tables):
    tables.hold("t", numbers())
    tables.sql("select * from t").to_arrow()
    buffers = tables.sources["t"].buffers
    assert len(gc.get_referrers(buffers)) >= 1
    size = pa.total_allocated_bytes()
    del buffers
    tables.sources.clear()
    gc.collect()
    until(lambda: pa.total_allocated_bytes() <= size)
    until(lambda: not [source for source in tables.engine._ready()._tables if source.key == "t"])


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_join_that_does_not_fit_is_run_again_by_sorting(make_tables):
    small = make_tables(64 << 20, threads=2)
    rows = 5_000_000
    ids = np.random.default_rng(5).permutation(rows)
    small.hold("a", pa.table({"id": ids, "v": ids * 2}))
    small.hold("b", pa.table({"id": ids[::-1].copy(), "w": ids[::-1] * 3}))
    query = "select count(*) as n, sum(v) as v, sum(w) as w from a join b on a.id = b.id"
    total = rows * (rows - 1) // 2
    assert small.sql(query).to_arrow().to_pylist() == [{"n": rows, "v": 2 * total, "w": 3 * total}]
    assert small.engine.statistics().retries == 1


@pytest.mark.slow
def test_a_join_that_is_streamed_is_run_again_too_and_gives_each_row_once(make_tables):
    small = make_tables(64 << 20, threads=2)
    rows = 3_000_000
    ids = np.random.default_rng(6).permutation(rows)
    small.hold("a", pa.table({"id": ids, "v": ids}))
    small.hold("b", pa.table({"id": ids[::-1].copy(), "w": ids[::-1]}))
    seen = np.zeros(rows, np.int64)
    for batch in small.sql("select a.id, v, w from a join b on a.id = b.id").batches():
        seen[batch.column(0).to_numpy()] += 1
    assert (seen == 1).all()
    assert small.engine.statistics().retries == 1


@pytest.mark.slow
def test_a_query_that_fits_in_no_way_says_so(make_tables):
    small = make_tables(16 << 20)
    small.hold("t", pa.table({"k": np.arange(2_000_000), "s": [f"text number {i}" for i in range(2_000_000)]}))
    with pytest.raises(QueryOutOfMemory, match="memory_bytes"):
        small.sql("select array_agg(s) as s, array_agg(k) as k from t").to_arrow()
    assert small.sql("select count(*) as n from t").rows == 1


def test_memory_is_what_the_machine_or_the_container_has():
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory_of_machine() <= machine
    assert Engine().memory_bytes == memory_of_machine() // 2


def test_a_large_answer_in_files_needs_no_descriptor(make_tables, monkeypatch):
    monkeypatch.setattr(eau2.query.engine, "KEPT_BYTES_MAX", 10_000)
    own = make_tables()
    own.hold("t", numbers(1_000_000), rows_per_chunk=100_000)
    recipe = own.engine.sql("select * from t where id >= 0", own.sources.get)
    own.engine.collect(recipe)
    before = len(os.listdir("/proc/self/fd"))
    settled = own.engine.settle(recipe)
    assert len(settled.buffers) > 20
    assert len(os.listdir("/proc/self/fd")) - before < 10
    assert settled.table["id"].to_pylist() == [*range(1_000_000)]


def test_a_full_disk_is_told_from_others_where_an_answer_is_set_down(make_tables, monkeypatch):
    monkeypatch.setattr(eau2.query.engine, "KEPT_BYTES_MAX", 10_000)
    own = make_tables()
    own.hold("t", numbers(100_000), rows_per_chunk=1000)
    frame = own.sql("select * from t where id >= 0")
    for path, error in (("/dev/full", DiskFull), ("/proc/version", StoreUnusable)):
        given = lambda path=path, **_: open(path, "r+b", buffering=0)  # noqa: E731, SIM115
        monkeypatch.setattr(tempfile, "TemporaryFile", given)
        with pytest.raises(error):
            frame.map_chunks(len)


def test_the_spill_folder_goes_with_the_engine_and_that_of_a_dead_process_with_the_next(tmp_path: Path):
    dead = tmp_path / "eau2-spill-dead"
    dead.mkdir()
    (dead / "lock").touch()
    one, two = SpillFolder(str(tmp_path)), SpillFolder(str(tmp_path))
    assert Path(one.path()).is_dir()
    assert not dead.exists()
    assert Path(two.path()).is_dir()
    assert Path(one.path()).is_dir()  # in use, so left alone
    one.remove()
    one.remove()
    two.remove()
    assert list(tmp_path.iterdir()) == []


# -- ending -----------------------------------------------------------------------------------------------------------


def test_a_closed_engine_refuses_queries_and_leaves_stored_frames(make_tables):
    own = make_tables()
    frame = own.hold("t", numbers())
    query = frame.filter("id > 5")
    own.engine.close()
    own.engine.close()
    with pytest.raises(StoreClosed):
        query.to_arrow()
    with pytest.raises(StoreClosed):
        own.sql("select 1")
    assert frame.to_arrow().num_rows == 1000


def run_python(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


SETUP = """
    import os, sys, time
    import numpy as np, pyarrow as pa
    from eau2.query.engine import Engine
    from eau2.frame.frame import Frame
    from eau2.query.source import Source, unnamed
    engine = Engine()
    table = pa.table({"k": np.zeros(200_000, np.int64), "v": np.arange(200_000)})
    rows = unnamed(table.schema, [table])
    source = Source("t", 1, rows.manifest, rows.mapped, None)
    def ask(query):
        return Frame.derived(engine.sql(query, {"t": source}.get), engine)
"""


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("call", ["SessionContext", "Sessions.sql"])
def test_an_interrupt_that_comes_just_when_the_engine_returns_is_no_error_of_the_query(
    tmp_path, monkeypatch, stop, call
):
    def interrupted(*_):  # what Python makes of it
        raise SystemError("<method> returned a result with an exception set") from stop

    with eau2.open(tmp_path / "store") as store:
        store.put("t", {"a": [1]})
        monkeypatch.setattr(f"eau2.query.sessions.{call}", interrupted)
        with pytest.raises(type(stop)):
            store.sql("select * from t")


@pytest.mark.slow
def test_ctrl_c_ends_a_query_at_once_even_a_join_that_grows():
    # What is registered first is called last. A thread within the engine then would crash: it looks for signals.
    code = (
        """
    import atexit, threading
    atexit.register(lambda: print([each.name for each in threading.enumerate()], flush=True))
    """
        + SETUP
        + """
    ask("select 1").to_arrow()
    print("ready", flush=True)
    try:
        ask("select count(*) from t a join t b on a.k = b.k where a.v + b.v > 5").to_arrow()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
    )
    with run_python(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.5)
        assert process.poll() is None
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.stdout.readline() == "['MainThread']\n"
        assert process.wait(SECONDS_MAX) == 0
        assert time.monotonic() - start < SECONDS_MAX  # the join takes minutes on any machine


@pytest.mark.slow
def test_a_query_in_a_forked_child_is_refused_and_does_not_hang():
    code = (
        SETUP
        + """
    assert ask("select count(*) as n from t where v > 5").to_arrow()["n"][0].as_py() == 199_994
    child = os.fork()
    if child == 0:
        try:
            ask("select count(*) as n from t where v > 5").to_arrow()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        print(Frame.stored(source, engine).to_arrow().num_rows, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    """
    )
    with run_python(code) as process:
        out, error = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, error
    first, second = out.splitlines()
    assert first.startswith("StoreClosed queries cannot run in a process that was forked")
    assert second == "200000"


@pytest.mark.slow
def test_importing_frames_does_not_import_the_engine():
    code = """
    import sys
    import eau2.frame.frame, eau2.query.engine
    eau2.query.engine.Engine().close()
    heavy = {"datafusion", "loky", "pandas", "polars"} & set(sys.modules)
    assert not heavy, heavy
    """
    with run_python(code) as process:
        _, error = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, error


def test_a_closed_store_leaves_no_thread(tmp_path):
    before = {thread.name for thread in threading.enumerate()}
    with eau2.open(tmp_path / "store") as store:
        store.put("t", {"n": list(range(1000))})
        assert store.sql("select sum(n) as n from t").to_arrow().column("n").to_pylist() == [499_500]
        store.get("t")
    until(lambda: {thread.name for thread in threading.enumerate()} <= before - {"eau2-query"})
